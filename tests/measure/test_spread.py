"""Several runs of one result: their spread, and whether another one lies inside."""

import json
from math import sqrt

import numpy as np
import pytest
from typer.testing import CliRunner

from fairnb.cli.app import app
from fairnb.errors import UserError
from fairnb.figures.page import write_report
from fairnb.files import write_json
from fairnb.measure.provenance import provenance
from fairnb.measure.spread import place, read_run, read_spread, write_spread
from fairnb.profiles import load_profile


def run(folder, seed, after=0.4, **changes):
    """An output folder with the figures of one training."""
    profile = load_profile("mini", {"seed": seed, "name": folder.name, "output": str(folder.parent), **changes})
    gender = {"bias_before": 0.9, "bias_after": after, "bias_random_control": 0.5, "n_images": 512}
    summary = {"gender": gender, "neurons": {"count": 40000 + 100 * (seed % 3)}, "minutes": {"total": seed}}
    write_json(folder / "summary.json", summary | {"provenance": provenance(profile)})
    return folder


def test_the_tolerance_is_students_prediction_interval(tmp_path):
    values = [0.3, 0.45, 0.41, 0.52, 0.38]
    folders = [run(tmp_path / f"run{seed}", seed, value) for seed, value in enumerate(values)]
    table = read_spread(write_spread(folders, tmp_path / "spread.json"))
    after = table.loc["gender.bias_after"]
    half = 2.7764451 * np.std(values, ddof=1) * sqrt(1.2)
    assert after[["n", "mean", "least", "most"]].tolist() == [5, pytest.approx(0.412), 0.3, 0.52]
    assert after[["low", "high"]].tolist() == pytest.approx([0.412 - half, 0.412 + half])
    assert after[["mean low", "mean high"]].tolist() == pytest.approx([0.412 - half / sqrt(6), 0.412 + half / sqrt(6)])
    assert table.loc["gender.bias_before", ["low", "high"]].tolist() == pytest.approx([0.882, 0.918])
    difference = table.loc["gender.bias_neurons_minus_random"]
    assert difference["mean"] == pytest.approx(-0.088) and difference.low < -0.2  # not cut at 0
    assert "minutes.total" not in table.index


def test_a_spread_is_extended_by_further_runs(tmp_path):
    folders = [run(tmp_path / f"run{seed}", seed, 0.4 + seed / 10) for seed in range(4)]
    whole = write_spread(folders, tmp_path / "whole.json").read_text()
    earlier = write_spread(folders[:2], tmp_path / "earlier.json")
    cli = CliRunner()
    more = [str(earlier), str(folders[2]), str(folders[3])]
    said = cli.invoke(app, ["spread", *more, "--out", str(tmp_path / "more.json")], catch_exceptions=False)
    assert said.exit_code == 0 and (tmp_path / "more.json").read_text() == whole
    write_spread(folders[2:], tmp_path / "later.json")
    both = [[earlier, tmp_path / "later.json"], [folders[0], folders[1], tmp_path / "later.json"]]
    assert all(write_spread(places, tmp_path / "both.json").read_text() == whole for places in both)
    refused = cli.invoke(app, ["spread", *more])
    assert isinstance(refused.exception, UserError) and "with --out" in str(refused.exception)
    with pytest.raises(UserError, match="seeds 0, 1, 1: give each seed once"):
        write_spread([earlier, folders[1]], tmp_path / "twice.json")
    other = run(tmp_path / "other", 9, **{"sampling.steps": 5})
    with pytest.raises(UserError, match="profile other has sampling.steps = 5, the runs of the spread 6"):
        write_spread([earlier, other], tmp_path / "mixed.json")
    assert not (tmp_path / "mixed.json").exists()


def test_a_further_run_is_inside_nineteen_times_in_twenty(tmp_path):
    values = np.random.default_rng(0).normal(0.5, 0.05, (2000, 6))
    figures = {f"figure {number}": row[:5].tolist() for number, row in enumerate(values)}
    write_json(tmp_path / "spread.json", {"settings": {}, "seeds": list(range(5)), "figures": figures})
    table = read_spread(tmp_path / "spread.json")
    assert np.mean((table.low <= values[:, 5]) & (values[:, 5] <= table.high)) == pytest.approx(0.95, abs=0.015)


def test_compare_says_inside_or_outside_and_refuses_other_settings(tmp_path):
    for seed, after in enumerate((0.40, 0.42, 0.44)):
        run(tmp_path / f"run{seed}", seed, after)
    cli, runs = CliRunner(), [str(tmp_path / f"run{seed}") for seed in range(3)]
    said = cli.invoke(app, ["spread", *runs], catch_exceptions=False)
    assert said.exit_code == 0 and (tmp_path / "run0" / "spread.json").is_file()
    near, far = run(tmp_path / "near", 7, 0.43), run(tmp_path / "far", 8, 0.9)
    assert "reproduced" in cli.invoke(app, ["compare", runs[0], str(near)], catch_exceptions=False).output
    said = cli.invoke(app, ["compare", f"{runs[0]}/spread.json", str(far)], catch_exceptions=False).output
    assert "outside: gender.bias_after, gender.bias_neurons_minus_random" in said
    other = run(tmp_path / "other", 9, **{"sampling.steps": 5})
    with pytest.raises(UserError, match="has sampling.steps = 5, the runs of the spread 6"):
        place(tmp_path / "run0" / "spread.json", *read_run(other))


def test_the_report_shows_the_spread(tmp_path):
    folders = [run(tmp_path / f"run{seed}", seed, 0.4 + seed / 10) for seed in range(2)]
    write_spread(folders, folders[0] / "spread.json")
    page = write_report(load_profile("mini", {"output": str(tmp_path), "name": "run0"})).read_text()
    assert "Spread over trainings" in page and "gender.bias_after" in page
    alone = run(tmp_path / "alone", 5)  # beside the five that came with the model
    page = write_report(load_profile("mini", {"output": str(tmp_path), "name": "alone"})).read_text()
    assert "this run" in page and "inside" in page
    run(alone, 5, **{"sampling.steps": 5})
    other = load_profile("mini", {"output": str(tmp_path), "name": "alone", "sampling.steps": 5})
    assert "Spread over trainings" not in write_report(other).read_text()


def test_bad_runs_are_named(tmp_path):
    one, two = run(tmp_path / "one", 0), run(tmp_path / "two", 0)
    with pytest.raises(UserError, match="seeds 0, 0: give each seed once"):
        write_spread([one, two], tmp_path / "spread.json")
    with pytest.raises(UserError, match="two or more"):
        write_spread([one], tmp_path / "spread.json")
    with pytest.raises(UserError, match="run notebook 07_plot_bias first"):
        write_spread([one, tmp_path / "none"], tmp_path / "spread.json")
    summary = json.loads((two / "summary.json").read_text())
    del summary["gender"]["bias_after"]
    write_json(two / "summary.json", summary)
    with pytest.raises(UserError, match="has no result yet"):
        read_run(two)
    for content in ("[]", '{"figures": {"a": [1]}, "seeds": [0, 1]}', '{"figures": 3}', "{"):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(UserError, match="bad.json"):
            read_spread(tmp_path / "bad.json")
    assert not (tmp_path / "spread.json").exists()
