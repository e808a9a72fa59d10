"""Clothes, hats and tools of the occupations, as tables of shapes (the same for every person).

Clothes are drawn around the middle of the neckline, hats and things behind around the middle of the head,
tools around a hand beside the chest.
"""

from dataclasses import dataclass, field

import numpy as np

from fairnb.miniworld.draw.parts import (
    TORSO,
    apron,
    bolt,
    books,
    bow,
    brimmed,
    coat,
    collar,
    cross,
    dungarees,
    hard_hat,
    peaked,
    soft_cap,
    stars,
    straight,
    tie,
    torso,
    visor_cap,
)
from fairnb.miniworld.draw.pen import PALETTE, circle, jitter


@dataclass
class Outfit:
    """Tables of shapes of one occupation and the colours that "main" and "trim" stand for."""

    clothes: list
    hat: list = field(default_factory=list)
    tool: list | None = None
    main: tuple = ("grey",)
    trim: tuple = ("white",)
    behind: list = field(default_factory=list)
    colours: dict = field(default_factory=dict)


def _spread(kind, colours, spots, *rest):
    return [(kind, colours[i % len(colours)], x, y, *rest) for i, (x, y) in enumerate(spots)]


PATCHES = ((-18, 7), (-10, 12), (-21, 15), (12, 8), (20, 12), (9, 16), (-5, 16), (2, 11), (16, 17))
LENS = [
    ("m_oval", "dark", 5, -15, 4.4, 3),
    ("m_oval", "sky+", 5, -15, 3.4, 2.2),
    ("line", "dark", 1.2, [-13.2, -12.6, 0, -15.6, 13.2, -12.6]),
]
STETHOSCOPE = [
    ("line", "dark", 1.1, [-7, -0.5, -7.4, 7, -3, 12, 2, 12]),
    ("line", "dark", 1.1, [7, -0.5, 7.6, 6, 7, 11]),
    ("oval", "silver", 7, 12.5, 2.5, 2.5),
    ("oval", "dark", 7, 12.5, 1.2, 1.2),
]
RING = [
    ("oval", "grey", 0, -2, 21.6, 25.6),
    ("oval", "white", 0, -2, 20.6, 24.6),
    ("oval", (54, 74, 112), 0, -2, 17.8, 21.8),
]
RING_FRONT = [
    ("arc", "silver", 1.4, 0, -2, 19, 23.2, 130, 410),
    ("arc", "white", 1.4, 0, -2, 20.4, 24.8, 130, 410),
    ("arc", (176, 214, 250), 1, 0, -2, 15.8, 19.6, 200, 250),
]
MUSIC = [
    ("oval", "gold", -3, -18, 2.2, 1.7),
    ("line", "gold", 0.9, [-1.2, -18, -1.2, -26, 4, -27, 4, -20]),
    ("oval", "gold", 2.4, -19.6, 2.2, 1.7),
]
OUTFITS = {
    "doctor": Outfit(
        coat("white", "main") + STETHOSCOPE,
        main=("teal", "green", "teal-"),
        tool=[
            ("box", "wood", -7, -8, 8, 18),
            ("box", "paper", -5.6, -5.6, 6.6, 16.6),
            ("box", "silver", -2.5, -9.4, 3.5, -6.4),
            ("line", "red", 1.1, [-5, 4, -2, 4, -0.5, -1, 1.5, 9, 3, 4, 6, 4]),
            ("line", "grey", 0.7, [-4, 12, 5, 12]),
        ],
    ),
    "nurse": Outfit(
        [
            *torso(),
            ("m_line", "white", 0.9, [6.2, -1, 0, 5]),
            ("box", "main-", 7, 9, 14, 16),
            *cross("red", -10.5, 11, 2.8),
        ],
        main=((132, 196, 236), (150, 208, 240), (118, 184, 232)),
        hat=[
            ("poly", "white", [-9.5, -15, -11, -23, 0, -25.4, 11, -23, 9.5, -15, 0, -17]),
            *cross("red", 0, -20.6, 3.2),
        ],
    ),
    "teacher": Outfit(
        [
            *torso("main", False),
            ("poly", "cream", [-5, -1, 5, -1, 0, 14]),
            ("poly", "skin", [-4, -1, 4, -1, 0, 4]),
            *collar("cream"),
            ("line", "main-", 0.7, [0, 14, 0, 20]),
        ],
        main=("wine", (150, 84, 60), (170, 110, 50)),
        tool=[
            ("box", "wood", -9, -24, 10, 4),
            ("box", (34, 82, 60), -7.6, -22.6, 8.6, 2.6),
            ("line", "white", 1.1, [-5.5, -10, -2.5, -19, 0.5, -10]),
            ("line", "white", 1, [-4.4, -13, -0.6, -13]),
            ("line", "yellow", 1, [-5, -4, 6, -4]),
            ("arc", "white", 1, 4.6, -14, 2.2, 3),
        ],
    ),
    "chef": Outfit(
        [
            *torso("white", False),
            ("m_oval", "dark", 4, 10, 0.9, 0.9),
            ("m_oval", "dark", 4, 15, 0.9, 0.9),
            ("line", "grey", 0.6, [0, 5, 8, 20]),
            ("poly", "main", [-7, -1.4, 7, -1.4, 3.5, 4, 0, 2.6, -3.5, 4]),
            ("poly", "main-", [0, 2.6, 3, 8, -3, 8]),
        ],
        main=("red", "blue", "orange"),
        hat=[
            ("oval", "white", -9, -22, 7.5, 6.5),
            ("oval", "white", 9, -22, 7.5, 6.5),
            ("oval", "white", 0, -24, 9.5, 6.4),
            ("line", "silver", 0.7, [-4.5, -19, -5.2, -25]),
            ("line", "silver", 0.7, [4.5, -19, 5.2, -25]),
            ("poly", (228, 230, 234), [-13, -11.4, -12.6, -18.4, 0, -19.6, 12.6, -18.4, 13, -11.4, 0, -13]),
        ],
        tool=straight("wood", [("oval", None, 0, -14, 4, 5.5), ("oval", "grey-", 0.4, -14, 2.6, 4)], "silver"),
    ),
    "pilot": Outfit(
        [
            *torso("navy", False),
            ("poly", "white", [-6, -1, 6, -1, 0, 14]),
            *tie("black"),
            *collar("white"),
            ("m_line", "gold", 1.2, [17, 4.5, 24, 8]),
            ("m_line", "gold", 1.2, [16, 7, 23.5, 11]),
            ("m_oval", "gold", 11, 12, 1.1, 1.1),
            ("poly", "gold", [7, 8, 17, 7, 13, 10, 9, 10]),
        ],
        hat=[*peaked("navy", "black", "gold"), ("m_poly", "gold", [1.5, -19.4, 9.4, -21.6, 6.5, -18.4, 2, -17.6])],
    ),
    "firefighter": Outfit(
        [
            *torso((52, 48, 50), False),
            ("line", "yellow", 2.6, [-25, 12, 25, 12]),
            ("line", "silver", 1, [-25, 12, 25, 12]),
            ("m_line", "yellow", 2.2, [11, 1, 12.5, 20]),
            ("poly", "red-", [-7, -2, 7, -2, 4, 4, -4, 4]),
        ],
        hat=[*hard_hat("red"), ("poly", "gold", [-3.4, -22, 3.4, -22, 3.4, -17, 0, -13.4, -3.4, -17])],
        tool=straight(
            "wood",
            [("poly", None, [-1, -18, 8, -20, 8, -8, -1, -11]), ("poly", "red", [0, -17, -7, -14.5, 0, -12])],
            "silver",
        ),
    ),
    "farmer": Outfit(
        [
            *torso("main"),
            ("line", "white", 0.6, [-21, 6, 21, 6]),
            ("line", "white", 0.6, [-25, 12, 25, 12]),
            ("m_line", "white", 0.6, [14, 2, 14, 20]),
            ("m_line", "white", 0.6, [20, 4, 20, 20]),
            *dungarees("denim"),
        ],
        main=("red", "red-", "orange-"),
        hat=brimmed("straw", "brown", 20),
        tool=straight(
            "wood",
            [("line", None, 1.2, [-5, -26, -5, -16, 5, -16, 5, -26]), ("line", None, 1.2, [0, -27, 0, -14])],
            "dark",
        ),
    ),
    "builder": Outfit(
        [
            *torso("grey"),
            ("m_poly", "orange", [7, 0, 16, 2.8, 17, 20, 2, 20, 3, 8]),
            ("m_line", "lime+", 2, [11, 1.6, 9.6, 20]),
            ("line", "lime+", 2, [-16, 15, 16, 15]),
        ],
        hat=hard_hat("yellow"),
        tool=[
            ("box", (186, 84, 60), -9, 2, 8, 8),
            ("box", (170, 72, 52), -7, 9, 10, 15),
            ("box", (186, 84, 60), -9, 16, 8, 22),
            ("poly", "silver", [-6, 1, 6, 1, 0, -10]),
        ],
    ),
    "police officer": Outfit(
        [
            *torso((108, 152, 206), False),
            *tie((24, 34, 64)),
            *collar((108, 152, 206)),
            *stars("gold", 10.5, 9, 4.2),
            ("m_poly", (24, 34, 64), [15, 2.8, 22, 5, 21, 7.6, 14.6, 5.4]),
        ],
        hat=[
            *peaked((40, 66, 130), "white", "silver"),
            *[
                ("box", (40, 66, 130), x, -16.9 + (i % 2) * 1.9, x + 2, -15 + (i % 2) * 1.9)
                for i, x in enumerate(range(-12, 12, 2))
            ],
            *stars("silver", 0, -20.4, 3.6),
        ],
    ),
    "lawyer": Outfit(
        [
            *torso("black", False),
            ("m_line", "dark+", 0.8, [9, 2, 11, 20]),
            ("poly", "white", [-6, -2, 6, -2, 4, 3.4, -4, 3.4]),
            ("m_poly", "white", [0.2, 2, 2.6, 2, 4.4, 13, 0.6, 13]),
        ],
        tool=[
            ("line", "gold", 1.6, [0, 20, 0, -14]),
            ("line", "gold", 1.3, [-7, -11, 7, -11]),
            ("oval", "gold", 0, -14, 1.8, 1.8),
            ("m_line", "gold", 0.6, [4, -1, 7, -11, 9.6, -1]),
            ("m_poly", "gold", circle(7, -1, 3.6, 3.6, 0, 180, 12)),
            ("box", "gold-", -5, 18, 5, 21),
        ],
    ),
    "librarian": Outfit(
        [
            *torso("main", False),
            ("poly", "white", [-6, -1, 6, -1, 0, 9]),
            ("poly", "skin", [-3.6, -1, 3.6, -1, 0, 3]),
            *collar("white"),
            ("line", "main-", 0.8, [0, 8, 0, 20]),
            ("m_poly", "main-", [5, 0, 9, 1, 1.4, 13, 0, 9]),
        ],
        main=((96, 120, 84), "olive", (110, 130, 100)),
        tool=books("red", "blue", "gold", "green", "purple", "wine", "teal"),
    ),
    "carpenter": Outfit(
        [
            *torso("main"),
            *collar("main+"),
            *apron("brown"),
            ("box", "wood", -3.6, 11, 3.6, 16),
            ("line", "yellow", 1, [2, 7.6, 2, 14]),
        ],
        main=((186, 176, 150), "cream-", (170, 160, 140)),
        hat=[("line", "yellow", 1.2, [12, -6.5, 17.4, -1.5])],
        tool=[
            ("poly", "silver", [-2, -24, 5, -24, 8, 8, -4, 8]),
            *[
                ("poly", "dark", [-2.2 - k * 0.06, -24 + 4 * k, -4.4, -22.4 + 4 * k, -2.4, -20.6 + 4 * k])
                for k in range(8)
            ],
            ("blob", "wood", [-5, 7, 9, 7, 9, 18, 2, 20, -5, 16]),
            ("oval", "brown-", 2, 12.5, 2.6, 3),
        ],
    ),
    "mechanic": Outfit(
        [
            *torso("main", False),
            ("line", "silver", 0.9, [0, 4, 0, 20]),
            ("poly", "white", [-5, -1, 5, -1, 0, 5]),
            *collar("main+"),
            *_spread("oval", ("black",), PATCHES[1:7:2], 1.8, 1.2),
            ("box", "white", 7, 8, 14, 11),
        ],
        main=((56, 72, 108), (64, 80, 120), (50, 66, 96)),
        hat=visor_cap("main", "wine"),
        tool=[
            ("line", "silver", 3, [0, 22, 0, -12]),
            ("oval", "silver", 0, -15, 5.4, 5.4),
            ("poly", "dark", [-2, -22, 2, -22, 2, -14, -2, -14]),
        ],
    ),
    "gardener": Outfit(
        [*torso("main"), *apron("green")],
        main=("cream", (230, 214, 190), "lime+"),
        hat=brimmed((112, 150, 84), "cream", 19, 10.5),
        tool=[
            ("poly", (196, 98, 58), [-7, 6, 7, 6, 5, 20, -5, 20]),
            ("box", (214, 112, 68), -8, 3, 8, 7),
            ("line", "green", 1.4, [0, 4, 0, -10]),
            ("m_blob", "green", [0, 2, 5, -5, 7, -3, 4, 2]),
            *_spread(
                "oval",
                ("pink",),
                [(4.2 * np.cos(a), -12 + 4.2 * np.sin(a)) for a in np.arange(6) * np.pi / 3],
                2.6,
                2.6,
            ),
            ("oval", "yellow", 0, -12, 2.6, 2.6),
        ],
    ),
    "baker": Outfit(
        [*torso((232, 222, 206)), *apron((196, 160, 112)), ("poly", "main", [-6.4, -1.4, 6.4, -1.4, 0, 5])],
        main=("orange", "brown", "wine"),
        hat=soft_cap((238, 228, 210), 8),
        tool=[
            ("poly", "tan", [-6, 4, 7, 4, 5, 22, -4, 22]),
            *[
                s
                for x, t in ((-3, -22), (3.4, -18))
                for s in (
                    ("blob", "bread", [x - 3, 4, x - 2.6, t + 3, x, t, x + 2.6, t + 3, x + 3, 4]),
                    *[("line", "cream", 0.9, [x - 1.4, y, x + 1.6, y - 2]) for y in (-11, -6, -1, 3)],
                )
            ],
            ("poly", "tan+", [-6, 4, 7, 4, 6.4, 8, -5.4, 8]),
        ],
    ),
    "lifeguard": Outfit(
        [
            ("poly", "skin", TORSO),
            (
                "poly",
                "red",
                [-12, 1.4, -7.6, 0.8, -5, 6, 0, 7.6, 5, 6, 7.6, 0.8, 12, 1.4, 12, 8, 15, 20, -15, 20, -12, 8],
            ),
            *cross("white", 0, 14, 4),
            ("line", "yellow", 0.7, [-6, 0, 0, 8, 6, 0]),
            ("oval", "yellow", 0, 8.4, 1.4, 1),
        ],
        tool=[
            ("oval", "orange", 0, 2, 9.5, 14),
            *[
                (
                    "poly",
                    "white",
                    [
                        np.cos(a - 0.3) * 9.5,
                        2 + np.sin(a - 0.3) * 14,
                        np.cos(a + 0.3) * 9.5,
                        2 + np.sin(a + 0.3) * 14,
                        np.cos(a + 0.3) * 4,
                        2 + np.sin(a + 0.3) * 6,
                        np.cos(a - 0.3) * 4,
                        2 + np.sin(a - 0.3) * 6,
                    ],
                )
                for a in np.arange(4) * np.pi / 2 + 0.8
            ],
            ("oval", (70, 150, 200), 0, 2, 4.4, 7),
        ],
    ),
    "astronaut": Outfit(
        [
            *torso("white", False),
            ("line", "silver", 2.6, circle(0, -1, 14, 5, 0, 180, 16)),
            ("box", "main", 8, 9, 15, 13),
            ("box", "grey", -7, 9, 5, 18),
            ("oval", "red", -4, 12, 1.3, 1.3),
            ("oval", "blue", 0, 12, 1.3, 1.3),
            ("line", "blue", 1, [-5, 15.6, 3, 15.6]),
        ],
        main=("red", "blue", "orange"),
        behind=RING,
        hat=RING_FRONT,
    ),
    "soldier": Outfit(
        [
            *torso("olive", False),
            *_spread("oval", ("moss", "tan-", (50, 50, 40)), PATCHES, 3.6, 2.2),
            *collar("olive"),
            ("poly", (190, 180, 140), [-3, 0, 3, 0, 0, 4]),
        ],
        hat=[
            ("poly", "olive", circle(0, -9.4, 15, 16.6, 180, 360)),
            *_spread(
                "oval",
                ("moss", "tan-", (50, 50, 40)),
                ((-8, -16), (0, -21), (8, -14), (-2, -14), (7, -20), (-11, -11.6)),
                3,
                1.9,
            ),
            ("line", "moss", 1.4, [-15.4, -9.4, 0, -11.6, 15.4, -9.4]),
        ],
    ),
    "painter": Outfit(
        [
            *torso((226, 226, 232)),
            *_spread("oval", ("red", "blue", "yellow", "green", "purple"), PATCHES, 1.9, 1.6),
            *collar((206, 208, 220)),
        ],
        main=("wine", "blue", "teal"),
        hat=[
            ("blob", "main", [-13, -12, -17, -19, -8, -25.4, 6, -26, 18, -20, 19, -14, 12, -12.4, 0, -14.6]),
            ("line", "main-", 1, [-12.6, -12.2, 0, -14.6, 12.4, -12.4]),
            ("line", "main-", 1.2, [2, -26, 3, -28]),
        ],
        tool=[
            ("blob", "wood", [-9, 6, -4, -7, 6, -8, 9, 3, 7, 15, -2, 18]),
            *_spread(
                "oval",
                ("red", "yellow", "blue", "green", "white"),
                ((-3, -2), (3, -4), (5.4, 2), (4, 9), (-4, 6)),
                2,
                2,
            ),
            ("line", "brown", 1.1, [-5, 14, 3, -20]),
            ("line", "red", 2, [2.4, -18, 3.4, -23]),
        ],
    ),
    "singer": Outfit(
        [
            *torso("main"),
            *_spread("oval", ("gold", "white", "pink+"), [(x, 5 + (x * 7) % 13) for x in range(-22, 24, 3)], 0.9, 0.9),
            ("m_poly", "main-", [6, -1.2, 10, 1, 8, 8, 1.6, 15]),
        ],
        main=("purple", (170, 40, 130), (90, 50, 160)),
        tool=[
            ("line", "black", 2.6, [1, 22, -2, 0]),
            ("oval", "dark", -2.6, -3, 4.2, 5),
            ("oval", "silver", -2.6, -4, 3.4, 3.6),
            ("line", "dark", 0.6, [-5.6, -4, 0.4, -4]),
            *MUSIC,
        ],
    ),
    "waiter": Outfit(
        [
            *torso("white", False),
            ("m_poly", "black", [7, 0.4, 13, 2, 13, 20, 0, 20, 0, 15]),
            *collar("white"),
            *bow("black"),
            ("oval", "gold", 0, 17, 0.9, 0.9),
        ],
        tool=[
            ("poly", "white", [-4, 22, 4, 22, 2, 6, -2, 6]),
            ("oval", "silver", 0, 4, 11, 2.2),
            ("poly", (190, 30, 60), [-6, -9, 0, -9, -2, -3, -4, -3]),
            ("line", "silver+", 0.8, [-3, -3, -3, 3]),
            ("line", "silver+", 0.8, [-6.4, -12, -6, -9]),
            ("poly", "sky+", [3, -10, 8, -10, 7.4, 3, 3.6, 3]),
        ],
    ),
    "sailor": Outfit(
        [
            *torso("white", False),
            *[("line", "blue", 1.3, [-h, y, h, y]) for y, h in ((5, 20), (8.6, 24), (12.2, 25), (15.8, 26))],
            ("m_poly", "navy", [6, -1.8, 15, 2.4, 15, 8, 1, 12, 0, 10]),
            ("m_line", "white", 0.7, [13.4, 3, 13.4, 7, 1.4, 10.6]),
            ("poly", "skin", [-5, -1, 5, -1, 0, 7]),
            ("poly", "red", [0, 9, 3, 17, -3, 17]),
        ],
        hat=[
            ("poly", "white", circle(0, -15, 11.5, 9, 180, 360)),
            ("poly", "white", [-14, -12, -14.6, -18.4, 0, -20, 14.6, -18.4, 14, -12, 0, -13.8]),
            ("line", "navy", 1.3, [-14.2, -14.6, 0, -16.6, 14.2, -14.6]),
        ],
    ),
    "electrician": Outfit(
        [*torso((250, 232, 120)), *dungarees("blue"), *bolt("yellow", 0, 14.4, 4)],
        hat=[*hard_hat("white"), *bolt("blue", 0, -19, 4.4)],
        tool=[
            ("oval", (255, 244, 150), 0, -12, 8, 8.6),
            ("poly", (255, 244, 150), [-5, -7, 5, -7, 3, 1, -3, 1]),
            ("line", "orange", 0.9, [-2, 0, -3, -11, 0, -8, 3, -11, 2, 0]),
            ("box", "grey", -3.4, 0, 3.4, 6),
            ("line", "black", 1.4, [0, 6, 2, 12, -3, 16, 2, 22]),
        ],
    ),
    "dancer": Outfit(
        [
            ("poly", "skin", TORSO),
            (
                "poly",
                "main",
                [-24, 6, -13, 6, -10, 1, -7.8, 0.6, -7, 5, 0, 8.4, 13, 2.2, 17, 3, 10, 11, 12, 20, -13, 20, -11, 12],
            ),
            *_spread(
                "oval", ("main+", "white"), ((-8, 8), (-4, 12), (2, 11), (7, 8), (6, 16), (-7, 16), (0, 16)), 1, 1
            ),
        ],
        main=((240, 96, 120), (236, 84, 150), (244, 112, 100)),
        hat=[("line", "main", 1.9, circle(0, -4, 13.2, 11.4, 195, 345, 16))],
        tool=[
            ("line", "white", 1, [-2, 22, 2, -4]),
            ("line", "main", 2.4, [2, -4, 8, -10, 2, -14, -5, -16, -2, -21, 6, -20, 7, -27, 0, -31, -5, -36]),
            ("line", "main+", 0.8, [2, -4, 8, -10, 2, -14, -5, -16, -2, -21, 6, -20, 7, -27]),
        ],
    ),
    "scientist": Outfit(
        [
            *coat("white", "main"),
            ("box", "silver", 9, 8, 15, 14),
            ("line", "red", 0.8, [11, 6, 11, 11]),
            ("line", "blue", 0.8, [13, 6, 13, 11]),
        ],
        main=("purple", "wine", "navy"),
        hat=LENS,
        tool=[
            ("poly", (226, 240, 244), [-2.6, -16, 2.6, -16, 2.6, -4, 9, 16, -9, 16, -2.6, -4]),
            ("poly", (70, 210, 90), [-4.6, 2, 4.6, 2, 8.2, 15, -8.2, 15]),
            ("oval", "lime+", -2, 9, 1.5, 1.5),
            ("oval", "lime+", 2.4, 6, 1.1, 1.1),
            ("box", "silver", -3.8, -18, 3.8, -15.4),
        ],
    ),
    "miner": Outfit(
        [
            *torso((104, 88, 74)),
            ("m_line", (62, 52, 46), 2.4, [9, 1, 10.4, 20]),
            *_spread("oval", ((56, 48, 44),), PATCHES, 2.4, 1.5),
        ],
        hat=[
            *hard_hat((132, 98, 54)),
            ("oval", "dark", 0, -17.4, 5, 5),
            ("oval", (255, 250, 200), 0, -17.4, 3.9, 3.9),
            ("oval", "white", 0, -17.4, 2, 2),
        ],
        tool=straight(
            "wood", [("blob", None, [-11, -8, -6, -15, 0, -18, 6, -15, 11, -8, 5, -11.5, 0, -13, -5, -11.5])], "dark"
        ),
    ),
    "fisher": Outfit(
        [
            *torso("yellow", False),
            ("line", "yellow-", 1, [0, 4, 0, 20]),
            ("m_oval", "dark", 4, 10, 0.9, 0.9),
            ("m_oval", "dark", 4, 16, 0.9, 0.9),
            ("poly", "navy", [-6.4, -2.4, 6.4, -2.4, 5, 3, -5, 3]),
            *collar("yellow"),
        ],
        hat=[
            ("blob", "yellow", [-13, -12, -12.6, -20, -7, -26, 7, -26, 12.6, -20, 13, -12]),
            ("line", "yellow-", 0.7, [0, -26, 0, -15]),
            (
                "blob",
                "yellow-",
                [-12, -14.4, 0, -16, 12, -14.4, 18.4, -7.4, 14, -8.4, 0, -11.4, -14, -8.4, -18.4, -7.4],
            ),
        ],
        tool=[
            ("line", "brown", 1.3, [-6, 22, 6, -34]),
            ("line", "white", 0.5, [6, -34, 4, -8]),
            ("poly", (90, 140, 170), [4, 8, 0, 14, 8, 14]),
            ("oval", (110, 164, 190), 4, 1, 3.4, 8.4),
            ("oval", "black", 3, -3.4, 0.8, 0.8),
        ],
    ),
    "hairdresser": Outfit(
        [
            *torso("main"),
            ("poly", "pink", [-6.8, -1.2, 6.8, -1.2, 3.4, 5, 0, 6.4, -3.4, 5]),
            ("poly", "skin", [-5.4, -1.4, 5.4, -1.4, 0, 4]),
            ("box", "pink", 6, 10, 15, 20),
            ("line", "silver", 1, [9, 7, 9, 12]),
            ("line", "teal", 1.6, [12, 6, 12, 12]),
        ],
        main=("dark", "black", (70, 50, 70)),
        tool=[
            ("m_poly", "silver", [-1.2, 4, 5.4, -22, 6.8, -21, 2, 5]),
            ("m_arc", "red", 1.9, 4, 10.6, 3.4, 5.4),
            ("oval", "dark", 0, 2.4, 1.2, 1.2),
        ],
    ),
    "postal worker": Outfit(
        [
            *torso((70, 112, 176)),
            *collar((70, 112, 176)),
            ("poly", (160, 104, 60), [-14, 2, -9, 1, 14, 20, 7, 20]),
            ("m_line", "yellow", 1.2, [15, 6, 23, 9]),
        ],
        hat=visor_cap((70, 112, 176), "yellow"),
        tool=[
            ("box", "paper", -9, -6, 9, 8),
            ("line", "grey", 0.9, [-9, -6, 0, 2, 9, -6]),
            ("line", "grey", 0.7, [-9, 8, -9, -6, 9, -6, 9, 8, -9, 8]),
            ("oval", "red", 0, 2, 2, 2),
            ("poly", (160, 104, 60), [-9, 12, 9, 12, 9, 22, -9, 22]),
        ],
    ),
    "jockey": Outfit(
        [
            *torso("main", False),
            *[
                ("poly", "trim", [x, y - 4.6, x + 3.6, y, x, y + 4.6, x - 3.6, y])
                for x, y in ((-18, 9), (-9, 9), (0, 9), (9, 9), (18, 9), (-13.5, 16), (-4.5, 16), (4.5, 16), (13.5, 16))
            ],
            ("poly", "white", [-6, -2, 6, -2, 4, 3.6, -4, 3.6]),
        ],
        main=((30, 170, 90), (40, 90, 200), (150, 50, 170)),
        trim=("yellow", "white", "yellow"),
        hat=[
            *visor_cap("main", "trim"),
            ("poly", "trim", [0, -24, 4.5, -19.4, 0, -15, -4.5, -19.4]),
            ("m_poly", "trim", [8.6, -21, 12, -16.4, 9, -13.4, 6, -17]),
        ],
        tool=[
            ("line", "black", 1.4, [-3, 22, 4, -16]),
            ("line", "brown", 2.6, [-3, 22, -1.6, 14]),
            ("poly", "black", [3, -14, 6, -14, 6.6, -21, 3.6, -21]),
        ],
    ),
    "magician": Outfit(
        [
            *torso("black", False),
            ("m_poly", "red", [9, -2, 18, 2, 26, 14, 26, 20, 19, 20, 15, 8]),
            ("poly", "white", [-6, -1, 6, -1, 3, 20, -3, 20]),
            *bow("red"),
        ],
        hat=[
            ("poly", "black", [-11, -13, -11.8, -28.4, 0, -29.4, 11.8, -28.4, 11, -13]),
            ("poly", "main", [-11.2, -13, -11.4, -17, 11.4, -17, 11.2, -13]),
            ("oval", "black", 0, -12.4, 17.6, 2.2),
            ("line", "dark+", 0.9, [-7.6, -19, -8, -27]),
        ],
        main=("red", "purple", "blue"),
        tool=[
            ("line", "black", 1.9, [-4, 20, 2, -10]),
            ("line", "white", 1.9, [1.4, -7, 2.2, -11]),
            *stars("yellow", 2.6, -17, 7),
            *stars("gold", -4, -25, 3),
            *stars("gold", 7, -28, 2.4),
        ],
    ),
    "cleaner": Outfit(
        [*torso("main"), *apron("white"), ("m_line", "white", 1, [16, 5, 22, 8])],
        main=("teal", (30, 160, 150), (20, 130, 150)),
        hat=[*soft_cap("main", 6), ("line", "white", 0.9, [-13, -13.2, 0, -14.8, 13, -13.2])],
        tool=[
            ("line", "wood", 1.6, [4, -30, 1, 0]),
            ("poly", "straw", [-2, 0, 4, 0, 8, 14, -8, 14]),
            ("line", "red", 1.4, [-3.4, 3.4, 5.2, 3.4]),
            *[("line", "tan", 0.6, [1, 4, x, 14]) for x in (-5, -2, 1, 4)],
            ("oval", "yellow", 2.6, -10, 3, 3.4),
        ],
    ),
}
PLAIN = [
    [*torso("main")],
    [*torso("main"), *[("line", "trim", 1.6, [-h, y, h, y]) for y, h in ((9, 24), (13.5, 25), (18, 26))]],
    [*torso("main"), *collar("main+"), ("line", "main-", 0.6, [0, 4, 0, 20])],
    [*torso("main", False), ("poly", "main+", [-7.4, -4, 7.4, -4, 8.4, 3, 0, 5.4, -8.4, 3])],
    coat("main", "trim"),
]
PLAIN_COLOURS = (
    "wine",
    "blue",
    "green",
    "grey",
    "dark",
    "purple",
    "teal",
    "tan",
    "orange",
    "pink",
    "denim",
    "cream",
    "sky",
    "olive",
)
OUTFITS["person"] = Outfit(PLAIN[0], main=PLAIN_COLOURS, trim=("white", "cream", "dark", "grey"))


def _pick(colours, rng):
    choice = colours[int(rng.integers(len(colours)))]
    if isinstance(choice, str):
        shade = {"+": 1.25, "-": 0.75}.get(choice[-1], 1.0)
        choice = tuple(shade * v for v in PALETTE[choice.rstrip("+-")])
    return jitter(choice, rng, 7)


def dress(occupation, rng):
    """The outfit of an occupation with its colours drawn from rng."""
    base = OUTFITS[occupation]
    colours = {"main": _pick(base.main, rng), "trim": _pick(base.trim, rng)}
    clothes = PLAIN[int(rng.integers(len(PLAIN)))] if occupation == "person" else base.clothes
    return Outfit(clothes, base.hat, base.tool, behind=base.behind, colours=colours)
