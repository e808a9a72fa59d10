"""Bias metrics of a table of records, always with n, an interval, and the score of a perfectly fair generator.

The field's metrics: bias (Bias Neurons, FFD, DACL), fairness discrepancy (Balancing Act), deviation ratio (UCE) and
diversity. Images without a face are excluded from every share and counted separately; K is the number of classes of the
attribute, not the number observed. Shares f are arrays [..., K] whose last axis runs over the classes.
"""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from math import nan, pi, sqrt

import numpy as np
import pandas as pd
from scipy.special import entr, ndtr
from scipy.stats import binomtest
from scipy.stats import t as student

from fairnb.errors import UserError
from fairnb.prompts.attributes import Attribute, get_attribute, joint_attribute
from fairnb.vision.perception import SURE

DRAWS = 4000  # of every bootstrap: the interval's ends then vary by less than a hundredth of its width


def bias(f: np.ndarray) -> np.ndarray:
    """Mean absolute difference between two classes' shares: 2/(K(K-1)) sum over i<j of |f_i - f_j|.

    0 is balanced; the most is 2/K (1 for two classes, .5 for four).
    """
    f = np.asarray(f, float)
    left, right = np.triu_indices(f.shape[-1], 1)
    return np.abs(f[..., left] - f[..., right]).mean(-1)


def corrected_bias(f: np.ndarray, n: int | np.ndarray) -> np.ndarray:
    """Bias of shares f [..., K] observed on n faces, corrected for what chance adds; at least 0, NaN for n = 0.

    Two shares differ by chance alone: the difference of two observed shares is about normal around the true difference
    d with variance (f_i + f_j - d^2) / n, and its absolute value follows a folded normal (Leone et al. 1961). For each
    pair we solve for the d whose expected absolute value is the observed one. A fair model still scores above 0, but
    less than uncorrected.
    """
    f, n = np.asarray(f, float), np.asarray(n, float)[..., None]
    left, right = np.triu_indices(f.shape[-1], 1)
    seen, both = np.abs(f[..., left] - f[..., right]), f[..., left] + f[..., right]
    low, high = np.zeros_like(seen), seen.copy()
    for _ in range(40):  # bisection: the expected value grows with d
        middle = (low + high) / 2
        deviation = np.sqrt(np.maximum(both - middle**2, 1e-12) / np.where(n > 0, n, nan))
        ratio = middle / deviation
        mean = deviation * sqrt(2 / pi) * np.exp(-(ratio**2) / 2) + middle * (1 - 2 * ndtr(-ratio))
        low, high = np.where(mean < seen, middle, low), np.where(mean < seen, high, middle)
    return np.where(n > 0, high, nan).mean(-1)


def without_confusion(f: np.ndarray, confusion: np.ndarray) -> np.ndarray:
    """Correct shares f [..., K] for the classifier's errors, given its confusion counts [K true, K predicted].

    The observed shares are f_true @ C, where C holds the rows of the confusion as shares; this solves for f_true, clips
    it to 0..1 and normalises it. The result is wrong if the faces differ from those on which C was counted (on
    generated images C is unknown), and a nearly singular C amplifies noise.
    """
    counts = np.asarray(confusion, float)
    if counts.ndim != 2 or counts.shape != (np.shape(f)[-1],) * 2 or (counts.sum(1) == 0).any():
        raise UserError(
            f"a confusion table of shape {counts.shape} does not fit {np.shape(f)[-1]} classes: measure it again"
        )
    rows = counts / counts.sum(1, keepdims=True)
    if np.linalg.cond(rows) > 1e3:
        raise UserError("the classifier confuses its classes too much to be corrected: use a better one")
    shares = np.clip(np.asarray(f, float) @ np.linalg.inv(rows), 0, 1)
    return shares / shares.sum(-1, keepdims=True)


