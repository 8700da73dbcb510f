"""Outputs appear whole or not at all, and never in place of an input.

Everything is written into a temporary folder beside its place, flushed to the disk, and renamed, the file that names
the others last. A process may be killed at any moment: what lies under the output's name is then the old one or the new
one, whole, and what the killed one left behind is removed by the next that writes there.
"""

from __future__ import annotations

import errno
import mmap
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from graphclone import folders
from graphclone.errors import BadModel, InvalidTarget

if sys.platform != "win32":
    import fcntl

CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
SUFFIX = ".part"
FOLDER = "a folder, not a file to write"
_FUNCTION = re.compile(r"(?<=\.py):\w+$")  # file.py:function


@contextmanager
def staged(path: str | Path) -> Iterator[Path]:
    """A path in a temporary folder beside ``path``; what is written there moves into place when the block ends well.

    Raises BadModel where it cannot be written or the disk is full, leaving nothing behind.
    """
    path = Path(path)
    if path.is_dir():
        raise BadModel(f"{path}: {FOLDER}")
    with _room(path) as folder:
        yield folder / path.name
        with _alone(path.parent):
            _commit(folder, path)


@contextmanager
def staged_folder(path: str | Path) -> Iterator[Path]:
    """The same for a folder, new or empty so far: it appears with all that was written into it, or not at all.

    Raises InvalidTarget where something else lies there, BadModel where it cannot be written.
    """
    path = Path(path)
    refuse_full(path)
    with _room(path) as folder:
        inside = folder / path.name
        inside.mkdir()
        yield inside
        for file in (*sorted(inside.rglob("*"), reverse=True), inside):
            _flush(file)
        with _alone(path.parent):
            refuse_full(path)
            os.replace(inside, path)
            _flush(path.parent)


@contextmanager
def _room(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path``, gone in the end."""
    refuse_nowhere(path)
    _sweep(path)
    try:
        folder = Path(tempfile.mkdtemp(SUFFIX, f".{path.name}.{_here()}-{os.getpid()}.", path.parent))
    except OSError as reason:
        raise BadModel(f"{path}: cannot be written ({reason.strerror})") from None
    try:
        yield folder
    except OSError as reason:
        if reason.errno not in CANNOT_WRITE and str(folder) not in str(reason.filename):
            raise
        raise BadModel(f"{path}: cannot be written ({reason.strerror})") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def refuse_nowhere(*outputs: Path | None) -> None:
    """An output's folder is there already: said before a long run, not after it. Raises BadModel."""
    for path in outputs:
        if path is not None and not path.parent.is_dir():
            raise BadModel(f"{path.parent}: no such folder to write {path.name} into")


def refuse_unwritable(*files: str | Path | None) -> None:
    """An output that is a file can be written: said before a long run, not after it. Raises BadModel."""
    for path in (Path(file) for file in files if file is not None):
        refuse_nowhere(path)
        if path.is_dir():
            raise BadModel(f"{path}: {FOLDER}")
        try:
            tempfile.TemporaryFile(dir=path.parent).close()
        except OSError as reason:
            raise BadModel(f"{path}: cannot be written ({reason.strerror})") from None


def refuse_full(path: Path) -> None:
    """An output folder is a new one, or an empty one. Raises InvalidTarget."""
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        what = "holds files already" if path.is_dir() else "a file, not a folder"
        raise InvalidTarget(f"{path}: {what}: write into a new folder, or remove it first")


def _commit(folder: Path, path: Path) -> None:
    """Flush, rename, and drop the data files of the model that stood there before."""
    written = sorted(folder.iterdir(), key=lambda file: (file.name == path.name, file.name))
    for file in written:
        _flush(file)
    for file in written:
        if file.name == path.name:
            _flush(path.parent)  # the others' names are on the disk before the one that needs them
        os.replace(file, path.parent / file.name)
    _flush(path.parent)
    for file in _companions(path):
        if file not in {path.parent / new.name for new in written} and not _needed(file, path):
            file.unlink(missing_ok=True)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time moves files into a folder: none removes as old what another has just put there."""
    if sys.platform == "win32":
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _flush(path: Path) -> None:
    if path.is_dir() and os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def data_name(name: str, digest: str, shard: str = "") -> str:
    """The file of weights beside the model ``name``, called after what is in it: two versions never share one."""
    return f"{name}.{shard}{digest[:8]}.data"


def _companions(path: Path) -> Iterable[Path]:
    called = re.compile(re.escape(path.name) + r"\.(\d+\.)?[0-9a-f]{8}\.data")
    return [file for file in sorted(path.parent.iterdir()) if called.fullmatch(file.name)]


def _needed(file: Path, path: Path) -> bool:
    """Does a copy of the model, under another name in the folder, still read these weights?"""
    for other in path.parent.glob("*.onnx"):
        if other != path and other.is_file() and other.stat().st_size:
            with other.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as held:
                if held.find(file.name.encode()) >= 0:
                    return True
    return False


def _here() -> str:
    return re.sub(r"\W", "_", platform.node())


def _sweep(path: Path) -> None:
    """Remove what processes that were killed on this machine left."""
    called = re.compile(re.escape(f".{path.name}.{_here()}-") + r"(\d+)\..*" + re.escape(SUFFIX))
    for folder in path.parent.iterdir():
        left = called.fullmatch(folder.name)
        if left and not _alive(int(left[1])):
            shutil.rmtree(folder, ignore_errors=True)


def _alive(process: int) -> bool:
    if os.name != "posix":
        return True
    with suppress(PermissionError):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
    return True


def refuse_same_file(output: str | Path | None, *inputs: str | Path | None) -> None:
    """An output never takes the place of its own input, of the model of a folder that is one, or of the source of a
    function. Raises InvalidTarget."""
    for given in inputs:
        if output is not None and given is not None and os.path.realpath(output) in _read_of(Path(given)):
            raise InvalidTarget(f"{output}: is also an input; write to another path")


def _read_of(given: Path) -> set[str]:
    found = {given, Path(_FUNCTION.sub("", str(given)))}
    if given.is_dir():
        with suppress(BadModel):  # a folder of data
            found.add(folders.model_in(given))
    return {os.path.realpath(path) for path in found}
