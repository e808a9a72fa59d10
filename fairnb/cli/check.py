"""Is everything installed, does it fit together, and what is this machine?"""

import importlib
import os
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from fairnb.files import root
from fairnb.profiles import load_profile

MODULES = {"facenet-pytorch": "facenet_pytorch", "pillow": "PIL", "pyyaml": "yaml"}


def check_environment() -> bool:
    """Print a line OK or FAIL per package, for the device and for mini-sd; True when all are OK."""
    lines = [_python(), *(_package(need) for need in needed()), _model()]
    for good, name, text in lines:
        print(f"{'OK  ' if good else 'FAIL'}  {name:<18} {text}")
    print(f"{'':6}{'device':<18} {_device()}")
    return all(good for good, *_ in lines)


def needed() -> list[Requirement]:
    """What pyproject.toml asks for, without extras."""
    needs = [Requirement(line) for line in requires("fairnb") or []]
    return [need for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]


def _python() -> tuple[bool, str, str]:
    good = sys.version_info >= (3, 11)
    return good, "python", sys.version.split()[0] + ("" if good else ": install Python 3.11 or newer")


def _package(need: Requirement) -> tuple[bool, str, str]:
    module = MODULES.get(need.name, need.name.replace("-", "_"))
    try:
        found = version(need.name)
    except PackageNotFoundError:
        return False, need.name, "missing: make env, or pip install -r requirements.lock"
    if not need.specifier.contains(found, prereleases=True):
        return False, need.name, f"{found} is not {need.specifier}: pip install -r requirements.lock"
    try:
        importlib.import_module(module)
    except Exception as error:  # a package that fails on import may raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        advice = "torch and torchvision must be a pair; rm -rf .venv, then make env"
        return False, need.name, f"{found} does not import ({reason}): {advice}"
    return True, need.name, found


def _model() -> tuple[bool, str, str]:
    model = Path(load_profile("mini").model)
    good = (root() / model / "model_index.json").is_file()
    return good, "mini-sd", "data/mini-sd" + ("" if good else " is missing: git checkout data/mini-sd, or make mini-sd")


def _device() -> str:
    try:
        import torch

        from fairnb.diffusion.pipeline import pick_device

        device = pick_device()
        name = torch.cuda.get_device_name() if device.type == "cuda" else f"{os.cpu_count()} CPU cores"
        return f"{device} ({name})"
    except Exception as error:
        return f"unknown, since torch does not work ({type(error).__name__})"
