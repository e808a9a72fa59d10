"""How similar images are to their originals (CLIP-I), and how far apart two sets of images are (KID)."""

from pathlib import Path

import torch

from fairnb.errors import UserError
from fairnb.measure.images import load_image
from fairnb.vision.encoders import Clip


@torch.no_grad()
def mean_image_similarity(clip: Clip, one: Path, two: Path, batch: int = 64) -> float:
    """Mean cosine (CLIP-I) of the images of two folders of `generate`, paired by file name."""
    names = sorted(path.relative_to(one) for path in one.glob("prompt_*/img_*.png"))
    cosines = []
    for start in range(0, len(names), batch):
        features = []
        for place in (one, two):
            images = torch.stack([load_image(place / name) for name in names[start : start + batch]])
            features.append(clip.image_features(images.to(clip.mean.device)))
        cosines.append((features[0] * features[1]).sum(1))
    return torch.cat(cosines).mean().item()


def kid(features: torch.Tensor, reference: torch.Tensor, *, size: int, seed: int, subsets: int = 50):
    """Kernel distance of two sets of features [N, D], [M, D]: mean and standard deviation over random subsets.

    Binkowski et al. 2018: the unbiased squared MMD with the kernel (x y / D + 1)^3, near 0 for equal distributions;
    unlike FID it has no bias for few images. Features come with norm 1 and are multiplied by sqrt(D), so that the
    kernel sees their cosine. `size` is that of a subset, at most that of the smaller set. Values compare only if they
    were made with the same encoder.
    """
    if not 2 <= size <= min(len(features), len(reference)):
        raise UserError(f"a subset of {size} cannot be drawn from {min(len(features), len(reference))} pictures")
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(subsets):
        x, y = (each.cpu()[torch.randperm(len(each), generator=generator)[:size]] for each in (reference, features))
        within = [((a @ a.T + 1) ** 3).fill_diagonal_(0).sum() / (size * (size - 1)) for a in (x, y)]
        values.append(within[0] + within[1] - 2 * ((x @ y.T + 1) ** 3).mean())
    values = torch.stack(values)
    return values.mean().item(), values.std(unbiased=False).item()
