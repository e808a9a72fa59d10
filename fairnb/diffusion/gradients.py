"""Carry a loss on sampled images back to the weights: full, last k steps, or adjusted.

*Full* differentiates the whole denoising chain, *last* only its last k steps (Bias Neurons, as published). *Adjusted*
is the adjusted direct fine-tuning of FFD (Shen et al., ICLR 2024): the latents that enter the U-Net are held fixed, so
the loss reaches each noise prediction only through the sampler, which is linear in it.

Full and adjusted need no graph of the chain: each recorded step takes a vector-Jacobian product of its own.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from diffusers import StableDiffusionPipeline

from fairnb.diffusion.kinds import check_adjusted
from fairnb.diffusion.sampling import fresh_scheduler, guided_embeds, predict
from fairnb.errors import UserError


@dataclass
class Trajectory:
    """The record of a sampling run, for a gradient: N images of one prompt, or each of its own.

    `timesteps` [T] (T = `steps`, or a little more for schedulers such as PNDM); `latents` and `predictions`: T tensors
    [N,4,h,w], the latents before each step and the guided prediction made from them; `final` [N,4,h,w];
    `prompt_embeds` [2,L,D], or [2,N,L,D] with a prompt for each image, empty prompt first; [1,...] without guidance.
    """

    steps: int
    prompt_embeds: torch.Tensor
    timesteps: torch.Tensor
    latents: list[torch.Tensor]
    predictions: list[torch.Tensor]
    final: torch.Tensor


def sample_with_gradient(
    pipe: StableDiffusionPipeline,
    prompt: str | Sequence[str],
    latents: torch.Tensor,
    *,
    steps: int,
    guidance_scale: float,
    last: int | None = None,
) -> torch.Tensor:
    """Like `sample`, with the autograd graph of the full chain or of its `last` steps.

    Memory grows with the number of steps in the graph. `UserError` if `last` is not from 1 to `steps`.
    """
    if last is not None and not 1 <= last <= steps:
        raise UserError(f"last = {last} steps cannot carry the gradient of {steps} steps: use 1 to {steps}")
    scheduler = fresh_scheduler(pipe, steps)
    embeds = guided_embeds(pipe, prompt, guidance_scale)
    latents = latents * scheduler.init_noise_sigma
    first = 0 if last is None else len(scheduler.timesteps) - last
    for number, timestep in enumerate(scheduler.timesteps):
        with torch.set_grad_enabled(number >= first):
            prediction = predict(pipe, scheduler.scale_model_input(latents, timestep), timestep, embeds, guidance_scale)
            latents = scheduler.step(prediction, timestep, latents).prev_sample
    return latents


def trajectory(
    pipe: StableDiffusionPipeline,
    prompt: str | Sequence[str],
    latents: torch.Tensor,
    *,
    steps: int,
    guidance_scale: float,
) -> Trajectory:
    """Like `sample`, recording the latents and prediction of every step (a few MB) for a gradient.

    It keeps no graph of the U-Net, and that of the text encoder only if one of its weights requires a gradient.
    """
    scheduler = fresh_scheduler(pipe, steps)
    embeds = guided_embeds(pipe, prompt, guidance_scale)
    latents = latents * scheduler.init_noise_sigma
    inputs, predictions = [], []
    with torch.no_grad():
        for timestep in scheduler.timesteps:
            inputs.append(latents)
            prediction = predict(pipe, scheduler.scale_model_input(latents, timestep), timestep, embeds, guidance_scale)
            predictions.append(prediction)
            latents = scheduler.step(prediction, timestep, latents).prev_sample
    return Trajectory(steps, embeds, scheduler.timesteps, inputs, predictions, latents)


def adjusted_backward(
    pipe: StableDiffusionPipeline,
    traj: Trajectory,
    grad_final: torch.Tensor,
    *,
    guidance_scale: float,
    steps_used: int | None = None,
    first: int | None = None,
    generator: torch.Generator | None = None,
    part: int | None = None,
) -> None:
    """Add the adjusted gradient of a loss to `.grad` of every U-Net (and text encoder) weight that requires it.

    `grad_final` [N,4,h,w] is dL/d(final latents). Replaying the sampler over the recorded predictions as leaves gives
    dL/d(prediction) of every step; scaled by FFD's c_t, each needs one vector-Jacobian product of the U-Net at the
    recorded latents. So memory does not grow with the number of steps (a graph holds one step of `part` images), and
    `steps_used` random steps, weighted by T / steps_used, give an unbiased estimate. With `first`, only that many steps
    from the start count, those with the most noise, and T is their number. Call it once per trajectory, since it frees
    the graph of the text encoder. `UserError` for a scheduler that FFD's factors do not fit.
    """
    check_adjusted(pipe.scheduler)
    count = len(traj.timesteps) if first is None else min(first, len(traj.timesteps))
    if steps_used is not None and not 1 <= steps_used <= count:
        raise UserError(f"gradient_steps = {steps_used} cannot be drawn from {count} steps: use 1 to {count}")
    chosen = range(count)
    weight = 1.0
    if steps_used is not None and steps_used < count:
        chosen = sorted(torch.randperm(count, generator=generator)[:steps_used].tolist())
        weight = count / steps_used
    inputs, vectors = _replay(pipe, traj, grad_final)
    scales = adjustment(pipe, traj.timesteps) * weight
    embeds = traj.prompt_embeds.detach().requires_grad_(traj.prompt_embeds.requires_grad)
    size = len(grad_final) if part is None else part
    for step in chosen:
        vector = vectors[step] * scales[step].to(vectors[step])
        for start in range(0, len(vector), size):
            rows = slice(start, start + size)
            with torch.enable_grad():
                each = embeds if embeds.ndim == 3 else embeds[:, rows]
                prediction = predict(pipe, inputs[step][rows], traj.timesteps[step], each, guidance_scale)
            prediction.backward(vector[rows])
    if embeds.requires_grad:
        traj.prompt_embeds.backward(embeds.grad)


def full_backward(
    pipe: StableDiffusionPipeline,
    traj: Trajectory,
    grad_final: torch.Tensor,
    *,
    guidance_scale: float,
    first: int | None = None,
    late: Callable[[], AbstractContextManager] = nullcontext,
    part: int | None = None,
) -> None:
    """Add the gradient of a loss through the whole chain to `.grad` of every U-Net (and text encoder) weight that
    requires it.

    It equals that of `sample_with_gradient` in the memory of `adjusted_backward`, by the adjoint method: from the last
    step to the first, one vector-Jacobian product of the U-Net at the recorded latents gives the gradient of the
    weights and of the latents, which earlier predictions reach through the sampler. With `first`, the weights count in
    that many steps from the start, and the later ones, which only pass the gradient on, run in the context `late`.
    """
    count = len(traj.timesteps) if first is None else min(first, len(traj.timesteps))
    leaves, inputs, final = _chain(traj, fresh_scheduler(pipe, traj.steps))
    embeds = traj.prompt_embeds.detach().requires_grad_(traj.prompt_embeds.requires_grad)
    size = len(grad_final) if part is None else part
    reached, gradients = [final], [grad_final]
    for step in reversed(range(len(leaves))):
        (vector,) = torch.autograd.grad(reached, leaves[step], gradients, retain_graph=True)
        found = []
        for start in range(0, len(vector), size):
            rows = slice(start, start + size)
            x = inputs[step][rows].detach().requires_grad_()
            each = embeds if embeds.ndim == 3 else embeds[:, rows]
            with torch.enable_grad(), nullcontext() if step < count else late():
                prediction = predict(pipe, x, traj.timesteps[step], each, guidance_scale)
                if step < count:
                    prediction.backward(vector[rows])
                    found.append(x.grad)
                else:
                    found += torch.autograd.grad(prediction, x, vector[rows])
        if step:
            reached.append(inputs[step])
            gradients.append(torch.cat(found))
    if embeds.requires_grad:
        traj.prompt_embeds.backward(embeds.grad)


def adjustment(pipe: StableDiffusionPipeline, timesteps: torch.Tensor) -> torch.Tensor:
    """FFD's factors c_t = sqrt(abar_t) sqrt(1 - abar_t) / (1 - alpha_t), divided by their geometric mean; [T], float64.

    They cancel the sampler's weights of the noise predictions, with which a few steps would dominate.
    """
    index = timesteps.long().cpu()
    abar = pipe.scheduler.alphas_cumprod.double().cpu()[index]
    beta = 1 - pipe.scheduler.alphas.double().cpu()[index]
    log = 0.5 * abar.log() + 0.5 * (1 - abar).log() - beta.log()
    return (log - log.mean()).exp()


def _replay(
    pipe: StableDiffusionPipeline, traj: Trajectory, grad_final: torch.Tensor
) -> tuple[list[torch.Tensor], tuple[torch.Tensor, ...]]:
    """The U-Net's input at every step, and dL/d(prediction) of every step through the sampler.

    A v-prediction gives the noise eps = sqrt(abar) v + sqrt(1 - abar) x at the fixed input x of the U-Net, so that
    dL/dv = sqrt(abar) dL/deps. The sampler is linear, so dL/deps does not depend on the values that are replayed.
    """
    scheduler = fresh_scheduler(pipe, traj.steps)
    velocity = scheduler.config.prediction_type == "v_prediction"
    scheduler.register_to_config(prediction_type="epsilon")
    leaves, inputs, final = _chain(traj, scheduler)
    vectors = torch.autograd.grad(final, leaves, grad_final)
    if velocity:
        roots = scheduler.alphas_cumprod.cpu()[traj.timesteps.long().cpu()].sqrt().tolist()
        vectors = tuple(root * vector for root, vector in zip(roots, vectors, strict=True))
    return [entered.detach() for entered in inputs], vectors


def _chain(traj: Trajectory, scheduler) -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
    """Replay the sampler over the recorded predictions as leaves: the leaves, the U-Net's input at every step, and the
    final latents, with the graph from the leaves to both. The inputs have the recorded values."""
    leaves = [prediction.detach().requires_grad_() for prediction in traj.predictions]
    latents, inputs = traj.latents[0], []
    with torch.enable_grad():
        for stored, leaf, timestep in zip(traj.latents, leaves, traj.timesteps, strict=True):
            inputs.append(scheduler.scale_model_input(stored + (latents - latents.detach()), timestep))
            latents = scheduler.step(leaf, timestep, latents).prev_sample
    return leaves, inputs, latents
