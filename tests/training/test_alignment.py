"""The gradient of an alignment on the shipped mini-sd: its losses, its references, what is refused."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from diffusers import HeunDiscreteScheduler
from transformers import Dinov2Config, Dinov2Model

from fairnb.diffusion.sampling import noise, sample
from fairnb.errors import UserError
from fairnb.measure.targets import targets
from fairnb.profiles import load_profile
from fairnb.prompts.attributes import GENDER
from fairnb.seeds import stable_seed
from fairnb.training.alignment import pick_prompt
from fairnb.training.loop import train_adapter
from fairnb.vision.encoders import load_dino
from tests.training.finetune_run import gender_alignment

PILOT = "a photo of a pilot"


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
