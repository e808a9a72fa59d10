"""What was measured, as files: one Parquet row per image, FFD's pickle, JSON with its provenance, all written whole."""

import io
import json
import os
import pickle
import platform
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from pandas.api.types import is_bool_dtype, is_integer_dtype, is_numeric_dtype

from fairnb.attributes import AGE, ATTRIBUTES, GENDER, RACE, Attribute
from fairnb.errors import UserError
from fairnb.profiles import Profile, root

BOX = ["box_x0", "box_y0", "box_x1", "box_y1"]
COLUMNS = [
    *["prompt_id", "prompt", "occupation", "split", "image", "seed", "path"],
    *["face", "face_probability", *BOX],
]
PACKAGES = ["torch", "diffusers", "transformers", "accelerate", "facenet-pytorch", "numpy", "pandas", "scipy"]


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


def attributes_of(records: pd.DataFrame) -> list[Attribute]:
    """The attributes that a records table has columns for."""
    return [attribute for name, attribute in ATTRIBUTES.items() if name in records]


def check_records(records: pd.DataFrame, source: str = "records") -> pd.DataFrame:
    """The table itself, if its columns and types are those of `look`; else `UserError`."""
    wanted = list(COLUMNS)
    for attribute in attributes_of(records):
        wanted += [f"{attribute.name}_{name}" for name in attribute.classes]
    if missing := [name for name in wanted if name not in records]:
        raise UserError(f"{source}: column '{missing[0]}' is missing, so this is no table of fairnb.generate.look")
    kinds = {"prompt_id": is_integer_dtype, "image": is_integer_dtype, "seed": is_integer_dtype, "face": is_bool_dtype}
    kinds |= dict.fromkeys(["face_probability", *BOX], is_numeric_dtype)
    for name, right in kinds.items():
        if not right(records[name]):
            raise UserError(f"{source}: column '{name}' has the wrong type {records[name].dtype}")
    for attribute in attributes_of(records):
        seen = set(records.loc[records.face, attribute.name])
        if unknown := seen - set(attribute.classes):
            raise UserError(f"{source}: column '{attribute.name}' holds {min(map(str, unknown))!r}, which is no class")
    return records


def write_records(records: pd.DataFrame, path: str | Path) -> Path:
    """Write one row per image as Parquet."""
    check_records(records)
    return write_atomically(path, lambda temporary: records.to_parquet(temporary, index=False))


def read_records(path: str | Path) -> pd.DataFrame:
    """Read a table of `write_records`; `UserError` when it is missing, damaged or another table."""
    try:
        records = pd.read_parquet(path)
    except Exception as error:  # pyarrow raises a different type for each broken file
        reason = str(error).splitlines()[0]
        raise UserError(f"records {path} cannot be read ({reason}): run the notebook that makes it again") from error
    return check_records(records, f"records {path}")


def provenance(parameters: Profile | dict, seeds: list[int] | None = None) -> dict:
    """What a result came from: parameters, seeds, package versions, git commit, device and time (UTC).

    Paths inside the repository are written relative to it, so that equal runs in different places look equal.
    """
    values = parameters.model_dump() if isinstance(parameters, Profile) else dict(parameters)
    if seeds is None:
        seeds = [values["seed"]] if "seed" in values else []
    return {
        "parameters": relative(values),
        "seeds": seeds,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "git_commit": _git_commit(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU",
        "processors": os.cpu_count(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def relative(value: Any) -> Any:
    """The same mapping or list with paths inside the repository made relative to it."""
    if isinstance(value, dict):
        return {key: relative(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [relative(inner) for inner in value]
    if isinstance(value, str) and Path(value).is_absolute() and Path(value).is_relative_to(root()):
        return Path(value).relative_to(root()).as_posix()
    return value


def _git_commit() -> str | None:
    """The commit, with "+changes" where tracked files differ from it; None outside a repository."""
    git = ["git", "-C", str(root())]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD"], capture_output=True).returncode
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}+changes" if changed else commit


def to_test_results(records: pd.DataFrame, path: str | Path) -> Path:
    """Write FFD's `test_results.pkl`: (face_indicators, face_bboxs, gender_logits, race_logits, age_logits), each a
    dict prompt index -> tensor over images (bool [N], float [N, 4], float [N, K]).

    Logits are log-probabilities; without a face boxes and logits are -1, as FFD has it. An attribute that was not
    measured gets an empty dict: a made-up number would be read as a share.
    """
    found, boxes = {}, {}
    logits = {GENDER: {}, RACE: {}, AGE: {}}
    for prompt_id, rows in records.sort_values(["prompt_id", "seed", "image"]).groupby("prompt_id"):
        face = torch.tensor(rows.face.to_numpy(bool))
        found[int(prompt_id)] = face
        boxes[int(prompt_id)] = _filled(rows[BOX], face)
        for attribute, table in logits.items():
            if attribute.name in records:
                columns = rows[[f"{attribute.name}_{name}" for name in attribute.classes]]
                table[int(prompt_id)] = _filled(columns, face, log=True)
    content = pickle.dumps((found, boxes, *logits.values()))
    return write_atomically(path, lambda temporary: temporary.write_bytes(content))


def _filled(columns: pd.DataFrame, face: torch.Tensor, log: bool = False) -> torch.Tensor:
    values = torch.tensor(columns.to_numpy(float), dtype=torch.float32)
    values = values.clamp_min(1e-12).log() if log else values
    values[~face] = -1
    return values


def read_test_results(path: str | Path) -> tuple[dict[int, torch.Tensor], ...]:
    """Read FFD's `test_results.pkl` without running what is in it: tensors, dicts and plain values only."""
    try:
        content = _TensorsOnly(io.BytesIO(Path(path).read_bytes())).load()
    except Exception as error:  # a damaged pickle raises anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} cannot be read as FFD's test_results.pkl: {reason}") from error
    parts = tuple(content) if isinstance(content, (tuple, list)) else ()
    if len(parts) != 5 or not all(isinstance(part, dict) for part in parts):
        raise UserError(f"{path} is not FFD's test_results.pkl: it must hold five dicts")
    return parts


class _TensorsOnly(pickle.Unpickler):
    """An unpickler that knows the two functions of which a pickled CPU or GPU tensor is made, and nothing else."""

    def find_class(self, module: str, name: str):
        allowed = {
            # torch's own would unpickle the bytes inside without looking
            ("torch.storage", "_load_from_bytes"): _load_storage,
            ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
            ("collections", "OrderedDict"): dict,
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which is not a tensor, dict or number")
        return allowed[module, name]


def _load_storage(content: bytes):
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
