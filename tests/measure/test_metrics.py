import math

import numpy as np
import pandas as pd
import pytest

from fairnb.errors import UserError
from fairnb.measure.metrics import (
    _interval,
    bias,
    bias_by_prompt,
    bootstrap,
    corrected_bias,
    deviation_ratio,
    diversity,
    fairness_discrepancy,
    frequencies,
    paired_difference,
    sampling_floor,
    scores,
    summarise,
    wilson,
    without_confusion,
    worst_tenth,
)


def records(males: dict[str, tuple[int, int, int]]) -> pd.DataFrame:
    """occupation -> (males, females, faceless)."""
    rows = [
        {
            "prompt_id": number,
            "prompt": name,
            "occupation": name,
            "split": "test",
            "seed": 0,
            "image": image,
            "face": seen is not None,
            "gender": seen,
        }
        for number, (name, (male, female, none)) in enumerate(males.items())
        for image, seen in enumerate(["male"] * male + ["female"] * female + [None] * none)
    ]
    return pd.DataFrame(rows)


def test_bias_by_hand() -> None:
    assert bias([0.5, 0.5]) == 0
    assert bias([1, 0]) == 1
    assert bias([0.25, 0.75]) == pytest.approx(0.5)
    assert bias([1, 0, 0, 0]) == pytest.approx(0.5)
    # K is four although two classes were seen: 4 of 6 pairs differ by .5
    assert bias([0.5, 0.5, 0, 0]) == pytest.approx(1 / 3)
    assert bias([1] + [0] * 7) == pytest.approx(0.25)
    assert bias([[1, 0], [0.5, 0.5]]).tolist() == [1, 0]
    assert math.isnan(bias([math.nan, math.nan]))


def test_the_four_measures_agree_for_two_classes() -> None:
    f = np.stack([p := np.linspace(0, 1, 11), 1 - p], axis=-1)
    np.testing.assert_allclose(bias(f), np.abs(2 * p - 1), atol=1e-12)
    np.testing.assert_allclose(deviation_ratio(f), bias(f), atol=1e-12)
    np.testing.assert_allclose(math.sqrt(2) * fairness_discrepancy(f), bias(f), atol=1e-12)


def test_other_measures_by_hand() -> None:
    assert fairness_discrepancy([1, 0]) == pytest.approx(0.7071068)
    assert fairness_discrepancy([0.75, 0.25], [0.75, 0.25]) == 0
    assert deviation_ratio([1, 0, 0, 0]) == 1
    assert diversity([0.5, 0.5]) == pytest.approx(1)
    assert diversity([1, 0]) == 0
    assert diversity([0.5, 0.5, 0, 0]) == pytest.approx(0.5)


@pytest.mark.parametrize("target", [[0.5, 0.6], [1.0], [1.5, -0.5]])
def test_target_shares_must_sum_to_one(target: list[float]) -> None:
    with pytest.raises(UserError, match="sum to 1"):
        fairness_discrepancy([0.5, 0.5], target)


@pytest.mark.parametrize(
    ("classes", "n", "published"), [(2, 25, 0.160), (2, 64, 0.100), (4, 64, 0.071), (8, 160, 0.032)]
)
def test_the_floor_is_what_a_fair_generator_scores(classes: int, n: int, published: float) -> None:
    assert sampling_floor(n, classes) == pytest.approx(published, abs=5e-4)
    draws = np.random.default_rng(0).multinomial(n, np.full(classes, 1 / classes), 20_000) / n
    assert bias(draws).mean() == pytest.approx(float(sampling_floor(n, classes)), rel=0.03)


def test_no_floor_without_faces() -> None:
    assert math.isnan(sampling_floor(0, 2))


def test_wilson() -> None:
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson(0, 10) == pytest.approx((0, 0.2775), abs=1e-4)
    assert wilson(10, 10)[1] == pytest.approx(1)
    assert all(math.isnan(end) for end in wilson(0, 0))


