"""What a result came from: parameters, seeds, versions, commit, device."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from fairnb.diffusion.pipeline import pick_device
from fairnb.files import SHIPPED, root
from fairnb.profiles import Profile

PACKAGES = ["torch", "diffusers", "transformers", "accelerate", "facenet-pytorch", "numpy", "pandas", "scipy"]


def provenance(parameters: Profile | dict, seeds: list[int] | None = None) -> dict:
    """Return parameters, seeds, package versions, git commit, device and time (UTC).

    Files that come with the package are named as such, so that the same run in another place gives the same record.
    """
    values = parameters.model_dump() if isinstance(parameters, Profile) else dict(parameters)
    if seeds is None:
        seeds = [values["seed"]] if "seed" in values else []
    return {
        "parameters": relative(values),
        "seeds": seeds,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "git_commit": _git_commit(),
        "device": _device(values.get("device")),
        "processors": os.cpu_count(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def relative(value: Any) -> Any:
    """Give the files that come with the package their names ("fairnb:data/mini-sd"), in a mapping or list of any
    depth; a user's own paths stay absolute."""
    if isinstance(value, dict):
        return {key: relative(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [relative(inner) for inner in value]
    if isinstance(value, str) and Path(value).is_absolute() and Path(value).is_relative_to(root()):
        return SHIPPED + Path(value).relative_to(root()).as_posix()
    return value


def _device(name: str | None) -> str:
    """What the run computes on: the device that its parameters name, or else the best there is."""
    device = pick_device(name)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} {device.type}"


def _git_commit() -> str | None:
    """The commit, followed by "+changes" if tracked files differ from it; None unless the package is part of it."""
    if not (root() / ".git").exists():
        return None
    git = ["git", "-C", str(root())]
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", "fairnb/__init__.py"], capture_output=True, check=True)
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD"], capture_output=True).returncode
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}+changes" if changed else commit
