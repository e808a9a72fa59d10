"""The 208 occupations of the mini world, one line each in `occupations.csv`.

A line holds the planted shares (women, old people, the name of the skin tones among women and among men) and what the
people wear and hold: clothes, hat, tool, a thing behind them, and the colours of the outfit. Lines without clothes are
the occupations whose outfits are drawn by hand, in `draw/outfits_*.py`.
"""

import csv
from pathlib import Path

TABLE = Path(__file__).with_suffix(".csv")


def occupations() -> dict[str, dict]:
    """The lines of the table by occupation, shares as numbers."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    return {line.pop("occupation"): line | {key: float(line[key]) for key in ("women", "old")} for line in lines}