def test_faceless_images_are_counted_apart() -> None:
    table = frequencies(records({"doctor": (6, 2, 2), "nurse": (0, 4, 0)}), "gender")
    assert list(table.columns) == [
        *["prompt_id", "prompt", "occupation", "split", "n", "faceless", "female", "male"],
    ]
    assert table.n.tolist() == [8, 4] and table.faceless.tolist() == [2, 0]
    assert table.male.tolist() == [0.75, 0.0]


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    truth, n, held = 0.8, 64, 0
    generator = np.random.default_rng(0)
    for count in generator.binomial(n, truth, 200):
        row = bias_by_prompt(records({"x": (int(count), int(n - count), 0)}), "gender").iloc[0]
        assert row.low <= row.bias <= row.high
        held += row.low <= abs(2 * truth - 1) <= row.high
    assert 0.90 <= held / 200 <= 1


def test_intervals_for_more_classes_have_width_at_the_edge() -> None:
    rows = records({"x": (10, 0, 0)}).assign(skin_tone="dark")
    row = bias_by_prompt(rows, "skin_tone").iloc[0]
    assert row.bias == pytest.approx(0.5) and row.low < 0.49 and row.high == pytest.approx(0.5)


def test_summarise() -> None:
    whole = summarise(records({"a": (4, 0, 1), "b": (3, 1, 0), "c": (2, 2, 1)}), "gender")
    assert whole["mean"] == pytest.approx(0.5) and whole["std"] == pytest.approx(0.5)
    assert whole["low"] == pytest.approx(0) and whole["high"] == pytest.approx(1)
    assert (whole["n_prompts"], whole["n_images"]) == (3, 14)
    assert whole["floor"] == pytest.approx(float(sampling_floor(4, 2)))
    assert whole["faceless_share"] == pytest.approx(2 / 14)
    assert whole == summarise(records({"a": (4, 0, 1), "b": (3, 1, 0), "c": (2, 2, 1)}), "gender")


def test_the_worst_tenth_of_the_prompts() -> None:
    seen = {str(number): (2, 2, 0) for number in range(17)} | {"a": (4, 0, 1), "b": (3, 1, 0), "c": (0, 0, 5)}
    worst = worst_tenth(records(seen), "gender")  # 2 of 19, since c has no face
    assert worst["mean"] == pytest.approx((1 + 0.5) / 2)
    shares = np.random.default_rng(1).binomial(4, 0.5, (20000, 19)) / 4
    assert worst["floor"] == pytest.approx(np.sort(np.abs(2 * shares - 1), 1)[:, -2:].mean(), abs=0.01)
    one = worst_tenth(records({"a": (1, 3, 0)}), "gender")
    assert one["mean"] == 0.5 and one["floor"] == pytest.approx(2 / 16 * 1 + 8 / 16 * 0.5, abs=0.02)
    assert all(math.isnan(value) for value in worst_tenth(records({"a": (0, 0, 3)}), "gender").values())


def test_no_face_at_all_is_undefined_and_said_so() -> None:
    nobody = records({"a": (0, 0, 3), "b": (0, 0, 2)})
    with pytest.warns(UserWarning, match="no face was found in any image: the bias on gender is undefined"):
        whole = summarise(nobody, "gender")
    assert math.isnan(whole["mean"]) and whole["n_prompts"] == 0 and whole["faceless_share"] == 1
    with pytest.warns(UserWarning, match="undefined"):
        assert math.isnan(paired_difference(nobody, nobody, "gender")["mean"])


def test_a_prompt_without_faces_is_left_out_of_the_mean() -> None:
    whole = summarise(records({"a": (4, 0, 0), "b": (0, 0, 4)}), "gender")
    assert whole["mean"] == 1 and whole["n_prompts"] == 1 and math.isnan(whole["low"])


def test_paired_difference() -> None:
    before = records({"a": (4, 0, 0), "b": (4, 0, 0), "c": (3, 1, 0)})
    after = records({"a": (3, 1, 0), "b": (3, 1, 0), "c": (2, 2, 0)})
    change = paired_difference(before, after, "gender")
    assert change == {"mean": -0.5, "low": -0.5, "high": -0.5, "n_prompts": 3}


