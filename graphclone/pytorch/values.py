"""Types of an ONNX value while a module is built: a Symbol, a known torch.Tensor, or Sizes (see recorder.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx

UNKNOWN = object()  # the example of a node whose example could not be computed
Scalar = Any  # int, float, bool or Symbol


class Symbol(fx.Proxy):
    """A value of the module's forward; operators and torch functions on it are recorded."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__array"):  # NumPy asks; a symbol is an opaque element to it
            raise AttributeError(name)
        return super().__getattr__(name)

    @property
    def example(self) -> Any:
        """The meta tensor or number that stands for it, or UNKNOWN."""
        return self.node.meta.get("example", UNKNOWN)


@dataclass(frozen=True, eq=False)
class Sizes:
    """Numbers known to be few and on the host: an array of int, float, bool or scalar Symbol."""

    elements: np.ndarray[Any, np.dtype[Any]]
    dtype: torch.dtype

    @staticmethod
    def of(values: Sequence[Scalar], dtype: torch.dtype = torch.int64) -> Sizes:
        """A vector of numbers."""
        elements = np.empty(len(values), dtype=object)
        elements[:] = values
        return Sizes(elements, dtype)

    @staticmethod
    def of_tensor(tensor: torch.Tensor) -> Sizes:
        """The numbers of a tensor that is known."""
        elements = np.empty(tuple(tensor.shape), dtype=object)
        elements[...] = np.array(tensor.tolist(), dtype=object)
        return Sizes(elements, tensor.dtype)

    @property
    def known(self) -> bool:
        """Whether no number waits for run time."""
        return not any(isinstance(e, Symbol) for e in self.elements.reshape(-1))

    def tensor(self) -> torch.Tensor:
        """As a tensor, where every number is known."""
        return torch.tensor(self.elements.tolist(), dtype=self.dtype)


Value = Symbol | torch.Tensor | Sizes
