"""Detect the largest face with MTCNN, and crop it; the box has no gradient, the crop has."""

from dataclasses import dataclass

import numpy as np
import torch
from facenet_pytorch import MTCNN
from torchvision.ops import roi_align

from fairnb.errors import UserError

# MTCNN's pyramid starts at 12 pixels: smaller images are enlarged to this side, and the boxes scaled back.
WORKING_SIDE = 96


@dataclass(frozen=True)
class Faces:
    """Per image: whether a face was found, the box of the largest one (x0, y0, x1, y1 in pixels, NaN without a face),
    its probability (0 without a face), and the number of faces."""

    found: np.ndarray
    boxes: np.ndarray
    probability: np.ndarray
    number: np.ndarray


def load_detector(device: torch.device | str = "cpu", minimum: int = 32) -> MTCNN:
    """MTCNN with the weights that facenet-pytorch contains; `minimum` is the smallest face in pixels, after
    enlarging."""
    return MTCNN(keep_all=True, min_face_size=minimum, device=device)


@torch.no_grad()
def find_faces(detector: MTCNN, images: torch.Tensor, threshold: float = 0.7) -> Faces:
    """Find the largest face of each image [N, 3, H, W] in [-1, 1] with a probability of at least `threshold`.

    The default accepts all that MTCNN accepts. A higher one first misses bearded faces of mini-sd, and a detector that
    misses one class distorts every share.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise UserError(f"faces are detected in images [N, 3, H, W], not in a tensor of shape {tuple(images.shape)}")
    side = min(images.shape[-2:])
    scale = max(1.0, WORKING_SIDE / side)
    if scale > 1:
        images = torch.nn.functional.interpolate(images, scale_factor=scale, mode="bilinear", align_corners=False)
    pictures = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    found = np.zeros(len(pictures), bool)
    boxes = np.full((len(pictures), 4), np.nan, np.float32)
    probability = np.zeros(len(pictures), np.float32)
    number = np.zeros(len(pictures), int)
    all_boxes, all_probabilities = detector.detect(pictures) if len(pictures) else ([], [])
    for i, (candidates, chances) in enumerate(zip(all_boxes, all_probabilities, strict=True)):
        if candidates is None:
            continue
        areas = (candidates[:, 2] - candidates[:, 0]) * (candidates[:, 3] - candidates[:, 1])
        areas = np.where(np.asarray(chances, float) >= threshold, areas, 0)
        number[i] = (areas > 0).sum()
        if areas.max() > 0:
            best = int(areas.argmax())
            found[i], boxes[i], probability[i] = True, candidates[best] / scale, chances[best]
    return Faces(found, boxes, probability, number)


def crop_faces(images: torch.Tensor, boxes: np.ndarray | torch.Tensor, size: int, margin: float = 0.25) -> torch.Tensor:
    """Square crops [N, 3, size, size] around boxes [N, 4], enlarged by `margin` on each side; differentiable in
    `images`.

    The crop is a square around the centre of the box, so that no face is stretched.
    """
    boxes = torch.as_tensor(boxes, dtype=images.dtype, device=images.device)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).amax(1, keepdim=True) * (0.5 + margin)
    number = torch.arange(len(boxes), dtype=images.dtype, device=images.device)[:, None]
    regions = torch.cat([number, centre - half, centre + half], dim=1)
    return roi_align(images, regions, output_size=size, sampling_ratio=2, aligned=True)
