"""The form of the notebooks: valid, without outputs, short cells, claim, objectives, exercises, limits."""

import ast
import builtins
import importlib
import pkgutil
import re
from itertools import pairwise

import nbformat
import numpy as np
import papermill
import pytest

from fairnb.files import root
from tests.notebooks.running import NOTEBOOKS, cells, stubs

by_name = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


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
