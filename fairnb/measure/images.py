"""One image as a file: written as PNG, read from whatever format, brought to a model's size."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch.nn.functional import interpolate

from fairnb.errors import UserError
from fairnb.files import write_atomically


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


def fit_image(image: torch.Tensor, side: int | Sequence[int]) -> torch.Tensor:
    """An image [3, H, W] of any size as one of height and width `side`: its middle, resized without stretching it."""
    height, width = (side, side) if isinstance(side, int) else side
    scale = max(height / image.shape[1], width / image.shape[2])
    size = [max(least, round(scale * own)) for least, own in zip((height, width), image.shape[1:], strict=True)]
    if size != list(image.shape[1:]):
        image = interpolate(image[None], size, mode="bilinear", antialias=True)[0]
    top, left = ((own - wanted) // 2 for own, wanted in zip(size, (height, width), strict=True))
    return image[:, top : top + height, left : left + width]


def is_whole_image(path: Path) -> bool:
    """Is this a PNG down to its last chunk? A file cut off while it was copied or synced fails."""
    try:
        with Image.open(path) as picture:
            picture.load()
    except (UnidentifiedImageError, OSError, SyntaxError):
        return False
    return True
