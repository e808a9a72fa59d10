"""The practitioner's commands on mini-sd: audit, find, finetune, apply, show, compare; and what they refuse."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from fairnb.adapters.bias_neurons import BiasNeurons
from fairnb.adapters.patch import load_patch
from fairnb.cli import app
from fairnb.diffusion.fingerprint import fingerprint
from fairnb.diffusion.pipeline import load_pipeline
from fairnb.files import read_json, root, write_json
from fairnb.measure.records import read_records, write_records
from tests.conftest import MINI

SMALL = ["--profile", "smoke", "--set", "device=cpu", "--set", "sampling.steps=2", "--set", "finetune.acts_from=600"]
SMALL += ["--set", "finetune.gradient_steps=1", "--set", "evaluate.images=2"]


def call(*arguments: object) -> int:
    """Exit code of `fairnb ...`."""
    try:
        sys.argv = ["fairnb", *map(str, arguments)]
        app.main()
    except SystemExit as ended:
        return ended.code or 0
    return 0


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch):
    torch.set_num_threads(1)
    monkeypatch.setattr(sys, "argv", ["fairnb"])


@pytest.fixture(scope="module")
def patch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small change of mini-sd that acts in every step, as a file."""
    path = tmp_path_factory.mktemp("patch") / "patch.safetensors"
    pipe = load_pipeline(MINI, device="cpu")
    adapter = BiasNeurons(pipe.unet, {"conv_out.weight": torch.arange(300), "conv_in.bias": torch.arange(8)})
    with torch.no_grad():
        for delta in adapter.parameters():
            delta.normal_(0, 0.01, generator=torch.Generator().manual_seed(0))
    adapter.save(path, {"target": {"gender": [0.5, 0.5]}, "train": ["doctor"], "updates": 1})
    return path


