"""Files that are there whole or not at all: atomic writes, JSON, and where the repository's own data lies."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fairnb.errors import UserError


def root() -> Path:
    """The repository: the folder that holds data/ and notebooks/."""
    return Path(__file__).resolve().parent.parent


def write_atomically(path: str | Path, writer: Callable[[Path], object]) -> Path:
    """Call `writer` with a temporary path beside `path`, then rename: a file is there whole or not at all.

    The temporary name is the same every time, so a killed run leaves nothing behind once it is started again.
    `UserError` when the folder cannot be written or the disk is full.
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
    """Write JSON (UTF-8, indented; NaN becomes null, since JSON has none)."""
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
    """Read JSON; `UserError` names a file that is missing or damaged."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}): delete it and run what makes it again") from error


def require(path: str | Path, made_by: str) -> Path:
    """The path, if it is there; else `UserError` that says which notebook makes it."""
    if not Path(path).exists():
        raise UserError(f"{path} is missing: run notebook {made_by} first")
    return Path(path)
