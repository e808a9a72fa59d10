"""Data sets of photographs of people with captions: read them, and select those that show one person.

Two forms are supported: MPII Human Pose (Andriluka et al., CVPR 2014) as downloaded, with its .mat annotation file, and
any folder of images with a captions file, like Hugging Face's image folders.
"""

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
from facenet_pytorch import MTCNN
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from fairnb.errors import UserError
from fairnb.measure.judge import judge_images
from fairnb.vision.classifiers import Classifier

CAPTIONS = ("metadata.jsonl", "metadata.csv", "captions.csv")
COLUMNS = ["path", "caption", "activity"]


def read_mpii(annotations: str | Path, images: str | Path) -> pd.DataFrame:
    """Read MPII Human Pose: a row for each image of the folder `images` that has an activity.

    `path` is relative to `images`, `activity` the finest name in the annotation ("bicycling, mountain"), `caption` is
    "a photo of a person, <activity>". `attrs["missing"]` counts the images that are not there. `UserError` for another
    file, and if none of its images is there.
    """
    try:
        release = loadmat(annotations, struct_as_record=False, squeeze_me=True)["RELEASE"]
        names = [str(each.image.name) for each in np.atleast_1d(release.annolist)]
        activities = [each.act_name if isinstance(each.act_name, str) else "" for each in np.atleast_1d(release.act)]
    # scipy has an error type of its own for a MATLAB 7.3 file
    except (OSError, ValueError, TypeError, KeyError, AttributeError, NotImplementedError, MatReadError) as error:
        raise UserError(
            f"{annotations} cannot be read as MPII's annotation ({error}): give mpii_human_pose_v1_u12_1.mat"
        ) from error
    rows = [(name, f"a photo of a person, {what}", what) for name, what in zip(names, activities, strict=True) if what]
    return _that_are_there(rows, images, annotations)


def read_captioned(folder: str | Path) -> pd.DataFrame:
    """Read the images and captions of a folder with metadata.jsonl, metadata.csv or captions.csv.

    Each line has a file (`file_name`), its caption (`text` or `caption`), and optionally an `activity`, by which shares
    are counted; by default that is the caption. `attrs["missing"]` counts the lines whose image is not there.
    `UserError` names the file and what is missing in it, and an image that has two lines.
    """
    path = next((Path(folder) / name for name in CAPTIONS if (Path(folder) / name).is_file()), None)
    if path is None:
        raise UserError(f"{folder} has no captions: write {CAPTIONS[0]} with file_name and text for each image")
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".jsonl":
            lines = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            lines = list(csv.DictReader(text.splitlines()))
        rows = []
        for line in lines:
            caption = line["text"] if "text" in line else line["caption"]
            row = (line["file_name"], caption, line.get("activity") or caption)
            if not all(isinstance(value, str) and value.strip() for value in row):
                raise ValueError(f"line {len(rows) + 1} has no text for {row[0]}")
            rows.append(row)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read as captions ({error}): give file_name and text in each line") from error
    return _that_are_there(rows, folder, path)


def one_person(photos: pd.DataFrame, folder: str | Path, detector: MTCNN, classifier: Classifier) -> pd.DataFrame:
    """Return records (see `judge_images`) of the photographs with exactly one face, with their `caption`.

    The prompt of a record is its activity, so `metrics.bias_by_prompt` gives the imbalance of each activity with its
    interval. `UserError` if no photograph shows exactly one face.
    """
    numbers = {name: number for number, name in enumerate(dict.fromkeys(photos.activity))}
    rows = [
        {"prompt_id": numbers[row.activity], "prompt": row.activity, "occupation": None, "split": "train"}
        | {"image": number, "seed": 0, "path": row.path, "caption": row.caption}
        for number, row in enumerate(photos.itertuples())
    ]
    records = judge_images(folder, detector, classifier, rows=rows)
    alone = records[records.faces == 1].reset_index(drop=True)
    if alone.empty:
        raise UserError(f"of the {len(records)} photographs in {folder} none shows exactly one face: use others")
    return alone


def _that_are_there(rows: list[tuple], folder: str | Path, source: str | Path) -> pd.DataFrame:
    there = [row for row in rows if (Path(folder) / row[0]).is_file()]
    if not there:
        example = f", for example {rows[0][0]}" if rows else ""
        raise UserError(f"{folder} holds none of the {len(rows)} images that {source} names{example}: name another")
    if twice := [name for name, count in Counter(name for name, *_ in there).items() if count > 1]:
        raise UserError(f"{source} names {twice[0]} twice, so it would be counted twice: keep one line of each image")
    photos = pd.DataFrame(there, columns=COLUMNS)
    photos.attrs["missing"] = len(rows) - len(there)
    return photos
