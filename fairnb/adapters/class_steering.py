"""What steers each image to a class of its own: shares, the draw of a class by the noise, and the gate.

While sampling, each image of a call is drawn a class from the target shares, unless its prompt names a class itself or
shows no person (`prompt_gate`). What a drawn class changes is for `class_directions` and `class_tokens` to say.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch

from fairnb.adapters.h_space import Steering, UNetCall, check_distribution, generator_of
from fairnb.adapters.prompt_gate import PromptGate
from fairnb.adapters.protocol import read_weights, save_weights
from fairnb.errors import UserError
from fairnb.prompts.attributes import get_attribute


class ClassSteering(Steering, ABC):
    """Target shares [K] of each attribute, and a gate.

    The images of a call are drawn classes by systematic sampling: the shares are met to within one image, in a random
    order that the noise decides. `UserError` for an attribute that is not among the `known`, and for shares that are no
    distribution.
    """

    kind: str  # of its file

    def __init__(self, known: Iterable[str], shares: Mapping[str, Sequence[float]], gate: PromptGate):
        super().__init__()
        known = list(known)
        self.shares = {name: torch.as_tensor(each, dtype=torch.float64) for name, each in shares.items()}
        for name, each in self.shares.items():
            if name not in known:
                raise UserError(f"there are no {self.title} of {name}, only of {', '.join(known)}: measure them first")
            check_distribution(name, each, get_attribute(name).classes)
        self.gate = gate
        self._classes: dict[str, torch.Tensor] = {}

    def drawn(self, call: UNetCall) -> dict[str, torch.Tensor]:
        """The class of each image [N] of a call of the U-Net, by attribute; -1 where the gate is closed."""
        if call.begins:
            latents = call.latents[call.prompt]
            self._classes = {name: draw_classes(each, name, latents) for name, each in self.shares.items()}
        states = call.states[call.prompt]
        return {name: each.where(self.gate.opens(name, states), -1) for name, each in self._classes.items()}

    @abstractmethod
    def own_tensors(self) -> dict[str, torch.Tensor]:
        """What the file holds beside the gate; a name begins with that of its attribute."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """What its file holds, on the CPU."""
        weights = {f"gate.{name}": weight.half() for name, weight in self.gate.weight.items()}
        return {name: tensor.cpu().contiguous() for name, tensor in (weights | self.own_tensors()).items()}

    def parameters(self) -> list[torch.Tensor]:
        """The numbers of the file, those of the gate among them."""
        return list(self.tensors().values())

    def save(self, path: str | Path, metadata: dict | None = None) -> None:
        """Write everything as safetensors."""
        settings = {"shares": self._shares(), "errors": self.gate.errors}
        save_weights(path, self.tensors(), metadata or {}, kind=self.kind, settings=json.dumps(settings))

    def _shares(self) -> dict[str, list[float]]:
        return {name: each.tolist() for name, each in self.shares.items()}

    def digest(self) -> str:
        """A hash of all that decides its effect, which no weight of the pipeline tells."""
        digest = hashlib.sha256(json.dumps(self._shares()).encode())
        for tensor in self.tensors().values():
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()[:16]


def draw_classes(shares: torch.Tensor, attribute: str, latents: torch.Tensor) -> torch.Tensor:
    """Draw a class [N] for each of N images by systematic sampling, from a seed that their noise gives.

    Each class is drawn for N times its share of the images, rounded up or down, and each image has every class with its
    share as probability, also the only image of a batch.
    """
    generator = generator_of(latents, attribute)
    order = torch.randperm(len(latents), generator=generator)
    places = (torch.arange(len(latents)) + torch.rand(1, generator=generator, dtype=torch.float64)) / len(latents)
    drawn = torch.searchsorted(shares.cumsum(0), places, right=True).clamp(max=len(shares) - 1)
    return drawn[order].to(latents.device)


def read_steering(
    path: str | Path, device: torch.device | str
) -> tuple[dict[str, torch.Tensor], dict[str, list[float]], PromptGate, dict]:
    """The tensors, shares, gate and record of a file of `ClassSteering.save`; errors of many kinds if it is damaged."""
    tensors, header, record = read_weights(path)
    tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
    settings = json.loads(header["settings"])
    weight = {key.removeprefix("gate."): each.float() for key, each in tensors.items() if key.startswith("gate.")}
    return tensors, settings["shares"], PromptGate(weight, settings["errors"]), record
