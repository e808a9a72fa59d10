"""What a result came from: parameters, seeds, versions, commit, device."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from fairnb.files import root, workspace
from fairnb.profiles import Profile

PACKAGES = ["torch", "diffusers", "transformers", "accelerate", "facenet-pytorch", "numpy", "pandas", "scipy"]


def provenance(parameters: Profile | dict, seeds: list[int] | None = None) -> dict:
    """Return parameters, seeds, package versions, git commit, device and time (UTC).

    Paths inside the repository are stored relative to it, so that the same run in another place gives the same record.
    """
    values = parameters.model_dump() if isinstance(parameters, Profile) else dict(parameters)
    if seeds is None:
        seeds = [values["seed"]] if "seed" in values else []
    return {
        "parameters": relative(values),
        "seeds": seeds,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "git_commit": _git_commit(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU",
        "processors": os.cpu_count(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def relative(value: Any) -> Any:
    """Make the paths inside the repository relative to it, in a mapping or list of any depth."""
    if isinstance(value, dict):
        return {key: relative(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [relative(inner) for inner in value]
    if isinstance(value, str) and Path(value).is_absolute():
        for folder in (root(), workspace()):
            if Path(value).is_relative_to(folder):
                return Path(value).relative_to(folder).as_posix()
    return value


def _git_commit() -> str | None:
    """The commit, followed by "+changes" if tracked files differ from it; None outside a checkout."""
    if not (root() / ".git").exists():
        return None
    git = ["git", "-C", str(root())]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD"], capture_output=True).returncode
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}+changes" if changed else commit
