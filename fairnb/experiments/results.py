"""The results of experiments as a table."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from fairnb.errors import UserError
from fairnb.files import read_json


def read_results(places: Sequence[str | Path]) -> list[dict]:
    """The results that `run_experiment` left in the output folders of one profile, and those of files that
    `fairnb results --out` wrote; of two results of one experiment and seed the later place's. `UserError` where a place
    holds none."""
    found = {}
    for place in map(Path, places):
        paths = sorted(place.glob("experiments/*/result.json"))
        results = read_json(place) if place.is_file() else [read_json(path) for path in paths]
        if not results:
            raise UserError(f"{place} holds no experiment: run fairnb experiment first")
        try:
            found |= {(result["experiment"], result["seed"]): result for result in results}
        except (KeyError, TypeError) as error:
            raise UserError(f"{place} is not a file of results: give one that fairnb results --out wrote") from error
    return list(found.values())


def results_table(results: list[dict]) -> pd.DataFrame:
    """Results as a table: a row for each experiment, kind of prompts and attribute, means over the seeds.

    `before`, `after` and `ratio` are bias, with the standard deviation over seeds (`sd`) of after; `trained` is that
    of the prompts which were trained on; `faces` is the share of pictures in which one is found, after; `share` and
    `spread` are the last class's mean share and its standard deviation over prompts, before and after.
    """
    rows = []
    for result in results:
        for kind, compared in result["kinds"].items():
            for attribute, bias in compared["bias"].items():
                row = {"experiment": result["experiment"], "prompts": kind, "attribute": attribute}
                row |= {"seed": result["seed"], "before": bias["before"]["mean"], "after": bias["after"]["mean"]}
                taught = result["trained"][kind][attribute]
                row |= {f"trained {when}": taught[when]["mean"] for when in ("before", "after")}
                row |= {"obeyed": result["obeyed"].get(attribute), "sure": result["sure"]["after"].get(attribute)}
                row |= {"faces": result["faces"]["after"]}
                for when, values in compared["share"].get(attribute, {}).items():
                    row |= {f"share {when}": values["mean"], f"spread {when}": values["std"]}
                costs = ("clip_i", "drift", "minutes", "parameters", "megabytes")
                rows.append(row | {key: np.nan if result[key] is None else result[key] for key in costs})
    keys = ["experiment", "prompts", "attribute"]
    groups = pd.DataFrame(rows).groupby(keys, sort=False)
    means = groups.mean().drop(columns="seed")
    means.insert(0, "seeds", groups.seed.nunique())
    means.insert(3, "sd", groups.after.std())
    means.insert(4, "ratio", means.after / means.before)
    return means.round(3)
