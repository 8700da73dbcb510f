"""Weights out of a CTranslate2 model.bin, read as bytes: the engine itself is never installed."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphclone.errors import BadModel

if TYPE_CHECKING:
    import numpy as np

VERSION = 6  # of the format (ctranslate2/specs/model_spec.py, CURRENT_BINARY_VERSION)
TYPES = ("f4", "i1", "i2", "i4", "f2")  # by the number that the file writes; little endian


class Reader:
    """Numbers and strings, one after the other."""

    def __init__(self, data: bytes) -> None:
        self.data, self.place = data, 0

    def number(self, form: str) -> int:
        """The next unsigned number: B, H or I wide."""
        value: int = struct.unpack_from(f"<{form}", self.data, self.place)[0]
        self.place += struct.calcsize(form)
        return value

    def bytes(self, size: int) -> bytes:
        """The next bytes."""
        if self.place + size > len(self.data):
            raise ValueError(f"{size} bytes wanted at {self.place}, the file has {len(self.data)}")
        found = self.data[self.place : self.place + size]
        self.place += size
        return found

    def name(self) -> str:
        """A length, the letters, a zero."""
        return self.bytes(self.number("H"))[:-1].decode()


def read(file: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Every variable by name. Raises BadModel for another format, or a truncated file."""
    import numpy as np

    reader = Reader(file.read_bytes())
    try:
        version, _, _ = reader.number("I"), reader.name(), reader.number("I")
        if version != VERSION:
            raise BadModel(f"{file}: format {version} of CTranslate2, {VERSION} is what is read here")
        found = {}
        for _ in range(reader.number("I")):
            name = reader.name()
            shape = [reader.number("I") for _ in range(reader.number("B"))]
            dtype = np.dtype(f"<{TYPES[reader.number('B')]}")
            found[name] = np.frombuffer(reader.bytes(reader.number("I")), dtype).reshape(shape)
    except (struct.error, ValueError, IndexError) as reason:
        raise BadModel(f"{file}: not a CTranslate2 model, or truncated ({reason})") from None
    return found
