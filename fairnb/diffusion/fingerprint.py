"""Identify models by their weights: an exact fingerprint, and a sketch that is robust to rounding."""

import hashlib

import torch

ROUNDED = 0.01  # bfloat16 rounds a value by .11 % (rms), and a sketch by .0011: this is nine times that


def fingerprint(unet: torch.nn.Module) -> str:
    """A hash of the names, shapes and values of all parameters."""
    digest = hashlib.sha256()
    for name, weight in sorted(unet.named_parameters()):
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
