"""A package that is not installed is said in one way: what asked for it, what is missing, and what installs it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from graphclone.pytorch.training.logs import Logs
from graphclone.pytorch.training.processes import Processes
from graphclone.requirements import Feature, MissingPackage, Requirement
from graphclone.statistics import distributed, images, records, runtime
from graphclone.verification import sessions

LOADERS = {
    "the probe": ("onnxruntime", runtime.runtime, r"ONNX Runtime: .*'graphclone\[cpu\]' \(or 'graphclone\[gpu\]'"),
    "the examiner": ("onnxruntime", sessions.has_cuda, r"ONNX Runtime: .*'graphclone\[cpu\]' \(or 'graphclone\[gpu\]'"),
    "images": ("PIL", lambda: images._pillow("x.png"), r"x\.png: images: .*pip install 'graphclone\[data\]'$"),
    "parquet": ("pyarrow.parquet", lambda: records._parquet(Path("x")), r"x: .*pip install 'graphclone\[data\]'$"),
    "datasets": ("datasets", lambda: records._opened("x", "train"), r"datasets:x: .*: pip install datasets$"),
    "Ray": ("ray", distributed._ray, r"--engine ray: .*pip install 'graphclone\[ray\]'$"),
    "training": ("accelerate", Processes.start, r"training: .*pip install 'graphclone\[train\]'$"),
    "logs": ("torch.utils.tensorboard", lambda: Logs("x").start(0), r"logs: .*pip install 'graphclone\[logs\]'$"),
}


@pytest.mark.parametrize("case", LOADERS)
def test_what_cannot_be_imported_is_a_missing_package(case, monkeypatch):
    module, load, said = LOADERS[case]
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingPackage, match=said) as caught:
        load()
    assert caught.value.exit_code == 1


def test_what_is_missing_is_named_before_what_cannot_be_imported():
    there, gone = Requirement("numpy", "1"), Requirement("no-such-distribution-of-anyone", "1")
    assert "numpy cannot be imported: pip" in str(Feature("x", "e", (there,)).missing("who"))
    assert "no-such-distribution-of-anyone is not installed: pip" in str(
        Feature("x", "e", (there, gone)).missing("who")
    )
