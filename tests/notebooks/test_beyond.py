"""The notebooks that need no earlier one, and those that say which one they need."""

import pytest
import yaml

from fairnb.errors import UserError
from tests.notebooks.running import BOTH_CLASSES, NOTEBOOKS, SMOKE, cells, check

BEYOND = [path for path in NOTEBOOKS if path.stem[:2] > "12"]


@pytest.mark.slow
@pytest.mark.parametrize("path", BEYOND, ids=lambda path: path.stem)
def test_runs_headless_on_its_own(path, tmp_path):
    check(path, tmp_path, BOTH_CLASSES[:3])


@pytest.mark.parametrize(
    ("number", "missing"), [("05", "03_find_bias_neurons"), ("06", "05_finetune_bias_neurons"), ("07", None)]
)
def test_a_notebook_without_its_input_says_what_to_run(number, missing, tmp_path, monkeypatch):
    path = next(path for path in NOTEBOOKS if path.stem.startswith(number))
    settings = tmp_path / "settings.yaml"
    settings.write_text(yaml.safe_dump({"profile": SMOKE | {"output": str(tmp_path)}}))
    monkeypatch.chdir(path.parent)
    names = {}
    with pytest.raises(UserError, match=rf"^\S* is missing: run notebook {missing or '[0-9]{2}_[a-z_]+'} first$"):
        for cell in cells(path, "code"):
            exec(cell.source, names)
            if "profile" in names and "P" not in names:
                names["profile"] = str(settings)
