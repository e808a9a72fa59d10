"""Entry points of the drawn world: portraits of people and pictures of things, in three styles."""

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from fairnb.miniworld.draw import face, hair, scenes, wardrobe
from fairnb.miniworld.draw.pen import GRID, UNITS, Pen, glow, spot

STYLES = ("photo", "drawing", "painting")
MID = 2 * UNITS


def _streams(rng, count):
    """Independent generators, so that a change of one attribute leaves the rest of the picture as it was."""
    return [np.random.default_rng(int(seed)) for seed in rng.integers(2**62, size=count)]


def _pose(rng, has_tool, flip):
    """Place, size and tilt of the head: x, y, scale, angle."""
    x = 32 + rng.uniform(-2.4, 2.4) - (1.6 * flip if has_tool else 0)
    return x, 30.4 + rng.uniform(-1.3, 1.6), rng.uniform(0.96, 1.06), rng.normal(0, 0.045)


def _separate(img, pen, skin, context):
    """Moves the background's light away from the face's with a soft halo around the head."""
    sample = np.asarray(img.reduce(32).convert("L"), float)[2:6, 1:7].mean()
    level = float(np.dot(skin, (0.299, 0.587, 0.114)))
    if abs(sample - level) < 45 or (level < 130 and sample < level + 60):
        colour = (232, 222, 206) if level < 150 else (62, 66, 84)
        if context == "at night":
            colour = (196, 170, 128) if level < 100 else (40, 46, 90)
        glow(img, 0.62 * spot(pen.local(), 0, -2, 20, 25), colour)


def portrait(occupation, gender, skin_tone, age, context, style, rng, size=64):
    """A head-and-shoulders portrait of a person at work, as an RGB picture of size x size."""
    scene_rng, pose_rng, outfit_rng, face_rng, hair_rng, style_rng = _streams(rng, 6)
    traits = face.draw_traits(gender, skin_tone, age, face_rng)
    outfit = wardrobe.dress(occupation, outfit_rng)
    flip = int(pose_rng.choice((-1, 1)))
    x, y, scale, angle = _pose(pose_rng, outfit.tool is not None, flip)
    traits.side = int(pose_rng.choice((-1, 1)))
    img = scenes.background(context, scene_rng)
    head = Pen(img, x, y, scale, angle, colours=outfit.colours)
    _separate(img, head, traits.skin, context)
    build = scale * traits.shoulders
    body = Pen(img, x * 0.75 + 8, y + 18.2 * scale, build, colours=outfit.colours | {"skin": traits.skin})
    head.shapes(outfit.behind)
    hair.hair_back(head, traits, hair_rng)
    face.neck(head, traits)
    body.shapes(outfit.clothes)
    _fold_shadows(img, body, traits.side)
    face.skin(head, traits, bool(outfit.hat))
    face.features(head, traits)
    hair.hair_front(head, traits, hair_rng)
    hair.earrings(head, traits)
    head.shapes(outfit.hat)
    if outfit.tool is not None:
        Pen(img, 32 + 23.5 * flip, 45, 1.0, pose_rng.normal(0, 0.05), flip, outfit.colours).shapes(outfit.tool)
    return _finish(img, style, style_rng, size)


def subject(name, context, style, rng, size=64):
    """A picture of a thing without people, as an RGB picture of size x size."""
    scene_rng, subject_rng, style_rng = _streams(rng, 3)
    img = scenes.background(context, scene_rng)
    scenes.paint_subject(img, name, subject_rng)
    return _finish(img, style, style_rng, size)


def _fold_shadows(img, body, side):
    """Soft light on the clothes: dark under the chin and on the side away from the light."""
    grid = body.local()
    low = np.clip((grid[..., 1] + 1) / 4, 0, 1)
    glow(img, low * (0.35 * spot(grid, -side * 22, 12, 9, 14) + 0.28 * spot(grid, 0, 0, 8, 2.6)), (16, 12, 24))
    glow(img, low * 0.2 * spot(grid, side * 13, 7, 6, 5), (255, 250, 235))


def _photo(img, rng):
    slope = rng.uniform(-0.12, 0.12) * (GRID[..., 0] - 32) / 32
    glow(img, np.clip(-slope, 0, 1), (20, 16, 26))
    glow(img, np.clip(slope, 0, 1), (255, 248, 230))
    small = np.asarray(img.reduce(2), np.float32)
    return small * rng.uniform(0.97, 1.03) + rng.normal(0, 3.0, (MID, MID, 1)).astype(np.float32)


def _drawing(img, rng):
    small = img.reduce(2)
    grey = np.asarray(small.convert("L"), np.float32)
    soft = np.asarray(small.convert("L").filter(ImageFilter.GaussianBlur(2.5)), np.float32)
    lines = np.clip((grey - soft) * 1.4, -90, 25)
    yy, xx = np.mgrid[:MID, :MID]
    hatch = np.sin((xx + yy * rng.uniform(0.6, 1.2)) * 1.5 + rng.uniform(0, 6)) * (255 - grey) * 0.035
    grain = rng.normal(0, 5, grey.shape)
    tone = (grey * 0.86 + 30 + lines + hatch + grain)[..., None]
    colour = np.asarray(small, np.float32) - grey[..., None]
    return np.clip(tone, 18, 246) * (1.0, 0.985, 0.95) + 0.34 * colour


def _painting(img, rng):
    small = ImageEnhance.Color(img.reduce(2)).enhance(1.4)
    pixels = np.asarray(small, np.float32)
    coarse = rng.normal(0, 1, (2, MID // 4, MID // 4))
    shift = np.kron(coarse, np.ones((1, 4, 4))) * 0.6
    yy, xx = np.mgrid[:MID, :MID]
    rows = np.clip(yy + shift[0].round().astype(int), 0, MID - 1)
    cols = np.clip(xx + shift[1].round().astype(int), 0, MID - 1)
    pixels = pixels[rows, cols]
    steps = np.round(pixels / 24) * 24
    strokes = np.kron(rng.normal(0, 5, (MID, MID // 8)), np.ones((1, 8)))[..., None]
    return 0.45 * pixels + 0.55 * steps + strokes


FINISH = {"photo": _photo, "drawing": _drawing, "painting": _painting}


def _finish(img, style, rng, size):
    """The drawing in its style, reduced to the asked size."""
    pixels = np.clip(FINISH[style](img, rng), 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).resize(
        (size, size), Image.Resampling.BOX if size == UNITS else Image.Resampling.LANCZOS
    )
