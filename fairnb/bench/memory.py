"""Memory of this process, now and at its peak."""

import sys

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
