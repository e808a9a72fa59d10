"""Linear classifiers of h, the output of the U-Net's mid block: Balancing Act's attribute distribution predictor.

One classifier per timestep predicts which class an unfinished image will show. It is trained on h of images from named
prompts (`h_classifier_from_captured`) or, by DDIM inversion, of any images (`h_classifier_from_folders`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from scipy.stats import mannwhitneyu
from torch.nn import functional
from tqdm import tqdm

from fairnb.adapters.h_space import invert, recording_h
from fairnb.diffusion.pipeline import image_size
from fairnb.diffusion.sampling import noise, sample
from fairnb.errors import UserError
from fairnb.measure.images import fit_image, load_image
from fairnb.profiles import Sampling
from fairnb.prompts.attributes import get_attribute
from fairnb.prompts.templates import name_class
from fairnb.vision.perception import VisionModels

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
FEWEST = 8  # images of a class that a classifier needs


@dataclass
class HClassifier:
    """A linear classifier of h for each of T timesteps (descending): `weight` [T, K, D], `offset` [T, K].

    `accuracy` [T] on held-out images, mean over the classes; `reliable` [T], how well it ranks two images of the same
    prompt (`reliability`). A classifier that only reads the prompt from h is accurate but not reliable.
    """

    attribute: str
    classes: tuple[str, ...]
    timesteps: torch.Tensor
    weight: torch.Tensor
    offset: torch.Tensor
    accuracy: torch.Tensor
    reliable: torch.Tensor

    def nearest(self, timestep: float) -> int:
        """The position of the classifier with the nearest timestep."""
        return int((self.timesteps - timestep).abs().argmin())

    def logits(self, h: torch.Tensor, position: int) -> torch.Tensor:
        """Logits [N, K] of h [N, D] or [N, C, y, x]."""
        return h.flatten(1).float() @ self.weight[position].T + self.offset[position]


def fit_h_classifier(
    h: Mapping[int, torch.Tensor],
    labels: Sequence[int],
    attribute: str,
    classes: Sequence[str],
    *,
    penalty: float = 1e-2,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> HClassifier:
    """Train a linear classifier for each timestep of h (see `recording_h`) on the classes [N] of the images.

    Multinomial logistic regression by L-BFGS with class weights, and an L2 penalty of `penalty`. A quarter of each
    class is held out for `accuracy` and for a first estimate of `reliable`. `UserError` for a class with fewer than
    `FEWEST` images.
    """
    labels = torch.as_tensor(np.asarray(labels)).long()
    for name, number in zip(classes, torch.bincount(labels, minlength=len(classes)).tolist(), strict=True):
        if number < FEWEST:
            raise UserError(
                f"class '{name}' of {attribute} has {number} images, too few for a classifier: give at least {FEWEST}"
            )
    generator = torch.Generator().manual_seed(seed)
    tested = torch.zeros(len(labels), dtype=torch.bool)
    for k in range(len(classes)):
        rows = torch.nonzero(labels == k).flatten()
        tested[rows[torch.randperm(len(rows), generator=generator)[: len(rows) // 4]]] = True
    timesteps = sorted(h, reverse=True)
    found = [
        _logistic(h[at][~tested].float().to(device), labels[~tested].to(device), len(classes), penalty)
        for at in timesteps
    ]
    weight, offset = map(torch.stack, zip(*found, strict=True))
    times = torch.tensor(timesteps, device=device).float()
    made = HClassifier(attribute, tuple(classes), times, weight, offset, torch.zeros(0), torch.zeros(0))
    seen = {at: values[tested] for at, values in h.items()}
    logits = [made.logits(seen[at].to(device), position) for position, at in enumerate(timesteps)]
    right = [(each.argmax(1).cpu() == labels[tested]).float() for each in logits]
    made.accuracy = torch.stack(
        [torch.stack([each[labels[tested] == k].mean() for k in range(len(classes))]).mean() for each in right]
    )
    made.reliable = reliability(made, seen, labels[tested], [0] * int(tested.sum()))
    return made


def _logistic(x: torch.Tensor, y: torch.Tensor, classes: int, penalty: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight [K, D] and offset [K] of a multinomial logistic regression on x [N, D]."""
    mean = x.mean(0)
    length = (x - mean).square().sum(1).mean().sqrt().clamp(min=1e-8)
    x = (x - mean) / length  # so that a penalty means the same at every timestep and width
    weight = torch.zeros(classes, x.shape[1], device=x.device, requires_grad=True)
    offset = torch.zeros(classes, device=x.device, requires_grad=True)
    balance = 1 / torch.bincount(y, minlength=classes).float()
    optimizer = torch.optim.LBFGS([weight, offset], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = functional.cross_entropy(x @ weight.T + offset, y, balance) + penalty * weight.square().sum() / classes
        value.backward()
        return value

    optimizer.step(loss)
    weight, offset = weight.detach() / length, offset.detach()
    return weight, offset - weight @ mean


def reliability(
    classifier: HClassifier, h: Mapping[int, torch.Tensor], labels: Sequence[int], prompts: Sequence
) -> torch.Tensor:
    """How well a classifier separates images of the same prompt, for each of its timesteps: [T], .5 is chance.

    The area under the ROC curve: the share of pairs of an image of a class and one of another class whose first image
    has the higher score of that class, over all classes and all `prompts` [N] with images of more than one class.
    Across prompts even a classifier that reads only the prompt would do well.
    """
    labels, values = np.asarray(labels), []
    groups = [[number for number, name in enumerate(prompts) if name == each] for each in dict.fromkeys(prompts)]
    for position, timestep in enumerate(classifier.timesteps.tolist()):
        scores = classifier.logits(h[round(timestep)].to(classifier.weight), position).log_softmax(1).cpu().numpy()
        pairs = won = 0.0
        for rows in groups:
            for k in range(len(classifier.classes)):
                inside, outside = (scores[rows][labels[rows] == k, k], scores[rows][labels[rows] != k, k])
                if inside.size and outside.size:
                    pairs += inside.size * outside.size
                    won += mannwhitneyu(inside, outside, method="asymptotic").statistic  # pairs won, ties by half
        values.append(won / pairs if pairs else np.nan)
    return torch.tensor(values, dtype=torch.float32)


def h_classifier_from_captured(
    captured: Mapping[str, torch.Tensor], attribute: str, *, seed: int, device: torch.device | str
) -> HClassifier:
    """Train the h-classifier of an attribute on what `capture_h` has captured.

    The prompts name the class, and images are used if the guide is sure of it. The reliability is measured on as many
    images of the plain prompts of whose class the guide is sure: in a named prompt h contains the word, and the
    classifier is right before there is an image.
    """
    about = get_attribute(attribute)
    prompts, images = captured["plain.classes"].shape

    def of(kind: str) -> tuple[dict[int, torch.Tensor], torch.Tensor, torch.Tensor]:
        """h of all images of a kind per timestep, the guide's classes [N], and whether it is sure of them [N]."""
        rows = {key.split(".")[1]: values.flatten(0, 1) for key, values in captured.items() if key.startswith(kind)}
        classes, sure = rows.pop("classes"), rows.pop("sure").bool()
        return {int(at): values for at, values in rows.items()}, classes, sure

    h, classes, sure = of("named")
    asked = torch.arange(len(about.words)).repeat_interleave(images).repeat(prompts)
    good = sure & (classes == asked)
    kept = {at: values[good] for at, values in h.items()}
    made = fit_h_classifier(kept, asked[good], attribute, about.classes, seed=seed, device=device)
    h, classes, sure = of("plain")
    where = torch.arange(prompts).repeat_interleave(images)[sure].tolist()
    made.reliable = reliability(made, {at: values[sure] for at, values in h.items()}, classes[sure], where)
    if made.reliable.isnan().any():
        raise UserError(
            f"the images of each prompt show one class of {attribute} only, so the classifier cannot be tested on "
            f"two of the same prompt: use more than {images} images, or less biased prompts"
        )
    return made


@torch.no_grad()
def capture_h(
    pipe: StableDiffusionPipeline,
    vision: VisionModels,
    attribute: str,
    prompts: Sequence[str],
    *,
    images: int,
    sampling: Sampling,
    seed: int,
) -> dict[str, torch.Tensor]:
    """Draw what `h_classifier_from_captured` learns from: "named.<timestep>" is h [prompts, N, D] of `images` images of
    each class named, "named.classes" and "named.sure" [prompts, N] are what the guide sees; "plain" without a name."""
    captured = {}
    for kind, words in (("named", get_attribute(attribute).words), ("plain", [""])):
        classes, sure = [], []
        with recording_h(pipe) as h:
            for prompt in tqdm(prompts, f"h of {kind} prompts"):
                for word in words:
                    for part in noise(pipe, prompt, range(images), seed).split(sampling.batch):
                        how = {"steps": sampling.steps, "guidance_scale": sampling.guidance_scale}
                        latents = sample(pipe, name_class(prompt, word), part, **how)
                        seen = vision.perceive(pipe, latents, sampling.batch).confident_classes([attribute])
                        classes.append(seen[0][:, 0].cpu())
                        sure.append(seen[1].cpu())
        values = {"classes": torch.cat(classes), "sure": torch.cat(sure).byte(), **h}
        captured |= {f"{kind}.{key}": each.unflatten(0, (len(prompts), -1)) for key, each in values.items()}
    return captured


@torch.no_grad()
def h_classifier_from_folders(
    pipe: StableDiffusionPipeline, attribute: str, folders: Mapping[str, Path], *, steps: int, batch: int, seed: int = 0
) -> HClassifier:
    """Train the h-classifier of any attribute on a folder of images per class, by DDIM inversion with the empty prompt.

    Images are cut and resized to the model's size. `UserError` names a folder that is missing or has too few images.
    """
    side = image_size(pipe)
    pictures, labels = [], []
    for number, (name, folder) in enumerate(folders.items()):
        if not Path(folder).is_dir():
            raise UserError(f"no folder of pictures of '{name}' at {folder}: name one folder for each class")
        files = [path for path in sorted(Path(folder).iterdir()) if path.suffix.lower() in PICTURES]
        for path in files:
            pictures.append(fit_image(load_image(path), side)[None])
        labels += [number] * len(files)
    if len(folders) < 2:
        raise UserError(f"a classifier of {attribute} needs two classes at least: name a folder for each")
    with recording_h(pipe) as seen:
        for start in tqdm(range(0, len(pictures), batch), "invert"):
            invert(pipe, torch.cat(pictures[start : start + batch]), "", steps)
    return fit_h_classifier(seen, labels, attribute, list(folders), seed=seed, device=pipe.device)
