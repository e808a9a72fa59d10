"""Units of work: what is listed can be typed, and several run at a time."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fairnb.errors import AGAIN, UserError
from fairnb.experiments.units import Unit, list_units, run_units
from fairnb.files import one_run_in
from fairnb.profiles import load_profile
from tests.cli.test_models import call


def listed(*names: str, chain: bool = False, changes=()) -> list[Unit]:
    return list_units(names, load_profile("mini"), "mini", changes, [0, 2], chain)


def test_units_are_commands_with_a_folder_for_each_seed(capsys):
    units = listed("exp-1", "dacl-text", "dacl-unet", changes=["name=other", "finetune.updates=3", "seed=9"])
    assert [unit.name for unit in units] == ["triplets-seed0", "exp-1-seed0", "triplets-seed2", "exp-1-seed2"]
    assert units[1].arguments == [
        *("experiment", "exp-1", "--profile=mini", "--set=finetune.updates=3", "--set=seed=0", "--set=name=mini-seed0")
    ]
    assert units[2].arguments[:2] == ["run", "11"]  # which makes the triplets of a seed, and runs what needs them
    assert [unit.arguments[:5] for unit in listed(chain=True)] == [["run", "03", "05", "06", "07"]] * 2
    assert len(listed()) == 2 * (len(load_profile("mini").experiments) - 7 + 1)
    with pytest.raises(UserError, match="no experiment 'exp-9'"):
        listed("exp-9")
    assert call("units", "exp-1", "exp-2", "--seeds", "1", "--set", "evaluate.images=8") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  # ")[1] for line in lines] == ["exp-1-seed1", "exp-2-seed1"]
    assert shlex.split(lines[0], comments=True)[:3] == ["fairnb", "experiment", "exp-1"]
    assert call("units", "--seeds", "1;2") == 2 and "--seeds 1;2 is no list" in capsys.readouterr().err


def test_one_that_fails_stops_no_other_and_its_log_is_named(tmp_path: Path, capsys):
    units = [Unit("wrong", ["experiment", "none"]), Unit("right", ["units", "exp-1"]), Unit("also", ["units", "exp-2"])]
    assert not run_units(units, 2, tmp_path)
    said = capsys.readouterr().out
    assert said.count("done in") == 2
    assert re.search(rf"wrong +failed after 0.\d min: {tmp_path / 'wrong'}.log\n", said)
    assert "no experiment 'none'" in (tmp_path / "wrong.log").read_text()
    assert "# exp-1-seed0" in (tmp_path / "right.log").read_text()
    assert run_units(units[1:], 1, tmp_path)
    with one_run_in(tmp_path), pytest.raises(UserError, match="is in use by another run"):
        run_units(units, 1, tmp_path)


@pytest.mark.parametrize(("how", "code"), [(signal.SIGTERM, AGAIN), (signal.SIGKILL, -signal.SIGKILL)])
def test_units_end_with_the_run_that_started_them(tmp_path: Path, how, code):
    program = (
        "import sys; from pathlib import Path\n"
        "from fairnb.cli import app\n"
        "import fairnb.experiments.units as module\n"
        "long = ['run', '01', '--profile', 'smoke', '--output', sys.argv[1]]\n"
        "module.list_units = lambda *_: [module.Unit('long', long)]\n"
        "sys.argv = ['fairnb', 'units', '--jobs', '1', '--set', f'output={sys.argv[1]}']\n"
        "app.main()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, tmp_path])

    def kernels() -> list[int]:
        found = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True).stdout.split()
        return [int(each) for each in found if int(each) != process.pid]

    deadline = time.monotonic() + 120
    while not list(tmp_path.rglob("*.log")) or len(kernels()) < 2:  # the unit and its notebook
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    os.kill(process.pid, how)
    assert process.wait() == code
    while kernels():
        assert time.monotonic() < deadline
        time.sleep(0.1)
