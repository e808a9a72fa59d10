"""`LoRA`: a low-rank change of linear layers of text encoder, U-Net or both, by peft; FFD's adapter (Shen et al., ICLR
2024, experiments 1 and 3 to 6). Its file is what `pipe.load_lora_weights` reads.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file

from fairnb.adapters.protocol import read_weights
from fairnb.errors import UserError
from fairnb.files import write_atomically

NAME = "fairnb"  # of the adapter within peft's layers
# The layers that are changed, as FFD's: the projections of every attention, in the text encoder also its MLPs.
TARGETS = {
    "text_encoder": ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"],
    "unet": ["to_q", "to_k", "to_v", "to_out.0"],
}


class LoRA:
    """A trainable change B A of rank `rank` of every layer of `TARGETS` in `parts` of the pipeline.

    alpha equals the rank, so the file needs no scale: strength 1 is what was trained. The factors are float32 whatever
    the model is. It trains as `BiasNeurons` does: attach, backward, optimiser, update, detach; taken off, the pipeline
    holds its own layers again, bitwise.
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

    def shapes(self) -> dict[str, tuple[int, int]]:
        """Every changed layer, as part and path ("unet.mid_block..."), and the shape (out, in) of its weight."""
        names = dict.fromkeys(key.rpartition(".lora_")[0] for key in self._factors)
        return {name: (len(second), first.shape[1]) for name in names for first, second in [self.factors(name)]}

    def factors(self, name: str) -> tuple[torch.nn.Parameter, torch.nn.Parameter]:
        """A [rank, in] and B [out, rank] of a layer."""
        return self._factors[f"{name}.lora_A.weight"], self._factors[f"{name}.lora_B.weight"]

    def attach(self) -> None:
        """Start training: the layers are in place and the factors require a gradient."""
        self.apply(self._pipe)
        for factor in self._factors.values():
            factor.requires_grad_()

    def update(self) -> None:
        """Nothing to do after a step of the optimiser: the layers hold the factors themselves."""

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The base model while it lasts."""
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
                factor.requires_grad_(trained)  # which peft turns with the rest

    def detach(self) -> None:
        """End training: the base model stands again."""
        for factor in self._factors.values():
            factor.requires_grad_(False)
        self.remove(self._pipe)

    def apply(self, pipe: StableDiffusionPipeline, strength: float = 1.0) -> None:
        """Put base + strength * B A in place, whatever strength was applied before; 0 is bitwise the base."""
        self.remove(pipe)
        if not strength:
            return
        for name, layer in self._inject(pipe).items():
            for key in ("lora_A", "lora_B"):
                getattr(layer, key)[NAME].weight = self._factors[f"{name}.{key}.weight"]
            layer.set_scale(NAME, strength)

    def remove(self, pipe: StableDiffusionPipeline) -> None:
        """The pipeline's own layers again."""
        for name, layer in _layers(pipe, self.parts).items():
            part, _, path = name.partition(".")
            parent, _, child = path.rpartition(".")
            setattr(getattr(pipe, part).get_submodule(parent), child, layer.base_layer)
        for model in (getattr(pipe, part) for part in self.parts):
            if NAME in getattr(model, "peft_config", {}):
                del model.peft_config

    def merge(self, pipe: StableDiffusionPipeline, strength: float = 1.0) -> None:
        """Make the change part of the weights, and itself zero."""
        self.remove(pipe)
        with torch.no_grad():
            for name in self.shapes():
                part, _, path = name.partition(".")
                weight = getattr(pipe, part).get_submodule(path).weight
                first, second = self.factors(name)
                weight += (strength * (second @ first)).to(weight)
                second.zero_()

    def save(self, path: str | Path, metadata: dict) -> None:
        """Write the factors in diffusers' layout (`unet.<layer>.lora_A.weight`), with `metadata` in the header."""
        tensors = {_public(name): factor.detach().cpu().contiguous() for name, factor in self._factors.items()}
        header = {"format": "pt", "record": json.dumps(metadata)}
        write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata=header))

    def _inject(self, pipe: StableDiffusionPipeline) -> dict[str, LoraLayer]:
        for part in self.parts:
            if getattr(getattr(pipe, part), "peft_config", None):
                raise UserError(f"another LoRA is on the {part}: take it off first (pipe.unload_lora_weights())")
            config = LoraConfig(r=self.rank, lora_alpha=self.rank, target_modules=TARGETS[part], lora_dropout=0.0)
            inject_adapter_in_model(config, getattr(pipe, part), adapter_name=NAME)
        return _layers(pipe, self.parts)


def load_lora(path: str | Path, pipe: StableDiffusionPipeline) -> LoRA:
    """Read what `LoRA.save` or diffusers' `save_lora_weights` wrote; nothing is applied yet.

    `UserError` when the file is damaged, holds another kind of weights, a scale of its own (alpha other than the rank),
    or does not fit the model.
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
    """A factor's name in files: there the text encoder's layers lie in `text_model`, as transformers 4 has them."""
    part, _, path = name.partition(".")
    return name if part != "text_encoder" else f"{part}.text_model.{path.removeprefix('text_model.')}"


def _layers(pipe: StableDiffusionPipeline, parts: Sequence[str]) -> dict[str, LoraLayer]:
    """Part and path -> peft's layer, where this change is in place."""
    return {
        f"{part}.{name}": module
        for part in parts
        for name, module in getattr(pipe, part).named_modules()
        if isinstance(module, LoraLayer) and NAME in module.lora_A
    }
