"""Things of medicine, science, office and music that people hold, as tables of shapes."""

import numpy as np

from fairnb.miniworld.draw.parts import scatter
from fairnb.miniworld.draw.pen import circle

TOOLS = {
    "syringe": [
        ("line", "silver", 0.9, [0, -30, 0, -16]),
        ("box", "white", -3.6, -16, 3.6, 8),
        ("box", "red", -2.6, -6, 2.6, 7),
        ("box", "grey", -6, 8, 6, 10),
        ("line", "grey", 1.6, [0, 10, 0, 18]),
        ("box", "grey", -4, 18, 4, 20),
    ],
    "pill bottle": [
        ("box", "orange", -7, -4, 7, 18),
        ("box", "white", -8, -11, 8, -4),
        ("box", "paper", -7, 2, 7, 12),
        ("box", "red", -1.2, 3, 1.2, 11),
        ("box", "red", -4, 5.8, 4, 8.2),
    ],
    "tooth": [
        ("blob", "white", [-8, -12, 0, -9, 8, -12, 9, -2, 6, 16, 3, 4, 0, 2, -3, 4, -6, 16, -9, -2]),
        ("arc", "sky", 1, 0, -6, 5, 3, 20, 160),
    ],
    "x-ray": [
        ("box", "black", -10, -18, 10, 18),
        ("line", "white", 1.4, [0, -15, 0, 15]),
        *[("arc", "silver", 1.2, 0, y, 7, 4, 180, 360) for y in (-6, 0, 6, 12)],
        ("oval", "silver", 0, -12, 3.4, 3.6),
    ],
    "crutch": [
        ("line", "silver", 1.8, [0, 22, 0, 2]),
        ("m_line", "silver", 1.5, [0.5, 6, 4.4, -20]),
        ("box", "dark", -6, -23, 6, -19),
        ("box", "dark", -4, -6, 4, -3.4),
    ],
    "skeleton": [
        ("oval", "cream", 0, -17, 7, 7.6),
        ("box", "cream", -4, -12, 4, -7),
        ("m_oval", "black", 2.8, -17, 1.9, 2.2),
        ("line", "cream", 1.6, [0, -7, 0, 18]),
        *[("line", "cream", 1.5, [-8 + k, -3 + 5 * k, 0, -2 + 5 * k, 8 - k, -3 + 5 * k]) for k in range(4)],
    ],
    "microscope": [
        ("box", "dark", -9, 16, 8, 20),
        ("line", "dark", 3, [5, 17, 8, 4, 3, -8]),
        ("line", "silver", 4.4, [-2, 6, 3, -14]),
        ("line", "black", 3, [3, -15, 5, -22]),
        ("box", "silver", -8, 8, 4, 10.4),
    ],
    "telescope": [
        ("line", "white", 6.4, [-7, 2, 7, -18]),
        ("line", "blue", 7.4, [4, -14, 7.6, -19]),
        ("line", "dark", 3, [-7, 2, -10, 6]),
        ("line", "wood", 1.5, [0, -6, -7, 22]),
        ("line", "wood", 1.5, [0, -6, 7, 22]),
    ],
    "test tube": [
        ("blob", "white", [-8, -18, -3, -18, -3, 12, -5.5, 16, -8, 12]),
        ("blob", "purple", [-7.4, -2, -3.6, -2, -3.6, 12, -5.5, 15, -7.4, 12]),
        ("blob", "white", [3, -18, 8, -18, 8, 12, 5.5, 16, 3, 12]),
        ("blob", "yellow", [3.6, -8, 7.4, -8, 7.4, 12, 5.5, 15, 3.6, 12]),
        ("box", "wood", -11, -4, 11, -1),
        ("box", "wood", -11, 16, 11, 20),
    ],
    "magnifying glass": [
        ("line", "brown", 3.6, [1, 2, 5, 20]),
        ("oval", "dark", -1, -9, 10, 11),
        ("oval", "sky+", -1, -9, 7.8, 8.8),
        ("arc", "white", 1.3, -1, -9, 5.4, 6, 190, 260),
    ],
    "globe": [
        ("line", "wood", 2, [0, 12, 0, 19]),
        ("box", "wood", -7, 18, 7, 21),
        ("arc", "gold", 1.4, 0, 0, 11, 13, -60, 110),
        ("oval", "blue", 0, 0, 9.4, 11.4),
        ("blob", "green", [-6, -7, 0, -9, 2, -3, -3, 1, -7, -2]),
        ("blob", "green", [1, 2, 6, 0, 7, 5, 3, 9]),
    ],
    "molecule": [
        ("line", "dark", 1.6, [-6, 8, 0, -4, 7, 4]),
        ("line", "dark", 1.6, [0, -4, 0, -18]),
        ("oval", "red", 0, -4, 5, 5),
        ("oval", "blue", -6, 9, 4.6, 4.6),
        ("oval", "yellow", 7, 6, 4.6, 4.6),
        ("oval", "green", 0, -18, 4.6, 4.6),
    ],
    "bone": [
        ("line", "cream", 5, [-3, 12, 3, -14]),
        *scatter("oval", ("cream",), [(-6.4, 13), (-1, 16), (1, -18), (6.4, -15)], 4.2, 4.2),
        ("line", "tan", 0.8, [-1, 8, 3, -9]),
    ],
    "calculator": [
        ("box", "dark", -8, -16, 8, 18),
        ("box", "lime+", -6, -13, 6, -6),
        *[
            ("box", "white" if x < 2 else "orange", x - 1.6, y - 1.6, x + 1.6, y + 1.6)
            for x in (-4.6, 0, 4.6)
            for y in (-1, 4, 9, 14)
        ],
    ],
    "laptop": [
        ("box", "dark", -11, -12, 11, 5),
        ("box", "sky", -9.4, -10.4, 9.4, 3.4),
        ("poly", "silver", [-11, 5, 11, 5, 13, 13, -13, 13]),
        ("line", "white", 1, [-7, -6, 1, -6]),
        ("line", "yellow", 1, [-7, -2, 5, -2]),
    ],
    "telephone": [
        ("poly", "red", [-10, 18, -7, 2, 7, 2, 10, 18]),
        ("oval", "white", 0, 10, 4.4, 4.4),
        ("oval", "red-", 0, 10, 1.8, 1.8),
        ("line", "red-", 3.4, [-10, 0, -8, -4, 8, -4, 10, 0]),
    ],
    "camera": [
        ("box", "black", -11, -4, 11, 12),
        ("box", "dark", -4, -8, 5, -4),
        ("oval", "silver", 0, 4, 6.6, 6.6),
        ("oval", "navy", 0, 4, 4.8, 4.8),
        ("oval", "sky+", -1.4, 2.4, 1.5, 1.5),
        ("box", "red", 6.4, -2, 9, 0),
    ],
    "film camera": [
        ("m_oval", "dark", 5, -13, 5, 5.4),
        ("m_oval", "silver", 5, -13, 1.6, 1.8),
        ("box", "black", -9, -8, 6, 8),
        ("poly", "grey", [6, -2, 12, -6, 12, 6, 6, 2]),
        ("m_line", "wood", 1.5, [0, 8, 7, 22]),
    ],
    "radio microphone": [
        ("box", "dark", -2.2, 0, 2.2, 20),
        ("box", "main", -6, -6, 6, 3),
        ("box", "white", -3.4, -4, 3.4, 1),
        ("oval", "grey", 0, -12, 5, 6.4),
        ("line", "silver", 0.8, [-4.6, -12, 4.6, -12]),
    ],
    "pen and paper": [
        ("box", "paper", -9, -14, 8, 16),
        *[("line", "blue", 0.9, [-6, y, 4 - (y % 3), y]) for y in (-9, -5, -1, 3, 7)],
        ("line", "black", 1.8, [0, 8, 9, -8]),
        ("poly", "gold", [-1, 11, -0.4, 7, 2, 9]),
    ],
    "pencil": [
        ("poly", "yellow", [-4, 20, 3, 20, 3, -16, -4, -16]),
        ("poly", "tan", [-4, -16, 3, -16, -0.5, -26]),
        ("poly", "black", [-1.8, -22, 0.8, -22, -0.5, -26]),
        ("line", "orange", 1, [-0.5, -15, -0.5, 15]),
        ("box", "pink", -4, 16, 3, 21),
    ],
    "set square": [
        ("poly", "sky", [-9, 18, 10, 18, -9, -22]),
        ("poly", "paper", [-5, 13, 2, 13, -5, -4]),
        *[("line", "navy", 0.7, [-9, y, -6.6, y]) for y in range(-14, 18, 5)],
    ],
    "gavel": [
        ("line", "wood", 2.2, [4, 14, -2, -6]),
        ("poly", "brown", [-11, -8, 5, -14, 7, -6, -9, 0]),
        ("line", "gold", 1.3, [-7.6, -9.4, -5.6, -1.4]),
        ("line", "gold", 1.3, [1.6, -12.8, 3.6, -4.8]),
        ("box", "brown-", -9, 15, 9, 20),
    ],
    "coins": [
        s
        for x, n in ((-5, 4), (5, 7))
        for i in range(n)
        for s in (("oval", "gold-", x, 17 - 4 * i, 5, 2.4), ("oval", "gold", x, 15.6 - 4 * i, 5, 2.4))
    ],
    "banknote": [
        *[
            s
            for k in (0, 1, 2)
            for s in (
                ("box", "green-", -11 + k, -8 + 6 * k, 10 + k, 5 + 6 * k),
                ("box", "lime+", -10 + k, -7 + 6 * k, 9 + k, 4 + 6 * k),
            )
        ],
        ("oval", "green", 1, 10.5, 3.4, 4),
    ],
    "clock": [
        ("oval", "wood", 0, 0, 11, 12),
        ("oval", "paper", 0, 0, 9, 10),
        ("line", "black", 1.3, [0, 0, 0, -7]),
        ("line", "black", 1.3, [0, 0, 5, 2]),
        ("box", "wood", -4, 12, 4, 18),
    ],
    "newspaper": [
        ("poly", "paper", [-10, -14, 9, -16, 10, 14, -9, 16]),
        ("line", "black", 2.4, [-7, -9.6, 6, -11]),
        ("box", "grey", -7, -5, 0, 4),
        *[("line", "grey", 0.8, [2, y, 7, y - 0.5]) for y in (-5, -2, 1, 4)],
        *[("line", "grey", 0.8, [-7, y, 7, y - 1]) for y in (8, 11)],
    ],
    "stamp": [
        ("oval", "wood", 0, -14, 4.6, 5),
        ("poly", "wood", [-2, -10, 2, -10, 3, 2, -3, 2]),
        ("box", "brown-", -8, 2, 8, 8),
        ("box", "red", -8, 8, 8, 10.4),
        ("box", "paper", -10, 14, 10, 21),
    ],
    "eye chart": [
        ("box", "paper", -9, -22, 9, 16),
        ("box", "black", -4, -19, 4, -12),
        *[("box", "black", x - 1.7, -9, x + 1.7, -5) for x in (-4, 4)],
        *[("box", "black", x - 1.2, -2, x + 1.2, 1) for x in (-5, 0, 5)],
        *[("box", "black", x - 0.8, 5, x + 0.8, 7) for x in (-6, -2, 2, 6)],
    ],
    "plan roll": [
        ("box", "blue", -9, -14, 8, 14),
        ("line", "white", 0.9, [-6, 9, -6, -4, 0, -9, 5, -4, 5, 9, -6, 9]),
        ("box", "white", -2, 2, 2, 9),
        ("box", "sky+", -11, -18, 10, -13),
        ("box", "sky+", -11, 13, 10, 18),
    ],
    "circuit board": [
        ("box", "green", -10, -14, 10, 14),
        ("box", "black", -4, -5, 4, 4),
        *[("line", "gold", 0.8, [-8, y, -4, y]) for y in (-4, 0, 3)],
        *[("line", "gold", 0.8, [4, y, 8, y, 8, y - 6]) for y in (-3, 2)],
        *scatter("oval", ("silver",), [(-7, -10), (7, -11), (-7, 10), (7, 10)], 1.6, 1.6),
    ],
    "robot": [
        ("line", "dark", 1, [0, -14, 0, -20]),
        ("oval", "red", 0, -21, 2, 2),
        ("box", "silver", -7, -14, 7, -3),
        ("m_oval", "sky", 3.2, -9, 2, 2.2),
        ("box", "grey", -9, -1, 9, 15),
        ("box", "yellow", -4, 3, 4, 9),
        ("m_box", "dark", 2, 15, 6, 21),
    ],
    "guitar": [
        ("line", "brown", 2.2, [2, 0, 6, -30]),
        ("box", "dark", 4, -34, 8, -29),
        ("blob", "wood", [-8, 18, -9, 8, -4, 3, -5, -4, 2, -7, 6, -2, 5, 4, 10, 10, 7, 20, 0, 22]),
        ("oval", "black", 1, 4, 2.6, 2.8),
        ("line", "cream", 0.8, [0, 14, 5.6, -28]),
    ],
    "violin": [
        ("line", "black", 1.8, [0, -4, 0, -26]),
        ("blob", "wine", [-6, 16, -6, 9, -3.4, 5, -5, -2, 0, -6, 5, -2, 3.4, 5, 6, 9, 6, 16, 0, 19]),
        ("line", "cream", 0.7, [0, 16, 0, -24]),
        ("line", "tan", 1, [8, 20, 9, -26]),
    ],
    "drum": [
        ("line", "wood", 1.5, [-8, -20, 0, -2]),
        ("line", "wood", 1.5, [8, -20, 0, -2]),
        ("box", "red", -10, 0, 10, 17),
        ("oval", "red-", 0, 17, 10, 3.4),
        ("oval", "white", 0, 0, 10, 3.6),
        *[("line", "gold", 0.9, [x, 4, x + 4, 18]) for x in (-9, -3, 3)],
    ],
    "trumpet": [
        ("poly", "gold", [-6, -24, 9, -28, 4, -14, 0, -12]),
        ("line", "gold", 2, [2, -14, -2, 14]),
        ("arc", "gold", 1.5, 2, 4, 4, 8),
        *[("line", "gold-", 1.5, [4 + k, -3, 4 + k, 3]) for k in (0, 3)],
        ("box", "silver", -4, 14, 0, 18),
    ],
    "flute": [
        ("line", "silver", 3.4, [-6, 20, 6, -28]),
        *[("oval", "dark", -3 + 1.55 * k, 8 - 6 * k, 1, 1) for k in range(5)],
        ("line", "gold", 3.6, [3.6, -18, 4.2, -21]),
    ],
    "piano keys": [
        ("box", "black", -11, -18, 11, 18),
        *[("box", "white", -9, -16 + 7 * k, 9, -10.4 + 7 * k) for k in range(5)],
        *[("box", "black", -9, -11.6 + 7 * k, 1, -8 + 7 * k) for k in range(4)],
    ],
    "baton": [
        ("line", "white", 1.5, [-8, 18, 8, -26]),
        ("oval", "wood", -8, 17, 2.8, 3.4),
        ("box", "paper", -2, 4, 10, 20),
        *[("line", "black", 0.8, [0, y, 8, y]) for y in (8, 11, 14)],
        ("oval", "black", 6, 15, 1.6, 1.4),
    ],
    "record": [
        ("oval", "black", 0, 0, 11, 12.4),
        ("arc", "dark", 0.8, 0, 0, 8, 9.2),
        ("oval", "lime", 0, 0, 4, 4.4),
        ("oval", "white", 0, 0, 1, 1),
        ("poly", "dark+", np.concatenate([circle(0, 0, 10, 11.4, 220, 250, 4), [(0, 0)]])),
    ],
}
