"""Judge the images of a folder: find the largest face, classify it, one row per image."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from facenet_pytorch import MTCNN

from fairnb.errors import UserError
from fairnb.files import read_json
from fairnb.measure.generate import PLAN
from fairnb.measure.images import image_path, load_image
from fairnb.measure.records import BOX, check_records
from fairnb.prompts.attributes import ATTRIBUTES
from fairnb.vision.classifiers import Classifier
from fairnb.vision.encoders import Clip
from fairnb.vision.faces import crop_faces, find_faces


@torch.no_grad()
def judge_images(
    folder: str | Path,
    detector: MTCNN,
    judge: Classifier,
    *,
    occupation_judge: Classifier | None = None,
    clip: Clip | None = None,
    rows: Iterable[dict] | None = None,
    batch: int = 64,
) -> pd.DataFrame:
    """One row per image of a folder: the columns of `fairnb.records.COLUMNS`, then what the judge sees.

    Attributes are judged on the largest face and None without one; `occupation_seen` (whole image) and `clip_t`
    (cosine of image and prompt) come with their models. A folder that fairnb did not make works too: images in it are
    one prompt named after it, images in its sub-folders one prompt each; or `rows` name its files and what is known of
    them (`fairnb.photos`). `UserError` names a file that is no image.
    """
    folder = Path(folder)
    device = next(judge.parameters()).device
    tables = [
        _look_at(some, pictures.to(device), detector, judge, occupation_judge, clip)
        for some, pictures in _batches(folder, _files(folder) if rows is None else rows, batch)
    ]
    if not tables:
        raise UserError(f"{folder} holds no image: generate some or name another folder")
    return check_records(pd.concat(tables, ignore_index=True))


def _look_at(rows, pictures, detector, judge, occupation_judge, clip) -> pd.DataFrame:
    table = pd.DataFrame(rows)
    faces = find_faces(detector, pictures)
    table["face"] = faces.found
    table["face_probability"] = faces.probability
    table["faces"] = faces.number
    table[BOX] = faces.boxes
    crops = crop_faces(pictures[torch.as_tensor(faces.found)], faces.boxes[faces.found], judge.size)
    seen = judge.probabilities(crops) if len(crops) else {}
    for name, classes in judge.classes.items():
        _known_classes(name, classes)
        values = np.full((len(table), len(classes)), np.nan, np.float32)
        if len(crops):
            values[faces.found] = seen[name].float().cpu().numpy()
        best = [classes[row.argmax()] if found else None for row, found in zip(values, faces.found, strict=True)]
        table[name] = pd.Series(best, dtype=object)
        table[[f"{name}_{label}" for label in classes]] = values
    if occupation_judge is not None:
        names = occupation_judge.classes["occupation"]
        chosen = occupation_judge(pictures)["occupation"].argmax(-1).tolist()
        table["occupation_seen"] = [names[number] for number in chosen]
    if clip is not None:
        texts = clip.text_features(table.prompt.tolist())
        table["clip_t"] = (clip.image_features(pictures) * texts).sum(-1).float().cpu().numpy()
    return table


def _known_classes(name: str, classes: tuple[str, ...]) -> None:
    """A judge with other classes, or the same in another order, would silently swap the shares."""
    if name not in ATTRIBUTES or ATTRIBUTES[name].classes != classes:
        known = ", ".join(ATTRIBUTES[name].classes) if name in ATTRIBUTES else "not an attribute of fairnb"
        raise UserError(f"the judge's classes of '{name}' are {', '.join(classes)}, but should be: {known}")


def _batches(folder: Path, files: Iterable[dict], size: int) -> Iterator[tuple[list[dict], torch.Tensor]]:
    """Rows and images [N, 3, H, W] of a folder in order; a batch ends where the size of the pictures changes."""
    rows, pictures = [], []
    for row in files:
        picture = load_image(folder / row["path"])
        if pictures and (len(pictures) == size or picture.shape != pictures[0].shape):
            yield rows, torch.stack(pictures)
            rows, pictures = [], []
        rows.append(row)
        pictures.append(picture)
    if pictures:
        yield rows, torch.stack(pictures)


def _files(folder: Path) -> Iterator[dict]:
    """A row (without what is seen) for each image; by the plan where there is one, else by what is there."""
    if not folder.is_dir():
        raise UserError(f"no folder of images at {folder}: generate some or name another folder")
    if (folder / PLAN).is_file():
        plan = read_json(folder / PLAN)
        for row in plan["prompts"]:
            for index in range(plan["images"]):
                path = image_path(folder, row["prompt_id"], index)
                if not path.is_file():
                    raise UserError(f"{path} is missing: the generation was not finished, run it again")
                yield {**row, "image": index, "seed": plan["seed"], "path": path.relative_to(folder).as_posix()}
        return
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    groups = {path: sorted(path.iterdir()) for path in entries if path.is_dir()}
    groups = {folder: loose, **groups} if (loose := [path for path in entries if path.is_file()]) else groups
    for prompt_id, (group, paths) in enumerate(groups.items()):
        prompt = group.resolve().name.replace("_", " ")
        for index, path in enumerate(path for path in paths if not path.name.startswith(".")):
            about = {"prompt_id": prompt_id, "prompt": prompt, "occupation": None, "split": "test"}
            yield {**about, "image": index, "seed": 0, "path": path.relative_to(folder).as_posix()}
