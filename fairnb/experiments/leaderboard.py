"""The leaderboard: a row for each method, on the same model, prompts, noise and judge.

An experiment with three seeds or more has the 95 % interval of its mean by Student's t. With fewer its spread is
unknown, and the interval is what the other rows of its kind suggest, those that train weights or those that do not:
their pooled standard deviation over seeds. All rows have the same held-out prompts, so their choice is in no interval.
A value is bold if the spread does not tell it from the best.
"""

from collections.abc import Iterable, Sequence
from math import nan

import numpy as np
import pandas as pd
from scipy.stats import t as student

from fairnb.errors import UserError
from fairnb.experiments.results import markdown
from fairnb.identity import refuse_another

ORIGINAL, KIND, TABLE = "original", "occupations", "gender+skin_tone"
SHARED = ("model", "prompts", "sampling", "vision", "judge", "evaluate")  # of an identity: the same in every row
# Columns that the spread concerns, and whether more is better.
MORE = {
    "gender": False,
    "skin_tone": False,
    "joint": False,
    "trained": False,
    "worst": False,
    "obeyed": True,
    "sure": True,
    "faces": True,
    "drift": False,
    "CLIP-T": True,
    "CLIP-I": True,
    "KID": False,
    "variety": True,
}
COSTS = ("parameters", "megabytes", "minutes", "memory")
KNOWN = 3  # seeds from which the spread of an experiment counts as known


def leaderboard(results: list[dict]) -> pd.DataFrame:
    """Return a row per experiment below that of the original model, by `target` and then by bias.

    `gender`, `skin_tone` and `joint` (all attributes of the row) are bias on held-out occupations, `floor ...` what a
    perfectly fair model would score; `trained` and `worst` are that of trained occupations and of the worst tenth of
    other phrasings (on fewer images each, so that their floors are higher), `obeyed` and `sure` as in
    `evaluation.evaluate`, means over the row's attributes (of the original, those of the first result). Each column of
    `MORE` has its `low` and `high`. `seeds` lists them, and `note` names those that other rows have and this one lacks,
    and diverged trainings. `UserError` if two results differ in model, prompts, vision models or evaluation.
    """
    _refuse_strangers(results)
    whole = [result for result in results if KIND in result.get("kinds", {})]
    if not whole:
        lost = "; ".join(f"{each['experiment']}: {_note(each['experiment'], results)}" for each in results)
        raise UserError(f"no result has figures of {KIND} ({lost}): run an experiment that has")
    plain, after = (
        pd.DataFrame([_figures(result, when) for result in whole]).set_index(["experiment", "seed"]).astype(float)
        for when in ("before", "after")
    )
    values = pd.concat([plain.groupby(level=[0, 1]).first(), after]).reset_index()
    trained = {result["experiment"] for result in whole if result["validation_bias"] is not None}
    values["kind"] = [ORIGINAL if name == ORIGINAL else name in trained for name in values.experiment]
    groups = values.groupby("experiment", sort=False)
    table, wide = groups.mean(numeric_only=True).drop(columns="seed"), half_widths(values)
    for name in MORE:
        table[f"{name} low"], table[f"{name} high"] = table[name] - wide[name], table[name] + wide[name]
    for lost in {result["experiment"] for result in results} - set(table.index):
        table.loc[lost] = nan
    shares = {result["experiment"]: result["identity"]["experiment"]["shares"] for result in results}
    table.insert(0, "target", [" × ".join(shares.get(name, ())) for name in table.index])
    table.insert(1, "seeds", [_seeds(name, whole) for name in table.index])
    table["note"] = [_note(name, results) for name in table.index]
    size = [len(shares.get(name, ())) for name in table.index]
    own = table.joint.fillna(table.gender).fillna(table.skin_tone)
    order = np.lexsort((own, table.target, size))
    return table.iloc[order].rename_axis("experiment")


def _refuse_strangers(results: list[dict]) -> None:
    first = results[0]
    for result in results[1:]:
        one, other = ({key: each["identity"].get(key) for key in SHARED} for each in (result, first))
        about = f"{result['experiment']} of seed {result['seed']}"
        refuse_another(one, other, about, f"leave it out, or repeat it as {first['experiment']} was made")


