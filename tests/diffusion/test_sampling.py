"""Sampling equals the pipeline; the three gradients equal autograd."""

import copy
from contextlib import contextmanager, nullcontext

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

from fairnb.bench.published import literal_adjusted
from fairnb.diffusion.gradients import (
    Trajectory,
    _replay,
    adjusted_backward,
    adjustment,
    full_backward,
    sample_with_gradient,
    trajectory,
)
from fairnb.diffusion.sampling import decode, fresh_scheduler, guided_embeds, noise, predict, sample
from fairnb.errors import UserError

PROMPT = "a photo of a doctor"
SCHEDULERS = {
    "dpm": (DPMSolverMultistepScheduler, {}),
    "dpm-v": (DPMSolverMultistepScheduler, {"prediction_type": "v_prediction"}),
    "ddim": (DDIMScheduler, {"clip_sample": False, "set_alpha_to_one": False}),
    "pndm": (PNDMScheduler, {"skip_prk_steps": True}),
    "euler": (EulerDiscreteScheduler, {}),
}
MORE = {
    "deis": (DEISMultistepScheduler, {}),
    "lms": (LMSDiscreteScheduler, {}),
    "unipc": (UniPCMultistepScheduler, {}),
    "ddim-v": (DDIMScheduler, {"clip_sample": False, "prediction_type": "v_prediction"}),
    "ddim-trailing": (DDIMScheduler, {"clip_sample": False, "timestep_spacing": "trailing"}),
}


def prepared(tiny_pipe, scheduler="dpm", dtype=torch.float64):
    pipe = tiny_pipe(dtype)
    kind, options = (SCHEDULERS | MORE | {"heun": (HeunDiscreteScheduler, {})})[scheduler]
    pipe.scheduler = kind.from_config(pipe.scheduler.config, **options)
    return pipe, noise(pipe, PROMPT, range(3), seed=0).to(dtype)


def grad_final(latents, pipe):
    """dL/d(final latents) of a loss on the decoded image."""
    latents = latents.detach().requires_grad_()
    decode(pipe, latents).square().mean().backward()
    return latents.grad


def unet_gradient(pipe):
    gradient = torch.cat([weight.grad.flatten() for weight in pipe.unet.parameters()])
    pipe.unet.zero_grad()
    return gradient


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


def test_noise_depends_on_seed_prompt_and_image_alone(tiny_pipe):
    pipe = tiny_pipe()
    together = noise(pipe, PROMPT, range(4), seed=1)
    assert together.shape == (4, 4, 8, 8) and together.dtype == torch.float32
    assert torch.equal(noise(pipe, PROMPT, [2], seed=1)[0], together[2])
    assert not torch.equal(noise(pipe, PROMPT, [2], seed=2)[0], together[2])
    assert not torch.equal(noise(pipe, "a photo of a nurse", [2], seed=1)[0], together[2])
    assert together[0, 0, 0, 0].item() == pytest.approx(-0.12703757)  # the same on every machine


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("guidance_scale", [3.0, 1.0])
def test_sample_equals_the_pipeline(tiny_pipe, scheduler, guidance_scale):
    pipe, latents = prepared(tiny_pipe, scheduler, torch.float32)
    expected = pipe(
        PROMPT,
        latents=latents,
        num_images_per_prompt=3,
        num_inference_steps=6,
        guidance_scale=guidance_scale,
        output_type="latent",
    ).images
    assert torch.allclose(sample(pipe, PROMPT, latents, steps=6, guidance_scale=guidance_scale), expected, atol=1e-5)
    traj = trajectory(pipe, PROMPT, latents, steps=6, guidance_scale=guidance_scale)
    assert torch.allclose(traj.final, expected, atol=1e-5)
    assert len(traj.latents) == len(traj.predictions) == len(traj.timesteps)


def test_a_negative_prompt_is_the_pipelines(tiny_pipe):
    pipe, latents = prepared(tiny_pipe, dtype=torch.float32)
    how = {"latents": latents, "num_images_per_prompt": 3, "num_inference_steps": 3, "guidance_scale": 3.0}
    expected = pipe(PROMPT, negative_prompt="a tree at night", output_type="latent", **how).images
    own = {"steps": 3, "guidance_scale": 3.0, "negative": "a tree at night"}
    assert torch.allclose(sample(pipe, PROMPT, latents, **own), expected, atol=1e-5)
    assert torch.allclose(sample(pipe, [PROMPT] * 3, latents, **own), expected, atol=1e-5)
    assert (sample(pipe, PROMPT, latents, **own | {"negative": ""}) - expected).abs().max() > 1e-3


