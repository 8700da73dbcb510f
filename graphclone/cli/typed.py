"""Which options somebody typed: one that has a default is refused beside another only where it was asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

import typer

_flags: ContextVar[Mapping[str, str]] = ContextVar("flags", default={})  # noqa: B039  (nobody changes it)


@contextmanager
def noted(context: typer.Context) -> Iterator[None]:
    """Remember what was typed while a command runs: its options by name, with their flags."""
    flags = {option.name: max(option.opts, key=len) for option in context.command.params if option.name}
    sources = {name: context.get_parameter_source(name) for name in flags}
    typed = {name: flag for name, flag in flags.items() if getattr(sources[name], "name", "") == "COMMANDLINE"}
    before = _flags.set(typed)
    try:
        yield
    finally:
        _flags.reset(before)


def refuse(why: str, *names: str) -> None:
    """Options that would do nothing are refused. Raises typer.BadParameter for those of ``names`` that were typed."""
    _refuse(why, names)


def refuse_all_but(why: str, *names: str) -> None:
    """As ``refuse``, of every other option than these."""
    _refuse(why, (name for name in _flags.get() if name not in names))


def refuse_without(needed: str, what: str, *names: str) -> None:
    """As ``refuse``, of options that say ``what`` about an option that was not given."""
    if found := _typed(names):
        flags = ", ".join(found)
        raise typer.BadParameter(
            f"{flags} {'say' if len(found) > 1 else 'says'} {what}: give {needed}, or leave {flags} out"
        )


def _refuse(why: str, names: Iterable[str]) -> None:
    if found := _typed(names):
        raise typer.BadParameter(f"{', '.join(found)}: {why}")


def _typed(names: Iterable[str]) -> list[str]:
    """The flags of those that were typed."""
    typed = _flags.get()
    return [typed[name] for name in names if name in typed]
