"""The notebooks: their form (fast), and all of them run headless with the smallest counts (slow)."""

import ast
import builtins
import importlib
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import nbformat
import numpy as np
import papermill
import pytest
import yaml

from fairnb.files import root

NOTEBOOKS = sorted((root() / "notebooks").glob("*.ipynb"))  # 00 … 07, then A1: the order in which they run
SMOKE = yaml.safe_load((root() / "notebooks" / "profiles" / "smoke.yaml").read_text())["profile"]
built = pytest.mark.skipif(
    not (root() / SMOKE["model"] / "model_index.json").is_file(), reason="data/mini-sd is not built yet (make mini-sd)"
)
by_name = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path: Path, kind: str) -> list:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def stubs(code: list) -> list:
    """The cells in which an exercise is solved and tested."""
    return [cell for cell in code if 'not yet"' in cell.source]


def names(source: str) -> tuple[set[str], set[str]]:
    """The names that Python source binds, and those that it reads."""
    stored, loaded = set(), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            (loaded if isinstance(node.ctx, ast.Load) else stored).add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            stored.add(node.name)
        elif isinstance(node, ast.arg):
            stored.add(node.arg)
        elif isinstance(node, ast.alias):
            stored.add((node.asname or node.name).split(".")[0])
    return stored, loaded


@by_name
def test_is_valid_and_committed_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in cells(path, "code"):
        assert not cell.outputs and cell.execution_count is None


@by_name
def test_has_exactly_the_two_parameters(path):
    tagged = [cell for cell in cells(path, "code") if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    found = papermill.inspect_notebook(str(path))
    assert {name: about["default"] for name, about in found.items()} == {"profile": '"mini"', "overrides": "{}"}


@by_name
def test_cells_are_short_and_announced(path):
    code = cells(path, "code")
    lengths = np.array([len(cell.source.splitlines()) for cell in code])
    assert np.median(lengths) <= 10 and np.quantile(lengths, 0.9) <= 30 and lengths.max() <= 40
    assert len(cells(path, "markdown")) >= len(code) / 2


@by_name
def test_states_claim_objectives_and_limits(path):
    first, *rest = [cell.source for cell in cells(path, "markdown")]
    assert first.startswith(f"# {path.stem[:2]} · ")
    assert re.search(r"^\*\*Claim: [^*]*(\*\w+\*[^*]*)*\.\*\*", first, re.M)
    assert re.search(r"^After this notebook you can\n(- .+,\n){2,}- .+\.$", first, re.M)
    assert any(re.search(r"^## Limits$", text, re.M) for text in rest)


@by_name
def test_exercises_have_a_stub_and_a_solution(path):
    everything = nbformat.read(path, as_version=4).cells
    tested = [before for before, cell in pairwise(everything) if stubs([cell])]
    assert tested and all(re.search(r"^### (Exercise \d|[A-Z]) .*●", before.source, re.M) for before in tested)
    text = "\n".join(cell.source for cell in cells(path, "markdown"))
    assert len(tested) == len(stubs(everything)) <= text.count("<summary>Solution</summary>")


@by_name
def test_markdown_names_only_what_exists(path):
    text = "\n".join(cell.source for cell in cells(path, "markdown"))
    for name in re.findall(r"`(fairnb(?:\.\w+)+)`", text):
        pkgutil.resolve_name(name)
    for file in re.findall(r"\b(?:fairnb|data|notebooks)/[\w/.]+\.\w+", text):
        assert (root() / file).is_file(), file
    defined = set(dir(builtins)).union(*(names(cell.source)[0] for cell in cells(path, "code")))
    for solution in re.findall(r"```python\n(.*?)```", text, re.S):
        stored, loaded = names(solution)
        assert loaded <= defined | stored
        for node in ast.walk(ast.parse(solution)):
            if isinstance(node, ast.ImportFrom):
                assert all(hasattr(importlib.import_module(node.module), alias.name) for alias in node.names)


@by_name
def test_nothing_branches_on_the_profiles_name(path):
    for cell in cells(path, "code"):
        assert not re.search(r"\b(P\.name|profile)\s*(==|!=|in\b)", cell.source)


def test_the_main_path_is_complete():
    assert [path.stem[:2] for path in NOTEBOOKS if path.stem[:2] < "08"] == [f"0{number}" for number in range(8)]


def run(path: Path, output: Path, to: Path) -> subprocess.CompletedProcess:
    """One notebook in a process of its own, as `fairnb run` does it."""
    settings = to / f"{path.stem}.yaml"
    settings.write_text(yaml.safe_dump({"profile": SMOKE, "overrides": {"output": str(output)}}))
    command = [sys.executable, "-m", "papermill", str(path), str(to / path.name), "-k", "python3", "-f", str(settings)]
    command += ["--cwd", str(path.parent), "--no-progress-bar"]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"FAIRNB_HEADLESS": "1"})


def errors(executed: Path) -> list:
    return [output for cell in cells(executed, "code") for output in cell.outputs if output.output_type == "error"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the run notebooks share their artefacts; the tests below run in the order of the course."""
    return tmp_path_factory.mktemp("course")


@pytest.mark.slow
@built
@by_name
def test_runs_headless(path, place):
    if not path.stem.startswith(("00", "A1")) and not (place / "ran").exists():
        pytest.skip("an earlier notebook was not run")
    (place / "ran").unlink(missing_ok=True)
    ended = run(path, place / "outputs", place)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert not errors(place / path.name)
    for cell in stubs(cells(place / path.name, "code")):
        assert "not yet" in "".join(output.get("text", "") for output in cell.outputs)
    (place / "ran").touch()


@pytest.mark.slow
@built
def test_the_course_leaves_its_artefacts(place):
    folder = place / "outputs" / SMOKE["name"]
    if not (folder / "records" / "explicit_neurons.parquet").exists():
        pytest.skip("the course was not run")
    expected = ["summary.json", "neurons/bias.safetensors", "neurons/random.safetensors", "tables/neurons.csv"]
    for name in ("neurons", "random"):
        expected += [f"finetune/{name}/patch.safetensors", f"finetune/{name}/history.csv"]
    for name in ("biased", "original", "neurons", "random", "explicit_original"):
        expected.append(f"records/{name}.parquet")
    assert [name for name in expected if not (folder / name).is_file()] == []
    for figure in (folder / "figures").glob("*.png"):
        assert figure.with_suffix(".txt").read_text().strip()
    shutil.rmtree(place / "outputs")


@pytest.mark.slow
@built
@pytest.mark.parametrize(
    ("number", "missing"), [("05", "03_find_bias_neurons"), ("06", "05_finetune_bias_neurons"), ("07", None)]
)
def test_a_notebook_run_before_its_input_exists_says_in_one_sentence_what_to_run(number, missing, tmp_path):
    path = next(path for path in NOTEBOOKS if path.stem.startswith(number))
    ended = run(path, tmp_path / "outputs", tmp_path)
    assert ended.returncode != 0
    (error,) = errors(tmp_path / path.name)
    assert error.ename == "UserError"
    assert re.fullmatch(rf".* is missing: run notebook {missing or '[0-9]{2}_[a-z_]+'} first", error.evalue)
