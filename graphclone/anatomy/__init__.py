"""What is in a graph: neurons traced, groups formed, blocks found."""

from graphclone.anatomy.describe import inspect

__all__ = ["inspect"]
