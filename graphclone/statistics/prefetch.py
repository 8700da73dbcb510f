"""Reads ahead: the next batches are made in a thread while the current one runs."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from queue import Empty, Full, Queue
from typing import TypeVar

T = TypeVar("T")
AHEAD = 2  # items ready beside the one in work: memory stays flat
PATIENCE = 0.1  # seconds between looks at whether anybody still wants more
TO_END = 5.0  # seconds that a source may take over an item that nobody wants any more


class _Raised:
    """An exception on its way to the reader."""

    def __init__(self, reason: BaseException) -> None:
        self.reason = reason


@contextmanager
def prefetched(items: Iterable[T], ahead: int = AHEAD) -> Iterator[Iterator[T]]:
    """The items in order, made up to ``ahead`` in advance; what making one raises is raised where it would be read.

    However the block is left (Ctrl-C too), the thread ends before it: nothing is read on behind the caller's back.
    """
    ready: Queue[T | _Raised | None] = Queue(max(1, ahead))
    stopped = threading.Event()

    def offer(item: T | _Raised | None) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=PATIENCE)
            except Full:
                continue
            return True
        return False

    def make() -> None:
        try:
            for item in items:
                if not offer(item):
                    return
            offer(None)
        except BaseException as reason:  # noqa: BLE001  (it is raised again on the other side)
            offer(_Raised(reason))

    thread = threading.Thread(target=make, name="graphclone-prefetch", daemon=True)
    thread.start()
    try:
        yield _read(ready)
    finally:
        stopped.set()
        thread.join(TO_END)


def _read(ready: Queue[T | _Raised | None]) -> Iterator[T]:
    while True:
        try:
            item = ready.get(timeout=PATIENCE)  # not for ever: Windows would not see Ctrl-C
        except Empty:
            continue
        if item is None:
            return
        if isinstance(item, _Raised):
            raise item.reason
        yield item
