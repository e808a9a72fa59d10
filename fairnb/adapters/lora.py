"""LoRA of the text encoder, the U-Net or both: FFD's adapter (Shen et al., ICLR 2024, experiments 1 and 3 to 6).

The layers are peft's. `pipe.load_lora_weights` reads the file.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig
from peft.tuners.lora import LoraLayer

from fairnb.adapters.protocol import read_weights, save_weights
from fairnb.errors import UserError

NAME = "fairnb"  # of the adapter within peft's layers
# The adapted layers, as in FFD: the projections of every attention, and the MLPs of the text encoder.
TARGETS = {
    "text_encoder": ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"],
    "unet": ["to_q", "to_k", "to_v", "to_out.0"],
}


class LoRA:
    """A trainable change B A of rank `rank` for every layer of `TARGETS` in `parts` of the pipeline.

    alpha equals the rank, so the file needs no scale: strength 1 is what was trained. The factors are float32 for every
    dtype of the model. Training works as for `BiasNeurons`. Once removed, the pipeline has its own layers again,
    bitwise.
    """

    acts_from = 0

    def __init__(
        self, pipe: StableDiffusionPipeline, rank: int, parts: Sequence[str] = ("text_encoder",), seed: int = 0
    ):
        if not parts or set(parts) - set(TARGETS):
            raise UserError(f"LoRA cannot change {', '.join(parts) or 'nothing'}: use {' or '.join(TARGETS)}, or both")
        self.rank, self.parts, self.metadata = rank, tuple(parts), {}
        self._pipe = pipe
        generator = torch.Generator().manual_seed(seed)
        self._factors: dict[str, torch.nn.Parameter] = {}
        for name, layer in self._inject(pipe).items():
            outer, inner = layer.base_layer.weight.shape
            first = torch.randn(rank, inner, generator=generator) / inner**0.5
            for key, value in (("lora_A", first), ("lora_B", torch.zeros(outer, rank))):
                value = value.to(layer.base_layer.weight.device, torch.float32)
                self._factors[f"{name}.{key}.weight"] = torch.nn.Parameter(value, requires_grad=False)
        self.remove(pipe)

    def parameters(self) -> list[torch.nn.Parameter]:
        """The factors A [rank, in] and B [out, rank] of every layer, for an optimiser."""
        return list(self._factors.values())

    def parameters_of(self, part: str) -> list[torch.nn.Parameter]:
        """The factors of the layers of one part."""
        return [factor for name, factor in self._factors.items() if name.startswith(f"{part}.")]

    def shapes(self) -> dict[str, tuple[int, int]]:
        """Map every adapted layer, as part and path ("unet.mid_block..."), to the shape (out, in) of its weight."""
        names = dict.fromkeys(key.rpartition(".lora_")[0] for key in self._factors)
        return {name: (len(second), first.shape[1]) for name in names for first, second in [self.factors(name)]}

    def factors(self, name: str) -> tuple[torch.nn.Parameter, torch.nn.Parameter]:
        """The factors A [rank, in] and B [out, rank] of a layer."""
        return self._factors[f"{name}.lora_A.weight"], self._factors[f"{name}.lora_B.weight"]

    def attach(self) -> None:
        """Start training: put the layers in place and let the factors require gradients."""
        self.apply(self._pipe)
        for factor in self._factors.values():
            factor.requires_grad_()

    def update(self) -> None:
        """Do nothing: the layers hold the factors themselves."""

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The base model within the context."""
        layers = _layers(self._pipe, self.parts).values()
        wanted = [factor.requires_grad for factor in self.parameters()]
        for layer in layers:
            layer.enable_adapters(False)
        try:
            yield
        finally:
            for layer in layers:
                layer.enable_adapters(True)
            for factor, trained in zip(self.parameters(), wanted, strict=True):
                factor.requires_grad_(trained)  # peft switched it, too

    def detach(self) -> None:
        """End training and restore the base model."""
        for factor in self._factors.values():
            factor.requires_grad_(False)
        self.remove(self._pipe)

    def apply(self, pipe: StableDiffusionPipeline, strength: float = 1.0) -> None:
        """Apply base + strength * B A, replacing any strength applied before; 0 is bitwise the base."""
        self.remove(pipe)
        if not strength:
            return
        for name, layer in self._inject(pipe).items():
            for key in ("lora_A", "lora_B"):
                getattr(layer, key)[NAME].weight = self._factors[f"{name}.{key}.weight"]
            layer.set_scale(NAME, strength)
        pipe.applied = f"LoRA x {strength:g}"

    def remove(self, pipe: StableDiffusionPipeline) -> None:
        """Restore the pipeline's own layers."""
        if any(NAME in (getattr(getattr(pipe, part), "peft_config", None) or {}) for part in self.parts):
            pipe.unload_lora_weights()
            pipe.applied = None

    def merge(self, pipe: StableDiffusionPipeline, strength: float = 1.0) -> None:
        """Add the change to the weights, and reset it to zero."""
        self.remove(pipe)
        with torch.no_grad():
            for name in self.shapes():
                part, _, path = name.partition(".")
                weight = getattr(pipe, part).get_submodule(path).weight
                first, second = self.factors(name)
                weight += (strength * (second @ first)).to(weight)
                second.zero_()

    def tensors(self) -> dict[str, torch.Tensor]:
        """The factors in diffusers' layout (`unet.<layer>.lora_A.weight`), on the CPU."""
        return {_public(name): factor.detach().cpu().contiguous() for name, factor in self._factors.items()}

    def save(self, path: str | Path, metadata: dict) -> None:
        """Write the factors, with `metadata` in the header."""
        save_weights(path, self.tensors(), metadata, format="pt")

    def _inject(self, pipe: StableDiffusionPipeline) -> dict[str, LoraLayer]:
        for part in self.parts:
            if getattr(getattr(pipe, part), "peft_config", None):
                raise UserError(f"another LoRA is on the {part}: take it off first (pipe.unload_lora_weights())")
            config = LoraConfig(r=self.rank, lora_alpha=self.rank, target_modules=TARGETS[part], lora_dropout=0.0)
            getattr(pipe, part).add_adapter(config, adapter_name=NAME)
        return _layers(pipe, self.parts)


