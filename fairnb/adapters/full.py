"""All weights of the text encoder, the U-Net or both: what DACL trains, beside a LoRA of them."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from fairnb.adapters.protocol import read_weights, save_weights
from fairnb.diffusion.fingerprint import fingerprint
from fairnb.errors import UserError

KIND = "fairnb full weights 1"
PARTS = ("text_encoder", "unet")


class FullWeights:
    """A trainable value for every weight of `parts` of the pipeline, in float32 for every dtype of the model.

    Training works as for `BiasNeurons`. It needs twice the memory of the parts in float32, beside that of the
    optimiser.
    """

    acts_from = 0

    def __init__(self, pipe: StableDiffusionPipeline, parts: Sequence[str]):
        self.parts, self.metadata = tuple(parts), {}
        self._pipe, self._hooks = pipe, []
        self._base = {name: weight.detach().clone() for name, weight in self._of(pipe).items()}
        self._prints = {part: fingerprint(getattr(pipe, part)) for part in self.parts}
        self._values = {name: base.float().clone().requires_grad_(False) for name, base in self._base.items()}

    def parameters(self) -> list[torch.Tensor]:
        """The values of all weights, for an optimiser."""
        return list(self._values.values())

    def parameters_of(self, part: str) -> list[torch.Tensor]:
        """The values of the weights of one part."""
        return [value for name, value in self._values.items() if name.startswith(f"{part}.")]

    def attach(self) -> None:
        """Start training: gradients of the weights accumulate in the values' `.grad`."""
        self.detach()
        for name, weight in self._of(self._pipe).items():
            hook = weight.requires_grad_().register_post_accumulate_grad_hook(_gatherer(self._values[name]))
            self._hooks.append(hook)
        self.update()

    def update(self) -> None:
        """Write the values into the model, after a step of the optimiser."""
        self.apply(self._pipe)

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The base weights, bitwise, within the context; then the values again."""
        self.remove(self._pipe)
        try:
            yield
        finally:
            self.update()

    def detach(self) -> None:
        """End training and restore the base weights, without gradients."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        for weight in self._of(self._pipe).values():
            weight.requires_grad_(False)
        self.remove(self._pipe)

    @torch.no_grad()
    def apply(self, pipe: StableDiffusionPipeline, strength: float = 1.0) -> None:
        """Set the weights to base + strength * (value - base), replacing any strength applied before; 0 is bitwise the
        base."""
        for name, weight in self._of(pipe).items():
            base, value = self._base[name], self._values[name]
            mixed = {0.0: base, 1.0: value}.get(strength)
            weight.copy_(torch.lerp(base.float(), value, strength) if mixed is None else mixed)

    def remove(self, pipe: StableDiffusionPipeline) -> None:
        """Restore the base weights, bitwise."""
        self.apply(pipe, 0.0)

    def merge(self, pipe: StableDiffusionPipeline, strength: float = 1.0) -> None:
        """Make the weights at this strength the base, and reset the change to zero."""
        self.apply(pipe, strength)
        for name, weight in self._of(pipe).items():
            self._base[name] = weight.detach().clone()
            self._values[name].data.copy_(weight)
        self._prints = {part: fingerprint(getattr(pipe, part)) for part in self.parts}

    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensors that changed (`unet.<name>`, float32), or all if none did, on the CPU."""
        changed = {name: value for name, value in self._values.items() if not torch.equal(value, self._base[name])}
        return {name: value.detach().cpu().contiguous() for name, value in (changed or self._values).items()}

    def save(self, path: str | Path, metadata: dict) -> None:
        """Write the tensors, with `metadata` and the base's fingerprints in the header."""
        save_weights(path, self.tensors(), metadata, kind=KIND, base=json.dumps(self._prints))

    def _of(self, pipe: StableDiffusionPipeline) -> dict[str, torch.nn.Parameter]:
        """Map part and name to each weight of the parts in a pipeline."""
        return {
            f"{part}.{name}": weight for part in self.parts for name, weight in getattr(pipe, part).named_parameters()
        }


def load_full(path: str | Path, pipe: StableDiffusionPipeline) -> FullWeights:
    """Read a file of `FullWeights.save`, without applying it; `UserError` if it is damaged or made for other base
    weights."""
    tensors, header, record = read_weights(path)
    try:
        base = dict(json.loads(header["base"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"the header of {path} is damaged ({error}): train or copy it again") from error
    for part, known in base.items():
        if part not in PARTS or fingerprint(getattr(pipe, part)) != known:
            raise UserError(f"{path} was made for another {part}: load its base model, in the dtype of its training")
    adapter = FullWeights(pipe, list(base))
    for name, tensor in tensors.items():
        if name not in adapter._values or adapter._values[name].shape != tensor.shape:
            raise UserError(f"{path} holds {name}, which is no weight of its base model: train or copy it again")
        adapter._values[name].copy_(tensor)
    adapter.metadata = record
    return adapter


def _gatherer(value: torch.Tensor):
    def gather(weight: torch.Tensor) -> None:
        gradient = weight.grad.to(value.dtype)
        value.grad = gradient if value.grad is None else value.grad + gradient
        weight.grad = None

    return gather
