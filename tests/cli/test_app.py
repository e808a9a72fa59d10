import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import typer
from transformers import ResNetConfig, ResNetForImageClassification

from fairnb.cli import app, check, images, options
from fairnb.errors import UserError
from fairnb.vision.classifiers import Classifier


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["fairnb", *arguments])
    with pytest.raises(SystemExit) as ended:
        app.main()
    return ended.value.code or 0


def test_values_are_yaml() -> None:
    changes = ["finetune.updates=10", "evaluate.seeds=[0, 1]", "device=cuda", "revision=null", "a=b=c"]
    values = {"finetune.updates": 10, "evaluate.seeds": [0, 1], "device": "cuda", "revision": None, "a": "b=c"}
    assert options.parse_changes(changes) == values
    for bad, says in [("updates", "not key=value"), ("=3", "not key=value"), ("a=[", "not YAML")]:
        with pytest.raises(UserError, match=says) as caught:
            options.parse_changes([bad])
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "--profile", "maxi"], "no profile named 'maxi'"),
        (["run", "--set", "finetune.update=1"], "did you mean 'finetune.updates'"),
        (["run", "99"], "no notebook named '99'"),
        (["report", "--set", "output=/nowhere"], "summary.json is missing"),
        (["generate", "a photo", "--out", "x", "--model", "/nowhere"], "no model at /nowhere"),
    ],
)
def test_mistakes_are_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, arguments: list[str], says: str
) -> None:
    assert call(monkeypatch, *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("fairnb: ") and says in error and error.count("\n") == 1


def test_the_module_runs_without_a_traceback() -> None:
    done = subprocess.run([sys.executable, "-m", "fairnb", "run", "--set", "x"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


def commands() -> list[list[str]]:
    """The words of every command."""
    whole = typer.main.get_command(app.app)
    inner = [["triplets", name] for name in whole.get_command(None, "triplets").commands]
    return [[], *([name] for name in whole.commands), *inner]


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_help_has_examples(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, command: list[str]) -> None:
    assert call(monkeypatch, *command, "--help") == 0
    text = capsys.readouterr().out
    assert re.search(rf"Examples?.*:\s+fairnb {' '.join(command)}", text)


def test_help_lists_every_command_in_a_group(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    assert call(monkeypatch, "--help") == 0
    text = capsys.readouterr().out
    sections = re.split(r"^(?=\S.*:\n)", text, flags=re.MULTILINE)
    groups = {each.split(":\n")[0]: re.findall(r"^  (\w+)  ", each, re.MULTILINE) for each in sections}
    listed = [name for panel in options.PANELS for name in groups[panel]]
    assert sorted(listed) == sorted(name for name, *_ in commands()[1:] if _ == [])
    assert {"generate", "measure", "metrics", "similarity", "audit", "compare"} == set(groups["Measure bias"])


def test_a_failed_run_is_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def fake(*arguments) -> bool:
        seen["arguments"] = arguments
        return False

    monkeypatch.setattr("fairnb.experiments.notebooks.run_notebooks", fake)
    assert call(monkeypatch, "run", "05", "A1", "--profile", "smoke", "--set", "seed=3") == 1
    assert seen["arguments"] == (["05", "A1"], "smoke", {"seed": 3}, None)


def test_the_table_names_the_floor_and_says_when_there_is_nobody() -> None:
    rows = {"prompt_id": 0, "prompt": "p", "occupation": "o", "split": "test", "gender": ["male"] * 3 + ["female"]}
    text = images.table_of(pd.DataFrame(rows | {"face": [True] * 4}), "gender")
    assert "mean bias 0.500" in text and "fair generator" in text
    assert "undefined" in images.table_of(pd.DataFrame(rows | {"face": [False] * 4}), "gender")


def test_generate_then_measure(
    tiny_pipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    tiny_pipe().save_pretrained(tmp_path / "model")
    torch.set_num_threads(1)
    out = tmp_path / "out"
    model = ["--model", str(tmp_path / "model"), "--profile", "smoke"]
    assert call(monkeypatch, "generate", "a photo of a doctor", "--out", str(out), "--images", "2", *model) == 0
    assert len(list(out.glob("prompt_0/img_*.png"))) == 2
    (out / "generation.json").unlink()
    (out / "notes.png").write_text("hello")
    monkeypatch.setattr("fairnb.vision.classifiers.load_classifier", lambda path, device: _judge())
    assert call(monkeypatch, "measure", str(out)) == 2
    assert "notes.png is not a whole image" in capsys.readouterr().err
    (out / "notes.png").rename(out / "notes.txt")
    assert call(monkeypatch, "measure", str(out), "--out", str(tmp_path / "r.parquet")) == 0
    said = capsys.readouterr().out
    assert "skipped what is no picture: 1 .txt" in said and "gender" in said
    assert len(pd.read_parquet(tmp_path / "r.parquet")) == 2


def _judge() -> Classifier:
    labels = {0: "gender:female", 1: "gender:male"}
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1], id2label=labels)
    config.image_size = 16
    return Classifier(ResNetForImageClassification(config)).eval()


def test_check_says_what_to_do(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    wanted = ["numpy>=1", "numpy<1", "numpy<3,>=99.0.1", "no-such-package>=2"]
    monkeypatch.setattr(check, "needed", lambda: wanted)
    assert not check.check_environment()
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("OK    numpy")
    assert lines[2].startswith("FAIL  numpy") and lines[2].endswith("is not <1: make env, or pip install 'numpy<1'")
    assert lines[3].startswith("FAIL  numpy") and "is not <3,>=99.0.1" in lines[3]
    assert lines[4].startswith("FAIL  no-such-package") and "missing: make env, or pip install" in lines[4]
    assert "device" in lines[-1]


def test_everything_declared_is_installed() -> None:
    assert len(check.needed()) >= 20  # or the metadata was not read
    assert all(good for good, *_ in map(check._package, check.needed()))


def test_versions_are_compared_by_their_numbers() -> None:
    assert check._numbers("2.15.0+cu132") == [2, 15, 0] > check._numbers("2.9") and check._numbers("2.6") > [2, 5, 3]
