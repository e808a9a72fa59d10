"""The results of experiments: means over seeds, what may be averaged, and what ships with the model."""

import json
from pathlib import Path

import numpy as np
import pytest

from fairnb.errors import UserError
from fairnb.experiments.results import read_results, results_table
from fairnb.files import root
from fairnb.profiles import WITHOUT_EFFECT, Experiment, load_profile


def test_the_table_takes_means_and_spread_over_seeds(tmp_path):
    def result(seed, after, **settings):
        identity = {"seed": seed, "finetune": {"updates": 100}, "triplets": f"of seed {seed}"} | settings
        bias = {"before": {"mean": 0.8}, "after": {"mean": after}}
        compared = {"bias": {"gender": bias}, "share": {"gender": {"after": {"mean": 0.6, "std": 0.1}}}}
        costs = {"clip_i": 0.9, "drift": 0.1, "minutes": 2.0, "parameters": 10, "megabytes": 0.1}
        seen = {
            "obeyed": {"gender": 1.0},
            "sure": {"after": {"gender": 0.9}},
            "faces": {"before": 1.0, "after": 0.95},
            "trained": {"occupations": {"gender": bias}},
            "worst": {when: {"gender": {"mean": 1.0, "floor": 0.5}} for when in ("before", "after")},
            "variety": {"before": 0.2, "after": 0.1 * seed},
            "kid": {"before": None, "after": 0.02},  # None where the images were too few
        }
        about = {"experiment": "one", "seed": seed, "identity": identity}
        return about | {"kinds": {"occupations": compared}} | costs | seen

    for seed, after in enumerate((0.2, 0.3, 0.4)):
        path = tmp_path / str(seed) / "experiments" / "one" / "result.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(result(seed, after)))
    row = results_table(read_results([tmp_path / str(seed) for seed in range(3)])).loc["one", "occupations", "gender"]
    assert row["trained after"] == 0.3 and row.faces == 0.95
    assert (row.seeds, row.before, row.after, row.sd, row.ratio) == (3, 0.8, 0.3, 0.1, 0.375)
    assert (row["worst after"], row["variety after"], row["kid after"]) == (1, 0.1, 0.02) and np.isnan(
        row["kid before"]
    )
    file = tmp_path / "all.json"
    file.write_text(json.dumps([result(1, 0.9), result(7, 0.5)]))  # of another machine; seed 1 is here too
    after = {each["seed"]: each for each in read_results([file, tmp_path / "1", tmp_path / "2"])}
    means = {seed: each["kinds"]["occupations"]["bias"]["gender"]["after"]["mean"] for seed, each in after.items()}
    assert means == {1: 0.3, 7: 0.5, 2: 0.4}
    with pytest.raises(UserError, match="none holds no experiment"):
        read_results([file, tmp_path / "none"])
    file.write_text(json.dumps([result(7, 0.5, finetune={"updates": 250})]))
    with pytest.raises(UserError, match="one of seed 7 .* .its finetune.updates was 250 and is 100 now"):
        read_results([file, tmp_path / "1"])
    file.write_text("[1]")
    with pytest.raises(UserError, match="all.json is not a file of results"):
        read_results([file])


# Not yet run on the model of 208 occupations (make experiments): all whose names begin so.
AWAITED = ("anywhere-", "exp-1-", "neurons-4", "neurons-5")


def test_the_shipped_results_are_of_todays_settings():
    P = load_profile("mini", {"evaluate.images": 32})  # as make experiments sets it
    results = read_results([Path(P.model) / "experiments.json"])
    there = {result["experiment"] for result in results}
    assert there == {name for name in P.experiments if not name.startswith(AWAITED)}
    for result in results:
        name, made = result["experiment"], result["provenance"]["parameters"]
        assert Experiment.model_validate(made["experiments"][name]) == P.experiments[name], name
        for section in ("sampling", "evaluate", "finetune"):  # a key added since then has its default
            today = getattr(P, section)
            assert type(today).model_validate(made[section]) == today, (name, section)


@pytest.mark.parametrize("sweep", ["weights", "words"])
def test_the_shipped_sweeps_are_of_todays_arms(sweep):
    shown = {"evaluate.images": 8, "evaluate.explicit_images": 4}  # as make sweeps sets them
    P = load_profile("mini", shown | {"experiments": str(root() / f"notebooks/profiles/sweeps/{sweep}.yaml")})
    results = read_results([Path(P.model) / f"{sweep}.json"])
    assert len(results) > 4
    for result in results:
        name, made = result["experiment"], result["identity"]
        assert made["finetune"] == P.finetune_of(name).model_dump(exclude=set(WITHOUT_EFFECT)), name
        located = P.locate_of(name).model_dump() if P.experiments[name].adapter == "neurons" else None
        assert made.get("locate") == located, name
        assert made["experiment"] == P.experiments[name].model_dump(exclude={"finetune", "locate"}), name
        assert made["evaluate"] == P.evaluate.model_dump() and made["sampling"] == P.sampling.model_dump(), name
