"""What a classifier's image processor does to a picture, as one differentiable step."""

from pathlib import Path

import torch
from torch.nn.functional import interpolate
from torchvision.transforms.functional import center_crop

from fairnb.errors import UserError

# The numbers that PIL, and so a preprocessor_config.json, gives to filters; transformers has bicubic for the others.
FILTERS = {0: "nearest-exact", 2: "bilinear", 3: "bicubic"}
LUMA = (0.299, 0.587, 0.114)  # of PIL's convert("L")
TOLERANCE = 0.05  # of brightness in [-1, 1]: transformers rounds a resized picture to whole levels, which is .008


class Pixels(torch.nn.Module):
    """Pictures [N, 3, H, W] in [-1, 1] as a model wants them: resized to `side`, its middle of `crop` pixels kept,
    multiplied by `scale` and shifted, in a model's own colours.

    A picture that is no square is squeezed into one, or its middle is taken if the processor keeps proportions
    (`square` False).
    """

    def __init__(self, side: int, crop: int | None = None, mode: str = "bilinear", square: bool = True):
        super().__init__()
        self.side, self.crop, self.mode, self.square = side, crop, mode, square
        self.register_buffer("scale", torch.ones(1, 1, 1), persistent=False)
        self.register_buffer("shift", torch.zeros(1, 1, 1), persistent=False)
        self.register_buffer("colours", None, persistent=False)  # [C, 3], None: as they come

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Pictures [N, C, side, side], or of side `crop`."""
        height, width = images.shape[-2:]
        if height != width and not self.square:
            images = center_crop(images, min(height, width))
        if images.shape[-1] != self.side or images.shape[-2] != self.side:
            antialias = self.mode != "nearest-exact"
            images = interpolate(images, (self.side, self.side), mode=self.mode, antialias=antialias)
            if self.mode == "bicubic":  # which passes over the ends at an edge
                images = images.clamp(-1, 1)
        if self.crop is not None:
            images = center_crop(images, self.crop)
        if self.colours is not None:
            images = torch.einsum("cd,ndhw->nchw", self.colours, images)
        return images * self.scale + self.shift


def pixels_of(processor, name: str | Path, channels: int, side: int | None) -> Pixels:
    """The `Pixels` of a transformers image processor, whose model has `channels` and, perhaps, a `side` of its own.

    How brightness is rescaled and normalised is read off the processor's answer to a black and a white picture, and the
    whole is compared with its answer to a coloured one: `UserError` for a processor that does anything else.
    """

    def answer(picture: torch.Tensor) -> torch.Tensor:
        try:
            return processor(images=picture.to(torch.uint8), return_tensors="pt")["pixel_values"].float()
        except Exception as error:  # transformers raises a different type for each setting
            reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
            raise UserError(f"the preprocessor_config.json of {name} does not work ({reason}): correct it") from error

    pixels = Pixels(*_geometry(processor, name, side))
    if channels == 1:
        pixels.colours = torch.tensor([LUMA])
    elif getattr(processor, "do_flip_channel_order", False):
        pixels.colours = torch.eye(3).flip(0)
    resized = getattr(processor, "do_resize", True)
    wide = pixels.side * 3 // 2 if resized else pixels.side
    generator = torch.Generator().manual_seed(0)
    spots = torch.rand(1, 3, 4, 4, generator=generator)
    levels = (interpolate(spots, (wide, wide), mode="bilinear") * 255).round()
    asked = levels if channels == 3 else (levels * torch.tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True).round()
    black, white = (answer(torch.full_like(asked[0], level)).mean((0, 2, 3)) for level in (0, 255))
    scale, shift = ((white - black) / 2).view(-1, 1, 1), ((white + black) / 2).view(-1, 1, 1)
    expected = answer(asked[0])
    pixels.scale, pixels.shift = scale, shift
    got = pixels(levels / 127.5 - 1)
    if got.shape != expected.shape or not ((got - expected).abs() <= TOLERANCE * scale.abs()).all():
        raise UserError(
            f"the image processor of {name} ({type(processor).__name__}) prepares pictures in a way that cannot be "
            "followed: use a classifier that resizes, crops and normalises them"
        )
    return pixels


def _geometry(processor, name: str | Path, side: int | None) -> tuple[int, int | None, str, bool]:
    """The arguments of `Pixels`: side, crop, filter, and whether pictures are squeezed into a square."""
    mode = FILTERS.get(getattr(processor, "resample", None), "bicubic")
    sides = dict(getattr(processor, "size", None) or {})
    centre = dict(getattr(processor, "crop_size", None) or {}) if getattr(processor, "do_center_crop", False) else {}
    crop = centre.get("height")
    if not getattr(processor, "do_resize", True):
        sides = {"height": side, "width": side}
    short, height, width = (sides.get(key) for key in ("shortest_edge", "height", "width"))
    square = short is None
    if short and (share := getattr(processor, "crop_pct", None)):  # ConvNeXt's: small pictures are cropped, large not
        crop, short, square = (short, int(short / share), False) if short < 384 else (None, short, True)
    if (square and height != width and not short) or not (short or height) or crop != centre.get("width", crop):
        raise UserError(f"the image processor of {name} gives no square pictures ({sides}): use another classifier")
    return short or height, crop, mode, square
