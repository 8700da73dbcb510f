"""What is installed, what would run where, and what is missing, with the command that installs it.

Libraries are tried in processes of their own: one that is broken, or crashes, is a line here.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from graphclone.requirements import FEATURES
from graphclone.version import __version__

OWN = (
    "numpy",
    "onnx",
    "onnx-graphsurgeon",
    "protobuf",
    "pydantic",
    "PyYAML",
    "rich",
    "safetensors",
    "tokenizers",
    "typer",
)
PATIENCE = 120  # seconds for a library to be imported
RUNTIME = """
import json
from graphclone.statistics import runtime
ort = runtime.runtime()
chosen = runtime.provider("auto")
print(json.dumps({"version": ort.__version__, "providers": ort.get_available_providers(), "auto": chosen}))
"""
TORCH = """
import json, torch
cuda = torch.cuda.is_available()
names = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())] if cuda else []
print(json.dumps({"version": torch.__version__, "auto": "cuda" if cuda else "cpu", "devices": names}))
"""
CUDA_TORCH = "pip install -U torch, from the index for your CUDA: https://pytorch.org/get-started/locally"
SWAP = "pip uninstall -y onnxruntime && pip install 'graphclone[gpu]'"


@dataclass(frozen=True)
class Finding:
    """One line. well: whether what graphclone does everywhere works; optional things that are missing are None."""

    what: str
    found: str
    well: bool | None
    fix: str | None = None


@dataclass(frozen=True)
class Findings:
    """versions: of graphclone, Python and packages. runs: what would run where. features: what is there and missing."""

    versions: dict[str, str | None]
    runs: tuple[Finding, ...]
    features: tuple[Finding, ...]

    @property
    def well(self) -> bool:
        """Whether models can be measured, cut and verified here."""
        return all(finding.well is not False for finding in (*self.runs, *self.features))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {"well": self.well, **asdict(self)}


def examine() -> Findings:
    """Look at everything; a few seconds, most of them for PyTorch to be imported."""
    names = [*OWN, *sorted({need.name for row in FEATURES.values() for need in row.needs})]
    versions = {
        "graphclone": __version__,
        "python": platform.python_version(),
        **{name: _version(name) for name in names},
    }
    gpu = _gpu()
    runtime, torch = _tried(RUNTIME), _tried(TORCH) if versions["torch"] else None
    runs = [
        _runtime(runtime, gpu),
        *_torch(torch, gpu),
        _machine(),
        Finding("GPU", gpu or "none that nvidia-smi sees", None),
    ]
    both = _version("onnxruntime") and _version("onnxruntime-gpu")
    if both:
        fix = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'graphclone[gpu]'"
        runs.append(Finding("packages", "onnxruntime and onnxruntime-gpu overwrite each other", False, fix))
    return Findings(versions, tuple(runs), tuple(_features()))


def _features() -> list[Finding]:
    found = []
    for row in FEATURES.values():
        faults = "; ".join(row.faults)
        found.append(
            Finding(row.what, faults or "ready", _needed(row.extra, not faults), row.command if faults else None)
        )
    return found


def _needed(extra: str, ready: bool) -> bool | None:
    """ONNX Runtime is what nothing goes without."""
    return ready or (False if extra == "cpu" else None)


def _runtime(held: dict[str, Any], gpu: str | None) -> Finding:
    what = "measure, verify, bench"
    if "error" in held:
        return Finding(what, f"ONNX Runtime does not work: {held['error']}", False, "pip install -U 'graphclone[cpu]'")
    told = f"{held['auto']} of ONNX Runtime {held['version']} (it has {', '.join(held['providers'])})"
    idle = gpu is not None and held["auto"] == "CPUExecutionProvider"
    return Finding(what, f"{told}; the GPU stays idle" if idle else told, True, SWAP if idle else None)


def _torch(held: dict[str, Any] | None, gpu: str | None) -> list[Finding]:
    if held is None:
        return []
    if "error" in held:
        return [
            Finding("train", f"PyTorch does not work: {held['error']}", False, "pip install -U 'graphclone[train]'")
        ]
    on = ", ".join(held["devices"]) or held["auto"]
    idle = gpu is not None and held["auto"] == "cpu"
    told = f"{on} by PyTorch {held['version']}" + "; the GPU stays idle" * idle
    return [Finding("train", told, True, CUDA_TORCH if idle else None)]


def _machine() -> Finding:
    from graphclone.timing.machine import processor

    memory = ""
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = f", {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB of memory"
    return Finding("machine", f"{platform.system()} {platform.machine()}, {processor()}{memory}", None)


def _gpu() -> str | None:
    """The first GPU's name, driver and memory, as its own program tells them."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    asked = [program, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    lines = _run(asked).splitlines()
    return lines[0].strip() if lines else None


def _tried(code: str) -> dict[str, Any]:
    """What a piece of Python prints as JSON, or why it does not."""
    here = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    try:
        done = subprocess.run(  # noqa: S603  (this program's own)
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
            env={**os.environ, "PYTHONPATH": here},
        )
    except subprocess.TimeoutExpired:
        return {"error": f"it takes more than {PATIENCE} s to start"}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(list(command), capture_output=True, text=True, check=False, timeout=PATIENCE)  # noqa: S603  (as above)
    return done.stdout if done.returncode == 0 else ""


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
