"""Writes a clone as a checkpoint that Transformers loads: config.json, model.safetensors, the parent's tokenizer."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx_graphsurgeon as gs
import torch
from safetensors.torch import save_file

from graphclone import outputs
from graphclone.anatomy import inspect
from graphclone.anatomy.parts import Anatomy
from graphclone.errors import BadData, BadModel, InvalidTarget, UnsupportedGraph, one_line
from graphclone.graph import Model
from graphclone.pytorch.answers import Answers, compare, refuse_epsilons
from graphclone.pytorch.families import BODIES, TABLE, Family, Head, known
from graphclone.pytorch.module import Layout, layout, values_of
from graphclone.pytorch.sharing import unshared

CONFIG, TENSORS = "config.json", "model.safetensors"
BESIDE: tuple[str, ...] = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
)
BESIDE += ("generation_config.json", "preprocessor_config.json", "processor_config.json", "chat_template*")
Tensors = dict[str, torch.Tensor]


def write_hugging_face(model: Model, like: str | Path, folder: str | Path) -> dict[str, Any]:
    """Write the checkpoint, whole or not at all. Options and errors: in_torch.py."""
    like, folder = Path(like), Path(folder)
    config = _config(like)
    family = _family(config)
    heads = _heads(config, family, like / CONFIG)
    apart = unshared(model)
    found = layout(apart)
    tensors = _tensors(apart, found)
    anatomy = inspect(model)
    sizes = _sizes(anatomy, tensors, family, config["model_type"])
    tied = any({a, b} == {"head.weight", "embedding.weight"} for a, b in found.ties)
    architecture, named = _told(_joined(_unpacked(tensors, sizes, family), family), family, heads, config, tied=tied)
    computed = {weight.computed or weight.dtype for weight in found.weights}
    written = _changed(config, family, sizes, computed) | {"architectures": [architecture]}
    if not family.scaled_by_tie and (tied or "head.weight" in tensors):
        written["tie_word_embeddings"] = tied
    same_words = sizes.get("vocabulary", config.get("vocab_size")) == config.get("vocab_size")
    beside = sorted({file for pattern in BESIDE for file in like.glob(pattern) if file.is_file()})
    copied = [f for f in beside if same_words or not f.name.startswith(("tokenizer", "vocab", "merges"))]
    refuse_epsilons(written, anatomy)
    answers = _write(folder, written, named, copied, lambda staged: compare(model, staged, architecture))
    return {
        "family": config["model_type"],
        "architecture": architecture,
        "tensors": len(named),
        "files": sorted(f.name for f in copied),
        "difference": answers.difference,
        "not_compared": answers.why,
    }


def _config(like: Path) -> dict[str, Any]:
    try:
        config = json.loads((like / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as reason:
        raise BadData(f"{like / CONFIG}: not a readable config ({one_line(reason)})") from None
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise BadData(f"{like / CONFIG}: says no model_type: not the config of a Hugging Face model")
    return config


def _family(config: Mapping[str, Any]) -> Family:
    for family in TABLE:
        if config["model_type"] in family.types:
            return family
    raise UnsupportedGraph(
        f"the family {config['model_type']!r} has no row in graphclone/pytorch/families.py; there are "
        f"{', '.join(known())}"
    )


def _heads(config: Mapping[str, Any], family: Family, file: Path) -> dict[str, Head]:
    """The architecture of the config, and those of the family that are a body alone: a graph may hold no more.

    Raises BadData where the config names none, UnsupportedGraph for one without a row.
    """
    named = config.get("architectures")
    if not isinstance(named, list) or not named:
        raise BadData(f"{file}: names no architecture, so its head is not known (architectures: [...])")
    known_heads = family.architectures(config["model_type"])
    if named[0] not in known_heads:
        raise UnsupportedGraph(
            f"the architecture {named[0]} has no row in graphclone/pytorch/families.py; of {config['model_type']} "
            f"there are {', '.join(known_heads)}"
        )
    bodies = [f"{family.types[config['model_type']]}{end}" for end in BODIES if end in family.heads]
    return {name: known_heads[name] for name in (named[0], *bodies)}


def _told(
    tensors: Tensors, family: Family, heads: Mapping[str, Head], config: Mapping[str, Any], *, tied: bool
) -> tuple[str, Tensors]:
    """The first architecture that the weights are those of, and its names for them. Raises what the first one says."""
    refusals: list[UnsupportedGraph] = []
    for architecture, head in heads.items():
        try:
            return architecture, _named(
                tensors, family, head, dict(config) | {"architectures": [architecture]}, tied=tied
            )
        except UnsupportedGraph as refusal:
            refusals.append(refusal)
    raise refusals[0]


def _tensors(model: Model, found: Layout) -> Tensors:
    constants = {t.name: t for t in model.graph.tensors().values() if isinstance(t, gs.Constant)}
    return {weight.name: values_of(weight, constants) for weight in found.weights}


def _sizes(anatomy: Anatomy, tensors: Tensors, family: Family, kind: str) -> dict[str, int]:
    """The clone's sizes, which have to be the same in every block. Raises InvalidTarget."""
    blocks = [block for stack in anatomy.stacks for block in stack.blocks]
    parts = {(a.heads, a.kv_heads, a.head_dim, a.v_dim) for b in blocks for a in b.attention}
    ffn = {f.ffn for b in blocks for f in b.feed_forward}
    if len(parts) != 1 or len(ffn) != 1:
        raise InvalidTarget(
            f"blocks differ in (heads, kv heads, head_dim, v_dim) {sorted(parts)} or feed-forward {sorted(ffn)}: "
            f"a config.json has one of each"
        )
    (heads, kv_heads, head_dim, v_dim), hidden = parts.pop(), anatomy.stacks[0].hidden
    if head_dim != v_dim or (family.coupled and heads * head_dim != hidden):
        fitting = "" if hidden % head_dim or head_dim != v_dim else f": --heads {hidden // head_dim} would fit"
        raise InvalidTarget(
            f"{heads} heads of {head_dim} (values {v_dim}) beside a hidden size of {hidden}: the config of "
            f"{kind} has no head_dim of its own, so heads x head_dim has to be the hidden size{fitting}"
        )
    if kind in family.even and hidden % heads:
        raise InvalidTarget(f"a hidden size of {hidden} is no multiple of {heads} heads, as the config of {kind} asks")
    width = ffn.pop()
    sizes = {"hidden": hidden, "heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "ffn": width}
    sizes |= {"layers": len(anatomy.stacks[0].blocks), "decoder_layers": len(anatomy.stacks[-1].blocks)}
    if "ffn_ratio" in family.sizes.values():
        if width % hidden:
            raise InvalidTarget(f"feed-forward {width} is no multiple of the hidden size {hidden}, as its config asks")
        sizes["ffn_ratio"] = width // hidden
    rows = {"vocabulary": "embedding.weight", "positions": "position_embedding.weight"}
    return sizes | {size: int(tensors[name].shape[0]) for size, name in rows.items() if name in tensors}


def _unpacked(tensors: Tensors, sizes: Mapping[str, int], family: Family) -> Tensors:
    """A packed projection of queries, keys and values as three, where the family has three."""
    if any("attention.qkv" in stack.names for stack in family.stacks):
        return tensors
    rows = [sizes["heads"] * sizes["head_dim"], *[sizes["kv_heads"] * sizes["head_dim"]] * 2]
    result: Tensors = {}
    for name, tensor in tensors.items():
        if ".qkv." in name:
            pieces = zip("qkv", torch.split(tensor, rows), strict=True)
            result |= {name.replace(".qkv.", f".{letter}."): piece for letter, piece in pieces}
        else:
            result[name] = tensor
    return result


def _joined(tensors: Tensors, family: Family) -> Tensors:
    """Tables that an exporter has cut in two, whole again."""
    result = dict(tensors)
    for name, parts in family.joined:
        if name not in result and result.keys() >= set(parts):
            result[name] = torch.cat([result.pop(part) for part in parts], 1)
    return result


def _named(tensors: Tensors, family: Family, head: Head, config: Mapping[str, Any], *, tied: bool) -> Tensors:
    """Under the family's names. Raises UnsupportedGraph, naming what has no place or is missing."""
    outside = {**family.outside, **head.names}
    gated = any(".feed_forward.gate." in name for name in tensors)
    result: Tensors = {}
    for name, tensor in tensors.items():
        theirs = _their_name(name, family, outside, gated) or _by_rows(tensor, family, config)
        if theirs is None:
            raise UnsupportedGraph(
                f"weight {name} {list(tensor.shape)} has no place in a checkpoint of {config['model_type']} "
                f"({config['architectures'][0]})"
            )
        turned = tensor.dim() == 2 and any(theirs.endswith(f"{t}.weight") for t in family.turned)
        result[theirs] = (tensor.t() if turned else tensor).contiguous()
    held = {_module(name) for name in result} | set(result)
    wanted = {_module(theirs) for _, theirs in (*family.outside.items(), *family.rows)}
    if not head.optional:
        wanted |= {_module(theirs) for ours, theirs in head.names.items() if not (tied and ours == "head")}
    absent = sorted(wanted - held)
    if absent:
        raise UnsupportedGraph(
            f"the model has nothing for {', '.join(absent)}, which {config['architectures'][0]} is made with"
        )
    return result


def _module(name: str) -> str:
    return name.removesuffix(".weight").removesuffix(".bias")


def _their_name(name: str, family: Family, outside: Mapping[str, str], gated: bool) -> str | None:
    names, head, rest = outside, "", name
    for stack in family.stacks:
        match = re.match(re.escape(stack.ours).replace(r"\{i\}", r"(\d+)") + r"\.", name)
        if match:
            names, head, rest = stack.names, stack.theirs.format(i=match[1]) + ".", name[match.end() :]
    if gated and "feed_forward.gated_up" in names:
        rest = rest.replace("feed_forward.up", "feed_forward.gated_up")
    if rest in names:
        return head + names[rest]
    module, _, attribute = rest.rpartition(".")
    return f"{head}{names[module]}.{attribute}" if module in names else None


def _by_rows(tensor: torch.Tensor, family: Family, config: Mapping[str, Any]) -> str | None:
    """A table of positions that exporters call anything, told by its length."""
    fitting = [theirs for key, theirs in family.rows if tensor.dim() == 2 and tensor.shape[0] == config.get(key)]
    return fitting[0] if len(fitting) == 1 else None


def _changed(
    config: Mapping[str, Any], family: Family, sizes: Mapping[str, int], computed: set[torch.dtype]
) -> dict[str, Any]:
    """The parent's config with the clone's sizes; its dtype is what the clone computes in, whatever it keeps."""
    result = dict(config)
    for key, size in family.sizes.items():
        if size in sizes:
            result[key] = sizes[size]
    kinds = result.get("layer_types")
    if isinstance(kinds, list) and len(kinds) != sizes["layers"]:
        if len(set(kinds)) != 1:
            raise InvalidTarget(f"layer_types differ, and {sizes['layers']} of {len(kinds)} blocks are left")
        result["layer_types"] = kinds[: sizes["layers"]]
    for key in ("stage_names", "out_features", "out_indices"):  # counted anew by the config's class
        result.pop(key, None)
    result |= {"dtype": str(*computed).removeprefix("torch.")} if len(computed) == 1 else {}
    result.pop("torch_dtype", None)
    return result


def _write(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Tensors,
    copied: list[Path],
    examine: Callable[[Path], Answers],
) -> Answers:
    """What was found of it before it got its name."""
    outputs.refuse_nowhere(folder)
    if folder.exists() and not folder.is_dir():
        raise BadModel(f"{folder}: is a file; give the name of a folder")
    staged = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        (staged / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        save_file(tensors, staged / TENSORS, metadata={"format": "pt"})
        shutil.copymode(staged / CONFIG, staged / TENSORS)
        for file in copied:
            shutil.copyfile(file, staged / file.name)
        answers = examine(staged)
        folder.mkdir(exist_ok=True)
        for file in sorted(staged.iterdir(), key=lambda f: f.name == CONFIG):
            file.replace(folder / file.name)
        return answers
    except OSError as reason:
        raise BadModel(f"{folder}: cannot be written ({reason.strerror or reason})") from None
    finally:
        shutil.rmtree(staged, ignore_errors=True)
