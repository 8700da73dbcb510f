"""The errors that graphclone raises, each with the exit code the command line gives it.

A message names what was found, where, and what would help; it is one line unless a table says more.
"""


def one_line(said: object, most: int | None = None) -> str:
    """What another's error says, without its line breaks; of a long one the beginning."""
    return " ".join(str(said).split())[:most]


class GraphCloneError(Exception):
    """Anything graphclone refuses. Catch this to catch all of them."""

    exit_code = 1


class BadModel(GraphCloneError):
    """A file that is missing, truncated, corrupt, or not what its name promises."""

    exit_code = 5


class UnsupportedGraph(GraphCloneError):
    """A valid graph that holds something graphclone does not understand."""

    exit_code = 3


class InvalidTarget(GraphCloneError):
    """A shape or an option that cannot be met."""

    exit_code = 2


class BadData(GraphCloneError):
    """Calibration or training data that is empty, unreadable, or does not fit the graph's inputs."""

    exit_code = 5


class VerificationFailed(GraphCloneError):
    """A clone that is not what its plan says."""

    exit_code = 4
