"""Where shipped data and outputs lie; files written atomically; JSON."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fairnb.errors import UserError

PACKAGE = Path(__file__).resolve().parent


def root() -> Path:
    """Return the folder that holds data/ and notebooks/: the repository, or fairnb/shipped in an installed wheel."""
    return PACKAGE / "shipped" if (PACKAGE / "shipped").is_dir() else PACKAGE.parent


def workspace() -> Path:
    """Return the folder where relative paths of a profile start: the repository, or with a wheel the current folder."""
    return Path.cwd() if root().parent == PACKAGE else root()


def located(path: str | Path) -> Path:
    """Return an input's absolute path: in the workspace, or else among the shipped files if only they have it."""
    own, shipped = workspace() / path, root() / path
    return shipped if shipped.exists() and not own.exists() else own


def write_atomically(path: str | Path, writer: Callable[[Path], object]) -> Path:
    """Call `writer` with a temporary path beside `path`, then rename it, so that no half-written file is ever seen.

    The temporary name is always the same, so a restarted run overwrites what a killed one left. `UserError` if the
    folder cannot be written or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer(temporary)
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{path} cannot be written ({reason}): free space or choose another output folder") from error
    finally:
        if temporary.parent.is_dir():
            temporary.unlink(missing_ok=True)
    return path


def write_json(path: str | Path, value: Any) -> Path:
    """Write JSON (UTF-8, indented); NaN becomes null, because JSON has no NaN."""
    text = json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if hasattr(value, "item"):  # numpy and torch scalars
        value = value.item()
    if isinstance(value, float) and value != value:
        return None
    return str(value) if isinstance(value, Path) else value


def read_json(path: str | Path) -> Any:
    """Read JSON; `UserError` if the file is missing or damaged."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}): delete it and make it again") from error


def require(path: str | Path, made_by: str) -> Path:
    """Return the path if it exists; otherwise raise `UserError` naming the notebook that makes it."""
    if not Path(path).exists():
        raise UserError(f"{path} is missing: run notebook {made_by} first")
    return Path(path)
