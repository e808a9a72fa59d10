"""Dress a person for an occupation: the outfit with colours drawn at random.

The outfits drawn by hand lend their clothes, hats and tools to other occupations, under the name of their own.
"""

from fairnb.miniworld.draw import (
    clothes,
    hats,
    outfits_indoors,
    outfits_outdoors,
    tools_desk,
    tools_home,
    tools_outdoors,
)
from fairnb.miniworld.draw.parts import Outfit, coat, collar, torso
from fairnb.miniworld.draw.pen import PALETTE, jitter
from fairnb.miniworld.occupations import occupations

BY_HAND = {**outfits_indoors.OUTFITS, **outfits_outdoors.OUTFITS}
CLOTHES = {name: outfit.clothes for name, outfit in BY_HAND.items()} | clothes.CLOTHES
HATS = {name: outfit.hat for name, outfit in BY_HAND.items()} | hats.HATS
TOOLS = {name: outfit.tool for name, outfit in BY_HAND.items()}
TOOLS |= tools_desk.TOOLS | tools_home.TOOLS | tools_outdoors.TOOLS


def _from_parts(line):
    """The outfit of a line of the table of occupations."""
    return Outfit(
        CLOTHES[line["clothes"]],
        HATS[line["hat"]] if line["hat"] else [],
        TOOLS[line["tool"]] if line["tool"] else None,
        tuple(line["main"].split()),
        tuple(line["trim"].split()),
        hats.BEHIND[line["behind"]] if line["behind"] else [],
    )


OUTFITS = {name: BY_HAND.get(name) or _from_parts(line) for name, line in occupations().items()}
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
