"""Bias from a table of images, never without its n, its interval and what a fair generator would score.

METHODS of the field: bias (Bias Neurons, FFD, DACL), fairness discrepancy (Balancing Act), deviation ratio (UCE), and
diversity. Images without a face are left out of every share and counted apart; K is the number of classes of the
attribute, never the number seen. Shares f are arrays [..., K] whose last axis runs over the attribute's classes.
"""

import warnings
from math import nan, pi, sqrt

import numpy as np
import pandas as pd
from scipy.special import entr, ndtr
from scipy.stats import t as student

from fairnb.errors import UserError
from fairnb.prompts.attributes import Attribute, joint_attribute

DRAWS = 4000  # of every bootstrap: the interval's ends then move by less than a hundredth of its width


def bias(f: np.ndarray) -> np.ndarray:
    """Mean absolute difference between two classes' shares: 2/(K(K-1)) sum over i<j of |f_i - f_j|.

    0 is balanced; the most is 2/K (1 for two classes, .5 for four).
    """
    f = np.asarray(f, float)
    left, right = np.triu_indices(f.shape[-1], 1)
    return np.abs(f[..., left] - f[..., right]).mean(-1)


def corrected_bias(f: np.ndarray, n: int | np.ndarray) -> np.ndarray:
    """Bias without what chance adds to it, of shares f [..., K] seen on n faces; at least 0, NaN for n = 0.

    Chance alone keeps two shares apart: the difference of two shares of n faces is about normal around the true one d
    with variance (f_i + f_j - d^2) / n, and its absolute value has the mean of a folded normal (Leone et al. 1961).
    For each pair the d is taken whose mean is what was seen. A fair model still scores above 0, but less than raw.
    """
    f, n = np.asarray(f, float), np.asarray(n, float)[..., None]
    left, right = np.triu_indices(f.shape[-1], 1)
    seen, both = np.abs(f[..., left] - f[..., right]), f[..., left] + f[..., right]
    low, high = np.zeros_like(seen), seen.copy()
    for _ in range(40):  # halving: the mean grows with d
        middle = (low + high) / 2
        deviation = np.sqrt(np.maximum(both - middle**2, 1e-12) / np.where(n > 0, n, nan))
        ratio = middle / deviation
        mean = deviation * sqrt(2 / pi) * np.exp(-(ratio**2) / 2) + middle * (1 - 2 * ndtr(-ratio))
        low, high = np.where(mean < seen, middle, low), np.where(mean < seen, high, middle)
    return np.where(n > 0, high, nan).mean(-1)


