import json
import re
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

from fairnb.errors import UserError
from fairnb.experiments import notebook_cache, notebooks
from fairnb.experiments.notebook_cache import declared, is_current
from fairnb.experiments.notebooks import check_parameters, find_notebooks, run_notebooks
from fairnb.files import LOCK, one_run_in, read_json, root
from fairnb.profiles import load_profile

START = 'import json, pathlib\nhere = pathlib.Path(profile["output"]) / "own"\n'
MAKES = START + '(here / "a.json").write_text(json.dumps(overrides.get("seed", 0)))'
READS = START + '(here / "b.json").write_text((here / "a.json").read_text())'
FAILS = (
    "from fairnb.errors import UserError\n"
    'raise UserError("neurons.safetensors is missing: run notebook 03_find_bias_neurons first")'
)


def notebook(path: Path, code: str, parameters: str = 'profile = "mini"\noverrides = {}', **declares) -> Path:
    book = nbformat.v4.new_notebook()
    first = nbformat.v4.new_code_cell(parameters)
    first.metadata["tags"] = ["parameters"]
    book.cells = [nbformat.v4.new_markdown_cell("# A claim"), first, nbformat.v4.new_code_cell(code)]
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    book.metadata["fairnb"] = {"minutes": {"own": 2}, **declares}
    path.parent.mkdir(exist_ok=True)
    nbformat.write(book, path)
    return path


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with two notebooks, the second of which needs what the first makes."""
    monkeypatch.setattr(notebooks, "root", lambda: tmp_path)
    notebook(tmp_path / "notebooks" / "01_make.ipynb", MAKES, makes=["a.json"])
    notebook(tmp_path / "notebooks" / "02_read.ipynb", READS, needs=["a.json"], makes=["b.json"])
    return tmp_path


@pytest.fixture
def profile(tmp_path: Path) -> dict:
    (tmp_path / "words.json").write_text("{}")
    local = {name: f"models/{name}" for name in ("model", "clip", "guide", "judge")}
    return {"name": "own", "prompts": str(tmp_path / "words.json"), "output": str(tmp_path / "out"), **local}


def test_only_what_is_missing_or_changed_is_redone(repo: Path, profile: dict, capfd: pytest.CaptureFixture) -> None:
    out = repo / "out" / "own"
    books = [repo / "notebooks" / name for name in ("01_make.ipynb", "02_read.ipynb")]

    def states() -> list[bool]:
        return [is_current(path, load_profile(profile)) for path in books]

    assert states() == [False, False]
    out.mkdir(parents=True)
    (out / "summary.json").write_text(json.dumps({"gender": {"bias_before": 0.7}, "minutes": {"00_start": 1.0}}))
    assert run_notebooks(None, profile)
    first, second = capfd.readouterr().out.splitlines()
    assert first.startswith("01_make") and "about 2 min 00 s ... done in" in first and second.startswith("02_read")
    assert states() == [True, True]
    assert (out / "notebooks" / "01_make.ipynb").is_file() and read_json(out / "b.json") == 0

    summary = read_json(out / "summary.json")
    assert summary["gender"] == {"bias_before": 0.7} and summary["provenance"]["parameters"]["name"] == "own"
    minutes = summary["minutes"]
    assert list(minutes) == ["00_start", "01_make", "02_read", "total"]
    assert minutes["total"] == pytest.approx(sum(list(minutes.values())[:-1]), abs=0.011)

    assert run_notebooks(None, profile)
    assert capfd.readouterr().out.count("up to date") == 2

    # An input of the second, a result of the first, the executed copy, the source, the profile, the package:
    (out / "a.json").write_text("7")
    assert states() == [True, False]
    (out / "a.json").write_text("0")
    (out / "b.json").rename(out / "c.json")
    assert states() == [True, False]
    (out / "c.json").rename(out / "b.json")
    (out / "notebooks" / "01_make.ipynb").rename(repo / "moved.ipynb")
    assert states() == [False, True]
    (repo / "moved.ipynb").rename(out / "notebooks" / "01_make.ipynb")
    about = {"needs": ["a.json"], "makes": ["b.json"]}
    notebook(books[1], READS + "\n1 + 1", **about)
    assert states() == [True, False]
    notebook(books[1], READS, **about)
    assert states() == [True, True]
    (repo / "words.json").write_text('{"changed": 1}')
    assert states() == [False, False]
    (repo / "words.json").write_text("{}")
    assert not is_current(books[0], load_profile(profile, {"seed": 3}))
    (out / "figure_of_another_notebook.png").write_text("")
    assert states() == [True, True]


def test_a_change_in_a_room_or_of_a_library_makes_notebooks_stale(repo: Path, profile: dict, monkeypatch) -> None:
    path, settings = repo / "notebooks" / "01_make.ipynb", load_profile(profile)
    package = repo / "package"
    for name in ("__init__.py", "measure/metrics.py", "cli/app.py", "experiments/notebooks.py"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text("")
    monkeypatch.setattr(notebook_cache, "fairnb", SimpleNamespace(__file__=str(package / "__init__.py")))
    made = notebook_cache.made_from(path, settings)
    for name in ("cli/app.py", "experiments/notebooks.py"):  # the runner has no effect on results
        (package / name).write_text("changed = True")
    assert notebook_cache.made_from(path, settings) == made
    (package / "measure" / "metrics.py").write_text("changed = True")
    assert notebook_cache.made_from(path, settings)["package"] != made["package"]
    (package / "measure" / "metrics.py").write_text("")
    monkeypatch.setattr(notebook_cache, "version", lambda name: "0.0")
    assert notebook_cache.made_from(path, settings)["package"] != made["package"]


def test_a_missing_input_is_named_before_a_kernel_starts(repo: Path, profile: dict) -> None:
    with pytest.raises(UserError, match=r"a.json is missing: run notebook 01_make first"):
        run_notebooks(["02"], profile)
    assert not (repo / "out").exists()


def test_what_the_notebooks_need_is_made_by_earlier_ones() -> None:
    books = sorted((root() / "notebooks").glob("*.ipynb"))
    made: list[str] = []
    needs = 0
    for path in books:
        code = json.dumps([cell.source for cell in nbformat.read(path, as_version=4).cells])
        for pattern in declared(path, "needs"):
            needs += 1
            assert pattern in made, f"{path.stem} needs {pattern}, which no earlier notebook makes"
        for name in re.findall(r"require\([^)]*?\\\"(\d\d_[a-z_]+)\\\"\)", code):
            assert name in [book.stem for book in books]
        assert declared(path, "makes"), f"{path.stem} makes nothing"
        made += declared(path, "makes")
    assert needs >= 10


def test_overrides_reach_the_notebook(repo: Path, profile: dict, tmp_path: Path) -> None:
    assert run_notebooks(["01"], profile, {"seed": 3})
    assert read_json(repo / "out" / "own" / "a.json") == 3


def test_a_failing_notebook_says_why_and_ends_the_run(repo: Path, profile: dict, capfd: pytest.CaptureFixture) -> None:
    notebook(repo / "notebooks" / "01_make.ipynb", FAILS)
    assert not run_notebooks(None, profile)
    shown = capfd.readouterr()
    assert "In [3]: neurons.safetensors is missing: run notebook 03_find_bias_neurons first\n" in shown.err
    assert "Traceback" not in shown.err and "02_read" not in shown.out
    kept = sorted(path.name for path in (repo / "out" / "own" / "notebooks").glob("*.ipynb"))
    assert kept == ["01_make.failed.ipynb"]
    assert not (repo / "out" / "own" / "summary.json").exists()


@pytest.mark.parametrize(
    ("names", "overrides", "says"),
    [
        (["09"], {}, "no notebook named '09': use one of 01_make, 02_read"),
        (["01"], {"finetune.update": 1}, "did you mean 'finetune.updates'"),
        (["01"], {"seed": "x"}, "valid integer"),
    ],
)
def test_mistakes_are_refused_before_a_kernel_starts(
    repo: Path, profile: dict, names: list[str], overrides: dict, says: str
) -> None:
    with pytest.raises(UserError, match=says):
        run_notebooks(names, profile, overrides)
    assert not (repo / "out").exists()


def test_notebooks_that_cannot_take_the_parameters_are_refused(repo: Path, profile: dict) -> None:
    notebook(repo / "notebooks" / "03_x.ipynb", "1", parameters='profile = "mini"')
    with pytest.raises(UserError, match="03_x.ipynb has no parameter 'overrides'"):
        run_notebooks(None, profile)
    (repo / "notebooks" / "03_x.ipynb").write_text("not JSON")
    with pytest.raises(UserError, match="is not a notebook"):
        check_parameters(repo / "notebooks" / "03_x.ipynb")
    assert not (repo / "out").exists()


def test_a_folder_in_which_another_run_works_is_refused(repo: Path, profile: dict) -> None:
    with one_run_in(repo / "out" / "own"), pytest.raises(UserError, match="own is in use by another run"):
        run_notebooks(["01"], profile, output=repo / "out")
    assert [path.name for path in (repo / "out" / "own").iterdir()] == [LOCK]


def test_an_output_folder_that_cannot_be_written(repo: Path, profile: dict) -> None:
    (repo / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        run_notebooks(["01"], profile, output=repo / "file")


def test_the_main_path_is_00_to_07(repo: Path) -> None:
    for name in ("00_x", "07_x", "08_x", "A1_x"):
        notebook(repo / "notebooks" / f"{name}.ipynb", "1")
    assert [path.stem for path in find_notebooks()] == ["00_x", "01_make", "02_read", "07_x"]
    assert [path.stem for path in find_notebooks(["A1", "02_read.ipynb"])] == ["A1_x", "02_read"]
