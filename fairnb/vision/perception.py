"""What looks at pictures while a model is trained: face detector, guide, CLIP and, if wanted, DINO."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from facenet_pytorch import MTCNN

from fairnb.diffusion.sampling import decode
from fairnb.profiles import Profile
from fairnb.vision.classifiers import Classifier, load_classifier
from fairnb.vision.encoders import Clip, Dino, load_clip, load_dino
from fairnb.vision.faces import Faces, crop_faces, find_faces, load_detector

SURE = 0.9  # the guide's probability from which a face is surely of its class (FFD)


@dataclass
class VisionModels:
    """What looks at the images in training: face detector, guide and CLIP. The judge is not among them."""

    detector: MTCNN
    guide: Classifier
    clip: Clip
    dino: Dino | None = None

    @property
    def encoders(self) -> int:
        """How many encoders `image_features` sets side by side."""
        return 1 if self.dino is None else 2

    def image_features(self, images: torch.Tensor) -> torch.Tensor:
        """CLIP's features [N, D] of images, DINO's beside them where there is one. Each has length 1, so the cosine of
        two such rows is the mean of the encoders' cosines."""
        features = self.clip.image_features(images)
        return features if self.dino is None else torch.cat([features, self.dino.image_features(images)], 1)

    @torch.no_grad()
    def features(self, pipe: StableDiffusionPipeline, latents: torch.Tensor, batch: int) -> torch.Tensor:
        """CLIP features [N, D] of the pictures of latents, with DINO's beside them where there is one."""
        parts = latents.split(batch)
        return torch.cat([self.image_features(decode(pipe, part)) for part in parts])

    @torch.no_grad()
    def face_features(
        self, pipe: StableDiffusionPipeline, latents: torch.Tensor, faces: Faces, batch: int
    ) -> torch.Tensor:
        """The guide's features [N, F] of the faces in the pictures of latents; NaN without a face."""
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
    def look(
        self, pipe: StableDiffusionPipeline, latents: torch.Tensor, names: Sequence[str], batch: int
    ) -> tuple[Faces, dict[str, torch.Tensor]]:
        """Faces in the pictures of latents [N, C, h, w], decoded a batch at a time, and the guide's probabilities
        [N, K] of every aligned attribute (uniform where there is no face)."""
        faces, seen = [], []
        for part in latents.split(batch):
            images = decode(pipe, part)
            faces.append(find_faces(self.detector, images))
            rows = np.flatnonzero(faces[-1].found)
            crops = crop_faces(images[rows], faces[-1].boxes[rows], self.guide.size)
            seen.append(self.guide.probabilities(crops))
        faces = Faces(*map(np.concatenate, zip(*map(astuple, faces), strict=True)))
        probabilities = {}
        for name in names:
            found = torch.cat([part[name] for part in seen])
            probabilities[name] = torch.full((len(latents), found.shape[1]), 1 / found.shape[1], device=found.device)
            probabilities[name][torch.from_numpy(faces.found)] = found
        return faces, probabilities


def load_vision_models(profile: Profile, device: torch.device | str) -> VisionModels:
    """The eyes that a profile names: MTCNN, its guide, its CLIP and, where it names one, its DINO."""
    dino = None if profile.dino is None else load_dino(profile.dino, device)
    return VisionModels(
        load_detector(device), load_classifier(profile.guide, device), load_clip(profile.clip, device), dino
    )


def confident_classes(faces: Faces, probabilities: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Classes [N, A] of faces, one column an attribute of `probabilities`, -1 without a face; and whether all of them
    are sure [N]."""
    found = torch.from_numpy(faces.found)
    classes = [torch.where(found.to(probs.device), probs.argmax(1), NO_FACE) for probs in probabilities.values()]
    sure = [probs.amax(1) >= SURE for probs in probabilities.values()]
    classes = torch.stack(classes, 1)
    return classes, torch.stack(sure, 1).all(1) & (classes != NO_FACE).all(1)


NO_FACE = -1  # the target of an image without a face: it is excluded, and can be counted
