"""How alike two sets of images are."""

import warnings

import torch
from torchmetrics.image.kid import KernelInceptionDistance

from fairnb.errors import UserError


def kid(features: torch.Tensor, reference: torch.Tensor, *, size: int, seed: int, subsets: int = 50):
    """Kernel distance (mean, std over random subsets) of two sets of features [N, D], [M, D]; near 0 for equal ones.

    Binkowski et al. 2018: unlike FID it is not biased by a small number of pictures. Features come normalised and are
    multiplied by sqrt(D), so that the kernel (x y / D + 1)^3 sees their cosine. `size` is that of a subset, at most
    that of the smaller set. Only values made with the same features compare.
    """
    if not 2 <= size <= min(len(features), len(reference)):
        raise UserError(f"a subset of {size} cannot be drawn from {min(len(features), len(reference))} pictures")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it will keep the features: they are here already
        distance = KernelInceptionDistance(torch.nn.Identity(), subsets=subsets, subset_size=size)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        distance.update(reference.cpu() * reference.shape[1] ** 0.5, real=True)
        distance.update(features.cpu() * features.shape[1] ** 0.5, real=False)
        mean, deviation = distance.compute()
    return mean.item(), deviation.item()
