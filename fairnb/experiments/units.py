"""Units of work: one experiment with one seed, or the main path with one seed; several at a time on one machine.

Each unit is a command that resumes where a killed one ended and does nothing when it is done. So a list of them is all
that a job array, a Kubernetes Indexed Job or a workflow needs.
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fairnb.experiments.notebooks import END_WITH_PARENT
from fairnb.files import one_run_in
from fairnb.profiles import Profile

CHAIN = ("03", "05", "06", "07")  # of the notebooks, all whose figures depend on the seed
TRIPLETS = "11"  # the notebook that makes the triplets of a seed and runs the experiments that need them


class Unit(NamedTuple):
    """A name without blanks, and the arguments of `fairnb`."""

    name: str
    arguments: list[str]

    def line(self) -> str:
        """For a shell, with the name as a comment."""
        return f"fairnb {shlex.join(self.arguments)}  # {self.name}"


def list_units(
    names: Sequence[str], settings: Profile, profile: str, changes: Sequence[str], seeds: Sequence[int], chain: bool
) -> list[Unit]:
    """The units of experiments (all of the profile if none is named), or with `chain` of the main path, seed by seed.

    `settings` are those of the `profile` as it is called, with the `changes` ("key=value"). The folder of a seed has
    the name of the profile with "-seed<seed>" at its end.
    """
    chosen = list(names or settings.experiments)
    for name in chosen:
        settings.finetune_of(name)  # `UserError` for a wrong name
    contrast = [name for name in chosen if settings.experiments[name].contrast]
    units, kept = [], [change for change in changes if not change.startswith(("seed=", "name="))]
    for seed in seeds:
        own = [f"--set={change}" for change in (*kept, f"seed={seed}", f"name={settings.name}-seed{seed}")]
        how = [f"--profile={profile}", *own]
        if chain:
            units.append(Unit(f"chain-seed{seed}", ["run", *CHAIN, *how]))
            continue
        if contrast:
            units.append(Unit(f"triplets-seed{seed}", ["run", TRIPLETS, *how]))
        units += [Unit(f"{name}-seed{seed}", ["experiment", name, *how]) for name in chosen if name not in contrast]
    return units


def run_units(units: Sequence[Unit], jobs: int, folder: str | Path) -> bool:
    """Run units, `jobs` at a time, each with its share of the cores; print a line for each; whether all went well.

    What a unit prints goes to folder/<name>.log. One that fails stops no other. `UserError` if the folder is in use.
    """
    folder = Path(folder)
    threads = max(1, (os.cpu_count() or 1) // jobs)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TQDM_MININTERVAL": "10"}
    waiting, running, failed = list(units), {}, 0
    with one_run_in(folder):
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    unit = waiting.pop(0)
                    with (folder / f"{unit.name}.log").open("w") as log:
                        command = [sys.executable, "-m", "fairnb", *unit.arguments]
                        how = {"stdout": log, "stderr": subprocess.STDOUT, "env": environment}
                        running[subprocess.Popen(command, **how, preexec_fn=END_WITH_PARENT)] = unit, time.monotonic()
                for process in [process for process in running if process.poll() is not None]:
                    unit, started = running.pop(process)
                    minutes = (time.monotonic() - started) / 60
                    if process.returncode:
                        failed += 1
                        print(f"{unit.name:<28} failed after {minutes:.1f} min: {folder / unit.name}.log", flush=True)
                    else:
                        print(f"{unit.name:<28} done in {minutes:.1f} min", flush=True)
                time.sleep(0.1)
        finally:  # a run that is ended takes its units along, which finish what they are at
            for process in running:
                process.send_signal(signal.SIGTERM)
            for process in running:
                process.wait()
    return not failed
