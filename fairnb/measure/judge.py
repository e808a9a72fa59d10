"""Judge the images of a folder: detect the largest face, classify it, and return one row per image."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from facenet_pytorch import MTCNN

from fairnb.errors import UserError
from fairnb.identity import hashed
from fairnb.measure.folders import image_batches, picture_rows
from fairnb.measure.images import reduction
from fairnb.measure.records import BOX, attributes_of, check_records, read_records, write_records
from fairnb.prompts.attributes import get_attribute
from fairnb.shards import Shard, check_part
from fairnb.vision.classifiers import Classifier
from fairnb.vision.encoders import Clip
from fairnb.vision.perception import classifier_hash, perceive

BATCH = 64  # images


@torch.no_grad()
def judge_images(
    folder: str | Path,
    detector: MTCNN,
    judge: Classifier,
    *,
    occupation_judge: Classifier | None = None,
    clip: Clip | None = None,
    rows: Iterable[dict] | None = None,
    shard: Shard | None = None,
) -> pd.DataFrame:
    """Judge every image of a folder; return the columns of `records.COLUMNS`, then those of the judge.

    Attributes are judged on the largest face and are None without one; boxes are in pixels of the file, upright.
    `occupation_seen` (from the whole image) and `clip_t` (cosine of image and prompt) are added if their models are
    given. `folders.picture_rows` says what the images of a folder are; alternatively `rows` lists the files and what is
    known about them. `attrs["skipped"]` of the result counts the files of each kind that are no images. A `shard`
    judges its share of the batches. `UserError` names an image that is damaged.
    """
    folder = Path(folder)
    device = next(judge.parameters()).device
    for name in judge.classes:
        get_attribute(name)  # refuses a judge of something else
    rows, skipped = picture_rows(folder) if rows is None else (rows, {})
    rows, tables = list(rows), []
    batches = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    own = chain.from_iterable(image_batches(folder, each, BATCH) for each in (shard.of(batches) if shard else batches))
    for some, images in own:
        table = _judge_batch(some, images.to(device), detector, judge, occupation_judge, clip)
        scale = [reduction(folder / path, images) for path in table.path]
        table[BOX] = table[BOX].mul(scale, axis=0)
        tables.append(table)
    if not tables:
        raise UserError(f"of {folder} no image is named: name some")
    records = check_records(pd.concat(tables, ignore_index=True))
    records.attrs["skipped"] = skipped
    return records


def judge_identity(folder: str | Path, judge: Classifier) -> dict:
    """What the parts of a folder's records have in common: the judge and the images."""
    folder = Path(folder)
    images = [(row, (folder / row["path"]).stat().st_size) for row in picture_rows(folder)[0]]
    return {"judge": classifier_hash(judge), "images": hashed(images)}


def write_part(records: pd.DataFrame, part: Path, identity: Mapping[str, Any]) -> Path:
    """Write what a shard has judged."""
    records.attrs = {"identity": identity}
    return write_records(records, part)


def read_part(part: Path, identity: Mapping[str, Any]) -> pd.DataFrame:
    """Read what `write_part` wrote; `UserError` if it is of other images or another judge."""
    records = read_records(part)
    check_part(part, records.attrs.get("identity", {}), identity)
    return records


def join_parts(folder: str | Path, parts: Sequence[Path], identity: Mapping[str, Any]) -> pd.DataFrame:
    """The records of a folder from the parts of shards, as `judge_images` returns them."""
    rows, skipped = picture_rows(folder)
    records = pd.concat([read_part(part, identity) for part in parts]).set_index("path", drop=False)
    records = records.loc[[row["path"] for row in rows]].reset_index(drop=True)
    for name in (attribute.name for attribute in attributes_of(records)):
        records[name] = records[name].astype(object).where(records[name].notna(), None)  # as judged, not as read
    records.attrs = {"skipped": skipped}
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