def test_sample_leaves_the_pipelines_scheduler_alone(tiny_pipe):
    pipe, latents = prepared(tiny_pipe)
    first = sample(pipe, PROMPT, latents, steps=3, guidance_scale=3.0)
    assert pipe.scheduler.num_inference_steps is None
    assert torch.equal(sample(pipe, PROMPT, latents, steps=3, guidance_scale=3.0), first)


def test_decode_is_differentiable_and_in_range(tiny_pipe):
    pipe, latents = prepared(tiny_pipe, dtype=torch.float32)
    latents.requires_grad_()
    images = decode(pipe, latents)
    assert images.shape == (3, 3, 32, 32) and images.abs().max() <= 1
    images.sum().backward()
    assert latents.grad.abs().sum() > 0


@pytest.mark.parametrize("scheduler", SCHEDULERS | MORE)
def test_adjusted_equals_plain_autograd(tiny_pipe, scheduler):
    pipe, latents = prepared(tiny_pipe, scheduler)
    pipe.unet.requires_grad_()
    final = literal_adjusted(pipe, PROMPT, latents, steps=5, guidance_scale=3.0)
    vector = grad_final(final, pipe)
    final.backward(vector)
    expected = unet_gradient(pipe)

    traj = trajectory(pipe, PROMPT, latents, steps=5, guidance_scale=3.0)
    torch.testing.assert_close(traj.final, final, atol=1e-4, rtol=1e-4)
    adjusted_backward(pipe, traj, vector, guidance_scale=3.0)
    assert relative(unet_gradient(pipe), expected) < 1e-5
    adjusted_backward(pipe, traj, vector, guidance_scale=3.0, part=2)
    assert relative(unet_gradient(pipe), expected) < 1e-5


def test_adjusted_gradient_of_images_with_their_own_prompts_is_the_sum_of_each_alone(tiny_pipe):
    pipe, latents = prepared(tiny_pipe)
    pipe.unet.requires_grad_()
    pipe.text_encoder.requires_grad_()
    weight = next(weight for name, weight in pipe.text_encoder.named_parameters() if name.endswith("q_proj.weight"))
    prompts, how = [PROMPT, "a photo of an old nurse", PROMPT], {"guidance_scale": 3.0}
    expected, text = 0, 0
    for row, prompt in enumerate(prompts):
        traj = trajectory(pipe, prompt, latents[[row]], steps=3, **how)
        adjusted_backward(pipe, traj, torch.ones_like(traj.final), **how)
        expected, text = expected + unet_gradient(pipe), text + weight.grad
        weight.grad = None
    traj = trajectory(pipe, prompts, latents, steps=3, **how)
    adjusted_backward(pipe, traj, torch.ones_like(traj.final), part=2, **how)
    assert relative(unet_gradient(pipe), expected) < 1e-5 and relative(weight.grad, text) < 1e-5


def test_adjustment_has_geometric_mean_one_and_follows_ffd(tiny_pipe):
    pipe = tiny_pipe()
    timesteps = torch.tensor([999, 500, 50])
    scales = adjustment(pipe, timesteps)
    assert scales.log().mean().abs() < 1e-12
    abar, alpha = pipe.scheduler.alphas_cumprod[timesteps], pipe.scheduler.alphas[timesteps]
    published = abar.sqrt() * (1 - abar).sqrt() / (1 - alpha)
    assert torch.allclose((scales / scales[0]).float(), published / published[0], rtol=1e-3)


@pytest.mark.parametrize("scheduler", SCHEDULERS | MORE)
def test_adjustment_balances_the_predictions_of_the_schedulers_it_is_for(tiny_pipe, scheduler):
    """The scheduler's own weight of each prediction times c_t is within a factor of 5, but for first and last steps."""
    pipe, latents = prepared(tiny_pipe, scheduler)
    traj = trajectory(pipe, PROMPT, latents, steps=12, guidance_scale=3.0)
    _, vectors = _replay(pipe, traj, torch.ones_like(traj.final))
    weights = torch.stack([vector.abs().mean() for vector in vectors])
    if scheduler.endswith("-v"):  # those of the noise
        weights = weights / pipe.scheduler.alphas_cumprod[traj.timesteps].sqrt()
    balanced = (weights * adjustment(pipe, traj.timesteps))[1:-2]
    assert balanced.max() / balanced.min() < 5


