"""Target classes for the images of a batch (FFD's distributional alignment, Shen et al., ICLR 2024).

Targets change as few images as possible, as little as possible, until the batch has the target shares. The confidence
of a target accounts for chance: N images drawn from the target distribution would rarely have exactly its shares.
"""

from collections.abc import Mapping

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import binom

from fairnb.errors import UserError
from fairnb.vision.perception import NO_FACE

# {"gender": [K] shares} or, jointly, {("gender", "age"): [K1, K2] shares}; several keys are aligned independently.
Shares = Mapping[str | tuple[str, ...], object]


def rank_targets(probs: torch.Tensor, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Targets [N] (0 or 1) and confidence [N] from p(class 1) [N]: the images ranked highest, a `share` of all, get 1.

    In a draw from the target distribution the number C of class-1 images is Binomial(N, share). The image at rank i (0
    is the highest) keeps target 1 with probability P(C > i), and target 0 with P(C <= i).
    """
    _checked_shares("two classes", [1 - share, share], (2,))
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
) -> tuple[torch.Tensor, torch.Tensor] | tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Targets [N] and confidence [N] by optimal transport, for any number of classes.

    Each of `draws` samples N classes from `shares` ([K], or [K1,K2,...] over the attributes of a mapping of `probs`,
    each [N,K_a]), and assigns images to them at the smallest total distance between probabilities and one-hot classes
    (over several attributes: the root of the summed squares). The confidence of a class is the fraction of the draws
    that assign it; the target is the class with the highest confidence. A mapping gives both per attribute: the
    assignment is to joint classes, but each attribute takes the classes of its own, whatever the others are assigned
    (its marginal), since an image may be sure to become one gender while its skin tone is open.
    """
    several = {"": probs} if isinstance(probs, torch.Tensor) else probs
    sizes = tuple(values.shape[1] for values in several.values())
    shares = _checked_shares(" and ".join(several) or "the attribute", shares, sizes)
    number = len(next(iter(several.values())))
    cost = _cost(list(several.values()), sizes)
    drawn = torch.multinomial(shares.flatten(), draws * number, replacement=True, generator=generator)
    kept = np.zeros_like(cost)
    lots, times = np.unique(drawn.view(draws, number).sort().values.numpy(), axis=0, return_counts=True)
    for classes, repeats in zip(lots, times, strict=True):
        rows, columns = linear_sum_assignment(cost[:, classes])
        kept[rows, classes[columns]] += repeats / draws
    device = next(iter(several.values())).device
    joint = torch.from_numpy(kept).reshape(number, *sizes).to(device)
    chosen, sure = {}, {}
    for axis, name in enumerate(several, start=1):
        others = [other for other in range(1, joint.ndim) if other != axis]
        best = (joint.sum(others) if others else joint).max(1)
        chosen[name], sure[name] = best.indices, best.values.float()
    return (chosen[""], sure[""]) if isinstance(probs, torch.Tensor) else (chosen, sure)


def targets(
    probs: Mapping[str, torch.Tensor],
    shares: Shares,
    *,
    found: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Targets [N] and confidence [N] per attribute of `shares`: the rank rule for two classes, else optimal transport.

    `probs` maps attributes to [N,K]. Images without a face (`found` [N] is false) get the target `NO_FACE` and
    confidence 0. A tuple of attributes as a key of `shares` aligns them jointly. `UserError` if shares do not sum to 1,
    do not fit the number of classes, or name an attribute without probabilities.
    """
    number = len(next(iter(probs.values())))
    device = next(iter(probs.values())).device
    faces = torch.ones(number, dtype=torch.bool, device=device) if found is None else found.to(device)
    chosen, sure = {}, {}
    for key, wanted in shares.items():
        names = (key,) if isinstance(key, str) else key
        if missing := [name for name in names if name not in probs]:
            raise UserError(f"shares name '{missing[0]}', which the classifier does not give: use {', '.join(probs)}")
        wanted = _checked_shares(" and ".join(names), wanted, tuple(probs[name].shape[1] for name in names))
        if not faces.any():
            given = confidence = {name: torch.empty(0, device=device) for name in names}
        elif wanted.shape == (2,):
            ranked = rank_targets(probs[names[0]][faces, 1], wanted[1].item())
            given, confidence = ({names[0]: values} for values in ranked)
        else:
            given, confidence = transport_targets(
                {name: probs[name][faces] for name in names}, wanted, generator=generator
            )
        for name in names:
            chosen[name] = torch.full((number,), NO_FACE, device=device)
            chosen[name][faces] = given[name].long()
            sure[name] = torch.zeros(number, device=device)
            sure[name][faces] = confidence[name]
    return chosen, sure


def _cost(probs: list[torch.Tensor], sizes: tuple[int, ...]) -> np.ndarray:
    """Distance [N, K1*K2*...] of each image's probabilities to each (joint) class."""
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


def _checked_shares(what: str, shares: object, sizes: tuple[int, ...]) -> torch.Tensor:
    """Return shares as a float64 tensor of shape `sizes`; `UserError` unless they are a distribution over the
    classes."""
    wanted = torch.as_tensor(shares, dtype=torch.float64).cpu()
    if tuple(wanted.shape) != sizes:
        raise UserError(f"shares of {what} have shape {tuple(wanted.shape)}: give {sizes}, one share per class")
    if not (wanted >= 0).all() or abs(wanted.sum().item() - 1) > 1e-3:
        raise UserError(f"shares of {what} sum to {wanted.sum().item():g}: give shares from 0 to 1 that sum to 1")
    return wanted / wanted.sum()
