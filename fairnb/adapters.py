"""What an `Adapter` is, and the first one: `BiasNeurons` changes only the chosen scalar weights of a U-Net.

peft's sparse adapter covers linear layers at one density; convolutions hold two thirds of an SD 1.5 U-Net, so the
weights are set in place here, and gradients gathered by a hook that frees the dense gradient tensor by tensor.
"""

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from weakref import WeakKeyDictionary

import torch
from diffusers import StableDiffusionPipeline
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from fairnb.errors import UserError
from fairnb.neurons import NeuronSet, count
from fairnb.pipeline import ROUNDED, fingerprint, sketch
from fairnb.records import write_atomically

KIND = "fairnb bias neurons 1"


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


class BiasNeurons:
    """A trainable change (delta) of the chosen weights of `unet`, one float32 vector per touched tensor.

    Beside the U-Net it holds 16 bytes per neuron and an optimiser only knows these. Training::

        adapter = BiasNeurons(pipe.unet, neurons)
        adapter.attach()
        optimizer = torch.optim.Adam(adapter.parameters())
        ...backward on the U-Net...; optimizer.step(); adapter.update(); optimizer.zero_grad()
        adapter.detach()

    The change acts in the steps whose timestep is at least `acts_from` (0: in all, as published). Early steps decide
    who is in the picture; the later ones, left to the base weights, draw that person as sharply as ever.
    `UserError` when there is no neuron, or one is not in the U-Net.
    """

    def __init__(self, unet: torch.nn.Module, neurons: NeuronSet, acts_from: int = 0):
        if not count(neurons):
            raise UserError("there are no neurons to change: raise k or lower the frequency when locating them")
        weights = dict(unet.named_parameters())
        for name, indices in neurons.items():
            if name not in weights or not 0 <= indices.min() <= indices.max() < weights[name].numel():
                raise UserError(f"neurons of '{name}' do not fit this U-Net: locate them again on this model")
        self.base_fingerprint, self._sketch = fingerprint(unet), sketch(unet)
        self.acts_from = acts_from
        self.metadata: dict = {}
        self._unet = unet
        self._limits = WeakKeyDictionary()  # U-Net -> the hooks that keep the change out of its late steps
        self._weights = {name: weights[name] for name in neurons}
        self._indices = {name: indices.to(weights[name].device) for name, indices in neurons.items()}
        self._base = {name: weights[name].detach().take(indices) for name, indices in self._indices.items()}
        self._deltas = {
            name: torch.zeros(len(indices), device=indices.device, requires_grad=True)
            for name, indices in self._indices.items()
        }
        self._hooks: list = []

    def parameters(self) -> list[torch.Tensor]:
        """The trainable deltas, one 1-D float32 tensor per touched weight tensor, for an optimiser."""
        return list(self._deltas.values())

    def attach(self) -> None:
        """Start training: gradients of the touched weights are gathered into the deltas' `.grad`, adding up."""
        self.detach()
        for name, weight in self._weights.items():
            hook = weight.requires_grad_().register_post_accumulate_grad_hook(self._gatherer(name))
            self._hooks.append(hook)
        self.update()

    def update(self) -> None:
        """Write base + delta into the U-Net; call it after every step of the optimiser."""
        self._set(self._unet, 1.0)

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The base weights, bitwise, while it lasts; then base + delta again."""
        self._set(self._unet, 0.0)
        try:
            yield
        finally:
            self.update()

    def detach(self) -> None:
        """End training: the base weights stand again and require no gradient."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        for weight in self._weights.values():
            weight.requires_grad_(False)
        self._set(self._unet, 0.0)

    def apply(self, pipe: StableDiffusionPipeline, strength: float = 1.0) -> None:
        """Set the weights to base + strength * delta, whatever strength was applied before; 0 is bitwise the base."""
        self._set(pipe.unet, strength)

    def remove(self, pipe: StableDiffusionPipeline) -> None:
        """The base weights again, bitwise."""
        self.apply(pipe, 0.0)

    def merge(self, pipe: StableDiffusionPipeline, strength: float = 1.0) -> None:
        """Make the change part of the model: afterwards base + strength * delta is the base and the delta is zero.

        `UserError` for a change that acts in early steps only: weights alone cannot say when.
        """
        if self.acts_from:
            raise UserError(f"a change that acts from timestep {self.acts_from} on cannot be merged: apply it instead")
        weights = self._of(pipe.unet)
        self._write(weights, strength)
        with torch.no_grad():
            for name, delta in self._deltas.items():
                self._base[name] = weights[name].detach().take(self._indices[name].to(weights[name].device))
                delta.zero_()
        self.base_fingerprint, self._sketch = fingerprint(pipe.unet), sketch(pipe.unet)

    def save(self, path: str | Path, metadata: dict) -> None:
        """Write the patch as safetensors: `<name>.indices` int32 and `<name>.values` (the deltas) float32.

        `metadata` (attributes, target, training record: anything JSON) is stored with the base model's fingerprint.
        """
        tensors = {}
        for name, delta in self._deltas.items():
            tensors[f"{name}.indices"] = self._indices[name].to("cpu", torch.int32)
            tensors[f"{name}.values"] = delta.detach().cpu().contiguous()
        header = {
            "kind": KIND,
            "base": self.base_fingerprint,
            "dtype": str(self._unet.dtype),
            "sketch": json.dumps({name: round(value, 5) for name, value in self._sketch.items()}),
            "acts_from": str(self.acts_from),
            "record": json.dumps(metadata),
        }
        write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata=header))

    def _of(self, unet: torch.nn.Module) -> dict[str, torch.Tensor]:
        weights = dict(unet.named_parameters())
        for name, own in self._weights.items():
            if name not in weights or weights[name].shape != own.shape:
                raise UserError(f"these bias neurons were made for another model ('{name}' differs): use that model")
        return {name: weights[name] for name in self._weights}

    def _set(self, unet: torch.nn.Module, strength: float) -> None:
        """Write the weights and, with `acts_from`, hook the U-Net to run its late steps with the base weights."""
        weights = self._of(unet)
        self._write(weights, strength)
        for hook in self._limits.pop(unet, ()):
            hook.remove()
        if not (strength and self.acts_from):
            return

        def late(args: tuple, kwargs: dict) -> bool:
            return bool(torch.as_tensor(args[1] if len(args) > 1 else kwargs["timestep"]).max() < self.acts_from)

        def before(_module, args, kwargs) -> None:
            if late(args, kwargs):
                self._write(weights, 0.0)

        def after(_module, args, kwargs, _output) -> None:
            if late(args, kwargs):
                self._write(weights, strength)

        self._limits[unet] = (
            unet.register_forward_pre_hook(before, with_kwargs=True),
            unet.register_forward_hook(after, with_kwargs=True, always_call=True),
        )

    @torch.no_grad()
    def _write(self, weights: dict[str, torch.Tensor], strength: float) -> None:
        for name, weight in weights.items():
            values = self._base[name]
            if strength:  # else bitwise the base: adding 0 would turn -0.0 into 0.0
                wide = torch.promote_types(values.dtype, torch.float32)
                values = (values.to(wide) + strength * self._deltas[name].to(wide)).to(values.dtype)
            weight.put_(self._indices[name].to(weight.device), values.to(weight))

    def _gatherer(self, name: str):
        indices, delta = self._indices[name], self._deltas[name]

        def gather(weight: torch.Tensor) -> None:
            chosen = weight.grad.take(indices).to(delta.dtype)
            delta.grad = chosen if delta.grad is None else delta.grad + chosen
            weight.grad = None

        return gather


