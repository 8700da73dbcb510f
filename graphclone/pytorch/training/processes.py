"""One process or many, on whatever they run on: Hugging Face Accelerate says which, FSDP2 shards the module.

Started by ``torchrun`` or ``accelerate launch``, each process trains on its share of every batch's rows. Accelerate
shards on GPUs alone, so ``fully_shard`` is called here: what the tests run on two CPU processes is what GPUs run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.checkpoint import checkpoint

from graphclone.errors import InvalidTarget, UnsupportedGraph
from graphclone.requirements import FEATURES

if TYPE_CHECKING:
    from accelerate import Accelerator

ACCELERATE_NAMES = {"fp32": "no", "bf16": "bf16"}
BLOCK = re.compile(r"(^|\.)blocks\.\d+$")


@dataclass(frozen=True)
class Processes:
    """This process among those that train together."""

    accelerator: Accelerator

    @classmethod
    def start(cls, precision: str = "fp32") -> Processes:
        """Join the processes that a launcher started; without one, be alone."""
        try:
            from accelerate import Accelerator
            from accelerate.state import AcceleratorState
        except ImportError:
            raise FEATURES["train"].missing("training") from None
        AcceleratorState._reset_state()  # another run of this interpreter may have had another precision
        alone = not torch.accelerator.is_available()
        return cls(Accelerator(cpu=alone, mixed_precision=ACCELERATE_NAMES[precision]))

    @property
    def index(self) -> int:
        """This process, counted from 0."""
        return int(self.accelerator.process_index)

    @property
    def count(self) -> int:
        """How many there are."""
        return int(self.accelerator.num_processes)

    @property
    def main(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.index == 0

    @property
    def device(self) -> torch.device:
        """Where the module and its batches are."""
        held: torch.device = self.accelerator.device
        return held

    def place(self, module: nn.Module, *, compiled: bool, recompute: bool) -> None:
        """Bring the module to the device, in place: recomputing, compiled, sharded over the processes as asked."""
        blocks = blocks_of(module)
        if recompute:
            if not blocks:
                raise UnsupportedGraph("recomputing activations works block by block, and the module has no blocks")
            for block in blocks:
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        module.to(self.device)
        if compiled:
            module.compile()
        if self.count > 1:
            self._shard(module, blocks)

    def _shard(self, module: nn.Module, blocks: Sequence[nn.Module]) -> None:
        scalar = next((name for name, p in module.named_parameters() if not p.dim()), None)
        if scalar is not None:
            raise UnsupportedGraph(f"{scalar}: a weight without axes cannot be sharded over processes: train with one")
        mesh = init_device_mesh(self.device.type, (self.count,))
        for block in blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(module, mesh=mesh)

    def synchronised(self, module: nn.Module, now: bool) -> None:
        """Whether gradients are added up over the processes in the next backward pass: once an update is enough."""
        if isinstance(module, FSDPModule):
            module.set_requires_gradient_sync(now)

    def total(self, *values: float) -> list[float]:
        """Sums over all processes, of numbers that each of them has."""
        if self.count == 1:
            return list(values)
        held = torch.tensor(values, dtype=torch.float64, device=self.device)
        return [float(value) for value in self.accelerator.reduce(held, "sum")]

    def autocast(self) -> AbstractContextManager[Any]:
        """Forward passes in the precision that was asked for."""
        held: AbstractContextManager[Any] = self.accelerator.autocast()
        return held

    def backward(self, loss: torch.Tensor) -> None:
        """Gradients of a loss, added to those that are there."""
        self.accelerator.backward(loss)

    def leave(self) -> None:
        """Part from the others, for good."""
        if self.count > 1:
            self.accelerator.end_training()

    def wait(self) -> None:
        """Until all processes are here."""
        self.accelerator.wait_for_everyone()


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """Submodules that are blocks (``blocks.3``) and run as one."""
    unset: Callable[..., Any] = nn.Module.forward
    return [held for name, held in module.named_modules() if BLOCK.search(name) and type(held).forward is not unset]


def release(module: nn.Module) -> None:
    """Undo what ``place`` put around the blocks."""
    for block in blocks_of(module):
        block.__dict__.pop("forward", None)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor, on the host, in memory of its own; every process has to ask."""
    held = tensor.detach()
    full: torch.Tensor = held.full_tensor() if isinstance(held, DTensor) else held
    return full.to("cpu", copy=True)


def spread(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The inverse of ``whole``: values placed, and sharded, as ``like`` is."""
    if values.shape != like.shape:
        raise InvalidTarget(f"a tensor of shape {list(values.shape)} in place of {list(like.shape)}")
    held = values.to(like.device, like.dtype)
    return distribute_tensor(held, like.device_mesh, like.placements) if isinstance(like, DTensor) else held
