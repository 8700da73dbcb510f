"""The application: exit codes, one-line errors; PyTorch, ONNX and ONNX Runtime wait until a command needs them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from graphclone import __version__
from graphclone.errors import GraphCloneError

# the usage errors of the parser under typer, which it does not export by name
ParserError: Any = typer.BadParameter.__mro__[2]

FAILED, USAGE, FILE_REFUSED = 1, 2, 5
INTERRUPTED, BROKEN_PIPE = 128 + 2, 128 + 13  # what a shell reports for SIGINT and SIGPIPE

app = typer.Typer(
    name="graphclone",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 2 usage, 3 graph refused, 4 verification failed, 5 bad file.",
)


def _version(asked: bool) -> None:
    if asked:
        print(f"graphclone {__version__}")
        raise typer.Exit


@app.callback()
def graphclone(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Cut an exported ONNX transformer to the shape you ask for: smaller, verified, trainable."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; whatever is refused becomes one line on standard error."""
    from graphclone.cli import checkpoints, commands, gates, measuring, running, train, training  # noqa: F401  (their decorators register the commands)

    try:
        code = app(args=None if arguments is None else list(arguments), prog_name="graphclone", standalone_mode=False)
        sys.stdout.flush()
        if code == INTERRUPTED:  # typer turns Ctrl-C into this exit code, silently
            return _refused("interrupted", INTERRUPTED)
        return int(code) if isinstance(code, int) else 0
    except GraphCloneError as problem:
        return _refused(str(problem), problem.exit_code)
    except ParserError as problem:
        return _refused(problem.format_message(), USAGE)
    except (KeyboardInterrupt, typer.Abort):  # outside of a command
        return _refused("interrupted", INTERRUPTED)
    except (BrokenPipeError, SystemExit):  # typer turns a broken pipe into SystemExit, and nothing else
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing more to say, not even at exit
        return BROKEN_PIPE
    except ImportError as missing:
        return _refused(f"{missing}: install it with pip install 'graphclone[cpu,train,demo]'", FAILED)
    except OSError as problem:
        return _refused(f"{problem.filename or 'input or output'}: {problem.strerror or problem}", FILE_REFUSED)
    except MemoryError:
        return _refused("out of memory: use a smaller batch (--batch-size) or length", FAILED)


def _refused(message: str, code: int) -> int:
    print(f"graphclone: {' '.join(message.split())}", file=sys.stderr)
    return code


def main() -> None:
    """Entry point of the ``graphclone`` command."""
    sys.exit(run())
