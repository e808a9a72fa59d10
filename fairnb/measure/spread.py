"""The spread of a result over several trainings, and whether a further run reproduces it.

A run reproduces a figure if it lies in the 95 % prediction interval of the earlier runs: mean -/+ t s sqrt(1 + 1/n)
with Student's t of n - 1 degrees of freedom, which is wide for few runs. This holds for the same settings with another
seed; other settings are refused.
"""

from collections.abc import Sequence
from math import sqrt
from pathlib import Path
from typing import Any

import pandas as pd
from scipy.stats import t as student

from fairnb.errors import UserError
from fairnb.files import read_json, require, write_json
from fairnb.measure.provenance import relative
from fairnb.profiles import Profile, load_profile

# Settings in which runs of one result may differ; experiments have results of their own.
OWN = ("name", "seed", "device", "output", "experiments")
LEAST = 0.02  # half of the narrowest tolerance, relative to the mean: other processors round differently
NEURONS_MINUS_RANDOM = "bias_neurons_minus_random"


def write_spread(places: Sequence[str | Path], path: str | Path) -> Path:
    """Write the figures of several runs of one profile and their settings as JSON.

    A place is the output folder of a run, or a file that this function wrote, whose runs are kept. Only figures that
    all runs have are written. `UserError` for fewer than two runs, a run without result, a repeated seed, or different
    settings.
    """
    several = [_read(place) if Path(place).suffix == ".json" else _one_run(place) for place in places]
    settings, seeds = several[0]["settings"], [seed for each in several for seed in each["seeds"]]
    if len(seeds) < 2:
        raise UserError(f"{len(seeds)} run has no spread: give two or more output folders, of different seeds")
    for each in several[1:]:
        _check_settings(settings, load_profile({**each["settings"], "name": each["name"]}))
    if len(set(seeds)) < len(seeds):
        raise UserError(f"the runs have seeds {', '.join(map(str, seeds))}: give each seed once")
    figures = pd.concat([each["figures"] for each in several], join="inner", ignore_index=True)
    return write_json(path, {"settings": settings, "seeds": seeds, "figures": figures.to_dict("list")})


def read_spread(path: str | Path) -> pd.DataFrame:
    """Return a row per figure: n, mean, std, least, most, the 95 % interval of the mean (mean low, mean high), and low
    and high, between which a further run is expected."""
    figures = _read(path)["figures"]
    n, mean, std = len(figures), figures.mean(), figures.std()
    wide = student.ppf(0.975, n - 1) * std
    half = (wide * sqrt(1 + 1 / n)).clip(lower=LEAST * mean.abs())
    table = pd.DataFrame({"n": n, "mean": mean, "std": std, "least": figures.min(), "most": figures.max()})
    table["mean low"], table["mean high"] = mean - wide / sqrt(n), mean + wide / sqrt(n)
    table["low"], table["high"] = mean - half, mean + half
    shares = (table.least >= 0) & (table.most <= 1) & ~table.index.str.endswith(NEURONS_MINUS_RANDOM)
    table.loc[shares, ["low", "high"]] = table.loc[shares, ["low", "high"]].clip(0, 1)
    return table.rename_axis("figure")


def read_run(folder: str | Path) -> tuple[Profile, dict[str, Any]]:
    """Return the profile of an output folder and its summary; `UserError` unless notebook 07 was run there."""
    path = require(Path(folder) / "summary.json", "07_plot_bias")
    summary = read_json(path)
    try:
        profile = load_profile(summary["provenance"]["parameters"])
        summary[profile.attribute]["bias_after"] - summary[profile.attribute]["bias_random_control"]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} has no result yet: run notebook 07_plot_bias first") from error
    return profile, summary


def place(path: str | Path, profile: Profile, summary: dict[str, Any]) -> pd.DataFrame:
    """Compare a run with a spread file: a row per figure, with `this run`, mean, low and high, and `inside`.

    `UserError` if the run has other settings than the spread.
    """
    table = read_spread(path)[["mean", "low", "high"]]
    _check_settings(_read(path)["settings"], profile)
    table.insert(0, "this run", pd.Series(_figures(profile, summary), dtype=float).reindex(table.index))
    table["inside"] = table["this run"].between(table.low - 1e-12, table.high + 1e-12)
    return table


def _read(path: str | Path) -> dict[str, Any]:
    """The name, settings, seeds and figures (a row per run) of a spread file; `UserError` if it is none."""
    content = read_json(path)
    try:
        settings, seeds = dict(content["settings"]), list(content["seeds"])
        figures = pd.DataFrame(content["figures"], index=seeds).astype(float)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} holds no spread of several runs: write it with fairnb spread") from error
    return {"name": "spread", "settings": settings, "seeds": seeds, "figures": figures}


def _one_run(folder: str | Path) -> dict[str, Any]:
    """The same of a single run."""
    profile, summary = read_run(folder)
    figures = pd.DataFrame([_figures(profile, summary)])
    return {"name": profile.name, "settings": _settings(profile), "seeds": [profile.seed], "figures": figures}


def _figures(profile: Profile, summary: dict[str, Any]) -> dict[str, float]:
    figures = {name: value for name, value in summary.items() if name not in ("minutes", "provenance")}
    flat = pd.json_normalize(figures).select_dtypes("number").iloc[0].to_dict()
    after, control = (summary[profile.attribute][f"bias_{name}"] for name in ("after", "random_control"))
    return flat | {f"{profile.attribute}.{NEURONS_MINUS_RANDOM}": after - control}


def _settings(profile: Profile) -> dict[str, Any]:
    return {name: value for name, value in relative(profile.model_dump()).items() if name not in OWN}


def _check_settings(wanted: dict[str, Any], profile: Profile) -> None:
    wanted = _settings(load_profile({**wanted, "name": "spread"}))  # with defaults for newer keys
    one, two = (pd.json_normalize(settings).iloc[0].to_dict() for settings in (wanted, _settings(profile)))
    for key in sorted(one.keys() | two.keys()):
        if str(one.get(key)) != str(two.get(key)):
            raise UserError(
                f"profile {profile.name} has {key} = {two.get(key)}, the runs of the spread {one.get(key)}: "
                "only runs of the same settings can be compared"
            )
