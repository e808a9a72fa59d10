"""Every command of notebooks/COMMANDS.md, typed once in the order of the page, with the smallest counts."""

import re
import shlex
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
import yaml
from diffusers import StableDiffusionPipeline
from transformers import Dinov2Config, Dinov2Model

from fairnb.adapters.lora import LoRA
from fairnb.adapters.neuron_sets import load_neurons, read_flat_text, union
from fairnb.adapters.patch import read_header
from fairnb.adapters.prefix import PrefixTokens
from fairnb.cli.app import app
from fairnb.diffusion.pipeline import WHOLE_WORDS
from fairnb.files import read_json, root, write_json
from fairnb.measure.record_files import save_records
from fairnb.measure.similarity import image_features
from fairnb.miniworld.draw.portrait import portrait
from fairnb.prompts.files import read_prompts
from fairnb.shards import read_shard
from fairnb.vision.encoders import load_dino
from tests.adapters.test_convert import released
from tests.cli.test_models import call
from tests.cli.test_runs import TINY
from tests.conftest import MINI, _copy
from tests.measure.test_photographs import write_mpii
from tests.measure.test_records import table
from tests.measure.test_similarity import draw

PAGE = (root() / "notebooks" / "COMMANDS.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\|.*\| `(fairnb [^`]+)` \|$", PAGE, re.MULTILINE)
WINOBIAS = read_json(root() / "data" / "prompts" / "winobias.json")["WinoBias"]
OWN = {"prompts": "tiny.json", "output": "outputs", "experiments": "experiments"}  # in the folder of the test
SMALL = {"name": "mini", "device": "cpu", "sampling.steps": 1, "finetune.gradient_steps": 1, "finetune.updates": 1}
SMALL |= {
    "finetune.acts_from": 0,
    "evaluate.images": 1,
    "evaluate.explicit_images": 1,
    "locate.k": 0.02,
    "locate.frequency": 0.4,
}


