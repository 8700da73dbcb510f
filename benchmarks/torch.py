"""Training an imported module beside the native transformers model of the same shape and weights.

    python -m benchmarks.torch                 all of it, on quiet cores: about eight minutes
    python -m benchmarks.torch --quick         small shapes and few rounds: does it run?
    python -m benchmarks.torch --eager         without torch.compile
    python -m benchmarks.torch --only MiniLM   one model of the three, beside what the results hold of the others

onnx2torch and onnx2pytorch import torchvision, which has to be built for the torch that is installed, and take part
where they are. In an environment of its own:

    pip install torch==2.14.1 torchvision==0.29.1 onnx2torch onnx2pytorch ".[cpu,models,train]"
    pip install --no-deps -r constraints/parents.txt

Native, to_torch, both compiled, onnx2torch and onnx2pytorch (where they are installed and import the file) take turns
on the same batch in one process; ratios to the native eager model within each round, medians of the rounds. Import time
and memory of SmolLM2: a process of its own. Prints a table and writes benchmarks/results/torch.json.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import models
from benchmarks.processes import machine
from benchmarks.torch_peers import peers
from graphclone import graph, outputs
from graphclone.cli import show
from graphclone.pytorch.module import to_torch, weights
from models.export import EXPORT, quiet
from models.recipe import Parent
from models.seeding import randomise

RESULTS = Path(__file__).parent / "results" / "torch.json"
LIMITS = {"training step": 1.10, "import seconds": 10.0, "import memory": 1.2}
ROUNDS, FEW = 9, 2
LLAMA = {"hidden_size": 192, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 64}
LLAMA |= {"intermediate_size": 512, "num_hidden_layers": 10, "vocab_size": 49152, "tie_word_embeddings": True}
MINILM = {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536, "num_hidden_layers": 6}
VIT = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768, "num_hidden_layers": 12}
NO_DROPOUT = {"attention_dropout": 0.0}
Run = Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Subject:
    """A native architecture, its configuration and a batch."""

    name: str
    model: str
    config: str
    settings: dict[str, Any]
    output: str
    batch: tuple[int, ...]

    def inputs(self) -> dict[str, torch.Tensor]:
        """One batch: ids and a mask of ones, or pixels."""
        generator = torch.Generator().manual_seed(0)
        if len(self.batch) == 4:
            return {"pixel_values": torch.randn(self.batch, generator=generator)}
        ids = torch.randint(3, 1000, self.batch, generator=generator)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def native(self, quick: bool) -> nn.Module:
        """Seeded weights; a block or two where it should be quick."""
        transformers = importlib.import_module("transformers")
        settings = {**self.settings, **({"num_hidden_layers": 2} if quick else {})}
        config = getattr(transformers, self.config)(**settings, attn_implementation="sdpa")
        return randomise(getattr(transformers, self.model)(config), seed=0)


SUBJECTS = (
    Subject(
        "SmolLM2 clone",
        "LlamaForCausalLM",
        "LlamaConfig",
        {**LLAMA, **NO_DROPOUT, "use_cache": False},
        "logits",
        (8, 128),
    ),
    Subject(
        "MiniLM",
        "BertModel",
        "BertConfig",
        {**MINILM, "vocab_size": 30522, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
        "last_hidden_state",
        (8, 128),
    ),
    Subject("ViT", "ViTForImageClassification", "ViTConfig", {**VIT, "num_labels": 1000}, "logits", (8, 3, 224, 224)),
)


def exported(subject: Subject, module: nn.Module, folder: Path) -> Path:
    """The native model as TorchScript exports it, batch and length dynamic."""
    inputs = {name: t[:2] for name, t in subject.inputs().items()}
    text = "input_ids" in inputs
    axes = {name: {0: "batch", **({1: "sequence"} if text else {})} for name in inputs}
    file = folder / f"{subject.config}.onnx"
    with quiet():
        EXPORT["torchscript"](Parent(module, inputs, (subject.output,), axes), file)
    return file


def loss_of(output: torch.Tensor) -> torch.Tensor:
    """A loss over the whole output: cross-entropy against a fixed class, as every head is trained."""
    flat = output.reshape(-1, output.shape[-1])
    return F.cross_entropy(flat.float(), torch.zeros(flat.shape[0], dtype=torch.int64))


def ways(subject: Subject, folder: Path, quick: bool, compiled: bool) -> tuple[dict[str, Any], dict[str, str]]:
    """Everything that takes turns: name -> (parameters, forward), and who could not take part."""
    native = subject.native(quick)
    file = exported(subject, native, folder)
    ours = to_torch(graph.load(file))
    inputs = subject.inputs()
    runs: dict[str, Any] = {
        "native": (native, lambda: native(**inputs)[subject.output]),
        "to_torch": (ours, lambda: ours(**inputs)[subject.output]),
    }
    with torch.no_grad():
        wanted = runs["native"][1]()
        difference = float((runs["to_torch"][1]() - wanted).abs().max() / wanted.abs().max())
    if difference > 1e-4:
        raise SystemExit(f"{subject.name}: to_torch differs by {difference:.1e}")
    missing = {}
    for name, peer in peers(file, subject.inputs(), wanted).items():
        if isinstance(peer, str):
            missing[name] = peer
        else:
            runs[name] = (peer[0], lambda call=peer[1]: call(**inputs))
    if compiled:
        for name, module in (("native", native), ("to_torch", ours)):
            made = torch.compile(module)
            runs[f"{name}, compiled"] = (module, lambda made=made: made(**inputs)[subject.output])
    return runs, missing


def measure(subject: Subject, rounds: int, quick: bool, compiled: bool) -> dict[str, Any]:
    """Median seconds and ratios to the native eager model, of the forward and of a training step."""
    with tempfile.TemporaryDirectory() as folder:
        runs, missing = ways(subject, Path(folder), quick, compiled)
    optimizers = {name: torch.optim.AdamW(m.parameters(), lr=1e-6, fused=True) for name, (m, _) in runs.items()}
    steps: dict[str, Callable[[str], None]] = {
        "forward": lambda name: _forward(runs[name][1]),
        "training step": lambda name: _step(runs[name][1], optimizers[name]),
    }
    seconds: dict[str, dict[str, list[float]]] = {kind: {name: [] for name in runs} for kind in steps}
    for turn in range(rounds + 1):
        for kind, act in steps.items():
            for name in list(runs):
                started = time.perf_counter()
                act(name)
                if turn:  # the first one warms up, and compiles
                    seconds[kind][name].append(time.perf_counter() - started)
    rows = [
        {
            "model": subject.name,
            "what": kind,
            "who": name,
            "seconds": median(taken),
            "ratio": median(t / n for t, n in zip(taken, seconds[kind]["native"], strict=True)),
            "to own kind": median(t / n for t, n in zip(taken, seconds[kind][_base(name)], strict=True)),
        }
        for kind, by_name in seconds.items()
        for name, taken in by_name.items()
    ]
    return {"rows": rows, "missing": missing}


def _base(name: str) -> str:
    """What a way is held against: the compiled against the compiled."""
    return "native, compiled" if name.endswith("compiled") else "native"


def _forward(run: Run) -> None:
    with torch.no_grad():
        run()


def _step(run: Run, optimizer: torch.optim.Optimizer) -> None:
    loss = loss_of(run())
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def imported(name: str) -> dict[str, Any]:
    """Seconds and peak memory of importing a parent, over its weights."""
    file = models.cached(name)
    to_torch(graph.load(models.cached("llama")))  # what loads once in a process is not the model's
    before = _memory("VmRSS")
    started = time.perf_counter()
    module = to_torch(graph.load(file))
    seconds = time.perf_counter() - started
    peak = _memory("VmHWM") - before
    held = sum(p.numel() * p.element_size() for p in module.parameters())
    return {"parent": name, "seconds": seconds, "memory": peak / held, "weights": len(list(weights(module)))}


def _memory(field: str) -> int:
    """Bytes of this process that are in memory (VmRSS), or were at most (VmHWM), mapped files included."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) << 10