def load_lora(path: str | Path, pipe: StableDiffusionPipeline) -> LoRA:
    """Read a file of `LoRA.save` or diffusers' `save_lora_weights`, without applying it.

    `UserError` if the file is damaged, holds other weights, has alpha other than the rank, or does not fit the model.
    """
    tensors, header, record = read_weights(path)
    tensors = {_public(name): tensor for name, tensor in tensors.items()}
    first = [tensor for name, tensor in tensors.items() if name.endswith(".lora_A.weight") and tensor.ndim == 2]
    parts = [part for part in TARGETS if any(name.startswith(f"{part}.") for name in tensors)]
    if not first or not parts:
        raise UserError(
            f"{path} is no LoRA of a Stable Diffusion: its weights are not named unet.<layer>.lora_A.weight"
        )
    try:
        scale = dict(json.loads(header.get("lora_adapter_metadata", "{}")))
    except (TypeError, ValueError) as error:
        raise UserError(f"the header of LoRA {path} is damaged ({error}): train or copy it again") from error
    for part in parts:
        alpha, rank = (scale.get(f"{part}.{key}", len(first[0])) for key in ("lora_alpha", "r"))
        if alpha != rank:
            raise UserError(f"LoRA {path} has alpha {alpha} at rank {rank}: multiply its lora_B by their ratio first")
    lora = LoRA(pipe, len(first[0]), parts)
    own = {_public(name): tuple(factor.shape) for name, factor in lora._factors.items()}
    given = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(own.keys() | given.keys()):
        if own.get(name) != given.get(name):
            raise UserError(
                f"LoRA {path} was made for another model: {name} is {given.get(name, 'missing')}, here it is "
                f"{own.get(name, 'no layer')}"
            )
    with torch.no_grad():
        for name, factor in lora._factors.items():
            factor.copy_(tensors[_public(name)])
    lora.metadata = record
    return lora


def _public(name: str) -> str:
    """A factor's name in files, where the text encoder's layers lie in `text_model`, as in transformers 4."""
    part, _, path = name.partition(".")
    return name if part != "text_encoder" else f"{part}.text_model.{path.removeprefix('text_model.')}"


def _layers(pipe: StableDiffusionPipeline, parts: Sequence[str]) -> dict[str, LoraLayer]:
    """Map part and path to peft's layer, where this LoRA is in place."""
    return {
        f"{part}.{name}": module
        for part in parts
        for name, module in getattr(pipe, part).named_modules()
        if isinstance(module, LoraLayer) and NAME in module.lora_A
    }
