"""How similar images are to their prompts (CLIP-T), to originals (CLIP-I, DINO) and to each other (variety), and how
far apart two sets of images are (KID, FID)."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
import torch

from fairnb.errors import UserError
from fairnb.measure.folders import image_batches, picture_rows
from fairnb.measure.generate import PLAN
from fairnb.vision.encoders import Clip, Dino


def image_set(folder: str | Path, prompts: Sequence[str] | None = None) -> pd.DataFrame:
    """One row per image of a folder (see `folders.picture_rows`): file, key (prompt_id, image), prompt and seed.

    Prompt and seed are those that `generate` recorded; without a record the seed is None, and the prompt of
    prompt_<i>/ is that at position i of `prompts`, or None. `UserError` for a folder that does not fit `prompts`.
    """
    folder = Path(folder)
    table = pd.DataFrame(picture_rows(folder)[0])
    table["file"] = [folder / path for path in table.path]
    table["key"] = list(zip(table.prompt_id, table.image, strict=True))
    if not any((place / PLAN).is_file() for place in (folder, folder / "images")):
        table["seed"], table["prompt"] = None, None
        if prompts is not None:
            table["prompt"] = [_prompt_of(file, prompts) for file in table.file]
    return table[["file", "key", "prompt", "seed"]]


def _prompt_of(file: Path, prompts: Sequence[str]) -> str:
    number = re.fullmatch(r"prompt_(\d+)", file.parent.name)
    if number is None or int(number[1]) >= len(prompts):
        raise UserError(
            f"{file} belongs to none of the {len(prompts)} prompts: images must lie in prompt_0 to "
            f"prompt_{len(prompts) - 1}"
        )
    return prompts[int(number[1])]


def paired(one: pd.DataFrame, two: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The images of two sets that have the same numbers, as rows `row` and `row_other`, and what makes them pairs.

    No pairs if both sets tell prompt and seed, and these differ: an image is compared only with that of its own noise.
    """
    one, two = (each.reset_index(names="row") for each in (one, two))
    both = one.merge(two, on="key", suffixes=("", "_other"))
    if both.empty:
        return both, "the two folders have no image of the same prompt and number"
    if both.seed.isna().all() or both.seed_other.isna().all():
        return both, "paired by number: nothing tells that they come from the same noise"
    if (differs := (both.prompt != both.prompt_other) | (both.seed != both.seed_other)).any():
        return both[:0], f"{both.file[differs].iloc[0]} is of another prompt or seed than its counterpart"
    return both, "of the same prompt and noise"


def mean_image_similarity(encoder: Clip | Dino, one: Path, two: Path) -> float:
    """Mean cosine (CLIP-I, DINO) of the images of two folders, which are `paired`.

    `UserError` for an image that only one of them holds, and for images of other prompts or seeds.
    """
    sets = [image_set(place) for place in (one, two)]
    for each, place, other in zip(sets, (two, one), sets[::-1], strict=True):
        if len(lone := each.file[~each.key.isin(other.key)]):
            raise UserError(f"{lone.iloc[0]} has no counterpart in {place}: generate as many of both")
    pairs, why = paired(*sets)
    if pairs.empty:
        raise UserError(f"{one} and {two} cannot be compared: {why}")
    first, second = (image_features(encoder, each.file) for each in sets)
    return (first[pairs.row.tolist()] * second[pairs.row_other.tolist()]).sum(1).mean().item()


@torch.no_grad()
def prompt_similarity(clip: Clip, features: torch.Tensor, prompts: Sequence[str]) -> float:
    """Mean cosine of images, given by their CLIP features [N, D], and the prompt of each (CLIP-T)."""
    names = list(dict.fromkeys(prompts))
    texts = torch.cat([clip.text_features(names[start : start + 64]) for start in range(0, len(names), 64)])
    place = {name: number for number, name in enumerate(names)}
    own = texts[torch.tensor([place[prompt] for prompt in prompts], device=texts.device)]
    return (features * own).sum(1).mean().item()


@torch.no_grad()
def image_features(encoder: Clip | Dino, files: Iterable[Path], batch: int = 64) -> torch.Tensor:
    """Features [N, D] of norm 1 of image files of any sizes, on the encoder's device."""
    batches = image_batches(Path(), ({"path": file} for file in files), batch)
    return torch.cat([encoder.image_features(images.to(encoder.mean.device)) for _, images in batches])


def variety(features: torch.Tensor, prompts: Sequence) -> float:
    """How different two images of one prompt are: mean of 1 - cosine over the pairs, then over the prompts.

    `features` [N, D] of norm 1, and the prompt of each; NaN if none has two images. It falls for a model that draws one
    face over and over.
    """
    distances = []
    for rows in pd.Series(range(len(prompts))).groupby(list(prompts)).indices.values():
        if (count := len(rows)) > 1:
            own = features[rows.tolist()]
            distances.append(1 - ((own @ own.T).sum().item() - count) / (count * (count - 1)))
    return sum(distances) / len(distances) if distances else float("nan")


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


def fid(features: torch.Tensor, reference: torch.Tensor) -> float:
    """Frechet distance of two sets of features [N, D], [M, D] (Heusel et al. 2017), each taken as normally distributed:
    |m1 - m2|^2 + trace(S1 + S2 - 2 (S1 S2)^(1/2)), with the features times sqrt(D) as in `kid`.

    Not the published FID unless the features are those of its Inception network: values compare only if they were made
    with the same encoder and as many images. With few images it is too high, and not by the same amount for every
    model: below D images the covariances cannot even be estimated. `UserError` for fewer than two images.
    """
    if min(len(features), len(reference)) < 2:
        raise UserError(f"FID needs two images at least in each set, not {min(len(features), len(reference))}")
    one, two = (each.cpu().double() * each.shape[1] ** 0.5 for each in (features, reference))
    first, second = (torch.atleast_2d(torch.cov(each.T)) for each in (one, two))
    values, vectors = torch.linalg.eigh(first)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T  # (S1 S2)^(1/2) has the trace of (R S2 R)^(1/2), R R = S1
    overlap = torch.linalg.eigvalsh(root @ second @ root).clamp_min(0).sqrt().sum()
    between = (one.mean(0) - two.mean(0)).square().sum()
    return (between + first.trace() + second.trace() - 2 * overlap).item()
