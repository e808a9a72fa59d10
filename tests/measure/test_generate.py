import copy
import errno
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image
from transformers import ResNetConfig, ResNetForImageClassification

from fairnb.adapters.bias_neurons import BiasNeurons
from fairnb.adapters.lora import LoRA
from fairnb.adapters.prefix import PrefixTokens
from fairnb.diffusion.pipeline import load_pipeline
from fairnb.diffusion.sampling import decode, noise, sample
from fairnb.errors import UserError
from fairnb.files import LOCK, one_run_in, read_json, write_json
from fairnb.measure.generate import generate
from fairnb.measure.images import image_path, load_image, save_image
from fairnb.measure.judge import judge_images
from fairnb.measure.records import read_records, write_records
from fairnb.vision.classifiers import Classifier

ROWS = [
    {"prompt_id": 3, "prompt": "a photo of a doctor", "occupation": "doctor", "split": "test"},
    {"prompt_id": 5, "prompt": "a photo of a nurse", "occupation": "nurse", "split": "test"},
]
SETTINGS = dict(images=3, seed=1, steps=2, guidance_scale=3.0, batch=2, progress=False)


def classifier(*labels: str) -> Classifier:
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1], id2label=dict(enumerate(labels)))
    config.image_size = 16
    return Classifier(ResNetForImageClassification(config)).eval()


class Detector:
    """Stands in for MTCNN: a face in the middle of every picture that is brighter than middle grey."""

    def detect(self, pictures: np.ndarray) -> tuple[list, list]:
        side = pictures.shape[1]
        box = np.array([[side / 4, side / 4, 3 * side / 4, 3 * side / 4]])
        bright = [picture.mean() > 127 for picture in pictures]
        return [box if good else None for good in bright], [np.array([0.99]) if good else [None] for good in bright]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """A model this small is many times faster on one thread as soon as anything else runs on the machine."""
    torch.set_num_threads(1)


@pytest.fixture
def judge() -> Classifier:
    return classifier("gender:female", "gender:male", "age:young", "age:old")


def files(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != LOCK)
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_images_are_those_of_the_noise_contract(tiny_pipe, tmp_path: Path) -> None:
    pipe = tiny_pipe()
    generate(pipe, ROWS, folder=tmp_path / "a", **SETTINGS)
    assert len(list((tmp_path / "a").glob("prompt_*/img_*.png"))) == 6
    prompt = ROWS[1]["prompt"]
    latents = sample(pipe, prompt, noise(pipe, prompt, [2], 1), steps=2, guidance_scale=3.0)
    picture = load_image(image_path(tmp_path / "a", 5, 2))
    torch.testing.assert_close(picture, decode(pipe, latents)[0], atol=1.01 / 127.5, rtol=0)


def test_resume_redoes_missing_and_damaged_files_only(tiny_pipe, tmp_path: Path) -> None:
    pipe, folder = tiny_pipe(), tmp_path / "a"
    generate(pipe, ROWS, folder=folder, **SETTINGS)
    whole = files(folder)
    kept = image_path(folder, 3, 0)
    untouched = kept.stat().st_mtime_ns
    image_path(folder, 3, 1).unlink()
    image_path(folder, 3, 2).write_bytes(b"")
    cut = image_path(folder, 5, 1)
    cut.write_bytes(cut.read_bytes()[:-40])
    (folder / "prompt_5" / ".img_1.0a1b2c3d.part.png").write_bytes(b"left by a kill")
    generate(pipe, ROWS, folder=folder, **SETTINGS)
    assert files(folder) == whole
    assert kept.stat().st_mtime_ns == untouched