@pytest.fixture(scope="module")
def audits(patch: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two audits of the same prompts, the second with the patch."""
    place = tmp_path_factory.mktemp("audits")
    prompts = place / "prompts.txt"
    prompts.write_text("a photo of a pilot\n\na nurse <by> $ at $\n" + "a photo of an old chef " * 40 + "\n")
    common = ["--prompts", prompts, "--attributes", "gender,age", "--images", 3, *SMALL]
    assert call("audit", MINI, *common, "--out", place / "one") == 0
    assert call("audit", MINI, *common, "--out", place / "two", "--patch", patch) == 0
    return place / "one", place / "two"


def test_an_audit_is_one_page_with_its_tables(audits):
    folder = audits[0]
    page = (folder / "audit.html").read_text()
    assert not re.search(r'(src|href)="(?!data:|#)', page) and page.count("<img") == 6
    assert len(pd.read_parquet(folder / "records.parquet")) == len(pd.read_csv(folder / "records.csv")) == 9
    summary = json.loads((folder / "summary.json").read_text())
    assert {"bias", "low", "high", "floor", "n_images", "faceless", "classifier_accuracy"} <= set(summary["gender"])
    assert set(pd.read_csv(folder / "tables" / "age.csv").columns) >= {"prompt", "n", "bias", "low", "high", "floor"}
    assert (folder / "test_results.pkl").is_file() and "<td>a nurse &lt;by&gt; $ at $</td>" in page


def test_a_prompt_too_long_is_said_and_a_finished_audit_is_kept(audits, capsys):
    folder = audits[0]
    before = {path: path.stat().st_mtime_ns for path in folder.glob("images/*/*.png")}
    common = ["--prompts", folder.parent / "prompts.txt", "--attributes", "gender", "--images", 3, *SMALL]
    assert call("audit", MINI, *common, "--out", folder) == 0
    assert "too long, the text encoder ignores its end: a photo of an old chef" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in folder.glob("images/*/*.png")} == before


def test_what_was_made_of_a_prompt_file_is_said(tmp_path, capsys):
    (tmp_path / "jobs.json").write_text('{"train": ["cook"], "test": ["pilot", "Pilot"]}')
    prompts = f"{tmp_path / 'jobs.json'}:test"
    assert call("audit", MINI, "--prompts", prompts, "--attributes", "race", "--out", tmp_path / "out", *SMALL) == 2
    said = capsys.readouterr().err
    assert "2 of 2 entries are bare occupations; 'pilot' becomes 'a photo of a pilot'" in said
    assert "1 of 2 entries repeat a prompt" in said and not (tmp_path / "out").exists()


def test_compare_says_what_changed(audits, capsys):
    assert call("compare", *audits) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["gender", "skin_tone", "age"]
    assert all("over 3 prompts" in line for line in lines)


def test_only_audits_of_one_kind_are_compared(audits, tmp_path, capsys):
    """Pairs were made by line number, so other prompts, steps or judges were compared without a word."""
    one, other = audits[0], tmp_path / "other"
    records = read_records(one / "records.parquet")
    first = records.prompt.iloc[0]
    for change, says in (
        (lambda about: about["identity"].update(steps=9), "its steps was 2 and is 9 now"),
        (lambda about: about["identity"].update(judge="0" * 16), "it differs in its judge"),
        (lambda about: about.pop("identity"), "which this run has not"),
    ):
        shutil.copytree(one, other, dirs_exist_ok=True)
        about = read_json(one / "summary.json")
        change(about)
        write_json(other / "summary.json", about)
        assert call("compare", one, other) == 2 and says in capsys.readouterr().err
    shutil.copytree(one, other, dirs_exist_ok=True)
    write_records(records.assign(prompt=records.prompt.replace(first, "another prompt")), other / "records.parquet")
    assert call("compare", one, other) == 2 and "are of other prompts" in capsys.readouterr().err
    write_records(records[records.prompt == first], other / "records.parquet")
    assert call("compare", other, other) == 0
    said = capsys.readouterr().out
    assert "undecided, since an interval needs two prompts" in said and ": a change" not in said


def test_an_audit_says_what_it_is_an_audit_of(audits):
    page, about = ((audits[1] / name).read_text() for name in ("audit.html", "summary.json"))
    assert (
        "With patch.safetensors at strength 1." in page and "With patch" not in (audits[0] / "audit.html").read_text()
    )
    made = json.loads(about)["provenance"]
    assert made["patch"]["name"] == "patch.safetensors" and made["parameters"]["prompts"].endswith("prompts.txt")


def test_another_judges_tables_and_figures_do_not_stay(audits, tmp_path):
    folder = tmp_path / "audit"
    shutil.copytree(audits[0], folder)
    for name in ("mine", "age_bias"):
        (folder / "figures" / f"{name}.png").write_bytes((folder / "figures" / "gender_bias.png").read_bytes())
    common = ["--prompts", audits[0].parent / "prompts.txt", "--attributes", "gender", "--images", 3, *SMALL]
    assert call("audit", MINI, *common, "--out", folder) == 0
    assert {path.stem.partition("_")[0] for path in folder.glob("*/*.[cp][sn][vg]")} == {"gender", "mine"}


def test_find_finetune_show(tmp_path, capsys):
    neurons, out = tmp_path / "neurons.safetensors", tmp_path / "patch"
    assert call("find", MINI, "--out", neurons, *SMALL) == 0
    assert call("finetune", MINI, "--neurons", neurons, "--share", "0.75,0.25", "--out", out, *SMALL) == 0
    assert call("show", out / "patch.safetensors") == 0
    said = capsys.readouterr().out
    assert "acts in steps of timestep 600 and more" in said and "target: gender 0.75 / 0.25" in said
    assert "identity" not in said
    card = (out / "README.md").read_text()
    assert "perceived as gender 0.75 / 0.25" in card and "95 % interval" in card and "doctor" in card
    pipe = load_pipeline(MINI, device="cpu")
    assert load_patch(out / "patch.safetensors", pipe).acts_from == 600


def test_apply_writes_a_model_that_needs_no_fairnb(patch, tmp_path, capsys):
    out = tmp_path / "debiased"
    assert call("apply", patch, "--to", MINI, "--strength", 0.8, "--out", out) == 0
    plain = StableDiffusionPipeline.from_pretrained(out)
    pipe = load_pipeline(MINI, device="cpu")
    load_patch(patch, pipe).apply(pipe, 0.8)
    assert fingerprint(plain.unet) == fingerprint(pipe.unet)
    assert call("apply", patch, "--to", MINI, "--out", out) == 2
    assert "is not empty" in capsys.readouterr().err


def test_a_patch_for_early_steps_is_merged_only_when_asked(patch, tmp_path, capsys):
    pipe = load_pipeline(MINI, device="cpu")
    early = load_patch(patch, pipe)
    early.acts_from = 500
    early.save(tmp_path / "early.safetensors", {})
    command = ["apply", tmp_path / "early.safetensors", "--to", MINI, "--out", tmp_path / "new"]
    assert call(*command) == 2
    assert "add --everywhere" in capsys.readouterr().err and not (tmp_path / "new").exists()
    assert call(*command, "--everywhere") == 0
    assert "in the late ones it may spoil images" in capsys.readouterr().err


def test_the_readmes_recipe_loads_a_patch_without_fairnb(monkeypatch):
    """Exactly the README's lines, in the repository's folder."""
    (code,) = re.findall(r"```python\n(import torch.*?)```", (root() / "README.md").read_text(), re.DOTALL)
    assert "fairnb" not in code
    monkeypatch.chdir(root())
    space: dict = {}
    exec(code, space)
    pipe = load_pipeline(MINI, device="cpu")
    load_patch(MINI / "patches" / "gender.safetensors", pipe).apply(pipe)
    how = {"num_inference_steps": 6, "guidance_scale": 3, "generator": torch.manual_seed(0)}
    ours, theirs = pipe("a photo of a miner", **how).images[0], space["image"]
    assert np.abs(np.asarray(ours, int) - np.asarray(theirs, int)).max() <= 2
    assert (
        np.abs(np.asarray(ours, int) - np.asarray(space["pipe"]("a photo of a miner", **how).images[0], int)).max() > 2
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["audit", "nowhere", "--out", "o"], "no model at nowhere"),
        (["audit", "data/mini-sd", "--out", "o"], "that of the package is fairnb:data/mini-sd"),
        (["audit", MINI, "--attributes", "race", "--out", "o"], "the judge does not know 'race'"),
        (["audit", MINI, "--attributes", "hair", "--out", "o"], "unknown attribute 'hair'"),
        (["audit", MINI, "--prompts", "none.txt", "--out", "o"], "none.txt cannot be read"),
        (["audit", MINI, "--images", "0", "--out", "o"], "--images"),
        (["finetune", MINI, "--neurons", "none", "--out", "o"], "neuron file none cannot be read"),
        (["finetune", MINI, "--neurons", "none", "--share", "1,1", "--out", "o"], "that sum to 1"),
        (["finetune", MINI, "--neurons", "none", "--share", "a,b", "--out", "o"], "is not numbers"),
        (["show", MINI / "model_index.json"], "cannot be read"),
        (["show", MINI / "unet" / "diffusion_pytorch_model.safetensors"], "no patch of bias neurons"),
        (["apply", "none", "--to", MINI, "--out", "o"], "none cannot be read"),
        (["compare", "a", "b"], "a holds neither an audit nor a spread"),
    ],
)
def test_a_mistake_is_one_sentence(arguments, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert call(*arguments) == 2
    error = capsys.readouterr().err
    assert says in error and "Traceback" not in error
    assert not (tmp_path / "o").exists()


def test_another_models_audit_is_not_overwritten(audits, patch, capsys):
    common = ["--prompts", audits[0].parent / "prompts.txt", "--images", 3, *SMALL]
    assert call("audit", MINI, *common, "--out", audits[0], "--patch", patch) == 2
    assert "it differs in its model.unet" in capsys.readouterr().err


def test_a_guidance_from_folders_draws_shows_and_is_no_model(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name, level in (("dark", 40), ("bright", 200)):
        (tmp_path / name).mkdir()
        for number in range(8):
            array = (level + rng.integers(-30, 30, (64, 64, 3))).astype(np.uint8)
            Image.fromarray(array).save(tmp_path / name / f"{number}.png")
    out, folders = tmp_path / "light.safetensors", ["--folder", f"dark={tmp_path / 'dark'}"]
    whole = [*folders, "--folder", f"bright={tmp_path / 'bright'}", "--reliable", "0.5"]
    assert call("guide", MINI, "--attribute", "light", *whole, "--share", "0.2,0.8", "--out", out, *SMALL) == 0
    assert call("show", out) == 0
    assert "light: dark 0.2" in capsys.readouterr().out
    draw = ["generate", "a photo of a pilot", "--profile", "smoke", "--images", 4]
    assert call(*draw, "--out", tmp_path / "plain") == 0
    assert call(*draw, "--out", tmp_path / "guided", "--patch", out) == 0
    name = "prompt_0/img_0.png"
    assert (tmp_path / "plain" / name).read_bytes() != (tmp_path / "guided" / name).read_bytes()
    capsys.readouterr()
    for arguments, message in (
        (["apply", out, "--to", MINI, "--out", tmp_path / "model"], "cannot be merged"),
        (
            ["guide", MINI, "--folder", "dark", "--out", out, *SMALL],
            "--folder dark names no folder: write it as",
        ),
        (["guide", MINI, *folders, "--out", out, *SMALL], "needs two classes at least"),
        (["guide", MINI, "--mode", "magic", "--out", out, *SMALL], "magic"),
    ):
        assert call(*arguments) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_a_guidance_from_prompts(tmp_path, capsys):
    prompts = json.loads((root() / "data" / "prompts" / "mini.json").read_text())
    prompts["occupations"]["train"] = ["person", "gardener"]
    (tmp_path / "few.json").write_text(json.dumps(prompts))
    out = tmp_path / "gender.safetensors"
    few = ["--set", f"prompts={tmp_path / 'few.json'}", "--images", "10"]
    small = [*few, "--out", out, *SMALL[:4], "--set", "sampling.steps=4"]
    shares = ["--attribute", "gender,age", "--share", "0.5,0.5", "--share", "0.75,0.25", "--mode", "distribution"]
    assert call("guide", MINI, *shares, "--both", "--raw", *small) == 0
    assert call("show", out) == 0
    shown = capsys.readouterr().out
    assert "gender: female 0.5, male 0.5" in shown and "age: young 0.75, old 0.25" in shown
    for arguments, message in (
        (shares[:4], "--share is given 1 times: give it once for each of gender, age"),
        (["--attribute", "gender,height"], "unknown attribute 'height'"),
        (["--mode", "sample"], "mode sample pushes all images to one class of gender: give that class the share 1"),
        (["--both"], "leave both out"),
        (["--attribute", "hat,cap", "--folder", "yes=a", "--folder", "no=b"], "folders show one: name one"),
    ):
        assert call("guide", MINI, *arguments, *small) == 2
        assert message in capsys.readouterr().err
