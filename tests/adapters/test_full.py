"""All weights of a part: trained in float32, taken off bitwise, read from a file, refused where they do not fit."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from fairnb.adapters.full import KIND, PARTS, FullWeights
from fairnb.adapters.load import load_adapter
from fairnb.adapters.model_cards import describe
from fairnb.diffusion.fingerprint import fingerprint
from fairnb.diffusion.sampling import noise, sample
from fairnb.errors import UserError

PROMPT = "a photo of a doctor"


def drawn(pipe):
    return sample(pipe, PROMPT, noise(pipe, PROMPT, [0], 0), steps=2, guidance_scale=3.0)


def changed(pipe, parts=PARTS):
    """All weights, two of them moved."""
    full = FullWeights(pipe, parts)
    generator = torch.Generator().manual_seed(0)
    for part in parts:
        value = next(value for value in full.parameters_of(part) if value.ndim == 2)
        value.add_(0.2 * torch.randn(value.shape, generator=generator))
    return full


def test_it_starts_as_the_base_and_comes_off_bitwise(tiny_pipe):
    pipe = tiny_pipe()
    base, prints = drawn(pipe), [fingerprint(getattr(pipe, part)) for part in PARTS]
    FullWeights(pipe, PARTS).apply(pipe)
    assert torch.equal(drawn(pipe), base)
    full = changed(pipe)
    full.apply(pipe)
    whole = drawn(pipe)
    full.apply(pipe, 0.5)
    half = drawn(pipe)
    assert not torch.allclose(whole, base, atol=1e-3) and not torch.allclose(half, whole, atol=1e-4)
    with full.disabled():
        assert torch.equal(drawn(pipe), base)
    assert torch.equal(drawn(pipe), whole)
    full.remove(pipe)
    assert prints == [fingerprint(getattr(pipe, part)) for part in PARTS]
    full.merge(pipe, 0.5)
    assert torch.equal(drawn(pipe), half)
    full.apply(pipe, 0.3)
    assert torch.equal(drawn(pipe), half)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_of_every_weight_arrive_in_float32(tiny_pipe, dtype):
    pipe = tiny_pipe(dtype)
    full = FullWeights(pipe, ("unet",))
    full.attach()
    text = torch.zeros(1, 3, 32, dtype=dtype)
    how = {"timestep": torch.tensor([500]), "encoder_hidden_states": text}
    for _ in range(2):  # two passes of one update add up
        pipe.unet(torch.ones(1, 4, 8, 8, dtype=dtype), **how).sample.float().square().sum().backward()
    assert all(value.grad.dtype == torch.float32 for value in full.parameters())
    assert all(weight.grad is None for weight in pipe.unet.parameters())
    before = fingerprint(pipe.unet)
    torch.optim.SGD(full.parameters(), 1e-4).step()
    full.update()
    assert fingerprint(pipe.unet) != before
    full.detach()
    assert fingerprint(pipe.unet) == before and not any(weight.requires_grad for weight in pipe.unet.parameters())


def test_a_file_holds_what_changed_and_fits_its_base_alone(tiny_pipe, tmp_path):
    pipe, again, path = tiny_pipe(), tiny_pipe(), tmp_path / "patch.safetensors"
    full = changed(pipe)
    full.save(path, {"updates": 3})
    assert len(load_file(path)) == 2
    assert "all weights of text_encoder and unet, of which 2 tensors changed" in describe(path)
    loaded = load_adapter(path, again)
    assert loaded.metadata == {"updates": 3} and loaded.parts == PARTS
    loaded.apply(again)
    full.apply(pipe)
    assert torch.equal(drawn(again), drawn(pipe))
    with pytest.raises(UserError, match="was made for another text_encoder: load its base model"):
        load_adapter(path, again)
    for header, says in (
        ({}, "the header of .* is damaged"),
        ({"base": "[1]"}, "the header of .* is damaged"),
        ({"base": '{"scheduler": "x"}'}, "was made for another scheduler"),
        ({"base": "{}"}, "holds unet.x, which is no weight of its base model"),
    ):
        save_file({"unet.x": torch.ones(2)}, path, metadata={"kind": KIND} | header)
        with pytest.raises(UserError, match=says):
            load_adapter(path, again)
    FullWeights(tiny_pipe(), ("unet",)).save(path, {})  # a training that changed nothing leaves a file that reads
    assert load_adapter(path, tiny_pipe()).parts == ("unet",)