def without_confusion(f: np.ndarray, confusion: np.ndarray) -> np.ndarray:
    """Shares f [..., K] as a perfect classifier would have seen them, from this one's confusion [K true, K seen].

    What is seen is f_true @ C with C the confusion's rows as shares; solved for f_true, cut to 0..1 and made to sum to
    1 again. Wrong where the faces are not like those on which C was counted: C then is another one (on generated
    pictures it is not known), and where C is nearly singular the correction multiplies chance.
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
    """L2 distance to the target shares (balanced when None)."""
    f = np.asarray(f, float)
    goal = np.full(f.shape[-1], 1 / f.shape[-1]) if target is None else np.asarray(target, float)
    if goal.shape != f.shape[-1:] or abs(goal.sum() - 1) > 1e-6 or (goal < 0).any():
        raise UserError(f"target shares {goal.tolist()} are not {f.shape[-1]} numbers that sum to 1: correct them")
    return np.linalg.norm(f - goal, axis=-1)


def deviation_ratio(f: np.ndarray) -> np.ndarray:
    """Largest distance of a share from 1/K, over the largest possible: 0 balanced, 1 one class only."""
    f = np.asarray(f, float)
    fair = 1 / f.shape[-1]
    return np.abs(f - fair).max(-1) / (1 - fair)


def diversity(f: np.ndarray) -> np.ndarray:
    """Normalised entropy -sum f log f / log K: 1 balanced, 0 one class only."""
    f = np.asarray(f, float)
    return entr(f).sum(-1) / np.log(f.shape[-1])


def sampling_floor(n: int | np.ndarray, classes: int) -> np.ndarray:
    """Expected bias of a perfectly fair generator measured on n faces: sqrt(2/pi) sqrt(2/(K n)); NaN without any."""
    n = np.asarray(n, float)
    return sqrt(2 / pi) * np.sqrt(2 / (classes * np.where(n > 0, n, nan)))


def wilson(k: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a share seen k times in n (Wilson 1927); (NaN, NaN) for n = 0."""
    if n == 0:
        return nan, nan
    share = k / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def frequencies(records: pd.DataFrame, attribute: str) -> pd.DataFrame:
    """Per prompt: prompt_id, prompt, occupation, split, n (faces), faceless, and the share of each class.

    `attribute` may join several, as "gender+age" ("female young", ...). Shares of a prompt without any face are NaN.
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
    """`frequencies` with bias, its 95 % interval (low, high), `corrected_bias`, and the sampling floor for that n."""
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
    """Bias over prompts: mean, std, low and high (95 %, bootstrap over prompts: images of one prompt are not
    independent), corrected (mean of `corrected_bias`), n_prompts (with a face), n_images, floor, faceless_share. NaN,
    with a warning, without any face."""
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


def paired_difference(before: pd.DataFrame, after: pd.DataFrame, attribute: str, seed: int = 0) -> dict:
    """Change of bias, after minus before, over the prompts that both tables hold: mean, low, high (95 %, bootstrap
    over prompts), n_prompts. Pairing removes the spread between prompts. `UserError` without a common prompt."""
    tables = [bias_by_prompt(records, attribute).set_index("prompt_id") for records in (before, after)]
    common = tables[0].index.intersection(tables[1].index)
    if len(common) == 0:
        raise UserError("the two tables have no prompt in common: generate both from the same prompt set")
    change = (tables[1].bias[common] - tables[0].bias[common]).dropna().to_numpy()
    if len(change) == 0:
        warnings.warn(f"no prompt has a face in both tables: its change on {attribute} is undefined", stacklevel=2)
    low, high = bootstrap(change, seed)
    return {"mean": float(change.mean()) if len(change) else nan, "low": low, "high": high, "n_prompts": len(change)}


def _measured(records: pd.DataFrame, name: str) -> Attribute:
    about = joint_attribute(name.split("+"))
    for part in name.split("+"):
        if part not in records:
            raise UserError(f"attribute '{part}' was not measured in these records: use a judge that knows it")
    return about


def _interval(f: np.ndarray, n: int) -> tuple[float, float]:
    """95 % interval of one prompt's bias. For K = 2 Wilson's, folded at one half; else the middle of the posterior
    under Jeffreys' prior, which unlike a bootstrap has width even where only one class was seen."""
    if n == 0:
        return nan, nan
    seen = float(bias(f))
    if len(f) == 2:
        low, high = wilson(round(f[1] * n), n)
        ends = abs(2 * low - 1), abs(2 * high - 1)
        return (0.0 if low <= 0.5 <= high else min(ends)), max(ends)
    draws = bias(np.random.default_rng(0).dirichlet(f * n + 0.5, DRAWS))
    low, high = np.quantile(draws, [0.025, 0.975])
    return min(float(low), seen), max(float(high), seen)


def bootstrap(values: np.ndarray, seed: int) -> tuple[float, float]:
    """95 % interval of the mean, by drawing prompts with replacement; NaN for fewer than two values.

    The plain percentiles are too narrow for few values: of eight prompts they hold the truth in 89 % of A2's trials.
    So they are taken further out, by what Student's t of n - 1 degrees and sqrt(n / (n - 1)) make of 2.5 % (expanded
    percentile interval, Hesterberg 2015), which holds it in 94 to 95 % from eight prompts on; of four, in 85 %.
    """
    n = len(values)
    if n < 2:
        return nan, nan
    drawn = np.random.default_rng(seed).integers(n, size=(DRAWS, n))
    tail = ndtr(student.ppf(0.025, n - 1) * sqrt(n / (n - 1)))
    low, high = np.quantile(values[drawn].mean(1), [tail, 1 - tail])
    return float(low), float(high)
