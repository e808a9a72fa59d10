"""The protocol that every trainable adapter fulfils, and how its file is read."""

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import torch
from diffusers import StableDiffusionPipeline
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from fairnb.errors import UserError


class Adapter(Protocol):
    """A small trainable change of a pipeline: what `finetune` needs of bias neurons, LoRA and others."""

    acts_from: int  # it acts in steps of at least this timestep; 0: in all
    metadata: dict  # of a file: its training record

    def parameters(self) -> list[torch.Tensor]:
        """What an optimiser trains, in float32."""

    def attach(self) -> None:
        """Start training: the change is in place and its parameters collect gradients."""

    def update(self) -> None:
        """Bring changed parameters into the model, after a step of the optimiser."""

    def disabled(self) -> AbstractContextManager[None]:
        """The base model, bitwise, while it lasts."""

    def detach(self) -> None:
        """End training: the base model stands again."""

    def apply(self, pipe: StableDiffusionPipeline, strength: float = 1.0) -> None:
        """Put the change on at any strength, whatever was applied before; 0 is bitwise the base."""

    def remove(self, pipe: StableDiffusionPipeline) -> None:
        """The base model again, bitwise."""

    def merge(self, pipe: StableDiffusionPipeline, strength: float = 1.0) -> None:
        """Make the change part of the model's weights."""

    def save(self, path: str | Path, metadata: dict) -> None:
        """Write it as safetensors, with a training record."""


def read_weights(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, str], dict]:
    """Tensors, header and training record of an adapter's file; `UserError` when it is damaged or empty."""
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
