"""What people meet in Python: what is printed, listed, and said of what is not a batch."""

from __future__ import annotations

import graphclone
from graphclone import graph


def test_a_model_is_printed_in_a_line_and_the_package_lists_all_its_names(parent_file):
    file = parent_file("llama", exporter="torchscript")
    shown = repr(graph.load(file))
    assert "\n" not in shown
    assert shown.startswith(f"Model({file}: ")
    assert set(graphclone.__all__) <= set(dir(graphclone))
