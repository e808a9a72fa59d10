"""The structure of the package: imports run one way, without circles, and no module grows out of hand."""

import ast
from pathlib import Path

import pytest

import fairnb

HOME = Path(fairnb.__file__).parent
# Rooms (and the modules that stand alone) from the ground up: each imports only from itself and from those before it.
ROOMS = [
    "errors",
    "files",
    "identity",
    "memory",
    "seeds",
    "tensors",
    "shards",
    "prompts",
    "profiles",
    "diffusion",
    "vision",
    "measure",
    "adapters",
    "training",
    "figures",
    "experiments",
    "cli",
    "miniworld",
    "bench",
]
LONGEST = 400  # lines of a module


def modules() -> dict[str, Path]:
    """Dotted name below fairnb -> file, without the package's own __init__ and __main__."""
    paths = {path.relative_to(HOME).with_suffix(""): path for path in sorted(HOME.rglob("*.py"))}
    return {".".join(name.parts): path for name, path in paths.items() if len(name.parts) > 1 or name.stem[0] != "_"}


def imports(path: Path, known: set[str]) -> set[str]:
    """The modules of the package that a module imports, also within functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = f"{node.module}"
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {name.removeprefix("fairnb.") for name in names if name.startswith("fairnb.")} & known
    return found


ARROWS = {name: imports(path, set(modules())) for name, path in modules().items()}


def test_every_room_is_on_the_list():
    assert {name.partition(".")[0] for name in ARROWS} == set(ROOMS)
    assert sum(len(targets) for targets in ARROWS.values()) > 100  # the arrows are really seen


@pytest.mark.parametrize("name", ARROWS)
def test_imports_run_one_way(name):
    room = ROOMS.index(name.partition(".")[0])
    against = {target for target in ARROWS[name] if ROOMS.index(target.partition(".")[0]) > room}
    assert not against, f"{name} imports {', '.join(sorted(against))} from a room above it"
    assert room == ROOMS.index("miniworld") or not any(target.startswith("miniworld.") for target in ARROWS[name])


def test_no_modules_import_each_other_in_a_circle():
    left = {name: set(targets) for name, targets in ARROWS.items()}
    while free := {name for name, targets in left.items() if not targets}:
        left = {name: targets - free for name, targets in left.items() if name not in free}
    assert not left, f"in or above a circle: {', '.join(left)}"


@pytest.mark.parametrize("name", ARROWS)
def test_no_module_is_too_long(name):
    assert len(modules()[name].read_text(encoding="utf-8").splitlines()) <= LONGEST
