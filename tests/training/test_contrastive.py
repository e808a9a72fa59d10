"""Triplets that show what they should, are made once, and are read whole; and the paper's loss."""

import dataclasses
import itertools
import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from fairnb.adapters.full import FullWeights
from fairnb.adapters.load import load_adapter
from fairnb.adapters.lora import LoRA
from fairnb.errors import UserError
from fairnb.measure.images import load_image
from fairnb.measure.photographs import one_person, read_captioned
from fairnb.profiles import Sampling, load_profile
from fairnb.training.contrastive import BOTH, ContrastiveRun, contrastive_loss
from fairnb.training.triplets import METADATA, make_triplets, other_classes, read_triplets
from fairnb.vision.perception import load_vision_models
from tests.measure.test_photographs import draw

ATTRIBUTES = ("gender", "skin_tone")
SAMPLING = Sampling(steps=5, guidance_scale=3.0, batch=8)


def test_other_classes_are_other_and_always_the_same():
    own = {"gender": "female", "skin_tone": "dark"}
    drawn = [other_classes(own, 0, key) for key in range(40)]
    assert {each["gender"] for each in drawn} == {"male"}
    assert {each["skin_tone"] for each in drawn} == {"light", "medium", "brown"}
    assert (
        drawn == [other_classes(own, 0, key) for key in range(40)] != [other_classes(own, 1, key) for key in range(40)]
    )


