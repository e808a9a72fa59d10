"""Identify models by their weights: an exact fingerprint, and a sketch that is robust to rounding."""

import hashlib
from collections.abc import Iterable

import torch
from diffusers import StableDiffusionPipeline

from fairnb.identity import hashed

WITHOUT_EFFECT = ("transformers_version", "dtype", "torch_dtype", "architectures", "model_type")  # of a configuration
ROUNDED = 0.01  # bfloat16 rounds a value by .11 % (rms), and a sketch by .0011: this is nine times that


def fingerprint(unet: torch.nn.Module) -> str:
    """A hash of the names, shapes and values of all parameters."""
    return tensor_hash(unet.named_parameters())


def tensor_hash(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """A hash of names, shapes and values, whatever the order."""
    digest = hashlib.sha256()
    for name, weight in sorted(tensors, key=lambda pair: pair[0]):
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        digest.update(weight.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def sketch(unet: torch.nn.Module) -> dict[str, float]:
    """One number per tensor that rounding hardly changes: up to 4,096 values with alternating signs, summed, over their
    norm.

    The same model in bfloat16 and in float32 has other fingerprints, but sketches that differ by less than `ROUNDED`;
    those of another model differ by about 1 in most tensors.
    """
    numbers = {}
    for name, weight in unet.named_parameters():
        values = weight.detach().flatten()[:: max(1, weight.numel() // 4096)].cpu().double()  # MPS has no float64
        total = values[::2].sum() - values[1::2].sum()
        numbers[name] = (total / values.norm().clamp(min=1e-30)).item()
    return numbers


def model_identity(pipe: StableDiffusionPipeline) -> dict[str, str]:
    """What decides the images of a pipeline beside prompt, noise and settings: weights, configurations, tokenizer,
    scheduler, and what is applied to it.

    The weights hold an applied patch, LoRA or prefix, but not its strength nor the timesteps in which it acts.
    """
    parts = {name: getattr(pipe, name) for name in ("unet", "text_encoder", "vae")}
    configs = {name: _settings(part.config) for name, part in parts.items()}
    scheduler = {key: str(value) for key, value in _settings(pipe.scheduler.config).items()}  # JSON has no infinity
    return {name: fingerprint(part) for name, part in parts.items()} | {
        "configurations": hashed(configs),
        "tokenizer": hashed([pipe.tokenizer.get_vocab(), pipe.tokenizer.model_max_length]),
        "scheduler": {"class": type(pipe.scheduler).__name__, **scheduler},
        "applied": getattr(pipe, "applied", None),
    }


def _settings(config) -> dict:
    """A configuration without what does not matter: private keys, versions, and where it was loaded from."""
    values = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    return {key: value for key, value in values.items() if not key.startswith("_") and key not in WITHOUT_EFFECT}
