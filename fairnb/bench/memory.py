"""Peak memory of this process."""

import resource
import sys


def peak() -> float:
    """The largest memory this process ever held, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6  # bytes there, kB of 1024 elsewhere