def main() -> int:
    """Exit code 1 where a limit is not met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two blocks each and two rounds")
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--import-only", metavar="PARENT", help=argparse.SUPPRESS)
    parser.add_argument("--only", metavar="MODEL", choices=[s.name for s in SUBJECTS], help="one model of the three")
    asked = parser.parse_args()
    if asked.import_only:
        print(json.dumps(imported(asked.import_only)))
        return 0
    torch.set_num_threads(asked.threads)
    warnings.simplefilter("ignore")
    chosen = [s for s in SUBJECTS if asked.only in (None, s.name)]
    rounds = FEW if asked.quick else ROUNDS
    models_ = {s.name: measure(s, rounds, asked.quick, not asked.eager) for s in chosen}
    command = [sys.executable, "-m", "benchmarks.torch", "--import-only", "llama" if asked.quick else "smollm2"]
    took = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    made = {"torch": torch.__version__, "threads": asked.threads, "machine": machine(), "compiled": not asked.eager}
    result = {"models": models_, "import": took, "limits": LIMITS, "made": made}
    if asked.only and RESULTS.exists():
        result["models"] = {**json.loads(RESULTS.read_text())["models"], **models_}
    shown(result)
    if not asked.quick:
        RESULTS.parent.mkdir(exist_ok=True)
        with outputs.staged(RESULTS) as draft:
            draft.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if met(result, asked.quick) else 1


def met(result: dict[str, Any], quick: bool) -> bool:
    """Whether every limit is kept; the memory of a small import is the interpreter's."""
    rows = [row for one in result["models"].values() for row in one["rows"]]
    steps = [r for r in rows if r["what"] == "training step" and r["who"].startswith("to_torch")]
    took = result["import"]
    kept = (
        all(r["to own kind"] <= LIMITS["training step"] for r in steps) and took["seconds"] < LIMITS["import seconds"]
    )
    return kept and (quick or took["memory"] <= LIMITS["import memory"])


def shown(result: dict[str, Any]) -> None:
    """The tables."""
    rows = [row for one in result["models"].values() for row in one["rows"]]
    show.table(
        ("model", "what", "who", "ms", "of native", "of its own kind"),
        [
            (
                r["model"],
                r["what"],
                r["who"],
                f"{r['seconds'] * 1e3:.0f}",
                f"{r['ratio']:.2f}",
                f"{r['to own kind']:.2f}",
            )
            for r in rows
        ],
    )
    for model, one in result["models"].items():
        for name, why in one["missing"].items():
            print(f"{model}: {name} does not take part ({why})")
    took = result["import"]
    print(f"import of {took['parent']}: {took['seconds']:.1f} s, {took['memory']:.2f} x its weights")


if __name__ == "__main__":
    sys.exit(main())
