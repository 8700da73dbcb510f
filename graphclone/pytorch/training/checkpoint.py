"""Saves the state of a training, from which it goes on as if it had never stopped.

    FOLDER/state-00000040/{weights.safetensors, optimizer.safetensors, state.json}    the newest
    FOLDER/best.safetensors                                                           weights of the best evaluation

A state is written beside, synced and renamed, and only then the older one goes: whenever the process is killed, one
whole state is there. Learning rates, masks, dropout and the order of batches follow from the step and the seed, so
weights, AdamW's moments, the step and the position in the data are all there is. Nothing is pickled.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from graphclone.errors import BadData, InvalidTarget
from graphclone.pytorch.training.history import History
from graphclone.pytorch.training.processes import Processes, spread, whole

FORMAT = 1
STATE = re.compile(r"state-(\d{8})$")
WEIGHTS, OPTIMIZER, RECORD, BEST = "weights.safetensors", "optimizer.safetensors", "state.json", "best.safetensors"
STEP = "step"
MOMENTS = (STEP, "exp_avg", "exp_avg_sq")
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Progress:
    """Where a run stands. position: batches taken. length: batches in a pass over the data, once that is known."""

    step: int
    position: int
    length: int | None
    history: History


@dataclass(frozen=True)
class Checkpoints:
    """``identity``: what makes it the same run (model, data, teacher, options), as JSON values."""

    folder: Path
    identity: Mapping[str, Any]

    def newest(self) -> Path | None:
        """The newest whole state, or None."""
        found = [path for path in self.folder.glob("state-*") if STATE.search(path.name) and path.is_dir()]
        return max(found, default=None)

    def refuse_leftovers(self, resume: bool) -> None:
        """A folder with a state is gone on from only where that is asked for. Raises InvalidTarget."""
        held = self.newest()
        if held is not None and not resume:
            raise InvalidTarget(
                f"{self.folder}: holds the state of a run at step {_step(held)}: go on with it (--resume), or delete it"
            )

    def save(self, module: nn.Module, optimizer: torch.optim.Optimizer, at: Progress, processes: Processes) -> None:
        """Write a state; every process has to call, the main one writes."""
        weights, moments = gather(module), _moments(module, optimizer)
        if processes.main:
            self.folder.mkdir(parents=True, exist_ok=True)
            record = {
                "format": FORMAT, "step": at.step, "position": at.position, "length": at.length,
                "identity": dict(self.identity), "history": at.history.as_dict(),
            }  # fmt: skip
            draft = Path(tempfile.mkdtemp(prefix=".state-", dir=self.folder))
            try:
                save_file(weights, draft / WEIGHTS)
                save_file(moments, draft / OPTIMIZER)
                (draft / RECORD).write_text(json.dumps(record, sort_keys=True))
                for file in draft.iterdir():
                    _sync(file)
                _sync(draft)
                older = [path for path in self.folder.glob("state-*") if STATE.search(path.name)]
                final = self.folder / f"state-{at.step:08d}"
                shutil.rmtree(final, ignore_errors=True)
                os.replace(draft, final)
                _sync(self.folder)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
            for path in older:
                if path != final:
                    shutil.rmtree(path, ignore_errors=True)
        processes.wait()

    def save_best(self, weights: Tensors) -> None:
        """Replace the best weights, under the names that ``graphclone pack`` takes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        draft = self.folder / f".{BEST}"
        save_file(weights, draft)
        _sync(draft)
        os.replace(draft, self.folder / BEST)
        _sync(self.folder)

    def restore(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Progress, Tensors | None] | None:
        """Put the newest state into module and optimizer: where the run stands, and the best weights so far.

        None where there is no state. Raises InvalidTarget for the state of another run, BadData for a broken one.
        """
        held = self.newest()
        if held is None:
            return None
        record = self._record(held / RECORD)
        progress = Progress(record["step"], record["position"], record["length"], History.of(record["history"]))
        parameters = dict(module.named_parameters())
        scatter(module, _read(held / WEIGHTS))
        moments, counted = _read(held / OPTIMIZER), _counted_beside(optimizer)
        for name, parameter in parameters.items():
            found = {key: moments[f"{name}/{key}"] for key in MOMENTS if f"{name}/{key}" in moments}
            if found:
                optimizer.state[parameter] = {
                    key: value.to(parameter.device if parameter in counted else "cpu")
                    if key == STEP
                    else spread(value, parameter)
                    for key, value in found.items()
                }
        wanted = progress.history.best is not None and self.identity.get("keep", "best") == "best"
        return progress, _read(self.folder / BEST) if wanted else None

    def _record(self, file: Path) -> dict[str, Any]:
        try:
            record = json.loads(file.read_text())
            if record["format"] != FORMAT:
                raise BadData(f"{file}: format {record['format']}, this graphclone reads {FORMAT}")
            given = json.loads(json.dumps(dict(self.identity)))
            other = sorted(k for k in given.keys() | record["identity"] if given.get(k) != record["identity"].get(k))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as reason:
            raise BadData(f"{file}: not the state of a run ({reason})") from None
        if other:
            shown = "; ".join(f"{k} was {record['identity'].get(k)}, is {given.get(k)}" for k in other[:3])
            raise InvalidTarget(f"{self.folder}: holds the state of another run ({shown})")
        held: dict[str, Any] = record
        return held

    def stopped(self) -> str:
        """What a run that was interrupted keeps, in words; a folder that is worth nothing goes."""
        if self.newest() is not None:
            return f"the last state is in {self.folder}, --resume goes on"
        if (self.folder / BEST).is_file():
            return (
                f"stopped before the first state was written, so --resume cannot go on; the best weights so far are in "
                f"{self.folder / BEST}, which `graphclone pack` takes"
            )
        self.remove()
        return "stopped before the first state was written: nothing is kept"

    def remove(self) -> None:
        """Delete what this class has written; the folder too, where nothing else is in it."""
        for path in (*self.folder.glob("state-*"), *self.folder.glob(".state-*")):
            shutil.rmtree(path, ignore_errors=True)
        for name in (BEST, f".{BEST}"):
            (self.folder / name).unlink(missing_ok=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()


def _counted_beside(optimizer: torch.optim.Optimizer) -> set[torch.Tensor]:
    """Parameters whose step is counted where they lie: a fused or captured update reads it there."""
    groups = (group for group in optimizer.param_groups if group.get("fused") or group.get("capturable"))
    return {parameter for group in groups for parameter in group["params"]}


def gather(module: nn.Module) -> Tensors:
    """Whole weights on the host by parameter name, tied ones once; every process has to ask."""
    return {name: whole(parameter) for name, parameter in module.named_parameters()}


def scatter(module: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """The inverse of ``gather``, in place. Raises BadData for weights of another module."""
    parameters = dict(module.named_parameters())
    if parameters.keys() != weights.keys():
        odd = sorted(parameters.keys() ^ weights.keys())
        raise BadData(f"the state has other weights than the model ({', '.join(odd[:3])})")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(spread(weights[name], parameter))


def _moments(module: nn.Module, optimizer: torch.optim.Optimizer) -> Tensors:
    return {
        f"{name}/{key}": whole(optimizer.state[parameter][key])
        for name, parameter in module.named_parameters()
        if parameter in optimizer.state
        for key in MOMENTS
    }


def _read(file: Path) -> Tensors:
    try:
        return load_file(file)
    except (OSError, SafetensorError, ValueError) as reason:
        raise BadData(f"{file}: cannot be read ({reason})") from None


def _step(state: Path) -> int:
    found = STATE.search(state.name)
    return int(found[1]) if found else 0


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
