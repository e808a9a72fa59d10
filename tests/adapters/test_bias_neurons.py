"""Training only the chosen scalars equals a dense masked optimiser; patches apply, come off and travel."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from fairnb.adapters.bias_neurons import BiasNeurons
from fairnb.adapters.patch import load_patch
from fairnb.diffusion.fingerprint import fingerprint
from fairnb.diffusion.gradients import full_backward, trajectory
from fairnb.diffusion.sampling import noise, sample
from fairnb.errors import UserError

OPTIMIZERS = {
    "sgd": lambda weights: torch.optim.SGD(weights, lr=1e-2, momentum=0.9),
    "adam": lambda weights: torch.optim.Adam(weights, lr=1e-3),
    "adamw": lambda weights: torch.optim.AdamW(weights, lr=1e-3, weight_decay=0),
}


def some_neurons(unet, every=7):
    """Every seventh weight of four kinds of tensor."""
    names = ["conv_in.weight", "mid_block.attentions.0.proj_in.weight", "conv_norm_out.weight", "conv_out.bias"]
    sizes = {name: unet.get_parameter(name).numel() for name in names}
    return {name: torch.arange(0, size, every) for name, size in sizes.items()}


def state(pipe):
    return {name: weight.detach().clone() for name, weight in pipe.unet.named_parameters()}


def same(one, two):
    """Bitwise, the sign of zero included."""
    return all(torch.equal(one[name].view(torch.int32), two[name].view(torch.int32)) for name in one)


def backward(unet, step):
    generator = torch.Generator().manual_seed(step)
    for _ in range(2):  # two backward calls add up
        latents = torch.randn(2, 4, 8, 8, generator=generator)
        states = torch.randn(2, 5, 32, generator=generator)
        unet(latents, 500, encoder_hidden_states=states).sample.square().mean().backward()


def trained(pipe, steps=3, acts_from=0):
    adapter = BiasNeurons(pipe.unet, some_neurons(pipe.unet), acts_from)
    adapter.attach()
    optimizer = OPTIMIZERS["adam"](adapter.parameters())
    for step in range(steps):
        backward(pipe.unet, step)
        optimizer.step()
        adapter.update()
        optimizer.zero_grad()
    adapter.detach()
    return adapter


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_equals_a_dense_masked_optimizer(tiny_pipe, name):
    sparse, dense = tiny_pipe().unet, tiny_pipe().unet
    neurons = some_neurons(sparse)
    weights = {key: dense.get_parameter(key).requires_grad_() for key in neurons}
    masks = {key: torch.zeros(weight.numel()).index_fill_(0, neurons[key], 1) for key, weight in weights.items()}
    reference = OPTIMIZERS[name](weights.values())
    adapter = BiasNeurons(sparse, neurons)
    adapter.attach()
    optimizer = OPTIMIZERS[name](adapter.parameters())
    for step in range(5):
        backward(dense, step)
        for key, weight in weights.items():
            weight.grad.mul_(masks[key].view_as(weight))
        reference.step()
        reference.zero_grad()
        backward(sparse, step)
        optimizer.step()
        adapter.update()
        optimizer.zero_grad()
        for key, weight in dense.named_parameters():
            assert torch.allclose(sparse.get_parameter(key), weight, rtol=1e-5, atol=2e-7), (step, key)
    moments = [v for entry in optimizer.state.values() for v in entry.values() if torch.is_tensor(v) and v.ndim]
    assert all(len(moment) in {len(at) for at in neurons.values()} and moment.ndim == 1 for moment in moments)


def test_dense_gradients_are_dropped_and_only_touched_weights_want_one(tiny_pipe):
    unet = tiny_pipe().unet
    adapter = BiasNeurons(unet, some_neurons(unet))
    adapter.attach()
    assert sum(weight.requires_grad for weight in unet.parameters()) == 4
    backward(unet, 0)
    assert all(weight.grad is None for weight in unet.parameters())
    assert all(delta.grad.shape == delta.shape for delta in adapter.parameters())
    adapter.detach()
    assert not any(weight.requires_grad for weight in unet.parameters())


def test_disabled_and_detached_are_bitwise_the_base(tiny_pipe):
    pipe = tiny_pipe()
    base = state(pipe)
    adapter = trained(pipe)
    assert same(state(pipe), base)
    adapter.attach()
    changed = state(pipe)
    assert not same(changed, base)
    with adapter.disabled():
        assert same(state(pipe), base)
    assert same(state(pipe), changed)


def test_apply_at_any_strength_and_remove(tiny_pipe):
    pipe = tiny_pipe()
    base = state(pipe)
    with torch.no_grad():
        pipe.unet.conv_out.bias[0] = -0.0  # adding a zero change would lose the sign
    base = state(pipe)
    adapter = trained(pipe)
    adapter.apply(pipe, 1.0)
    full = state(pipe)
    adapter.apply(pipe, 1.0)
    assert same(state(pipe), full)
    adapter.apply(pipe, 0.5)
    for name, indices in some_neurons(pipe.unet).items():
        half = (base[name] + full[name]) / 2
        assert torch.allclose(pipe.unet.get_parameter(name), half, atol=1e-6)
        others = torch.ones(half.numel(), dtype=torch.bool).index_fill_(0, indices, False)
        assert torch.equal(full[name].flatten()[others], base[name].flatten()[others])
    adapter.apply(pipe, 0.0)
    assert same(state(pipe), base)
    adapter.apply(pipe, 1.0)
    assert same(state(pipe), full)
    adapter.remove(pipe)
    assert same(state(pipe), base)


def test_channels_last_weights(tiny_pipe):
    pipe, other = tiny_pipe(), tiny_pipe()
    adapter = trained(pipe)
    adapter.apply(pipe)
    other.unet.to(memory_format=torch.channels_last)
    adapter.apply(other)
    assert all(torch.equal(weight, state(pipe)[name]) for name, weight in other.unet.named_parameters())


def test_merge_makes_the_change_the_base(tiny_pipe):
    pipe = tiny_pipe()
    adapter = trained(pipe)
    adapter.apply(pipe)
    full = state(pipe)
    adapter.remove(pipe)
    adapter.merge(pipe)
    assert same(state(pipe), full)
    adapter.remove(pipe)
    assert same(state(pipe), full)


def test_late_steps_keep_the_base_weights(tiny_pipe, tmp_path):
    pipe, everywhere = tiny_pipe(), trained(tiny_pipe())
    early = trained(pipe, acts_from=500)
    early.save(tmp_path / "early.safetensors", {})
    latents, states = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 32)

    @torch.no_grad()
    def predictions():
        calls = [((latents, t), {}) for t in (499, torch.tensor(500))] + [((latents,), {"timestep": 499})]
        return [pipe.unet(*args, encoder_hidden_states=states, **kwargs).sample for args, kwargs in calls]

    base = predictions()
    everywhere.apply(pipe)
    changed, full = predictions(), state(pipe)
    everywhere.remove(pipe)
    for adapter in (early, load_patch(tmp_path / "early.safetensors", pipe)):
        adapter.apply(pipe)
        seen = predictions()
        assert torch.equal(seen[0], base[0]) and torch.equal(seen[1], changed[1]) and torch.equal(seen[2], base[2])
        with pytest.raises(RuntimeError):  # a step that fails leaves the change in place
            pipe.unet(latents, 499, encoder_hidden_states=states[..., :3])
        assert same(state(pipe), full)
        with pytest.raises(UserError, match="acts from timestep 500 on cannot be merged"):
            adapter.merge(pipe)
        adapter.remove(pipe)
        assert torch.equal(predictions()[1], base[1])
    early.attach()
    with early.disabled():
        assert all(torch.equal(one, two) for one, two in zip(predictions(), base, strict=True))
    assert torch.equal(predictions()[1], changed[1])
    early.detach()
    assert all(torch.equal(one, two) for one, two in zip(predictions(), base, strict=True))


def test_patch_file_round_trip(tiny_pipe, tmp_path):
    pipe = tiny_pipe()
    adapter = trained(pipe)
    adapter.apply(pipe)
    full = state(pipe)
    path = tmp_path / "patch.safetensors"
    record = {"attributes": ["gender"], "target": {"gender": [0.5, 0.5]}, "updates": 3}
    adapter.save(path, record)
    assert path.stat().st_size < 20_000
    assert load_file(path)["conv_in.weight.indices"].dtype == torch.int32
    fresh = tiny_pipe()
    base = state(fresh)
    loaded = load_patch(path, fresh)
    assert loaded.metadata == record and same(state(fresh), base)
    loaded.apply(fresh)
    assert same(state(fresh), full) and fingerprint(fresh.unet) == fingerprint(pipe.unet)
    loaded.remove(fresh)
    assert same(state(fresh), base)


def test_a_patch_refuses_another_model_and_damaged_files(tiny_pipe, tmp_path):
    pipe, other = tiny_pipe(), tiny_pipe()
    path = tmp_path / "patch.safetensors"
    trained(pipe).save(path, {})
    with torch.no_grad():
        other.unet.conv_in.bias[0] += 1
    with pytest.raises(UserError, match="other base weights"):
        load_patch(path, other)
    short = tmp_path / "short.safetensors"
    short.write_bytes(path.read_bytes()[:-100])
    foreign = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(1)}, foreign)
    for bad, message in ((short, "cannot be read"), (tmp_path / "none", "cannot be read"), (foreign, "no patch")):
        with pytest.raises(UserError, match=message):
            load_patch(bad, pipe)


@pytest.mark.parametrize("neurons", [{"no.such": torch.tensor([0])}, {"conv_out.bias": torch.tensor([4])}, {}])
def test_neurons_of_another_model_are_refused(tiny_pipe, neurons):
    with pytest.raises(UserError):
        BiasNeurons(tiny_pipe().unet, neurons)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_patch_fits_its_base_in_another_dtype_and_no_other_model(tiny_pipe, tmp_path, dtype):
    path = tmp_path / "patch.safetensors"
    trained(tiny_pipe()).save(path, {})
    half, other, trained_on = tiny_pipe(dtype), tiny_pipe(), tiny_pipe()
    before = state(half)
    patch = load_patch(path, half)
    patch.apply(half)
    changed = sum(not torch.equal(weight, before[name]) for name, weight in half.unet.named_parameters())
    assert changed == len(some_neurons(half.unet))
    patch.remove(half)
    assert all(torch.equal(weight, before[name]) for name, weight in half.unet.named_parameters())
    with torch.no_grad():
        for weight in other.unet.parameters():  # as near as a fine-tuned relative
            weight += 0.02 * weight.std() * torch.randn_like(weight) if weight.numel() > 1 else 0
        trained_on.unet.conv_out.weight.view(-1)[0] += 1e-3  # the same dtype: one weight is enough
    for unlike in (other.to(dtype), trained_on):
        with pytest.raises(UserError, match="other base weights"):
            load_patch(path, unlike)


def test_the_full_gradient_of_early_steps_by_finite_differences(tiny_pipe):
    pipe = tiny_pipe(torch.float64)
    adapter = BiasNeurons(pipe.unet, some_neurons(pipe.unet), acts_from=600)
    adapter.attach()
    prompt, how = "a photo of a doctor", {"steps": 4, "guidance_scale": 3.0}
    start = noise(pipe, prompt, range(2), 0).double()
    traj = trajectory(pipe, prompt, start, **how)
    first = int((traj.timesteps >= 600).sum())
    full_backward(pipe, traj, 2 * traj.final, guidance_scale=3.0, first=first, late=adapter.disabled)
    delta = adapter.parameters()[0]
    at = delta.grad.abs().argmax()
    expected = delta.grad[at].item()
    sums = []  # of a scheduler that computes in float32
    for change in (2.0**-12, -(2.0**-12)):
        delta.data[at] = change
        adapter.update()
        sums.append(sample(pipe, prompt, start, **how).square().sum().item())
    assert first == 2 and (sums[0] - sums[1]) / 2.0**-11 == pytest.approx(expected, rel=2e-3)
