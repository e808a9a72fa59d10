"""`python -m fairnb.bench.kills`: kill commands at random moments, start them again, and compare the end with that of a
run that was left alone.

Each command runs in a process of its own, which is forked from this one, so that it is at work at once. Half of the
kills are SIGKILL, which no program sees, half SIGTERM, on which a run may tidy up.
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import fairnb.experiments.audit
import fairnb.experiments.evaluation
import fairnb.experiments.notebooks
import fairnb.experiments.run  # noqa: F401 - with all it needs, so that a forked command is at work at once
from fairnb.cli import app
from fairnb.errors import AGAIN
from fairnb.files import LOCK, root, write_json
from fairnb.measure.ffd_results import read_ffd_records

MODEL = root() / "data" / "mini-sd"
SMALL = {
    "device": "cpu",
    "sampling.steps": 2,
    "sampling.batch": 4,
    "finetune.gradient_steps": 1,
    "finetune.acts_from": 0,
    "finetune.checkpoint_every": 1,
    "locate.frequency": 0.4,
}
MOVING = ("minutes", "seconds", "memory", "provenance")  # keys of JSON that differ from run to run
MOVING_FILES = (".ipynb", ".log", ".html")
LONGEST = 900  # seconds of a command


@dataclass
class Case:
    """A command, what it needs (`prepare`, given a folder that all runs share), and what became of its kills."""

    name: str
    command: Callable[[Path, Path], list[list[str]]]
    prepare: Callable[[Path, list[str]], list[list[str]]] = lambda shared, small: []
    kills: int = 0
    ended_before: int = 0
    codes: dict[str, int] = field(default_factory=dict)
    different: list[str] = field(default_factory=list)


def cases(small: list[str]) -> list[Case]:
    """All commands that work for longer than a moment, with the smallest counts."""
    drawn = ["generate", "a photo of a doctor", "a photo of a nurse", "--images", "32"]
    find = ["find", str(MODEL)]

    def images(shared: Path, _: list[str]) -> list[list[str]]:
        return [[*drawn, "--out", str(shared / "images"), *small]]

    def neurons(shared: Path, _: list[str]) -> list[list[str]]:
        return [[*find, "--out", str(shared / "neurons.safetensors"), *small]]

    def one(*words: str) -> Callable[[Path, Path], list[list[str]]]:
        return lambda shared, out: [[word.format(shared=shared, out=out) for word in (*words, *small)]]

    def shards(shared: Path, out: Path) -> list[list[str]]:
        base = [*drawn, "--out", str(out / "images"), *small]
        return [[*base, "--shard", "1/2"], [*base, "--shard", "2/2"], base]

    tuned = ("finetune", str(MODEL), "--neurons", "{shared}/neurons.safetensors", "--out", "{out}/patch")
    return [
        Case("generate", one(*drawn, "--out", "{out}/images")),
        Case("generate --shard", shards),
        Case("measure", one("measure", "{shared}/images", "--out", "{out}/r.parquet", "--report", "{out}/r"), images),
        Case("find", one(*find, "--out", "{out}/neurons.safetensors")),
        Case("finetune", one(*tuned), neurons),
        Case("guide", one("guide", str(MODEL), "--images", "8", "--out", "{out}/guide.safetensors")),
        Case("experiment", one("experiment", "exp-2", "--set", "output={out}")),
        Case("run", one("run", "00", "02", "--output", "{out}")),
    ]


def tree(folder: Path) -> dict[str, Any]:
    """What a folder holds, without what no two runs have in common: times, executed notebooks, locks."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_dir() or path.name.startswith(LOCK) or path.suffix in MOVING_FILES:
            continue
        name, data = path.relative_to(folder).as_posix(), path.read_bytes()
        if path.suffix == ".json":
            data = _still(json.loads(data))
        elif path.name == "test_results.pkl":  # torch writes addresses into it
            data = read_ffd_records(path).to_csv()
        found[name] = data
    return found


def _still(value):
    if isinstance(value, dict):
        return {key: _still(inner) for key, inner in value.items() if key not in MOVING}
    return [_still(inner) for inner in value] if isinstance(value, list) else value


