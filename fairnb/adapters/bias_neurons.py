"""`BiasNeurons`: an adapter that changes only chosen scalar weights of a U-Net.

peft's sparse adapter covers linear layers, at one density. Convolutions hold two thirds of an SD 1.5 U-Net, so this
adapter sets the weights in place, and a hook gathers their gradients and frees each dense gradient.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from diffusers import StableDiffusionPipeline

from fairnb.adapters.neuron_sets import NeuronSet, count_neurons
from fairnb.adapters.protocol import save_weights
from fairnb.diffusion.fingerprint import fingerprint, sketch
from fairnb.errors import UserError

KIND = "fairnb bias neurons 1"


class BiasNeurons:
    """A trainable change (delta) of the chosen weights of `unet`, one float32 vector per changed tensor.

    It needs 16 bytes per neuron beside the U-Net, and the optimiser sees only the deltas. Training::

        adapter = BiasNeurons(pipe.unet, neurons)
        adapter.attach()
        optimizer = torch.optim.Adam(adapter.parameters())
        ...backward on the U-Net...; optimizer.step(); adapter.update(); optimizer.zero_grad()
        adapter.detach()

    The change is active in timesteps >= `acts_from` (0: in all, as published). Early steps decide who is in the image;
    late steps with the base weights keep the details sharp. `UserError` without neurons, or if one is not in the U-Net.
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
        self._limits = WeakKeyDictionary()  # U-Net -> hooks that restore the base weights in late steps
        self._weights = {name: weights[name] for name in neurons}
        self._indices = {name: indices.to(weights[name].device) for name, indices in neurons.items()}
        self._base = {name: weights[name].detach().take(indices) for name, indices in self._indices.items()}
        self._deltas = {
            name: torch.zeros(len(indices), device=indices.device, requires_grad=True)
            for name, indices in self._indices.items()
        }
        self._hooks: list = []

    def parameters(self) -> list[torch.Tensor]:
        """The trainable deltas, one 1-D float32 tensor per changed weight tensor."""
        return list(self._deltas.values())

    def attach(self) -> None:
        """Start training: gradients of the changed weights accumulate in the deltas' `.grad`."""
        self.detach()
        for name, weight in self._weights.items():
            hook = weight.requires_grad_().register_post_accumulate_grad_hook(self._gatherer(name))
            self._hooks.append(hook)
        self.update()

    def update(self) -> None:
        """Write base + delta into the U-Net, after a step of the optimiser."""
        self._set(self._unet, 1.0)

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The base weights, bitwise, within the context; then base + delta again."""
        self._set(self._unet, 0.0)
        try:
            yield
        finally:
            self.update()

    def detach(self) -> None:
        """End training and restore the base weights, without gradients."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        for weight in self._weights.values():
            weight.requires_grad_(False)
        self._set(self._unet, 0.0)

    def apply(self, pipe: StableDiffusionPipeline, strength: float = 1.0) -> None:
        """Set the weights to base + strength * delta, replacing any strength applied before; 0 is bitwise the base."""
        self._set(pipe.unet, strength)
        pipe.applied = f"bias neurons x {strength:g} from timestep {self.acts_from}" if strength else None

    def remove(self, pipe: StableDiffusionPipeline) -> None:
        """Restore the base weights, bitwise."""
        self.apply(pipe, 0.0)

    def merge(self, pipe: StableDiffusionPipeline, strength: float = 1.0) -> None:
        """Make base + strength * delta the base, and reset the delta to zero.

        `UserError` for a change of early timesteps only, which weights alone cannot express.
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

    def tensors(self) -> dict[str, torch.Tensor]:
        """`<name>.indices` int32 and `<name>.values` (the deltas) float32, on the CPU."""
        tensors = {}
        for name, delta in self._deltas.items():
            tensors[f"{name}.indices"] = self._indices[name].to("cpu", torch.int32)
            tensors[f"{name}.values"] = delta.detach().cpu().contiguous()
        return tensors

    def save(self, path: str | Path, metadata: dict) -> None:
        """Write the patch as safetensors.

        The header holds `metadata` and the fingerprint and sketch of the base model.
        """
        sketch = {name: round(value, 5) for name, value in self._sketch.items()}
        save_weights(
            path,
            self.tensors(),
            metadata,
            kind=KIND,
            base=self.base_fingerprint,
            dtype=str(self._unet.dtype),
            sketch=json.dumps(sketch),
            acts_from=str(self.acts_from),
        )

    def _of(self, unet: torch.nn.Module) -> dict[str, torch.Tensor]:
        weights = dict(unet.named_parameters())
        for name, own in self._weights.items():
            if name not in weights or weights[name].shape != own.shape:
                raise UserError(f"these bias neurons were made for another model ('{name}' differs): use that model")
        return {name: weights[name] for name in self._weights}

    def _set(self, unet: torch.nn.Module, strength: float) -> None:
        """Write the weights; with `acts_from`, also hook the U-Net so that late steps use the base weights."""
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
            if strength:  # otherwise bitwise the base: adding 0 would turn -0.0 into 0.0
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
