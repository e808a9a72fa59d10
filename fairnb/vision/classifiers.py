"""Image classifiers: the guide, which gives training gradients, and the judge, which reports.

Four kinds of models are supported: a transformers image classifier (a folder or hub id), a CLIP used zero-shot, CLIP's
encoder with a head for each attribute (`clip_heads`), and a MobileNetV3-Large state dict (a .pt, .pth or .safetensors
file) as trained by FFD (Shen et al., ICLR 2024). A `Source`
declares which outputs mean which class, unless the model's own labels are written "attribute:class" ("gender:female"),
as mini-sd's are. Whatever the order of a model's outputs, the classes have that of their attribute.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch.nn.functional import normalize
from torchvision.models import mobilenet_v3_large
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

from fairnb.diffusion.pipeline import explain_missing
from fairnb.errors import UserError
from fairnb.profiles import Source
from fairnb.prompts.attributes import ATTRIBUTES, get_attribute
from fairnb.vision.clip_heads import find_clip_heads, load_clip_heads
from fairnb.vision.encoders import load_clip, load_trained
from fairnb.vision.pixels import Pixels, pixels_of

Table = dict[str, dict[str, list[int]]]  # attribute -> class -> columns of the model's output that mean it
WEIGHTS = (".pt", ".pth", ".safetensors")
PROCESSORS = ("preprocessor_config.json", "processor_config.json")


class Classifier(torch.nn.Module):
    """Logits per attribute for images [N, 3, H, W] in [-1, 1] of any size, differentiable.

    `model` maps what `pixels` makes of images to logits [N, C]; by default `pixels` only resizes them to the model's
    `image_size`. `classes` maps attributes to class names, in the order of `table`. If a class has several columns,
    their probabilities are added (logsumexp). `accuracy` (attribute -> share) and `confusion` (attribute -> counts
    [K true, K predicted]) come from the model's accuracy.json, if there is one. `size` is the side of the face crops
    that it is best given.
    """

    def __init__(self, model: torch.nn.Module, table: Table | None = None, pixels: Pixels | None = None):
        super().__init__()
        self.model = model
        self.pixels = pixels or Pixels(model.config.image_size)
        self.size = self.pixels.side
        self.table = table or own_table(model.config)
        self.classes = {attribute: tuple(classes) for attribute, classes in self.table.items()}
        self.accuracy: dict[str, float] = {}
        self.confusion: dict[str, np.ndarray] = {}

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits [N, K] for each attribute."""
        if not len(images):  # transformers' ViT and CLIP raise on an empty batch
            return {attribute: _none_of(images, len(classes)) for attribute, classes in self.table.items()}
        output = self.model(self.pixels(images))
        logits = getattr(output, "logits", output)
        return {
            attribute: torch.stack([logits[:, columns].logsumexp(1) for columns in classes.values()], 1)
            for attribute, classes in self.table.items()
        }

    @torch.no_grad()
    def probabilities(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Class probabilities [N, K] for each attribute."""
        return {attribute: logits.softmax(-1) for attribute, logits in self(images).items()}

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """The input of the model's last linear layer: features [N, D] of norm 1, differentiable."""
        last = [module for module in self.model.modules() if isinstance(module, torch.nn.Linear)][-1]
        if not len(images):
            return _none_of(images, last.in_features)
        seen = []
        hook = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            self(images)
        finally:
            hook.remove()
        return normalize(seen[0].flatten(1), dim=-1)


class Several(Classifier):
    """Classifiers of different attributes as one; each resizes the images to its own size."""

    def __init__(self, parts: Sequence[Classifier]):
        torch.nn.Module.__init__(self)
        self.parts = torch.nn.ModuleList(parts)
        self.size = max(part.size for part in parts)
        self.classes = {attribute: classes for part in parts for attribute, classes in part.classes.items()}
        if len(self.classes) < sum(len(part.classes) for part in parts):
            raise UserError("two classifiers answer for the same attribute: leave one of them out")
        self.accuracy = {name: value for part in parts for name, value in part.accuracy.items()}
        self.confusion = {name: counts for part in parts for name, counts in part.confusion.items()}

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits [N, K] for each attribute of each part."""
        return {attribute: logits for part in self.parts for attribute, logits in part(images).items()}

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """The concatenated features of all parts, with norm 1."""
        return normalize(torch.cat([part.features(images) for part in self.parts], 1), dim=-1)


class ZeroShot(torch.nn.Module):
    """CLIP's logits [N, C] of images against the features [C, D] of one text per class."""

    def __init__(self, clip: torch.nn.Module, features: torch.Tensor):
        super().__init__()
        self.clip = clip
        self.texts = torch.nn.Linear(features.shape[1], len(features), bias=False)
        self.texts.weight.data = features

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.clip.model.logit_scale.exp() * self.texts(self.clip.image_features(images))


def _none_of(images: torch.Tensor, width: int) -> torch.Tensor:
    """Outputs [0, width] of no images, with their graph."""
    return images.flatten(1).sum(1, keepdim=True).expand(-1, width)


def own_table(config) -> Table:
    """The table of a model with labels attribute:class; an attribute that is not fairnb's keeps the model's order."""
    source = Source(model=config.name_or_path)
    table: Table = {}
    for column, label in sorted(config.id2label.items()):
        attribute, separator, name = (part.strip() for part in label.partition(":"))
        if not separator:
            raise UserError(
                f"label '{label}' of {source.model} is not written attribute:class: declare 'labels' for it"
            )
        table.setdefault(attribute, {}).setdefault(name, []).append(column)
    known = _ordered(source, {name: classes for name, classes in table.items() if name in ATTRIBUTES})
    return {name: known.get(name, classes) for name, classes in table.items()}


def load_classifier(source: str | Path | Source | Sequence[Source], device: torch.device | str = "cpu") -> Classifier:
    """Load the classifier of a profile's `guide` or `judge`, frozen.

    `UserError` if a model is missing or damaged, a class has no label, or a label no class.
    """
    if isinstance(source, (list, tuple)):
        check_there([Path(part.model) for part in source])
        parts = [load_classifier(part, device) for part in source]
        return parts[0] if len(parts) == 1 else Several(parts)
    source = source if isinstance(source, Source) else Source(model=str(source))
    check_there([Path(source.model)])
    path = Path(source.model)
    if path.suffix in WEIGHTS:
        classifier = _mobilenet(source, path)
    elif (weights := find_clip_heads(source.model, source.revision)) is not None:
        classifier = _clip_heads(source, weights)
    else:
        config = _load(AutoConfig, source)
        zero_shot = "CLIPModel" in (config.architectures or [])
        classifier = _clip(source) if zero_shot else _image_classifier(source)
    if (path / "accuracy.json").is_file():
        _read_accuracy(classifier, path / "accuracy.json")
    return classifier.eval().requires_grad_(False).to(device)


def check_there(paths: Sequence[Path]) -> None:
    """Refuse missing files of weights, all at once, and say where FFD's come from."""
    if missing := [path for path in paths if path.suffix in WEIGHTS and not path.is_file()]:
        raise UserError(
            f"there is no {' and no '.join(map(str, missing))}: for FFD's classifiers unzip the data.zip that the "
            "README of sail-sg/finetune-fair-diffusion links, and move what is in its data/5-trained-test-classifiers "
            f"to {missing[0].parent.parent}"
        )


def _read_accuracy(classifier: Classifier, path: Path) -> None:
    try:
        measured = json.loads(path.read_text(encoding="utf-8"))
        classifier.accuracy = dict(measured["accuracy"])
        for attribute, counts in measured.get("confusion", {}).items():
            names = classifier.classes[attribute]
            classifier.confusion[attribute] = np.array([[counts[true][seen] for seen in names] for true in names])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} does not contain the accuracy ({error}): measure it or delete it") from error


