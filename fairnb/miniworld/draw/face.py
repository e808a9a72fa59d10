"""The head: traits drawn for a gender, skin tone and age, and the painting of skin, features and hair."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from fairnb.miniworld.draw.pen import UNITS, circle, glow, jitter, mix, spot, tint

TONES = {"light": (240, 202, 174), "medium": (206, 156, 112), "brown": (162, 110, 74), "dark": (114, 75, 54)}
GENDERS = ("female", "male")
AGES = ("young", "old")
GREYS = ((214, 212, 208), (178, 176, 174), (232, 230, 224), (150, 148, 148))
HAIRS = {
    "light": ((206, 160, 88), (148, 96, 50), (96, 62, 38), (58, 40, 30), (160, 72, 36)),
    "medium": ((104, 66, 38), (60, 40, 28), (34, 26, 24), (120, 80, 46)),
    "brown": ((44, 30, 24), (26, 22, 22), (74, 46, 30)),
    "dark": ((26, 21, 22), (36, 27, 25), (58, 36, 26)),
}
BEARD_HAIR = {"light": (58, 40, 30), "medium": (60, 40, 28), "brown": (26, 22, 22), "dark": (36, 27, 25)}
EYES = ((70, 110, 160), (84, 120, 70), (96, 62, 36), (60, 40, 28))
CUTS = ("bald", "receding", "crop", "short", "curly", "bun", "bob", "long", "wavy")
CUT_ODDS = {  # by gender, then age, in the order of CUTS
    "female": {"young": (0, 0, 0, 2, 4, 6, 22, 36, 30), "old": (0, 0, 0, 4, 6, 12, 34, 23, 21)},
    "male": {"young": (8, 4, 38, 40, 7, 0, 1, 1, 1), "old": (21, 26, 24, 21, 5, 0, 1, 1, 1)},
}
BEARDS = ("shaved", "stubble", "moustache", "goatee", "full")


@dataclass
class Traits:
    """What one face looks like; lengths are in pixels of the 64 px picture."""

    skin: tuple
    dark: float
    hair: tuple
    cut: str
    fringe: str
    beard: str
    beard_colour: tuple
    shoulders: float
    width: float
    jaw: float
    brow: float
    lip: tuple
    full: float
    made_up: bool
    lashes: float
    earring: bool
    glasses: str
    wrinkles: float
    iris: tuple
    eye: float
    nose: float
    smile: float
    teeth: bool
    side: int


def _choose(rng, options, odds=None):
    odds = None if odds is None else np.asarray(odds, float) / sum(odds)
    return options[int(rng.choice(len(options), p=odds))]


def _hair_colour(rng, tone, age):
    grey = rng.random() < (0.87 if age == "old" else 0.05)
    return jitter(tint(_choose(rng, GREYS if grey else HAIRS[tone]), rng.uniform(-0.15, 0.1)), rng, 2)


def _lip_colour(rng, skin, painted):
    bare = mix(skin, (186, 64, 66), 0.48)
    return mix(bare, _choose(rng, ((196, 30, 52), (206, 62, 86), (160, 36, 62))), 0.75) if painted else bare


def draw_traits(gender, tone, age, rng):
    """Traits of one person, all chance taken from rng."""
    woman, old = gender == "female", age == "old"
    skin = np.asarray(TONES[tone]) * rng.uniform(0.955, 1.045) + rng.normal(0, 2.5, 3)
    skin = tuple(int(v) for v in np.clip(skin, 0, 250))
    beard = "shaved" if woman else _choose(rng, BEARDS, (10, 12, 8, 20, 50))
    made_up = woman and rng.random() < 0.9
    return Traits(
        skin=skin,
        dark=1 - sum(skin) / 3 / 215,
        hair=_hair_colour(rng, tone, age),
        beard=beard,
        beard_colour=mix(jitter(BEARD_HAIR[tone], rng, 5), GREYS[3], 0.25 if old else 0.0),
        shoulders=rng.normal(0.94 if woman else 1.1, 0.015),
        cut=_choose(rng, CUTS, CUT_ODDS[gender][age]),
        fringe=_choose(rng, ("side", "centre", "fringe", "swept")),
        width=rng.normal(12.9 if woman else 14.3, 0.4),
        jaw=rng.normal(2.0 if woman else 3.0, 0.16),
        brow=max(0.55, rng.normal(0.75 if woman else 1.7, 0.16)),
        lip=_lip_colour(rng, skin, made_up),
        full=rng.normal(1.4 if woman else 0.78, 0.13) * (0.88 if old else 1),
        made_up=made_up,
        lashes=max(0.0, rng.normal(1.2 if woman else 0.1, 0.2)),
        earring=rng.random() < (0.5 if woman else 0.02),
        glasses=_choose(rng, ("", "round", "square"), (62, 19, 19) if old else (82, 9, 9)),
        wrinkles=rng.uniform(0.95, 1.4) if old else 0.0,
        iris=jitter(EYES[_iris(rng, tone)], rng, 8),
        eye=rng.uniform(0.94, 1.08) * (1.03 if woman else 0.97),
        nose=rng.uniform(0.9, 1.1) * (0.95 if woman else 1.08),
        smile=rng.uniform(0.6, 1.7),
        teeth=rng.random() < 0.35,
        side=int(rng.choice((-1, 1))),
    )


def _iris(rng, tone):
    return int(rng.integers(0, 4)) if tone == "light" else int(rng.integers(2, 4))


def outline(traits, grow=0.0):
    """The head's outline: a round skull above, a more or less square jaw below."""
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    x, y = np.cos(angle), np.sin(angle)
    power = np.where(y > 0, 2 / traits.jaw, 1.0)
    wide = np.sign(x) * np.abs(x) ** power * np.where(y > 0, 1 - 0.16 * np.clip(y, 0, 1), 1)
    return np.stack([wide * (traits.width + grow), y * (18 + grow)], -1)


