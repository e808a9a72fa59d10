"""LoRA of the text encoder, the U-Net or both: FFD's adapter (Shen et al., ICLR 2024, experiments 1 and 3 to 6).

The layers are peft's. `pipe.load_lora_weights` reads the file.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig
from peft.tuners.lora import LoraLayer

from fairnb.adapters.lora_files import public_name, read_factors
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
        _check_free(pipe, parts)
        generator = torch.Generator().manual_seed(seed)
        factors = {}
        for part in parts:
            for path, layer in getattr(pipe, part).named_modules():
                if isinstance(layer, torch.nn.Linear) and path.endswith(tuple(f".{end}" for end in TARGETS[part])):
                    outer, inner = layer.weight.shape
                    factors[f"{part}.{path}.lora_A.weight"] = torch.randn(rank, inner, generator=generator) / inner**0.5
                    factors[f"{part}.{path}.lora_B.weight"] = torch.zeros(outer, rank)
        self._hold(pipe, factors)

    @classmethod
    def of(cls, pipe: StableDiffusionPipeline, factors: dict[str, torch.Tensor]) -> "LoRA":
        """A LoRA with given factors of any linear or convolutional layers, named as in `factors` and `shapes`.

        Zeros bring all to the largest rank, so that none needs a scale.
        """
        lora = cls.__new__(cls)
        lora._hold(pipe, factors)
        return lora

    def _hold(self, pipe: StableDiffusionPipeline, factors: dict[str, torch.Tensor]) -> None:
        self._pipe, self.metadata = pipe, {}
        self.parts = tuple(part for part in TARGETS if any(name.startswith(f"{part}.") for name in factors))
        self.rank = max(factor.shape[".lora_B." in name] for name, factor in factors.items())
        self._factors: dict[str, torch.nn.Parameter] = {}
        for name, factor in factors.items():
            wide = list(factor.shape)
            wide[".lora_B." in name] = self.rank
            value = torch.zeros(wide)
            value[tuple(map(slice, factor.shape))] = factor
            device = getattr(pipe, name.partition(".")[0]).device
            self._factors[name] = torch.nn.Parameter(value.to(device), requires_grad=False)

    def parameters(self) -> list[torch.nn.Parameter]:
        """The factors A [rank, in] and B [out, rank] of every layer, for an optimiser."""
        return list(self._factors.values())

    def parameters_of(self, part: str) -> list[torch.nn.Parameter]:
        """The factors of the layers of one part."""
        return [factor for name, factor in self._factors.items() if name.startswith(f"{part}.")]

    def shapes(self) -> dict[str, tuple[int, int]]:
        """Map every adapted layer, as part and path ("unet.mid_block..."), to the shape (out, in) of its weight.

        That of a convolution is (out, in, height, width).
        """
        names = dict.fromkeys(key.rpartition(".lora_")[0] for key in self._factors)
        return {name: (len(second), *first.shape[1:]) for name in names for first, second in [self.factors(name)]}

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
                weight += (strength * (second.flatten(1) @ first.flatten(1))).view_as(weight).to(weight)
                second.zero_()

    def tensors(self) -> dict[str, torch.Tensor]:
        """The factors in diffusers' layout (`unet.<layer>.lora_A.weight`), on the CPU."""
        return {public_name(name): factor.detach().cpu().contiguous() for name, factor in self._factors.items()}

    def save(self, path: str | Path, metadata: dict) -> None:
        """Write the factors, with `metadata` in the header."""
        save_weights(path, self.tensors(), metadata, format="pt")

    def _inject(self, pipe: StableDiffusionPipeline) -> dict[str, LoraLayer]:
        _check_free(pipe, self.parts)
        for part in self.parts:
            layers = [name.removeprefix(f"{part}.") for name in self.shapes() if name.startswith(f"{part}.")]
            config = LoraConfig(r=self.rank, lora_alpha=self.rank, target_modules=layers, lora_dropout=0.0)
            getattr(pipe, part).add_adapter(config, adapter_name=NAME)
        return _layers(pipe, self.parts)


def load_lora(path: str | Path, pipe: StableDiffusionPipeline) -> LoRA:
    """Read the safetensors file of a LoRA of `LoRA.save`, diffusers or kohya, without applying it.

    `UserError` if the file is damaged, holds another kind of adapter, or layers that the model does not have.
    """
    tensors, header, record = read_weights(path)
    given = read_factors(path, tensors, header)
    _check_free(pipe, sorted({name.partition(".")[0] for name in given}))
    layers = {
        public_name(f"{part}.{name}"): (f"{part}.{name}", tuple(layer.weight.shape))
        for part in TARGETS
        for name, layer in getattr(pipe, part).named_modules()
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)
    }
    factors = {}
    for name, factor in given.items():
        layer, _, kind = name.rpartition(".lora_")
        own, shape = layers.get(layer, (layer, ()))
        fits = factor.shape[1:] == shape[1:] if kind == "A.weight" else factor.shape[:1] == shape[:1]
        if factor.ndim != len(shape) or not fits:
            raise UserError(
                f"LoRA {path} was made for another model: {name} is {tuple(factor.shape)}, here the layer is "
                f"{shape or 'missing'}"
            )
        factors[f"{own}.lora_{kind}"] = factor
    lora = LoRA.of(pipe, factors)
    lora.metadata = record
    return lora


def _check_free(pipe: StableDiffusionPipeline, parts: Sequence[str]) -> None:
    for part in parts:
        if getattr(getattr(pipe, part), "peft_config", None):
            raise UserError(f"another LoRA is on the {part}: take it off first (pipe.unload_lora_weights())")


def _layers(pipe: StableDiffusionPipeline, parts: Sequence[str]) -> dict[str, LoraLayer]:
    """Map part and path to peft's layer, where this LoRA is in place."""
    return {
        f"{part}.{name}": module
        for part in parts
        for name, module in getattr(pipe, part).named_modules()
        if isinstance(module, LoraLayer) and NAME in module.lora_A
    }