def declared_table(source: Source, labels: dict[int, object], whole: bool = True) -> Table:
    """The columns of every class that `source.labels` declares, given the model's own `labels` (column -> label).

    `UserError` for a label that the model lacks, a class without label, and, if the table must cover the `whole`
    output, a label without class: images of it would be counted as another class.
    """
    columns: dict[str, list[int]] = {}
    for column, label in labels.items():
        columns.setdefault(str(label), []).append(column)
    table = {
        attribute: {name: [str(label) for label in _listed(wanted)] for name, wanted in classes.items()}
        for attribute, classes in (source.labels or {}).items()
    }
    declared = [label for classes in table.values() for wanted in classes.values() for label in wanted]
    for label in declared:
        if label not in columns:
            known = ", ".join(list(columns)[:20])
            raise UserError(f"{source.model} has no label '{label}': declare 'labels' with some of {known}")
    for label in columns if whole else ():
        if label not in declared:
            raise UserError(f"label '{label}' of {source.model} belongs to no class: declare it under 'labels'")
    for attribute, classes in table.items():
        each = [label for wanted in classes.values() for label in wanted]
        if twice := [label for label in each if each.count(label) > 1]:
            raise UserError(f"label '{twice[0]}' of {source.model} is declared twice for {attribute}: leave one")
    return _ordered(
        source,
        {
            attribute: {
                name: [column for label in wanted for column in columns[label]] for name, wanted in each.items()
            }
            for attribute, each in table.items()
        },
    )