def _shading(traits, grid, hat):
    """Light (above 0) and shadow (below 0) on the face."""
    s, k = traits.side, 1 + 0.9 * max(traits.dark, 0)
    d = 1.35 - 0.35 * max(traits.dark, 0)
    radius = (grid[..., 0] / traits.width) ** 2 + (grid[..., 1] / 18) ** 2
    light = 0.07 * s * grid[..., 0] / traits.width - 0.15 * np.clip(radius - 0.35, 0, 1)
    spots = [
        (3 * s, -9.5, 6, 3.6, 0.15 * k),
        (0.5 * s, 1.5, 1.1, 4.2, 0.17 * k),
        (0.3 * s, 6, 1.5, 1.2, 0.18 * k),
        (6.8, 5, 2.8, 2.2, 0.09 * k),
        (-6.8, 5, 2.8, 2.2, 0.09 * k),
        (0, 15.8, 2.4, 1.4, 0.08 * k),
        (-1.9 * s, 3.4, 1.1, 3.4, -0.16 * d),
        (0, 8.1, 2.6, 0.9, -0.25 * d),
        (0, 14.2, 3, 0.9, -0.16 * d),
        (5.4, -2.2, 3.4, 2, -0.17 * d),
        (-5.4, -2.2, 3.4, 2, -0.17 * d),
    ]
    if hat:
        spots.append((0, -13, 16, 3, -0.25))
    if traits.wrinkles:
        w = traits.wrinkles
        spots += [(x, 2.6, 2.6, 0.8, -0.14 * w) for x in (5.4, -5.4)] + [(x, 8, 1, 3, -0.12 * w) for x in (5, -5)]
        spots += [(x, 12.5, 1.4, 2.4, -0.12 * w) for x in (7.6, -7.6)]
    return light + sum(amp * spot(grid, x, y, sx, sy) for x, y, sx, sy, amp in spots)


def _skin_picture(traits, pen, hat):
    """The shaded skin as an image of the pen's size."""
    grid = pen.local()
    light = _shading(traits, grid, hat)[..., None]
    base = np.asarray(traits.skin, float)
    rgb = base * (1 + np.minimum(light, 0) * (1.0, 1.08, 1.12))
    rgb += (np.array([255, 242, 226]) - base) * np.maximum(light, 0)
    blush = (0.5 if traits.made_up else 0.15) * sum(spot(grid, x, 5.5, 3.6, 2.8) for x in (7.2, -7.2))[..., None]
    rgb += (np.array([222, 92, 80]) * (0.55 + 0.45 * base / 240) - rgb) * blush * (1 - 0.5 * max(traits.dark, 0))
    if traits.made_up:
        shadow = 0.55 * sum(spot(grid, x, -2.6, 2.9, 1.5) for x in (5.4, -5.4))[..., None]
        rgb += (np.array([128, 74, 132]) * (0.6 + 0.4 * base / 240) - rgb) * shadow
    small = Image.fromarray(np.clip(rgb, 0, 255).astype(np.uint8))
    return small.resize(pen.img.size, Image.Resampling.BILINEAR)


