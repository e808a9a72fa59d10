"""Notebooks 00 to 12, run one after the other in the profile smoke."""

import shutil
from pathlib import Path

import pytest

from tests.notebooks.running import NOTEBOOKS, SMOKE, check

COURSE = [path for path in NOTEBOOKS if path.stem[:2] <= "12"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the notebooks share their results."""
    return tmp_path_factory.mktemp("course")


@pytest.mark.slow
@pytest.mark.parametrize("path", COURSE, ids=lambda path: path.stem)
def test_runs_headless_and_makes_what_it_declares(path, place):
    if path != COURSE[0] and not (place / "ran").exists():
        pytest.skip("an earlier notebook failed or was not run")
    (place / "ran").unlink(missing_ok=True)
    check(path, place)
    (place / "ran").touch()


@pytest.mark.slow
def test_every_figure_has_a_caption(place):
    if not (place / "ran").exists():
        pytest.skip("the course was not run to its end")
    figures = list((place / "outputs" / SMOKE["name"] / "figures").glob("*.png"))
    assert len(figures) > 30 and all(figure.with_suffix(".txt").read_text().strip() for figure in figures)
    shutil.rmtree(place / "outputs")
