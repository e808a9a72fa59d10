"""The model without its adapter: original images, reference images, and a bank of clear faces for training."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from fairnb.adapters.protocol import Adapter
from fairnb.diffusion.pipeline import divided, processes
from fairnb.diffusion.sampling import noise, sample
from fairnb.profiles import Finetune, Sampling
from fairnb.prompts.attributes import WORD_ORDER, get_attribute
from fairnb.prompts.templates import name_class
from fairnb.training.losses import must_change, nearest_faces
from fairnb.vision.faces import Faces
from fairnb.vision.perception import VisionModels


@dataclass
class Originals:
    """The original images of a prompt: one for each of the P noises of its pool, and how the vision models see them.

    `latents` [P, C, h, w], `features` [P, D], face `boxes` [P, 4] (NaN without a face), `classes` [P, A] of the aligned
    attributes (-1 without a face), the guide's `probability` [P] of the least sure of them (0 without a face), and the
    features [P, F] of the `faces` (None without `finetune.face_weight`). All lie in the memory of the CPU, since a run
    keeps those of all its prompts.
    """

    latents: torch.Tensor
    features: torch.Tensor
    boxes: np.ndarray
    classes: torch.Tensor
    probability: torch.Tensor
    faces: torch.Tensor | None

    def of(self, pool: np.ndarray, device: torch.device) -> "Originals":
        """Copies of the rows of some noises [N], on a device."""
        rows = {name: None if each is None else each[pool] for name, each in vars(self).items()}
        return Originals(**{name: each.to(device) if torch.is_tensor(each) else each for name, each in rows.items()})


@dataclass
class FaceBank:
    """Clear faces from named prompts: features [M, F] and classes [M, A]."""

    faces: torch.Tensor
    classes: torch.Tensor


@dataclass
class ReferenceModel:
    """The model without its adapter. `names` are the aligned attributes."""

    pipe: StableDiffusionPipeline
    adapter: Adapter
    vision: VisionModels
    names: list[str]
    settings: Finetune
    sampling: Sampling
    seed: int
    bank: FaceBank | None = field(default=None, init=False)

    @torch.no_grad()
    def originals(self, prompt: str) -> Originals:
        """Generate the whole pool of a prompt with the base weights, each process a part of it."""

        def drawn(indices: Sequence[int]) -> Originals:
            with self.adapter.disabled():
                latents = self.generate(prompt, indices)
            seen = self.vision.perceive(self.pipe, latents, self.sampling.batch)
            classes, probability = seen.likely_classes(self.names)
            faces = self._face_features(latents, seen.faces).cpu() if self.settings.face_weight else None
            features = self._features(latents).cpu()
            return Originals(latents.cpu(), features, seen.faces.boxes, classes.cpu(), probability.cpu(), faces)

        pool, count = self.settings.pool, min(processes().num_processes, self.settings.pool)
        parts = divided([range(pool * i // count, pool * (i + 1) // count) for i in range(count)], drawn)
        return Originals(**{name: _joined([getattr(part, name) for part in parts]) for name in vars(parts[0])})

    @torch.no_grad()
    def references(self, prompt: str, originals: Originals, pool: np.ndarray, wanted: torch.Tensor):
        """Latents [N, C, h, w] and features [N, D] of the reference images of the noises `pool` [N], whose originals
        are given.

        A reference image is the original image. With `finetune.reference` "named" (ours), where the class must change
        to `wanted` [N, A], it is the image of the same noise and the named prompt ("a photo of a female pilot"): a
        clear face of that class, where cross-entropy alone is content with a face at the decision border.
        """
        latents, features = originals.latents.clone(), originals.features.clone()
        if self.settings.reference == "original":
            return latents, features
        changed = must_change(wanted, originals.classes)
        if changed.any():
            latents[changed] = self.named(prompt, pool[changed.cpu().numpy()].tolist(), wanted[changed].tolist())
            features[changed] = self._features(latents[changed])
        return latents, features

    @torch.no_grad()
    def named(self, prompt: str, indices: Sequence[int], classes: Sequence[Sequence[int]]) -> torch.Tensor:
        """Final latents [N, C, h, w] from the noises `indices` and prompts that name `classes` [N][A]."""
        with self.adapter.disabled():
            return self.generate(prompt, indices, self.naming(prompt, classes))

    @torch.no_grad()
    def gather_bank(self, prompts: list[str]) -> None:
        """Fill the face bank for `finetune.face_weight` from one named prompt per prompt and combination of classes.

        A face is kept if the guide is sure of the named classes. FFD uses photographs of real people; this project has
        none, and the model's own faces are what it can draw.
        """
        rows = torch.cartesian_prod(*(torch.arange(len(get_attribute(name).classes)) for name in self.names))
        rows = rows.reshape(len(rows), -1)

        def clear(place: tuple[int, str]) -> tuple[torch.Tensor, torch.Tensor]:
            number, prompt = place
            latents = self.named(prompt, [number] * len(rows), rows.tolist())
            seen = self.vision.perceive(self.pipe, latents, self.sampling.batch)
            found, probability = seen.likely_classes(self.names)
            good = (probability >= self.settings.face_sure) & (found == rows.to(found.device)).all(1)
            return self._face_features(latents, seen.faces)[good].cpu(), found[good].cpu()

        faces, classes = zip(*divided(list(enumerate(prompts)), clear), strict=True)
        self.bank = FaceBank(torch.cat(faces).to(self.pipe.device), torch.cat(classes).to(self.pipe.device))

    def naming(self, prompt: str, classes: Sequence[Sequence[int]]) -> list[str]:
        """The prompt with the attribute words of each of `classes` [N][A]; the words in the order of a prompt."""
        order = sorted(range(len(self.names)), key=lambda a: WORD_ORDER.index(self.names[a]))
        words = [get_attribute(name).words for name in self.names]
        return [name_class(prompt, " ".join(words[a][each[a]] for a in order)) for each in classes]

    @torch.no_grad()
    def generate(self, prompt: str, indices: Sequence[int], named: Sequence[str] | None = None) -> torch.Tensor:
        """Final latents [N, C, h, w] of the noises `indices` of a prompt, with the model as it stands.

        `named` [N] are the prompts to draw by in its place; the noises remain those of the plain prompt.
        """
        start = noise(self.pipe, prompt, indices, self.seed)
        steps = self.settings.steps[0] if self.settings.steps else self.sampling.steps
        how = {"steps": steps, "guidance_scale": self.sampling.guidance_scale}
        size, drawn = self.sampling.batch, []
        for first in range(0, len(start), size):
            rows = slice(first, first + size)
            drawn.append(sample(self.pipe, prompt if named is None else named[rows], start[rows], **how))
        return torch.cat(drawn)

    def face_goal(
        self, latents: torch.Tensor, faces: Faces, originals: Originals, wanted: torch.Tensor
    ) -> torch.Tensor:
        """Features [N, F] that FFD's face realism loss compares each face with.

        They are those of the original face if its class is kept and the guide is sure of it (`finetune.face_sure`),
        else those of the most similar face of the wanted classes in the bank; NaN where there is neither.
        """
        own = self._face_features(latents, faces)
        goal = nearest_faces(own.nan_to_num(), wanted, self.bank.faces, self.bank.classes)
        clear = originals.probability >= self.settings.face_sure
        kept = clear & ~must_change(wanted, originals.classes)
        goal[kept] = originals.faces[kept]
        return goal

    def _features(self, latents: torch.Tensor) -> torch.Tensor:
        return self.vision.features(self.pipe, latents, self.sampling.batch)

    def _face_features(self, latents: torch.Tensor, faces: Faces) -> torch.Tensor:
        return self.vision.face_features(self.pipe, latents, faces, self.sampling.batch)


def _joined(parts: list):
    if parts[0] is None:
        return None
    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else torch.cat(parts)
