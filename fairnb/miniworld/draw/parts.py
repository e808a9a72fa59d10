"""Pieces of clothes, hats and tools, each a table of shapes for `Pen.shapes`, and the outfit made of them.

Clothes are drawn around the middle of the neckline, hats and things behind around the middle of the head, tools around
a hand beside the chest.
"""

from dataclasses import dataclass, field

import numpy as np

from fairnb.miniworld.draw.pen import circle, tint

TORSO = [-6, -0.5, -10, 1, -19, 3.6, -24.5, 8, -27, 20, 27, 20, 24.5, 8, 19, 3.6, 10, 1, 6, -0.5, 0, 3.2]
NECK = [-6.2, -1, 6.2, -1, 3.4, 3.4, 0, 4.8, -3.4, 3.4]


def shade(colour, sign):
    """The name of, or the tuple for, a lighter (+) or darker (-) colour."""
    return colour + sign if isinstance(colour, str) else tint(colour, 0.3 if sign == "+" else -0.25)


def torso(colour="main", neck=True):
    """Shoulders and chest with a round neck opening."""
    folds = [("m_line", shade(colour, "-"), 0.6, [15.5, 20, 16.5, 12, 18, 8])]
    return [("poly", colour, TORSO), *folds] + ([("poly", "skin", NECK)] if neck else [])


def coat(colour, shirt):
    """An open coat with lapels over a shirt."""
    return [
        *torso(colour, False),
        ("poly", shirt, [-6, -1, 6, -1, 3, 20, -3, 20]),
        ("poly", "skin", [-4.5, -1, 4.5, -1, 0, 4.5]),
        ("m_poly", shade(colour, "-"), [5.5, -1.6, 9.6, 1, 9, 8.5, 2.6, 17]),
        ("m_poly", colour, [5, -1.2, 8.6, 1.4, 8.2, 7.6, 2.8, 15]),
    ]


def collar(colour):
    """Two collar points."""
    return [
        ("m_poly", colour, [5.8, -2.2, 0, 3.2, 4.6, 6.4, 8.4, 0.4]),
        ("m_line", shade(colour, "-"), 0.4, [0, 3.2, 4.6, 6.4, 8.4, 0.4]),
    ]


def tie(colour):
    """A long tie."""
    return [("poly", colour, [-1.7, 2.6, 1.7, 2.6, 1.2, 5, 2.6, 20, -2.6, 20, -1.2, 5])]


def bow(colour):
    """A bow tie."""
    return [("m_poly", colour, [0, 3, 5, 0.4, 5, 6]), ("oval", shade(colour, "-"), 0, 3.1, 1.3, 1.5)]


def dungarees(colour):
    """Bib and straps."""
    return [
        ("m_poly", colour, [7, 1, 10.4, 1.4, 9.6, 10, 6.4, 10]),
        ("poly", colour, [-10, 9, 10, 9, 14, 20, -14, 20]),
        ("box", shade(colour, "-"), -4, 12, 4, 17),
        ("m_oval", "gold", 8, 10, 1.2, 1.2),
    ]


def apron(colour):
    """A bib apron with neck straps."""
    return [
        ("m_poly", colour, [5, 0, 7.2, 0, 9, 7, 6.5, 7]),
        ("poly", colour, [-9.5, 6, 9.5, 6, 13, 20, -13, 20]),
        ("line", shade(colour, "-"), 0.7, [-8, 13, 8, 13]),
    ]


def hard_hat(colour):
    """A helmet with a ridge and a brim."""
    dome = circle(0, -11, 14.6, 15.4, 180, 360)
    return [
        ("poly", colour, dome),
        ("poly", shade(colour, "+"), circle(-4, -17, 3.4, 6)),
        ("line", shade(colour, "-"), 1, circle(0, -11, 4, 15.2, 180, 360, 12)),
        ("blob", shade(colour, "-"), [-16.6, -10.2, 0, -13.4, 16.6, -10.2, 15, -8.8, 0, -11, -15, -8.8]),
    ]


