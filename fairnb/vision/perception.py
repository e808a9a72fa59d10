"""Detect faces, crop them and classify them: one function for judging, training and the notebooks.

Classes are perceived appearance as a classifier sees it, never identity.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from facenet_pytorch import MTCNN

from fairnb.diffusion.fingerprint import tensor_hash
from fairnb.diffusion.sampling import decode
from fairnb.identity import hashed
from fairnb.profiles import Profile
from fairnb.vision.classifiers import Classifier, load_classifier
from fairnb.vision.encoders import Clip, Dino, load_clip, load_dino
from fairnb.vision.faces import Faces, crop_faces, find_faces, load_detector

NO_FACE = -1  # the class of an image without a face: excluded from every share, and counted
SETTINGS = ("table", "side", "crop", "mode", "square")  # of a classifier and its pixels, beside tensors
SURE = 0.9  # a classifier is sure of a face whose most likely class has at least this probability (FFD)


@dataclass(frozen=True)
class Perception:
    """The faces of N images and, per attribute, class probabilities [N, K] of each image's largest face.

    Rows of images without a face are NaN. `names` maps attributes to their class names.
    """

    faces: Faces
    probabilities: dict[str, torch.Tensor]
    names: dict[str, tuple[str, ...]]

    def classes(self, attribute: str) -> list[str | None]:
        """The most likely class of each image; None without a face."""
        best = self.probabilities[attribute].argmax(1).tolist()
        return [
            self.names[attribute][number] if found else None
            for number, found in zip(best, self.faces.found, strict=True)
        ]

    def likely_classes(self, attributes: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Class indices [N, A] of the attributes (`NO_FACE` without a face), and the probability [N] of the least sure
        one (0 without a face)."""
        values = [self.probabilities[name] for name in attributes]
        found = torch.from_numpy(self.faces.found).to(values[0].device)
        classes = torch.stack([torch.where(found, each.argmax(1), NO_FACE) for each in values], 1)
        return classes, torch.stack([each.amax(1) for each in values], 1).amin(1).where(found, 0.0)

    def confident_classes(self, attributes: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Class indices [N, A] of the attributes (`NO_FACE` without a face), and whether the classifier is sure of all
        of them [N]."""
        classes, probability = self.likely_classes(attributes)
        return classes, probability >= SURE


@torch.no_grad()
def perceive(images: torch.Tensor, detector: MTCNN, classifier: Classifier) -> Perception:
    """Find the largest face of each image [N, 3, H, W] in [-1, 1] and classify its crop."""
    faces = find_faces(detector, images)
    found = torch.from_numpy(faces.found)
    probabilities = {
        name: torch.full((len(images), len(classes)), torch.nan, device=images.device)
        for name, classes in classifier.classes.items()
    }
    if found.any():  # transformers' ViT and CLIP raise on an empty batch
        crops = crop_faces(images[found], faces.boxes[faces.found], classifier.size)
        for name, values in classifier.probabilities(crops).items():
            probabilities[name][found] = values.to(probabilities[name])
    return Perception(faces, probabilities, classifier.classes)


def perceived_classes(images: torch.Tensor, detector: MTCNN, judge: Classifier, attribute: str) -> list[str | None]:
    """The class that the judge gives the largest face of each image [N, 3, H, W]; None without a face."""
    return perceive(images, detector, judge).classes(attribute)


def classifier_hash(model: torch.nn.Module) -> str:
    """A hash of a classifier's or encoder's weights and buffers, of what its outputs mean, and of how it resizes."""
    # As text, which keeps the order of classes.
    settings = [[str(getattr(part, name, None)) for name in SETTINGS] for part in model.modules()]
    return hashed([tensor_hash([*model.named_parameters(), *model.named_buffers()]), settings])


@dataclass
class VisionModels:
    """The models that see images during training: face detector, guide, CLIP and, optionally, DINO. No judge."""

    detector: MTCNN
    guide: Classifier
    clip: Clip
    dino: Dino | None = None

    def identity(self) -> dict[str, str]:
        """Hashes of what decides what they see: weights, normalisation, and which outputs mean which class."""
        models = {"guide": self.guide, "clip": self.clip, "dino": self.dino}
        return {name: classifier_hash(model) for name, model in models.items() if model is not None}

    @property
    def encoders(self) -> int:
        """How many encoders `image_features` concatenates."""
        return 1 if self.dino is None else 2

    def image_features(self, images: torch.Tensor) -> torch.Tensor:
        """CLIP features [N, D] of images, concatenated with DINO's if there is a DINO.

        Each part has norm 1, so the cosine of two rows is the mean of the encoders' cosines. Differentiable.
        """
        features = self.clip.image_features(images)
        return features if self.dino is None else torch.cat([features, self.dino.image_features(images)], 1)

    @torch.no_grad()
    def features(self, pipe: StableDiffusionPipeline, latents: torch.Tensor, batch: int) -> torch.Tensor:
        """`image_features` [N, D] of the decoded latents."""
        return torch.cat([self.image_features(decode(pipe, part)) for part in latents.split(batch)])

    @torch.no_grad()
    def face_features(
        self, pipe: StableDiffusionPipeline, latents: torch.Tensor, faces: Faces, batch: int
    ) -> torch.Tensor:
        """The guide's features [N, F] of the faces in the decoded latents; NaN without a face."""
        features = []
        for first in range(0, len(latents), batch):
            rows = slice(first, first + batch)
            images = decode(pipe, latents[rows])
            boxes = np.nan_to_num(faces.boxes[rows], nan=0.0)
            features.append(self.guide.features(crop_faces(images, boxes, self.guide.size)))
        features = torch.cat(features)
        features[torch.from_numpy(~faces.found)] = torch.nan
        return features

    @torch.no_grad()
    def perceive(self, pipe: StableDiffusionPipeline, latents: torch.Tensor, batch: int) -> Perception:
        """Faces and guide probabilities of latents [N, C, h, w], decoded `batch` images at a time."""
        parts = [perceive(decode(pipe, part), self.detector, self.guide) for part in latents.split(batch)]
        faces = Faces(*map(np.concatenate, zip(*(astuple(part.faces) for part in parts), strict=True)))
        names = self.guide.classes
        return Perception(
            faces, {name: torch.cat([part.probabilities[name] for part in parts]) for name in names}, names
        )


def load_vision_models(profile: Profile, device: torch.device | str) -> VisionModels:
    """Load a profile's vision models: MTCNN, the guide, CLIP and, if the profile names one, DINO."""
    dino = None if profile.dino is None else load_dino(profile.dino, device)
    clip = load_clip(profile.clip, device)
    return VisionModels(load_detector(device), load_classifier(profile.guide, device), clip, dino)
