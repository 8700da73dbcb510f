"""How fast a clone is beside its parent, and how much memory each takes, as ONNX Runtime runs their files."""

from graphclone.timing.bench import bench
from graphclone.timing.figures import Bench, Measured, Setting, Spread, Timing

__all__ = ["Bench", "Measured", "Setting", "Spread", "Timing", "bench"]
