"""The table of tasks."""

from __future__ import annotations

from benchmarks.speedup import encoder, language, vision
from benchmarks.speedup.prepared import Task

TASKS: dict[str, Task] = {"language": language.TASK, "encoder": encoder.TASK, "vision": vision.TASK}
