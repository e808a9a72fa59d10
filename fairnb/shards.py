"""Shards: parts of a work without gradients, each done by a job of its own that waits for no other.

A shard writes its part beside the file that the whole work makes, `neurons.part-2-of-8.safetensors` beside
`neurons.safetensors`. The same command without a shard joins the parts to the bytes of a single job.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from fairnb.errors import UserError
from fairnb.identity import refuse_another
from fairnb.tensors import write_tensors


class Shard(NamedTuple):
    """Part `number` of `count`, counted from 1."""

    number: int
    count: int

    def of(self, work: Sequence) -> Sequence:
        """The share of this shard: every `count`-th piece of the work; `UserError` if there are too few pieces."""
        if self.count > len(work):
            raise UserError(f"--shard {self}: the work has {len(work)} pieces, so use no more shards than that")
        return work[self.number - 1 :: self.count]

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def name(self) -> str:
        """As it stands in the names of files."""
        return f"{self.number}-of-{self.count}"

    def part(self, path: str | Path) -> Path:
        """Where this shard writes its part of the file at `path`."""
        path = Path(path)
        return path.with_name(f"{path.stem}.part-{self.name}{path.suffix}")


def read_shard(text: str | None) -> Shard | None:
    """Turn "2/8" into the second of eight shards; `UserError` for anything else."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+)/(\d+)", text, re.ASCII)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise UserError(f"--shard {text} is no part of a whole: write 1/8, 2/8 and so on to 8/8")
    return Shard(int(found[1]), int(found[2]))


def find_parts(path: str | Path) -> list[Path]:
    """The parts of the file at `path` in their order, none if no shard wrote any; `UserError` names a missing one."""
    path, there = Path(path), {}
    name = re.compile(rf"{re.escape(path.stem)}\.part-(\d+)-of-(\d+){re.escape(path.suffix)}", re.ASCII)
    for part in path.parent.glob("*"):
        if found := name.fullmatch(part.name):
            there[Shard(int(found[1]), int(found[2]))] = part
    if not there:
        return []
    counts = {shard.count for shard in there}
    if len(counts) > 1:
        raise UserError(
            f"{path} has parts of {' and of '.join(map(str, sorted(counts)))} shards beside it: delete those of one"
        )
    (count,) = counts
    if missing := [number for number in range(1, count + 1) if Shard(number, count) not in there]:
        raise UserError(
            f"{path} lacks the part of shard {missing[0]}/{count}: run it with --shard {missing[0]}/{count}, or delete "
            "the other parts beside it"
        )
    return [there[Shard(number, count)] for number in range(1, count + 1)]


def check_part(part: Path, there: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """`UserError` if a part was made by another run."""
    refuse_another(there, now, str(part), "delete it and run its shard again")


def is_done(part: Path, read: Callable[[Path], Any]) -> bool:
    """Whether a shard has written its part before: `read` checks it."""
    if part.is_file():
        read(part)
    return part.is_file()


def remove_parts(parts: Sequence[Path]) -> None:
    """Remove what was joined."""
    for part in parts:
        part.unlink(missing_ok=True)


def save_tensors(tensors: Mapping[str, torch.Tensor], part: Path, identity: Mapping[str, Any]) -> Path:
    """Write the part of a shard that is tensors."""
    return write_tensors(tensors, part, {"identity": json.dumps(identity)})


def load_tensors(part: Path, identity: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Read what `save_tensors` wrote; `UserError` if it is damaged or of another run."""
    try:
        with safe_open(part, framework="pt") as file:
            there = json.loads((file.metadata() or {}).get("identity", "{}"))
        tensors = load_file(part)
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"{part} cannot be read ({error}): delete it and run its shard again") from error
    check_part(part, there, identity)
    return tensors


def interleave(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """What `Shard.of` has divided along the first dimension, in its order again."""
    whole = torch.empty(sum(map(len, parts)), *parts[0].shape[1:], dtype=parts[0].dtype)
    for number, part in enumerate(parts):
        whole[number :: len(parts)] = part
    return whole
