"""Judge the images of a folder: detect the largest face, classify it, and return one row per image."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import torch
from facenet_pytorch import MTCNN

from fairnb.errors import UserError
from fairnb.measure.folders import image_batches, picture_rows
from fairnb.measure.images import reduction
from fairnb.measure.records import BOX, check_records
from fairnb.prompts.attributes import get_attribute
from fairnb.vision.classifiers import Classifier
from fairnb.vision.encoders import Clip
from fairnb.vision.perception import perceive


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
    """Judge every image of a folder; return the columns of `records.COLUMNS`, then those of the judge.

    Attributes are judged on the largest face and are None without one; boxes are in pixels of the file, upright.
    `occupation_seen` (from the whole image) and `clip_t` (cosine of image and prompt) are added if their models are
    given. `folders.picture_rows` says what the images of a folder are; alternatively `rows` lists the files and what is
    known about them. `attrs["skipped"]` of the result counts the files of each kind that are no images. `UserError`
    names an image that is damaged.
    """
    folder = Path(folder)
    device = next(judge.parameters()).device
    for name in judge.classes:
        get_attribute(name)  # refuses a judge of something else
    rows, skipped = picture_rows(folder) if rows is None else (rows, {})
    tables = []
    for some, images in image_batches(folder, rows, batch):
        table = _judge_batch(some, images.to(device), detector, judge, occupation_judge, clip)
        scale = [reduction(folder / path, images) for path in table.path]
        table[BOX] = table[BOX].mul(scale, axis=0)
        tables.append(table)
    if not tables:
        raise UserError(f"of {folder} no image is named: name some")
    records = check_records(pd.concat(tables, ignore_index=True))
    records.attrs["skipped"] = skipped
    return records


def _judge_batch(rows, images, detector, judge, occupation_judge, clip) -> pd.DataFrame:
    table = pd.DataFrame(rows)
    seen = perceive(images, detector, judge)
    table["face"] = seen.faces.found
    table["face_probability"] = seen.faces.probability
    table["faces"] = seen.faces.number
    table[BOX] = seen.faces.boxes
    for name, classes in judge.classes.items():
        table[name] = pd.Series(seen.classes(name), dtype=object)
        table[[f"{name}_{label}" for label in classes]] = seen.probabilities[name].float().cpu().numpy()
    if occupation_judge is not None:
        names = occupation_judge.classes["occupation"]
        chosen = occupation_judge(images)["occupation"].argmax(-1).tolist()
        table["occupation_seen"] = [names[number] for number in chosen]
    if clip is not None:
        texts = clip.text_features(table.prompt.tolist())
        table["clip_t"] = (clip.image_features(images) * texts).sum(-1).float().cpu().numpy()
    return table
