"""The application: exit codes, one-line errors; PyTorch, ONNX and ONNX Runtime wait until a command needs them."""

from __future__ import annotations

import functools
import inspect
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

import typer
import typer.core

from graphclone import __version__
from graphclone.cli import show, typed
from graphclone.cli.options import Quiet
from graphclone.errors import GraphCloneError

# the usage errors of the parser under typer, which it does not export by name
ParserError: Any = typer.BadParameter.__mro__[2]

FAILED, USAGE, FILE_REFUSED = 1, 2, 5
INTERRUPTED, BROKEN_PIPE = 128 + 2, 128 + 13  # as a shell reports SIGINT and SIGPIPE


Function = TypeVar("Function", bound=Callable[..., Any])

# in the order of --help: heading -> commands
PANELS = {
    "From a parent to a clone": ("inspect", "measure", "plan", "clone", "verify"),
    "Training": ("train", "pack", "torch", "hf"),
    "Pipelines": ("run", "report", "bench", "check", "try", "olive-config"),
    "Getting started": ("demo", "doctor"),
}
PANEL_OF = {command: panel for panel, commands in PANELS.items() for command in commands}


class InOrder(typer.core.TyperGroup):
    """Commands as ``PANELS`` lists them."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names; one that has no panel comes last."""
        order = list(PANEL_OF)
        return sorted(self.commands, key=lambda name: order.index(name) if name in PANEL_OF else len(order))


class Application(typer.Typer):
    """Gives every command its panel, and what all have: --quiet."""

    def command(self, name: str | None = None, **more: Any) -> Callable[[Function], Function]:
        """As Typer's."""

        def decorate(function: Function) -> Function:
            panel = PANEL_OF.get(name or function.__name__)
            register = super(Application, self).command(name, **{"rich_help_panel": panel, **more})
            register(_hushed(function))
            return function

        return decorate


def _hushed(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with one more option, which it does not see; which options were typed is noted before it begins."""
    told = inspect.signature(function, eval_str=True)
    if "quiet" in told.parameters:
        return function

    @functools.wraps(function)
    def command(*arguments: Any, context: typer.Context, quiet: bool = False, **given: Any) -> Any:
        with typed.noted(context), show.alone_on_output(bool(given.get("json"))):
            return function(*arguments, **given)

    more = [
        inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
        inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Quiet),
    ]
    signature = told.replace(parameters=[*told.parameters.values(), *more])
    command.__signature__ = signature  # type: ignore[attr-defined]
    command.__annotations__ = {**function.__annotations__, "context": typer.Context, "quiet": Quiet}
    return command


app = Application(
    name="graphclone",
    cls=InOrder,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 failed (a training that diverges, too little memory), 2 usage, 3 graph refused, "
    "4 verification failed, 5 bad file, 130 interrupted (143 by SIGTERM), 141 nobody read on.",
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
    from graphclone.cli import (  # noqa: F401  (their decorators register the commands)
        checkpoints,
        commands,
        counterparts,
        gates,
        health,
        measuring,
        planning,
        running,
        train,
        training,
    )

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
    except SystemExit as ended:
        return _broken_pipe() if ended.code else 0  # typer turns a broken pipe into 1; 0 is shell completion
    except BrokenPipeError:
        return _broken_pipe()
    except ImportError as missing:
        return _refused(f"{missing}: install it with pip install 'graphclone[cpu,train,demo]'", FAILED)
    except OSError as problem:
        return _refused(f"{problem.filename or 'input or output'}: {problem.strerror or problem}", FILE_REFUSED)
    except MemoryError:
        return _refused("out of memory: use a smaller batch (--batch-size) or length", FAILED)


def _broken_pipe() -> int:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing more to say, not even at exit
    return BROKEN_PIPE


def _refused(message: str, code: int) -> int:
    print(f"graphclone: {' '.join(message.split())}", file=sys.stderr)
    return code


def main() -> None:
    """Entry point of the ``graphclone`` command: SIGTERM ends it as Ctrl-C does, so that it cleans up after itself."""
    stopped: list[int] = []

    def stop(number: int, frame: object) -> None:
        stopped.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # in a shell's background it is ignored
        signal.signal(signal.SIGINT, stop)
    try:
        code = run()
    except Exception:
        if not stopped:
            raise
        code = FAILED
    if stopped and code not in (0, INTERRUPTED):  # a library made an error of its own of it
        _refused("interrupted", INTERRUPTED)
    if stopped:
        # CPython remembers a Ctrl-C that passed through source run as a string (namedtuple and dataclass run theirs
        # when a module is imported) and would end by the signal, as if nobody had handled it; another run forgets
        exec("")  # noqa: S102
    sys.exit(128 + stopped[-1] if stopped and code else code)