def peaked(colour, band, badge):
    """A peaked cap with a band and a badge."""
    return [
        ("blob", colour, [-13, -12, -17.6, -20, -11, -25, 0, -27, 11, -25, 17.6, -20, 13, -12]),
        ("line", shade(colour, "+"), 0.7, [-14, -22, 0, -25.4, 14, -22]),
        ("poly", band, [-13.6, -16.4, 0, -17.6, 13.6, -16.4, 13.4, -12, 0, -13, -13.4, -12]),
        ("oval", badge, 0, -19.6, 2.6, 2.8),
        ("blob", "black", [-12.6, -12.2, 0, -13.6, 12.6, -12.2, 8, -9.4, 0, -8.6, -8, -9.4]),
    ]


def brimmed(colour, band, wide=21, top=13.5):
    """A hat with a wide brim."""
    return [
        ("poly", colour, [-12, -12, -9.5, -11.6 - top, -5, -13.2 - top, 5, -13.2 - top, 9.5, -11.6 - top, 12, -12]),
        ("poly", band, [-12, -12, -11.2, -16, 11.2, -16, 12, -12]),
        ("oval", colour, 0, -11.6, wide, 2.6),
        ("line", shade(colour, "-"), 0.7, circle(0, -11.2, wide - 1, 2, 0, 180, 14)),
    ]


def soft_cap(colour, height=9):
    """A low round cap with a band."""
    return [
        ("blob", colour, [-13.4, -12, -15, -12 - height, 0, -16 - height, 15, -12 - height, 13.4, -12, 0, -14]),
        ("poly", shade(colour, "-"), [-13.4, -11.2, -13.4, -14.6, 0, -16, 13.4, -14.6, 13.4, -11.2, 0, -12.8]),
    ]


def visor_cap(colour, peak):
    """A round cap with a short peak."""
    return [
        ("poly", colour, circle(0, -11.6, 13.8, 14.4, 180, 360)),
        ("oval", peak, 0, -25.4, 1.3, 1),
        ("blob", peak, [-12.8, -12.2, 0, -14.6, 12.8, -12.2, 9, -9.2, 0, -8.2, -9, -9.2]),
    ]


def straight(colour, head, metal="grey"):
    """A tool with a handle and a head (a table) above."""
    return [("line", colour, 1.8, [0, 22, 0, -16]), *[(k, metal if c is None else c, *a) for k, c, *a in head]]


def cross(colour, x, y, r):
    """An upright cross."""
    return [("box", colour, x - r, y - r / 3, x + r, y + r / 3), ("box", colour, x - r / 3, y - r, x + r / 3, y + r)]


def stars(colour, x, y, r):
    """A five-pointed star."""
    angle = np.arange(10) * np.pi / 5 - np.pi / 2
    reach = np.array((r, r * 0.45) * 5)
    return [("poly", colour, np.stack([x + reach * np.cos(angle), y + reach * np.sin(angle)], -1))]


def bolt(colour, x, y, r):
    """A lightning bolt."""
    return [
        (
            "poly",
            colour,
            np.array([0.3, -1, -0.6, 0.15, -0.05, 0.15, -0.3, 1, 0.6, -0.2, 0.05, -0.2]).reshape(-1, 2) * r + (x, y),
        )
    ]


def books(*colours):
    """A stack of books."""
    return [
        s
        for i, c in enumerate(colours)
        for s in (
            ("box", c, -8 + i % 2, 14 - 5 * i, 7 + i % 2, 19 - 5 * i),
            ("box", "paper", 5.4 + i % 2, 15 - 5 * i, 7 + i % 2, 18 - 5 * i),
        )
    ]


def scatter(kind, colours, spots, *rest):
    """One shape at each of several spots, in alternating colours."""
    return [(kind, colours[i % len(colours)], x, y, *rest) for i, (x, y) in enumerate(spots)]


def edged(colour, edge, width, points):
    """A line with an edge of another colour, so that it shows on light and on dark."""
    return [("line", edge, width + 2, points), ("line", colour, width, points)]


def disc(x, y, *rings):
    """Circles of (colour, radius) around one middle, the largest first."""
    return [("oval", colour, x, y, r, r) for colour, r in rings]


@dataclass
class Outfit:
    """The tables of shapes of one occupation, and the colours that "main" and "trim" may have."""

    clothes: list
    hat: list = field(default_factory=list)
    tool: list | None = None
    main: tuple = ("grey",)
    trim: tuple = ("white",)
    behind: list = field(default_factory=list)
    colours: dict = field(default_factory=dict)
