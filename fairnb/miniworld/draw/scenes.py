"""Backgrounds for the contexts, and pictures of subjects without people."""

import numpy as np
from PIL import Image, ImageFilter

from fairnb.miniworld.draw.pen import PALETTE, SCALE, UNITS, Pen, glow, jitter, spot, tint

BACK = 2 * UNITS
STUDIO = (
    (150, 160, 172),
    (186, 172, 152),
    (140, 162, 140),
    (172, 146, 150),
    (120, 128, 146),
    (198, 196, 188),
    (110, 138, 150),
    (206, 186, 196),
)


def _bands(stops):
    """A picture of vertical gradients through (height, colour) stops."""
    heights, colours = [h for h, _ in stops], np.array([c for _, c in stops], float)
    rows = np.arange(BACK) * UNITS / BACK
    column = np.stack([np.interp(rows, heights, colours[:, i]) for i in range(3)], -1)
    return Image.fromarray(np.repeat(column[:, None], BACK, 1).astype(np.uint8))


def _dots(pen, rng, count, colours, y0, y1, r0, r1):
    """Discs scattered between two heights."""
    for _ in range(count):
        r = rng.uniform(r0, r1)
        pen.oval(colours[int(rng.integers(len(colours)))], rng.uniform(0, 64), rng.uniform(y0, y1), r, r)


def _blossoms(pen, rng, count, y0, y1):
    for _ in range(count):
        x, y = rng.uniform(0, 64), rng.uniform(y0, y1)
        colour = ("red", "pink", "yellow", "white", "purple")[int(rng.integers(5))]
        for dx, dy in ((1.3, 0), (-1.3, 0), (0, 1.3), (0, -1.3)):
            pen.oval(colour, x + dx, y + dy, 1.1, 1.1)
        pen.oval("gold", x, y, 0.8, 0.8)


def _garden(pen, rng):
    _dots(pen, rng, 26, ((70, 140, 62), (90, 160, 70), (56, 120, 56)), 20, 40, 4, 7)
    _blossoms(pen, rng, 20, 18, 62)


def _night(pen, rng):
    _dots(pen, rng, 26, ((240, 240, 220),), 0, 40, 0.3, 0.6)
    side = rng.choice((-1, 1))
    moon, lamp = 32 + side * rng.uniform(22, 26), 32 - side * rng.uniform(24, 28)
    pen.oval((246, 240, 208), moon, 9, 4.5, 4.5)
    pen.oval((34, 42, 88), moon - 2, 8, 3.8, 3.8)
    pen.box((20, 20, 34), lamp - 0.8, 18, lamp + 0.8, 64)
    glow(pen.img, 0.8 * spot(pen.local(), lamp, 17, 10, 10), (255, 206, 120))
    pen.poly((255, 240, 190), [lamp - 2.6, 13, lamp + 2.6, 13, lamp + 1.8, 20, lamp - 1.8, 20])


def _sea(pen, rng):
    for _ in range(16):
        x, y = rng.uniform(0, 60), rng.uniform(30, 50)
        pen.line((214, 238, 246), 0.7, [x, y, x + 2, y - 0.7, x + 4, y])
    x = rng.choice((6, 57)) + rng.uniform(-2, 2)
    pen.poly("white", [x, 16, x, 27, x - 5, 27])
    pen.poly((230, 80, 60), [x + 0.8, 18, x + 0.8, 27, x + 5, 27])
    pen.poly("brown", [x - 5, 28, x + 6, 28, x + 4, 31, x - 3, 31])


def _city(pen, rng):
    x = -3.0
    while x < 64:
        w, top = rng.uniform(8, 13), rng.uniform(4, 24)
        wall = jitter(((108, 112, 128), (140, 116, 108), (126, 134, 142), (88, 98, 118))[int(rng.integers(4))], rng, 6)
        pen.box(wall, x, top, x + w, 64)
        for wx in np.arange(x + 1.2, x + w - 2, 3):
            for wy in np.arange(top + 2, 60, 4.2):
                pen.box((250, 226, 140) if rng.random() < 0.45 else tint(wall, -0.35), wx, wy, wx + 1.7, wy + 2.4)
        x += w + rng.uniform(0, 1.5)


