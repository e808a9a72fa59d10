"""Outfits of occupations that work outdoors or in uniform, as tables of shapes."""

import numpy as np

from fairnb.miniworld.draw.parts import (
    TORSO,
    Outfit,
    apron,
    bolt,
    brimmed,
    collar,
    cross,
    dungarees,
    hard_hat,
    peaked,
    scatter,
    stars,
    straight,
    tie,
    torso,
    visor_cap,
)
from fairnb.miniworld.draw.pen import circle

PATCHES = ((-18, 7), (-10, 12), (-21, 15), (12, 8), (20, 12), (9, 16), (-5, 16), (2, 11), (16, 17))
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
OUTFITS = {
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
    "gardener": Outfit(
        [*torso("main"), *apron("green")],
        main=("cream", (230, 214, 190), "lime+"),
        hat=brimmed((112, 150, 84), "cream", 19, 10.5),
        tool=[
            ("poly", (196, 98, 58), [-7, 6, 7, 6, 5, 20, -5, 20]),
            ("box", (214, 112, 68), -8, 3, 8, 7),
            ("line", "green", 1.4, [0, 4, 0, -10]),
            ("m_blob", "green", [0, 2, 5, -5, 7, -3, 4, 2]),
            *scatter(
                "oval",
                ("pink",),
                [(4.2 * np.cos(a), -12 + 4.2 * np.sin(a)) for a in np.arange(6) * np.pi / 3],
                2.6,
                2.6,
            ),
            ("oval", "yellow", 0, -12, 2.6, 2.6),
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
            *scatter("oval", ("moss", "tan-", (50, 50, 40)), PATCHES, 3.6, 2.2),
            *collar("olive"),
            ("poly", (190, 180, 140), [-3, 0, 3, 0, 0, 4]),
        ],
        hat=[
            ("poly", "olive", circle(0, -9.4, 15, 16.6, 180, 360)),
            *scatter(
                "oval",
                ("moss", "tan-", (50, 50, 40)),
                ((-8, -16), (0, -21), (8, -14), (-2, -14), (7, -20), (-11, -11.6)),
                3,
                1.9,
            ),
            ("line", "moss", 1.4, [-15.4, -9.4, 0, -11.6, 15.4, -9.4]),
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
    "miner": Outfit(
        [
            *torso((104, 88, 74)),
            ("m_line", (62, 52, 46), 2.4, [9, 1, 10.4, 20]),
            *scatter("oval", ((56, 48, 44),), PATCHES, 2.4, 1.5),
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
}