def test_another_runs_folder_is_refused_or_replaced(tiny_pipe, tmp_path: Path) -> None:
    pipe, folder = tiny_pipe(), tmp_path / "a"
    generate(pipe, ROWS, folder=folder, **SETTINGS)
    before = files(folder)
    with pytest.raises(UserError, match="its seed was 1 and is 2 now"):
        generate(pipe, ROWS, folder=folder, **{**SETTINGS, "seed": 2})
    for change, differs in (
        (lambda pipe: next(pipe.unet.parameters()).data.add_(0.1), "it differs in its model.unet"),
        (lambda pipe: next(pipe.vae.parameters()).data.add_(0.1), "it differs in its model.vae"),
        (lambda pipe: pipe.vae.register_to_config(scaling_factor=0.5), "it differs in its model.configurations"),
        (lambda pipe: pipe.scheduler.register_to_config(prediction_type="v_prediction"), "prediction_type was epsilon"),
        (lambda pipe: setattr(pipe, "scheduler", DDIMScheduler()), "model.scheduler.class was DPMSolverMultistep"),
        (lambda pipe: pipe.tokenizer.add_tokens("a_new_word"), "it differs in its model.tokenizer"),
    ):
        changed = tiny_pipe()
        changed.scheduler, changed.tokenizer = copy.deepcopy(pipe.scheduler), copy.deepcopy(pipe.tokenizer)
        change(changed)
        with pytest.raises(UserError, match=differs):
            generate(changed, ROWS, folder=folder, **SETTINGS)
    assert files(folder) == before
    next(pipe.unet.parameters()).data.add_(0.1)
    generate(pipe, ROWS[:1], folder=folder, replace=True, **SETTINGS)
    after = files(folder)
    assert set(after) == {"generation.json", *(f"prompt_3/img_{index}.png" for index in range(3))}
    assert after["prompt_3/img_0.png"] != before["prompt_3/img_0.png"]


@pytest.mark.parametrize("kind", ["neurons", "lora", "prefix"])
def test_strength_and_timesteps_of_what_is_applied_count(tiny_pipe, tmp_path: Path, kind: str) -> None:
    """The weights hold the strength of bias neurons, but not where they act; and of LoRA and prefix no strength."""
    pipe, rows, how = tiny_pipe(), ROWS[:1], SETTINGS | {"images": 1, "steps": 1}
    neurons = {"conv_in.weight": torch.arange(5)}
    one, other = {
        "neurons": lambda: (BiasNeurons(pipe.unet, neurons, 0), BiasNeurons(pipe.unet, neurons, 500)),
        "lora": lambda: [LoRA(pipe, 2, ("unet",))] * 2,
        "prefix": lambda: [PrefixTokens(pipe, 2)] * 2,
    }[kind]()
    one.apply(pipe)
    generate(pipe, rows, folder=tmp_path / "a", **how)
    generate(pipe, rows, folder=tmp_path / "a", **how)  # again the same
    one.remove(pipe)
    other.apply(pipe, 1.0 if kind == "neurons" else 0.5)
    with pytest.raises(UserError, match="its model.applied was"):
        generate(pipe, rows, folder=tmp_path / "a", **how)
    other.remove(pipe)
    assert pipe.applied is None


def test_a_folder_in_use_is_refused_and_what_it_holds_stays(tiny_pipe, tmp_path: Path) -> None:
    pipe, folder = tiny_pipe(), tmp_path / "a"
    with one_run_in(folder), pytest.raises(UserError, match="is in use by another run"):
        generate(pipe, ROWS, folder=folder, **SETTINGS)
    assert files(folder) == {}
    generate(pipe, ROWS[:1], folder=folder, **SETTINGS)


def test_a_negative_prompt_is_part_of_the_plan(tiny_pipe, tmp_path: Path) -> None:
    pipe, few = tiny_pipe(), {**SETTINGS, "images": 1}
    generate(pipe, ROWS[:1], folder=tmp_path / "plain", **few)
    generate(pipe, ROWS[:1], folder=tmp_path / "negative", negative="a tree at night", **few)
    assert read_json(tmp_path / "negative" / "generation.json")["negative"] == "a tree at night"
    plain, negative = (image_path(tmp_path / name, 3, 0).read_bytes() for name in ("plain", "negative"))
    assert plain != negative
    for folder, other in (("plain", "a tree at night"), ("negative", ""), ("negative", "a house")):
        with pytest.raises(UserError, match="its negative was .* now"):
            generate(pipe, ROWS[:1], folder=tmp_path / folder, negative=other, **few)
    with pytest.raises(UserError, match="a negative prompt needs a guidance scale above 1, but it is 1"):
        generate(pipe, ROWS[:1], folder=tmp_path / "x", negative="a tree", **{**few, "guidance_scale": 1.0})
    assert not (tmp_path / "x").exists()


