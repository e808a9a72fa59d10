"""h-guidance: change the sampling, not the model (Balancing Act, Parihar et al., CVPR 2024).

At each denoising step of a batch, h, the output of the U-Net's mid block, moves along the gradient of linear
classifiers (`h_classifiers`), so that the batch reaches the target shares, or each image its class:

    h <- h - strength * N / |W|^2 * gradient of the loss with respect to h

Four things differ from the paper. The factor N / |W|^2 expresses strength in logits per image, independent of the batch
size N, the width of h and the scale of the weights W; `raw` leaves it out. Only h of the prompt moves, not that of the
empty prompt; with `both` they move as one batch. A step whose classifier is not reliable is skipped; `reliable` 0 skips
none. And any scheduler and number of steps work, since a step uses the classifier of the nearest timestep.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from torch.nn import functional

from fairnb.adapters.h_classifiers import HClassifier
from fairnb.adapters.h_space import Steering, UNetCall, check_distribution, on_h
from fairnb.adapters.protocol import read_weights, save_weights
from fairnb.errors import UserError
from fairnb.measure.targets import targets

KIND = "fairnb guidance 1"
TENSORS = ("timesteps", "weight", "offset", "accuracy", "reliable")  # of a classifier in the file
TEMPERATURE = 8.0  # of the softmax, as in the paper: saturated probabilities would have no gradient
MODES = ("distribution", "sample", "assigned")
DIVERGENCES = ("kl", "chi2")


class HGuidance(Steering):
    """Guided sampling, applied to a pipeline like any adapter; plain diffusers and `sampling.sample` then use it.

    `shares` maps each attribute to its target shares [K]. Mode "distribution" moves the mean probabilities of a batch
    towards them, by the divergence "kl" or "chi2" (the paper's). Mode "sample" pushes every image to the one class with
    share 1, each by as much, also one that shows it already (the paper's on Stable Diffusion). Mode "assigned", ours,
    assigns each image of a batch a class at the first reliable step, changing as few images as possible
    (`measure.targets`), and moves each to its own. The images of one call form a batch.

    Steps whose classifier has a reliability below `reliable` are skipped. With `both` the empty prompt's half of
    classifier-free guidance counts and moves, too; with `raw` the strength multiplies the gradient itself. `UserError`
    for an attribute without classifier, shares that are no distribution or do not fit the mode, a batch of one image
    where shares are wanted, and a strength that makes h infinite.
    """

    title = "h-guidance"

    def __init__(
        self,
        classifiers: Sequence[HClassifier],
        shares: Mapping[str, Sequence[float]],
        strength: float,
        *,
        mode: str = "distribution",
        divergence: str = "kl",
        reliable: float = 0.9,
        both: bool = False,
        raw: bool = False,
    ):
        super().__init__()
        for value, known in ((mode, MODES), (divergence, DIVERGENCES)):
            if value not in known:
                raise UserError(f"guidance knows no '{value}': use {', '.join(known)}")
        check_mode(mode, shares, both)
        self.shares = {name: torch.as_tensor(np.asarray(each), dtype=torch.float32) for name, each in shares.items()}
        self.classifiers = {name: _of(classifiers, name) for name in shares}
        for name, each in self.shares.items():
            check_distribution(name, each, self.classifiers[name].classes)
            best = self.classifiers[name].reliable.max().item()
            if best < reliable:
                raise UserError(
                    f"no step of the h-classifier of {name} is reliable (its best: {best:.2f}, wanted: {reliable}): "
                    f"lower reliable or train it on more pictures"
                )
        self.strength, self.mode, self.divergence, self.reliable = strength, mode, divergence, reliable
        self.both, self.raw = both, raw

    def parameters(self) -> list[torch.Tensor]:
        """The weights and offsets of the classifiers."""
        return [tensor for each in self.classifiers.values() for tensor in (each.weight, each.offset)]

    def apply(self, pipe: StableDiffusionPipeline, strength: float = 1.0) -> None:
        """Guide the pipeline with `strength` times the own strength; 0 is bitwise the plain pipeline."""
        self.remove(pipe)
        if not strength * self.strength:
            return
        pipe.applied = f"h-guidance {self._digest()} x {strength:g}"  # as no weight tells it
        chosen = {}

        def move(output: torch.Tensor, call: UNetCall) -> torch.Tensor:
            rows = slice(None) if self.both else call.prompt
            h = output[rows]
            if self.mode != "sample" and len(output[call.prompt]) == 1:
                raise UserError("a batch of one picture has no shares: draw several at once, or use mode sample")
            if call.begins:
                chosen.clear()
            step = torch.zeros_like(h, dtype=torch.float32)
            for name, classifier in self.classifiers.items():
                if (width := h[0].numel()) != classifier.weight.shape[2]:
                    raise UserError(
                        f"the h-classifier of {name} reads {classifier.weight.shape[2]} numbers, h has {width} here: "
                        f"it was trained on another model or another size of picture"
                    )
                at = classifier.nearest(call.timestep)
                if classifier.reliable[at] >= self.reliable:
                    if name not in chosen:
                        chosen[name] = self._wanted(name, at, h)
                    divergence = self.divergence if self.mode == "distribution" else None
                    step += direction(classifier, at, h, chosen[name], divergence, raw=self.raw)
            moved = (h.float() - strength * self.strength * step).to(h.dtype)
            if not moved.isfinite().all():
                raise UserError(
                    f"guidance of strength {strength * self.strength:g} makes h infinite at timestep "
                    f"{call.timestep:.0f}: lower it"
                )
            output = output.clone()
            output[rows] = moved
            return output

        self._hooks = on_h(pipe, move)

    def save(self, path: str | Path, metadata: dict | None = None) -> None:
        """Write classifiers, shares and settings as safetensors, weights in float16 (SD 1.5, 2 classes, 50 steps: 16
        MB)."""
        tensors = {f"{name}.{key}": tensor for name, each in self._tensors().items() for key, tensor in each.items()}
        save_weights(path, tensors, metadata or {}, kind=KIND, settings=json.dumps(self._settings()))

    def _tensors(self) -> dict[str, dict[str, torch.Tensor]]:
        tensors = {
            name: {key: getattr(each, key).cpu().clone() for key in TENSORS} for name, each in self.classifiers.items()
        }
        return {name: each | {"weight": each["weight"].half()} for name, each in tensors.items()}

    def _settings(self) -> dict:
        return {
            "shares": {name: each.tolist() for name, each in self.shares.items()},
            "classes": {name: each.classes for name, each in self.classifiers.items()},
            "strength": self.strength,
            "mode": self.mode,
            "divergence": self.divergence,
            "reliable": self.reliable,
            "both": self.both,
            "raw": self.raw,
        }

    def _digest(self) -> str:
        digest = hashlib.sha256(json.dumps(self._settings()).encode())
        for each in self._tensors().values():
            digest.update(each["weight"].numpy().tobytes())
        return digest.hexdigest()[:16]

    def _wanted(self, name: str, at: int, h: torch.Tensor) -> torch.Tensor:
        """The goal of a batch with this h: shares [K], or a class for each image [N]."""
        shares = self.shares[name].to(h.device)
        if self.mode != "assigned":
            return shares
        probabilities = self.classifiers[name].logits(h, at).softmax(1)
        generator = torch.Generator().manual_seed(0)
        return targets({name: probabilities}, {name: shares}, generator=generator)[0][name]


def check_mode(mode: str, shares: Mapping[str, Sequence[float]], both: bool) -> None:
    """Raise `UserError` if shares or `both` do not fit the mode; known before any classifier is trained."""
    for name, each in shares.items():
        if mode == "sample" and max(each) < 1:
            raise UserError(f"mode sample pushes all images to one class of {name}: give that class the share 1")
    if both and mode == "assigned":
        raise UserError("mode assigned moves images, of which the empty prompt's half has none: leave both out")


def load_h_guidance(path: str | Path, device: torch.device | str) -> HGuidance:
    """Read a file of `HGuidance.save`; `UserError` if it is damaged."""
    tensors, header, record = read_weights(path)
    try:
        settings = json.loads(header["settings"])
        classifiers = []
        for name, classes in settings.pop("classes").items():
            each = [tensors[f"{name}.{key}"].float().to(device) for key in TENSORS]
            classifiers.append(HClassifier(name, tuple(classes), *each))
        guidance = HGuidance(classifiers, settings.pop("shares"), **settings)
        guidance.metadata = record
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"the h-guidance {path} is damaged ({error}): train it again") from error
    return guidance


def direction(
    classifier: HClassifier,
    position: int,
    h: torch.Tensor,
    wanted: torch.Tensor,
    divergence: str | None = None,
    raw: bool = False,
) -> torch.Tensor:
    """The gradient [N, ...] of the loss with respect to h [N, ...], without a graph of the U-Net.

    Unless `raw` it is that of each image's own loss, divided by |W|^2.

    The loss is the divergence between the mean probabilities and the shares `wanted` [K]. Without a divergence it is
    the mean cross-entropy with a class [N] for each image, or minus the sum of the logits of the class to which
    `wanted` [K] gives the share 1.
    """
    with torch.enable_grad():
        leaf = h.detach().float().requires_grad_()
        logits, images = classifier.logits(leaf, position), len(h)
        if divergence:
            loss = distance((logits / TEMPERATURE).softmax(1).mean(0), wanted, divergence)
        elif wanted.is_floating_point():
            loss, images = -(logits @ wanted).sum(), 1  # a sum has each image's gradient already
        else:
            loss = functional.cross_entropy(logits / TEMPERATURE, wanted)
        (gradient,) = torch.autograd.grad(loss, leaf)
    return gradient if raw else images / torch.linalg.matrix_norm(classifier.weight[position], 2) ** 2 * gradient


def distance(shares: torch.Tensor, wanted: torch.Tensor, divergence: str) -> torch.Tensor:
    """KL(shares | wanted) or chi-square, sum (p - q)^2 / q, of distributions [K]; wanted shares are at least 1e-3."""
    wanted = wanted.clamp(min=1e-3)
    if divergence == "kl":
        return (shares * (shares / wanted).log()).sum()
    return ((shares - wanted).square() / wanted).sum()


def _of(classifiers: Sequence[HClassifier], attribute: str) -> HClassifier:
    for classifier in classifiers:
        if classifier.attribute == attribute:
            return classifier
    known = ", ".join(classifier.attribute for classifier in classifiers) or "nothing"
    raise UserError(f"there is no h-classifier of {attribute}, only of {known}: train one with fairnb guide")