def neck(pen, traits):
    """Neck with the chin's shadow."""
    shade = tint(traits.skin, -0.16)
    pen.poly(shade, [(-5.6, 10), (5.6, 10), (6, 20), (11, 25), (-11, 25), (-6, 20)])
    glow(pen.img, 0.4 * spot(pen.local(), 0, 18, 6, 2.6), tint(traits.skin, -0.65))


def skin(pen, traits, hat):
    """Ears and the shaded face."""
    for x in (-1, 1):
        pen.oval(tint(traits.skin, -0.08), x * (traits.width + 0.2), 0.8, 1.9, 3.4)
        pen.oval(tint(traits.skin, -0.28), x * (traits.width + 0.5), 0.8, 0.8, 1.9)
    mask = Image.new("L", pen.img.size)
    ImageDraw.Draw(mask).polygon(pen.at(outline(traits)), fill=255)
    pen.img.paste(_skin_picture(traits, pen, hat), (0, 0), mask)


def _eye(pen, traits, x):
    e, deep = traits.eye, tint(traits.skin, -0.62)
    s = np.sign(x)
    pen.blob((250, 248, 244), [(x - 2.7 * e, 0), (x - 1, -1.6 * e), (x + 1, -1.6 * e), (x + 2.7 * e, 0), (x, 1.35 * e)])
    pen.oval(tint(traits.iris, -0.3), x, -0.15, 1.5 * e, 1.5 * e)
    pen.oval(traits.iris, x, 0.05, 1.15 * e, 1.15 * e)
    pen.oval((16, 12, 12), x, -0.1, 0.75 * e, 0.75 * e)
    pen.oval((255, 255, 255), x + 0.5 * traits.side, -0.65, 0.42, 0.42)
    lid = [(x - 2.9 * s * e, 0.1), (x - 1.3 * s, -1.5 * e), (x + 0.9 * s, -1.75 * e), (x + 2.9 * s * e, -0.4)]
    pen.line(mix(deep, (20, 14, 14), 0.6), 0.5 + 0.42 * traits.lashes, lid)
    pen.line(mix(traits.skin, deep, 0.45), 0.35, [(x - 2 * e, 0.9), (x, 1.5 * e), (x + 2 * e, 0.9)])
    if traits.lashes > 0.45:
        for out in (0.4, 1.1):
            pen.line((24, 16, 16), 0.36, [(x + (2.5 - out) * s, -1.2), (x + (3.6 - out) * s, -1.5 - traits.lashes)])


def _brow(pen, traits, x):
    s, b = np.sign(x), traits.brow
    colour = mix(tint(traits.hair, -0.3), tint(traits.skin, -0.6), 0.35 if max(traits.hair) < 140 else 0.45)
    pen.poly(
        colour,
        [
            (x - 3.0 * s, -4.1),
            (x - 3.0 * s, -4.0 - b),
            (x + 0.9 * s, -4.9 - b),
            (x + 3.5 * s, -4.5),
            (x + 0.9 * s, -4.9),
        ],
    )


def _nose(pen, traits):
    n, shade = traits.nose, mix(traits.skin, tint(traits.skin, -0.6), 0.75)
    for s in (-1, 1):
        pen.oval(shade, s * 1.25 * n, 7.3, 0.62, 0.42)
        pen.line(
            mix(traits.skin, shade, 0.6),
            0.4,
            circle(s * 1.5 * n, 6.6, 0.9 * n, 1.1, 90 - 90 * s - 60, 90 - 90 * s + 60, 6),
        )


