"""What an `Adapter` is, and the first one: `BiasNeurons` changes only the chosen scalar weights of a U-Net.

peft's sparse adapter covers linear layers at one density; convolutions hold two thirds of an SD 1.5 U-Net, so the
weights are set in place here, and gradients gathered by a hook that frees the dense gradient tensor by tensor.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file

from fairnb.adapters.neuron_sets import NeuronSet, count_neurons
from fairnb.diffusion.fingerprint import fingerprint, sketch
from fairnb.errors import UserError
from fairnb.files import write_atomically

KIND = "fairnb bias neurons 1"


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
        if not count_neurons(neurons):
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