def test_a_folder_with_other_files_is_not_touched(tiny_pipe, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="did not make"):
        generate(tiny_pipe(), ROWS, folder=tmp_path, replace=True, **SETTINGS)
    assert files(tmp_path) == {"thesis.txt": b"mine"}


def test_bad_rows_are_refused_before_anything_is_written(tiny_pipe, tmp_path: Path) -> None:
    for rows, says in [([], "no prompt"), ([{"prompt_id": 1}], "lacks 'prompt'"), ([ROWS[0], ROWS[0]], "two prompts")]:
        with pytest.raises(UserError, match=says):
            generate(tiny_pipe(), rows, folder=tmp_path / "a", **SETTINGS)
    assert not any(tmp_path.iterdir())


def test_an_unwritable_folder_and_a_full_disk(tiny_pipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        generate(tiny_pipe(), ROWS, folder=tmp_path / "file" / "a", **SETTINGS)

    def full(self, path: Path, format: str) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(UserError, match="No space left on device"):
        generate(tiny_pipe(), ROWS, folder=tmp_path / "a", **SETTINGS)
    assert set(files(tmp_path / "a")) == {"generation.json"}


def test_a_model_that_draws_nan_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="drew NaN"):
        save_image(torch.full((3, 4, 4), float("nan")), tmp_path / "x.png")
    assert not any(tmp_path.iterdir())


def test_png_is_lossless(tmp_path: Path) -> None:
    levels = torch.arange(0, 256).float().div(127.5).sub(1).reshape(1, 16, 16).expand(3, -1, -1)
    assert torch.equal(load_image(save_image(levels, tmp_path / "x.png")), levels)


def test_jpg_is_written_resumed_replaced_and_judged(tiny_pipe, tmp_path: Path, judge: Classifier) -> None:
    pipe, jpg = tiny_pipe(), SETTINGS | {"form": "jpg"}
    generate(pipe, ROWS, folder=tmp_path / "a", **jpg)
    whole = files(tmp_path / "a")
    assert sorted(whole)[1:4] == [f"prompt_3/img_{index}.jpg" for index in range(3)]
    assert whole["prompt_3/img_0.jpg"][:3] == b"\xff\xd8\xff"
    image_path(tmp_path / "a", 5, 1, "jpg").write_bytes(whole["prompt_5/img_1.jpg"][:300])
    generate(pipe, ROWS, folder=tmp_path / "a", **jpg)
    assert files(tmp_path / "a") == whole
    generate(pipe, ROWS, folder=tmp_path / "b", **SETTINGS)
    one, two = (load_image(image_path(tmp_path / name, 3, 0, form)) for name, form in (("a", "jpg"), ("b", "png")))
    assert 0 < (one - two).abs().mean() < 0.05
    assert set(judge_images(tmp_path / "a", Detector(), judge).path) == {name for name in whole if "img" in name}
    generate(pipe, ROWS[:1], folder=tmp_path / "a", replace=True, **SETTINGS)
    assert set(files(tmp_path / "a")) == {"generation.json", *(f"prompt_3/img_{index}.png" for index in range(3))}


def test_each_picture_may_have_words_of_its_own(tiny_pipe, tmp_path: Path) -> None:
    pipe, row = tiny_pipe(), {**ROWS[0], "words": ["male", "female", "male"]}
    generate(pipe, [row], folder=tmp_path, **SETTINGS)
    prompts = ["a photo of a male doctor", "a photo of a female doctor"]
    latents = noise(pipe, "a photo of a doctor", [0, 1], 1)  # the noise stays that of the plain prompt
    expected = decode(pipe, sample(pipe, prompts, latents, steps=2, guidance_scale=3.0))
    for index in (0, 1):
        drawn = load_image(image_path(tmp_path, 3, index))
        assert (drawn - expected[index]).abs().max() < 0.01
    with pytest.raises(UserError, match="belongs to another run .it differs in its prompts"):
        generate(pipe, ROWS[:1], folder=tmp_path, **SETTINGS)


