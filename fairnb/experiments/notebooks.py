"""Run the notebooks headless: papermill, one process each, and only those that are missing or out of date."""

import ctypes
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat
import papermill
import yaml

from fairnb.errors import UserError
from fairnb.experiments.notebook_cache import check_needs, executed_copy, is_current, made_from, read_stamp, write_stamp
from fairnb.files import one_run_in, read_json, root, write_atomically, write_json
from fairnb.measure.provenance import provenance
from fairnb.profiles import Profile, load_profile

PARAMETERS = ("profile", "overrides")
PR_SET_PDEATHSIG = 1
MAIN_PATH = "0[0-7]_*.ipynb"


def run_notebooks(
    names: list[str] | None = None,
    profile: str | Path | dict = "mini",
    overrides: dict[str, Any] | None = None,
    output: str | Path | None = None,
) -> bool:
    """Execute notebooks in order and print a line with the time of each; return whether all succeeded.

    `names`: numbers or names ("05", "05_finetune_bias_neurons"), None for the main path 00-07. Unknown names, keys and
    parameters, and missing inputs, are refused (`UserError`) before a kernel starts. Executed copies go to
    outputs/<profile>/notebooks; a notebook that fails leaves a .failed.ipynb and ends the run. A notebook whose last
    good run is current (see `notebook_cache`) is skipped. A folder in which another run is at work is refused.
    """
    overrides = dict(overrides or {})
    if output is not None:
        overrides["output"] = str(Path(output).absolute())
    settings = load_profile(profile, overrides)
    paths = find_notebooks(names)
    for path in paths:
        check_parameters(path)
    given = profile if isinstance(profile, dict) else str(profile)
    parameters = {"profile": given, "overrides": overrides | {"output": settings.output}}
    for path in paths:
        if is_current(path, settings):
            print(f"{path.stem:<28} up to date", flush=True)
            continue
        check_needs(path, settings, _all_notebooks())
        with one_run_in(settings.folder):
            if not _run(path, settings, parameters):
                return False
    return True


def find_notebooks(names: list[str] | None = None) -> list[Path]:
    """Paths of the notebooks with these numbers or names; the main path for None."""
    folder = root() / "notebooks"
    if not names:
        return sorted(folder.glob(MAIN_PATH))
    found = []
    for name in names:
        stem = Path(name).name.removesuffix(".ipynb")
        hits = sorted([*folder.glob(f"{stem}.ipynb"), *folder.glob(f"{stem}_*.ipynb")])
        if len(hits) != 1:
            known = ", ".join(path.stem for path in _all_notebooks())
            raise UserError(f"no notebook named '{name}': use one of {known or '(none yet)'}")
        found.append(hits[0])
    return found


def _all_notebooks() -> list[Path]:
    return sorted((root() / "notebooks").glob("*.ipynb"))


def check_parameters(path: Path) -> None:
    """Refuse a notebook without the two parameters: papermill would only warn and use its defaults."""
    try:
        known = papermill.inspect_notebook(str(path))
    except Exception as error:  # nbformat raises a different type for each broken file
        raise UserError(f"{path} is not a notebook: {str(error).splitlines()[0]}") from error
    if missing := [name for name in PARAMETERS if name not in known]:
        raise UserError(f"{path.name} has no parameter '{missing[0]}': its cell tagged 'parameters' must set it")


def _run(path: Path, profile: Profile, parameters: dict) -> bool:
    expected = _expected(path, profile)
    about = f"about {_clock(expected)}" if expected else "not timed yet"
    executed = executed_copy(path, profile)
    running = executed.with_name(f"{path.stem}.running.ipynb")
    failed = executed.with_name(f"{path.stem}.failed.ipynb")
    made = made_from(path, profile)
    settings = executed.with_name(f".{path.stem}.yaml")
    write_atomically(settings, lambda temporary: temporary.write_text(yaml.safe_dump(parameters), encoding="utf-8"))
    command = [sys.executable, "-m", "papermill", str(path), str(running), "-k", "python3", "-f", str(settings)]
    command += ["--no-progress-bar", "--start-timeout", "300"]  # a kernel starts slowly where many do
    live = sys.stdout.isatty()
    print(f"{path.stem:<28} {about}", end="" if live else " ... ", flush=True)
    started = time.monotonic()
    log = executed.with_name(f".{path.stem}.log")
    # A folder of IPython for itself: kernels that start at the same time would lock each other out of one.
    with log.open("w") as stream, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as ipython:
        # Without a terminal tqdm writes a line per refresh: every ten seconds is enough.
        environment = {**os.environ, "TQDM_MININTERVAL": "10", "FAIRNB_HEADLESS": "1", "IPYTHONDIR": ipython}
        process = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, env=environment, preexec_fn=END_WITH_PARENT
        )
        try:
            while process.poll() is None:
                time.sleep(0.2)
                if live:
                    passed = _clock(time.monotonic() - started)
                    print(f"\r{path.stem:<28} {about}, {passed} passed", end="", flush=True)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    seconds = time.monotonic() - started
    settings.unlink()
    line = f"\r\033[K{path.stem:<28} " if live else ""
    if process.returncode:
        print(f"{line}failed after {_clock(seconds)}", flush=True)
        print(_reason(running, log), file=sys.stderr, flush=True)
        if running.is_file():
            os.replace(running, failed)
            print(f"executed so far: {failed}", file=sys.stderr, flush=True)
        return False
    os.replace(running, executed)
    failed.unlink(missing_ok=True)
    log.unlink()
    _finish(path, profile, made, seconds)
    print(f"{line}done in {_clock(seconds)}" + (f" ({about})" if live else ""), flush=True)
    return True


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


# Called in a new process: it ends when the one that starts it is killed, or it would write beside the run started next.
# Only Linux can do that, and Windows takes no such function.
END_WITH_PARENT = _end_with_parent if sys.platform == "linux" else None


def _finish(path: Path, profile: Profile, made: dict, seconds: float) -> None:
    """Stamp the run, and add its minutes and provenance to summary.json without touching what notebooks put there."""
    write_stamp(path, profile, made, seconds)
    summary_path = profile.folder / "summary.json"
    summary = read_json(summary_path) if summary_path.is_file() else {}
    minutes = {key: value for key, value in summary.get("minutes", {}).items() if key != "total"}
    minutes[path.stem] = round(seconds / 60, 2)
    summary["minutes"] = {**dict(sorted(minutes.items())), "total": round(sum(minutes.values()), 2)}
    summary["provenance"] = provenance(profile, sorted({profile.seed, *profile.evaluate.seeds}))
    write_json(summary_path, summary)


def _reason(executed: Path, log: Path) -> str:
    """The sentence for the user: the error of the failing cell, or the last line of the log."""
    if executed.is_file():
        for cell in nbformat.read(executed, as_version=4).cells:
            for output in cell.get("outputs", []):
                if output.output_type == "error":
                    sentence = (output.evalue.strip().splitlines() or [output.ename])[0]
                    kind = "" if output.ename == "UserError" else f"{output.ename}: "
                    return f"In [{cell.execution_count}]: {kind}{sentence}"
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return re.sub(r"\x1b\[[0-9;]*m", "", lines[-1]) if lines else "the kernel ended without a message (out of memory?)"


def _expected(path: Path, profile: Profile) -> float | None:
    """Seconds of the last run of this profile here, else of the authors' run (notebook metadata)."""
    if stamp := read_stamp(path, profile):
        return stamp["seconds"]
    minutes = nbformat.read(path, as_version=4).metadata.get("fairnb", {}).get("minutes", {}).get(profile.name)
    return None if minutes is None else 60 * minutes


def _clock(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"
