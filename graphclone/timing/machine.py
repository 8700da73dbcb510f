"""What figures are taken on."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def processor() -> str:
    """The processor's name, and how many cores this process may use."""
    table = Path("/proc/cpuinfo")
    rows = table.read_text().splitlines() if table.exists() else []
    names = [row.split(":", 1)[1].strip() for row in rows if row.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{names[0] if names else platform.processor() or platform.machine()}, {cores} cores"
