"""How similar images are to their originals (CLIP-I), and how far apart two sets of images are (KID)."""

from pathlib import Path

import torch

from fairnb.errors import UserError
from fairnb.measure.folders import image_batches, picture_rows
from fairnb.vision.encoders import Clip


@torch.no_grad()
def mean_image_similarity(clip: Clip, one: Path, two: Path, batch: int = 64) -> float:
    """Mean cosine (CLIP-I) of the images of two folders (see `folders.picture_rows`), paired by prompt and number."""
    features = []
    for folder in (one, two):
        rows, found = picture_rows(folder)[0], {}
        for some, images in image_batches(folder, rows, batch):
            keys = [(row["prompt_id"], row["image"]) for row in some]
            found |= zip(keys, clip.image_features(images.to(clip.mean.device)), strict=True)
        features.append(found)
    if lone := features[0].keys() ^ features[1].keys():
        prompt_id, image = min(lone)
        raise UserError(
            f"image {image} of prompt {prompt_id} is in one of {one} and {two} only: generate as many of both"
        )
    return torch.stack([(features[0][key] * features[1][key]).sum() for key in features[0]]).mean().item()


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
