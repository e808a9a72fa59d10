"""MTCNN with its real weights, on drawn portraits; crops against a plain reference."""

import numpy as np
import pytest
import torch

from fairnb.errors import UserError
from fairnb.miniworld.draw.portrait import portrait, subject
from fairnb.vision.faces import crop_faces, find_faces, load_detector


def tensor(picture) -> torch.Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 127.5 - 1


def test_finds_the_face_of_a_portrait_and_none_in_a_house():
    rng = np.random.default_rng(1)
    images = torch.stack(
        [
            tensor(portrait("doctor", "female", "dark", "old", None, "photo", rng)),
            tensor(subject("house", None, "photo", rng)),
            tensor(portrait("pilot", "male", "light", "young", "by the sea", "photo", rng)),
        ]
    )
    faces = find_faces(load_detector(), images)
    assert faces.found.tolist() == [True, False, True]
    assert np.isnan(faces.boxes[1]).all() and faces.probability[1] == 0
    x0, y0, x1, y1 = faces.boxes[0]
    assert 10 < x0 < x1 < 54 and 5 < y0 < y1 < 60  # in pixels of the 64-pixel picture


def test_the_largest_face_is_taken():
    rng = np.random.default_rng(1)
    big = tensor(portrait("chef", "male", "medium", "young", None, "photo", rng))
    small = torch.nn.functional.interpolate(big[None], scale_factor=0.6, mode="bilinear", antialias=True)[0]
    canvas = torch.zeros(3, 64, 128)
    canvas[:, 20 : 20 + small.shape[1], : small.shape[2]] = small
    canvas[:, :, 64:] = big
    faces = find_faces(load_detector(minimum=16), canvas[None])
    assert faces.found[0] and faces.boxes[0][0] > 64


def test_no_images_and_wrong_shapes():
    assert len(find_faces(load_detector(), torch.zeros(0, 3, 64, 64)).found) == 0
    with pytest.raises(UserError, match="shape"):
        find_faces(load_detector(), torch.zeros(3, 64, 64))


def test_a_crop_equals_the_pixels_it_covers_and_carries_a_gradient():
    images = torch.rand(1, 3, 32, 32, requires_grad=True)
    crop = crop_faces(images, np.array([[8.0, 8.0, 24.0, 24.0]]), size=16, margin=0)
    torch.testing.assert_close(crop[0, :, 4, 4], smooth(images)[0, :, 12, 12], atol=1e-5, rtol=0)
    crop.sum().backward()
    assert images.grad[0, :, 8:24, 8:24].min() > 0
    assert images.grad[0, :, :6].abs().max() == 0


def smooth(images: torch.Tensor) -> torch.Tensor:
    """What roi_align's 2 x 2 bilinear samples at quarter pixels make of an image at scale 1."""
    kernel = torch.tensor([0.125, 0.75, 0.125])
    weight = (kernel[:, None] * kernel).repeat(3, 1, 1, 1)
    return torch.nn.functional.conv2d(images, weight, padding=1, groups=3)


def test_a_crop_is_square_and_grown_by_the_margin():
    images = torch.linspace(-1, 1, 64).expand(1, 3, 64, 64)  # brightness tells the column
    crop = crop_faces(images, np.array([[28.0, 16.0, 36.0, 48.0]]), size=8, margin=0.25)
    left, right = (crop[0, 0, 0, [0, -1]] + 1) / 2 * 63
    assert abs((left + right).item() / 2 - 31.5) < 0.1
    assert abs((right - left).item() - 48 * 7 / 8) < 0.1  # 32 high, so 32 * 1.5 wide; 7 of 8 steps between centres
