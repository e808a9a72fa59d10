"""The protocol of every adapter, and its file: safetensors with a training record in the header."""

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import torch
from diffusers import StableDiffusionPipeline
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from fairnb.diffusion.fingerprint import tensor_hash
from fairnb.errors import UserError
from fairnb.tensors import write_tensors


class Adapter(Protocol):
    """A trainable change of a pipeline: bias neurons, LoRA, prefix tokens, all weights of a part."""

    acts_from: int  # active in timesteps >= this; 0: in all
    metadata: dict  # the training record of a loaded file

    def parameters(self) -> list[torch.Tensor]:
        """The tensors to optimise, in float32."""

    def attach(self) -> None:
        """Start training: apply the change and let its parameters collect gradients."""

    def update(self) -> None:
        """Write changed parameters into the model, after a step of the optimiser."""

    def disabled(self) -> AbstractContextManager[None]:
        """The base model, bitwise, within the context."""

    def detach(self) -> None:
        """End training and restore the base model."""

    def apply(self, pipe: StableDiffusionPipeline, strength: float = 1.0) -> None:
        """Apply the change at any strength, replacing any applied before; 0 is bitwise the base."""

    def remove(self, pipe: StableDiffusionPipeline) -> None:
        """Restore the base model, bitwise."""

    def merge(self, pipe: StableDiffusionPipeline, strength: float = 1.0) -> None:
        """Add the change to the model's weights."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """What its file holds, on the CPU."""

    def save(self, path: str | Path, metadata: dict) -> None:
        """Write the adapter as safetensors, with its training record `metadata` (anything JSON)."""


def adapter_identity(adapter: Adapter) -> dict:
    """What a training starts from: the kind of the adapter, where it acts, and its tensors."""
    kind = type(adapter).__name__
    return {"kind": kind, "acts_from": adapter.acts_from, "start": tensor_hash(adapter.tensors().items())}


def save_weights(path: str | Path, tensors: dict[str, torch.Tensor], record: dict, **header: str) -> None:
    """Write an adapter's file: its tensors, and in the header `header` and the training record."""
    header["record"] = json.dumps(record)
    write_tensors(tensors, path, header)


def read_weights(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, str], dict]:
    """Read tensors, header and training record of an adapter's file; `UserError` if it is damaged or empty."""
    try:
        tensors = load_file(path)
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
        record = dict(json.loads(header.get("record", "{}")))
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): train or copy it again") from error
    if not tensors:
        raise UserError(f"{path} cannot be read (no weights in it): train or copy it again")
    return tensors, header, record


def read_pickled(path: str | Path) -> dict[str, torch.Tensor]:
    """Read the tensors of PyTorch's own format, safely; `UserError` if it is damaged, holds code or no tensors."""
    try:
        state = torch.load(path, "cpu", weights_only=True)
        state = {str(name): torch.as_tensor(value).detach() for name, value in state.items()}
    except Exception as error:  # missing, truncated, with code in it, no dictionary of tensors
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} is no file of weights that can be loaded safely: {reason}") from error
    if not state:
        raise UserError(f"{path} holds no weights: download it again")
    return state
