"""Clothes that occupations share, as tables of shapes: "main" is the garment, "trim" its accent."""

from fairnb.miniworld.draw.parts import TORSO, apron, bow, coat, collar, dungarees, scatter, tie, torso

SHIRT = [("poly", "white", [-6, -1, 6, -1, 0, 13]), *collar("white")]
V_NECK = [("poly", "skin", [-5, -1, 5, -1, 0, 8])]
BANDS = ((5, 20), (9.5, 24.4), (14, 25.4), (18.5, 26.6))


def bands(colour, width=1.8):
    """Horizontal stripes over the chest."""
    return [("line", colour, width, [-half, y, half, y]) for y, half in BANDS]


CLOTHES = {
    "scrubs": [*torso("main", False), *V_NECK, ("m_line", "trim", 1, [5, -1, 0, 8]), ("box", "main-", 7, 10, 14, 17)],
    "lab coat": coat("white", "main"),
    "suit": [*coat("main", "white"), *tie("trim"), *collar("white"), ("box", "trim", 11, 9, 16, 11)],
    "bow tie suit": [*coat("main", "white"), *bow("trim"), ("oval", "black", 0, 12, 0.9, 0.9)],
    "waistcoat": [
        *torso("white", False),
        ("m_poly", "main", [8, 0.6, 12, 2, 14, 20, 0, 20, 0, 12]),
        *collar("white"),
        *scatter("oval", ("trim",), [(0, 15), (0, 19)], 1, 1),
        *tie("trim"),
        ("m_poly", "main", [3, 9, 14, 9, 14, 20, 0, 20, 0, 14]),
    ],
    "braces": [
        *torso("main"),
        *collar("main"),
        ("m_line", "trim", 2, [10, 1, 8, 20]),
        ("line", "main-", 0.7, [0, 5, 0, 20]),
    ],
    "plaid shirt": [
        *torso("main", False),
        *[("line", "trim", 1.6, [x, 1 + abs(x) / 5, x, 20]) for x in (-20, -13, -6, 6, 13, 20)],
        *bands("trim", 1.2),
        *collar("main"),
    ],
    "polo shirt": [
        *torso("main", False),
        ("poly", "trim", [-5, -1, 5, -1, 1.4, 10, -1.4, 10]),
        *collar("trim"),
        ("box", "trim", 9, 9, 13, 11),
    ],
    "striped shirt": [*torso("main"), *bands("trim", 2.4)],
    "turtleneck": [
        *torso("main", False),
        ("poly", "main+", [-6.8, -4.6, 6.8, -4.6, 7.8, 2.4, 0, 4.4, -7.8, 2.4]),
        *[("line", "main-", 0.5, [x, -4, x, 3]) for x in (-4, 0, 4)],
    ],
    "jumper": [
        *torso("main"),
        *[("poly", "trim", [x, 12, x + 4, 8, x + 8, 12, x + 4, 16]) for x in (-24, -16, -8, 0, 8, 16)],
        ("line", "trim", 1.3, [-23, 6, 23, 6]),
    ],
    "cardigan": [
        *torso("main", False),
        ("poly", "trim", [-6, -1, 6, -1, 4, 20, -4, 20]),
        ("poly", "skin", [-4.4, -1, 4.4, -1, 0, 4]),
        ("m_line", "main-", 1.6, [6.4, -1, 4.6, 20]),
        ("m_box", "main-", 9, 14, 17, 15.4),
    ],
    "hoodie": [
        *torso("main"),
        ("m_blob", "main-", [4, -4, 11, -3, 12, 4, 4, 7]),
        ("m_line", "trim", 1.2, [3, 5, 3.6, 13]),
        ("poly", "main-", [-9, 14, 9, 14, 12, 20, -12, 20]),
    ],
    "blouse": [
        *torso("main", False),
        *V_NECK,
        ("m_poly", "trim", [0, 7, 7, 3, 7, 11]),
        ("oval", "trim-", 0, 7, 1.8, 1.8),
        ("m_poly", "trim", [0, 8, 4, 17, 1, 17]),
    ],
    "collared dress": [
        *torso("main", False),
        ("m_blob", "trim", [0, 1, 5, -3, 11, 2, 8, 8, 2, 7]),
        *scatter("oval", ("trim",), [(0, 11), (0, 15), (0, 19)], 1.1, 1.1),
        ("m_line", "main-", 0.8, [12, 6, 10, 20]),
    ],
    "evening gown": [
        ("poly", "skin", TORSO),
        ("poly", "main", [-15, 8, -8, 5.4, 0, 9, 8, 5.4, 15, 8, 17, 20, -17, 20]),
        ("m_line", "main", 1.4, [12, 1.6, 12, 8]),
        *scatter("oval", ("trim",), [(-5, 3.6), (-2.6, 5), (0, 5.6), (2.6, 5), (5, 3.6)], 1, 1),
    ],
    "robe": [
        ("poly", "main", [-7, -1, -20, 3, -30, 10, -31, 20, 31, 20, 30, 10, 20, 3, 7, -1]),
        ("m_line", "main+", 1, [18, 6, 21, 20]),
        ("m_poly", "trim", [4, -2, 9, 0, 8, 20, 3, 20]),
        ("poly", "main-", [-3.4, 1, 3.4, 1, 3, 20, -3, 20]),
    ],
    "cassock": [
        *torso("main", False),
        ("poly", "trim", [-7, -3, 7, -3, 7, 1, -7, 1]),
        ("box", "white", -2.6, -3, 2.6, 1.4),
        *scatter("oval", ("trim",), [(0, y) for y in (5, 9, 13, 17)], 1.1, 1.1),
        ("m_line", "main+", 0.8, [17, 5, 18, 20]),
    ],
    "tunic": [
        *torso("main", False),
        ("poly", "trim", [-7.4, -3, 7.4, -3, 6, 3, -6, 3]),
        ("poly", "trim", [4, 2, 8, 2, 8, 20, 4, 20]),
        *scatter("oval", ("main-",), [(6, 7), (6, 12), (6, 17)], 1, 1),
    ],
    "wrap jacket": [
        *torso("main", False),
        ("poly", "skin", [-5, -1, 5, -1, -1, 9]),
        ("line", "trim", 2.4, [6.4, -2, -4, 13, -6, 20]),
        ("line", "main-", 2, [-6.4, -2, 0, 8]),
        ("box", "trim", -25, 16, 25, 19),
    ],
    "striped apron": [
        *torso("white"),
        *apron("main"),
        *[("line", "trim", 1.6, [x, 7, x * 1.25, 20]) for x in (-7, -2.4, 2.4, 7)],
    ],
    "long apron": [
        *torso("trim"),
        *collar("trim"),
        *apron("main"),
        ("poly", "main", [-16, 13, 16, 13, 18, 20, -18, 20]),
        ("box", "main-", -5, 12, 5, 17),
    ],
    "overalls": [*torso("trim"), *dungarees("main"), ("m_line", "main", 3.4, [8.4, 1, 8, 10])],
    "jumpsuit": [
        *torso("main", False),
        *collar("main+"),
        ("line", "trim", 1.8, [0, 3, 0, 20]),
        ("m_box", "main-", 6, 8, 13, 10),
        ("m_line", "trim", 1.6, [19, 4, 23, 10]),
    ],
    "safety vest": [
        *torso("dark"),
        ("m_poly", "main", [7, 0, 15, 2.6, 16, 20, 0, 20, 0, 9]),
        ("m_line", "trim", 2.2, [11, 1.6, 11, 20]),
        ("line", "silver", 2.4, [-16, 13, 16, 13]),
    ],
    "leather jacket": [
        *torso("main", False),
        ("poly", "trim", [-5, -1, 5, -1, 2, 20, -4, 20]),
        ("m_poly", "main-", [4.6, -2, 11, 1, 9, 9, 3, 6]),
        ("line", "silver", 1, [3.4, 6, 1, 20]),
        ("m_line", "main+", 1, [20, 5, 24, 13]),
    ],
    "uniform": [
        *torso("main", False),
        *collar("main+"),
        ("line", "main-", 0.8, [0, 4, 0, 20]),
        ("m_poly", "trim", [14, 1, 23, 5, 21.6, 7.6, 13.4, 4]),
        ("m_box", "main-", 5, 8, 13, 14),
        *scatter("oval", ("trim",), [(0, 7), (0, 12), (0, 17)], 1, 1),
    ],
    "dress uniform": [
        *torso("main", False),
        ("poly", "trim", [-7, -3, 7, -3, 6, 1.6, -6, 1.6]),
        ("m_oval", "trim", 20, 5.4, 5, 2.2),
        *[("line", "trim", 1.3, [-8, y, 8, y]) for y in (6, 10, 14, 18)],
        *scatter("oval", ("red", "gold", "blue"), [(11, 9), (14.6, 9), (18, 9)], 1.5, 1.8),
    ],
    "jersey": [
        *torso("main"),
        ("m_line", "trim", 2.6, [13, 2, 24, 12]),
        ("line", "trim", 2.4, [-4, 9, 4, 9, 0, 19]),
        ("m_line", "trim", 1.2, [6, -0.6, 0, 3.6]),
    ],
    "tracksuit": [
        *torso("main", False),
        ("poly", "trim", [-6.4, -3, 6.4, -3, 5, 3, -5, 3]),
        ("line", "trim", 1, [0, 3, 0, 20]),
        ("m_line", "trim", 1.3, [12, 2, 22, 12]),
        ("m_line", "trim", 1.3, [9.6, 3.4, 19, 15]),
    ],
    "tank top": [
        ("poly", "skin", TORSO),
        ("poly", "main", [-13, 1.8, -8, 0.8, -6, 7, 0, 9, 6, 7, 8, 0.8, 13, 1.8, 13.4, 9, 16, 20, -16, 20, -13.4, 9]),
        ("m_line", "trim", 1.2, [13, 2, 13.4, 9, 16, 20]),
        ("line", "trim", 1.2, [-6, 7, 0, 9, 6, 7]),
    ],
    "wetsuit": [
        *torso("main", False),
        ("poly", "main", [-6.6, -4, 6.6, -4, 7.6, 2, -7.6, 2]),
        ("m_poly", "trim", [15, 2.4, 24.5, 8, 26, 20, 17, 20, 16, 9]),
        ("line", "trim", 1.1, [0, 0, 0, 20]),
    ],
    "waders": [
        *torso("trim"),
        *collar("trim-"),
        ("poly", "main", [-13, 8, 13, 8, 17, 20, -17, 20]),
        ("m_poly", "main-", [8, 0.8, 11, 1.4, 12, 9, 8, 9]),
        ("box", "main-", -6, 12, 6, 18),
    ],
    "poncho": [
        ("poly", "main", [-6, -2, -20, 5, -32, 20, 32, 20, 20, 5, 6, -2, 0, 4]),
        ("line", "trim", 2, [-22, 9, 0, 14, 22, 9]),
        ("line", "trim", 1.4, [-27, 15, 0, 20, 27, 15]),
        ("m_line", "trim", 1.2, [5, -1, 0, 5]),
    ],
    "raincoat": [
        *torso("main", False),
        ("m_blob", "main+", [3, -3, 12, -2, 10, 5, 3, 5]),
        ("line", "trim", 1.4, [2, 4, 2, 20]),
        *scatter("oval", ("trim",), [(5.6, 9), (5.6, 15)], 1.2, 1.2),
        ("line", "main-", 2.2, [-25, 17, 25, 17]),
    ],
    "fur coat": [
        *torso("main", False),
        *scatter("oval", ("main-", "main+"), [(x, 9 + (x * 5) % 9) for x in range(-22, 24, 4)], 2.4, 2.4),
        *scatter("oval", ("trim",), [(-11, 0), (-8, 4), (-4.6, 8), (0, 10), (4.6, 8), (8, 4), (11, 0)], 3.8, 3.8),
    ],
    "padded vest": [
        *torso("trim", False),
        ("m_poly", "main", [5, -2, 15, 2, 16, 20, 0.6, 20, 0.6, 2]),
        *[("m_line", "main-", 0.9, [0.6, y, 16, y]) for y in (6, 11, 16)],
        ("poly", "main-", [-7, -4, 7, -4, 7, 1, -7, 1]),
    ],
}
