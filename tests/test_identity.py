import json
import multiprocessing
from pathlib import Path

import pytest

from fairnb.errors import UserError
from fairnb.files import SHIPPED, one_run_in, resolve, root, write_atomically
from fairnb.identity import content, difference, hashed, refuse_another
from fairnb.vision.perception import classifier_hash

RUN = {
    "seed": 0,
    "finetune": {"learning_rate": 0.1, "steps": [2, 3]},
    "model": {"unet": "ab" * 32},
    "prompts": "a" * 16,
}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, ""),
        ({"finetune": {"steps": (2, 3), "learning_rate": 0.1}}, ""),  # order and tuples do not count
        ({"seed": 7}, "its seed was 0 and is 7 now"),
        (
            {"finetune": RUN["finetune"] | {"learning_rate": 1e-4}},
            "its finetune.learning_rate was 0.1 and is 0.0001 now",
        ),
        ({"finetune": RUN["finetune"] | {"steps": None}}, "its finetune.steps was [2, 3] and is None now"),
        ({"model": {"unet": "cd" * 32}}, "it differs in its model.unet"),
        ({"prompts": "b" * 16}, "it differs in its prompts"),
        ({"locate": {"k": 0.1}}, "its locate.k was not recorded"),
    ],
)
def test_the_first_difference_is_said(change, says):
    assert difference(RUN, RUN | change) == says
    assert difference(json.loads(json.dumps(RUN)), RUN | change) == says
    if says:
        with pytest.raises(UserError, match="the patch belongs to another run .it.*: delete it"):
            refuse_another(RUN, RUN | change, "the patch", "delete it")


def test_what_is_gone_is_a_difference_too():
    assert difference(RUN | {"negative": "a tree"}, RUN) == "its negative was a tree, which this run has not"


def test_contents_count_and_not_places(tmp_path: Path):
    for name in ("one", "two"):
        (tmp_path / name / "in").mkdir(parents=True)
        (tmp_path / name / "in" / "a.txt").write_text("a")
    assert content(tmp_path / "one") == content(tmp_path / "two") != content("owner/name")
    assert content(tmp_path / "one" / "in" / "a.txt") != content(tmp_path / "one")
    (tmp_path / "two" / "in" / "a.txt").rename(tmp_path / "two" / "in" / "b.txt")
    assert content(tmp_path / "one") != content(tmp_path / "two")
    assert content("owner/name") == "owner/name"
    assert hashed({"a": 1, "b": 2}) == hashed({"b": 2, "a": 1}) != hashed({"a": 1})


def test_a_classifier_is_also_what_its_outputs_mean(judge):
    before, table = classifier_hash(judge), judge.table
    judge.table = {name: dict(reversed(classes.items())) for name, classes in table.items()}
    assert json.dumps(judge.table) != json.dumps(table) and classifier_hash(judge) != before
    judge.table = table
    assert classifier_hash(judge) == before


def write_often(path: Path) -> None:
    for number in range(200):
        write_atomically(path, lambda temporary, number=number: temporary.write_text(str(number) * 1000))


def test_two_processes_may_write_one_file(tmp_path: Path):
    """Under torchrun they took the same temporary name, and one renamed the other's away."""
    path = tmp_path / "a.txt"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_often, args=(path,)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert len(set(path.read_text()[i : i + 3] for i in range(0, 3000, 3))) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_is_used_by_one_run_and_cleaned_of_what_a_killed_one_left(tmp_path: Path):
    (tmp_path / ".a.0123abcd.part.txt").write_text("half")
    (tmp_path / ".hidden").write_text("mine")
    with one_run_in(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} >= {".hidden"} and not list(tmp_path.glob("*part*"))
        with pytest.raises(UserError, match="is in use by another run: wait for its end"), one_run_in(tmp_path):
            pass
    with one_run_in(tmp_path):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"), one_run_in(tmp_path / "file"):
        pass


def test_names_of_the_packages_files(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve("data/mini-sd") == tmp_path / "data" / "mini-sd"
    assert resolve(f"{SHIPPED}data/mini-sd") == root() / "data" / "mini-sd"
    assert (
        resolve("a", tmp_path / "else") == tmp_path / "else" / "a"
        and resolve(tmp_path / "b", "/else") == tmp_path / "b"
    )
