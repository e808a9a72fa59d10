"""Tools of medicine, science, office and music, as tables of shapes around a hand beside the chest."""

import numpy as np

from fairnb.miniworld.draw.parts import disc, edged, scatter
from fairnb.miniworld.draw.pen import circle, smooth

INK = (20, 22, 48)
IVORY = (250, 240, 214)
RUST = (176, 74, 30)
NEWSPRINT = (218, 212, 192)
FILM = (16, 40, 92)
COIN = (("brown-", 0), ("gold", 1))
VIOLIN = [0, -9, 5, -8, 6, -3, 4, 2, 7.4, 6, 8, 13, 5, 18, 0, 19, -5, 18, -8, 13, -7.4, 6, -4, 2, -6, -3, -5, -8]
TOOTH = [-9, -11, -6, -17, 0, -14.5, 6, -17, 9, -11, 7.6, -1, 6, 14, 3, 16, 0, 3, -3, 16, -6, 14, -7.6, -1]
BONE = [-2.6, 12, -6.6, 12, -6.8, 18, -2.6, 20, 0, 17.6, 2.6, 20, 6.8, 18, 6.6, 12, 2.6, 12]


def rimmed(colour, edge, points, width=1.0, curved=False):
    """A polygon, or a smooth curve, with an outline."""
    points = np.reshape(points, (-1, 2))
    points = smooth(points) if curved else points
    return [("poly", colour, points), ("line", edge, width, np.concatenate([points, points[:2]]))]


def panel(colour, edge, x0, y0, x1, y1):
    """A rectangle with a frame inside its border."""
    return [("box", edge, x0, y0, x1, y1), ("box", colour, x0 + 1.2, y0 + 1.2, x1 - 1.2, y1 - 1.2)]


def bars(colour, *boxes):
    """Rectangles of one colour."""
    return [("box", colour, *box) for box in boxes]


def dots(colour, r, *spots):
    """Discs of one colour and size."""
    return scatter("oval", (colour,), spots, r, r)


def ball(colour, r, x, y):
    """A ball with an outline."""
    return disc(x, y, (INK, r + 1), (colour, r))


def reel(x, y):
    """A reel of film with four holes."""
    holes = dots("silver", 1.3, (x + 2.8, y), (x - 2.8, y), (x, y + 2.8), (x, y - 2.8))
    return [*disc(x, y, ("white", 6), ("black", 5.2)), *holes]


def pile(x, top):
    """A pile of coins that ends at the bottom edge."""
    coins = [("oval", c, x, y - d, 4 - d / 3, 1.8) for y in np.arange(18, top - 1, -4) for c, d in COIN]
    return [("box", "brown-", x - 4, top, x + 4, 20), *coins, ("oval", "yellow+", x, top - 2, 3, 1.3)]


def ribs(colour, *rows):
    """A spine and pairs of ribs, each a (height, half width)."""
    spine = ("line", colour, 1.8, [0, rows[0][0] - 3, 0, rows[-1][0] + 4])
    return [spine, *[("m_line", colour, 1.5, [0, y, w * 0.7, y - 0.8, w, y + 1.6, w * 0.7, y + 2.6]) for y, w in rows]]