def _child(arguments: list[str]) -> None:
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    sys.argv = ["fairnb", *arguments]
    app.main()


def run(commands: list[list[str]], kill_after: float | None = None, how: int = signal.SIGKILL) -> int:
    """Run commands one after the other, each in a process; kill the one at work after some seconds. The last code."""
    started, code = time.monotonic(), 0
    for arguments in commands:
        process = multiprocessing.get_context("fork").Process(target=_child, args=(arguments,))
        process.start()
        if kill_after is not None:
            process.join(max(0.0, kill_after - (time.monotonic() - started)))
            if process.is_alive():
                os.kill(process.pid, how)
                process.join()
                return process.exitcode
        process.join(LONGEST)
        code = process.exitcode
        if code is None:
            process.kill()
            raise RuntimeError(f"{' '.join(arguments)} has not ended after {LONGEST} s")
        if code:
            return code
    return code


def kill_often(case: Case, kills: int, work: Path, small: list[str], seed: int) -> None:
    """Kill a command at random moments of its run, each time in a new folder, and compare what a second run leaves."""
    shared, out = work / "shared", work / "out"
    if code := run(case.prepare(shared, small)):
        raise RuntimeError(f"what {case.name} needs could not be made (exit {code})")
    started = time.monotonic()
    if code := run(case.command(shared, out)):
        raise RuntimeError(f"{case.name} failed by itself (exit {code})")
    lasted, wanted = time.monotonic() - started, tree(out)
    shutil.rmtree(out)
    rng = random.Random(f"{seed} {case.name}")
    for number in range(kills):
        how = (signal.SIGKILL, signal.SIGTERM)[number % 2]
        moment = lasted * rng.random()
        code = run(case.command(shared, out), moment, how)
        case.kills += 1
        case.ended_before += code == 0
        case.codes[str(code)] = case.codes.get(str(code), 0) + 1
        if how == signal.SIGTERM and code not in (0, AGAIN):
            case.different.append(f"kill {number}: SIGTERM ended with {code}")
        code = run(case.command(shared, out))
        left = tree(out)
        if code or left != wanted:
            names = [name for name in {*left, *wanted} if left.get(name) != wanted.get(name)]
            case.different.append(f"kill {number} after {moment:.2f} s: exit {code}, {', '.join(sorted(names)[:5])}")
        shutil.rmtree(out, ignore_errors=True)


def smallest(place: Path) -> list[str]:
    """The options of a profile with the smallest counts, whose words are written into a folder."""
    words = {
        "occupations": {"train": ["doctor", "nurse", "teacher"], "validation": ["chef"], "test": ["pilot"]},
        "contents": ["a tree", "a house"],
        "contexts": ["at night", "by the sea"],
    }
    write_json(place / "words.json", words)
    changes = [f"{key}={value}" for key, value in (SMALL | {"prompts": place / "words.json"}).items()]
    return ["--profile", "smoke", *(word for change in changes for word in ("--set", change))]


def main() -> None:
    """Print a table, and write it with `--out`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="commands; none means all")
    parser.add_argument("--kills", type=int, default=20, help="of each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a .json file")
    asked = parser.parse_args()
    torch.set_num_threads(1)  # forked processes must not wait for the threads of this one
    table = []
    with tempfile.TemporaryDirectory() as place:
        small = smallest(Path(place))
        for case in cases(small):
            if asked.names and case.name not in asked.names:
                continue
            started = time.monotonic()
            kill_often(case, asked.kills, Path(place) / case.name.replace(" ", ""), small, asked.seed)
            minutes = (time.monotonic() - started) / 60
            print(
                f"{case.name:<18} {case.kills} kills ({case.ended_before} after the end), exit codes {case.codes}, "
                f"{len(case.different)} ends differ, {minutes:.1f} minutes",
                flush=True,
            )
            for line in case.different:
                print(f"  {line}", flush=True)
            row = {"kills": case.kills, "after_the_end": case.ended_before, "codes": case.codes}
            table.append({"command": case.name, **row, "different": case.different})
    if asked.out:
        write_json(asked.out, {"seed": asked.seed, "commands": table})
    sys.exit(any(row["different"] for row in table))


if __name__ == "__main__":
    main()
