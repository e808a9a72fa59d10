"""Hooks on outputs inside the U-Net, such as h, the mid block's, and DDIM inversion of images (Balancing Act)."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from diffusers import DDIMInverseScheduler, StableDiffusionPipeline
from torch.utils.hooks import RemovableHandle

from fairnb.diffusion.pipeline import encode_prompts
from fairnb.errors import UserError

# The part of a scheduler's config that describes the noise of the model's training.
NOISE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type")


@dataclass
class UNetCall:
    """A call of the U-Net: its timestep, whether a sampling begins with it, its latents and text states, and the rows
    of its batch that hold the prompt.

    With classifier-free guidance the other rows hold the empty prompt.
    """

    timestep: float = -1.0
    begins: bool = True
    prompt: slice = field(default_factory=lambda: slice(None))
    latents: torch.Tensor | None = None
    states: torch.Tensor | None = None


def on_outputs(
    pipe: StableDiffusionPipeline,
    modules: Mapping[str, torch.nn.Module],
    act: Callable,
    begin: Callable[[UNetCall], torch.Tensor | None] = lambda call: None,
) -> list[RemovableHandle]:
    """Register hooks that call `act(output, call, name)` after each of the U-Net's modules, whose output a returned
    value replaces, and `begin(call)` before each call of the U-Net, whose text states a returned value replaces."""
    call, first = UNetCall(), -1.0

    def note(module, inputs, values):
        nonlocal first
        given = dict(zip(("sample", "timestep", "encoder_hidden_states"), inputs, strict=False)) | values
        latents, timestep = given["sample"], given["timestep"]
        now = float(timestep.flatten()[0] if isinstance(timestep, torch.Tensor) else timestep)
        # Timesteps fall within a sampling; some schedulers repeat one, but never the first.
        call.begins = now > call.timestep or now == first
        first, call.timestep = now if call.begins else first, now
        # With classifier-free guidance the batch holds the same latents twice, first for the empty prompt.
        half = len(latents) // 2
        twice = half and len(latents) % 2 == 0 and torch.equal(latents[:half], latents[half:])
        call.prompt = slice(half, None) if twice else slice(None)
        call.latents, call.states = latents, given["encoder_hidden_states"]
        states = begin(call)
        if states is None:
            return None
        if len(inputs) > 2:
            return (*inputs[:2], states, *inputs[3:]), values
        return inputs, values | {"encoder_hidden_states": states}

    def hook(name: str) -> Callable:
        return lambda module, inputs, output: act(output, call, name)

    first = pipe.unet.register_forward_pre_hook(note, with_kwargs=True)
    return [first, *(module.register_forward_hook(hook(name)) for name, module in modules.items())]


def on_h(pipe: StableDiffusionPipeline, act: Callable) -> list[RemovableHandle]:
    """Register hooks that call `act(h, call)` after the mid block; a value it returns replaces h."""
    return on_outputs(pipe, {"h": pipe.unet.mid_block}, lambda output, call, name: act(output, call))


class Steering:
    """What adapters have in common that change the sampling by hooks, and no weight."""

    acts_from = 0
    title: str  # in messages

    def __init__(self):
        self.metadata: dict = {}
        self._hooks: list[RemovableHandle] = []

    def remove(self, pipe: StableDiffusionPipeline) -> None:
        """Restore the plain pipeline."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        pipe.applied = None

    def merge(self, pipe: StableDiffusionPipeline, strength: float = 1.0) -> None:
        """Raise `UserError`: there is nothing to merge."""
        raise UserError(f"{self.title} cannot be merged, changing the sampling and no weight: apply instead")


def generator_of(latents: torch.Tensor, what: str) -> torch.Generator:
    """A generator for `what` is drawn beside a sampling, whose seed the noise that it begins with gives."""
    seed = hashlib.sha256(what.encode() + latents.float().cpu().numpy().tobytes()).digest()
    return torch.Generator().manual_seed(int.from_bytes(seed[:7]))


def check_distribution(name: str, shares: torch.Tensor, classes: Sequence[str]) -> None:
    """`UserError` if `shares` [K] are no distribution over the classes of the attribute `name`."""
    if shares.shape != (len(classes),) or (shares < 0).any() or abs(shares.sum().item() - 1) > 1e-3:
        wanted = f"a share for each of {', '.join(classes)}, with sum 1"
        raise UserError(f"shares of {name} are {shares.tolist()}: give {wanted}")


@contextmanager
def recording_h(pipe: StableDiffusionPipeline) -> Iterator[dict[int, torch.Tensor]]:
    """Within the context, record h of each timestep while the pipeline samples: timestep -> float16 [N, D].

    With classifier-free guidance only h of the prompt is recorded. Successive batches are concatenated.
    """
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
    """Invert images [N, 3, H, W] in [-1, 1] to noise [N, C, h, w], by DDIM backwards without guidance.

    Within `recording_h` it records h of images that the model did not generate.
    """
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