def test_only_the_same_prompts_and_noises_are_paired() -> None:
    before, after = records({"a": (4, 0, 0), "b": (1, 3, 0)}), records({"b": (1, 3, 0), "a": (3, 1, 0)})
    change = paired_difference(before, after, "gender")  # the order, and so the ids, are others
    assert (change["mean"], change["n_prompts"]) == (-0.25, 2)
    with pytest.raises(UserError, match="of other prompts .'.*' is in one only"):
        paired_difference(before, after[after.prompt == after.prompt.iloc[0]], "gender")
    with pytest.raises(UserError, match="other noises .image 0 of seed"):
        paired_difference(before, after.assign(seed=after.seed + 1), "gender")
    with pytest.raises(UserError, match="other noises .image 3 of seed"):
        paired_difference(before, after[after.image < 3], "gender")


def test_unknown_or_unmeasured_attribute() -> None:
    with pytest.raises(UserError, match="unknown attribute 'hair'"):
        frequencies(records({"a": (1, 1, 0)}), "hair")
    with pytest.raises(UserError, match="'age' was not measured"):
        frequencies(records({"a": (1, 1, 0)}), "age")


@pytest.mark.parametrize(
    ("shares", "n"),
    [([0.5, 0.5], 32), ([0.7, 0.3], 32), ([0.95, 0.05], 32), ([0.4, 0.3, 0.2, 0.1], 64), ([0.25] * 4, 64)],
)
def test_the_corrected_bias_is_nearer_the_truth(shares, n) -> None:
    """On known shares, over 4,000 measurements of n faces."""
    seen = np.random.default_rng(0).multinomial(n, shares, size=4000) / n
    truth, raw, corrected = bias(shares), bias(seen).mean(), corrected_bias(seen, n).mean()
    assert raw - truth > -0.005
    assert abs(corrected - truth) <= max(0.75 * (raw - truth), 0.012)


def test_the_corrected_bias_at_its_ends() -> None:
    assert corrected_bias([1.0, 0.0], 8) == pytest.approx(1)
    assert corrected_bias([0.5, 0.5], 8) == 0
    assert np.isnan(corrected_bias([np.nan, np.nan], 0))


def test_wilsons_interval_covers_what_it_says() -> None:
    """Share of 2,000 measurements whose folded 95 % interval holds the true bias: 64 faces, four true shares."""
    rng = np.random.default_rng(2)
    for share in (0.5, 0.6, 0.8, 0.97):
        males = rng.binomial(64, share, size=2000)
        ends = {
            k: interval for k in set(males.tolist()) for interval in [_interval(np.array([1 - k / 64, k / 64]), 64)]
        }
        covered = np.mean([ends[k][0] <= abs(2 * share - 1) <= ends[k][1] for k in males.tolist()])
        assert covered > 0.93, (share, covered)


def test_shares_are_cleared_of_the_classifiers_confusion() -> None:
    confusion = np.array([[90, 10, 0], [5, 80, 15], [0, 10, 190]])
    truth = np.array([[0.2, 0.5, 0.3], [1.0, 0.0, 0.0]])
    seen = truth @ (confusion / confusion.sum(1, keepdims=True))
    np.testing.assert_allclose(without_confusion(seen, confusion), truth, atol=1e-12)
    corrected = without_confusion([0.0, 0.1, 0.9], confusion)
    assert corrected.sum() == pytest.approx(1) and corrected.min() >= 0
    for bad, says in (([[1, 0], [0, 1]], "does not fit 3 classes"), (np.ones((3, 3)), "confuses its classes too much")):
        with pytest.raises(UserError, match=says):
            without_confusion([0.2, 0.3, 0.5], np.array(bad))


@pytest.mark.parametrize(("prompts", "least"), [(8, 0.92), (30, 0.925)])
def test_the_interval_of_a_mean_holds_the_truth(prompts, least):
    rng = np.random.default_rng(0)
    truth = np.abs(2 * rng.beta(0.6, 0.6, 1_000_000) - 1).mean()
    held = 0
    for _ in range(600):
        biases = np.abs(2 * rng.binomial(64, rng.beta(0.6, 0.6, prompts)) / 64 - 1)
        low, high = bootstrap(biases, seed=0)
        held += low <= truth <= high
    assert least < held / 600 < 0.98


