"""The options of the pass: one row each, typed and documented, from which Olive makes the class it validates by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SIZE = int | str


@dataclass(frozen=True)
class Option:
    """type: as pydantic checks it. path: made absolute by Olive."""

    type: Any
    default: Any
    what: str
    path: bool = False


SHARE = "a number, or a share of the parent's such as 50%"
TARGET: Mapping[str, Option] = {
    "hidden": Option(SIZE, None, f"Width of the residual stream: {SHARE}."),
    "heads": Option(SIZE, None, f"Query heads a block: {SHARE}; one a block: 8,8,6 or 0-9:8,10-11:50%."),
    "kv_heads": Option(SIZE, None, f"Key/value heads a block: {SHARE}."),
    "head_dim": Option(SIZE, None, f"Width of one head: {SHARE}."),
    "ffn": Option(SIZE, None, f"Feed-forward neurons a block: {SHARE}; one a block: 0-9:1024,10-29:50%."),
    "layers": Option(SIZE, None, f"Blocks kept: {SHARE}."),
    "keep_blocks": Option(str, None, "Which blocks are kept, instead of layers: 0-3,8,11."),
    "drop_attention": Option(str, None, "Blocks that stay without their attention: 3,5."),
    "drop_ffn": Option(str, None, "Blocks that stay without their feed-forward: 7-9."),
}
BUDGET: Mapping[str, Option] = {
    "params": Option(str, None, "Instead of sizes: the best shape with at most so many parameters, 50M or 30%."),
    "size": Option(
        str, None, "Instead of sizes: the best shape with at most so many bytes of its files, 100MB or 25%."
    ),
    "latency": Option(str, None, "Instead of sizes: the best shape whose run takes at most 20ms, or 50%."),
}
HOW: Mapping[str, Option] = {
    "importance": Option(str, "equal-vote", "How neurons are ranked, as `graphclone clone --importance` has it."),
    "method": Option(str, "best", "How weights are corrected, as `graphclone clone --method` has it."),
    "depth": Option(str, "best", "How blocks are chosen, as `graphclone clone --depth` has it (greedy left out)."),
}
DATA: Mapping[str, Option] = {
    "data": Option(
        str,
        None,
        "What is measured, as `graphclone measure --data` has it: files, a folder, python-docs, module:function.",
    ),
    "tokenizer": Option(str, None, "The tokenizer.json of text; by default the one beside the model.", path=True),
    "column": Option(str, None, "The field of records that holds the text."),
    "images": Option(str, None, "How images become pixels, as `graphclone measure --images` has it."),
    "length": Option(int, 128, "Tokens a sequence."),
    "batch_size": Option(int, 8, "Sequences a batch."),
    "limit": Option(int, None, "At most so many batches, of data and of data_config."),
    "seed": Option(int, 0, "Of random data."),
    "threads": Option(int, None, "Of ONNX Runtime while it measures, and times a budget of latency."),
    "stats": Option(str, None, "Statistics that `graphclone measure` wrote, instead of data.", path=True),
}
OPTIONS: Mapping[str, Option] = {**TARGET, **BUDGET, **HOW, **DATA}
