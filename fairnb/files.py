"""Where shipped data and outputs lie; files written atomically; folders used by one run at a time; JSON."""

import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fairnb.errors import UserError

PACKAGE = Path(__file__).resolve().parent
SHIPPED = "fairnb:"  # begins the name of a file that comes with the package, wherever one stands: fairnb:data/mini-sd
LOCK = ".in-use"


def root() -> Path:
    """Return the folder that holds data/ and notebooks/: the repository, or fairnb/shipped in an installed wheel."""
    return PACKAGE / "shipped" if (PACKAGE / "shipped").is_dir() else PACKAGE.parent


def workspace() -> Path:
    """Return the folder where the shipped profiles put their results: the repository, or with a wheel the current
    folder."""
    return Path.cwd() if root().parent == PACKAGE else root()


def resolve(path: str | Path, base: str | Path | None = None) -> Path:
    """Return the absolute path of what a user named: relative to `base` or else to where they stand.

    A name that begins with `SHIPPED` is that of a file which comes with the package.
    """
    text = str(path)
    if text.startswith(SHIPPED):
        return root() / text.removeprefix(SHIPPED)
    return Path(os.path.abspath((Path.cwd() if base is None else Path(base)) / Path(text).expanduser()))


def write_atomically(path: str | Path, writer: Callable[[Path], object]) -> Path:
    """Call `writer` with a temporary path beside `path`, then rename it, so that no half-written file is ever seen.

    The temporary name is hidden and unique, so processes that write the same file do not disturb each other.
    `UserError` if the folder cannot be written or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.part{path.suffix}")
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


@contextmanager
def one_run_in(folder: str | Path, wait: bool = False) -> Iterator[None]:
    """Use a folder alone within the context; `UserError` if another run does, unless it may `wait` for its end.

    The system frees the folder when its process ends, however it ends. What a killed run left half written is removed.
    """
    folder = Path(folder)
    with _locked(folder, LOCK, wait):
        for other in folder.glob(f"{LOCK}-*"):  # of shards
            with _locked(folder, other.name, wait=False):
                other.unlink(missing_ok=True)
        remove_leftovers(folder)
        yield


@contextmanager
def one_shard_in(folder: str | Path, shard: str, claim: Callable[[], object]) -> Iterator[None]:
    """Use a folder beside other shards, as the only one of this name; `claim` is called while no other writes."""
    folder = Path(folder)
    with _locked(folder, f"{LOCK}-{shard}", wait=False):
        with _locked(folder, LOCK, wait=True):
            claim()
        yield


@contextmanager
def _locked(folder: Path, name: str, wait: bool) -> Iterator[None]:
    lock = FileLock(folder / name, timeout=-1 if wait else 0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise UserError(f"{folder} is in use by another run: wait for its end or choose another folder") from error
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}): choose another output folder") from error
    try:
        yield
    finally:
        lock.release()


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that `write_atomically` left in a folder when it was killed."""
    for path in folder.glob(".*.part*"):
        path.unlink(missing_ok=True)


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
