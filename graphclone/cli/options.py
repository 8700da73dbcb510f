"""The options that several commands share, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphclone.cli import show
from graphclone.errors import InvalidTarget
from graphclone.sizing.budget import shard_bytes


def _size(flag: str, what: str) -> typer.models.OptionInfo:
    panel = "Target (a number, or a share of the parent's such as 50%)"
    option = typer.Option(flag, metavar="N|N%", help=what, rich_help_panel=panel, show_default=False)
    assert isinstance(option, typer.models.OptionInfo)
    return option


_BLOCKS = "Blocks (numbered from 0, such as 0-3,8,11)"


def _blocks(flag: str, what: str) -> typer.models.OptionInfo:
    option = typer.Option(flag, metavar="BLOCKS", help=what, rich_help_panel=_BLOCKS, show_default=False)
    assert isinstance(option, typer.models.OptionInfo)
    return option


ModelPath = Annotated[
    Path, typer.Argument(metavar="MODEL", help="An ONNX file, or a folder with one.", show_default=False)
]
ClonePath = Annotated[
    Path, typer.Argument(metavar="CLONE", help="A clone that graphclone wrote; or its folder.", show_default=False)
]
ParentPath = Annotated[
    Path, typer.Argument(metavar="PARENT", help="The ONNX file it was cut from; or its folder.", show_default=False)
]
OutPath = Annotated[Path, typer.Argument(metavar="OUT", help="Where to write the clone.", show_default=False)]
Output = Annotated[Path, typer.Option("-o", "--output", help="Where to write.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="One line of JSON on standard output.")]

Hidden = Annotated[str | None, _size("--hidden", "Width of the residual stream.")]
Heads = Annotated[str | None, _size("--heads", "Query heads a block; one a block: 8,8,6 or 0-9:8,10-11:50%.")]
KvHeads = Annotated[str | None, _size("--kv-heads", "Key/value heads a block.")]
HeadDim = Annotated[str | None, _size("--head-dim", "Width of one head.")]
Ffn = Annotated[str | None, _size("--ffn", "Feed-forward neurons a block; one a block: 1024,768 or 0-9:1024,10-29:50%")]
Layers = Annotated[str | None, _size("--layers", "Blocks kept.")]
KeepBlocks = Annotated[str | None, _blocks("--keep-blocks", "Which blocks are kept, instead of --layers.")]
DropAttention = Annotated[str | None, _blocks("--drop-attention", "Blocks that stay without their attention.")]
Deeper = Annotated[
    bool,
    typer.Option(
        "--deeper", help="--layers may be more than the parent has: middle blocks repeat.", rich_help_panel=_BLOCKS
    ),
]
DropFfn = Annotated[str | None, _blocks("--drop-ffn", "Blocks that stay without their feed-forward.")]

Vocab = Annotated[
    str | None,
    typer.Option(
        "--vocab",
        metavar="DATA",
        help="Keep the tokens alone that this text uses (files, a folder, python-docs, datasets:NAME), or that a .txt "
        "file of ids lists; special ones stay. The clone's tokenizer and a map of ids are written beside it.",
        rich_help_panel="Target (a number, or a share of the parent's such as 50%)",
        show_default=False,
    ),
]

_BUDGET = "Budget (instead of sizes: the best shape within it)"
Params = Annotated[
    str | None,
    typer.Option(
        "--params", metavar="N|N%", help="Most parameters: 50M, 30%.", rich_help_panel=_BUDGET, show_default=False
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        "--size",
        metavar="N|N%",
        help="Most bytes of its files: 100MB, 25%.",
        rich_help_panel=_BUDGET,
        show_default=False,
    ),
]
Latency = Annotated[
    str | None,
    typer.Option(
        "--latency",
        metavar="T|N%",
        help="Most time that a run takes in ONNX Runtime: 20ms, 50%.",
        rich_help_panel=_BUDGET,
        show_default=False,
    ),
]
Timed = Annotated[
    str | None,
    typer.Option(
        "--timed",
        metavar="BATCHxLENGTH",
        help="The run that latency is of (1x128), on --provider.",
        rich_help_panel=_BUDGET,
        show_default=False,
    ),
]

WithConfig = Annotated[
    bool,
    typer.Option(
        "--with-config",
        help="Write config.json, genai_config.json and the like into OUT's folder, brought up to date; tokenizer files "
        "are copied. They are read from beside MODEL.",
        rich_help_panel="Side files",
    ),
]
SideFiles = Annotated[
    Path | None,
    typer.Option(
        "--side-files",
        metavar="DIR",
        help="The same, read from this folder.",
        rich_help_panel="Side files",
        show_default=False,
    ),
]

_DATA = "Calibration"
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="Files or a folder of .npz batches, text, .jsonl, .parquet or images; datasets:NAME; module:function; "
        "python-docs; random:N.",
        rich_help_panel=_DATA,
        show_default=False,
    ),
]
Column = Annotated[
    str | None,
    typer.Option(
        "--column",
        help="The field of records that holds the text, of --data and of --vocab.",
        rich_help_panel=_DATA,
        show_default=False,
    ),
]
Images = Annotated[
    str | None,
    typer.Option(
        "--images",
        metavar="RECIPE",
        help="How images become pixels: a preprocessor_config.json (by default the one beside the model), or such as "
        "resize=256,crop=224,mean=0.5,std=0.5,interpolation=bicubic,channels=rgb.",
        rich_help_panel=_DATA,
        show_default=False,
    ),
]
Tokenizer = Annotated[
    str | None, typer.Option("--tokenizer", help="A tokenizer.json.", rich_help_panel=_DATA, show_default=False)
]
Length = Annotated[
    int,
    typer.Option(
        "--length", min=1, help="Tokens a sequence, or as many as the model has positions.", rich_help_panel=_DATA
    ),
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Sequences a batch.", rich_help_panel=_DATA)]
Limit = Annotated[
    int | None,
    typer.Option("--limit", min=1, help="Stop after this many batches.", rich_help_panel=_DATA, show_default=False),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="For everything that is drawn at random.")]
Provider = Annotated[str, typer.Option("--provider", help="auto, cpu or cuda.", rich_help_panel=_DATA)]
Threads = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="ONNX Runtime's threads.", rich_help_panel=_DATA, show_default=False),
]
Mask = Annotated[
    str | None,
    typer.Option(
        "--mask",
        metavar="INPUT",
        help="The input that says which positions count (default: the attention mask, where there is one).",
        rich_help_panel=_DATA,
        show_default=False,
    ),
]
Moments = Annotated[
    bool,
    typer.Option(
        "--moments",
        help="Second moments too (for least squares): more time, and a large file.",
        rich_help_panel=_DATA,
    ),
]
Stats = Annotated[
    Path | None,
    typer.Option("--stats", help="What `measure` wrote.", rich_help_panel=_DATA, show_default=False),
]
PlanFile = Annotated[
    Path | None,
    typer.Option("--plan", help="What `plan` wrote (-: standard input), instead of a target.", show_default=False),
]

_PARTS = "Long runs"
Shard = Annotated[
    str | None,
    typer.Option(
        "--shard", metavar="I/N", help="Every Nth batch from the Ith on.", rich_help_panel=_PARTS, show_default=False
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with OUTPUT.partial, of a run that was stopped.", rich_help_panel=_PARTS)
]
CheckpointEvery = Annotated[
    int | None,
    typer.Option(
        "--checkpoint-every",
        metavar="N",
        min=1,
        help="Write OUTPUT.partial every N batches (default: each minute).",
        rich_help_panel=_PARTS,
        show_default=False,
    ),
]
Engine = Annotated[
    str, typer.Option("--engine", help="here, or ray: actors on this machine or a cluster.", rich_help_panel=_PARTS)
]
Address = Annotated[
    str | None,
    typer.Option("--address", help="Of a Ray cluster that runs.", rich_help_panel=_PARTS, show_default=False),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", metavar="N", min=1, help="Ray's actors.", rich_help_panel=_PARTS, show_default=False),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would run, and its cost: one batch.", rich_help_panel=_PARTS)
]


def size_in_bytes(text: str) -> int:
    """``2GB``, ``500 MB`` or a number of bytes."""
    try:
        return shard_bytes(text)
    except InvalidTarget as reason:
        raise typer.BadParameter(str(reason)) from None


ShardSize = Annotated[
    int | None,
    typer.Option(
        "--shard-size",
        parser=size_in_bytes,
        metavar="SIZE",
        help="Weights go to files beside the model, each of SIZE (2GB, 500MB) at most.",
        show_default=False,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Nothing on standard error but errors.", callback=show.hush)]
IMPORTANCES = (
    "How neurons are ranked: equal-vote, paper, l2, energy, variance, wanda, fluctuation (by --data or --stats); "
    "magnitude, first, uniform, random:SEED (without)."
)
Importance = Annotated[str, typer.Option("--importance", help=IMPORTANCES, rich_help_panel="Method")]
Method = Annotated[
    str,
    typer.Option(
        "--method",
        help="How weights are corrected: best, none, paper, or passes joined by +: norm-gain, least-squares, mean-bias,"
        " depth-patch, read-in, pca, query-scale (best+read-in, pca+best).",
        rich_help_panel="Method",
    ),
]
Depth = Annotated[
    str,
    typer.Option(
        "--depth",
        help="Which blocks go: best (block-influence; paper where nothing was measured, and beside --method paper), "
        "paper (the middle ones), uniform, block-influence, angular, greedy (by trying).",
        rich_help_panel="Method",
    ),
]
Tournament = Annotated[
    str | None,
    typer.Option(
        "--tournament",
        metavar="STEPS[@RATE]",
        help="Make the clone in several ways, train each for so many steps on --data, and keep the way that trains "
        "best: 300, or 300@3e-3. What is written is the untrained clone.",
        rich_help_panel="Method",
        show_default=False,
    ),
]
