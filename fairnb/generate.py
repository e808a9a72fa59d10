"""Images on disk, resumable and the same on any number of processes; and the look that turns them into records."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import StableDiffusionPipeline
from facenet_pytorch import MTCNN
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from fairnb.attributes import ATTRIBUTES
from fairnb.classifiers import Classifier
from fairnb.errors import UserError
from fairnb.faces import crop_faces, find_faces
from fairnb.pipeline import fingerprint, processes
from fairnb.prompts import name_class
from fairnb.records import BOX, check_records, read_json, write_atomically, write_json
from fairnb.sampling import decode, noise, sample
from fairnb.semantics import Clip

PLAN = "generation.json"
ROW = ("prompt_id", "prompt", "occupation", "split")


def generate(
    pipe: StableDiffusionPipeline,
    prompts: pd.DataFrame | Iterable[dict],
    *,
    images: int,
    folder: str | Path,
    seed: int,
    steps: int,
    guidance: float,
    batch: int,
    replace: bool = False,
    progress: bool = True,
) -> Path:
    """Draw `images` pictures of each prompt into folder/prompt_<id>/img_<j>.png (8 bit, lossless).

    `prompts`: rows with prompt_id, prompt, occupation, split (`fairnb.prompts.prompt_rows`) and, if wanted, the `words`
    that each picture's prompt has besides (`draw_words`). Good files that are there are kept, empty or cut-off ones
    redone: a killed call, made again, ends with the same files. Under `torchrun` the batches are divided over the
    processes. The folder's generation.json says what it holds; a folder of another model or other settings is refused,
    or emptied of its images with `replace`.
    """
    folder = Path(folder)
    rows = _rows(prompts)
    plan = {
        "prompts": rows,
        "images": images,
        "seed": seed,
        "steps": steps,
        "guidance": guidance,
        "batch": batch,
        # A patch or LoRA changes the first, prefix tokens the second.
        "unet": fingerprint(pipe.unet),
        "text_encoder": fingerprint(pipe.text_encoder),
        "vae": fingerprint(pipe.vae),
    }
    if guided_by := getattr(pipe, "guided_by", None):  # guidance changes no weight
        plan["guided_by"] = guided_by
    state = processes()
    if state.is_main_process:
        _claim(folder, plan, replace)
    state.wait_for_everyone()
    # A batch is redone as a whole where one of its images is missing: rounding depends on a batch's size, and so the
    # bytes of a resumed run are those of one never killed.
    work = [(row, list(range(start, min(start + batch, images)))) for row in rows for start in range(0, images, batch)]
    mine = work[state.process_index :: state.num_processes]
    for row, indices in tqdm(mine, desc="generate", unit="batch", disable=not (progress and state.is_main_process)):
        paths = [image_path(folder, row["prompt_id"], index) for index in indices]
        if missing := [number for number, path in enumerate(paths) if not _whole(path)]:
            latents = noise(pipe, row["prompt"], indices, seed)
            prompt = row["prompt"]
            if "words" in row:
                prompt = [name_class(prompt, row["words"][index]) for index in indices]
            with torch.no_grad():
                pictures = decode(pipe, sample(pipe, prompt, latents, steps=steps, guidance=guidance))
            for number in missing:
                save_image(pictures[number], paths[number])
    state.wait_for_everyone()
    return folder


def image_path(folder: str | Path, prompt_id: int, index: int) -> Path:
    """Where `generate` puts an image."""
    return Path(folder) / f"prompt_{prompt_id}" / f"img_{index}.png"


def save_image(image: torch.Tensor, path: str | Path) -> Path:
    """Write one image [3, H, W] in [-1, 1] as PNG; `UserError` for one that is not finite (a diverged model)."""
    if not torch.isfinite(image).all():
        raise UserError(f"the model drew NaN for {path}: its weights or its patch are damaged")
    array = ((image.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return write_atomically(path, lambda temporary: Image.fromarray(array).save(temporary, format="PNG"))


def load_image(path: str | Path) -> torch.Tensor:
    """One image [3, H, W] in [-1, 1]; grey, palette, CMYK and 16-bit pictures become RGB, of an animated one the first
    is taken. `UserError` names a damaged file, and one too large to be opened safely."""
    try:
        with Image.open(path) as picture:
            if picture.mode.startswith("I"):  # 16 bits a pixel: convert("RGB") would cut all above 255 off
                picture = Image.fromarray((np.asarray(picture, np.float32) / 257).round().clip(0, 255).astype(np.uint8))
            array = np.array(picture.convert("RGB"), np.float32)
    except Image.DecompressionBombError as error:
        raise UserError(f"{path} is too large to be opened safely ({error}): reduce it") from error
    except (UnidentifiedImageError, OSError, SyntaxError) as error:  # PIL calls a broken PNG a SyntaxError
        raise UserError(f"{path} is not a whole image: remove it or generate it again") from error
    return torch.from_numpy(array).permute(2, 0, 1) / 127.5 - 1


@torch.no_grad()
def look(
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


def _rows(prompts: pd.DataFrame | Iterable[dict]) -> list[dict]:
    rows = prompts.to_dict("records") if isinstance(prompts, pd.DataFrame) else list(prompts)
    if not rows:
        raise UserError("there is no prompt to generate: give at least one")
    if missing := [key for key in ROW for row in rows if key not in row]:
        raise UserError(f"a prompt row lacks '{missing[0]}': use fairnb.prompts.prompt_rows")
    keys = [*ROW[1:], *(["words"] if "words" in rows[0] else [])]
    rows = [{"prompt_id": int(row["prompt_id"]), **{key: row[key] for key in keys}} for row in rows]
    ids = [row["prompt_id"] for row in rows]
    if twice := {number for number in ids if ids.count(number) > 1}:
        raise UserError(f"prompt_id {min(twice)} stands for two prompts: give each its own")
    return rows


def _claim(folder: Path, plan: dict, replace: bool) -> None:
    """Write the plan first, so that every later image is known by it; refuse or empty a folder of another run."""
    if (folder / PLAN).is_file():
        there = read_json(folder / PLAN)
        if there == plan:
            return
        if not replace:
            key = next((key for key in plan if there.get(key) != plan[key]), "plan")
            raise UserError(f"{folder} holds images of another run (its {key} differs): delete it or choose another")
        for path in folder.glob("prompt_*/img_*.png"):
            path.unlink()
        for path in folder.glob("prompt_*"):
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
    elif folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise UserError(f"{folder} holds files that fairnb did not make: choose an empty folder")
    write_json(folder / PLAN, plan)


def _whole(path: Path) -> bool:
    """Is this a PNG down to its last chunk? A file cut off while it was copied or synced fails."""
    try:
        with Image.open(path) as picture:
            picture.load()
    except (UnidentifiedImageError, OSError, SyntaxError):
        return False
    return True