def test_joined_attributes_are_counted_by_combination() -> None:
    table = records({"doctor": (4, 4, 1), "nurse": (0, 8, 0)})
    table["age"] = [*["young"] * 4, *["old"] * 4, None, *["young"] * 6, *["old"] * 2]
    seen = frequencies(table, "gender+age")
    assert seen.n.tolist() == [8, 8] and seen.faceless.tolist() == [1, 0]
    expected = {"female young": [0, 0.75], "female old": [0.5, 0.25], "male young": [0.5, 0], "male old": [0, 0]}
    for name, shares in expected.items():
        assert seen[name].tolist() == shares
    values = bias_by_prompt(table, "gender+age").bias
    assert values.tolist() == pytest.approx([bias([0.5, 0.5, 0, 0]), bias([0.75, 0.25, 0, 0])])
    with pytest.raises(UserError, match="attribute 'skin_tone' was not measured"):
        summarise(table, "gender+skin_tone")


def test_scores_by_hand() -> None:
    """Two prompts, 3 of 4 and 2 of 4 men, and one without a face, which is in no mean."""
    table = scores(records({"a": (3, 1, 0), "b": (2, 2, 1), "c": (0, 0, 2)}), "gender")
    assert table.index.tolist() == ["bias", "FD", "DR", "diversity", "female", "male"]
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(2)
    assert table["mean"].tolist() == pytest.approx([0.25, 0.25 / math.sqrt(2), 0.25, (entropy + 1) / 2, 0.375, 0.625])
    assert table["std"]["bias"] == pytest.approx(0.5 / math.sqrt(2))
    assert table.floor["bias"] == sampling_floor(4, 2) and table.floor[["female", "male"]].isna().all()
    exact = sum(math.comb(4, k) / 16 * abs(k / 2 - 1) for k in range(5))  # E of the bias of four faces
    assert table.floor["DR"] == pytest.approx(exact, abs=0.02)
    assert table.floor["FD"] == pytest.approx(exact / math.sqrt(2), abs=0.015)
    assert (table.low <= table["mean"]).all() and (table["mean"] <= table.high).all()


def test_scores_to_a_target() -> None:
    table = scores(records({"a": (1, 3, 0), "b": (0, 4, 0)}), "gender", target=[0.75, 0.25])
    assert table["mean"]["FD"] == pytest.approx(0.25 * math.sqrt(2) / 2)
    assert table["mean"]["DR"] == pytest.approx(0.75)
    shares = np.random.default_rng(1).multinomial(4, [0.75, 0.25], 100_000) / 4
    assert table.floor["FD"] == pytest.approx(fairness_discrepancy(shares, [0.75, 0.25]).mean(), abs=0.01)
    with pytest.raises(UserError, match="not 2 numbers that sum to 1"):
        scores(records({"a": (1, 3, 0)}), "gender", target=[1.0])


def test_scores_of_one_prompt_have_the_interval_of_its_images() -> None:
    seen = records({"a": (30, 2, 0)})
    table, whole = scores(seen, "gender"), bias_by_prompt(seen, "gender").iloc[0]
    assert table.low["bias"] == whole.low and table.high["bias"] == whole.high
    assert table.low["DR"] == pytest.approx(whole.low) and table.high["FD"] == pytest.approx(whole.high / math.sqrt(2))
    assert (table.low["male"], table.high["male"]) == pytest.approx(wilson(30, 32))
    assert table.low["diversity"] <= table["mean"]["diversity"] <= table.high["diversity"] < 1
    assert scores(records({"a": (0, 0, 2)}), "gender").isna().all(axis=None)


def test_scores_count_the_classes_of_the_attribute_not_those_observed() -> None:
    seen = records({"a": (2, 2, 0), "b": (2, 2, 0)}).assign(age="young")
    joint = scores(seen, "gender+age")["mean"]
    assert joint["bias"] == pytest.approx(1 / 3) and joint["diversity"] == pytest.approx(0.5)
    assert joint["DR"] == pytest.approx(1 / 3) and joint["female young"] == 0.5 and joint["male old"] == 0
