"""Memory of this process, now and at its peak."""

import sys
from contextlib import suppress
from pathlib import Path

import torch

from fairnb.errors import UserError


def resident() -> float:
    """The memory this process holds, in MB."""
    try:
        import psutil
    except ImportError as error:
        raise UserError("the benchmark needs psutil: pip install 'fairnb[bench]'") from error
    return psutil.Process().memory_info().rss / 1e6


def peak() -> float:
    """The most memory this process has held, in MB."""
    try:
        import resource
    except ImportError as error:
        raise UserError("peak memory cannot be measured on Windows: run the benchmark on Linux or macOS") from error
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1e6 if sys.platform == "darwin" else most * 1024 / 1e6  # bytes there, kB of 1024 elsewhere


def reset_device_peak() -> None:
    """Let `device_peak` begin anew, where the system can (on a GPU, and on Linux)."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):  # not Linux, or not allowed: then the peak is that since the process began
        Path("/proc/self/clear_refs").write_text("5")  # the peak of the resident set, by proc(5)


def device_peak() -> float | None:
    """The most memory held since `reset_device_peak`, in MB: of the GPU, else of this process; None where it cannot be
    measured."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    return None if sys.platform == "win32" else peak()