@pytest.fixture(scope="module")
def place(mini_base: StableDiffusionPipeline, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with what the page's commands need, in which they are typed."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("commands")
    (folder / "data" / "prompts").mkdir(parents=True)
    (folder / "data" / "mini-sd").symlink_to(MINI)
    write_json(folder / "data" / "prompts" / "winobias.json", {"WinoBias": WINOBIAS[:4]})
    write_json(folder / "tiny.json", TINY)
    write_json(folder / "occupation.json", ["a photo of a doctor", "a photo of a nurse"])
    experiments = folder / "experiments"
    experiments.mkdir()
    for name in " ".join(re.findall(r"`fairnb experiment ([^`]+)`", PAGE)).split():
        settings = yaml.safe_load((root() / "notebooks" / "profiles" / "mini" / f"{name}.yaml").read_text())
        finetune = {"updates": len(settings.get("contrast", {}).get("stages", [0])), "images": 4, "part": 4, "pool": 4}
        (experiments / f"{name}.yaml").write_text(yaml.safe_dump(settings | {"rank": 2, "finetune": finetune}))
    pipe = _copy(mini_base)
    released(pipe, LoRA(pipe, 2, ("text_encoder", "unet"), 0), folder)
    for gender, name in (("female", "women"), ("male", "men")):
        (folder / name).mkdir()
        for number in range(8):
            drawn = portrait("doctor", gender, "light", "young", None, "photo", np.random.default_rng(number))
            drawn.save(folder / name / f"{number}.png")
    (folder / "images").mkdir()
    for number in range(2):
        drawn = portrait("doctor", "male", "light", "young", None, "photo", np.random.default_rng(number))
        drawn.save(folder / "images" / f"{number}.jpg")
    about = {"age": ["old", "young", "old", None]} | dict.fromkeys(["age_young", "age_old"], 0.5)
    save_records(table().assign(**about), folder / "records.csv")
    PrefixTokens(pipe, 2).save(folder / "prefix.safetensors", {})
    draw(folder / "told", ["a photo of a doctor", "a photo of a nurse"], images=1)
    whole = pipe.unet.state_dict()
    torch.save(whole | {"conv_out.bias": whole["conv_out.bias"] + 0.1}, folder / "unet_gender.pth")
    (folder / "big.txt").write_text("1\n2\n999999999\n")
    write_mpii(folder / "mpii_human_pose_v1_u12_1.mat", {f"{number}.jpg": "doctor" for number in range(2)})

    def loaded(*_, **__) -> StableDiffusionPipeline:
        """A copy, 20 times faster than loading; it takes any word, since MPII's captions are for models that do."""
        pipe = _copy(mini_base)
        pipe.tokenizer = deepcopy(pipe.tokenizer)
        pipe.tokenizer.init_kwargs.pop(WHOLE_WORDS, None)
        return pipe

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("fairnb.diffusion.pipeline.load_pipeline", loaded)
        patch.setattr("fairnb.measure.judge.BATCH", 1)  # that as few images are work for two shards
        yield folder


def small(line: str) -> list[str]:
    """A command of the page with its smallest counts."""
    words = shlex.split(line)[1:]
    group = typer.main.get_command(app)
    command = group.get_command(None, words[0])
    command = command.get_command(None, words[1]) if words[0] == "triplets" else command
    options = {option for each in command.params for option in each.opts}
    settings = SMALL | {name: Path.cwd() / path for name, path in OWN.items()}
    settings |= {"sampling.steps": 4} if words[:2] == ["triplets", "build"] else {}
    if "--set" in options:
        words += [
            "--profile",
            "smoke",
            *(part for item in settings.items() for part in ("--set", "{}={}".format(*item))),
        ]
    words += ["--images", "2"] * ("--images" in options)
    return words + ["--reliable", "0"] * ("--reliable" in options)


@pytest.mark.parametrize("line", list(dict.fromkeys(ROWS)))
def test_the_command_runs(place: Path, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "dacl" in line:  # only trained: exp-1 is evaluated
        monkeypatch.setattr("fairnb.experiments.run.evaluate", lambda *_: {})
    assert call(*small(line)) == 0
    if out := re.search(r"--out (\S+)", line):
        made = place / out[1]
        shard = re.search(r"--shard (\S+)", line)
        assert made.is_dir() or (read_shard(shard[1]).part(made) if shard else made).is_file()


def test_winobias_has_its_36_occupations() -> None:
    rows = read_prompts(root() / "data" / "prompts" / "winobias.json")
    assert len(rows) == 36 == rows.occupation.nunique()
    assert {"a photo of a CEO", "a photo of an attendant", "a photo of a construction worker"} < set(rows.prompt)


def test_the_neurons_of_two_attributes_are_the_union(place: Path, mini_base: StableDiffusionPipeline) -> None:
    """After the commands of the page: index.txt is of gender, joint.safetensors of gender and age."""
    assert call(*small("fairnb find data/mini-sd --attribute age --out age.safetensors")) == 0
    both = union(read_flat_text("index.txt", mini_base.unet), load_neurons("age.safetensors"))
    joint = load_neurons("joint.safetensors")
    assert joint.keys() == both.keys() and all(torch.equal(joint[name], both[name]) for name in both)


def test_a_patch_of_two_attributes_aims_at_joint_shares(place: Path) -> None:
    record = read_header(place / "joint" / "patch.safetensors").record
    assert record["target"] == {"gender+age": [[0.375, 0.125], [0.375, 0.125]]}
    card = (place / "joint" / "README.md").read_text()
    assert all(f"| {name}, 2 occupations" in card for name in ("gender", "age", "gender+age"))
    gender = read_header(place / "gender" / "patch.safetensors")
    assert gender.record["target"] == {"gender": [0.5, 0.5]}
    assert sum(gender.neurons.values()) == len((place / "index.txt").read_text().split())


def test_dino_is_measured_where_the_profile_names_one(place: Path, capsys) -> None:
    config = Dinov2Config(image_size=64, patch_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    torch.manual_seed(0)
    Dinov2Model(config).save_pretrained(place / "dino")
    draw(place / "other", ["a photo of a doctor", "a photo of a nurse"], images=2)
    assert call("similarity", "told", "other", "--profile", "smoke", "--set", f"dino={place / 'dino'}") == 0
    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    files = [[place / name / f"prompt_{i}" / "img_0.png" for i in range(2)] for name in ("told", "other")]
    one, two = (image_features(load_dino(place / "dino"), each) for each in files)
    assert said["DINO"] == f"{(one * two).sum(1).mean():.3f}  (2 pairs, of the same prompt and noise)"
    assert said["CLIP-I"].endswith("(2 pairs, of the same prompt and noise)") and {"KID", "FID", "CLIP-T"} < set(said)


FINETUNE = ["finetune", MINI, "--neurons", "big.txt", "--out", "o"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["generate", "--out", "o"], "give prompts in quotes, or a file of them as --prompts FILE"),
        (["generate", "a", "--prompts", "occupation.json", "--out", "o"], "not both"),
        (["generate", "occupation.json", "--out", "o"], "is a file: give it as --prompts occupation.json"),
        (["generate", "a", "b", "a", "--out", "o"], "the prompt 'a' is given twice"),
        (["generate", "a", " ", "--out", "o"], "the prompt ' ' is blank"),
        (["measure", "records.csv", "--out", "women"], "women is a folder"),
        (["generate", "--prompts", "none.txt", "--out", "o"], "none.txt cannot be read"),
        (["generate", "a", "--set", "sampling.step=1", "--out", "o"], "did you mean 'sampling.steps'"),
        (
            ["generate", "a", "--negative", "b", "--set", "sampling.guidance_scale=1", "--out", "o"],
            "needs a guidance scale above 1",
        ),
        (
            ["generate", "a", "--negative", "b", "--patch", "prefix.safetensors", "--out", "o"],
            "--negative would get the prefix tokens of prefix.safetensors, too",
        ),
        (["measure", "women", "--out", "o.txt"], "o.txt has no form of records"),
        (["measure", "none", "--out", "o.csv"], "no folder of images at none"),
        (["measure", "records.csv", "--report", "women"], "women is not empty: give a new folder"),
        (["measure", "records.csv", "--report", "big.txt"], "big.txt is not empty"),
        (["measure", "tiny.json", "--out", "o.csv"], "tiny.json cannot be read as CSV"),
        (["metrics", "none.csv"], "none.csv cannot be read"),
        (["metrics", "women"], "women holds no records.parquet"),
        (["metrics", "records.csv", "--attributes", "hair"], "unknown attribute 'hair'"),
        (["metrics", "records.csv", "--attributes", "gender+race"], "attribute 'race' was not measured"),
        (["metrics", "records.csv", "--target", "0.5,0.5"], "add for example --attributes gender"),
        (["metrics", "records.csv", "--attributes", "gender", "--target", "1,1"], "--target 1,1 must be 2 numbers"),
        (["metrics", "records.csv", "--attributes", "gender", "--target", "nan,nan"], "that sum to 1"),
        (["metrics", "records.csv", "--attributes", "gender+age", "--target", "1,0"], "must be 4 numbers"),
        (["similarity", "women"], "women does not tell its prompts: give --prompts FILE"),
        (["similarity", "women", "--prompts", "occupation.json"], "belongs to none of the 2 prompts"),
        (["similarity", "told", "--prompts", "occupation.json"], "occupation.json is not needed"),
        (["similarity", "none", "women"], "no folder of images at none"),
        (["triplets", "load", "women"], "women has no captions"),
        (["triplets", "load", "women", "--mpii", "tiny.json"], "tiny.json cannot be read as MPII's annotation"),
        (["triplets", "label", "women", "--out", "o.csv"], "women has no captions"),
        (["triplets", "label", "images", "--out", "o.pkl"], "FFD's form holds no captions"),
        (["triplets", "analyse", "none"], "none cannot be read"),
        (["triplets", "build", "images", "records.csv", "--out", "o"], "records.csv holds no captions"),
        (["find", MINI, "--attribute", "gender,gender", "--out", "o.txt"], "the attribute gender is named twice"),
        (["find", MINI, "--attribute", "gender,hat", "--out", "o.txt"], "unknown attribute 'hat'"),
        (["find", MINI, "--out", "o"], "o has no form of neurons"),
        (FINETUNE, "big.txt holds index 999999999, but the U-Net has"),
        ([*FINETUNE, "--attribute", "gender,age", "--share", "0.5,0.5"], "give it once for each of gender, age"),
        ([*FINETUNE, "--share", "nan,nan"], "--share nan,nan must be 2 numbers"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(place: Path, arguments, says, capsys) -> None:
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    assert call(*arguments) == 2
    error = capsys.readouterr().err.splitlines()
    assert error[-1].startswith("fairnb: ") and says in error[-1]
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == before
