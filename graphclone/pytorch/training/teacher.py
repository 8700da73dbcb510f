"""The teacher: the parent, run by ONNX Runtime beside the training, its outputs handed over as tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.utils.dlpack

from graphclone import feeds
from graphclone.errors import BadData, InvalidTarget, UnsupportedGraph
from graphclone.graph import Model
from graphclone.pytorch.training.batches import Array
from graphclone.pytorch.training.cache import Cache, Kept
from graphclone.pytorch.training.examples import Example, Setting
from graphclone.pytorch.training.hidden import Pair, with_outputs
from graphclone.pytorch.training.losses import Taught, pooled
from graphclone.pytorch.training.tasks import Task
from graphclone.pytorch.weights import to_tensor
from graphclone.verification.sessions import Session, has_cuda, open_session


@dataclass
class Teacher:
    """An open teacher. ``pairs``: where its residual stream meets the clone's. runs: batches it was run on.

    ids: what it calls the clone's tokens, where the clone has fewer; of its logits, theirs are given.
    """

    session: Session
    output: str
    task: Task
    known: Mapping[str, feeds.Input]
    pairs: tuple[Pair, ...] = ()
    cache: Cache | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    gpu: int | None = None  # where the session runs; None is the CPU
    runs: int = 0
    ids: tuple[int, ...] | None = None

    @classmethod
    def open(
        cls,
        model: Model,
        task: Task,
        setting: Setting,
        *,
        pairs: Sequence[Pair] = (),
        cache: Cache | None = None,
        device: torch.device | None = None,
        threads: int | None = None,
        ids: tuple[int, ...] | None = None,
    ) -> Teacher:
        """Load it, on the clone's GPU where ONNX Runtime has CUDA. Raises BadData where it lacks the task's output."""
        device = device or torch.device("cpu")
        own = tuple(tensor.name for tensor in model.graph.outputs)
        gpu = (device.index or 0) if device.type == "cuda" and has_cuda() else None
        session = open_session(with_outputs(model, [p.theirs for p in pairs]), threads=threads, gpu=gpu)
        output = task.output(own, Setting(outputs=own, output=setting.output if setting.output in own else None))
        return cls(session, output, task, feeds.inputs(model), tuple(pairs), cache, device, gpu, ids=ids)

    def __call__(self, example: Example, *, hidden: bool = False) -> Taught:
        """What it says of an example; ``hidden``: its residual stream too."""
        fed = self._fed(example.feeds)
        held = self.cache.read(fed) if self.cache is not None and not hidden else None
        if held is None:
            outputs = self._run(fed, [self.output, *(p.theirs for p in self.pairs if hidden)])
            said = outputs[self.output]
            if self.task.teaches == "embedding":
                said = pooled(said, None if example.seen is None else torch.from_numpy(example.seen).to(self.device))
            if self.cache is None:
                return Taught(said, None, self._hidden(outputs) if hidden else ())
            held = self.cache.write(fed, said, logits=self.task.teaches == "logits")
            return self._taught(held, self._hidden(outputs) if hidden else ())
        return self._taught(held, ())

    def shape(self, example: Example) -> tuple[int, ...]:
        """The shape of its output; a rehearsal, not counted as a run."""
        self.runs -= 1
        return tuple(self._run(self._fed(example.feeds), [self.output])[self.output].shape)

    def _taught(self, held: Kept, hidden: tuple[torch.Tensor, ...]) -> Taught:
        top = None if held.top is None else held.top.to(self.device)
        return Taught(held.output.to(self.device), top, hidden)

    def _hidden(self, outputs: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """The kept neurons alone: they are the clone's own, in the clone's order."""
        return tuple(
            outputs[p.theirs] if p.kept is None else outputs[p.theirs][..., torch.tensor(p.kept, device=self.device)]
            for p in self.pairs
        )

    def _fed(self, given: Mapping[str, Array]) -> dict[str, Array]:
        """What the teacher takes of the clone's feeds, the rest by rule."""
        wanted = {
            name: np.ascontiguousarray(self._renamed(known, given[name]), known.dtype)
            for name, known in self.known.items()
            if name in given
        }
        return feeds.fill(self.known, wanted, "the teacher's batch")

    def _renamed(self, known: feeds.Input, array: Array) -> Array:
        """The clone's ids as the teacher's."""
        return array if self.ids is None or known.role.name != "tokens" else np.asarray(self.ids)[array]

    def _shared(self, name: str, said: torch.Tensor) -> torch.Tensor:
        """Logits at the tokens that the clone has; anything else as it is."""
        rows = {known.rows for known in self.known.values() if known.role.name == "tokens"}
        if self.ids is None or name != self.output or self.task.teaches != "logits" or said.shape[-1] not in rows:
            return said
        return said[..., torch.tensor(self.ids, device=said.device)]

    def _run(self, fed: Mapping[str, Array], names: Sequence[str]) -> dict[str, torch.Tensor]:
        self.runs += 1
        try:
            if self.gpu is not None:
                there = {name: torch.from_numpy(array).to(self.device) for name, array in fed.items()}
                torch.cuda.current_stream().synchronize()  # ONNX Runtime computes on a stream of its own
                bound = self.session.run_bound(there, names, "cuda", self.gpu)
                return {n: self._shared(n, torch.utils.dlpack.from_dlpack(value)) for n, value in bound.items()}
            results = self.session.run(fed)
        except UnsupportedGraph as reason:
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in fed.items())
            raise BadData(f"a batch ({shapes}) does not run through the teacher: {reason}") from None
        return {name: self._shared(name, _tensor(results[name]).to(self.device)) for name in names}


def _tensor(array: Array) -> torch.Tensor:
    """The runtime's own memory where PyTorch can read it; bfloat16 is copied."""
    return to_tensor(array, "the teacher") if array.dtype.kind == "V" else torch.from_numpy(array)


def refuse_other_vocabulary(ours: Sequence[int], theirs: Sequence[int], task: Task) -> None:
    """Logits of clone and teacher have to speak of the same classes or tokens. Raises InvalidTarget with both sizes."""
    if task.teaches == "logits" and ours[-1] != theirs[-1]:
        raise InvalidTarget(
            f"the teacher's vocabulary has {theirs[-1]:,} entries, the clone's {ours[-1]:,}: a clone learns from a "
            f"teacher with the same tokenizer and classes"
        )


def refuse_other_width(ours: Sequence[int], theirs: Sequence[int], kept: Sequence[int] | None, task: Task) -> None:
    """Embeddings have to be of one width, or the clone's be the teacher's kept neurons. Raises InvalidTarget."""
    if task.teaches == "embedding" and ours[-1] != theirs[-1] and (kept is None or len(kept) != ours[-1]):
        raise InvalidTarget(
            f"the teacher's embedding has {theirs[-1]} numbers, the clone's {ours[-1]}, and no plan says which "
            f"they are: a clone learns from its own parent's embedding"
        )
