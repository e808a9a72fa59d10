"""`fairnb check`: installed packages, the shipped model and the device."""

import importlib
import operator
import os
import re
import sys
from importlib.metadata import PackageNotFoundError, requires, version

from fairnb.files import root

MODULES = {"facenet-pytorch": "facenet_pytorch", "pillow": "PIL", "pyyaml": "yaml"}
COMPARE = {">=": operator.ge, "<": operator.lt}  # all that pyproject.toml uses


def check_environment() -> bool:
    """Print one line with OK or FAIL per package and for mini-sd, and the device; return True if all are OK."""
    lines = [_python(), *map(_package, needed()), _model()]
    for line in lines:
        print_line(*line)
    print_line(None, "device", _device())
    return all(good for good, *_ in lines)


def print_line(good: bool | None, name: str, text: str) -> None:
    """Print OK, FAIL or, for None, nothing, and what there is to say."""
    print(f"{ {True: 'OK', False: 'FAIL', None: ''}[good]:<4}  {name:<18} {text}")


def needed() -> list[str]:
    """Return the dependencies of pyproject.toml, such as "torch>=2.11", without those of extras."""
    return [need for need in requires("fairnb") or [] if "extra ==" not in need]


def _python() -> tuple[bool, str, str]:
    good = sys.version_info >= (3, 11)
    return good, "python", sys.version.split()[0] + ("" if good else ": install Python 3.11 or newer")


def _package(need: str) -> tuple[bool, str, str]:
    name, bounds = re.fullmatch(r"([\w.-]+)(.*)", need).groups()
    advice = f"make env, or pip install '{need}'"
    try:
        found = version(name)
    except PackageNotFoundError:
        return False, name, f"missing: {advice}"
    for compare, bound in re.findall(r"(>=|<)([\d.]+)", bounds):
        if not COMPARE[compare](_numbers(found), _numbers(bound)):
            return False, name, f"{found} is not {bounds}: {advice}"
    try:
        importlib.import_module(MODULES.get(name, name.replace("-", "_")))
    except Exception as error:  # a broken package may raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        advice = "install torch and torchvision together, in the versions of requirements.lock"
        return False, name, f"{found} does not import ({reason}): {advice}"
    return True, name, found


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text.partition("+")[0])]


def _model() -> tuple[bool, str, str]:
    model = root() / "data" / "mini-sd"
    good = (model / "model_index.json").is_file()
    return good, "mini-sd", str(model) + ("" if good else " is missing: git checkout data/mini-sd, or make mini-sd")


def _device() -> str:
    try:
        import torch

        from fairnb.diffusion.pipeline import pick_device

        device = pick_device()
        name = torch.cuda.get_device_name() if device.type == "cuda" else f"{os.cpu_count()} CPU cores"
        return f"{device} ({name})"
    except Exception as error:
        return f"unknown, since torch does not work ({type(error).__name__})"
