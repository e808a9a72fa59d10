"""Distribution alignment: which class each image of a batch should get, and the losses that ask for it.

Targets move as few images as possible, as little as possible, until the batch has the wanted shares (FFD's
distributional alignment loss, Shen et al., ICLR 2024; METHODS section 2). Confidence says how sure a target is, given
that N images drawn from the wanted distribution would not hold its shares exactly.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional

from fairnb.vision.perception import NO_FACE


def classification_loss(logits: torch.Tensor, target: torch.Tensor, confident: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of logits [N,K] to targets [N] over confident [N] images with a face; 0 where none is."""
    used = confident & (target != NO_FACE)
    return functional.cross_entropy(logits[used], target[used], reduction="sum") / used.sum().clamp(min=1)


def must_change(target: torch.Tensor, original_class: torch.Tensor) -> torch.Tensor:
    """Whether [N] a face's target is another class than its original had; both [N], or [N,A] for A attributes."""
    changed = (target != original_class) & (target != NO_FACE) & (original_class != NO_FACE)
    return changed.reshape(len(changed), -1).any(1)


def dynamic_weight(target: torch.Tensor, original_class: torch.Tensor, factor: float | Sequence[float]) -> torch.Tensor:
    """Weight [N] of the image losses: `factor` where the class must change, else 1 (also without a face).

    Of several attributes each may have a factor of its own; the least of those that must change counts.
    """
    pairs = target.reshape(len(target), -1), original_class.reshape(len(target), -1)
    changes = torch.stack([must_change(*columns) for columns in zip(*(pair.T for pair in pairs), strict=True)], 1)
    factors = torch.as_tensor(factor, dtype=torch.float32, device=target.device)
    return torch.where(changes, factors, 1.0).amin(1)


def semantics_loss(
    features: torch.Tensor, reference_features: torch.Tensor, weight: torch.Tensor | float
) -> torch.Tensor:
    """Mean of weight [N] * (1 - cosine) between features [N,D] and those of the same noise's reference image."""
    return (weight * (1 - functional.cosine_similarity(features, reference_features, dim=-1))).mean()


def damped_inside(images: torch.Tensor, boxes: np.ndarray, factor: torch.Tensor) -> torch.Tensor:
    """The images [N,3,H,W] themselves, whose gradient inside each one's box is multiplied by its factor [N].

    FFD: where a face's class must change, the image loss holds the face back less than the rest. Boxes [N,4] are x0,
    y0, x1, y1 in pixels; a NaN box has no inside.
    """
    x, y = (torch.arange(size, device=images.device) for size in (images.shape[-1], images.shape[-2]))
    x0, y0, x1, y1 = torch.as_tensor(boxes, device=images.device).T[..., None].unbind(0)
    inside = ((y >= y0) & (y < y1))[:, :, None] & ((x >= x0) & (x < x1))[:, None, :]
    scale = torch.where(inside, factor[:, None, None], 1.0)[:, None]
    return images.detach() + (images - images.detach()) * scale


def nearest_faces(
    features: torch.Tensor, classes: torch.Tensor, bank: torch.Tensor, bank_classes: torch.Tensor
) -> torch.Tensor:
    """For faces with features [N,D] that should be of `classes` [N,A]: the most similar [N,D] of a bank's faces [M,D]
    of these classes; NaN where it has none. All features are normalised.

    FFD searches its whole bank with the features of a network that tells persons apart. Ours tell classes apart, so
    that the nearest of all would be one of the class that is to change.
    """
    similar = features @ bank.T
    same = (classes[:, None] == bank_classes[None]).all(-1)
    goal = bank[similar.masked_fill(~same, -torch.inf).argmax(1)]
    return torch.where(same.any(1, keepdim=True), goal, torch.nan)


def face_loss(features: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
    """Sum of 1 - cosine between normalised features [N,D] of faces and those [N,D] of whole ones; a NaN goal is left
    out (FFD's face-realism loss)."""
    has_goal = goal.isfinite().all(1)
    return (1 - (features * goal.nan_to_num()).sum(1))[has_goal].sum()


def latent_loss(latents: torch.Tensor, reference: torch.Tensor, weight: torch.Tensor | float) -> torch.Tensor:
    """Mean of weight [N] * mean squared distance between latents [N,C,h,w] and those of a reference picture."""
    return (weight * (latents - reference).square().flatten(1).mean(1)).mean()
