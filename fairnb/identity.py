"""What counts as the same run: its settings and the contents of its inputs, compared key by key.

Everything that is stored and used again (pictures, checkpoints, neurons, h-classifiers, results) carries its identity,
a mapping of plain values in which inputs stand as hashes of their contents. What another identity made is refused or
made anew, and a sentence says what differs.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairnb.errors import UserError

HASH = re.compile(r"[0-9a-f]{16}|[0-9a-f]{64}")
LONGEST = 60  # characters of a value that is still shown


def content(path: str | Path) -> str:
    """A hash of a file, or of the names and contents of all files of a folder; a hub id stands for itself."""
    path, digest = Path(path), hashlib.sha256()
    if not path.exists():
        return str(path)
    for file in [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file()):
        digest.update(file.relative_to(path).as_posix().encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


def hashed(value: Any) -> str:
    """A hash of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def difference(there: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first difference between two identities in words ("learning_rate was 0.1 and is 0.001 now"), or ""."""
    old, new = _flat(there), _flat(now)
    for key in [*new, *(key for key in old if key not in new)]:
        if key in old and key in new and old[key] == new[key]:
            continue
        if key not in old:
            return f"its {key} was not recorded"
        if key not in new:
            return f"its {key} was {_shown(old[key])}, which this run has not"
        values = _shown(old[key]), _shown(new[key])
        named = "" in values or values[0] == values[1]
        return f"it differs in its {key}" if named else f"its {key} was {values[0]} and is {values[1]} now"
    return ""


def refuse_another(there: Mapping[str, Any], now: Mapping[str, Any], what: str, advice: str) -> None:
    """Raise `UserError` if the stored thing `what` has another identity than the present run."""
    if differs := difference(there, now):
        raise UserError(f"{what} belongs to another run ({differs}): {advice}")


def _flat(values: Mapping[str, Any], start: str = "") -> dict[str, Any]:
    """Nested keys joined by dots; values as JSON returns them (tuples become lists, for example)."""
    flat = {}
    for key, value in json.loads(json.dumps(values, default=str)).items():
        flat |= _flat(value, f"{start}{key}.") if isinstance(value, dict) and value else {f"{start}{key}": value}
    return flat


def _shown(value: Any) -> str:
    """A value as the sentence shows it; "" for hashes and long values, which say nothing to a reader."""
    text = str(value) or "empty"
    return "" if len(text) > LONGEST or HASH.fullmatch(text) else text
