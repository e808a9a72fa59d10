"""The one detect-crop-classify: classes, confidence, and images without a face."""

import numpy as np
import pytest
import torch

from fairnb.vision import perception
from fairnb.vision.faces import Faces, load_detector
from fairnb.vision.perception import NO_FACE, SURE, Perception, perceive, perceived_classes


class Judge(torch.nn.Module):
    """Says male for bright crops; refuses an empty batch, as ViT and CLIP do."""

    size = 8
    classes = {"gender": ("female", "male")}

    def probabilities(self, crops: torch.Tensor) -> dict[str, torch.Tensor]:
        assert len(crops)
        bright = (crops.mean((1, 2, 3)) > 0).float()
        return {"gender": torch.stack([1 - bright, bright], 1) * 0.8 + 0.1}


def test_classes_are_none_and_probabilities_nan_without_a_face(monkeypatch: pytest.MonkeyPatch):
    found = np.array([True, False, True])
    boxes = np.where(found[:, None], np.array([[1, 1, 7, 7]], np.float32), np.nan)
    faces = Faces(found, boxes, found.astype(np.float32), found)
    monkeypatch.setattr(perception, "find_faces", lambda detector, images: faces)
    images = torch.stack([torch.full((3, 8, 8), value) for value in (0.5, 0.5, -0.5)])
    seen = perceive(images, None, Judge())
    assert seen.classes("gender") == ["male", None, "female"]
    assert perceived_classes(images, None, Judge(), "gender") == ["male", None, "female"]
    torch.testing.assert_close(seen.probabilities["gender"][[0, 2]], torch.tensor([[0.1, 0.9], [0.9, 0.1]]))
    assert seen.probabilities["gender"][1].isnan().all()


def test_images_without_any_face_do_not_reach_the_classifier():
    seen = perceive(torch.zeros(2, 3, 64, 64), load_detector("cpu"), Judge())
    assert seen.classes("gender") == [None, None] and not seen.faces.found.any()
    classes, sure = seen.confident_classes(["gender"])
    assert classes.tolist() == [[NO_FACE], [NO_FACE]] and not sure.any()


def test_a_classifier_is_sure_of_a_face_if_it_is_sure_of_all_attributes():
    found = np.array([True, True, True, False])
    faces = Faces(found, np.zeros((4, 4)), np.ones(4), np.ones(4))
    gender = torch.tensor([[0.05, 0.95], [1 - SURE, SURE], [0.2, 0.8], [torch.nan, torch.nan]])
    age = torch.tensor([[0.99, 0.01], [0.5, 0.5], [0.0, 1.0], [torch.nan, torch.nan]])
    seen = Perception(faces, {"gender": gender, "age": age}, {})
    classes, sure = seen.confident_classes(["gender", "age"])
    assert classes.tolist() == [[1, 0], [1, 0], [1, 1], [NO_FACE, NO_FACE]]
    assert sure.tolist() == [True, False, False, False]
    assert seen.confident_classes(["gender"])[1].tolist() == [True, True, False, False]
