"""Finds what is in a graph: traces neurons through it, groups them, and finds the blocks of its residual streams."""

from graphclone.anatomy.describe import inspect

__all__ = ["inspect"]