def _ordered(source: Source, table: Table) -> Table:
    """The table with the classes in the order of their attribute; `UserError` for missing or unknown ones."""
    for attribute, classes in table.items():
        for name in classes:
            get_attribute(attribute).index(name)
        for name in get_attribute(attribute).classes:
            if not classes.get(name):
                raise UserError(f"the labels of {source.model} give {attribute} no '{name}': declare one")
    return {
        attribute: {name: classes[name] for name in get_attribute(attribute).classes}
        for attribute, classes in table.items()
    }


def _listed(value) -> list:
    return value if isinstance(value, list) else [value]


def _load(kind, source: Source):
    path = Path(source.model)
    try:
        return kind.from_pretrained(source.model, revision=source.revision, local_files_only=path.exists())
    except Exception as error:  # transformers raises a different type for each broken file
        raise UserError(explain_missing("classifier", source.model, error)) from error


def _image_classifier(source: Source) -> Classifier:
    where = {"revision": source.revision, "local_files_only": Path(source.model).exists()}
    model = load_trained(AutoModelForImageClassification, "classifier", source.model, **where)
    config = model.config
    kind = "regression" if config.num_labels == 1 else config.problem_type
    if kind not in (None, "single_label_classification"):
        raise UserError(
            f"{source.model} does not choose one of its labels ({kind}, {config.num_labels} outputs): use a classifier "
            "that has an output for every class"
        )
    table = declared_table(source, config.id2label) if source.labels else own_table(config)
    side = config.image_size if isinstance(getattr(config, "image_size", None), int) else None
    folder = Path(source.model)
    if folder.is_dir() and not any((folder / name).is_file() for name in PROCESSORS):
        if side is None or not all(":" in label for label in config.id2label.values()):
            raise UserError(
                f"{folder} has no {PROCESSORS[0]}, which says how pixels are scaled: copy that of the model from which "
                "it was fine-tuned"
            )
        return Classifier(model, table)  # mini-sd's own
    pixels = pixels_of(_load(AutoImageProcessor, source), source.model, getattr(config, "num_channels", 3), side)
    try:
        model.eval()(pixels(torch.zeros(1, 3, pixels.side, pixels.side)))
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{source.model} does not take what its image processor makes ({reason}): correct it"
        ) from error
    return Classifier(model, table, pixels)


def _clip(source: Source) -> Classifier:
    if not source.labels:
        raise UserError(f"{source.model} is a CLIP model: declare 'labels', a text for every class of an attribute")
    clip = load_clip(source.model, revision=source.revision)
    texts = [text for classes in source.labels.values() for label in classes.values() for text in _listed(label)]
    features = clip.text_features([str(text) for text in texts])
    numbers = iter(range(len(texts)))
    table = {
        attribute: {name: [next(numbers) for _ in _listed(classes[name])] for name in classes}
        for attribute, classes in source.labels.items()
    }
    pixels = Pixels(clip.model.config.vision_config.image_size, mode="bicubic")
    return Classifier(ZeroShot(clip, features), _ordered(source, table), pixels)


def _clip_heads(source: Source, weights: Path) -> Classifier:
    """A CLIP encoder with a head for each attribute, in front of which the image processor beside it stands."""
    if not source.labels:
        raise UserError(f"{source.model} has labels of FairFace: declare 'labels' for the attributes that it answers")
    model = load_clip_heads(weights, list(source.labels))
    side = model.encoder.config.image_size
    pixels = pixels_of(_load(AutoImageProcessor, source), source.model, 3, side)
    return Classifier(model, declared_table(source, model.labels()), pixels)


def _mobilenet(source: Source, path: Path) -> Classifier:
    """FFD's files: torchvision's MobileNetV3-Large with another last layer, for face crops of 224 pixels in [-1, 1]."""
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
        model = mobilenet_v3_large(num_classes=len(state["classifier.3.bias"]))
        model.load_state_dict(state)
    except Exception as error:  # missing, truncated, with code in it, of another network
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{path} is no state dict of a MobileNetV3-Large that can be loaded safely: {reason}"
        ) from error
    columns = {number: number for number in range(len(state["classifier.3.bias"]))}
    if not source.labels:
        raise UserError(f"{path} has no labels of its own: declare 'labels', a column for every class")
    return Classifier(model, declared_table(source, columns, whole=False), Pixels(224))