def test_two_processes_share_the_work(tiny_pipe, tmp_path: Path) -> None:
    tiny_pipe().save_pretrained(tmp_path / "model")
    generate(load_pipeline(tmp_path / "model", device="cpu"), ROWS, folder=tmp_path / "one", **SETTINGS)
    program = tmp_path / "program.py"
    program.write_text(
        "from fairnb.measure import generate as module\n"
        "from fairnb.diffusion.pipeline import load_pipeline, processes\n"
        "drawn, save = [], module.save_image\n"
        "module.save_image = lambda image, path: drawn.append(path) or save(image, path)\n"
        f"pipe = load_pipeline({str(tmp_path / 'model')!r}, device='cpu')\n"
        f"module.generate(pipe, {ROWS!r}, folder={str(tmp_path / 'two')!r}, **{SETTINGS!r})\n"
        "print(f'drew {len(drawn)} as one of {processes().num_processes}.', flush=True)\n"
    )
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(program)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(launch, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    counts = [int(number) for number in re.findall(r"drew (\d+) as one of 2\.", done.stdout)]
    assert len(counts) == 2 and min(counts) > 0 and sum(counts) == len(files(tmp_path / "one")) - 1  # and the plan
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_a_killed_run_started_again_ends_with_the_same_files(tiny_pipe, tmp_path: Path) -> None:
    tiny_pipe().save_pretrained(tmp_path / "model")
    code = (
        "from fairnb.measure.generate import generate; from fairnb.diffusion.pipeline import load_pipeline\n"
        f"generate(load_pipeline({str(tmp_path / 'model')!r}, device='cpu'), {ROWS!r},"
        f" folder={str(tmp_path / 'killed')!r}, images=400, seed=1, steps=2, guidance_scale=3.0, batch=2,"
        " progress=False)"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "killed").glob("prompt_3/img_*.png"))) < 5 and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(list((tmp_path / "killed").glob("prompt_*/img_*.png")))
    assert 5 <= done < 800
    plan = read_json(tmp_path / "killed" / "generation.json")
    plan["images"] = SETTINGS["images"]
    for path in (tmp_path / "killed").glob("prompt_*/img_*.png"):
        if int(path.stem.removeprefix("img_")) >= SETTINGS["images"]:
            path.unlink()
    write_json(tmp_path / "killed" / "generation.json", plan)
    generate(tiny_pipe(), ROWS, folder=tmp_path / "killed", **SETTINGS)
    generate(tiny_pipe(), ROWS, folder=tmp_path / "whole", **SETTINGS)
    left = {name: content for name, content in files(tmp_path / "killed").items() if ".part" not in name}
    assert left == files(tmp_path / "whole")


def test_look_gives_a_row_per_image(tiny_pipe, tmp_path: Path, judge: Classifier, monkeypatch) -> None:
    folder = generate(tiny_pipe(), ROWS, folder=tmp_path / "a", **SETTINGS)
    for index, level in [(0, 200), (1, 20), (2, 220)]:
        Image.new("RGB", (32, 32), (level, level, level)).save(image_path(folder, 3, index))
        Image.new("RGB", (32, 32), (level, level, level)).save(image_path(folder, 5, index))
    occupations = classifier("occupation:doctor", "occupation:police officer")
    records = judge_images(folder, Detector(), judge, occupation_judge=occupations)
    assert records.prompt_id.tolist() == [3, 3, 3, 5, 5, 5] and records.image.tolist() == [0, 1, 2] * 2
    assert records.seed.unique().tolist() == [1] and records.occupation.tolist()[3] == "nurse"
    assert records.face.tolist() == [True, False, True] * 2
    assert records.gender.isna().tolist() == [False, True, False] * 2
    faces = records[records.face]
    np.testing.assert_allclose(faces.gender_female + faces.gender_male, 1, atol=1e-6)
    np.testing.assert_allclose(faces[["box_x0", "box_x1"]], [[8, 24]] * 4)
    assert set(records.occupation_seen) <= {"doctor", "police officer"}
    assert len(read_records(write_records(records, tmp_path / "r.parquet"))) == 6
    monkeypatch.setattr("fairnb.measure.judge.BATCH", 1)
    one_by_one = judge_images(folder, Detector(), judge)
    np.testing.assert_allclose(one_by_one.gender_male, records.gender_male, atol=1e-6)