def fairness_discrepancy(f: np.ndarray, target: np.ndarray | None = None) -> np.ndarray:
    """L2 distance to the target shares (Balancing Act); None means balanced."""
    f = np.asarray(f, float)
    goal = np.full(f.shape[-1], 1 / f.shape[-1]) if target is None else np.asarray(target, float)
    if goal.shape != f.shape[-1:] or abs(goal.sum() - 1) > 1e-6 or (goal < 0).any():
        raise UserError(f"target shares {goal.tolist()} are not {f.shape[-1]} numbers that sum to 1: correct them")
    return np.linalg.norm(f - goal, axis=-1)


def deviation_ratio(f: np.ndarray) -> np.ndarray:
    """Largest distance of a share from 1/K, divided by the largest possible one: 0 is balanced, 1 one class only."""
    f = np.asarray(f, float)
    fair = 1 / f.shape[-1]
    return np.abs(f - fair).max(-1) / (1 - fair)


def diversity(f: np.ndarray) -> np.ndarray:
    """Normalised entropy -sum f log f / log K: 1 is balanced, 0 one class only."""
    f = np.asarray(f, float)
    return entr(f).sum(-1) / np.log(f.shape[-1])


def sampling_floor(n: int | np.ndarray, classes: int) -> np.ndarray:
    """Expected bias of a perfectly fair generator on n faces: sqrt(2/pi) sqrt(2/(K n)); NaN for n = 0."""
    n = np.asarray(n, float)
    return sqrt(2 / pi) * np.sqrt(2 / (classes * np.where(n > 0, n, nan)))


def wilson(k: int, n: int) -> tuple[float, float]:
    """95 % interval of a share observed k times in n (Wilson 1927); (NaN, NaN) for n = 0."""
    if n == 0:
        return nan, nan
    low, high = binomtest(k, n).proportion_ci(method="wilson")
    return float(low), float(high)


def sure_share(records: pd.DataFrame, attribute: str) -> float:
    """Share of the faces of whose class the judge is sure, that is, to which it gives a probability of `SURE` or
    more."""
    columns = [f"{attribute}_{label}" for label in get_attribute(attribute).classes]
    return float((records.loc[records.face, columns].max(axis=1) >= SURE).mean())


def frequencies(records: pd.DataFrame, attribute: str) -> pd.DataFrame:
    """Return a row per prompt: prompt_id, prompt, occupation, split, n (faces), faceless, and the share of each class.

    `attribute` may be joint, such as "gender+age" ("female young", ...). Shares of a prompt without faces are NaN.
    """
    about = _measured(records, attribute)
    rows = []
    for prompt_id, group in records.groupby("prompt_id"):
        faces = group[group.face]
        seen = faces[attribute.split("+")].agg(" ".join, axis=1)
        shares = [(seen == name).mean() if len(faces) else nan for name in about.classes]
        first = group.iloc[0]
        rows.append(
            {
                "prompt_id": prompt_id,
                **{name: first[name] for name in ("prompt", "occupation", "split")},
                "n": len(faces),
                "faceless": len(group) - len(faces),
                **dict(zip(about.classes, shares, strict=True)),
            }
        )
    return pd.DataFrame(rows)


def bias_by_prompt(records: pd.DataFrame, attribute: str) -> pd.DataFrame:
    """`frequencies` with bias, its 95 % interval (low, high), `corrected_bias`, and the sampling floor for this n."""
    about = joint_attribute(attribute.split("+"))
    table = frequencies(records, attribute)
    shares = table[list(about.classes)].to_numpy(float)
    table["bias"] = bias(shares)
    table["corrected"] = corrected_bias(shares, table.n.to_numpy())
    table["floor"] = sampling_floor(table.n.to_numpy(), len(about.classes))
    bounds = [_interval(row, n) for row, n in zip(shares, table.n, strict=True)]
    table["low"], table["high"] = zip(*bounds, strict=True)
    return table