def test_random_subset_of_steps_is_unbiased(tiny_pipe):
    pipe, latents = prepared(tiny_pipe)
    pipe.unet.requires_grad_()
    traj = trajectory(pipe, PROMPT, latents, steps=4, guidance_scale=3.0)
    vector = grad_final(traj.final, pipe)
    adjusted_backward(pipe, traj, vector, guidance_scale=3.0)
    full = unet_gradient(pipe)
    singles = {}
    for seed in range(64):
        step = torch.randperm(4, generator=torch.Generator().manual_seed(seed))[0].item()
        if step not in singles:
            generator = torch.Generator().manual_seed(seed)
            adjusted_backward(pipe, traj, vector, guidance_scale=3.0, steps_used=1, generator=generator)
            singles[step] = unet_gradient(pipe)
    assert sorted(singles) == [0, 1, 2, 3]
    assert relative(sum(singles.values()) / 4, full) < 1e-12
    weights = {step: gradient / 4 for step, gradient in singles.items()}
    adjusted_backward(pipe, traj, vector, guidance_scale=3.0, first=2)
    assert relative(unet_gradient(pipe), weights[0] + weights[1]) < 1e-12


def test_memory_does_not_grow_with_the_steps(tiny_pipe):
    pipe, latents = prepared(tiny_pipe, dtype=torch.float32)
    pipe.unet.requires_grad_()

    def peak(steps, run):
        live, most = 0, 0

        def pack(tensor):
            nonlocal live, most
            size = tensor.nbytes
            live += size
            most = max(most, live)
            return Held(tensor, size)

        class Held:
            def __init__(self, tensor, size):
                self.tensor, self.size = tensor, size

            def __del__(self):
                nonlocal live
                live -= self.size

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda held: held.tensor):
            run(steps)
        pipe.unet.zero_grad()
        return most

    def adjusted(steps):
        traj = trajectory(pipe, PROMPT, latents, steps=steps, guidance_scale=3.0)
        adjusted_backward(pipe, traj, torch.ones_like(traj.final), guidance_scale=3.0)

    def full(steps):
        traj = trajectory(pipe, PROMPT, latents, steps=steps, guidance_scale=3.0)
        full_backward(pipe, traj, torch.ones_like(traj.final), guidance_scale=3.0)

    def graph(steps):
        sample_with_gradient(pipe, PROMPT, latents, steps=steps, guidance_scale=3.0).sum().backward()

    assert peak(8, adjusted) == pytest.approx(peak(2, adjusted), rel=0.02)
    assert peak(8, full) == pytest.approx(peak(2, full), rel=0.05)
    assert peak(8, graph) > 3.5 * peak(2, graph)


@pytest.mark.parametrize("scheduler", [*SCHEDULERS, *MORE, "heun"])
def test_full_equals_the_graph_of_the_whole_chain(tiny_pipe, scheduler):
    pipe, latents = prepared(tiny_pipe, scheduler)
    pipe.unet.requires_grad_()
    text = next(weight for name, weight in pipe.text_encoder.named_parameters() if name.endswith("q_proj.weight"))
    text.requires_grad_()
    prompts, how = [PROMPT, "a photo of an old nurse", PROMPT], {"steps": 4, "guidance_scale": 3.0}
    final = sample_with_gradient(pipe, prompts, latents, **how)
    final.backward(grad_final(final, pipe))
    expected, of_text, text.grad = unet_gradient(pipe), text.grad, None
    traj = trajectory(pipe, prompts, latents, **how)
    full_backward(pipe, traj, grad_final(traj.final, pipe), guidance_scale=3.0, part=2)
    assert relative(unet_gradient(pipe), expected) < 1e-9
    assert of_text.abs().sum() > 0 and relative(text.grad, of_text) < 1e-9


