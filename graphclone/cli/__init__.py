"""The command line: one function a command, no logic of its own."""

from graphclone.cli.app import main

__all__ = ["main"]
