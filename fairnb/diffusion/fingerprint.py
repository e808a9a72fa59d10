"""Tell models apart by their weights: an exact fingerprint, and a sketch that survives rounding."""

import hashlib

import torch

ROUNDED = 0.01  # bfloat16 rounds a value by .11 % (rms), so a sketch by .0011: nine times that


def fingerprint(unet: torch.nn.Module) -> str:
    """A hash of every parameter's name, shape and value: equal for equal U-Nets, whatever the folder's name."""
    digest = hashlib.sha256()
    for name, weight in sorted(unet.named_parameters()):
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        digest.update(weight.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def sketch(unet: torch.nn.Module) -> dict[str, float]:
    """One number a tensor that rounding hardly moves: up to 4,096 of its values, signs in turn, summed over their norm.

    Where a fingerprint differs because one model was loaded in bfloat16 and the other in float32, sketches differ by
    less than `ROUNDED`; those of another model differ by about 1 in most tensors.
    """
    numbers = {}
    for name, weight in unet.named_parameters():
        values = weight.detach().flatten()[:: max(1, weight.numel() // 4096)].double()
        total = values[::2].sum() - values[1::2].sum()
        numbers[name] = (total / values.norm().clamp(min=1e-30)).item()
    return numbers