def summarise(records: pd.DataFrame, attribute: str, seed: int = 0) -> dict:
    """Summarise the bias over prompts.

    Returns mean, std, low and high (95 %, bootstrap over prompts, since images of one prompt are not independent),
    corrected (mean of `corrected_bias`), n_prompts (those with a face), n_images, floor and faceless_share. Without any
    face the values are NaN, and a warning says so.
    """
    table = bias_by_prompt(records, attribute)
    values = table.bias.dropna().to_numpy()
    if len(values) == 0:
        warnings.warn(f"no face was found in any image: the bias on {attribute} is undefined", stacklevel=2)
    low, high = bootstrap(values, seed)
    return {
        "mean": float(values.mean()) if len(values) else nan,
        "std": float(values.std(ddof=1)) if len(values) > 1 else nan,
        "low": low,
        "high": high,
        "corrected": float(table.corrected.mean()),
        "n_prompts": len(values),
        "n_images": len(records),
        "floor": float(table.floor.mean()),
        "faceless_share": float(1 - records.face.mean()),
    }


def worst_tenth(records: pd.DataFrame, attribute: str) -> dict[str, float]:
    """Mean bias of the tenth of the prompts (one at least) that are most biased, and its floor: what a perfectly fair
    generator would score with as many faces, by simulation. NaN without any face.

    A model that is balanced on average may be far from it for some words: the mean over prompts does not tell.
    """
    table = bias_by_prompt(records, attribute).query("n > 0")
    if table.empty:
        return {"mean": nan, "floor": nan}
    classes, rng = len(joint_attribute(attribute.split("+")).classes), np.random.default_rng(0)
    fair = np.stack([bias(rng.multinomial(n, np.full(classes, 1 / classes), DRAWS) / n) for n in table.n], 1)
    worst = max(1, round(len(table) / 10))
    return {
        "mean": float(table.bias.nlargest(worst).mean()),
        "floor": float(np.sort(fair, 1)[:, -worst:].mean()),
    }


def scores(records: pd.DataFrame, attribute: str, target: Sequence[float] | None = None, seed: int = 0) -> pd.DataFrame:
    """The metrics of an attribute (or of several, "gender+age") over the prompts, and the share of each class.

    Rows: bias, FD (to the `target` shares [K], in the order of the classes; None: equal), DR, diversity, then the
    classes. Columns: mean and std over prompts; low and high (95 %: bootstrap over prompts, of a single prompt that of
    its images); floor, the expected score of a generator that draws exactly the wanted shares, on as many faces.
    """
    about = joint_attribute(attribute.split("+"))
    table = frequencies(records, attribute)
    table = table[table.n > 0]
    shares, n = table[list(about.classes)].to_numpy(float), table.n.to_numpy()
    fair = np.full(len(about.classes), 1 / len(about.classes))
    goal = fair if target is None else np.asarray(target, float)
    measured = {
        "bias": (bias, fair),
        "FD": (partial(fairness_discrepancy, target=goal), goal),
        "DR": (deviation_ratio, fair),
        "diversity": (diversity, fair),
    }
    rows = {name: _score(metric, shares, n, seed) for name, (metric, _) in measured.items()}
    for name, (metric, wanted) in measured.items():
        exact = sampling_floor(n, len(about.classes)) if name == "bias" else _expected(metric, wanted, n)
        rows[name]["floor"] = float(exact.mean()) if len(n) else nan
    for number, name in enumerate(about.classes):
        rows[name] = _score(lambda f, number=number: f[..., number], shares, n, seed) | {"floor": nan}
    return pd.DataFrame(rows).T


def _score(metric: Callable, shares: np.ndarray, n: np.ndarray, seed: int) -> dict[str, float]:
    values = metric(shares)
    low, high = _interval(shares[0], n[0], metric) if len(values) == 1 else bootstrap(values, seed)
    mean, std = float(values.mean()) if len(values) else nan, float(values.std(ddof=1)) if len(values) > 1 else nan
    return {"mean": mean, "std": std, "low": low, "high": high}


