"""Run the notebooks without a browser: papermill, one process each, and only what is missing or changed."""

import hashlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
import papermill
import yaml

from fairnb.errors import UserError
from fairnb.files import PACKAGE, read_json, root, write_atomically, write_json
from fairnb.measure.provenance import provenance, relative
from fairnb.profiles import Profile, load_profile

PARAMETERS = ("profile", "overrides")
MAIN_PATH = "0[0-7]_*.ipynb"
HASHED = 64 * 2**20  # bytes; of a larger file size and time are compared instead of the content
# No notebook's result depends on these.
RUNNERS = ("__main__.py", "bench", "cli", "experiments/notebooks.py")
NOT_ARTEFACTS = ("notebooks", "stamps", "report.html", "spread.json", "experiments.json", "summary.json")


def run_notebooks(
    names: list[str] | None = None,
    profile: str | Path | dict = "mini",
    overrides: dict[str, Any] | None = None,
    output: str | Path | None = None,
) -> bool:
    """Execute notebooks in order and say with one line each how long they took; True when all went well.

    `names`: numbers or names ("05", "05_finetune_bias_neurons"), None for the main path 00-07. Unknown names, keys
    and parameters are refused (`UserError`) before a kernel starts. Executed copies go to
    outputs/<profile>/notebooks; a notebook that fails leaves a .failed.ipynb and ends the run. One whose source,
    profile, package and inputs are those of its last good run is left alone.
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
        elif not _run(path, settings, parameters):
            return False
    return True


def find_notebooks(names: list[str] | None = None) -> list[Path]:
    """Paths in notebooks/ for numbers or names; the main path for None."""
    folder = root() / "notebooks"
    if not names:
        return sorted(folder.glob(MAIN_PATH))
    found = []
    for name in names:
        stem = Path(name).name.removesuffix(".ipynb")
        hits = sorted([*folder.glob(f"{stem}.ipynb"), *folder.glob(f"{stem}_*.ipynb")])
        if len(hits) != 1:
            known = ", ".join(path.stem for path in sorted(folder.glob("*.ipynb")))
            raise UserError(f"no notebook named '{name}': use one of {known or '(none yet)'}")
        found.append(hits[0])
    return found


def check_parameters(path: Path) -> None:
    """Refuse a notebook without the two parameters: papermill itself would only warn and run with its defaults."""
    try:
        known = papermill.inspect_notebook(str(path))
    except Exception as error:  # nbformat raises a different type for each broken file
        raise UserError(f"{path} is not a notebook: {str(error).splitlines()[0]}") from error
    if missing := [name for name in PARAMETERS if name not in known]:
        raise UserError(f"{path.name} has no parameter '{missing[0]}': its cell tagged 'parameters' must set it")


def is_current(path: Path, profile: Profile) -> bool:
    """Did this notebook end well with this source, profile, package and these inputs, and is its work still there?"""
    stamp = _stamp(path, profile)
    if not stamp or not _executed(path, profile).is_file():
        return False
    return stamp["made_from"] == made_from(path, profile) and all(
        (profile.folder / name).exists() for name in stamp["artefacts"]
    )


def made_from(path: Path, profile: Profile) -> dict:
    """What decides a notebook's result, as hashes: its source, the profile, the package, and every input file (the
    models and prompts of the profile, and what earlier notebooks made)."""
    source = nbformat.read(path, as_version=4)
    text = "\0".join(cell.source for cell in source.cells if cell.cell_type == "code")
    package = [
        file for file in sorted(PACKAGE.rglob("*.py")) if not file.relative_to(PACKAGE).as_posix().startswith(RUNNERS)
    ]
    inputs = {}
    classifiers = [source.model for source in (*profile.guide, *profile.judge)]
    models = [profile.model, profile.clip, profile.dino, profile.occupation_judge, *classifiers]
    for given in filter(None, [profile.prompts, *models]):
        files = [Path(given), *sorted(Path(given).rglob("*"))]
        inputs[relative(given)] = _hash("".join(_digest(file) for file in files if file.is_file()))
    for earlier in _stamps(profile):
        if earlier < path.stem:
            for name in _stamp(Path(earlier), profile)["artefacts"]:
                file = profile.folder / name
                inputs[name] = _digest(file) if file.is_file() else None
    return {
        "source": _hash(text),
        "profile": _hash(yaml.safe_dump(relative(profile.model_dump()))),
        "package": _hash("".join(file.relative_to(PACKAGE).as_posix() + _digest(file) for file in package)),
        "inputs": inputs,
    }


def _run(path: Path, profile: Profile, parameters: dict) -> bool:
    expected = _expected(path, profile)
    about = f"about {_clock(expected)}" if expected else "not timed yet"
    executed = _executed(path, profile)
    running = executed.with_name(f"{path.stem}.running.ipynb")
    failed = executed.with_name(f"{path.stem}.failed.ipynb")
    before = _artefacts(profile)
    made = made_from(path, profile)
    settings = executed.with_name(f".{path.stem}.yaml")
    write_atomically(settings, lambda temporary: temporary.write_text(yaml.safe_dump(parameters), encoding="utf-8"))
    command = [sys.executable, "-m", "papermill", str(path), str(running), "-k", "python3", "-f", str(settings)]
    command += ["--no-progress-bar"]
    live = sys.stdout.isatty()
    print(f"{path.stem:<28} {about}", end="" if live else " ... ", flush=True)
    started = time.monotonic()
    log = executed.with_name(f".{path.stem}.log")
    with log.open("w") as stream:
        # tqdm writes a line per refresh where there is no terminal: every ten seconds is enough.
        environment = {**os.environ, "TQDM_MININTERVAL": "10", "FAIRNB_HEADLESS": "1"}
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, env=environment)
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
    _finish(path, profile, made, before, seconds)
    print(f"{line}done in {_clock(seconds)}" + (f" ({about})" if live else ""), flush=True)
    return True


def _finish(path: Path, profile: Profile, made: dict, before: dict, seconds: float) -> None:
    """Stamp the run, and add its minutes and provenance to summary.json without touching what notebooks put there."""
    after = _artefacts(profile)
    others = (_stamp(Path(other), profile) for other in _stamps(profile) if other != path.stem)
    claimed = {name for other in others for name in other["artefacts"]}
    # What nobody claims is ours too: a killed run of this notebook may have made it.
    own = [name for name in after if name not in claimed or after[name] != before.get(name)]
    write_json(_stamp_file(path, profile), {"made_from": made, "artefacts": own, "seconds": seconds})
    summary_path = profile.folder / "summary.json"
    summary = read_json(summary_path) if summary_path.is_file() else {}
    minutes = {key: value for key, value in summary.get("minutes", {}).items() if key != "total"}
    minutes[path.stem] = round(seconds / 60, 2)
    summary["minutes"] = {**dict(sorted(minutes.items())), "total": round(sum(minutes.values()), 2)}
    summary["provenance"] = provenance(profile, sorted({profile.seed, *profile.evaluate.seeds}))
    write_json(summary_path, summary)


def _reason(executed: Path, log: Path) -> str:
    """The sentence a user should read: the failing cell's error, or the runner's last words."""
    if executed.is_file():
        for cell in nbformat.read(executed, as_version=4).cells:
            for output in cell.get("outputs", []):
                if output.output_type == "error":
                    sentence = (output.evalue.strip().splitlines() or [output.ename])[0]
                    kind = "" if output.ename == "UserError" else f"{output.ename}: "
                    return f"In [{cell.execution_count}]: {kind}{sentence}"
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return re.sub(r"\x1b\[[0-9;]*m", "", lines[-1]) if lines else "the kernel ended without a word (out of memory?)"


def _expected(path: Path, profile: Profile) -> float | None:
    """Seconds of the last run of this profile here, else those measured by the authors (notebook metadata)."""
    if stamp := _stamp(path, profile):
        return stamp["seconds"]
    minutes = nbformat.read(path, as_version=4).metadata.get("fairnb", {}).get("minutes", {}).get(profile.name)
    return None if minutes is None else 60 * minutes


def _artefacts(profile: Profile) -> dict[str, tuple[int, int]]:
    """Size and time of every file that notebooks made, by its path below the profile's folder."""
    files = (path for path in profile.folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    named = ((path.relative_to(profile.folder), path.stat()) for path in files)
    return {
        name.as_posix(): (stat.st_size, stat.st_mtime_ns)
        for name, stat in sorted(named)
        if name.parts[0] not in NOT_ARTEFACTS
    }


def _digest(path: Path) -> str:
    stat = path.stat()
    if stat.st_size > HASHED:
        return f"{stat.st_size} {stat.st_mtime_ns}"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _stamp_file(path: Path, profile: Profile) -> Path:
    return profile.folder / "stamps" / f"{path.stem}.json"


def _stamp(path: Path, profile: Profile) -> dict | None:
    file = _stamp_file(path, profile)
    return read_json(file) if file.is_file() else None


def _stamps(profile: Profile) -> list[str]:
    return sorted(file.stem for file in (profile.folder / "stamps").glob("[0-9A-Z]*_*.json"))


def _executed(path: Path, profile: Profile) -> Path:
    return profile.folder / "notebooks" / path.name


def _clock(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"
