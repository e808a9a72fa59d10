"""One image as a file: written as PNG, read from whatever format."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from fairnb.errors import UserError
from fairnb.files import write_atomically

LONGEST = 2048  # pixels of a side: as sharp as faces need, and 12 photographs of 12 megapixels take no 4 GB


def image_path(folder: str | Path, prompt_id: int, index: int) -> Path:
    """Where `generate` puts an image."""
    return Path(folder) / f"prompt_{prompt_id}" / f"img_{index}.png"


def save_image(image: torch.Tensor, path: str | Path) -> Path:
    """Write one image [3, H, W] in [-1, 1] as PNG; `UserError` for one that is not finite (a diverged model)."""
    if not torch.isfinite(image).all():
        raise UserError(f"the model drew NaN for {path}: its weights or its patch are damaged")
    array = ((image.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return write_atomically(path, lambda temporary: Image.fromarray(array).save(temporary, format="PNG"))


def load_image(path: str | Path, longest: int = LONGEST) -> torch.Tensor:
    """One image [3, H, W] in [-1, 1], upright as its EXIF orientation says.

    Grey, palette, CMYK and 16-bit pictures become RGB, what is transparent is seen on white, and of an animated picture
    the first is taken. A picture with a side above `longest` pixels is reduced to that; smaller ones keep their pixels.
    `UserError` names a damaged file, and one that is too large or of numbers without a known white.
    """
    try:
        # From a stream: PIL maps a TIFF's path into memory and then turns a grey one wrongly.
        with Path(path).open("rb") as stream, Image.open(stream) as picture:
            ImageOps.exif_transpose(picture, in_place=True)
            picture = _in_rgb(picture, path)
            picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
            array = np.array(picture, np.float32)
    except Image.DecompressionBombError as error:
        raise UserError(f"{path} is too large to be opened safely ({error}): reduce it") from error
    except UserError:
        raise
    except Exception as error:  # PIL raises a different type for each broken file
        raise UserError(f"{path} is not a whole image: remove it or make it again") from error
    return torch.from_numpy(array).permute(2, 0, 1) / 127.5 - 1


def reduction(path: str | Path, image: torch.Tensor) -> float:
    """By how much `load_image` has reduced the sides of a picture: pixels of the file per pixel of the image."""
    if max(image.shape[-2:]) < LONGEST:
        return 1.0
    with Image.open(path) as picture:
        return max(picture.size) / max(image.shape[-2:])


def _in_rgb(picture: Image.Image, path: str | Path) -> Image.Image:
    if picture.mode.startswith("I"):  # 16 bits a pixel: convert("RGB") would cut all above 255 off
        values = np.asarray(picture, np.float32)
        if picture.mode == "I" and not 255 < values.max() <= 65535:
            raise UserError(f"{path} holds 32-bit numbers without a known white: save it with 8 or 16 bits")
        return Image.fromarray((values / 257).round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if picture.mode == "F":
        raise UserError(f"{path} holds floating-point numbers without a known white: save it with 8 or 16 bits")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def is_whole_image(path: Path) -> bool:
    """Is this a PNG down to its last chunk? A file cut off while it was copied or synced fails."""
    try:
        with Image.open(path) as picture:
            picture.load()
    except Exception:  # PIL raises a different type for each broken file
        return False
    return True
