"""Things that people hold outdoors, on the farm, in a workshop, in sport and on the way, as tables of shapes."""

import numpy as np

from fairnb.miniworld.draw.parts import scatter, stars, straight
from fairnb.miniworld.draw.pen import circle

SPOKES = np.arange(6) * np.pi / 3
TOOLS = {
    "axe": straight("wood", [("poly", None, [-1, -20, 9, -24, 9, -8, -1, -12])], "silver"),
    "shovel": straight("wood", [("blob", None, [-6, -26, 6, -26, 6, -14, 0, -8, -6, -14])], "silver"),
    "rake": straight(
        "wood",
        [("line", None, 1.8, [-8, -14, 8, -14]), *[("line", None, 1.2, [x, -14, x, -24]) for x in range(-8, 9, 4)]],
    ),
    "hammer": straight("wood", [("box", None, -8, -22, 6, -14), ("poly", None, [6, -22, 10, -18, 6, -14])], "dark"),
    "drill": [
        ("box", "yellow", -8, -8, 5, 1),
        ("poly", "dark", [-7, 1, -1, 1, 0, 14, -6, 14]),
        ("box", "dark", -9, 14, 3, 19),
        ("box", "grey", 5, -6, 8, -1),
        ("line", "silver", 1.3, [8, -3.5, 11, -3.5]),
    ],
    "paint roller": [
        ("box", "sky", -9, -24, 9, -15),
        ("line", "grey", 1.4, [9, -19, 11, -19, 11, -10, 0, -8, 0, 4]),
        ("box", "red", -2, 4, 2, 20),
    ],
    "ladder": [
        ("m_line", "wood", 1.8, [6, 22, 5, -28]),
        *[("line", "wood+", 1.5, [-6, y, 6, y]) for y in range(-24, 22, 7)],
    ],
    "water tap": [
        ("line", "silver", 4, [8, -8, -4, -8, -4, 4]),
        ("box", "silver-", 4, -12, 9, -3),
        ("line", "red", 2.2, [-7, -17, 5, -17]),
        ("line", "silver", 2, [-1, -16, -1, -8]),
        ("blob", "sky", [-4, 6, -7, 14, -4, 18, -1, 14]),
    ],
    "chainsaw": [
        ("box", "orange", -9, 2, 7, 15),
        ("arc", "dark", 1.8, -1, 2, 6, 6, 180, 360),
        ("blob", "silver", [-3, 2, -2, -26, 2, -29, 6, -26, 6, 2]),
        ("line", "dark", 0.9, [-3, 1, -2, -26, 2, -29, 6, -26, 6, 1]),
    ],
    "watering can": [
        ("box", "green", -7, -2, 6, 14),
        ("poly", "green", [6, 8, 11, -8, 12.6, -7, 6, 13]),
        ("arc", "green-", 1.8, -7, 5, 5, 7, 90, 270),
        ("poly", "sky", [9, -9, 14, -14, 15, -6]),
    ],
    "wheat": [
        *[("line", "straw", 1, [0, 22, x, -8]) for x in (-7, -3, 1, 5, 9)],
        *[("oval", "gold", x * 1.1, y, 1.7, 3) for x in (-7, -3, 1, 5, 9) for y in (-10, -15, -20)],
        ("box", "red", -3, 6, 4, 9),
    ],
    "egg basket": [
        ("arc", "brown", 1.6, 0, 4, 8, 16, 180, 360),
        *scatter("oval", ("white", "cream"), [(-6, 2), (0, 0), (6, 2), (-3, -3), (3, -3)], 3, 3.8),
        ("poly", "brown", [-10, 3, 10, 3, 7, 17, -7, 17]),
        ("line", "tan", 1, [-9, 8, 9, 8]),
        ("line", "tan", 1, [-8, 13, 8, 13]),
    ],
    "milk can": [
        ("blob", "silver", [-9, 20, -9, 0, -4, -8, 4, -8, 9, 0, 9, 20]),
        ("box", "silver-", -5, -13, 5, -7),
        ("box", "silver+", -6, -16, 6, -12),
        ("line", "grey", 1, [-8.6, 4, 8.6, 4]),
        ("oval", "sky", 0, 12, 4, 4),
    ],
    "beehive": [
        *[("oval", "gold" if i % 2 else "gold-", 0, 16 - 7 * i, 10 - 1.6 * i, 5) for i in range(5)],
        ("oval", "black", 0, 15, 2.6, 3.4),
        *scatter("oval", ("black",), [(-9, -14), (7, -20), (9, -6)], 1.6, 1.2),
    ],
    "horseshoe": [
        ("arc", "silver", 4.2, 0, 0, 7.6, 11, -50, 230),
        *scatter("oval", ("black",), [(0, 11), (-7, 3), (7, 3)], 1, 1),
    ],
    "dog": [
        ("blob", "brown", [-7, 22, -8, 6, 0, 1, 8, 6, 7, 22]),
        ("oval", "wood", 0, -4, 7, 7.4),
        ("m_blob", "brown-", [5, -9, 10, -8, 10, 4, 6, 0]),
        ("oval", "cream", 0, -0.6, 3.6, 3),
        ("oval", "black", 0, -2, 1.7, 1.3),
        ("m_oval", "black", 3, -6, 1, 1.2),
        ("line", "red", 1.6, [-5.6, 4, 5.6, 4]),
    ],
    "cat": [
        ("blob", "grey", [-7, 22, -7, 6, 0, 1, 7, 6, 7, 22]),
        ("line", "grey", 2.4, [6, 18, 11, 10, 10, 2]),
        ("m_poly", "grey", [1, -10, 7, -14, 7, -4]),
        ("oval", "grey", 0, -4, 7, 6.4),
        ("m_oval", "lime", 3, -5, 1.5, 1.7),
        ("poly", "pink", [-1.4, -2, 1.4, -2, 0, 0]),
        ("oval", "white", 0, 12, 4, 6),
    ],
    "parrot": [
        ("blob", "green", [-5, -14, 3, -16, 8, -6, 6, 12, 0, 20, -5, 6]),
        ("blob", "blue", [3, -6, 9, 0, 6, 14, 2, 8]),
        ("oval", "red", -1, -15, 6, 6),
        ("poly", "yellow", [-6, -16, -11, -12, -6, -10]),
        ("oval", "white", -3, -16, 1.8, 1.8),
        ("oval", "black", -3, -16, 0.9, 0.9),
        ("line", "red", 2, [1, 16, 3, 26]),
    ],
    "net": [
        ("line", "wood", 1.6, [-4, 22, 0, -6]),
        ("blob", "sky+", [-9, -14, 9, -14, 6, 2, 0, 6, -6, 2]),
        *[("line", "navy", 0.5, [x, -14, x * 0.5, 4]) for x in (-6, -2, 2, 6)],
        *[("line", "navy", 0.5, [-8, y, 8, y]) for y in (-10, -6, -2)],
        ("arc", "brown", 1.6, 0, -15, 9.4, 4),
    ],
    "anchor": [
        ("line", "navy", 2.4, [0, -14, 0, 16]),
        ("arc", "navy", 2.6, 0, 4, 9, 12, 10, 170),
        ("line", "navy", 2, [-6, -8, 6, -8]),
        ("arc", "navy", 1.8, 0, -18, 3.6, 3.8),
        ("m_poly", "navy", [6, 4, 12, 2, 10, 10]),
        ("line", "silver", 0.6, [0, -12, 0, 14]),
    ],
    "oar": [
        ("line", "wood", 2, [0, 22, 0, -10]),
        ("blob", "red", [-4, -10, -5, -28, 0, -32, 5, -28, 4, -10]),
        ("line", "white", 1.6, [-4.6, -20, 4.6, -20]),
    ],
    "rope": [
        *[("arc", "tan", 2.6, 0, 2, r, r * 1.25) for r in (8.4, 4.8)],
        ("arc", "brown", 0.7, 0, 2, 6.6, 8.2),
        ("line", "tan", 2.6, [8, 4, 5, 20]),
        ("box", "brown", -10, -2, -5, 6),
    ],
    "map": [
        ("poly", "paper", [-10, -16, -4, -13, 3, -16, 9, -13, 9, 13, 3, 10, -4, 13, -10, 10]),
        ("blob", "green", [-8, -8, -2, -10, 2, -4, -2, 2, -8, 0]),
        ("blob", "sky", [3, 0, 8, -4, 8, 8, 2, 8]),
        ("line", "red", 1.2, [-6, 7, -1, 4, 2, -6, 6, -9]),
        ("line", "tan", 0.6, [-4, -13, -4, 13]),
        ("line", "tan", 0.6, [3, -16, 3, 10]),
    ],
    "compass": [
        ("oval", "gold", 0, 0, 10, 11),
        ("oval", "paper", 0, 0, 8, 9),
        ("poly", "red", [-2, 0, 0, -8, 2, 0]),
        ("poly", "navy", [-2, 0, 0, 8, 2, 0]),
        ("arc", "gold", 1.6, 0, -14, 3, 3),
    ],
    "binoculars": [
        ("m_poly", "black", [1, -6, 6, -6, 10, 12, 1, 12]),
        ("m_box", "dark", 1.6, -12, 6, -6),
        ("m_oval", "sky", 5.4, 12, 4.2, 2.4),
        ("box", "grey", -2, -3, 2, 4),
    ],
    "flag": [
        ("line", "wood", 1.6, [-6, 22, -6, -30]),
        ("poly", "main", [-6, -30, 10, -26, 4, -20, 10, -13, -6, -11]),
        ("oval", "gold", -6, -31, 1.8, 1.8),
    ],
    "whistle": [
        ("oval", "main", -2, 2, 7, 7),
        ("box", "main", -2, -5, 10, 0),
        ("oval", "black", -2, 2, 2.8, 2.8),
        ("line", "dark", 1.2, [-6, -4, -9, -14, -2, -24]),
    ],
    "ball": [
        ("oval", "white", 0, 4, 10, 10),
        ("poly", "black", circle(0, 4, 3.8, 3.8, 18, 378, 6)),
        *[
            ("oval", "black", 9 * np.cos(a), 4 + 9 * np.sin(a), 2.4, 2.4)
            for a in np.arange(5) * 2 * np.pi / 5 - np.pi / 2
        ],
    ],
    "racket": [
        ("line", "dark", 2.2, [0, 22, 0, -2]),
        ("oval", "lime+", 0, -14, 8, 11),
        *[("line", "dark", 0.5, [x, -23, x, -5]) for x in (-4, 0, 4)],
        *[("line", "dark", 0.5, [-7.4, y, 7.4, y]) for y in (-19, -14, -9)],
        ("arc", "red", 1.8, 0, -14, 8, 11),
        ("oval", "yellow", 6, 6, 3.2, 3.2),
    ],
    "dumbbell": [
        ("line", "silver", 2.2, [0, -12, 0, 14]),
        ("box", "black", -8, -17, 8, -11),
        ("box", "dark", -5, -21, 5, -17),
        ("box", "black", -8, 12, 8, 18),
        ("box", "dark", -5, 18, 5, 22),
    ],
    "stopwatch": [
        ("box", "silver", -2, -13, 2, -8),
        ("oval", "dark", 0, 2, 10, 10.6),
        ("oval", "white", 0, 2, 8, 8.6),
        ("line", "red", 1.4, [0, 2, 4, -4]),
        ("oval", "dark", 0, 2, 1.4, 1.4),
        ("line", "dark", 1, [0, -5, 0, -3]),
    ],
    "medal": [
        ("m_poly", "blue", [0, 2, 6, -24, 10, -24, 4, 6]),
        ("line", "white", 1, [-4, -8, 4, -8]),
        ("oval", "gold", 0, 8, 7.6, 7.6),
        *stars("gold-", 0, 8, 5),
    ],
    "skis": [
        ("blob", "red", [-6, 22, -6, -26, -4, -31, -2, -26, -2, 22]),
        ("blob", "yellow", [2, 22, 2, -26, 4, -31, 6, -26, 6, 22]),
        ("box", "dark", -7, 2, -1, 7),
        ("box", "dark", 1, 2, 7, 7),
    ],
    "surfboard": [
        ("blob", "cream", [-8, 22, -9, -6, -4, -26, 0, -32, 4, -26, 9, -6, 8, 22]),
        ("poly", "orange", [-8.4, -6, 8.4, -10, 8.4, -4, -8.4, 0]),
        ("line", "blue", 0.9, [0, -30, 0, 22]),
    ],
    "bicycle wheel": [
        ("arc", "black", 2.6, 0, 0, 10, 14),
        *[("line", "silver", 0.7, [0, 0, 9 * np.cos(a), 13 * np.sin(a)]) for a in (*SPOKES, *(SPOKES + 0.52))],
        ("oval", "red", 0, 0, 2, 2.4),
    ],
    "tyre": [
        ("oval", "black", 0, 2, 11, 15),
        ("oval", "silver", 0, 2, 6, 8.4),
        ("oval", "dark", 0, 2, 2, 2.8),
        *scatter("oval", ("dark",), [(-3.4, -2), (3.4, -2), (0, 7)], 1, 1),
    ],
    "steering wheel": [
        ("arc", "black", 3, 0, 2, 9.6, 12),
        ("line", "dark", 2.6, [-9, 2, 9, 2]),
        ("line", "dark", 2.6, [0, 2, 0, 13]),
        ("oval", "silver", 0, 2, 3.2, 3.6),
    ],
    "traffic cone": [
        ("poly", "orange", [-2, -22, 2, -22, 9, 16, -9, 16]),
        ("poly", "white", [-4, -11, 4, -11, 5.6, -3, -5.6, -3]),
        ("poly", "white", [-7, 5, 7, 5, 8, 10, -8, 10]),
        ("box", "orange-", -11, 16, 11, 21),
    ],
    "stop sign": [
        ("line", "silver", 1.8, [0, 22, 0, -4]),
        ("poly", "white", circle(0, -14, 11, 11.6, 22.5, 382.5, 9)),
        ("poly", "red", circle(0, -14, 9.6, 10.2, 22.5, 382.5, 9)),
        ("box", "white", -6, -16, 6, -12),
    ],
    "lantern": [
        ("arc", "dark", 1.4, 0, -10, 5, 8, 180, 360),
        ("poly", "dark", [-7, -9, 0, -14, 7, -9]),
        ("box", "yellow+", -6, -9, 6, 10),
        ("poly", "orange", [-2, 6, 0, -4, 2, 6]),
        ("m_line", "dark", 1, [6, -9, 6, 10]),
        ("box", "dark", -7.4, 10, 7.4, 14),
    ],
    "torch": [
        ("poly", "yellow+", [-4, -8, 4, -8, 11, -32, -11, -32]),
        ("poly", "grey", [-5.4, -8, 5.4, -8, 3, -1, -3, -1]),
        ("box", "dark", -3, -1, 3, 18),
        ("oval", "red", 0, 5, 1.4, 1.4),
    ],
    "parcel": [
        ("box", "tan", -10, -8, 10, 16),
        ("box", "cream", -2, -8, 2, 16),
        ("line", "brown", 0.8, [-10, -8, 10, -8, 10, 16, -10, 16, -10, -8]),
        ("box", "white", 3.4, 6, 9, 12),
    ],
}