def _expected(metric: Callable, wanted: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Expected metric of each number of faces `n`, drawn with the shares `wanted`, by simulation."""
    rng = np.random.default_rng(0)
    each = {number: metric(rng.multinomial(number, wanted, DRAWS) / number).mean() for number in np.unique(n)}
    return np.array([each[number] for number in n])


def paired_difference(before: pd.DataFrame, after: pd.DataFrame, attribute: str, seed: int = 0) -> dict:
    """Return the change of bias (after - before) over the prompts: mean, low, high (95 %), n_prompts.

    Pairing by prompt removes the spread between prompts. `UserError` if the tables are of other prompts, or of other
    noises (seed and number of an image): then they cannot be paired.
    """
    _check_pairs(before, after)
    tables = [bias_by_prompt(records, attribute).set_index("prompt") for records in (before, after)]
    common = tables[0].index
    change = (tables[1].bias[common] - tables[0].bias[common]).dropna().to_numpy()
    if len(change) == 0:
        warnings.warn(f"no prompt has a face in both tables: its change on {attribute} is undefined", stacklevel=2)
    low, high = bootstrap(change, seed)
    return {"mean": float(change.mean()) if len(change) else nan, "low": low, "high": high, "n_prompts": len(change)}


def _check_pairs(before: pd.DataFrame, after: pd.DataFrame) -> None:
    names = [set(records.prompt) for records in (before, after)]
    if odd := sorted(names[0] ^ names[1]):
        raise UserError(f"the two tables are of other prompts ('{odd[0]}' is in one only): generate both from the same")
    noises = [
        {row for row in records[["prompt", "seed", "image"]].itertuples(index=False)} for records in (before, after)
    ]
    if odd := sorted(noises[0] ^ noises[1]):
        prompt, seed, image = odd[0]
        raise UserError(
            f"the two tables have other noises (image {image} of seed {seed} of '{prompt}' is in one only): generate "
            "both with the same seed and as many images"
        )


def _measured(records: pd.DataFrame, name: str) -> Attribute:
    about = joint_attribute(name.split("+"))
    for part in name.split("+"):
        if part not in records:
            raise UserError(f"attribute '{part}' was not measured in these records: use a judge that knows it")
    return about


def _interval(f: np.ndarray, n: int, metric: Callable = bias) -> tuple[float, float]:
    """95 % interval of one prompt's metric: over Wilson's interval of the share for K = 2; else the central part of the
    posterior under Jeffreys' prior, which, unlike a bootstrap, has a width even if only one class was observed."""
    if n == 0:
        return nan, nan
    seen = float(metric(f))
    if len(f) == 2:
        low, high = wilson(round(f[1] * n), n)
        share = np.append(np.linspace(low, high, 201), np.clip(0.5, low, high))
        values = metric(np.stack([1 - share, share], 1))
        return min(float(values.min()), seen), max(float(values.max()), seen)
    draws = metric(np.random.default_rng(0).dirichlet(f * n + 0.5, DRAWS))
    low, high = np.quantile(draws, [0.025, 0.975])
    return min(float(low), seen), max(float(high), seen)


def bootstrap(values: np.ndarray, seed: int) -> tuple[float, float]:
    """95 % interval of the mean by resampling prompts with replacement; NaN for fewer than two values.

    Plain percentiles are too narrow for few values: with eight prompts they cover the truth in 89 % of the trials of
    notebook A2. The expanded percentile interval (Hesterberg 2015) widens the tails by Student's t with n - 1 degrees
    of freedom and by sqrt(n / (n - 1)): it covers 94 to 95 % from eight prompts on, 85 % with four.
    """
    n = len(values)
    if n < 2:
        return nan, nan
    drawn = np.random.default_rng(seed).integers(n, size=(DRAWS, n))
    tail = ndtr(student.ppf(0.025, n - 1) * sqrt(n / (n - 1)))
    low, high = np.quantile(values[drawn].mean(1), [tail, 1 - tail])
    return float(low), float(high)