def _pine(pen, x, y, size, colour):
    for i in range(3):
        half = size * (0.25 + 0.13 * i)
        pen.poly(
            colour,
            [
                x,
                y - size + i * size * 0.28,
                x - half,
                y - size * 0.45 + i * size * 0.25,
                x + half,
                y - size * 0.45 + i * size * 0.25,
            ],
        )
        pen.line(
            (248, 250, 255), 0.9, [x - half * 0.6, y - size * 0.6 + i * size * 0.26, x, y - size + i * size * 0.28]
        )


def _snow(pen, rng):
    for x in (4, 14, 50, 60):
        _pine(pen, x + rng.uniform(-3, 3), rng.uniform(44, 52), rng.uniform(20, 32), (72, 112, 110))
    _dots(pen, rng, 60, ((255, 255, 255),), 0, 64, 0.5, 1.0)


def _room(pen, rng):
    flip = rng.choice((-1, 1))
    room = Pen(pen.img, 32, 0, flip=flip)
    room.shapes(
        [
            ("box", (140, 96, 60), -31, 8, -16, 24),
            ("box", "paper", -29.5, 9.5, -17.5, 22.5),
            ("poly", (110, 160, 120), [-29.5, 22.5, -25, 15, -22, 19, -20, 16, -17.5, 22.5]),
            ("box", "white", 16, 4, 31, 30),
            ("box", (160, 208, 240), 17.2, 5.2, 23, 28.8),
            ("box", (160, 208, 240), 24.2, 5.2, 29.8, 28.8),
            ("box", "wood", -32, 50, 32, 64),
            ("box", (150, 60, 50), -32, 42, -18, 60),
            ("box", (120, 84, 50), 18, 44, 31, 46),
        ]
    )
    for i, colour in enumerate(("red", "blue", "gold", "green", "purple")):
        room.box(colour, 19 + 2.2 * i, 36, 21 + 2.2 * i, 44)


def _desert(pen, rng):
    pen.oval((255, 244, 190), rng.choice((8, 56)), 9, 5, 5)
    pen.blob((222, 164, 92), [-5, 44, 12, 30, 30, 40, 70, 46, 70, 70, -5, 70])
    pen.blob((236, 184, 110), [-5, 54, 20, 46, 48, 34, 70, 44, 70, 70, -5, 70])
    for x in (6, 58):
        x, y = x + rng.uniform(-3, 3), rng.uniform(28, 34)
        pen.shapes(
            [
                ("line", (62, 122, 66), 3, [x, y, x, y + 24]),
                ("line", (62, 122, 66), 2, [x, y + 14, x - 4, y + 12, x - 4, y + 6]),
                ("line", (62, 122, 66), 2, [x, y + 11, x + 4, y + 9, x + 4, y + 4]),
            ]
        )


def _forest(pen, rng):
    for x in np.linspace(1, 63, 9):
        x, w = x + rng.uniform(-2, 2), rng.uniform(1.2, 2.4)
        pen.box(jitter((92, 66, 44), rng, 8), x - w, 0, x + w, 64)
    _dots(pen, rng, 26, ((44, 92, 48), (60, 112, 56), (36, 76, 44)), -2, 14, 4, 7)
    _dots(pen, rng, 16, ((58, 104, 50), (76, 124, 58)), 54, 64, 3, 5)


