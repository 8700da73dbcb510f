"""What `plan` tells of a clone stands beside the parent's."""

from __future__ import annotations

import json
import re

from graphclone.cli.app import run


def test_the_parents_latency_stands_beside_the_clones(parent_file, capsys):
    words = ["plan", str(parent_file("llama", exporter="dynamo")), "--layers", "1", "--timed", "1x8"]
    assert run([*words, "--importance", "first"]) == 0
    assert re.search(r"latency: [\d.]+ ms, the parent's [\d.]+ ms \(batch 1 x 8, auto\)", capsys.readouterr().out)
    assert run([*words, "--importance", "first", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parent_latency"] > 0
