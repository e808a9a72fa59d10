"""The published procedures, word for word, as references for tests and the benchmark."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from fairnb.diffusion.gradients import adjustment
from fairnb.diffusion.pipeline import encode_prompts
from fairnb.diffusion.sampling import fresh_scheduler, guided_embeds, noise, predict
from fairnb.prompts.attributes import Attribute
from fairnb.training.alignment import AlignmentRun
from fairnb.training.locate import FAMILIES, LOCATE_STEPS, contrast_pairs


def literal_adjusted(
    pipe: StableDiffusionPipeline, prompt: str | list[str], latents: torch.Tensor, *, steps: int, guidance_scale: float
) -> torch.Tensor:
    """Final latents whose autograd graph contains FFD's adjusted gradient, implemented literally.

    The latents entering the U-Net are detached, and a hook scales the gradient of each prediction; every step stays in
    memory until `backward`.
    """
    scheduler = fresh_scheduler(pipe, steps)
    velocity = scheduler.config.prediction_type == "v_prediction"
    scheduler.register_to_config(prediction_type="epsilon")
    scales = adjustment(pipe, scheduler.timesteps)
    embeds = guided_embeds(pipe, prompt, guidance_scale)
    latents = latents * scheduler.init_noise_sigma
    for scale, timestep in zip(scales, scheduler.timesteps, strict=True):
        inputs = scheduler.scale_model_input(latents.detach(), timestep)
        prediction = predict(pipe, inputs, timestep, embeds, guidance_scale)
        if velocity:  # the noise that it stands for
            abar = scheduler.alphas_cumprod[timestep.long()].item()
            prediction = abar**0.5 * prediction + (1 - abar) ** 0.5 * inputs
        prediction.register_hook(lambda gradient, scale=scale: gradient * scale.to(gradient))
        latents = scheduler.step(prediction, timestep, latents).prev_sample
    return latents


def literal_locate(
    pipe: StableDiffusionPipeline,
    attribute: Attribute,
    occupations: Sequence[str],
    folder: Path,
    *,
    k: int,
    frequency: float,
    timestep: int,
    contents: Sequence[str],
    contexts: Sequence[str],
    seed: int,
) -> set[int]:
    """Bias neurons as flat indices, by the published procedure implemented literally (Bias Neurons).

    For every pair it loops over 20 steps at guidance scale 7.5 with latents that never advance, and computes a gradient
    in each step, of which it keeps the one at `timestep`. The indices of a pair go to a file in `folder` (int64: 235 GB
    for 980 occupations at k = 10^7) and are read back to be counted.
    """
    weights = list(pipe.unet.requires_grad_().parameters())
    total = sum(weight.numel() for weight in weights)
    scheduler = fresh_scheduler(pipe, LOCATE_STEPS)
    latents = noise(pipe, "", [0], seed).to(pipe.unet.dtype) * scheduler.init_noise_sigma
    pairs = contrast_pairs(attribute, occupations, contents, contexts, seed)
    wanted = scheduler.timesteps[(scheduler.timesteps - timestep).abs().argmin()]
    for pair in pairs.itertuples():
        with torch.no_grad():
            left, right = (encode_prompts(pipe, ["", prompt]) for prompt in (pair.left, pair.right))
        for step in scheduler.timesteps:
            inputs = scheduler.scale_model_input(latents, step)
            loss = (predict(pipe, inputs, step, left, 7.5) - predict(pipe, inputs, step, right, 7.5)).abs().sum()
            gradient = torch.cat([part.abs().flatten() for part in torch.autograd.grad(loss, weights)])
            if step == wanted:
                np.save(folder / f"{pair.family}_{pair.occupation}.npy", gradient.topk(k).indices.cpu().numpy())
    kept = {}
    for family in FAMILIES:
        counts = np.zeros(total, dtype=np.int64)
        for occupation in occupations:
            counts[np.load(folder / f"{family}_{occupation}.npy")] += 1
        kept[family] = set(np.flatnonzero(counts > frequency * len(occupations)).tolist())
    pipe.unet.requires_grad_(False)
    return (kept["bias"] & kept["have_bias"]) - kept["no_bias"]


class Published(AlignmentRun):
    """An alignment run with FFD's gradient as published: all steps in one graph, by autograd with checkpointing."""

    def differentiable(self, prompt: str, prompts: str | list[str], indices: list[int], number: int):
        """Final latents as a leaf, and the backward pass through the whole graph."""
        start = noise(self.pipe, prompt, indices, self.seed)
        how = {"steps": self.steps(number), "guidance_scale": self.sampling.guidance_scale}
        final = literal_adjusted(self.pipe, prompts, start, **how)
        return final.detach().requires_grad_(), final.backward
