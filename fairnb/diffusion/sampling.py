"""Sample images without gradient: initial noise, the denoising loop, decoding."""

import copy
from collections.abc import Sequence

import torch
from diffusers import StableDiffusionPipeline

from fairnb.diffusion.kinds import check_scheduler
from fairnb.diffusion.pipeline import encode_prompts
from fairnb.errors import UserError
from fairnb.seeds import stable_seed


def noise(pipe: StableDiffusionPipeline, prompt: str, indices: Sequence[int], seed: int) -> torch.Tensor:
    """Initial noise [N,4,h,w] of the images `indices` of a prompt, float32 on the pipeline's device.

    Each image has its own CPU generator, so its noise is the same for every machine, batch size and process count.
    """
    size = pipe.unet.config.sample_size
    shape = (pipe.unet.config.in_channels, *((size, size) if isinstance(size, int) else size))
    images = []
    for index in indices:
        generator = torch.Generator().manual_seed(stable_seed(seed, prompt, index, bits=64))
        images.append(torch.randn(shape, generator=generator))
    return torch.stack(images).to(pipe.device)


@torch.no_grad()
def sample(
    pipe: StableDiffusionPipeline,
    prompt: str | Sequence[str],
    latents: torch.Tensor,
    *,
    steps: int,
    guidance_scale: float,
    negative: str = "",
) -> torch.Tensor:
    """Final latents [N,4,h,w] from the noise `latents`, without gradient: those of the pipeline with `latents=`.

    `prompt`: one for all images, or one for each. `negative`: the negative prompt.
    """
    scheduler = fresh_scheduler(pipe, steps)
    embeds = guided_embeds(pipe, prompt, guidance_scale, negative)
    latents = latents * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        prediction = predict(pipe, scheduler.scale_model_input(latents, timestep), timestep, embeds, guidance_scale)
        latents = scheduler.step(prediction, timestep, latents).prev_sample
    return latents


@torch.no_grad()
def draw(
    pipe: StableDiffusionPipeline,
    prompt: str,
    indices: Sequence[int],
    seed: int,
    *,
    steps: int,
    guidance_scale: float,
    batch: int,
) -> torch.Tensor:
    """Images [N,3,H,W] in [-1, 1] of a prompt from its noises `indices`, `batch` at a time."""
    drawn = []
    for part in noise(pipe, prompt, indices, seed).split(batch):
        drawn.append(decode(pipe, sample(pipe, prompt, part, steps=steps, guidance_scale=guidance_scale)))
    return torch.cat(drawn)


def decode(pipe: StableDiffusionPipeline, latents: torch.Tensor) -> torch.Tensor:
    """Images [N,3,H,W] in [-1, 1] of final latents; differentiable. `UserError` if a number is infinite or none."""
    latents = latents.to(pipe.vae.dtype) / pipe.vae.config.scaling_factor
    images = pipe.vae.decode(latents).sample.float()
    if not images.isfinite().all():
        raise UserError(
            f"the images have pixels that are no numbers: {pipe.unet.dtype} overflows (use float32 or bfloat16), the "
            "scheduler's settings diverge, or weights were trained at too high a learning rate"
        )
    return images.clamp(-1, 1)


def fresh_scheduler(pipe: StableDiffusionPipeline, steps: int):
    """A copy of the pipeline's scheduler, set to `steps`; multistep schedulers keep state between steps.

    `UserError` for a scheduler that is not accepted, and for a number of steps that it cannot do.
    """
    check_scheduler(pipe.scheduler)
    scheduler = copy.deepcopy(pipe.scheduler)
    try:
        scheduler.set_timesteps(steps, device=pipe.device)
    except (ValueError, IndexError) as error:
        raise UserError(
            f"{type(scheduler).__name__} cannot sample in {steps} steps ({error}): choose another number"
        ) from error
    return scheduler


def predict(
    pipe: StableDiffusionPipeline,
    latents: torch.Tensor,
    timestep: torch.Tensor,
    embeds: torch.Tensor,
    guidance_scale: float,
) -> torch.Tensor:
    """Prediction [N,4,h,w] at `latents` with classifier-free guidance, in one call of the U-Net.

    `embeds` [2,L,D] holds the empty prompt and the prompt, or [1,L,D] the prompt alone (no guidance); with a prompt for
    each image it is [2,N,L,D] or [1,N,L,D].
    """
    halves = len(embeds)
    each = embeds if embeds.ndim == 4 else embeds[:, None].expand(-1, len(latents), -1, -1)
    states = each.flatten(0, 1).to(pipe.unet.dtype)
    inputs = torch.cat([latents] * halves).to(pipe.unet.dtype)
    output = pipe.unet(inputs, timestep, encoder_hidden_states=states).sample.to(latents.dtype)
    if halves == 1:
        return output
    empty, text = output.chunk(2)
    return empty + guidance_scale * (text - empty)


def guided_embeds(
    pipe: StableDiffusionPipeline, prompt: str | Sequence[str], guidance_scale: float, negative: str = ""
) -> torch.Tensor:
    """Prompt embeddings [2,L,D], or [1,L,D] for a guidance scale <= 1, which disables guidance as in diffusers.

    N prompts give [.,N,L,D]. The first half is that of the empty prompt, or of a `negative` one in its place. The graph
    is kept only if a weight of the text encoder requires a gradient.
    """
    wanted = torch.is_grad_enabled() and any(weight.requires_grad for weight in pipe.text_encoder.parameters())
    with torch.set_grad_enabled(wanted):
        if isinstance(prompt, str):
            return encode_prompts(pipe, [negative, prompt] if guidance_scale > 1 else [prompt])
        each = encode_prompts(pipe, list(prompt))
        return torch.stack([encode_prompts(pipe, [negative]).expand_as(each), each] if guidance_scale > 1 else [each])
