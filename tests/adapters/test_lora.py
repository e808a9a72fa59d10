"""LoRA: trains in the loop, comes off without a trace, travels to plain diffusers, refuses what does not fit."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from fairnb.adapters.lora import LoRA, load_lora
from fairnb.diffusion.fingerprint import fingerprint
from fairnb.diffusion.sampling import noise, sample
from fairnb.errors import UserError
from fairnb.profiles import load_profile
from fairnb.training.alignment import AlignmentRun
from tests.conftest import MINI, build_tiny

PROMPT = "a photo of a doctor"
PARTS = [("text_encoder",), ("unet",), ("text_encoder", "unet")]


def drawn(pipe):
    return sample(pipe, PROMPT, noise(pipe, PROMPT, [0, 1], 0), steps=3, guidance_scale=3.0)


def changed(pipe, parts, rank=4):
    """A LoRA that changes something."""
    lora = LoRA(pipe, rank, parts)
    with torch.no_grad():
        for factor in lora.parameters():
            factor.add_(0.1 * torch.randn_like(factor))
    return lora


def prints(pipe):
    return fingerprint(pipe.unet), fingerprint(pipe.text_encoder)


@pytest.mark.parametrize("parts", PARTS)
def test_it_starts_as_the_base_and_comes_off_without_a_trace(tiny_pipe, parts):
    pipe = tiny_pipe()
    base, before = drawn(pipe), prints(pipe)
    fresh = LoRA(pipe, 4, parts)
    fresh.apply(pipe)
    torch.testing.assert_close(drawn(pipe), base, atol=1e-5, rtol=1e-5)
    fresh.remove(pipe)
    lora = changed(pipe, parts)
    lora.apply(pipe)
    full = drawn(pipe)
    assert not torch.allclose(full, base, atol=1e-3)
    lora.apply(pipe, 0.5)
    half = drawn(pipe)
    assert not torch.allclose(half, full, atol=1e-4) and not torch.allclose(half, base, atol=1e-4)
    lora.apply(pipe, 1.0)
    assert torch.equal(drawn(pipe), full)
    lora.apply(pipe, 0.0)
    assert torch.equal(drawn(pipe), base) and prints(pipe) == before


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_merging_equals_applying(tiny_pipe, parts, strength):
    pipe, other = tiny_pipe(), tiny_pipe()
    lora = changed(pipe, parts)
    lora.apply(pipe, strength)
    applied = drawn(pipe)
    lora.merge(other, strength)
    torch.testing.assert_close(drawn(other), applied, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("parts", PARTS)
def test_plain_diffusers_reads_the_file(tiny_pipe, tmp_path, parts):
    pipe, plain, again = tiny_pipe(), tiny_pipe(), tiny_pipe()
    lora = changed(pipe, parts)
    lora.save(tmp_path / "lora.safetensors", {"updates": 3})
    lora.apply(pipe)
    base = drawn(plain)
    plain.load_lora_weights(tmp_path, weight_name="lora.safetensors")
    torch.testing.assert_close(drawn(plain), drawn(pipe), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(drawn(plain), base, atol=1e-3)  # a load that changes nothing says nothing
    read = load_lora(tmp_path / "lora.safetensors", again)
    assert read.metadata == {"updates": 3} and read.parts == parts
    read.apply(again)
    assert torch.equal(drawn(again), drawn(pipe))


@pytest.mark.parametrize("parts", PARTS)
def test_the_loop_trains_it(mini, tmp_path, parts, vision):
    P = load_profile("smoke", {"device": "cpu"})
    changes = {"updates": 2, "acts_from": 0, "confidence": 0.5, "learning_rate": 1e-3, "reference": "original"}
    before = prints(mini)
    lora = LoRA(mini, 4, parts)
    settings = P.finetune.model_copy(update=changes)
    run = AlignmentRun(mini, lora, vision, {"gender": [0.5, 0.5]}, settings, P.sampling, seed=0)
    history = run.train(["a photo of a pilot", "a photo of a nurse"], [], tmp_path)
    assert len(history) == 2 and history.loss.notna().all() and prints(mini) == before
    values = load_file(tmp_path / "patch.safetensors")
    assert {name.split(".")[0] for name in values} == set(parts)
    for part in parts:
        assert any(value.any() for name, value in values.items() if name.startswith(part) and "lora_B" in name), part


def test_factors_are_float32_on_a_model_in_half_precision(tiny_pipe):
    pipe = tiny_pipe(torch.bfloat16)
    lora = changed(pipe, ("text_encoder", "unet"))
    assert all(factor.dtype == torch.float32 for factor in lora.parameters())
    base = drawn(pipe)
    lora.apply(pipe)
    assert torch.isfinite(drawn(pipe)).all() and not torch.equal(drawn(pipe), base)


def test_what_does_not_fit_is_refused(tiny_pipe, tmp_path):
    pipe, path = tiny_pipe(), tmp_path / "lora.safetensors"
    with pytest.raises(UserError, match="LoRA cannot change vae"):
        LoRA(pipe, 4, ("vae",))
    changed(pipe, ("unet",)).save(path, {})
    plain = tiny_pipe()
    plain.load_lora_weights(tmp_path, weight_name=path.name)
    theirs = drawn(plain)
    with pytest.raises(UserError, match="another LoRA is on the unet"):
        LoRA(plain, 4, ("unet",))
    assert torch.equal(drawn(plain), theirs)
    changed(pipe, ("text_encoder",)).save(path, {})
    with pytest.raises(UserError, match="made for another model"):
        load_lora(path, build_tiny(tmp_path, width=48))
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match="cannot be read"):
        load_lora(tmp_path / "cut.safetensors", pipe)
    with pytest.raises(UserError, match="no LoRA of a Stable Diffusion"):
        load_lora(MINI / "patches" / "gender.safetensors", pipe)
    tensors = load_file(path)
    save_file(tensors, path, metadata={"lora_adapter_metadata": '{"text_encoder.lora_alpha": 8, "text_encoder.r": 4}'})
    with pytest.raises(UserError, match="alpha 8 at rank 4"):
        load_lora(path, pipe)
    for damaged in ("{", "[1]"):
        save_file(tensors, path, metadata={"lora_adapter_metadata": damaged})
        with pytest.raises(UserError, match="header of LoRA"):
            load_lora(path, pipe)
    save_file(tensors, path, metadata={"record": "[1]"})
    with pytest.raises(UserError, match="cannot be read"):
        load_lora(path, pipe)
    name = next(iter(tensors))
    save_file({key: value for key, value in tensors.items() if key != name}, path)
    with pytest.raises(UserError, match="is missing"):
        load_lora(path, pipe)
