"""How much memory this process has taken."""

from __future__ import annotations

import re
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")  # of Linux


def peak() -> int | None:
    """The most bytes that were resident so far; None where the system does not say.

    Not what getrusage says, where there is another source: a child's begins at the peak of who started it.
    """
    try:
        found = re.search(r"^VmHWM:\s*(\d+) kB", STATUS.read_text(), re.MULTILINE)
    except OSError:  # another system
        found = None
    if found:
        return int(found[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