def _figures(result: dict, when: str) -> dict:
    """The figures of one result; `before`, those of the original model that it was compared with."""
    bias = result["kinds"][KIND]["bias"]

    def mean(values: Iterable[float | None]) -> float:
        return float(np.mean(np.asarray(list(values), float)))  # JSON has null for NaN, as of images without a face

    own = [name for name in bias if "+" not in name]
    now = when == "after"
    row = {"experiment": result["experiment"] if now else ORIGINAL, "seed": result["seed"]}
    for column, key in {"gender": "gender", "skin_tone": "skin_tone", "joint": "+".join(own)}.items():
        # The original has one joint bias, that of the attributes of the column's heading.
        known = key in bias and (column != "joint" or ("+" in key and (now or key == TABLE)))
        row[column] = bias[key][when]["mean"] if known else nan
        row[f"floor {column}"] = bias[key][when]["floor"] if known else nan
    trained, worst = [result["trained"][KIND][name][when] for name in own], result.get("worst", {}).get(when, {})
    for column, each in (("trained", trained), ("worst", list(worst.values()))):
        row[column], row[f"floor {column}"] = (
            mean(of[key] for of in each) if each else nan for key in ("mean", "floor")
        )
    row["obeyed"] = mean(result["obeyed"].values()) if now else nan
    row["sure"], row["faces"] = mean(result["sure"][when].values()), result["faces"][when]
    row["drift"], row["CLIP-I"] = (result["drift"], result["clip_i"]) if now else (0.0, 1.0)
    row["CLIP-T"] = result["clip_t"][when]
    for column, key in (("KID", "kid"), ("variety", "variety")):
        row[column] = result.get(key, {}).get(when)
    return row | {key: result.get(key) if now else None for key in COSTS}


def half_widths(values: pd.DataFrame) -> pd.DataFrame:
    """Half the 95 % interval of the mean of each experiment (rows) in each column of `MORE`, from a table with a row
    per experiment and seed; NaN where no row of its `kind` has two seeds."""
    groups = values.groupby(["kind", "experiment"], sort=False)[list(MORE)]
    n, sd = groups.count(), groups.std()
    free = (n - 1).clip(lower=0)
    squares, total = ((sd.fillna(0) ** 2 * free), free)
    squares, total = (each.groupby(level="kind").transform("sum") for each in (squares, total))
    known = n >= KNOWN
    freedom = free.where(known, total).where(lambda each: each > 0)
    spread = sd.where(known, (squares / total.where(total > 0)) ** 0.5)
    return (student.ppf(0.975, freedom) * spread / n.where(n > 0) ** 0.5).droplevel("kind")


def best(table: pd.DataFrame, column: str) -> list[str]:
    """The best experiments in a column: the best mean and those that the spread does not tell from it, which is to say
    that they differ by less than the half-widths of both intervals together (root of the sum of squares).

    None where the spread of the best mean is not known, and where it tells none of the rows from it.
    """
    rows = table.drop(ORIGINAL, errors="ignore").dropna(subset=[column])
    if rows.empty:
        return []
    values, wide = rows[column], rows[column] - rows[f"{column} low"]
    first = values.idxmax() if MORE[column] else values.idxmin()
    near = (values - values[first]).abs() <= (wide**2 + wide[first] ** 2) ** 0.5 + 1e-9  # rounding
    return [] if near.all() else list(rows.index[near])


def leaderboard_markdown(results: list[dict]) -> str:
    """The leaderboard as a Markdown table, the best in bold; biases with interval and floor, and each row's command."""
    return markdown(_cells(leaderboard(results)))


def _cells(table: pd.DataFrame) -> pd.DataFrame:
    cells = pd.DataFrame({"seeds": table.seeds}, index=table.index)
    bold = {column: best(table, column) for column in MORE}
    for column in MORE:
        texts = []
        for name, row in table.iterrows():
            text = _number(row[column])
            text = f"**{text}**" if name in bold[column] else text
            if f"floor {column}" in table and text:
                low, high = (_number(np.maximum(0.0, row[f"{column} {end}"])) for end in ("low", "high"))
                text += f" ({f'{low} to {high}; ' if low else ''}fair {_number(row[f'floor {column}'])})"
            texts.append(text)
        cells[column] = texts
    for column, digits in (("parameters", 0), ("megabytes", 3), ("minutes", 1), ("memory", 0)):
        cells[column] = table[column].map(lambda value, digits=digits: _number(value, digits))
    cells["command"] = [f"`fairnb experiment {name}`" if name != ORIGINAL else "" for name in table.index]
    cells["note"] = table.note
    return cells.reset_index()


def _number(value: float | None, digits: int = 3) -> str:
    return "" if value is None or value != value else f"{value:,.{digits}f}"


def _seeds(name: str, results: Sequence[dict]) -> str:
    own = {result["seed"] for result in results if name in (ORIGINAL, result["experiment"])}
    return " ".join(map(str, sorted(own)))


def _note(name: str, results: Sequence[dict]) -> str:
    """The seeds that a row lacks, and its diverged trainings."""
    if name == ORIGINAL:
        return ""
    own = {result["seed"]: result for result in results if result["experiment"] == name}
    missing = sorted({result["seed"] for result in results} - set(own))
    notes = [f"seed {', '.join(map(str, missing))} missing"] if missing else []
    notes += [f"seed {seed} diverged: {each['diverged']}" for seed, each in own.items() if "diverged" in each]
    return "; ".join(notes)