CONTEXTS = {  # stops of the gradient, then what is drawn on it
    "in a garden": (((0, (170, 214, 244)), (20, (206, 232, 244)), (24, (92, 156, 72)), (64, (118, 178, 84))), _garden),
    "at night": (((0, (14, 18, 48)), (40, (34, 42, 88)), (64, (30, 30, 58))), _night),
    "by the sea": (
        (
            (0, (150, 208, 246)),
            (25, (214, 238, 248)),
            (26, (36, 116, 178)),
            (49, (70, 168, 204)),
            (52, (238, 220, 170)),
            (64, (228, 202, 146)),
        ),
        _sea,
    ),
    "in a city": (((0, (186, 206, 226)), (40, (222, 222, 218)), (64, (130, 130, 136))), _city),
    "in the snow": (((0, (184, 204, 226)), (32, (220, 230, 242)), (44, (246, 249, 254)), (64, (226, 236, 248))), _snow),
    "in a room": (((0, (226, 208, 176)), (64, (204, 182, 146))), _room),
    "in a desert": (((0, (112, 178, 226)), (36, (250, 226, 170)), (64, (226, 170, 96))), _desert),
    "in a forest": (((0, (134, 176, 120)), (40, (152, 186, 122)), (64, (84, 106, 58))), _forest),
}


def _studio(rng):
    base = np.array(jitter(STUDIO[int(rng.integers(len(STUDIO)))], rng, 10))
    img = _bands(((0, tint(base, 0.12)), (64, tint(base, -0.22))))
    glow(img, 0.3 * spot(Pen(img).local(), 32 + rng.uniform(-14, 14), 22, 24, 24), tint(base, 0.6))
    return img


def background(context, rng):
    """The background of a context (None: a plain studio wall) as a full-size drawing."""
    if context is None:
        img = _studio(rng)
    else:
        stops, paint = CONTEXTS[context]
        img = _bands([(h, jitter(c, rng, 5)) for h, c in stops])
        paint(Pen(img), rng)
        img = img.filter(ImageFilter.GaussianBlur(0.9))
    return img.resize((UNITS * SCALE,) * 2, Image.Resampling.BILINEAR)


def _petals(colour, x, y, count, reach, r):
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return [("oval", colour, x + reach * np.cos(a), y + reach * np.sin(a), r, r) for a in angles]


