"""Experiments and results through the command line, and commands in two processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from fairnb.adapters.neuron_sets import save_neurons
from fairnb.profiles import load_profile
from tests.cli.test_models import call
from tests.conftest import MINI

TINY = {"occupations": {"train": ["chef"], "validation": ["lawyer"], "test": ["miner"]}}
TINY |= {"contents": ["boat"], "contexts": ["at night", "by the sea"]}


@pytest.fixture
def small(tmp_path: Path) -> list[str]:
    """Options of the smallest run: three occupations, two images, one update."""
    (tmp_path / "prompts.json").write_text(json.dumps(TINY))
    changes = {"device": "cpu", "prompts": tmp_path / "prompts.json", "output": tmp_path / "out", "sampling.steps": 2}
    changes |= {
        "evaluate.images": 2,
        "evaluate.explicit_images": 1,
        "finetune.updates": 1,
        "finetune.gradient_steps": 1,
    }
    return ["--profile", "smoke", *(part for key, value in changes.items() for part in ("--set", f"{key}={value}"))]


def test_an_experiment_is_run_and_its_result_printed(small, tmp_path, capsys):
    assert call("experiment", "words-1", *small) == 0
    folder = tmp_path / "out" / "smoke" / "experiments" / "words-1"
    result = json.loads((folder / "result.json").read_text())
    assert result["kinds"]["occupations"]["bias"]["gender"]["after"]["n_images"] == 2
    assert (folder / "figures" / "before_after.png").stat().st_size > 10_000
    assert call("results", tmp_path / "out" / "smoke", "--out", tmp_path / "all.json") == 0
    table = capsys.readouterr().out
    assert "words-1" in table and "FD after" in table and "diversity before" in table and "CLIP-T after" in table
    assert "dino" not in table  # the profile has none
    records = pd.read_parquet(folder / "occupations" / "records.parquet")
    assert result["clip_t"]["after"] == pytest.approx(records.clip_t.mean()) and result["dino"] is None
    assert json.loads((tmp_path / "all.json").read_text()) == [result]
    assert call("experiment", "word-1", *small) == 2
    assert "no experiment 'word-1' in profile smoke" in capsys.readouterr().err


def test_the_shipped_results_are_printed(capsys):
    shipped = Path(load_profile("mini").model) / "experiments.json"
    assert call("results", shipped) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in {result["experiment"] for result in json.loads(shipped.read_text())}:
        assert any(line.startswith(name) for line in lines), name


def test_the_leaderboard_of_the_shipped_results_is_printed_and_written(tmp_path, capsys):
    assert call("leaderboard", "--out", tmp_path / "board.md") == 0
    lines = capsys.readouterr().out.splitlines()
    assert (tmp_path / "board.md").read_text().splitlines() == lines
    shipped = json.loads((MINI / "experiments.json").read_text())
    rows = {line.split("|")[1].strip() for line in lines[2:]}
    assert rows == {"original", *(result["experiment"] for result in shipped)}
    assert "\n".join(lines) in (MINI / "RESULTS.md").read_text()
    assert call("leaderboard", tmp_path) == 2
    assert "holds no experiment: run fairnb experiment first" in capsys.readouterr().err


def test_the_page_of_results_is_that_of_one_model(tmp_path, capsys):
    page = tmp_path / "RESULTS.md"
    assert call("results", MINI, "--out", page) == 0
    assert page.read_bytes() == (MINI / "RESULTS.md").read_bytes()
    page.unlink()
    capsys.readouterr()
    assert call("results", MINI, MINI, "--out", page) == 2
    assert "is the page of one model, but 2 folders are named" in capsys.readouterr().err and not page.exists()


def test_audit_finetune_and_guide_in_two_processes_write_what_one_writes(small, tmp_path):
    (tmp_path / "prompts.txt").write_text("a photo of a pilot\na photo of a nurse\n")
    save_neurons({"conv_out.weight": torch.arange(200)}, tmp_path / "neurons.safetensors", {})
    for name in ("yes", "no"):
        (tmp_path / name).mkdir()
        for number in range(8):
            rng = np.random.default_rng([number, name == "yes"])
            pixels = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    program = tmp_path / "program.py"
    folders = ["--folder", f"yes={tmp_path / 'yes'}", "--folder", f"no={tmp_path / 'no'}"]
    program.write_text(
        "import sys\nfrom fairnb.cli.app import app\nplace = sys.argv[1]\n"
        f"small, model = {small!r}, {str(MINI)!r}\n"
        f"audit = ['audit', model, '--prompts', {str(tmp_path / 'prompts.txt')!r}, '--images', '2']\n"
        f"finetune = ['finetune', model, '--neurons', {str(tmp_path / 'neurons.safetensors')!r}]\n"
        f"guide = ['guide', model, '--attribute', 'hat', *{folders!r}, '--reliable', '0']\n"
        "for name, command in (('audit', audit), ('patch', finetune), ('hats.safetensors', guide)):\n"
        "    app([*command, *small, '--out', f'{place}/{name}'], standalone_mode=False)\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    for place, command in (("one", [sys.executable]), ("two", launch)):
        done = subprocess.run([*command, program, tmp_path / place], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = (pd.read_parquet(tmp_path / place / "audit" / "records.parquet") for place in ("one", "two"))
    assert one[["prompt", "image", "face", "gender"]].equals(two[["prompt", "image", "face", "gender"]])
    for name in ("audit/audit.html", "patch/README.md", "patch/history.csv"):
        assert (tmp_path / "two" / name).stat().st_size > 0
    one, two = (load_file(tmp_path / place / "patch" / "patch.safetensors") for place in ("one", "two"))
    assert one.keys() == two.keys()
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=1e-3, atol=1e-5)
    one, two = (load_file(tmp_path / place / "hats.safetensors") for place in ("one", "two"))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not list((tmp_path / "two").rglob(".*part*"))
