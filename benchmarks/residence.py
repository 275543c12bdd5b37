"""How much memory the process holds, as the operating system sees it."""

from __future__ import annotations

import gc
import resource
import sys
from pathlib import Path

MIB = 1024 * 1024
_STATM = Path("/proc/self/statm")


def resident_bytes() -> int:
    """Return the resident memory of the process after a full collection.

    Where the current value cannot be had it is the highest so far, which never falls.
    """
    gc.collect()
    if _STATM.exists():
        return int(_STATM.read_text().split()[1]) * resource.getpagesize()
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return highest if sys.platform == "darwin" else highest * 1024