def test_full_gradient_of_weights_that_change_early_steps_alone(tiny_pipe):
    """Two U-Nets in turn, as an adapter with `acts_from` makes them of one: only the first one's gradient counts."""
    pipe, latents = prepared(tiny_pipe)
    base = copy.deepcopy(pipe.unet).requires_grad_(False)
    with torch.no_grad():
        for weight in pipe.unet.parameters():
            weight.add_(0.02 * torch.ones_like(weight))
    changed = pipe.unet.requires_grad_()

    @contextmanager
    def late():
        pipe.unet = base
        yield
        pipe.unet = changed

    scheduler, embeds, x = fresh_scheduler(pipe, 4), guided_embeds(pipe, PROMPT, 3.0), latents
    entered, predictions = [], []
    for number, step in enumerate(scheduler.timesteps):
        entered.append(x)
        with late() if number >= 2 else nullcontext():
            predictions.append(predict(pipe, scheduler.scale_model_input(x, step), step, embeds, 3.0))
        x = scheduler.step(predictions[-1], step, x).prev_sample
    x.square().sum().backward()
    expected = unet_gradient(pipe)
    detached = [[tensor.detach() for tensor in of] for of in (entered, predictions)]
    traj = Trajectory(4, embeds, scheduler.timesteps, *detached, x.detach())
    full_backward(pipe, traj, 2 * traj.final, guidance_scale=3.0, first=2, late=late)
    assert relative(unet_gradient(pipe), expected) < 1e-9
    full_backward(pipe, traj, 2 * traj.final, guidance_scale=3.0, late=late)
    assert relative(unet_gradient(pipe), expected) > 1e-3


def test_last_steps(tiny_pipe):
    pipe, latents = prepared(tiny_pipe)
    pipe.unet.requires_grad_()
    gradients = {}
    for last in (None, 4, 1):
        final = sample_with_gradient(pipe, PROMPT, latents, steps=4, guidance_scale=3.0, last=last)
        assert torch.allclose(final, sample(pipe, PROMPT, latents, steps=4, guidance_scale=3.0))
        final.square().mean().backward()
        gradients[last] = unet_gradient(pipe)
    assert torch.equal(gradients[4], gradients[None])
    assert relative(gradients[1], gradients[None]) > 1e-3


def test_full_gradient_by_finite_differences(tiny_pipe):
    pipe, latents = prepared(tiny_pipe, "ddim")
    weight = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_v.weight.requires_grad_()

    def loss():
        return sample_with_gradient(pipe, PROMPT, latents, steps=4, guidance_scale=3.0).square().mean()

    loss().backward()
    index = weight.grad.abs().flatten().argmax()
    step = 1e-5
    with torch.no_grad():
        values = weight.data.view(-1)
        values[index] += step
        above = loss()
        values[index] -= 2 * step
        below = loss()
    assert ((above - below) / (2 * step)).item() == pytest.approx(weight.grad.flatten()[index].item(), rel=1e-5)


def test_adjusted_gradient_reaches_the_text_encoder(tiny_pipe):
    pipe, latents = prepared(tiny_pipe)
    weight = next(weight for name, weight in pipe.text_encoder.named_parameters() if name.endswith("q_proj.weight"))
    weight.requires_grad_()
    final = literal_adjusted(pipe, PROMPT, latents, steps=3, guidance_scale=3.0)
    final.sum().backward()
    expected, weight.grad = weight.grad, None
    traj = trajectory(pipe, PROMPT, latents, steps=3, guidance_scale=3.0)
    adjusted_backward(pipe, traj, torch.ones_like(traj.final), guidance_scale=3.0)
    assert expected.abs().sum() > 0 and relative(weight.grad, expected) < 1e-5


@pytest.mark.parametrize("wrong", [0, 4])
def test_impossible_numbers_of_steps_are_refused(tiny_pipe, wrong):
    pipe, latents = prepared(tiny_pipe)
    with pytest.raises(UserError, match=f"last = {wrong}"):
        sample_with_gradient(pipe, PROMPT, latents, steps=3, guidance_scale=3.0, last=wrong)
    traj = trajectory(pipe, PROMPT, latents, steps=3, guidance_scale=3.0)
    with pytest.raises(UserError, match=f"gradient_steps = {wrong}"):
        adjusted_backward(pipe, traj, traj.final, guidance_scale=3.0, steps_used=wrong)


def test_each_image_may_have_its_own_prompt(tiny_pipe):
    pipe = tiny_pipe()
    prompts = ["a photo of a doctor", "a photo of an old nurse", "a photo of a doctor"]
    start = noise(pipe, "anything", range(3), 0)
    for guidance_scale in (3.0, 1.0):
        both = sample(pipe, prompts, start, steps=3, guidance_scale=guidance_scale)
        for row, prompt in enumerate(prompts):
            alone = sample(pipe, prompt, start[[row]], steps=3, guidance_scale=guidance_scale)
            torch.testing.assert_close(both[[row]], alone, atol=1e-4, rtol=1e-4)