TOOLS = {
    "syringe": [
        *edged("white", INK, 1.2, [0, -8, 0, -25]),
        *panel("silver", INK, -2.6, 8, 2.6, 18),
        *panel("silver", INK, -6.8, 15, 6.8, 19.6),
        *bars(INK, (-5.6, -10, 5.6, 10)),
        *panel("silver", INK, -9, 8, 8.6, 12),
        ("box", "white", -4.4, -8.8, 4.4, 8.4),
        ("box", "main", -4.4, -2, 4.4, 8.4),
        *bars(INK, (0.6, -6, 4.4, -4.8), (0.6, -1, 4.4, 0.2), (0.6, 4, 4.4, 5.2)),
    ],
    "pill bottle": [
        *bars("orange-", (-8, -3, 8, 20)),
        *bars("orange", (-7, -3, 6, 19)),
        *panel("white", "dark", -9, -13, 9, -2),
        *[("line", "silver", 1, [x, -11, x, -4]) for x in (-5, -1.7, 1.7, 5)],
        ("box", "white", -8, 3, 8, 15),
        *edged("red", INK, 4.4, [-3.4, 11, -0.6, 9.6]),
        *edged("white", INK, 4.4, [0.6, 9, 3.4, 7.6]),
        ("line", "red", 4.4, [-3.4, 11, 0, 9.3]),
    ],
    "tooth": [
        *rimmed("white", "blue-", TOOTH, 1.6, True),
        ("blob", "sky+", [4, -12, 7, -10, 6, -2, 4.4, 6, 4.4, -4]),
    ],
    "x-ray": [
        *panel(FILM, "black", -9.6, -24, 9.6, 18),
        *ribs("sky+", (-16, 6), (-11, 7.4), (-6, 8), (-1, 8), (4, 7.4)),
        ("m_blob", "sky+", [0, 9, 6, 8, 7, 12, 3, 15, 0, 12]),
    ],
    "crutch": [
        ("m_line", "dark", 4, [0, 12, 5.4, -2, 6, -22]),
        *edged("wood", "dark", 2.2, [0, 10, 0, 22]),
        ("m_line", "bread", 2.2, [0, 12, 5.4, -2, 6, -22]),
        *edged("cream", "dark", 2, [-4, -4, 4, -4]),
        *edged("main", "dark", 3, [-7, -23, 0, -21.6, 7, -23]),
    ],
    "skeleton": [  # the skull in profile, since MTCNN finds a second face in one seen from the front
        ("blob", INK, [-8.4, -19, -5, -26.4, 4, -26.6, 8.4, -21, 6, -15, 3, -9, -6.6, -9, -8, -14]),
        ("poly", INK, [-7, -8, 7, -8, 9.4, 4, 8, 20, -8, 20, -9.4, 4]),
        ("blob", "white", [-6.4, -19, -4, -24.6, 3, -25, 7, -21, 5, -16, 0, -14.6, -5, -15]),
        ("poly", "white", [-6, -17, 2, -17, 1, -10.6, -5.4, -10.6]),
        ("oval", INK, -3.4, -19, 2, 2.2),
        ("line", INK, 1, [-6.6, -13.4, -1, -13.4]),
        *ribs("white", (-5, 6), (-0.6, 7.4), (3.8, 7)),
        ("m_blob", "white", [0, 12, 5, 10, 7, 14, 3, 18, 0, 15]),
    ],
    "microscope": [
        *edged("white", INK, 2.6, circle(-1, 3, 7, 11, -60, 95, 14).ravel()),
        *rimmed("white", INK, [-9, 13.4, 7, 13.4, 8, 18.4, -9.6, 18.4], 1.2),
        *rimmed("main", INK, [-4, -21, 2.4, -23.4, 6.4, -5, 0.4, -2.6], 1.2),
        *rimmed("silver", INK, [-0.4, -2, 4.6, -4, 5, 2, 2, 3], 1),
        *edged("silver", INK, 1.6, [-4.6, -22, 2, -24.6]),
        ("box", INK, -7, 5, 5.4, 8),
    ],
    "telescope": [
        ("m_line", "silver", 2.6, [0, -6, 7.4, 20]),
        ("m_line", INK, 1.4, [0, -6, 7.4, 20]),
        *edged("dark", "silver", 1.4, [0, -6, 0, 20]),
        *rimmed("white", INK, [-9, -4.4, -7.4, -1, 9.4, -14, 4, -24.6], 1.2),
        *rimmed("main", INK, [2, -22.6, 5, -25.6, 10, -15, 7, -11.6], 1.2),
        *edged("gold", INK, 2, [-4.4, -8, -2, -4]),
        ("oval", "gold", 0, -6, 2, 2),
    ],
    "test tube": [
        *edged("white", INK, 5.4, [-4.8, -23, -4.8, 13]),
        *edged("white", INK, 5.4, [4.8, -18, 4.8, 13]),
        *bars((240, 40, 150), (-7.5, -8, -2.1, 13)),
        *bars((130, 60, 220), (2.1, -3, 7.5, 13)),
        *bars(INK, (-9.4, -25, -0.4, -22), (0.4, -20, 9.2, -17)),
        *panel("bread", INK, -9.8, 3, 9.4, 7.4),
        *panel("bread", INK, -9.8, 13, 9.4, 20),
    ],
    "magnifying glass": [
        *edged("wine", "white", 4, [2.4, 2, 7, 19]),
        *edged("gold", "white", 2, [1, -1, 2.4, 3]),
        *disc(-0.6, -10, ("white", 9.6), ("black", 9), ("sky", 6.8)),
        ("line", "white", 1.8, circle(-0.6, -10, 4.4, 4.4, 180, 270, 8)),
    ],
    "globe": [
        ("arc", "brown", 3.6, 0, -5, 8.8, 12, 45, 280),
        ("arc", "gold", 2, 0, -5, 8.8, 12, 45, 280),
        *dots((24, 90, 200), 8, (0.6, -6)),
        ("blob", "lime", [-5, -11, 0, -13, 2, -9, -1, -6, -3, -2, -6, -5]),
        ("blob", "lime", [2, -4, 6.4, -7, 7.4, -3, 4, 1, 2, 0]),
        *edged("gold", "brown", 2, [0, 7, 0, 14]),
        ("blob", "brown", [-8, 19, -5, 14, 5, 14, 8, 19]),
    ],
    "molecule": [
        *[s for x, y in ((-5, -17), (6, -12), (-5, 12), (6, 9)) for s in edged("white", INK, 1.6, [0, -3, x, y])],
        *ball("dark+", 5.2, 0, -3),
        *ball("red", 4, -5, -17),
        *ball("white", 3.4, 6, -12),
        *ball("blue", 4, -5, 12),
        *ball("yellow", 3.4, 6, 9),
    ],
    "bone": rimmed(IVORY, "brown-", BONE + [v * s for v, s in zip(BONE, [-1, -1] * 9, strict=True)], 1.6),
    "calculator": [
        *panel("dark", "white", -9.4, -21, 8.6, 19),
        ("box", (176, 226, 160), -6.8, -18, 6, -10),
        *[("line", "black", 1.2, [x, -16, x, -12]) for x in (-0.6, 2, 4.6)],
        *bars("white", *[(x, y, x + 3, y + 3.4) for x in (-6.8, -2) for y in (-7.4, -1.4, 4.6, 10.6)]),
        *bars("orange", *[(2.9, y, 5.9, y + 3.4) for y in (-7.4, -1.4, 4.6, 10.6)]),
    ],
    "laptop": [
        *panel("black", "silver", -9.6, -17, 9, 4),
        ("box", "blue", -7.6, -15, 7, 2),
        *bars("lime", (-6, -13, 0, -11.4), (-6, -2, -2, -0.4)),
        *bars("white", (-4, -9.4, 4, -7.8)),
        *bars("yellow", (-4, -5.6, 1, -4)),
        *rimmed("silver", "dark", [-8.6, 4.6, 8, 4.6, 10, 14, -10.4, 14]),
        *bars("dark", (-7, 6.4, 6.4, 8), (-7.6, 9.4, 7, 11)),
    ],
    "telephone": [
        *rimmed("main", "white", [-5, 0, 5, 0, 9, 10, 9, 18, -9, 18, -9, 10], 1.2),
        *edged("main", "white", 4.4, circle(0, -3, 6.4, 6.4, 180, 360, 14).ravel()),
        ("m_box", "main", 4, -5, 9, 0),
        *disc(0, 9, ("white", 5.6), ("dark", 2)),
        *dots("dark", 0.9, (0, 5), (3.4, 7), (3.4, 11), (0, 13), (-3.4, 11), (-3.4, 7)),
    ],
    "camera": [
        *panel("black", "white", -9.6, -7, 9.4, 14),
        *panel("silver", "white", -4.6, -12, 4.6, -3),
        ("box", "silver", -8.4, -5.8, 8.2, -1.6),
        *bars("red", (5, -9.4, 8, -6.4)),
        *disc(0, 5, ("white", 7.2), ("dark", 6), ("sky", 3.8)),
        *dots("white", 1.4, (-1.2, 3.6)),
    ],
    "film camera": [
        ("m_line", "silver", 2, [1, 10, 6.6, 20]),
        *reel(-3.4, -17),
        *reel(5.4, -11),
        *panel("dark", "white", -4.4, -6, 9.4, 10.6),
        *rimmed("black", "white", [-4.4, 0, -9.6, -4, -9.6, 8, -4.4, 4]),
        *dots("red", 2, (5, -1)),
    ],
    "radio microphone": [
        *edged("dark", "white", 2.4, [0, 8, 0, 18]),
        *rimmed("dark", "white", [-7, 20, -5, 16.6, 5, 16.6, 7, 20]),
        *edged("silver", INK, 12, [0, -17, 0, 2]),
        *[("oval", "silver", 0, y, 6.4, 5) for y in (-18, 3)],
        *[("line", INK, 1.2, [x, -21, x, 6]) for x in (-4, 0, 4)],
        *panel("main", INK, -8.4, -10.6, 8.4, -1.6),
    ],
    "pen and paper": [
        *panel("yellow", "brown", -9.6, -14, 8, 19),
        ("box", "red", -9.6, -14, 8, -9.4),
        *[("line", "blue", 1, [-7, y, 6, y]) for y in (-4, 1, 6, 11, 15)],
        *edged("navy", "white", 3, [-1.6, 6, 6.4, -20]),
        *edged("silver", "white", 1.2, [-3, 10.6, -2, 7.6]),
    ],
    "pencil": [
        *rimmed("yellow", "dark", [-5, -12, 5, -12, 5, 12, -5, 12]),
        ("box", "orange", 1.6, -12, 4.4, 12),
        *rimmed("cream", "dark", [-5, -12, 0, -26, 5, -12]),
        ("poly", "black", [-2, -20.4, 0, -26.6, 2, -20.4]),
        *panel("silver", "dark", -5.4, 10, 5.4, 15),
        *panel("pink", "dark", -5.4, 14, 5.4, 21),
    ],
    "set square": [
        *rimmed("white", "dark", [-9, 18, 9.4, 18, -9, -25], 1),
        ("poly", "main", [-7.4, 16.6, 7, 16.6, -7.4, -18]),
        *rimmed("white", "dark", [-4, 12, 1, 12, -4, -1], 1),
        *[("line", "white", 1, [-8, y, -5.6, y]) for y in (-11, -6.4, -2, 2.4, 7)],
    ],
    "gavel": [
        *edged("bread", "dark", 2.4, [-8, 11, 2, -8]),
        *rimmed("brown", "dark", [-8, -16, -2, -25, 9.4, -11, 4.4, -2], 1.2),
        *edged("gold", "dark", 1.4, [-4, -11.6, 1.4, -20.4]),
        *edged("gold", "dark", 1.4, [1, -5.6, 6, -14.6]),
        *panel("brown", "dark", -9.8, 13, 9.4, 20),
        *bars("gold", (-8.6, 15, 8.2, 16.4)),
    ],
    "coins": [*pile(-6.2, 4), *pile(6, -2), *pile(0, -10)],
    "banknote": [
        *rimmed((150, 204, 130), (16, 66, 38), [-10, -15, -4, -21, 3, 16, -2, 18], 1.4),
        *rimmed((150, 204, 130), (16, 66, 38), [9.6, -15, 4, -21, -3, 16, 2, 18], 1.4),
        *rimmed((90, 168, 90), (16, 66, 38), [-4.8, -23, 4.8, -23, 4.8, 18, -4.8, 18], 1.4),
        ("oval", "white", 0, -3, 3.4, 6),
        ("oval", "green", 0, -3, 1.8, 3.6),
        *bars("white", (-3, -21, -0.6, -17), (0.6, 12, 3, 16)),
    ],
    "clock": [
        ("m_line", "dark", 2.4, [4, 12, 7, 18]),
        ("m_poly", "gold", circle(5.4, -9, 4, 4, 200, 400, 12)),
        ("line", "dark", 1.6, [0, -5, 0, -12]),
        *disc(0, 4, ("dark", 9.6), ("main", 9), ("white", 6.6)),
        *dots("dark", 0.8, (0, -1), (5, 4), (0, 9), (-5, 4)),
        ("line", "black", 1.4, [0, -0.6, 0, 4, 3.4, 6]),
    ],
    "newspaper": [
        *rimmed("grey", "dark", [-6, -19, 9, -23, 9, 14, -6, 19]),
        *panel(NEWSPRINT, "dark", -9.8, -20, 6.6, 19),
        *bars("black", (-7.6, -17.6, -4.4, -11.6), (-3.4, -17.6, -0.4, -11.6), (0.6, -17.6, 4.4, -11.6)),
        *bars(NEWSPRINT, (-6.5, -17.6, -5.4, -14), (-3, -16, -1.6, -14.4), (2, -15.4, 3, -11.6)),
        *bars("red", (-7.6, -10, 4.4, -8.4)),
        *bars("sky-", (-7.6, -6.6, 4.4, 3)),
        ("blob", "dark", [-5, 3, -3, -1, -3.4, -5, 0.4, -5, 0, -1, 2, 3]),
        *bars("dark+", *[(x, y, x + 5, y + 1.2) for x in (-7.6, -0.6) for y in (5, 8, 11, 14)]),
    ],
    "stamp": [
        *panel("paper", "dark", -9.8, 5, 9.4, 20),
        ("arc", "red", 1.6, 0, 13.6, 7, 4),
        *bars("red", (-3.4, 12.8, 3.4, 14.4)),
        *rimmed("wood", "dark", [-2.6, -14, 2.6, -14, 4, -4, -4, -4]),
        *disc(0, -17, ("dark", 7.4), ("wood", 6.4)),
        *dots("cream", 1.8, (-2, -19)),
        *panel("main", "dark", -8.6, -5, 8.6, 5),
        *bars("red", (-7.6, 5, 7.6, 7)),
    ],
    "eye chart": [
        *panel("white", "dark", -9.6, -26, 9.2, 19),
        *bars("black", (-4.6, -23, -1.8, -9), *[(-4.6, y, 4.4, y + 2.6) for y in (-23, -17.3, -11.6)]),
        *bars("black", *[(x, -5, x + 4, 1) for x in (-6, 1.6)], *[(x, 3.6, x + 2.6, 7.6) for x in (-6.4, -1.4, 3.6)]),
        *bars("white", (-4.6, -3.4, -3.2, 1), (3, -3.6, 4.2, -0.6)),
        *bars("red", (-8.4, -8.4, 8, -6.8)),
        *bars("green", (-8.4, 9.6, 8, 11.4)),
        *bars("black", *[(x, 13.4, x + 1.6, 15.8) for x in (-6.4, -3, 0.4, 3.8)]),
    ],
    "plan roll": [
        *rimmed((40, 104, 204), "white", [-9, -17, 7, -17, 7, 13, -9, 13]),
        ("line", "white", 1.4, [-6, 9, -6, -4, -1, -10, 4, -4, 4, 9, -6, 9]),
        ("line", "white", 1.4, [-2, 9, -2, 2, 1.4, 2, 1.4, 9]),
        *edged("white", FILM, 5, [-8, -19, 7, -19]),
        *edged("white", FILM, 5, [-8, 15, 7, 15]),
        *[("oval", "sky", 7, y, 1.6, 2.4) for y in (-19, 15)],
    ],
    "circuit board": [
        *panel((14, 110, 60), "white", -9.8, -19, 9.6, 17),
        *[("line", "gold", 1.2, [-8 + i, y, 0, y, 0, -1]) for i, y in ((0, -15), (0, 13))],
        *[("line", "gold", 1.2, p) for p in ([-3, -14, -3, -5], [4, 13, 4, 4], [4, -5, 4, -16], [-3, 2, -3, 9, -8, 9])],
        *[("line", "gold", 1.2, [-8, y, 8, y]) for y in (-4, -1, 2)],
        *bars("black", (-5, -7, 5, 5)),
        *bars("silver", (-2, -4, 2, 2)),
        *dots("red", 2, (6, -14), (-6, 10)),
    ],
    "robot": [
        ("line", INK, 1.8, [0, -18, 0, -24]),
        *dots("red", 2.2, (0, -24)),
        *panel("silver", INK, -7.8, -19, 7.8, -5),
        ("box", INK, -5.6, -16, 5.6, -9.6),
        ("m_oval", "yellow", 2.6, -13, 1.7, 1.9),
        ("m_line", INK, 3.4, [6, 1, 9, 4, 9, 12]),
        ("m_line", "silver", 1.6, [6, 1, 9, 4, 9, 12]),
        *panel("silver", INK, -6.6, -4, 6.6, 14),
        ("box", "main", -4, -1, 4, 6),
        *bars(INK, (-5, 13, -1, 20), (1, 13, 5, 20)),
    ],
    "guitar": [
        *edged("brown", "white", 2.4, [0, 2, 0, -20]),
        *panel("brown", "white", -3.6, -27, 3.6, -18),
        *rimmed("main", "white", [0, -4, 5, -4, 6.4, 2, 9, 9, 7, 18, 0, 20, -7, 18, -9, 9, -6.4, 2, -5, -4], 1.2, True),
        *dots("black", 3.2, (0, 4)),
        *bars("black", (-4, 12.4, 4, 15)),
        *bars("brown", (-1.2, -18, 1.2, 2)),
    ],
    "violin": [
        *edged("black", "cream", 1.6, [0, 0, 0, -24]),
        *rimmed(RUST, "cream", VIOLIN, 1, True),
        ("poly", "black", [-1.2, -10, 1.2, -10, 1.6, 6, -1.6, 6]),
        ("m_line", "black", 1, [4.4, 3, 3.4, 10]),
        *edged("white", "black", 1.2, [-9.6, 12, 9, 0]),
    ],
    "drum": [
        *[s for f in (-1, 1) for s in edged("bread", "dark", 1.4, [f * 9, -22, -f * 4, -5])],
        *dots("bread", 2, (-9, -22), (9, -22)),
        *bars("dark", (-9.8, -4, 9.8, 16)),
        ("oval", "dark", 0, 16, 9.8, 4),
        *bars("main", (-8.8, -4, 8.8, 15)),
        ("oval", "main", 0, 15, 8.8, 3.8),
        ("line", "white", 1.6, [-8.6, 2, -4.4, 15, 0, 2, 4.4, 15, 8.6, 2]),
        ("oval", "gold", 0, -3, 9.8, 4.6),
        ("oval", "white", 0, -4, 8.4, 3.2),
    ],
    "trumpet": [
        *rimmed("yellow", "brown-", [-9, -26, 6, -26, 1, -19, 0, -12, -3, -12, -4, -19], 1.2),
        *edged("gold", "brown-", 2.2, [-1.6, -14, -1.6, 12, 2, 15, 6, 12, 6, -6, 3, -8, 0, -6]),
        *[s for y in (-4, 1, 6) for s in edged("silver", "brown-", 1.8, [-8.4, y, 4, y])],
        ("oval", "white", -5, -24.6, 3, 0.9),
    ],
    "flute": [
        *edged("silver", INK, 4, [-6.4, 21, 6.4, -25]),
        *edged("white", INK, 4, [4, -16.4, 6.4, -25]),
        *dots(INK, 1.9, *[(-4.6 + 1.25 * i, 14.4 - 4.5 * i) for i in range(6)]),
        *dots("gold", 1.1, *[(-4.6 + 1.25 * i, 14.4 - 4.5 * i) for i in range(6)]),
    ],
    "piano keys": [
        *bars("black", (-9.8, -22, 9.4, 17)),
        *bars("white", *[(-9 + 4.6 * i, -15, -5.2 + 4.6 * i, 16) for i in range(4)]),
        *bars("black", *[(-6.6 + 4.6 * i, -16, -3 + 4.6 * i, 4) for i in range(3)]),
        *bars("red", (-9, -16.4, 8.6, -15)),
    ],
    "baton": [
        *panel("paper", "dark", -9.8, -3, 9.4, 20),
        *[("line", "grey", 0.8, [-8.4, y, 8, y]) for y in (2, 6, 10, 14)],
        *[("line", "black", 1.4, [x, y, x, y - 9, x + 4, y - 7]) for x, y in ((-3.4, 14), (3.6, 11))],
        *[("oval", "black", x, y, 2.8, 2.2) for x, y in ((-5.4, 14), (1.6, 11))],
        *edged("white", INK, 1.6, [-5, -6, 7, -26]),
        *edged("bread", INK, 3.4, [-7.4, -1, -5.4, -5]),
    ],
    "record": [
        *disc(0, -8, ("silver", 9.8), ("black", 9.2)),
        *[("arc", "grey", 0.6, 0, -8, r, r, 200, 340) for r in (5.2, 7.2)],
        *disc(0, -8, ("orange", 3.6), ("black", 0.9)),
        *panel("main", "white", -9.8, -2.6, 9.6, 19),
        ("poly", "trim", [-8.6, 17.8, 8.4, 17.8, 8.4, 8]),
    ],
}
