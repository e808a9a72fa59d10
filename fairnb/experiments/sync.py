"""Copy outputs to a store or back, by any URL that fsspec knows: for machines without a common disk."""

import hashlib
import json
import shutil
from pathlib import PurePosixPath

import fsspec

from fairnb.errors import UserError

COPIED = ".copied.json"  # in the target: what each file held when it was copied; clocks and sizes may mislead


def sync(source: str, target: str) -> tuple[int, int]:
    """Copy the files below `source` whose contents were not copied to `target` before; return how many were copied and
    how many were current.

    Both are folders, or URLs such as s3://bucket/mini (with s3fs installed). Hidden files, which are locks and half
    written ones, stay behind; nothing is deleted. Each file appears whole or not at all. `UserError` if a place cannot
    be reached or read.
    """
    try:
        (ours, here), (theirs, there) = (fsspec.core.url_to_fs(place) for place in (source, target))
        if not ours.isdir(here):
            raise UserError(f"no folder at {source}: give one with results, such as outputs/mini")
        notes, there = f"{there.rstrip('/')}/{COPIED}", there.rstrip("/")
        before = json.loads(theirs.cat_file(notes)) if theirs.exists(notes) else {}
        sizes = {path: about["size"] for path, about in theirs.find(there, detail=True).items()}
        copied = current = 0
        for path, about in sorted(ours.find(here, detail=True).items()):
            name = PurePosixPath(path).relative_to(here)
            if any(part.startswith(".") for part in name.parts):
                continue
            with ours.open(path, "rb") as read:
                digest = hashlib.file_digest(read, "sha256").hexdigest()
            goal = f"{there}/{name}"
            if before.get(str(name)) == digest and sizes.get(goal) == about["size"]:
                current += 1
                continue
            theirs.makedirs(goal.rpartition("/")[0], exist_ok=True)
            with theirs.transaction, ours.open(path, "rb") as read, theirs.open(goal, "wb") as write:
                shutil.copyfileobj(read, write)
            before[str(name)] = digest
            copied += 1
        with theirs.transaction, theirs.open(notes, "wb") as write:
            write.write(json.dumps(before).encode())
        return copied, current
    except UserError:
        raise
    except (OSError, ImportError, ValueError) as error:
        raise UserError(f"{source} cannot be copied to {target} ({error}): check both, and fsspec's needs") from error
