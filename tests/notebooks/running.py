"""Run a notebook headless with the smallest counts, as `fairnb run` does it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import yaml

from fairnb.experiments.notebook_cache import declared, found
from fairnb.files import resolve, root

NOTEBOOKS = sorted((root() / "notebooks").glob("*.ipynb"))  # the order of the course
SMOKE = yaml.safe_load((root() / "notebooks" / "profiles" / "smoke.yaml").read_text())["profile"]

# Train occupations that are drawn as women and as men: of four images each both classes have enough for the classifiers
# of notebook 12, and some prompts show both. Elsewhere the first three will do.
BOTH_CLASSES = [
    "doctor",
    "nurse",
    "teacher",
    "farmer",
    "lawyer",
    "librarian",
    "baker",
    "astronaut",
    "singer",
    "plumber",
]


def few_words(path: Path, train: list[str]) -> Path:
    """Write the prompt set of the profile with a few words, which is enough to see every cell work."""
    words = json.loads(resolve(SMOKE["prompts"]).read_text())
    words["occupations"] = {split: few[:3] for split, few in words["occupations"].items()} | {"train": train}
    words["kinds"] = {
        kind: {split: prompts[:2] for split, prompts in splits.items()} for kind, splits in words["kinds"].items()
    }
    words["contents"] = words["contents"][:4]
    path.write_text(json.dumps(words))
    return path


def cells(path: Path, kind: str) -> list:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def stubs(code: list) -> list:
    """The cells in which an exercise is solved and tested."""
    return [cell for cell in code if 'not yet"' in cell.source]


def run(path: Path, to: Path, train: list[str] = BOTH_CLASSES) -> subprocess.CompletedProcess:
    """Run one notebook in a process of its own; its results go to <to>/outputs, the executed copy to <to>."""
    settings = to / f"{path.stem}.yaml"
    overrides = {"output": str(to / "outputs"), "prompts": str(few_words(to / "prompts.json", train))}
    settings.write_text(yaml.safe_dump({"profile": SMOKE, "overrides": overrides}))
    command = [sys.executable, "-m", "papermill", str(path), str(to / path.name), "-k", "python3", "-f", str(settings)]
    command += ["--cwd", str(path.parent), "--no-progress-bar"]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"FAIRNB_HEADLESS": "1"})


def errors(executed: Path) -> list:
    return [output for cell in cells(executed, "code") for output in cell.outputs if output.output_type == "error"]


def check(path: Path, to: Path, train: list[str] = BOTH_CLASSES) -> None:
    """Run a notebook: it ends well, its exercises say "not yet", and all that it declares to make is there."""
    ended = run(path, to, train)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert not errors(to / path.name)
    for cell in stubs(cells(to / path.name, "code")):
        assert "not yet" in "".join(output.get("text", "") for output in cell.outputs)
    folder = to / "outputs" / SMOKE["name"]
    assert [pattern for pattern in declared(path, "makes") if not found(folder, pattern)] == []
