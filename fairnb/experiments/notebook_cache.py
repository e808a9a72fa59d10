"""Whether a notebook's last good run is still current: what it was made from, and what it declares to need and make.

A notebook's metadata holds `fairnb: {minutes, needs, uses, makes}`: files or globs below the profile's folder that it
cannot run without, reads if they are there, and writes.
"""

import hashlib
from importlib.metadata import version
from pathlib import Path

import nbformat
import yaml

import fairnb
from fairnb.errors import UserError
from fairnb.files import read_json, write_json
from fairnb.measure.provenance import relative
from fairnb.profiles import Profile

HASHED = 64 * 2**20  # bytes; of larger files size and time are compared instead of the content
WITHOUT_EFFECT = ("__main__.py", "bench/", "cli/", "experiments/notebook")  # on the results of a notebook
LIBRARIES = ("torch", "diffusers")


def declared(path: Path, key: str) -> list[str]:
    """The patterns that a notebook declares under `key` ("needs", "uses" or "makes")."""
    return nbformat.read(path, as_version=4).metadata.get("fairnb", {}).get(key, [])


def check_needs(path: Path, profile: Profile, notebooks: list[Path]) -> None:
    """Raise `UserError` if a file that the notebook needs is missing; it names the notebook that makes it."""
    for pattern in declared(path, "needs"):
        if not found(profile.folder, pattern):
            maker = next((other.stem for other in notebooks if pattern in declared(other, "makes")), "that makes it")
            raise UserError(f"{profile.folder / pattern} is missing: run notebook {maker} first")


def is_current(path: Path, profile: Profile) -> bool:
    """Whether the notebook's last good run was made from the same things, and all it makes is there."""
    stamp = read_stamp(path, profile)
    if not stamp or not executed_copy(path, profile).is_file() or stamp["made_from"] != made_from(path, profile):
        return False
    return all(found(profile.folder, pattern) for pattern in declared(path, "makes"))


def made_from(path: Path, profile: Profile) -> dict:
    """What determines a notebook's result, as hashes: code, profile, package and libraries, and every input file."""
    code = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    home = Path(fairnb.__file__).parent
    modules = {file.relative_to(home).as_posix(): file for file in sorted(home.rglob("*.py"))}
    package = [f"{name} {version(name)}" for name in LIBRARIES]
    package += [name + _digest(file) for name, file in modules.items() if not name.startswith(WITHOUT_EFFECT)]
    classifiers = [source.model for source in (*profile.guide, *profile.judge)]
    models = [profile.model, profile.clip, profile.dino, profile.occupation_judge, *classifiers]
    inputs = {}
    for given in filter(None, [profile.prompts, *models]):
        files = [Path(given), *sorted(Path(given).rglob("*"))]
        inputs[relative(given)] = _hash("".join(_digest(file) for file in files if file.is_file()))
    for pattern in (*declared(path, "needs"), *declared(path, "uses")):
        inputs[pattern] = _hash("".join(_digest(file) for file in found(profile.folder, pattern)))
    return {
        "source": _hash("\0".join(code)),
        "profile": _hash(yaml.safe_dump(relative(profile.model_dump()))),
        "package": _hash("".join(package)),
        "inputs": inputs,
    }


def write_stamp(path: Path, profile: Profile, made: dict, seconds: float) -> None:
    """Record a good run: what it was made from (see `made_from`) and how long it took."""
    write_json(_stamp(path, profile), {"made_from": made, "seconds": seconds})


def read_stamp(path: Path, profile: Profile) -> dict | None:
    """The record of the last good run, if there is one."""
    return read_json(_stamp(path, profile)) if _stamp(path, profile).is_file() else None


def executed_copy(path: Path, profile: Profile) -> Path:
    """Where the executed copy of a notebook goes."""
    return profile.folder / "notebooks" / path.name


def _stamp(path: Path, profile: Profile) -> Path:
    return profile.folder / "stamps" / f"{path.stem}.json"


def found(folder: Path, pattern: str) -> list[Path]:
    """The files of a pattern; of folders that is `images/**/*`, since `images/**` means folders before Python 3.13."""
    return sorted(path for path in folder.glob(pattern) if path.is_file())


def _digest(path: Path) -> str:
    stat = path.stat()
    if stat.st_size > HASHED:
        return f"{stat.st_size} {stat.st_mtime_ns}"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