SUBJECTS = {  # tables of shapes around the middle of the picture; "main" is a random colour
    "house": [
        ("box", "cream", -17, -2, 17, 22),
        ("poly", "main", [-22, -2, 0, -22, 22, -2]),
        ("box", "brown", -3, 8, 5, 22),
        ("box", "sky", 8, 4, 14, 11),
        ("line", "brown", 0.8, [11, 4, 11, 11]),
        ("box", "brown-", 9, -21, 14, -11),
    ],
    "tree": [
        ("poly", "brown", [-4, 26, -3, 2, 3, 2, 5, 26]),
        ("oval", "green-", -8, -4, 11, 10),
        ("oval", "green", 8, -6, 12, 10),
        ("oval", "green", 0, -14, 12, 11),
        ("oval", "lime-", 4, -14, 6, 5),
        ("oval", "main", -9, -6, 1.6, 1.6),
        ("oval", "main", 11, -4, 1.6, 1.6),
    ],
    "boat": [
        ("box", "sky-", -50, 16, 50, 50),
        ("line", "brown", 1.6, [0, -24, 0, 10]),
        ("poly", "white", [1.5, -22, 1.5, 6, 20, 6]),
        ("poly", "main", [-1.5, -18, -1.5, 6, -15, 6]),
        ("poly", "brown", [-22, 9, 24, 9, 16, 20, -15, 20]),
    ],
    "car": [
        ("poly", "main", [-27, 12, -26, 2, -14, 0, -8, -10, 10, -10, 17, 0, 27, 3, 27, 12]),
        ("poly", "sky+", [-10, 0, -6, -7, 0, -7, 0, 0]),
        ("poly", "sky+", [3, 0, 3, -7, 9, -7, 13, 0]),
        ("oval", "black", -16, 12, 6, 6),
        ("oval", "black", 16, 12, 6, 6),
        ("oval", "silver", -16, 12, 2.5, 2.5),
        ("oval", "silver", 16, 12, 2.5, 2.5),
    ],
    "flower": [
        ("line", "green", 2, [0, 2, 1, 28]),
        ("blob", "green", [1, 18, 9, 10, 13, 12, 8, 19]),
        *_petals("main", 0, -8, 7, 9, 5.6),
        ("oval", "gold", 0, -8, 5, 5),
    ],
    "mountain": [
        ("poly", "grey-", [-34, 24, -8, -20, 18, 24]),
        ("poly", "white", [-15, -8, -8, -20, -1, -8, -5, -5, -9, -9]),
        ("poly", "grey", [-8, 24, 14, -8, 36, 24]),
        ("poly", "white", [9, -1, 14, -8, 19, -1, 14, 1]),
        ("box", "green", -50, 24, 50, 50),
        ("oval", "main", -14, 27, 1.6, 1.2),
        ("oval", "main", 12, 26, 1.6, 1.2),
    ],
    "cup": [
        ("arc", "main-", 3, 13, 6, 8, 8, -90, 90),
        ("poly", "main", [-15, -8, 14, -8, 10, 20, -11, 20]),
        ("oval", "main+", -0.5, -8, 14.5, 4),
        ("oval", "brown-", -0.5, -7.6, 12, 2.8),
        ("box", "white", -13.6, 0, 12.4, 3),
        ("oval", "wood", 0, 21, 21, 3),
    ],
    "fish": [
        ("poly", "main-", [14, 0, 27, -11, 24, 0, 27, 11]),
        ("oval", "main", -3, 0, 20, 11),
        ("poly", "main-", [-6, -10, 6, -17, 8, -9]),
        ("arc", "main-", 1.2, -16, 0, 7, 9, -60, 60),
        ("arc", "main-", 0.8, -6, 0, 7, 7, -60, 60),
        ("oval", "black", -16, -3, 1.4, 1.4),
    ],
    "star": [
        (
            "poly",
            "gold",
            np.stack(
                [
                    np.array((24, 10) * 5) * f
                    for f in (
                        np.cos(np.arange(10) * np.pi / 5 - np.pi / 2),
                        np.sin(np.arange(10) * np.pi / 5 - np.pi / 2),
                    )
                ],
                -1,
            ),
        ),
        ("poly", "gold+", [0, -24, 0, 0, -6, -8]),
    ],
    "book": [
        ("poly", "main", [-24, -12, 0, -8, 24, -12, 24, 16, 0, 20, -24, 16]),
        ("poly", "paper", [-22, -14, 0, -10, 0, 17, -22, 13]),
        ("poly", "white", [22, -14, 0, -10, 0, 17, 22, 13]),
        ("line", "grey", 0.8, [0, -10, 0, 17]),
        *[("m_line", "grey", 0.7, [4, -5 + i * 4, 18, -7.5 + i * 4]) for i in range(5)],
    ],
}
MAIN = ("red", "blue", "orange", "teal", "purple", "pink", "lime", "wine")


def paint_subject(img, name, rng):
    """Draws a subject without people in the middle of the picture."""
    colour = jitter(PALETTE[MAIN[int(rng.integers(len(MAIN)))]], rng, 12)
    pen = Pen(
        img,
        32 + rng.uniform(-3, 3),
        34 + rng.uniform(-3, 3),
        rng.uniform(0.85, 1.08),
        rng.uniform(-0.08, 0.08),
        int(rng.choice((-1, 1))),
        {"main": colour},
    )
    pen.shapes(SUBJECTS[name])
    side = rng.choice((-1, 1))
    glow(img, 0.22 * spot(pen.local(), side * 14, 14, 14, 14), (20, 16, 30))
    glow(img, 0.14 * spot(pen.local(), -side * 10, -12, 12, 12), (255, 250, 230))
