"""The leaderboard: means and intervals over seeds, bold only what the spread allows, nothing hidden."""

import numpy as np
import pytest
from scipy.stats import t as student

from fairnb.errors import UserError
from fairnb.experiments.leaderboard import ORIGINAL, best, leaderboard, leaderboard_markdown

SHARED = {name: "the same" for name in ("model", "prompts", "sampling", "vision", "judge", "evaluate")}


def result(name, seed, after, shares=("gender",), obeyed=0.9, **about):
    def bias(value):
        keys = [*shares, "+".join(shares)] if len(shares) > 1 else shares
        return {key: {"before": {"mean": 0.8, "floor": 0.14}, "after": {"mean": value, "floor": 0.1}} for key in keys}

    both = {"before": 0.9, "after": 0.8}
    return {
        "experiment": name,
        "seed": seed,
        "identity": SHARED | {"experiment": {"shares": dict.fromkeys(shares)}, "seed": seed},
        "kinds": {"occupations": {"bias": bias(after)}},
        "trained": {"occupations": bias(after)},
        "worst": {when: {key: {"mean": value, "floor": 0.7} for key in shares} for when, value in both.items()},
        "obeyed": dict.fromkeys(shares, obeyed),
        "sure": {when: dict.fromkeys(shares, value) for when, value in both.items()},
        "faces": both,
        "clip_t": both,
        "kid": {"before": None, "after": 0.02},
        "variety": both,
        "clip_i": 0.9,
        "drift": 0.01,
        "minutes": None,
        "validation_bias": 0.3,
        "parameters": 1000,
        "megabytes": 0.5,
    } | about


def several():
    """A steady method, a method that varies, one between them with a single seed, and one of two attributes."""
    return [
        *(result("steady", seed, value) for seed, value in enumerate((0.20, 0.21, 0.22))),
        *(result("varies", seed, value) for seed, value in enumerate((0.40, 0.60, 0.50))),
        result("single", 0, 0.30),
        *(result("joint", seed, 0.3 + seed / 100, ("gender", "skin_tone")) for seed in range(3)),
    ]


def test_intervals_are_of_the_seeds_and_where_these_are_few_of_the_pooled_spread():
    table = leaderboard(several())
    assert list(table.index) == [ORIGINAL, "steady", "single", "varies", "joint"]
    row = table.loc["varies"]
    half = student.ppf(0.975, 2) * 0.1 / np.sqrt(3)
    assert (row.gender, row["gender low"], row["gender high"]) == pytest.approx((0.5, 0.5 - half, 0.5 + half))
    pooled = np.sqrt((2 * 0.01**2 + 2 * 0.1**2 + 2 * 0.01**2) / 6)
    assert table.loc["single", "gender high"] - 0.3 == pytest.approx(student.ppf(0.975, 6) * pooled)
    assert np.isnan(table.loc["single", "skin_tone"]) and np.isnan(table.loc["single", "joint"])
    assert table.loc["joint", "joint"] == pytest.approx(0.31) and table.loc[ORIGINAL, "joint"] == pytest.approx(0.8)
    assert (table.loc["varies", "seeds"], table.loc["varies", "note"]) == ("0 1 2", "")
    assert (table.loc["single", "seeds"], table.loc["single", "note"]) == ("0", "seed 1, 2 missing")


def test_a_method_that_trains_nothing_says_nothing_of_the_spread_of_trainings():
    steady = [result("steered", seed, 0.2 + seed / 100, validation_bias=None) for seed in range(3)]
    table = leaderboard([*steady, result("alone", 0, 0.15)])
    assert np.isnan(table.loc["alone", "gender low"]) and table.loc["steered", "gender low"] < 0.21
    assert best(table, "gender") == []  # that of the best mean is unknown
    table = leaderboard([*steady, result("alone", 0, 0.15, validation_bias=None)])
    assert table.loc["alone", "gender high"] - 0.15 == pytest.approx(student.ppf(0.975, 2) * 0.01)


def test_bold_is_the_best_and_what_the_spread_does_not_tell_from_it():
    table = leaderboard(several())
    assert best(table, "gender") == ["steady", "single"]  # .09 apart; half-widths .02 and .14
    assert best(table, "obeyed") == []  # all alike
    assert best(leaderboard([result("one", 0, 0.2), result("two", 0, 0.6)]), "gender") == []  # no spread is known
    text = leaderboard_markdown(several())
    assert "| steady | 0 1 2 | **0.210** (0.185 to 0.235; fair 0.100) |" in text
    assert "| varies | 0 1 2 | 0.500 (0.252 to 0.748; fair 0.100) |" in text
    assert "`fairnb experiment single`" in text and "| original | 0 1 2 | 0.800 (0.800 to 0.800; fair 0.140) |" in text


def test_diverged_trainings_are_rows_that_say_so():
    lost = {key: result("lost", 1, 0.5)[key] for key in ("experiment", "seed", "identity")}
    lost["diverged"] = "the loss is nan at update 7"
    table = leaderboard([*several(), lost, result("varies", 3, 0.5) | lost | {"experiment": "varies", "seed": 3}])
    assert table.loc["lost", "note"] == "seed 0, 2, 3 missing; seed 1 diverged: the loss is nan at update 7"
    assert np.isnan(table.loc["lost", "gender"]) and table.loc["lost", "seeds"] == ""
    assert table.loc["varies", "gender"] == pytest.approx(0.5) and "seed 3 diverged" in table.loc["varies", "note"]


def test_what_could_not_be_measured_is_an_empty_cell():
    faceless = result("faceless", 0, None, obeyed=None)  # as JSON has it
    table = leaderboard([*several(), faceless])
    assert table.loc["faceless", ["gender", "trained", "obeyed"]].isna().all()
    assert "| faceless | 0 |  |  |  |  | 0.800 (0.800 to 0.800; fair 0.700) |  | 0.800 |" in leaderboard_markdown(
        [*several(), faceless]
    )
    lost = {key: faceless[key] for key in ("experiment", "seed", "identity")} | {"diverged": "the loss is nan"}
    with pytest.raises(UserError, match="no result has figures of occupations .faceless: seed 0 diverged: the loss is"):
        leaderboard([lost])


@pytest.mark.parametrize("key", list(SHARED))
def test_results_that_cannot_be_compared_are_refused(key):
    other = result("other", 0, 0.1)
    other["identity"] |= {key: "another"}
    message = f"other of seed 0 belongs to another run .its {key} was another and is the same now.: leave it out"
    with pytest.raises(UserError, match=message):
        leaderboard([*several(), other])
