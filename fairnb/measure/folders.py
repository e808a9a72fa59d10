"""Folders of pictures, as fairnb and other tools leave them: what each picture is, and batches of pictures."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from PIL import Image

from fairnb.errors import UserError
from fairnb.files import LOCK, read_json
from fairnb.measure.generate import PLAN
from fairnb.measure.images import image_path, load_image

# A file is a picture if it is one of these by its content, and should be one if it has such a name.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"),
    *(".jp2", ".avif", ".heic", ".heif", ".jxl"),
)
PIXELS = 64 * 512 * 512  # of a batch: a few large pictures at a time need no more memory than many small ones


def picture_rows(folder: str | Path) -> tuple[list[dict], dict[str, int]]:
    """Return what is known about each picture of a folder, and how many files of which kind are no pictures.

    In a folder of `generate` (or in the images/ of an audit) that is the plan. Elsewhere each folder with pictures is a
    prompt of its name, in the order in which a person counts: "prompt_10" has the number 10, "img_3.jpg" is image 3,
    and what has no number gets the next free one. A sub-folder of a sub-folder is a prompt, too. `UserError` names a
    file that should be a picture and is none, two of the same number, and folders among which to choose.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no folder of images at {folder}: generate some or name another folder")
    for place in (folder, folder / "images"):
        if (place / PLAN).is_file():
            return _planned(folder, place), {}
    groups: dict[Path, list[Path]] = {folder: []}
    skipped: Counter[str] = Counter()
    for path in _walk(folder, set()):
        if path.name == PLAN:
            raise UserError(f"{folder} holds what fairnb generated into {path.parent}: measure that by itself")
        hidden = path.name.startswith(".")
        if not hidden and (path.is_file() or path.is_symlink()) and _is_picture(path):
            groups.setdefault(path.parent, []).append(path)
        else:
            skipped["hidden" if hidden else path.suffix.lower() or path.name] += 1
    rows = []
    for prompt_id, group in _numbered([group for group in groups if groups[group]], r"(?:prompt[_-]?)?(\d+)"):
        name = group.resolve().name if group == folder else group.relative_to(folder).as_posix()
        about = {"prompt_id": prompt_id, "prompt": name.replace("_", " "), "occupation": None, "split": "test"}
        for index, path in _numbered(groups[group], r"(?:ima?ge?)?[_-]?(\d+)"):
            rows.append({**about, "image": index, "seed": 0, "path": path.relative_to(folder).as_posix()})
    if not rows:
        raise UserError(f"{folder} holds no image: generate some or name another folder")
    return rows, dict(skipped)


def image_batches(folder: Path, rows: Iterable[dict], size: int) -> Iterator[tuple[list[dict], torch.Tensor]]:
    """Rows and images [N, 3, H, W] in order: up to `size` of the same size, with no more than `PIXELS` altogether."""
    some, images = [], []
    for row in rows:
        image = load_image(folder / row["path"])
        full = len(images) == size or (len(images) + 1) * image[0].numel() > PIXELS
        if images and (full or image.shape != images[0].shape):
            yield some, torch.stack(images)
            some, images = [], []
        some.append(row)
        images.append(image)
    if images:
        yield some, torch.stack(images)


def _planned(folder: Path, place: Path) -> list[dict]:
    """The rows of what `generate` wrote into `place`, with paths relative to `folder`."""
    plan, rows = read_json(place / PLAN), []
    for row in plan["prompts"]:
        for index in range(plan["images"]):
            path = image_path(place, row["prompt_id"], index, plan.get("form", "png"))
            if not path.is_file():
                raise UserError(f"{path} is missing: the generation was not finished, run it again")
            rows.append({**row, "image": index, "seed": plan["seed"], "path": path.relative_to(folder).as_posix()})
    return rows


def _walk(folder: Path, above: set[Path]) -> Iterator[Path]:
    """The files below a folder in the order in which a person counts; a hidden folder is named and not entered."""
    above = above | {folder.resolve()}  # a link to a folder above would lead in a circle
    try:
        paths = sorted(folder.iterdir(), key=_natural)
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}): allow it, or name another folder") from error
    for path in paths:
        if path.name == LOCK:
            continue
        if path.is_dir() and not path.name.startswith(".") and path.resolve() not in above:
            yield from _walk(path, above)
        else:
            yield path


def _natural(path: Path) -> list:
    """A key that puts img_2 before img_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def _is_picture(path: Path) -> bool:
    try:
        with Image.open(path) as picture:
            found = picture.format in FORMATS
    except Image.DecompressionBombError:
        found = True  # `load_image` says so
    except Exception:  # PIL raises a different type for each broken file
        found = False
    if not found and path.suffix.lower() in SUFFIXES:
        raise UserError(f"{path} is not a whole image: remove it or make it again")
    return found


def _numbered(paths: list[Path], pattern: str) -> list[tuple[int, Path]]:
    """Paths by the number in their name; those without one follow in their order. If folders in different places have
    the same number, all are counted in their order."""
    numbers: dict[int, Path] = {}
    others = []
    for path in paths:
        name = path.stem if path.is_file() else path.name or path.resolve().name
        found = re.fullmatch(pattern, name, re.IGNORECASE | re.ASCII)
        if found is None:
            others.append(path)
        elif (twin := numbers.setdefault(int(found[1]), path)) is not path:
            if twin.parent != path.parent:
                return list(enumerate(paths))
            raise UserError(f"{path} and {twin} have the same number: rename or remove one of them")
    return [*sorted(numbers.items()), *enumerate(others, max(numbers, default=-1) + 1)]