@dataclass(frozen=True)
class Header:
    """What a patch file says before its values are read.

    `base`: the base weights' fingerprint in `dtype`, `sketch` their sketch (empty in files of older versions);
    `neurons`: tensor name -> how many of its weights change.
    """

    base: str
    dtype: str
    sketch: dict[str, float]
    acts_from: int
    record: dict
    neurons: dict[str, int]

    def fits(self, unet: torch.nn.Module) -> bool:
        """Is `unet` the base, bitwise in the same dtype or, in another dtype, but for rounding?"""
        if self.base == fingerprint(unet):
            return True
        if not self.sketch or self.dtype == str(unet.dtype):
            return False
        own = sketch(unet)
        return own.keys() == self.sketch.keys() and all(abs(own[n] - self.sketch[n]) < ROUNDED for n in own)


def read_header(path: str | Path) -> Header:
    """Read a patch's header, without any model; `UserError` when the file is damaged or no patch."""
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            shapes = {name: file.get_slice(name).get_shape() for name in sorted(file.keys())}
    except (OSError, SafetensorError) as error:
        raise UserError(f"patch {path} cannot be read ({error}): train or copy it again") from error
    if about.get("kind") != KIND:
        raise UserError(f"{path} is no patch of bias neurons: give a file that BiasNeurons.save wrote")
    try:
        record, acts_from, base = json.loads(about["record"]), int(about.get("acts_from", 0)), about["base"]
        numbers = {name: float(value) for name, value in json.loads(about.get("sketch", "{}")).items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"the header of patch {path} is damaged ({error}): train or copy it again") from error
    names = [name.removesuffix(".values") for name in shapes if name.endswith(".values")]
    paired = {f"{name}.{part}" for name in names for part in ("indices", "values")}
    if not isinstance(record, dict) or paired != set(shapes) or not names:
        raise UserError(f"patch {path} lacks a part: train or copy it again")
    if any(len(shapes[f"{n}.values"]) != 1 or shapes[f"{n}.values"] != shapes[f"{n}.indices"] for n in names):
        raise UserError(f"patch {path} holds values that do not match their indices: train or copy it again")
    counts = {name: shapes[f"{name}.values"][0] for name in names}
    return Header(base, about.get("dtype", ""), numbers, acts_from, record, counts)


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


def load_patch(path: str | Path, pipe: StableDiffusionPipeline) -> BiasNeurons:
    """Read a patch made for the model in `pipe`; its record is in `.metadata`. Nothing is applied yet.

    `UserError` when the file is damaged, no patch, or made for other base weights.
    """
    header = read_header(path)
    if not header.fits(pipe.unet):
        raise UserError(f"patch {path} was made for other base weights: load that model, without another patch on it")
    tensors = load_file(path)
    neurons = {name: tensors[f"{name}.indices"].long() for name in header.neurons}
    adapter = BiasNeurons(pipe.unet, neurons, header.acts_from)
    with torch.no_grad():
        for name, delta in adapter._deltas.items():
            delta.copy_(tensors[f"{name}.values"])
    adapter.metadata = header.record
    return adapter
