"""A short version of `make kills`, and that the harness sees an end that differs."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch

from fairnb.bench import kills
from fairnb.errors import AGAIN
from fairnb.files import write_json


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", ["generate --shard", "find"])
def test_a_killed_command_ends_as_one_that_was_left_alone(tmp_path: Path, name: str):
    small = kills.smallest(tmp_path)
    case = next(case for case in kills.cases(small) if case.name == name)
    kills.kill_often(case, 2, tmp_path / "work", small, seed=1)
    assert case.different == [] and case.kills == 2
    assert set(case.codes) <= {"0", str(-signal.SIGKILL), str(AGAIN)}


def slow(arguments: list[str]) -> None:
    """A command that writes two files, slowly; the second one never twice the same."""
    out = Path(arguments[0])
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "still.json", {"a": 1, "minutes": time.monotonic_ns()})
    time.sleep(0.5)
    (out / "moving.txt").write_bytes(os.urandom(8))


def test_an_end_that_differs_is_named(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(kills, "_child", slow)
    case = kills.Case("slow", lambda shared, out: [[str(out)]])
    kills.kill_often(case, 2, tmp_path, [], seed=0)
    named = [line for line in case.different if "moving.txt" in line]
    assert len(named) == 2 and not any("still.json" in line for line in named)
