"""Judge the images of a folder: detect the largest face, classify it, and return one row per image."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd
import torch
from facenet_pytorch import MTCNN

from fairnb.errors import UserError
from fairnb.files import read_json
from fairnb.measure.generate import PLAN
from fairnb.measure.images import image_path, load_image
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

    Attributes are judged on the largest face and are None without one. `occupation_seen` (from the whole image) and
    `clip_t` (cosine of image and prompt) are added if their models are given. In a folder that `generate` did not
    write, loose images form one prompt named after the folder, and each sub-folder forms another; alternatively `rows`
    lists the files and what is known about them. `UserError` names a file that is not an image.
    """
    folder = Path(folder)
    device = next(judge.parameters()).device
    for name in judge.classes:
        get_attribute(name)  # refuses a judge of something else
    tables = [
        _judge_batch(some, images.to(device), detector, judge, occupation_judge, clip)
        for some, images in _batches(folder, _files(folder) if rows is None else rows, batch)
    ]
    if not tables:
        raise UserError(f"{folder} holds no image: generate some or name another folder")
    return check_records(pd.concat(tables, ignore_index=True))


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


def _batches(folder: Path, files: Iterable[dict], size: int) -> Iterator[tuple[list[dict], torch.Tensor]]:
    """Rows and images [N, 3, H, W] of a folder in order; a new batch starts where the image size changes."""
    rows, images = [], []
    for row in files:
        image = load_image(folder / row["path"])
        if images and (len(images) == size or image.shape != images[0].shape):
            yield rows, torch.stack(images)
            rows, images = [], []
        rows.append(row)
        images.append(image)
    if images:
        yield rows, torch.stack(images)


def _files(folder: Path) -> Iterator[dict]:
    """One row per image: from the folder's plan if `generate` left one, else from the files that are there."""
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


def image_rows(folder: str | Path) -> list[dict]:
    """What is known of each image of a folder: prompt_id, prompt, occupation, split, image, seed and path.

    As `judge_images` reads the folder; `UserError` if it holds no image.
    """
    if not (rows := list(_files(Path(folder)))):
        raise UserError(f"{folder} holds no image: generate some or name another folder")
    return rows
