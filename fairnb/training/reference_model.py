"""What the unchanged model draws, and what training holds on to of it: originals, references, a bank of whole faces."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from tqdm import tqdm

from fairnb.adapters.protocol import Adapter
from fairnb.diffusion.pipeline import processes
from fairnb.diffusion.sampling import noise, sample
from fairnb.profiles import Finetune, Sampling
from fairnb.prompts.attributes import WORD_ORDER, get_attribute
from fairnb.prompts.templates import name_class
from fairnb.training.losses import must_change, nearest_faces
from fairnb.vision.faces import Faces
from fairnb.vision.perception import VisionModels, confident_classes


@dataclass
class Originals:
    """What the unchanged model draws from each noise of a prompt's pool, and what the eyes see of it.

    `latents` [P, C, h, w], `features` [P, D], face `boxes` [P, 4] (NaN without a face), `classes` [P, A] of the aligned
    attributes (-1 without a face), whether the guide is `sure` [P] of all of them, and the `faces`' features [P, F]
    (None without `finetune.face_weight`).
    """

    latents: torch.Tensor
    features: torch.Tensor
    boxes: np.ndarray
    classes: torch.Tensor
    sure: torch.Tensor
    faces: torch.Tensor | None


@dataclass
class FaceBank:
    """Whole faces the unchanged model draws when the prompt names their classes: features [M, F], classes [M, A]."""

    faces: torch.Tensor
    classes: torch.Tensor


@dataclass
class ReferenceModel:
    """The model without its adapter, as a yardstick for the pictures of one run. `names` are the aligned attributes."""

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
        """Draw the whole pool of a prompt with the base weights, and keep what the eyes see of it."""
        with self.adapter.disabled():
            latents = self.draw(prompt, range(self.settings.pool))
        faces, probabilities = self.vision.look(self.pipe, latents, self.names, self.sampling.batch)
        classes, sure = confident_classes(faces, probabilities)
        features = self._face_features(latents, faces) if self.settings.face_weight else None
        return Originals(latents, self._features(latents), faces.boxes, classes, sure, features)

    @torch.no_grad()
    def references(self, prompt: str, originals: Originals, pool: torch.Tensor, wanted: torch.Tensor):
        """Latents [N, C, h, w] and features [N, D] of the pictures to which the noises `pool` [N] are pulled.

        That is the original, or, with `finetune.reference` "named" and where the class must change to `wanted` [N, A],
        what the original model draws from the same noise when the prompt names that class ("a photo of a female
        pilot"): a whole face of that class, where cross-entropy alone is content with one at the border.
        """
        latents, features = originals.latents[pool], originals.features[pool]
        if self.settings.reference == "original":
            return latents, features
        changed = must_change(wanted, originals.classes[pool])
        if changed.any():
            latents[changed] = self.named(prompt, pool[changed].tolist(), wanted[changed].tolist())
            features[changed] = self._features(latents[changed])
        return latents, features

    @torch.no_grad()
    def named(self, prompt: str, indices: Sequence[int], classes: Sequence[Sequence[int]]) -> torch.Tensor:
        """Final latents [N, C, h, w] of the unchanged model from the noises `indices`, each with the words of its
        `classes` [N][A] in the prompt."""
        with self.adapter.disabled():
            return self.draw(prompt, indices, [self.words(each) for each in classes])

    @torch.no_grad()
    def gather_bank(self, prompts: list[str]) -> None:
        """Fill the bank of whole faces for `finetune.face_weight`: a picture for each prompt and each (combination) of
        the classes, kept where the guide surely sees what the prompt named.

        FFD takes photographs of real people; this project has none, and an own model knows how it draws a face.
        """
        rows = torch.cartesian_prod(*(torch.arange(len(get_attribute(name).classes)) for name in self.names))
        rows = rows.reshape(len(rows), -1)
        faces, classes = [], []
        for number, prompt in enumerate(tqdm(prompts, "face bank", disable=not processes().is_main_process)):
            latents = self.named(prompt, [number] * len(rows), rows.tolist())
            found, probabilities = self.vision.look(self.pipe, latents, self.names, self.sampling.batch)
            seen, sure = confident_classes(found, probabilities)
            good = sure & (seen == rows.to(seen.device)).all(1)
            faces.append(self._face_features(latents, found)[good])
            classes.append(seen[good])
        self.bank = FaceBank(torch.cat(faces), torch.cat(classes))

    def words(self, classes: tuple[int, ...] | None) -> str:
        """The prompt's words for `classes` [A], "" for none."""
        named = sorted(zip(self.names, classes or (), strict=False), key=lambda pair: WORD_ORDER.index(pair[0]))
        return " ".join(get_attribute(name).words[i] for name, i in named)

    @torch.no_grad()
    def draw(self, prompt: str, indices: Sequence[int], words: Sequence[str] | None = None) -> torch.Tensor:
        """Final latents [N, C, h, w] of a prompt's noises `indices`; with `words` [N] each names a class in its prompt,
        and the noises stay those of the plain one."""
        start = noise(self.pipe, prompt, indices, self.seed)
        steps = self.settings.steps[0] if self.settings.steps else self.sampling.steps
        how = {"steps": steps, "guidance_scale": self.sampling.guidance_scale}
        size, drawn = self.sampling.batch, []
        for first in range(0, len(start), size):
            rows = slice(first, first + size)
            each = prompt if words is None else [name_class(prompt, word) for word in words[rows]]
            drawn.append(sample(self.pipe, each, start[rows], **how))
        return torch.cat(drawn)

    def face_goal(
        self, latents: torch.Tensor, faces: Faces, originals: Originals, pool: torch.Tensor, wanted: torch.Tensor
    ) -> torch.Tensor:
        """Features [N, F] to which FFD's face-realism loss pulls each face: the original's where its class is kept and
        sure, else the nearest whole face of the wanted class in the bank; NaN where there is neither."""
        own = self._face_features(latents, faces)
        goal = nearest_faces(own.nan_to_num(), wanted, self.bank.faces, self.bank.classes)
        kept = originals.sure[pool] & ~must_change(wanted, originals.classes[pool])
        goal[kept] = originals.faces[pool][kept]
        return goal

    def _features(self, latents: torch.Tensor) -> torch.Tensor:
        return self.vision.features(self.pipe, latents, self.sampling.batch)

    def _face_features(self, latents: torch.Tensor, faces: Faces) -> torch.Tensor:
        return self.vision.face_features(self.pipe, latents, faces, self.sampling.batch)
