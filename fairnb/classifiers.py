"""Image classifiers: the guide, which gives gradients, and the judge, which reports; both plain transformers models.

A classifier's labels are "attribute:class" ("gender:female", "age:old"), so one model can answer for several
attributes; each attribute's logits are the columns that carry its name.
"""

from pathlib import Path

import torch
from torch.nn.functional import interpolate
from transformers import AutoModelForImageClassification

from fairnb.errors import UserError


class Classifier(torch.nn.Module):
    """Logits per attribute for images [N, 3, H, W] in [-1, 1] of any size, differentiable.

    `classes` maps each attribute to its class names; `size` is the side in pixels that the model sees.
    """

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.model = model
        self.size = model.config.image_size
        self.classes: dict[str, tuple[str, ...]] = {}
        self.columns: dict[str, list[int]] = {}
        for column, label in sorted(model.config.id2label.items()):
            attribute, separator, name = label.partition(":")
            if not separator:
                raise UserError(f"label '{label}' of {model.config.name_or_path} is not written attribute:class")
            self.classes[attribute] = (*self.classes.get(attribute, ()), name)
            self.columns.setdefault(attribute, []).append(column)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits [N, K] for each attribute."""
        if images.shape[-1] != self.size or images.shape[-2] != self.size:
            images = interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)
        logits = self.model(images).logits
        return {attribute: logits[:, columns] for attribute, columns in self.columns.items()}

    @torch.no_grad()
    def probabilities(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Class probabilities [N, K] for each attribute."""
        return {attribute: logits.softmax(-1) for attribute, logits in self(images).items()}


def load_classifier(path: str | Path, device: torch.device | str = "cpu") -> Classifier:
    """Load a classifier's folder; `UserError` when it is missing or not an image classifier."""
    if not (Path(path) / "config.json").is_file():
        raise UserError(f"no classifier at {path}: give a folder with config.json and model.safetensors")
    try:
        model = AutoModelForImageClassification.from_pretrained(
            path, local_files_only=True, use_safetensors=True, dtype=torch.float32
        )
    except Exception as error:  # transformers raises a different type for each broken file
        raise UserError(f"the classifier at {path} could not be loaded: {str(error).splitlines()[0]}") from error
    return Classifier(model).eval().requires_grad_(False).to(device)
