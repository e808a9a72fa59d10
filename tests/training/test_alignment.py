"""The loop on the shipped mini-sd: learning, resuming after SIGKILL, two processes, clear failures."""

import dataclasses
import math
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from diffusers import HeunDiscreteScheduler
from safetensors.torch import load_file
from transformers import Dinov2Config, Dinov2Model

from fairnb.adapters.bias_neurons import BiasNeurons
from fairnb.diffusion.sampling import noise, sample
from fairnb.errors import UserError
from fairnb.measure.targets import targets
from fairnb.profiles import load_profile
from fairnb.prompts.attributes import GENDER
from fairnb.seeds import stable_seed
from fairnb.training import loop
from fairnb.training.alignment import AlignmentRun, pick_prompt
from fairnb.training.loop import train_adapter
from fairnb.vision.encoders import load_dino
from tests.training.finetune_run import run

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
COMMAND = [sys.executable, "-m", "tests.training.finetune_run"]
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
PILOT = "a photo of a pilot"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An undisturbed run."""
    torch.set_num_threads(1)  # as in the processes that are killed: the results must be bitwise the same
    folder = tmp_path_factory.mktemp("whole")
    run(folder, {})
    return folder


def test_leaves_patch_and_history_and_no_checkpoint(whole):
    history = pd.read_csv(whole / "history.csv")
    assert history["update"].tolist() == [1, 2, 3, 4]
    assert sorted(history["prompt"].str.split().str[-1]) == ["chef", "chef", "nurse", "nurse"]
    assert history["validation_bias"].notna().sum() == 2
    assert not (whole / "checkpoint.pt").exists()
    values = load_file(whole / "patch.safetensors")
    assert sum(value.abs().sum() for name, value in values.items() if name.endswith(".values")) > 0


@pytest.mark.parametrize("adapter", ["neurons", "lora"])
def test_a_killed_run_resumes_to_the_same_patch(whole, tmp_path_factory, tmp_path, adapter):
    changes = {"finetune.acts_from": 0} if adapter == "lora" else {}
    if adapter == "lora":
        whole = tmp_path_factory.mktemp("lora")
        run(whole, changes, adapter)
    given = [f"adapter={adapter}", *(f"{key}={value}" for key, value in changes.items())]
    process = subprocess.Popen(
        [*COMMAND, tmp_path, *given], env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "checkpoint.pt").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / "checkpoint.pt").exists() and not (tmp_path / "patch.safetensors").exists()
    run(tmp_path, changes, adapter)
    one, two = (load_file(folder / "patch.safetensors") for folder in (whole, tmp_path))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    assert (tmp_path / "history.csv").read_text() == (whole / "history.csv").read_text()


def test_a_checkpoint_of_another_run_is_refused(mini, vision, tmp_path, monkeypatch):
    """Killed at one learning rate, target and seed, it silently went on with others."""

    class Killed(Exception):
        pass

    def started(**changes):
        run_ = gender_alignment(mini, vision)
        run_.settings = run_.settings.model_copy(update={"updates": 2, "validate_every": 9, "images": 4, "part": 4})
        return dataclasses.replace(run_, **changes) if changes else run_

    def stopped(*_):
        raise Killed

    def train(run_, words=("a photo of a chef",)):
        run_.gradient = lambda *_: {"loss": 0.0, "faceless": 0, "to_change": 0}
        run_.originals = dict.fromkeys(words)
        return run_.train(list(words), [], tmp_path)

    settings = started().settings
    checkpoint = tmp_path / "checkpoint.pt"
    with monkeypatch.context() as patched, pytest.raises(Killed):
        save = loop.save_checkpoint
        patched.setattr(loop, "save_checkpoint", lambda *about: (save(*about), stopped()))
        train(started())
    kept = checkpoint.read_bytes()
    for run_, differs in (
        (started(settings=settings.model_copy(update={"learning_rate": 0.1})), "settings.learning_rate was 0.001 and"),
        (started(shares={"gender": [0.9, 0.1]}), "target.gender was .0.5, 0.5. and is .0.9, 0.1. now"),
        (started(seed=7), "its seed was 0 and is 7 now"),
        (started(vision=dataclasses.replace(vision, clip=vision.guide)), "it differs in its vision.clip"),
        (
            started(adapter=BiasNeurons(mini.unet, {"conv_out.weight": torch.arange(9)})),
            "it differs in its adapter.start",
        ),
    ):
        with pytest.raises(UserError, match=f"checkpoint .* belongs to another run .*{differs}"):
            train(run_)
        assert checkpoint.read_bytes() == kept
    with pytest.raises(UserError, match="it differs in its prompts"):
        train(started(), ["a photo of a nurse"])
    slower = started(settings=settings.model_copy(update={"part": 2, "checkpoint_every": 5}))  # only memory and time
    assert len(train(slower)) == 2 and not checkpoint.exists()


def test_two_processes_give_what_one_gives(whole, tmp_path):
    done = subprocess.run([*TWO, *COMMAND[1:], tmp_path], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("one of 2") == 2
    one, two = (pd.read_csv(folder / "history.csv") for folder in (whole, tmp_path))
    assert one["to_change"].tolist() == two["to_change"].tolist()
    torch.testing.assert_close(torch.tensor(one["loss"]), torch.tensor(two["loss"]), rtol=1e-3, atol=1e-4)


def test_four_processes_on_two_machines_train_what_one_does(tmp_path):
    """Two `torchrun` of two processes each, which meet over the network (here the loopback)."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    changes = {"face_weight": 1.0, "pool": 6, "updates": 2, "validate_every": 1}
    run(tmp_path / "one", {f"finetune.{key}": value for key, value in changes.items()})
    given = [f"finetune.{key}={value}" for key, value in changes.items()]
    launch = [*TWO[:3], "--nnodes", "2", "--nproc_per_node", "2", "--master_addr", "127.0.0.1", "--master_port", port]
    machines = [
        subprocess.Popen(
            [*map(str, [*launch, "--node_rank", rank, *COMMAND[1:], tmp_path / "four", *given])],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    told = [machine.communicate() for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], told[0][1][-2000:] + told[1][1][-2000:]
    assert [out.count("one of 4") for out, _ in told] == [2, 2]
    one, four = (load_file(tmp_path / place / "patch.safetensors") for place in ("one", "four"))
    for key in one:
        torch.testing.assert_close(one[key], four[key], rtol=1e-4, atol=1e-5)
    one, four = (pd.read_csv(tmp_path / place / "history.csv") for place in ("one", "four"))
    assert one["validation_bias"].tolist() == four["validation_bias"].tolist()
    assert len(list((tmp_path / "four").iterdir())) == len(list((tmp_path / "one").iterdir()))


@pytest.mark.parametrize(("gradient", "acts_from"), [("last", 0), ("full", 0), ("full", 500)])
def test_the_other_gradients_train_too(tmp_path, gradient, acts_from):
    changes = {
        "finetune.updates": 1,
        "finetune.gradient": gradient,
        "finetune.acts_from": acts_from,
        "finetune.validate_every": 9,
    }
    run(tmp_path, changes)
    values = load_file(tmp_path / "patch.safetensors")
    assert sum(value.abs().sum() for name, value in values.items() if name.endswith(".values")) > 0


def test_gradient_checkpointing_changes_memory_not_the_result(whole, tmp_path):
    run(tmp_path, {"finetune.gradient_checkpointing": True})
    one, two = (pd.read_csv(folder / "history.csv") for folder in (whole, tmp_path))
    torch.testing.assert_close(torch.tensor(one["loss"]), torch.tensor(two["loss"]), rtol=1e-3, atol=1e-4)


def gender_alignment(pipe, vision):
    """An alignment of the profile smoke on a few weights, not started."""
    P = load_profile("smoke", {"device": "cpu"})
    adapter = BiasNeurons(pipe.unet, {"conv_out.weight": torch.arange(200)})
    return AlignmentRun(pipe, adapter, vision, {"gender": [0.5, 0.5]}, P.finetune, P.sampling, seed=0)


def test_what_the_gradient_cannot_do_is_said_before_anything_is_drawn(mini, vision, tmp_path):
    run_ = gender_alignment(mini, vision)
    run_.settings = run_.settings.model_copy(update={"gradient_steps": 5})
    with pytest.raises(UserError, match="finetune.gradient_steps = 5 exceeds the 3 denoising steps: use 1 to 3"):
        run_.train([PILOT], [], tmp_path / "new")
    run_.settings = run_.settings.model_copy(update={"gradient_steps": 1})
    mini.scheduler = HeunDiscreteScheduler.from_config(mini.scheduler.config)
    with pytest.raises(UserError, match="gradient adjusted is not defined for HeunDiscreteScheduler"):
        run_.train([PILOT], [], tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("number", [0, 1], ids=["plain", "named"])
def test_an_update_in_smaller_batches_has_the_same_gradient(mini, vision, number):
    gradients = []
    for batch in (16, 3):
        run_ = gender_alignment(mini, vision)
        run_.settings = run_.settings.model_copy(update={"gradient_steps": 3, "acts_from": 0})
        run_.sampling = run_.sampling.model_copy(update={"batch": batch})
        run_.adapter.attach()
        with torch.no_grad():
            run_.adapter.parameters()[0].add_(0.1)  # an untrained model draws the reference images, without gradient
        run_.adapter.update()
        run_.gradient(PILOT, run_.reference_model.originals(PILOT), number)
        gradients.append(run_.adapter.parameters()[0].grad.clone())
        run_.adapter.detach()
    assert gradients[0].abs().max() > 1e-4
    torch.testing.assert_close(*gradients, rtol=1e-2, atol=1e-3 * gradients[0].abs().max().item())


def test_changed_images_are_pulled_to_the_picture_of_the_named_class(mini, vision):
    run_ = gender_alignment(mini, vision)
    adapter = run_.adapter
    adapter.attach()
    originals = run_.reference_model.originals(PILOT)
    with torch.no_grad():
        adapter.parameters()[0].add_(0.1)  # a trained adapter must not leak into the references
    adapter.update()
    pool = np.array([2, 0, 1])
    originals = originals.of(pool, "cpu")
    wanted = originals.classes.clone()
    wanted[1] = 1 - wanted[1]
    latents, _ = run_.reference_model.references(PILOT, originals, pool, wanted)
    adapter.detach()
    word = GENDER.words[int(wanted[1, 0])]
    how = {"steps": run_.sampling.steps, "guidance_scale": run_.sampling.guidance_scale}
    plain = sample(mini, PILOT, noise(mini, PILOT, [2, 1], 0), **how)
    named = sample(mini, f"a photo of a {word} pilot", noise(mini, PILOT, [0], 0), **how)
    torch.testing.assert_close(latents[[0, 2]], plain, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(latents[[1]], named, rtol=1e-4, atol=1e-4)


def test_a_prompt_that_names_a_class_is_pulled_to_the_original_of_that_prompt(mini, vision):
    run_ = gender_alignment(mini, vision)
    adapter = run_.adapter
    named = [run_.named_classes(number) for number in range(4)]
    assert named[0] is None and named[2] is None
    assert named[1].T.tolist() == [[0, 1, 0, 1]] and named[3].T.tolist() == [[1, 0, 1, 0]]
    asked = [PILOT.replace("pilot", f"{word} pilot") for word in GENDER.words]
    assert run_.reference_model.naming(PILOT, named[1].tolist()) == asked * 2
    adapter.attach()
    row = run_.gradient(PILOT, run_.reference_model.originals(PILOT), 1)
    first = adapter.parameters()[0].grad.clone()
    with torch.no_grad():
        adapter.parameters()[0].add_(0.1)
    adapter.update()
    adapter.parameters()[0].grad = None
    moved = run_.gradient(PILOT, run_.reference_model.originals(PILOT), 1)
    adapter.detach()
    assert row["image_loss"] < 1e-5 and row["latent_loss"] < 1e-6  # an untrained model draws just that picture
    assert moved["image_loss"] > 1e-3 and moved["latent_loss"] > 1e-3
    assert math.isnan(row["bias"]) and first.abs().sum() > 0


def test_the_gradient_of_an_update_is_the_mean_over_its_prompts(mini, vision, tmp_path, monkeypatch):
    run_ = gender_alignment(mini, vision)
    words = [PILOT, "a photo of a nurse"]
    weights = run_.adapter.parameters()
    run_.adapter.attach()
    alone = []
    for visit in range(2):
        prompt = pick_prompt(words, 0, visit)
        run_.gradient(prompt, run_.reference_model.originals(prompt), visit)
        alone.append([weight.grad.clone() for weight in weights])
        for weight in weights:
            weight.grad = None
    run_.settings = run_.settings.model_copy(update={"prompts": 2})
    monkeypatch.setattr(
        "fairnb.training.alignment.train_adapter", lambda adapter, settings, folder, update, *_: update(0)
    )
    row = run_.train(words, [], tmp_path)
    run_.adapter.detach()
    for weight, *each in zip(weights, *alone, strict=True):
        torch.testing.assert_close(weight.grad, (each[0] + each[1]) / 2)
    assert set(row["prompt"].split("; ")) == set(words) and type(row["to_change"]) is int


def test_a_diverging_run_stops_with_a_sentence(tmp_path):
    with pytest.raises(UserError, match="pixels that are no numbers.*too high a learning rate"):
        run(tmp_path, {"finetune.learning_rate": 1e30})
    assert not (tmp_path / "patch.safetensors").exists()


def test_a_foreign_checkpoint_is_refused(tmp_path):
    torch.save({"state": {}, "values": [torch.zeros(3)], "optimizer": {}}, tmp_path / "checkpoint.pt")
    with pytest.raises(UserError, match="checkpoint.pt does not fit this run"):
        run(tmp_path, {})


def test_every_prompt_comes_once_a_round():
    names = ["a", "b", "c", "d", "e"]
    rounds = [[pick_prompt(names, 0, number) for number in range(start, start + 5)] for start in (0, 5, 10)]
    assert all(sorted(order) == names for order in rounds)
    assert rounds[0] != rounds[1] or rounds[1] != rounds[2]


def test_the_class_loss_is_summed_over_confident_targets_and_divided_by_all_images(mini, vision, monkeypatch):
    run_ = gender_alignment(mini, vision)
    run_.shares = {("gender", "skin_tone"): np.full((2, 4), 1 / 8)}
    run_.settings = run_.settings.model_copy(
        update={"images": 12, "pool": 12, "part": 5, "confidence": 0.6, "class_weight": 2.0, "faceless_weight": 7.0}
    )
    monkeypatch.setattr("fairnb.training.alignment.JITTER", 0.0)
    originals = run_.reference_model.originals(PILOT)
    seen = vision.perceive(mini, originals.latents, 16)
    originals.boxes[0] = math.nan  # as if one more face were found now
    run_.adapter.attach()
    row = run_.gradient(PILOT, originals, 0)
    run_.adapter.detach()
    generator = torch.Generator().manual_seed(stable_seed(0, "targets", 0))
    found = torch.from_numpy(seen.faces.found)
    goal, sure = targets(seen.probabilities, run_.shares, found=found, generator=generator)
    total = kept = 0
    for name in ("gender", "skin_tone"):
        for n in torch.nonzero(found & (sure[name] >= 0.6)).flatten():
            total -= seen.probabilities[name][n, goal[name][n]].log().item()
            kept += 1
    assert 0 < kept < 24 and row["class_loss"] == pytest.approx(total / 12, rel=1e-3)
    parts = 2 * row["class_loss"] + 8 * row["image_loss"] + 10 * row["latent_loss"] + 7
    assert row["loss"] == pytest.approx(parts, rel=1e-4)


class OneNumber:
    """An adapter of one number."""

    def __init__(self):
        self.value = torch.zeros(1, requires_grad=True)

    def parameters(self):
        return [self.value]

    def save(self, path, metadata):
        self.saved = self.value.item()

    def attach(self):
        pass

    update = detach = attach


@pytest.mark.parametrize("schedule", ["linear", "constant", "steps"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_optimiser_and_learning_rate_are_the_asked_ones(tmp_path, optimizer, schedule):
    adapter = OneNumber()
    changes = {"updates": 10, "optimizer": optimizer, "schedule": schedule, "learning_rate": 0.1, "ema": 0.0}
    settings = load_profile("smoke").finetune.model_copy(update=changes)

    def gradient(number):
        adapter.value.grad = torch.ones(1)
        return {"loss": 0.0, "prompt": PILOT}

    train_adapter(adapter, settings, tmp_path, gradient, None, {}, {}, Accelerator(cpu=True))
    rate = {"linear": lambda n: 1 - n / 10, "constant": lambda n: 1, "steps": lambda n: 0.2 ** (n // 2)}[schedule]
    value, speed = 0.0, 0.0
    for number in range(10):
        speed = 0.9 * speed + 1 if optimizer == "sgd" else 1  # Adam's step has length 1 under a constant gradient
        value -= 0.1 * rate(number) * speed
    assert adapter.saved == pytest.approx(value, rel=1e-4)


def test_face_realism_pulls_to_whole_faces(mini, vision):
    run_ = gender_alignment(mini, vision)
    run_.settings = run_.settings.model_copy(update={"face_weight": 1.0, "images": 4, "pool": 4})
    run_.adapter.attach()
    run_.reference_model.gather_bank([PILOT, "a photo of a nurse"])
    bank = run_.reference_model.bank
    assert set(bank.classes[:, 0].tolist()) == {0, 1}
    originals = run_.reference_model.originals(PILOT)
    row = run_.gradient(PILOT, originals, 0)
    run_.settings = run_.settings.model_copy(update={"confidence": 0.99})  # four images are never that sure
    unsure = run_.gradient(PILOT, originals, 0)
    run_.adapter.detach()
    assert unsure["face_loss"] == unsure["class_loss"] == 0 < row["class_loss"]
    assert row["face_loss"] > 1e-4 and all(delta.grad.isfinite().all() for delta in run_.adapter.parameters())
    faces = run_.vision.perceive(mini, originals.latents, 4).faces
    wanted = originals.classes.clone()
    wanted[0] = 1 - wanted[0]
    goal = run_.reference_model.face_goal(originals.latents, faces, originals, wanted)
    kept = originals.probability >= 0.9
    kept[0] = False
    torch.testing.assert_close(goal[kept], originals.faces[kept])
    own = bank.faces[bank.classes[:, 0] == wanted[0, 0]]
    assert torch.equal(goal[0], own[(own @ originals.faces[0]).argmax()])


def test_the_number_of_steps_is_drawn_anew_each_update(mini, vision):
    run_ = gender_alignment(mini, vision)
    assert {run_.steps(number) for number in range(40)} == {run_.sampling.steps}
    run_.settings = run_.settings.model_copy(update={"steps": [19, 23]})
    assert {run_.steps(number) for number in range(60)} == {19, 20, 21, 22, 23}
    run_.settings = run_.settings.model_copy(update={"steps": [2, 3], "gradient_steps": 1, "acts_from": 0})
    run_.adapter.attach()
    row = run_.gradient(PILOT, run_.reference_model.originals(PILOT), 0)
    run_.adapter.detach()
    assert math.isfinite(row["loss"])


def test_dino_looks_beside_clip(mini, tmp_path, vision):
    config = Dinov2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=64, patch_size=4)
    Dinov2Model(config).save_pretrained(tmp_path)
    both = dataclasses.replace(vision, dino=load_dino(tmp_path))
    images = torch.rand(2, 3, 64, 64)
    features = both.image_features(images)
    cosine = torch.nn.functional.cosine_similarity
    parts = [1 - cosine(*each.image_features(images), dim=0) for each in (vision.clip, both.dino)]
    together = both.encoders * (1 - cosine(*features, dim=0))
    torch.testing.assert_close(together, sum(parts), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"race": [0.25] * 4}, "the guide only knows gender, skin_tone, age"),
        ({("gender", "skin_tone"): [[0.125] * 4] * 2}, "4 images an update cannot show the 8 combinations of gender"),
    ],
)
def test_shares_that_cannot_be_reached_are_refused(mini, tmp_path, shares, message, vision):
    run_ = gender_alignment(mini, vision)
    run_.shares = shares
    with pytest.raises(UserError, match=message):
        run_.train([PILOT], [], tmp_path / "new")
    assert not (tmp_path / "new").exists()
