"""How much memory this process has taken."""

from __future__ import annotations

import sys


def peak() -> int | None:
    """The most bytes that were resident so far; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
