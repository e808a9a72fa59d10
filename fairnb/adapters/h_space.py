"""h-space, the output of the U-Net's mid block: watch it, act on it, reach it by DDIM inversion."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from diffusers import DDIMInverseScheduler, StableDiffusionPipeline
from torch.utils.hooks import RemovableHandle

from fairnb.diffusion.pipeline import encode_prompts

# What a scheduler's config says of the noise the model was trained with.
NOISE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type")


@dataclass
class UNetCall:
    """A call of the U-Net: its timestep, and which rows of its batch hold the prompt (with classifier-free guidance the
    others hold the empty one)."""

    timestep: float = 0.0
    prompt: slice = field(default_factory=lambda: slice(None))


def on_h(pipe: StableDiffusionPipeline, act: Callable) -> list[RemovableHandle]:
    """Hooks that call `act(h, call)` after the mid block; what it returns, if anything, takes the place of h."""
    call = UNetCall()

    def note(module, inputs, values):
        latents = inputs[0] if inputs else values["sample"]
        timestep = inputs[1] if len(inputs) > 1 else values["timestep"]
        call.timestep = float(timestep.flatten()[0] if isinstance(timestep, torch.Tensor) else timestep)
        # With classifier-free guidance the same latents stand twice, first for the empty prompt.
        half = len(latents) // 2
        twice = half and len(latents) % 2 == 0 and torch.equal(latents[:half], latents[half:])
        call.prompt = slice(half, None) if twice else slice(None)

    first = pipe.unet.register_forward_pre_hook(note, with_kwargs=True)
    second = pipe.unet.mid_block.register_forward_hook(lambda module, inputs, output: act(output, call))
    return [first, second]


@contextmanager
def recording_h(pipe: StableDiffusionPipeline) -> Iterator[dict[int, torch.Tensor]]:
    """A dict that fills, while the pipeline draws, with h of each timestep: float16 [N, D], that of the prompt where
    the empty prompt is computed beside it. Batches drawn one after the other are set side by side."""
    seen: dict[int, torch.Tensor] = {}

    def keep(output: torch.Tensor, call: UNetCall) -> None:
        h, at = output[call.prompt].detach().flatten(1).half().cpu(), round(call.timestep)
        seen[at] = torch.cat([seen[at], h]) if at in seen else h

    hooks = on_h(pipe, keep)
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def invert(pipe: StableDiffusionPipeline, images: torch.Tensor, prompt: str, steps: int) -> torch.Tensor:
    """Noise [N, C, h, w] from which the pipeline would draw the pictures [N, 3, H, W] in [-1, 1]: DDIM backwards,
    without guidance. `watching` it gathers h of pictures that no model drew."""
    config = {name: pipe.scheduler.config[name] for name in NOISE}
    scheduler = DDIMInverseScheduler(**config, clip_sample=False, timestep_spacing="trailing")
    scheduler.set_timesteps(steps, device=pipe.device)
    encoded = pipe.vae.encode(images.to(pipe.device, pipe.vae.dtype)).latent_dist.mean
    latents = encoded.float() * pipe.vae.config.scaling_factor
    states = encode_prompts(pipe, [prompt]).expand(len(images), -1, -1).to(pipe.unet.dtype)
    for timestep in scheduler.timesteps:
        prediction = pipe.unet(latents.to(pipe.unet.dtype), timestep, encoder_hidden_states=states).sample
        latents = scheduler.step(prediction.float(), timestep, latents).prev_sample
    return latents