def test_look_at_nobody(tmp_path: Path, judge: Classifier) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "dark.png")
    records = judge_images(tmp_path, Detector(), judge)
    assert not records.face.any() and records.gender.isna().all() and records.gender_male.isna().all()


def test_foreign_folders_and_odd_pictures(tmp_path: Path, judge: Classifier) -> None:
    (tmp_path / "old_pilot").mkdir()
    Image.new("L", (40, 32), 200).save(tmp_path / "grey.png")
    Image.new("RGBA", (32, 32), (200, 200, 200, 255)).save(tmp_path / "clear.png")
    Image.new("RGB", (32, 32), (200, 200, 200)).save(tmp_path / "old_pilot" / "x.jpg")
    (tmp_path / ".DS_Store").write_text("")
    records = judge_images(tmp_path, Detector(), judge)
    assert records.path.tolist() == ["clear.png", "grey.png", "old_pilot/x.jpg"]
    assert records.prompt_id.tolist() == [0, 0, 1] and records.prompt[2] == "old pilot"
    assert records.face.all()


def test_deep_printed_animated_and_huge_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(np.full((32, 32), 200 * 257, np.uint16)).save(tmp_path / "deep.png")
    Image.new("CMYK", (32, 32), (0, 0, 0, 55)).save(tmp_path / "print.jpg")
    first, second = Image.new("L", (32, 32), 200), Image.new("L", (32, 32), 0)
    first.save(tmp_path / "moving.gif", save_all=True, append_images=[second])
    for name in ("deep.png", "print.jpg", "moving.gif"):
        torch.testing.assert_close(
            load_image(tmp_path / name), torch.full((3, 32, 32), 200 / 127.5 - 1), atol=0.02, rtol=0
        )
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match="deep.png is too large"):
        load_image(tmp_path / "deep.png")


@pytest.mark.parametrize(("name", "content"), [("text.jpg", b"hello"), ("empty.png", b""), ("cut.png", None)])
def test_a_damaged_image_is_named(tmp_path: Path, judge: Classifier, name: str, content: bytes | None) -> None:
    good = tmp_path / "a.png"
    save_image(torch.rand(3, 32, 32) * 2 - 1, good)
    (tmp_path / name).write_bytes(good.read_bytes()[:-200] if content is None else content)
    with pytest.raises(UserError, match=f"{name} is not a whole image"):
        judge_images(tmp_path, Detector(), judge)


def test_missing_empty_and_unfinished_folders(tiny_pipe, tmp_path: Path, judge: Classifier) -> None:
    with pytest.raises(UserError, match="no folder of images"):
        judge_images(tmp_path / "none", Detector(), judge)
    with pytest.raises(UserError, match="holds no image"):
        judge_images(tmp_path, Detector(), judge)
    generate(tiny_pipe(), ROWS, folder=tmp_path / "a", **SETTINGS)
    image_path(tmp_path / "a", 5, 1).unlink()
    with pytest.raises(UserError, match=r"prompt_5/img_1.png is missing"):
        judge_images(tmp_path / "a", Detector(), judge)


def test_classes_are_those_of_the_attribute_whatever_the_order_of_the_outputs(tmp_path: Path) -> None:
    Image.new("RGB", (32, 32), "white").save(tmp_path / "x.png")
    swapped = classifier("gender:male", "gender:female")
    assert swapped.classes == {"gender": ("female", "male")} and swapped.table["gender"] == {"female": [1], "male": [0]}
    row = judge_images(tmp_path, Detector(), swapped).iloc[0]
    assert row.gender == max(("female", "male"), key=lambda name: row[f"gender_{name}"])
    with pytest.raises(UserError, match="unknown attribute 'occupation'"):
        judge_images(tmp_path, Detector(), classifier("occupation:doctor", "occupation:nurse"))
