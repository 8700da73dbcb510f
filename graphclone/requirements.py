"""What is needed for what, which of it is here, and the command that installs the rest.

Versions are read from the packages' metadata: nothing is imported.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from graphclone.errors import GraphCloneError


class MissingPackage(GraphCloneError):
    """A package that is asked for is not installed, or too old."""


@dataclass(frozen=True)
class Requirement:
    """A distribution, and the oldest version that will do. ``also``: others that bring the same."""

    name: str
    oldest: str
    also: tuple[str, ...] = ()

    @property
    def installed(self) -> str | None:
        """Its version, None where it is not there."""
        for name in (self.name, *self.also):
            try:
                return version(name)
            except PackageNotFoundError:
                continue
        return None

    @property
    def fault(self) -> str | None:
        """What is wrong with what is there, in words; None where it will do."""
        found = self.installed
        if found is None:
            return f"{self.name} is not installed"
        return f"{self.name} {found} is older than {self.oldest}" if _older(found, self.oldest) else None


@dataclass(frozen=True)
class Feature:
    """Something that graphclone does where more than its own dependencies is there. extra: as pip names it; other: what
    does as well, in words."""

    what: str
    extra: str
    needs: tuple[Requirement, ...]
    other: str = ""

    @property
    def faults(self) -> list[str]:
        """What is missing or too old, in words."""
        return [fault for need in self.needs if (fault := need.fault)]

    @property
    def command(self) -> str:
        """What installs it."""
        return f"pip install 'graphclone[{self.extra}]'"

    def require(self, who: str) -> None:
        """Raise MissingPackage, with the command, unless all of it is here. who: what asked for it."""
        if self.faults:
            raise self.missing(who)

    def missing(self, who: str) -> MissingPackage:
        """The error where an import failed."""
        found = ", ".join(self.faults) or f"{' or '.join(need.name for need in self.needs)} cannot be imported"
        return MissingPackage(f"{who}: {found}: {self.command}{self.other}")


RUNTIME = Requirement("onnxruntime", "1.20", ("onnxruntime-gpu",))
TORCH = Requirement("torch", "2.6")
TRANSFORMERS = Requirement("transformers", "5")
GENAI = Requirement("onnxruntime-genai", "0.9", ("onnxruntime-genai-cuda",))
OPTIMUM = Requirement("optimum-onnx", "0.1")
FEATURES: dict[str, Feature] = {
    row.extra: row
    for row in (
        Feature(
            "running models: measure, verify, bench", "cpu", (RUNTIME,), " (or 'graphclone[gpu]' beside an NVIDIA GPU)"
        ),
        Feature("training, and clones as PyTorch", "train", (TORCH, Requirement("accelerate", "1.6"))),
        Feature("TensorBoard (train --logs)", "logs", (Requirement("tensorboard", "2.16"),)),
        Feature("images and parquet as data", "data", (Requirement("pillow", "10"), Requirement("pyarrow", "15"))),
        Feature("measuring on many machines (--engine ray)", "ray", (Requirement("ray", "2.51"),)),
        Feature(
            "Hugging Face checkpoints (hf), and parents from models/",
            "models",
            (
                TORCH,
                TRANSFORMERS,
                Requirement("onnxscript", "0.5"),
                Requirement("accelerate", "1.6"),
                Requirement("gguf", "0.16"),
            ),
        ),
        Feature(
            "pages of runs and models (report, inspect --html)",
            "report",
            (Requirement("altair", "6"), Requirement("jinja2", "3.1"), Requirement("vl-convert-python", "1.9")),
        ),
        Feature("the demo's picture", "demo", (Requirement("matplotlib", "3.9"),)),
        Feature("a pass in Olive's workflows (olive-config)", "olive", (Requirement("olive-ai", "0.13"),)),
        Feature("trying folders of onnxruntime-genai (try)", "genai", (GENAI,)),
        Feature("trying folders of Optimum (try)", "optimum", (OPTIMUM,)),
        Feature(
            "trying folders of sentence-transformers (try)",
            "sentence-transformers",
            (OPTIMUM, Requirement("sentence-transformers", "5")),
        ),
    )
}


def _older(found: str, oldest: str) -> bool:
    """By the numbers at their beginning: what a pre-release or a build adds does not matter here.

    >>> _older("2.10.0+cpu", "2.6"), _older("2.5.1", "2.6"), _older("5.0.0rc1", "5")
    (False, True, False)
    """
    numbers = [[int(n) for n in re.findall(r"\d+", re.split(r"[a-z+-]", text)[0])] for text in (found, oldest)]
    width = max(map(len, numbers))
    padded = [held + [0] * (width - len(held)) for held in numbers]
    return padded[0] < padded[1]
