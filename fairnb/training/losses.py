"""The losses of distribution alignment (FFD, Shen et al., ICLR 2024): change the class, keep the image."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional

from fairnb.vision.perception import NO_FACE


def classification_loss(
    logits: torch.Tensor, target: torch.Tensor, confident: torch.Tensor, images: int
) -> torch.Tensor:
    """Cross-entropy of logits [N,K] and targets [N], summed over the confident [N] images with a face and divided by
    all `images` of the update.

    So an update with few confident targets has a small class loss (FFD), and the parts of an update add up.
    """
    used = confident & (target != NO_FACE)
    return functional.cross_entropy(logits[used], target[used], reduction="sum") / images


def must_change(target: torch.Tensor, original_class: torch.Tensor) -> torch.Tensor:
    """Whether [N] the target differs from the class of the original face; both [N], or [N,A] for A attributes."""
    changed = (target != original_class) & (target != NO_FACE) & (original_class != NO_FACE)
    return changed.reshape(len(changed), -1).any(1)


def dynamic_weight(
    target: torch.Tensor, confident: torch.Tensor, original_class: torch.Tensor, factor: float | Sequence[float]
) -> torch.Tensor:
    """FFD's dynamic weight [N] of the image losses: 1 where a confident target is the class of the original face.

    Everywhere else it is `factor`: where the class must change, where the target is not confident, and without a face.
    All are [N], or [N,A] for A attributes, each of which may have its own factor; then the least of the A weights
    counts.
    """
    kept = (confident & (target == original_class) & (original_class != NO_FACE)).reshape(len(target), -1)
    factors = torch.as_tensor(factor, dtype=torch.float32, device=target.device)
    return torch.where(kept, 1.0, factors).amin(1)


def semantics_loss(
    features: torch.Tensor, reference_features: torch.Tensor, weight: torch.Tensor | float
) -> torch.Tensor:
    """Mean of weight [N] * (1 - cosine) between features [N,D] and those of the reference images of the same noises."""
    return (weight * (1 - functional.cosine_similarity(features, reference_features, dim=-1))).mean()


def damped_inside(images: torch.Tensor, boxes: np.ndarray, factor: torch.Tensor) -> torch.Tensor:
    """Return the images [N,3,H,W] unchanged, with their gradient multiplied by a factor [N] inside each one's box
    [N,4].

    So the image loss holds a face whose class must change less than the rest of its image (FFD). Boxes are x0, y0, x1,
    y1 in pixels, those of `shared_box`; a NaN box is empty.
    """
    x, y = (torch.arange(size, device=images.device) for size in (images.shape[-1], images.shape[-2]))
    x0, y0, x1, y1 = torch.as_tensor(boxes, device=images.device).T[..., None].unbind(0)
    inside = ((y >= y0) & (y < y1))[:, :, None] & ((x >= x0) & (x < x1))[:, None, :]
    scale = torch.where(inside, factor[:, None, None], 1.0)[:, None]
    return images.detach() + (images - images.detach()) * scale


def shared_box(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The intersection [N,4] of boxes [N,4], x0, y0, x1, y1: NaN where one is NaN, empty where they do not meet."""
    return np.concatenate([np.maximum(one, other)[:, :2], np.minimum(one, other)[:, 2:]], 1)


def nearest_faces(
    features: torch.Tensor, classes: torch.Tensor, bank: torch.Tensor, bank_classes: torch.Tensor
) -> torch.Tensor:
    """Features [N,D] of the bank's [M,D] face most similar to each of `features` [N,D], among those of its `classes`.

    NaN where the bank has none of `classes` [N,A]. All features have norm 1. FFD searches its whole bank with features
    of a face recognition network. Our features separate classes, so the most similar face overall would be one of the
    class that must change.
    """
    similar = features @ bank.T
    same = (classes[:, None] == bank_classes[None]).all(-1)
    goal = bank[similar.masked_fill(~same, -torch.inf).argmax(1)]
    return torch.where(same.any(1, keepdim=True), goal, torch.nan)


def face_loss(features: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
    """FFD's face realism loss: sum of 1 - cosine between normalised features [N,D] and goals [N,D]; NaN goals are
    skipped."""
    has_goal = goal.isfinite().all(1)
    return (1 - (features * goal.nan_to_num()).sum(1))[has_goal].sum()


def latent_loss(latents: torch.Tensor, reference: torch.Tensor, weight: torch.Tensor | float) -> torch.Tensor:
    """Mean of weight [N] * mean squared distance between latents [N,C,h,w] and those of the reference images."""
    return (weight * (latents - reference).square().flatten(1).mean(1)).mean()