def test_the_loss_is_the_papers_written_out():
    generator = torch.Generator().manual_seed(0)
    roles = ("anchor", "positive", "negative")
    predicted = {role: torch.randn(3, 2, 4, 4, generator=generator) for role in roles}
    texts = {role: torch.randn(3, 6, 5, generator=generator) for role in roles}
    added = torch.randn(3, 2, 4, 4, generator=generator)

    def mse(one, two):
        return (
            sum((a - b) ** 2 for a, b in zip(one.flatten().tolist(), two.flatten().tolist(), strict=True)) / one.numel()
        )

    def cosine(one, two):
        return float(one @ two / (one.norm() * two.norm()))

    text = 0.0
    for n, d in itertools.product(range(3), range(5)):  # along the six tokens, for each feature
        near = cosine(texts["anchor"][n, :, d], texts["positive"][n, :, d])
        text += (near - cosine(texts["anchor"][n, :, d], texts["negative"][n, :, d])) ** 2 / 15
    vision = (1 - mse(predicted["positive"], predicted["negative"])) ** 2
    vision += mse(predicted["positive"], predicted["anchor"]) ** 2
    denoise = mse(predicted["positive"], added)
    losses = contrastive_loss(predicted, added, texts)
    assert losses["denoise"].item() == pytest.approx(denoise, rel=1e-5)
    assert losses["text"].item() == pytest.approx(text, rel=1e-4)
    assert losses["vision"].item() == pytest.approx(vision, rel=1e-4)
    assert losses["loss"].item() == pytest.approx(0.5 * denoise + 0.1 * text + 0.4 * vision, rel=1e-4)
    alone = contrastive_loss({}, None, texts, ("text_encoder",))
    assert alone["loss"].item() == pytest.approx(0.1 * text, rel=1e-4) and set(alone) == {"loss", "text"}
    assert contrastive_loss(predicted, added, texts, ("unet",))["loss"].item() == pytest.approx(vision, rel=1e-4)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Eight drawn portraits of one person each, as a captioned folder, and what the guide sees in them."""
    place = tmp_path_factory.mktemp("photographs")
    lines = []
    for seed in range(8):
        draw(place / f"{seed}.png", "male" if seed % 4 else "female", seed)
        lines.append({"file_name": f"{seed}.png", "text": "a photo of a doctor", "activity": "doctor"})
    (place / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    vision = load_vision_models(load_profile("mini", {"device": "cpu"}), "cpu")
    return place, vision, one_person(read_captioned(place), place, vision.detector, vision.guide)


def test_triplets_show_what_was_asked_and_are_made_once(mini, photographs, tmp_path, monkeypatch):
    place, vision, photos = photographs
    how = {"attributes": ATTRIBUTES, "sampling": SAMPLING, "seed": 0}
    table = make_triplets(mini, vision, photos, place, tmp_path / "triplets", **how)
    assert table.attrs["left_out"] + table.triplet.nunique() == len(photos) and len(table) >= 9
    for _, each in table.groupby("triplet"):
        rows = each.set_index("role")
        for name in ATTRIBUTES:
            assert rows.loc["negative", name] == rows.loc["anchor", name] != rows.loc["positive", name]
    seen = one_person(
        table.assign(path=table.file_name, caption=table.text), tmp_path / "triplets", vision.detector, vision.guide
    )
    asked = table.set_index("file_name")
    right = [row.gender == asked.gender[row.path] for row in seen.itertuples()]
    assert sum(right) / len(table) > 0.9
    assert read_triplets(tmp_path / "triplets").file_name.tolist() == table.file_name.tolist()

    def never(*_, **__):
        raise AssertionError("drawn again")

    monkeypatch.setattr("fairnb.training.triplets.sample", never)
    again = make_triplets(mini, vision, photos, place, tmp_path / "triplets", **how)
    pd.testing.assert_frame_equal(table, again)
    assert again.attrs == table.attrs
    with pytest.raises(UserError, match="triplets belongs to another run .its seed was 0 and is 1 now"):
        make_triplets(mini, vision, photos, place, tmp_path / "triplets", **how | {"seed": 1})
    other = dataclasses.replace(vision, guide=vision.clip)
    with pytest.raises(UserError, match="it differs in its vision.guide"):
        make_triplets(mini, other, photos, place, tmp_path / "triplets", **how)
    with pytest.raises(UserError, match="not labelled with race"):
        make_triplets(mini, vision, photos, place, tmp_path / "other", **how | {"attributes": ["race"]})


def test_a_writer_of_ones_own_and_no_triplet_at_all(mini, photographs, tmp_path):
    place, vision, photos = photographs
    asked = []

    def write(caption, words):
        asked.append((caption, words))
        return "a photo of a house"

    how = {"attributes": ("gender",), "sampling": SAMPLING, "seed": 0, "tries": 1, "write": write}
    with pytest.raises(UserError, match="of 2 photographs no triplet is whole after 1 tries each"):
        make_triplets(mini, vision, photos.head(2), place, tmp_path / "none", **how)
    assert ("a photo of a doctor", "male") in asked and not (tmp_path / "none" / METADATA).exists()


def test_incomplete_triplets_are_named(tmp_path):
    lines = [{"file_name": f"0_{role}.png", "text": "", "triplet": 0, "role": role} for role in ("anchor", "positive")]
    (tmp_path / METADATA).write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(UserError, match="triplet 0 lacks negative"):
        read_triplets(tmp_path)
    lines.append({"file_name": "0_negative.png", "text": "", "triplet": 0, "role": "negative"})
    (tmp_path / METADATA).write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(UserError, match="0_anchor.png is missing"):
        read_triplets(tmp_path)
    for text in ("no json", "[1]", '{"role": "anchor"}'):
        (tmp_path / METADATA).write_text(text)
        with pytest.raises(UserError, match="cannot be read as triplets"):
            read_triplets(tmp_path)


@pytest.fixture
def triplets(tmp_path):
    """A folder of five triplets for the tiny model, of noise."""
    folder, rng = tmp_path / "triplets", np.random.default_rng(0)
    folder.mkdir()
    lines = []
    for number in range(5):
        for role, word in (("anchor", ""), ("positive", "male "), ("negative", "female ")):
            name = f"{number}_{role}.png"
            Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / name)
            text = f"a photo of a {word}doctor"
            lines.append({"file_name": name, "text": text, "triplet": number, "role": role})
    (folder / METADATA).write_text("\n".join(map(json.dumps, lines)))
    return folder


def settings(**change):
    return load_profile("smoke").finetune.model_copy(
        update={"updates": 3, "images": 4, "part": 8, "learning_rate": 1e-2} | change
    )


def test_an_update_takes_the_gradient_of_the_written_out_loss(tiny_pipe, triplets):
    pipe = tiny_pipe()
    lora = LoRA(pipe, 2, ("text_encoder", "unet"))
    contrast = ContrastiveRun(pipe, lora, triplets, settings(), seed=0)
    lora.attach()
    with torch.no_grad():
        for name in lora.shapes():
            lora.factors(name)[1].normal_(std=0.05, generator=torch.Generator().manual_seed(1))
    seen = []
    hook = pipe.unet.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    row = contrast.gradient(0)
    hook.remove()
    gradients = [factor.grad.clone() for factor in lora.parameters()]
    assert all(gradient.abs().sum() > 0 for gradient in gradients[1::2])
    anchor, positive, _ = [each[0] for each in seen]
    times = [each[1] for each in seen]
    assert torch.equal(times[0], times[1]) and torch.equal(times[0], times[2])
    # The same noise in each member: noisy latents differ as the pictures' latents do, times sqrt(abar).
    abar = pipe.scheduler.alphas_cumprod[times[0]].sqrt().view(-1, 1, 1, 1)
    apart = contrast.latents["anchor"] - contrast.latents["positive"]
    differences = (anchor - positive) / abar
    assert all((differences[k] - apart).flatten(1).abs().amax(1).min() < 1e-2 for k in range(4))
    parameter = lora.parameters()[1]
    with torch.no_grad():
        place = parameter.grad.abs().argmax()
        slope = parameter.grad.flatten()[place].item()
        losses = []
        for step in (1e-2, -2e-2):
            parameter.view(-1)[place] += step
            with torch.enable_grad():
                losses.append(contrast.gradient(0)["loss"])
    assert (losses[0] - losses[1]) / 2e-2 == pytest.approx(slope, rel=0.1, abs=1e-4)
    assert row["loss"] == pytest.approx(0.5 * row["denoise"] + 0.1 * row["text"] + 0.4 * row["vision"], rel=1e-4)
    published = ContrastiveRun(pipe, lora, triplets, settings(), seed=0, shared=False)
    hook = pipe.unet.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    published.gradient(0)
    hook.remove()
    assert not torch.equal(seen[-1][1], seen[-2][1])


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("loss", ["contrastive", "denoise"])
def test_parts_of_a_batch_have_the_gradient_of_the_whole(tiny_pipe, triplets, kind, loss):
    """The published loss is no sum over images: it squares means."""
    made = []
    for part in (5, 2):
        pipe = tiny_pipe()
        adapter = LoRA(pipe, 4, BOTH, 0) if kind == "lora" else FullWeights(pipe, BOTH)
        adapter.attach()
        sizes = []
        hook = pipe.unet.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))  # noqa: B023
        run = ContrastiveRun(pipe, adapter, triplets, settings(images=5, part=part), seed=0, loss=loss)
        row = run.gradient(0)
        hook.remove()
        assert max(sizes) == part and len(sizes) == (3 if loss == "contrastive" else 2) * (1 if part == 5 else 6)
        made.append((row, [each.grad.clone() for each in adapter.parameters()]))
        adapter.detach()
    (one, gradients), (other, in_parts) = made
    assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
    for whole, parts in zip(gradients, in_parts, strict=True):
        torch.testing.assert_close(whole, parts, rtol=1e-3, atol=1e-6)
    assert max(each.abs().max() for each in gradients) > 1e-4


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_the_sequence_trains_one_part_after_the_other(tiny_pipe, triplets, tmp_path, kind):
    pipe = tiny_pipe()
    parts = ("text_encoder", "unet")
    adapter = LoRA(pipe, 2, parts) if kind == "lora" else FullWeights(pipe, parts)
    stages = (("text_encoder",), ("unet",), parts)
    asked = settings(validate_every=1, ema=0.0)
    contrast = ContrastiveRun(pipe, adapter, triplets, asked, seed=0, stages=stages)
    begun = {part: [each.detach().clone() for each in adapter.parameters_of(part)] for part in parts}
    moved, biases = [], iter((0.9, 0.8, 0.7))

    def validate():
        now = {part: adapter.parameters_of(part) for part in parts}
        moved.append({part: not all(map(torch.equal, begun[part], now[part])) for part in parts})
        return next(biases)

    history = contrast.train(validate, tmp_path / "run", {"objective": "contrastive"})
    assert len(history) == 3 and history.validation_bias.tolist() == [0.9, 0.8, 0.7]
    assert moved == [{"text_encoder": True, "unet": False}, *[{"text_encoder": True, "unet": True}] * 2]
    assert history.vision.isna().tolist() == [True, False, False]
    assert history.loss[0] == pytest.approx(0.1 * history.text[0]) and history.loss[1] == history.vision[1]
    loaded = load_adapter(tmp_path / "run" / "patch.safetensors", pipe)
    assert loaded.metadata["objective"] == "contrastive" and loaded.metadata["validation_bias"] == 0.7


def test_photographs_of_any_size_are_cut_to_the_models(tiny_pipe, triplets):
    pipe = tiny_pipe()
    lora = LoRA(pipe, 2, ("unet",))
    before = ContrastiveRun(pipe, lora, triplets, settings(), seed=0).latents["anchor"]
    for number, size in enumerate([(32, 32), (64, 32), (96, 200), (20, 31), (33, 32)]):
        name = triplets / f"{number}_anchor.png"
        small = Image.open(name)
        whole = Image.new("RGB", size)
        scale = max(32 / size[0], 32 / size[1])
        side = round(32 / scale)
        whole.paste(small.resize((side, side), Image.NEAREST), ((size[0] - side) // 2, (size[1] - side) // 2))
        whole.save(name)
    after = ContrastiveRun(pipe, lora, triplets, settings(), seed=0).latents["anchor"]
    assert torch.equal(after[0], before[0]) and torch.equal(after[1], before[1])  # only borders were added
    assert after.shape == before.shape and not torch.equal(after[3], before[3])
    lora.attach()
    assert np.isfinite(ContrastiveRun(pipe, lora, triplets, settings(), seed=0).gradient(0)["loss"])


def test_images_are_mirrored_and_their_noise_is_perturbed_but_not_the_target(tiny_pipe, triplets):
    pipe = tiny_pipe()
    lora = LoRA(pipe, 2, ("unet",))
    lora.attach()
    how = {"perturbation": 0.1, "flips": True, "loss": "denoise", "shared": False}
    contrast = ContrastiveRun(pipe, lora, triplets, settings(images=5), seed=0, **how)
    flipped = pipe.vae.encode(load_image(triplets / "0_anchor.png").flip(-1)[None]).latent_dist.mean[0]
    assert torch.allclose(contrast.mirrored["anchor"][0], flipped * pipe.vae.config.scaling_factor, atol=1e-5)
    seen, added = [], []
    hook = pipe.unet.register_forward_hook(lambda module, args, out: seen.append((args, out.sample)))
    draw = torch.randn
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch, "randn", lambda *size, **how: added.append(draw(*size, **how)) or added[-1])
        row = contrast.gradient(0)
    hook.remove()
    errors, sides = [], set()
    members = zip(("anchor", "positive"), seen, added[::2], added[1::2], strict=True)
    for role, ((noisy, at), out), noise, other in members:
        abar = pipe.scheduler.alphas_cumprod[at].view(-1, 1, 1, 1)
        start = (noisy - (1 - abar).sqrt() * (noise + 0.1 * other)) / abar.sqrt()
        for n in range(5):
            gap = [(start[n] - of[role][n]).abs().max().item() for of in (contrast.latents, contrast.mirrored)]
            assert min(gap) < 0.02 < max(gap)
            sides.add((role, int(np.argmin(gap))))
        errors.append((out - noise).square().mean().item())
    assert len(sides) == 4 and row["loss"] == pytest.approx(np.mean(errors), rel=1e-4)


def test_without_contrast_both_pictures_are_denoised_under_the_anchors_caption(tiny_pipe, triplets):
    pipe = tiny_pipe()
    lora = LoRA(pipe, 2, ("text_encoder", "unet"))
    lora.attach()
    contrast = ContrastiveRun(pipe, lora, triplets, settings(images=5), seed=0, loss="denoise")
    seen = []
    hook = pipe.unet.register_forward_hook(
        lambda m, args, kwargs, out: seen.append((args, kwargs, out)), with_kwargs=True
    )
    row = contrast.gradient(0)
    hook.remove()
    assert len(seen) == 2 and torch.equal(*(kwargs["encoder_hidden_states"] for _, kwargs, _ in seen))
    assert torch.equal(seen[0][0][1], seen[1][0][1])
    total = 0.0
    for role, ((noisy, at), _, out) in zip(("anchor", "positive"), seen, strict=True):
        abar = pipe.scheduler.alphas_cumprod[at].view(-1, 1, 1, 1)
        added = (noisy - abar.sqrt() * contrast.latents[role]) / (1 - abar).sqrt()
        total += (out.sample - added).square().mean().item() / 2
    assert row["loss"] == pytest.approx(total, rel=1e-3) and "vision" not in row
    assert all(factor.grad.abs().sum() > 0 for factor in lora.parameters()[1::2])
