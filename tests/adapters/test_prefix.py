"""Prefix tokens: before every prompt but the empty one, trained in the loop, read by plain diffusers."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file

from fairnb.adapters.prefix import TOKEN, PrefixTokens, load_prefix
from fairnb.diffusion.fingerprint import fingerprint
from fairnb.diffusion.pipeline import encode_prompts
from fairnb.diffusion.sampling import noise, sample
from fairnb.errors import UserError
from fairnb.profiles import load_profile
from fairnb.training.alignment import AlignmentRun
from tests.conftest import build_tiny

PROMPT = "a photo of a doctor"


def prefix_on(pipe):
    """Tokens that change something."""
    prefix = PrefixTokens(pipe, 5)
    with torch.no_grad():
        prefix.parameters()[0].mul_(20)
    return prefix


def named(pipe, prompt):
    """The prompt as plain diffusers reads it, with the tokens before it."""
    return pipe.maybe_convert_prompt(f"{TOKEN} {prompt}", pipe.tokenizer)


def drawn(pipe, prompt=PROMPT):
    return sample(pipe, prompt, noise(pipe, PROMPT, [0, 1], 0), steps=3, guidance_scale=3.0)


def test_on_at_any_strength_and_off_without_a_trace(tiny_pipe):
    pipe = tiny_pipe()
    base, empty, before = drawn(pipe), encode_prompts(pipe, [""]), fingerprint(pipe.text_encoder)
    prefix = prefix_on(pipe)
    prefix.apply(pipe)
    full = drawn(pipe)
    assert not torch.allclose(full, base, atol=1e-3)
    assert torch.equal(encode_prompts(pipe, [""]), empty) and fingerprint(pipe.text_encoder) != before
    prefix.apply(pipe, 0.5)
    assert not torch.allclose(drawn(pipe), full, atol=1e-4) and not torch.allclose(drawn(pipe), base, atol=1e-4)
    prefix.apply(pipe, 1.0)
    assert torch.equal(drawn(pipe), full)
    with prefix.disabled():
        assert torch.equal(drawn(pipe), base)
    assert torch.equal(drawn(pipe), full)
    prefix.apply(pipe, 0.0)
    assert torch.equal(drawn(pipe), base) and fingerprint(pipe.text_encoder) == before


@pytest.mark.parametrize("prompt", [PROMPT, f"{PROMPT} " + "in the garden at night by the sea " * 5])
def test_plain_diffusers_reads_the_file(tiny_pipe, tmp_path, prompt):
    pipe, plain, again = tiny_pipe(), tiny_pipe(), tiny_pipe()
    prefix = prefix_on(pipe)
    prefix.save(tmp_path / "prefix.safetensors", {"updates": 3})
    prefix.apply(pipe)
    base, plain.tokenizer = drawn(plain, prompt), copy.deepcopy(plain.tokenizer)
    plain.load_textual_inversion(tmp_path, weight_name="prefix.safetensors")
    torch.testing.assert_close(drawn(plain, named(plain, prompt)), drawn(pipe, prompt))
    assert not torch.allclose(drawn(pipe, prompt), base, atol=1e-3)
    read = load_prefix(tmp_path / "prefix.safetensors", again)
    read.apply(again)
    assert read.metadata == {"updates": 3} and torch.equal(drawn(again, prompt), drawn(pipe, prompt))


def test_merged_into_tokenizer_and_text_encoder(tiny_pipe):
    pipe, other = tiny_pipe(), tiny_pipe()
    prefix, other.tokenizer = prefix_on(pipe), copy.deepcopy(other.tokenizer)
    prefix.apply(pipe)
    prefix.merge(other)
    torch.testing.assert_close(drawn(other, named(other, PROMPT)), drawn(pipe))
    with pytest.raises(UserError, match="has a token <p1> already"):
        prefix.merge(other)
    with pytest.raises(UserError, match="cannot be merged at strength 0.5"):
        prefix.merge(other, 0.5)


def test_the_loop_trains_it(mini, tmp_path, vision):
    P = load_profile("smoke", {"device": "cpu"})
    before = fingerprint(mini.text_encoder)
    prefix = PrefixTokens(mini)
    start = prefix.parameters()[0].detach().clone()
    changes = {"updates": 2, "acts_from": 0, "confidence": 0.5, "reference": "original"}
    settings = P.finetune.model_copy(update=changes)
    run = AlignmentRun(mini, prefix, vision, {"gender": [0.5, 0.5]}, settings, P.sampling, seed=0)
    history = run.train(["a photo of a pilot", "a photo of a nurse"], [], tmp_path)
    assert len(history) == 2 and history.loss.notna().all() and fingerprint(mini.text_encoder) == before
    assert not torch.allclose(load_file(tmp_path / "patch.safetensors")[TOKEN], start)


def test_what_does_not_fit_is_refused(tiny_pipe, tmp_path):
    pipe, path = tiny_pipe(), tmp_path / "prefix.safetensors"
    with pytest.raises(UserError, match="40 prefix tokens do not fit a text encoder of 32"):
        PrefixTokens(pipe, 40)
    prefix_on(pipe).save(path, {})
    with pytest.raises(UserError, match=r"holds \(5, 32\): this text encoder needs one tensor \(count, 48\)"):
        load_prefix(path, build_tiny(tmp_path, width=48))
    save_file({"a": torch.zeros(5, 32), "b": torch.zeros(5, 32)}, path)
    with pytest.raises(UserError, match="needs one tensor"):
        load_prefix(path, pipe)
    save_file({}, path)
    with pytest.raises(UserError, match="no weights in it"):
        load_prefix(path, pipe)
    path.write_bytes(b"no")
    with pytest.raises(UserError, match="cannot be read"):
        load_prefix(path, pipe)
