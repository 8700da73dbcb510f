"""What a clone has to be before a pipeline goes on: a table of gates, each a measured value against a limit."""

from graphclone.gates.examining import Limits, examine
from graphclone.gates.junit import junit

__all__ = ["Limits", "examine", "junit"]
