"""Outfits of occupations that work indoors, as tables of shapes."""

from fairnb.miniworld.draw.parts import (
    TORSO,
    Outfit,
    apron,
    books,
    bow,
    coat,
    collar,
    cross,
    scatter,
    soft_cap,
    stars,
    straight,
    torso,
    visor_cap,
)
from fairnb.miniworld.draw.pen import circle

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
            *scatter("oval", ("black",), PATCHES[1:7:2], 1.8, 1.2),
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
    "painter": Outfit(
        [
            *torso((226, 226, 232)),
            *scatter("oval", ("red", "blue", "yellow", "green", "purple"), PATCHES, 1.9, 1.6),
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
            *scatter(
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
            *scatter("oval", ("gold", "white", "pink+"), [(x, 5 + (x * 7) % 13) for x in range(-22, 24, 3)], 0.9, 0.9),
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
    "dancer": Outfit(
        [
            ("poly", "skin", TORSO),
            (
                "poly",
                "main",
                [-24, 6, -13, 6, -10, 1, -7.8, 0.6, -7, 5, 0, 8.4, 13, 2.2, 17, 3, 10, 11, 12, 20, -13, 20, -11, 12],
            ),
            *scatter(
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