def _mouth(pen, traits):
    w, f, c = 4.1 + 0.25 * traits.smile, traits.full, traits.lip
    up = 0.9 * traits.smile
    corner, line_y = 11.3 - up * 0.7, 11.2 + 0.2 * up
    gap = 1.5 if traits.teeth else 0.0
    line = [(-w, corner), (-w / 2, line_y - 0.1), (0, line_y), (w / 2, line_y - 0.1), (w, corner)]
    pen.poly(tint(c, -0.1), [*line, (1.2, 10.6 - 0.75 * f), (0, 10.85 - 0.55 * f), (-1.2, 10.6 - 0.75 * f)])
    pen.blob(
        tint(c, 0.1),
        [
            (-w, corner),
            (0, line_y),
            (w, corner),
            (w / 2, line_y + gap + f),
            (0, line_y + gap + 1.35 * f),
            (-w / 2, line_y + gap + f),
        ],
    )
    if gap:
        pen.blob(
            (250, 246, 240),
            [
                (-w + 0.7, corner + 0.1),
                (0, line_y - 0.2),
                (w - 0.7, corner + 0.1),
                (w / 2, line_y + 0.8),
                (0, line_y + gap),
                (-w / 2, line_y + 0.8),
            ],
        )
    pen.line(tint(mix(c, traits.skin, 0.3), -0.6), 0.42, line)
    if f > 0.95:
        pen.oval(tint(c, 0.32), 0.8 * traits.side, line_y + gap + 0.75 * f, 1.2, 0.25)


def _wrinkles(pen, traits):
    w, c = traits.wrinkles, mix(traits.skin, tint(traits.skin, -0.6), 0.3 + 0.3 * traits.wrinkles)
    for y, half in ((-8.4, 6.5), (-10.6, 5.4)):
        pen.line(
            c, 0.42 * w, [(-half, y + 0.4), (-half / 2, y - 0.2), (0, y + 0.1), (half / 2, y - 0.2), (half, y + 0.4)]
        )
    for s in (-1, 1):
        pen.line(c, 0.5 * w, [(s * 3, 7), (s * 4.9, 9), (s * 5.5, 12)])
        pen.line(c, 0.42 * w, [(s * 3.6, 2.3), (s * 5.4, 3.1), (s * 7.6, 2.4)])
        for y in (-1.2, 0.6):
            pen.line(c, 0.36 * w, [(s * 9, 0.1 + y * 0.3), (s * 11, y)])


def _beard(pen, traits):
    if traits.beard == "shaved":
        return
    strength = 0.42 if traits.beard == "stubble" else 0.85
    mask = Image.new("L", pen.img.size)
    sketch = pen.on(mask)
    level = int(255 * strength)
    w = traits.width
    if traits.beard in ("full", "stubble"):
        edge = outline(traits, 1.6 if traits.beard == "full" else 0)
        low = edge[edge[:, 1] > 2]
        inner = [(-w * 0.9, 3), (-7.6, 8.2), (-6, 12.2), (0, 13.4), (6, 12.2), (7.6, 8.2), (w * 0.9, 3)]
        sketch.poly(level, np.concatenate([low, inner]))
    if traits.beard == "goatee":
        sketch.blob(level, [(-5.6, 9.6), (0, 8.6), (5.6, 9.6), (6.4, 15.5), (0, 20), (-6.4, 15.5)])
    if traits.beard in ("moustache", "goatee", "full"):
        sketch.blob(level, [(-5.8, 11), (-3, 8.8), (0, 8.5), (3, 8.8), (5.8, 11), (2.4, 10.6), (0, 10.3), (-2.4, 10.6)])
    mask = mask.resize((UNITS * 2, UNITS * 2), Image.Resampling.BOX).filter(ImageFilter.GaussianBlur(0.9))
    pen.img.paste(traits.beard_colour, (0, 0), mask.resize(pen.img.size, Image.Resampling.BILINEAR))


def _glasses(pen, traits):
    if not traits.glasses:
        return
    frame = (34, 28, 30) if traits.dark < 0.45 else (226, 200, 120)
    for s in (-1, 1):
        if traits.glasses == "round":
            pen.arc(frame, 0.55, s * 5.4, 0, 4.1, 3.8)
        else:
            pen.line(frame, 0.6, [(s * 1.5, -3), (s * 9.6, -3), (s * 9.2, 3), (s * 1.9, 3), (s * 1.5, -3)])
        pen.line(frame, 0.5, [(s * 9.4, -1), (s * traits.width, -0.6)])
    pen.line(frame, 0.5, [(-1.5, -0.6), (0, -1.1), (1.5, -0.6)])


def features(pen, traits):
    """Eyes, brows, nose, mouth, beard, wrinkles and glasses."""
    _nose(pen, traits)
    _beard(pen, traits)
    _mouth(pen, traits)
    if traits.wrinkles:
        _wrinkles(pen, traits)
    for x in (-5.4, 5.4):
        _eye(pen, traits, x)
        _brow(pen, traits, x)
    _glasses(pen, traits)
