"""The notebooks that need no earlier one, and those that say which one they need."""

import re

import pytest

from tests.notebooks.running import NOTEBOOKS, check, errors, run

BEYOND = [path for path in NOTEBOOKS if path.stem[:2] > "12"]


@pytest.mark.slow
@pytest.mark.parametrize("path", BEYOND, ids=lambda path: path.stem)
def test_runs_headless_on_its_own(path, tmp_path):
    check(path, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "missing"), [("05", "03_find_bias_neurons"), ("06", "05_finetune_bias_neurons"), ("07", None)]
)
def test_a_notebook_run_before_its_input_exists_says_in_one_sentence_what_to_run(number, missing, tmp_path):
    path = next(path for path in NOTEBOOKS if path.stem.startswith(number))
    assert run(path, tmp_path).returncode != 0
    (error,) = errors(tmp_path / path.name)
    assert error.ename == "UserError"
    assert re.fullmatch(rf".* is missing: run notebook {missing or '[0-9]{2}_[a-z_]+'} first", error.evalue)
