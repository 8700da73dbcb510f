"""An activation is reduced as soon as it is there: memory does not grow with the number of sites."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEPTH, WIDTH, TOKENS = 48, 512, 4096  # each activation has 8 MB, all of them 384 MB
ALLOWED = 160  # MB beyond the loaded session

SCRIPT = f"""
import resource
import numpy as np, onnx_graphsurgeon as gs
from graphclone.anatomy.parts import Anatomy, Site
from graphclone.graph import Model
from graphclone.statistics.probe import Probe

x = gs.Variable("features", np.float32, ["batch", "length", {WIDTH}])
model = Model(gs.Graph(inputs=[x], opset=17, ir_version=8))
held, sites = x, []
for k in range({DEPTH}):
    made = gs.Variable(f"v{{k}}", np.float32)
    model.graph.nodes.append(gs.Node("Neg", f"n{{k}}", {{}}, [held], [made]))
    sites.append(Site(f"s{{k}}", "writer", made.name, -1, {WIDTH}, k, {{"residual": np.arange({WIDTH})}}))
    held = made
held.shape = ["batch", "length", {WIDTH}]
model.graph.outputs = [held]
probe = Probe.open(model, Anatomy("", (), {{}}, tuple(sites), (), {{}}), provider="cpu", threads=1)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
before = peak()
for number in range(2):
    found = probe.run({{"features": np.ones((8, {TOKENS} // 8, {WIDTH}), np.float32)}}, "batch")
assert all(held["count"] == {TOKENS} and (held["abs"] == {TOKENS}).all() for held in found.values())
print(peak() - before)
"""


def test_peak_memory_is_a_few_activations_not_all_of_them():
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[-1]) < ALLOWED
