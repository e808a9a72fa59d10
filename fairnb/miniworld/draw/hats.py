"""Hats that occupations share, and things behind a person, as tables of shapes."""

from fairnb.miniworld.draw.parts import brimmed, scatter, soft_cap, visor_cap
from fairnb.miniworld.draw.pen import circle


def band(colour, width=2.6):
    """A band around the forehead."""
    return ("line", colour, width, circle(0, -6, 13.2, 10.4, 200, 340, 16))


HATS = {
    "beret": [
        ("blob", "trim", [-13, -13, -16, -19, -6, -25, 8, -26, 18, -19, 15, -13, 0, -15]),
        ("line", "trim-", 1.3, [2, -25.6, 3, -28]),
    ],
    "bowler": [
        ("poly", "black", circle(0, -13, 12.6, 14, 180, 360)),
        ("oval", "black", 0, -12.6, 17, 2.6),
        ("line", "trim", 1.8, [-12.4, -15.4, 12.4, -15.4]),
    ],
    "fedora": [*brimmed("brown", "trim", 19, 12), ("line", "brown-", 1.2, [0, -25, 0, -18])],
    "cowboy hat": [
        ("blob", "tan", [-11, -13, -10, -25, -4, -23, 0, -21, 4, -23, 10, -25, 11, -13]),
        ("blob", "tan-", [-22, -17, -12, -13, 0, -12, 12, -13, 22, -17, 14, -10.6, 0, -9.6, -14, -10.6]),
        ("line", "brown", 1.8, [-11, -14.6, 11, -14.6]),
    ],
    "sun hat": [*brimmed("straw", "trim", 22, 9), ("m_oval", "trim", 8, -15, 2.2, 2)],
    "flat cap": [
        ("blob", "grey-", [-14, -12, -14, -18, -4, -22, 8, -21, 15, -15, 17, -11.6, 8, -11.6, 0, -13]),
        ("line", "dark", 0.9, [-8, -18, 10, -18]),
    ],
    "beanie": [
        ("poly", "trim", circle(0, -11, 14, 15, 180, 360)),
        ("box", "trim-", -14.4, -15, 14.4, -10.4),
        ("oval", "white", 0, -27, 3, 2.8),
    ],
    "baseball cap": visor_cap("trim", "trim-"),
    "bandana": [
        ("poly", "trim", circle(0, -10.6, 13.8, 13.6, 180, 360)),
        *scatter("oval", ("white",), [(-8, -14), (-3, -18), (3, -14), (8, -17), (0, -22)], 1.2, 1.2),
        ("poly", "trim-", [12, -11, 19, -9, 17, -5, 13, -9]),
    ],
    "headscarf": [
        (
            "blob",
            "trim",
            [
                0,
                -26,
                -13,
                -20,
                -15,
                -8,
                -14,
                6,
                -12,
                6,
                -12,
                -8,
                -9,
                -13.6,
                0,
                -16,
                9,
                -13.6,
                12,
                -8,
                12,
                6,
                14,
                6,
                15,
                -8,
                13,
                -20,
            ],
        ),
        ("m_oval", "trim-", 13.4, 4, 2, 2.6),
        *scatter("oval", ("white",), [(-9, -18), (0, -21), (9, -18)], 1.3, 1.3),
    ],
    "headband": [band("trim", 3)],
    "headphones": [
        ("arc", "dark", 2.4, 0, -6, 15.4, 18, 190, 350),
        ("m_oval", "trim", 15, -1, 3.4, 5.4),
        ("m_oval", "dark", 16.4, -1, 1.6, 4),
    ],
    "headset": [
        ("arc", "black", 1.4, 0, -6, 14.6, 17.4, 190, 350),
        ("m_oval", "black", 14.4, -1, 2.2, 3.6),
        ("line", "black", 1, [-14, 2, -12, 9, -8, 11]),
        ("oval", "trim", -8, 11, 1.8, 1.4),
    ],
    "goggles": [
        band("dark", 1.6),
        ("m_oval", "dark", 5.4, -14, 5.4, 3.6),
        ("m_oval", "trim", 5.4, -14, 4, 2.4),
    ],
    "head lamp": [band("dark", 2), ("oval", "grey", 0, -15.4, 4.4, 4), ("oval", "yellow+", 0, -15.4, 3, 2.8)],
    "scrub cap": [*soft_cap("main", 7), ("line", "trim", 1, [-12, -19, 12, -19])],
    "paper hat": [
        ("poly", "white", [-13, -12, -11, -20, 0, -27, 11, -20, 13, -12, 0, -14]),
        ("poly", "trim", [-13, -12, -12.4, -16, 0, -18, 12.4, -16, 13, -12, 0, -14]),
    ],
    "bucket hat": [
        ("poly", "main", [-11, -14, -9, -25, 9, -25, 11, -14]),
        ("poly", "main-", [-11, -15, 11, -15, 18, -8.6, 10, -9.4, 0, -11.4, -10, -9.4, -18, -8.6]),
    ],
    "pillbox hat": [
        ("poly", "main", [-10, -14, -10, -23, 10, -23, 10, -14, 0, -15.6]),
        ("oval", "main+", 0, -23, 10, 2),
        ("line", "trim", 1.5, [-10, -15.6, 0, -17, 10, -15.6]),
    ],
    "mortarboard": [
        ("poly", "black", [-11, -12, -11, -18, 11, -18, 11, -12, 0, -14]),
        ("poly", "black", [-20, -20, 0, -27, 20, -20, 0, -14.6]),
        ("line", "trim", 1.3, [0, -21, 14, -19, 15, -8]),
        ("oval", "trim", 15, -8, 1.8, 2.6),
    ],
    "bicycle helmet": [
        ("poly", "trim", circle(0, -10.6, 15, 16, 180, 360)),
        *[("line", "main", 2, [x * 0.5, -25.6 + abs(x) * 0.3, x, -12]) for x in (-9, -3, 3, 9)],
    ],
    "racing helmet": [
        (
            "blob",
            "main",
            [
                0,
                -28,
                -14,
                -23,
                -17.4,
                -8,
                -16.6,
                6,
                -13.4,
                8,
                -12.6,
                -8,
                -9,
                -13,
                0,
                -14.4,
                9,
                -13,
                12.6,
                -8,
                13.4,
                8,
                16.6,
                6,
                17.4,
                -8,
                14,
                -23,
            ],
        ),
        ("line", "trim", 2.4, [0, -27, 0, -15]),
        ("line", "dark", 1.6, [-10, -13.6, 0, -15.4, 10, -13.6]),
    ],
    "flower wreath": [
        band("green", 2),
        *scatter(
            "oval",
            ("pink", "yellow", "white", "purple", "red"),
            [(-11.6, -10), (-6.4, -14), (0, -15.6), (6.4, -14), (11.6, -10)],
            2.8,
            2.6,
        ),
    ],
    "feathered hat": [
        *soft_cap("main", 8),
        ("blob", "trim", [7, -14, 12, -26, 19, -33, 18, -24, 12, -15]),
        ("oval", "gold", 7, -14, 2, 2),
    ],
    "welding visor": [
        ("poly", "dark", circle(0, -10.6, 15, 10, 180, 360)),
        ("poly", "grey", [-13, -13, -12, -29, 12, -29, 13, -13, 0, -15.4]),
        ("box", "lime", -8, -25, 8, -20),
    ],
    "ribbon": [band("trim", 1.8), ("m_poly", "trim", [0, -20, 7, -25, 7, -15]), ("oval", "trim-", 0, -20, 2, 2.2)],
}
BEHIND = {
    "bookshelf": [
        ("box", "brown", -34, -30, 34, 30),
        *[
            ("box", ("red", "blue", "gold", "green", "wine")[i % 5], x, y, x + 3.6, y + 10)
            for y in (-26, -12, 2)
            for i, x in enumerate((-32, -28, -24, -20, 17, 21, 25, 29))
        ],
        *[("line", "wood", 1.5, [-34, y, 34, y]) for y in (-15, -1, 13)],
    ],
    "curtain": [
        ("m_box", "wine", 12, -34, 40, 40),
        *[("m_line", "red", 1.6, [x, -34, x - 1, 40]) for x in (15, 21, 27, 33)],
    ],
    "screen": [
        ("box", "navy", -34, -28, 34, 14),
        ("line", "sky", 1.6, [-34, -28, 34, -28, 34, 14, -34, 14, -34, -28]),
        *[("m_box", "sky", 19, y, 30, y + 4) for y in (-22, -14, -6)],
    ],
    "spotlights": [("m_poly", "yellow+", [22, -34, 27, -34, 36, 20, 12, 20]), ("m_oval", "dark", 24.4, -33, 4, 3)],
    "umbrella": [
        ("poly", "main", circle(0, -12, 30, 20, 180, 360)),
        *[("poly", "trim", [x, -12, x + 10, -12, (x + 5) * 0.2, -32]) for x in (-20, 10)],
        ("oval", "dark", 0, -33, 1.4, 2),
    ],
    "barrels": [
        ("m_blob", "wood", [15, 18, 14, 2, 16, -12, 30, -12, 33, 2, 31, 18]),
        *[("m_line", "dark", 1.3, [14, y, 33, y]) for y in (-6, 11)],
    ],
}
