"""Distribution alignment: which class each image of a batch should get, and the losses that ask for it.

Targets move as few images as possible, as little as possible, until the batch has the wanted shares (FFD's
distributional alignment loss, Shen et al., ICLR 2024; METHODS section 2). Confidence says how sure a target is, given
that N images drawn from the wanted distribution would not hold its shares exactly.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import binom
from torch.nn import functional

from fairnb.errors import UserError

NO_FACE = -1  # the target of an image without a face: it is excluded, and can be counted

# {"gender": [K] shares} or, jointly, {("gender", "age"): [K1, K2] shares}; several keys are aligned one by one.
Shares = Mapping[str | tuple[str, ...], object]


def rank_targets(probs: torch.Tensor, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Targets [N] (0 or 1) and confidence [N] from p(class 1) [N]: the `share` of the images ranked highest get 1.

    In a fair draw the number C of class-1 images is Binomial(N, share). The image at rank i (0 is the highest) keeps
    its target with probability P(C > i) where that is 1, P(C <= i) where it is 0: right for every share.
    """
    _checked("two classes", [1 - share, share], (2,))
    number = len(probs)
    ranks = torch.empty(number, dtype=torch.long)
    ranks[probs.detach().cpu().argsort(descending=True, stable=True)] = torch.arange(number)
    targets = (ranks < round(share * number)).long()
    above = torch.from_numpy(binom.sf(ranks.numpy(), number, share))
    confidence = torch.where(targets == 1, above, 1 - above)
    return targets.to(probs.device), confidence.float().to(probs.device)


def transport_targets(
    probs: torch.Tensor | Mapping[str, torch.Tensor],
    shares: object,
    draws: int = 100,
    generator: torch.Generator | None = None,
) -> tuple[torch.Tensor | dict[str, torch.Tensor], torch.Tensor]:
    """Targets [N] and confidence [N] by optimal transport, for any number of classes.

    Class counts are drawn from `shares` ([K], or [K1,K2,...] over the attributes of a mapping of `probs`, each
    [N,K_a]); images are assigned to them at the least total distance between probabilities and one-hot classes (over
    several attributes the root of the summed squares). The confidence of a class is the part of the draws that give
    it; the target is the surest class. A mapping gives targets per attribute, from one assignment to joint classes.
    """
    several = {"": probs} if isinstance(probs, torch.Tensor) else probs
    sizes = tuple(values.shape[1] for values in several.values())
    shares = _checked(" and ".join(several) or "the attribute", shares, sizes)
    number = len(next(iter(several.values())))
    cost = _cost(list(several.values()), sizes)
    drawn = torch.multinomial(shares.flatten(), draws * number, replacement=True, generator=generator)
    kept = np.zeros_like(cost)
    lots, times = np.unique(drawn.view(draws, number).sort().values.numpy(), axis=0, return_counts=True)
    for classes, repeats in zip(lots, times, strict=True):
        rows, columns = linear_sum_assignment(cost[:, classes])
        kept[rows, classes[columns]] += repeats / draws
    device = next(iter(several.values())).device
    confidence = torch.from_numpy(kept.max(1)).float().to(device)
    cells = np.unravel_index(kept.argmax(1), sizes)
    targets = {name: torch.from_numpy(cell).to(device) for name, cell in zip(several, cells, strict=True)}
    return (targets[""] if isinstance(probs, torch.Tensor) else targets), confidence


def targets(
    probs: Mapping[str, torch.Tensor],
    shares: Shares,
    *,
    found: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Targets [N] and confidence [N] per attribute that `shares` names; the rank rule for two classes, else transport.

    `probs` maps attributes to [N,K]; images not `found` ([N] bool) to have a face are left out: their target is
    `NO_FACE`, their confidence 0. A key of `shares` that is a tuple of attributes aligns them jointly. `UserError`
    when shares do not sum to 1, have another number of classes, or name an attribute without probabilities.
    """
    number = len(next(iter(probs.values())))
    device = next(iter(probs.values())).device
    faces = torch.ones(number, dtype=torch.bool, device=device) if found is None else found.to(device)
    chosen, sure = {}, {}
    for key, wanted in shares.items():
        names = (key,) if isinstance(key, str) else key
        if missing := [name for name in names if name not in probs]:
            raise UserError(f"shares name '{missing[0]}', which the classifier does not give: use {', '.join(probs)}")
        wanted = _checked(" and ".join(names), wanted, tuple(probs[name].shape[1] for name in names))
        if not faces.any():
            given, confidence = {name: torch.empty(0, device=device) for name in names}, torch.empty(0, device=device)
        elif wanted.shape == (2,):
            given, confidence = rank_targets(probs[names[0]][faces, 1], wanted[1].item())
            given = {names[0]: given}
        else:
            given, confidence = transport_targets(
                {name: probs[name][faces] for name in names}, wanted, generator=generator
            )
        for name in names:
            chosen[name] = torch.full((number,), NO_FACE, device=device)
            chosen[name][faces] = given[name].long()
            sure[name] = torch.zeros(number, device=device)
            sure[name][faces] = confidence
    return chosen, sure


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


def _cost(probs: list[torch.Tensor], sizes: tuple[int, ...]) -> np.ndarray:
    """[N, K1*K2*...] distance of each image's probabilities to each (joint) class."""
    squares = np.zeros((len(probs[0]), *sizes))
    for axis, values in enumerate(probs):
        values = values.detach().double().cpu()
        distance = torch.cdist(
            values, torch.eye(sizes[axis], dtype=torch.float64), compute_mode="donot_use_mm_for_euclid_dist"
        )
        shape = [len(values)] + [1] * len(sizes)
        shape[axis + 1] = sizes[axis]
        squares += distance.square().numpy().reshape(shape)
    return np.sqrt(squares).reshape(len(squares), -1)


def _checked(what: str, shares: object, sizes: tuple[int, ...]) -> torch.Tensor:
    """Shares as a float64 tensor of shape `sizes`; `UserError` unless they are one distribution over the classes."""
    wanted = torch.as_tensor(shares, dtype=torch.float64).cpu()
    if tuple(wanted.shape) != sizes:
        raise UserError(f"shares of {what} have shape {tuple(wanted.shape)}: give {sizes}, one share per class")
    if not (wanted >= 0).all() or abs(wanted.sum().item() - 1) > 1e-3:
        raise UserError(f"shares of {what} sum to {wanted.sum().item():g}: give shares from 0 to 1 that sum to 1")
    return wanted / wanted.sum()
