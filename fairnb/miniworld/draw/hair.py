"""Hair and earrings: behind the head and in front of it."""

import numpy as np

from fairnb.miniworld.draw.pen import circle, glow, spot, tint

LONG = {"bob": 18, "long": 30, "wavy": 27}


def _strands(pen, traits, rng, curves):
    """Lighter and darker strands along the given curves."""
    for points in curves:
        pen.line(tint(traits.hair, rng.uniform(-0.22, 0.2)), rng.uniform(0.4, 0.8), points)


def hair_back(pen, traits, rng):
    """Hair behind the head and the neck."""
    w, shade = traits.width, tint(traits.hair, -0.22)
    if traits.cut in LONG:
        end, wide = LONG[traits.cut] + rng.uniform(-2, 2), w + rng.uniform(3.4, 5)
        pen.blob(
            shade,
            [
                (0, -20),
                (w - 2, -15.4),
                (w + 1.4, -6),
                (wide + 0.6, end * 0.55),
                (wide - 0.6, end),
                (0, end + 1),
                (0.6 - wide, end),
                (-wide - 0.6, end * 0.55),
                (-w - 1.4, -6),
                (2 - w, -15.4),
            ],
        )
        _strands(
            pen,
            traits,
            rng,
            [
                [(x, -4), (x * 1.06, end * 0.5), (x * 0.97, end - 0.5)]
                for x in np.linspace(-wide, wide, 15)
                if abs(x) > w * 0.7
            ],
        )
    if traits.cut == "bun":
        pen.oval(shade, 0, -20.5, 5, 4.2)
        pen.arc(tint(traits.hair, 0.15), 0.5, 0, -20.5, 3.2, 2.6, 180, 320)
    if traits.cut == "curly":
        for angle in np.linspace(165, 375, 17):
            (x, y), r = circle(0, -2.5, w + 1.4, 17, angle, angle, 1)[0], rng.uniform(2.8, 3.8)
            pen.oval(tint(traits.hair, rng.uniform(-0.25, 0.06)), x, y, r, r)


def _hairline(traits, x):
    """Height of the hairline over the face at x (array)."""
    u, p = x / traits.width, traits.side * 0.35
    if traits.cut == "receding":
        return -16.2 + 1.6 * np.cos(u * 7) + 7.0 * np.abs(u) ** 3
    if traits.cut in ("crop", "curly"):
        return -12.2 + 5.5 * np.abs(u) ** 3
    shape = {
        "side": -8.6 - 4.2 * np.exp(-(((u - p) / 0.3) ** 2)),
        "centre": -8.2 - 5.2 * np.exp(-((u / 0.3) ** 2)),
        "fringe": -8.4 + 0.35 * np.cos(u * 21),
        "swept": -11.4 + 3.2 * u * traits.side,
    }
    return shape[traits.fringe] - (2.2 if traits.cut in ("short", "bun") else 0.4) * (1 - u**2) + 2.5 * u**4


def hair_front(pen, traits, rng):
    """Hair over the skull, the fringe and the sides."""
    if traits.cut == "bald":
        return
    w, thick = traits.width, {"crop": 0.9, "receding": 0.6}.get(traits.cut, 2.2)
    low = {"crop": -2.0, "receding": 1.5}.get(traits.cut, 0.5)
    outer = circle(0, -2, w + thick * 0.6, 16.2 + thick, 180, 360, 25)
    x = np.linspace(w - 0.9, 0.9 - w, 25)
    inner = np.stack([x, _hairline(traits, x)], -1)
    side = [(w + 0.5, low), (w - 0.7, low - 1.5)]
    pen.poly(traits.hair, np.concatenate([outer, side, inner, [(-a, b) for a, b in side[::-1]]]))
    if traits.cut in LONG:
        end = LONG[traits.cut] - 1
        for s in (-1, 1):
            pen.blob(
                tint(traits.hair, -0.05),
                [
                    (s * (w - 1.4), -8),
                    (s * (w + 1.2), -9),
                    (s * (w + 3.4), 4),
                    (s * (w + 4), end - 3),
                    (s * (w + 0.6), end),
                    (s * (w - 6), end - 1.5),
                    (s * (w - 3.5), 13),
                    (s * (w - 0.3), 5),
                ],
            )
    root = traits.side * w * 0.3
    tops = [
        [
            (root * 0.6 + a * 0.25, -17.5),
            (a * 0.7, -16 + abs(a) * 0.2),
            (a, float(_hairline(traits, np.array(a))) - 0.6),
        ]
        for a in np.linspace(-w + 1.5, w - 1.5, 13)
    ]
    _strands(pen, traits, rng, tops)
    sheen = 0.22 * spot(pen.local(), traits.side * 5, -15.4, 5, 1.4)
    glow(pen.img, sheen, tint(traits.hair, 0.55))


def earrings(pen, traits):
    """Small earrings on some."""
    if traits.earring:
        for s in (-1, 1):
            pen.oval((246, 208, 90), s * (traits.width + 0.6), 5.2, 0.9, 1.1)
