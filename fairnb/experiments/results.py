"""The results of experiments as a table."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from fairnb.errors import UserError
from fairnb.files import read_json
from fairnb.identity import refuse_another
from fairnb.measure.spread import OWN


def read_results(places: Sequence[str | Path]) -> list[dict]:
    """Read results from output folders of one profile, model folders, and files of `fairnb results --out`.

    Of two results of the same experiment and seed the one of the later place counts. `UserError` names a place without
    results, and the setting in which two seeds of an experiment differ.
    """
    found: dict[tuple[str, int], dict] = {}
    for place in map(Path, places):
        paths = sorted(place.glob("experiments/*/result.json"))
        place = place / "experiments.json" if (place / "model_index.json").is_file() else place
        results = read_json(place) if place.is_file() else [read_json(path) for path in paths]
        if not results:
            raise UserError(f"{place} holds no experiment: run fairnb experiment first")
        try:
            found |= {(result["experiment"], result["seed"]): result for result in results}
        except (KeyError, TypeError) as error:
            raise UserError(f"{place} is not a file of results: give one that fairnb results --out wrote") from error
    first: dict[str, dict] = {}
    for result in found.values():
        name = result["experiment"]
        one, other = _comparable(first.setdefault(name, result), result)
        refuse_another(one, other, f"{name} of seed {first[name]['seed']}", f"give seed {result['seed']} alone")
    return list(found.values())


def _comparable(one: dict, other: dict) -> tuple[dict, dict]:
    """What must be the same for two seeds to be averaged: their identities, or, in results of older versions, their
    settings."""
    if "identity" in one and "identity" in other:
        both = [each["identity"] for each in (one, other)]
    else:
        both = [each["provenance"]["parameters"] for each in (one, other)]
        name = one["experiment"]
        both = [each | {"experiment": each["experiments"][name]} for each in both]
    own = {*OWN, "triplets"}  # which every seed makes for itself
    return tuple({key: value for key, value in each.items() if key not in own} for each in both)


def results_table(results: list[dict]) -> pd.DataFrame:
    """Return one row per experiment, kind of prompts and attribute, with means over the seeds.

    `before`, `after` and their `ratio` are bias on held-out prompts, `sd` its standard deviation over seeds; `trained`
    is the bias on the prompts of the training; `faces` the share of images with a face, after; `share` and `spread` the
    mean share of the last class and its standard deviation over prompts, before and after. `FD` to the target,
    `diversity`, `CLIP-T`, `variety`, `kid`, `worst` (before and after; see `evaluation.evaluate`) and `dino` stand only
    where a result holds them.
    """
    rows = []
    for result in results:
        for kind, compared in result.get("kinds", {}).items():  # of a diverged training there are none
            for attribute, bias in compared["bias"].items():
                row = {"experiment": result["experiment"], "prompts": kind, "attribute": attribute}
                row |= {"seed": result["seed"], "before": bias["before"]["mean"], "after": bias["after"]["mean"]}
                taught = result["trained"][kind][attribute]
                row |= {f"trained {when}": taught[when]["mean"] for when in ("before", "after")}
                row |= {"obeyed": result["obeyed"].get(attribute), "sure": result["sure"]["after"].get(attribute)}
                row |= {"faces": result["faces"]["after"]}
                for name in ("FD", "diversity"):
                    row |= {
                        f"{name} {when}": value for when, value in compared.get(name, {}).get(attribute, {}).items()
                    }
                row |= {f"CLIP-T {when}": value for when, value in result.get("clip_t", {}).items()}
                for name in ("variety", "kid"):
                    values = result.get(name, {}).items()
                    row |= {f"{name} {when}": np.nan if value is None else value for when, value in values}
                for when, worst in result.get("worst", {}).items():
                    row |= {f"worst {when}": worst[attribute]["mean"]} if attribute in worst else {}
                row |= {"dino": result["dino"]} if result.get("dino") is not None else {}
                for when, values in compared["share"].get(attribute, {}).items():
                    row |= {f"share {when}": values["mean"], f"spread {when}": values["std"]}
                costs = ("clip_i", "drift", "minutes", "parameters", "megabytes")
                rows.append(row | {key: np.nan if result[key] is None else result[key] for key in costs})
    keys = ["experiment", "prompts", "attribute"]
    if not rows:
        return pd.DataFrame()
    groups = pd.DataFrame(rows).groupby(keys, sort=False)
    means = groups.mean().drop(columns="seed")
    means.insert(0, "seeds", groups.seed.nunique())
    means.insert(3, "sd", groups.after.std())
    means.insert(4, "ratio", means.after / means.before)
    return means.round(3)


def markdown(table: pd.DataFrame) -> str:
    """A Markdown table; numbers with up to three decimals, nothing for a missing value."""

    def cell(value: object) -> str:
        if isinstance(value, float):
            return "" if value != value else f"{value:.3f}".rstrip("0").rstrip(".")
        return str(value)

    lines = [list(table.columns), ["---"] * table.shape[1], *table.itertuples(index=False)]
    return "\n".join("| " + " | ".join(map(cell, line)) + " |" for line in lines)
