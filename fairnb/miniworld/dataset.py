"""Draw the training portraits with captions and true labels, in shards, so that a killed run resumes."""

import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from fairnb.files import write_atomically
from fairnb.miniworld.draw.portrait import portrait, subject
from fairnb.miniworld.world import Scene, caption, draw_person, draw_scene
from fairnb.vision.faces import find_faces, load_detector

SHARD = 500


@dataclass(frozen=True)
class Portraits:
    """`pixels` uint8 [N, 64, 64, 3]; `table` has a row per portrait: caption, true labels, and the detected face."""

    pixels: np.ndarray
    table: pd.DataFrame

    def images(self, rows: np.ndarray) -> torch.Tensor:
        """Images [len(rows), 3, 64, 64] in [-1, 1]."""
        return torch.from_numpy(self.pixels[rows]).permute(0, 3, 1, 2).float() / 127.5 - 1

    def boxes(self, rows: np.ndarray) -> np.ndarray:
        """Face boxes [len(rows), 4] in pixels."""
        return self.table.loc[rows, ["box_x0", "box_y0", "box_x1", "box_y1"]].to_numpy(np.float32)


def draw(scene: Scene, rng: np.random.Generator):
    """Draw a scene (PIL image, 64×64)."""
    if scene.kind == "subject":
        return subject(scene.noun, scene.context, scene.style, rng)
    return portrait(scene.noun, scene.gender, scene.skin_tone, scene.age, scene.context, scene.style, rng)


def draw_shard(number: int, folder: Path, seed: int) -> Path:
    """Draw one shard and write it as `shard_<number>.npz` and `.parquet`; a finished shard is kept."""
    pixels, table = folder / f"shard_{number:03d}.npz", folder / f"shard_{number:03d}.parquet"
    if table.exists():
        return table
    torch.set_num_threads(1)
    rng = np.random.default_rng([seed, number])
    pictures, rows = [], []
    for _ in range(SHARD):
        text, scene = draw_scene(rng)
        pictures.append(np.asarray(draw(scene, rng), np.uint8))
        rows.append({"caption": text, **asdict(scene)})
    pictures = np.stack(pictures)
    frame = pd.DataFrame(rows)
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    faces = find_faces(load_detector(), images, threshold=0.9)  # only clear ones teach the classifiers
    frame["face"], frame["face_probability"] = faces.found, faces.probability
    frame[["box_x0", "box_y0", "box_x1", "box_y1"]] = faces.boxes
    write_atomically(pixels, lambda temporary: np.savez(temporary, pixels=pictures))
    write_atomically(table, lambda temporary: frame.to_parquet(temporary))
    return table


def draw_dataset(folder: Path, count: int, seed: int, workers: int = 2) -> Portraits:
    """Draw `count` portraits (a multiple of 500) into `folder`, or read those that are there."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = range(count // SHARD)
    with ProcessPoolExecutor(workers) as pool:
        work = pool.map(partial(draw_shard, folder=folder, seed=seed), numbers)
        for _ in tqdm(work, "draw portraits", len(numbers), mininterval=5):
            pass
    tables = [pd.read_parquet(folder / f"shard_{n:03d}.parquet") for n in numbers]
    pixels = [np.load(folder / f"shard_{n:03d}.npz")["pixels"] for n in numbers]
    return Portraits(np.concatenate(pixels), pd.concat(tables, ignore_index=True))


def draw_photo(occupation: str, rng: np.random.Generator):
    """Draw somebody at work with the planted shares (PIL image, 64×64); return the scene, too."""
    scene = Scene("occupation", occupation, "photo", None, **draw_person(rng, occupation))
    return draw(scene, rng), scene


def draw_photographs(folder: Path, occupations: Sequence[str], each: int, seed: int) -> Path:
    """Draw `each` portraits of every occupation with its planted shares, with captions that name no attribute.

    The result is a Hugging Face image folder (metadata.jsonl: file_name, text, activity) that replaces photographs if
    there are none. Returns the folder; the same seed gives the same portraits.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, occupation in enumerate(occupations):
        for index in range(each):
            rng = np.random.default_rng([seed, number, index])
            picture, scene = draw_photo(occupation, rng)
            name = f"{occupation.replace(' ', '_')}_{index}.png"
            picture.save(folder / name)
            lines.append({"file_name": name, "text": caption(scene, ()), "activity": occupation})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    write_atomically(folder / "metadata.jsonl", lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return folder
