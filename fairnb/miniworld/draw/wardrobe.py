"""Dress a person for an occupation: the outfit with colours drawn at random."""

from fairnb.miniworld.draw import outfits_indoors, outfits_outdoors
from fairnb.miniworld.draw.parts import Outfit, coat, collar, torso
from fairnb.miniworld.draw.pen import PALETTE, jitter

OUTFITS = {**outfits_indoors.OUTFITS, **outfits_outdoors.OUTFITS}
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
