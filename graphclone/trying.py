"""A folder, tried with the tool that reads such folders: does it load there, and what does it give?"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from graphclone import folders
from graphclone.errors import BadData, InvalidTarget, VerificationFailed, one_line
from graphclone.graph import load
from graphclone.requirements import FEATURES

PROMPT = "The capital of France is"
LENGTH = 256  # tokens of prompt and answer together that onnxruntime-genai holds a cache for


@dataclass(frozen=True)
class Asked:
    """tokens: that a language model goes on with, none sampled."""

    prompt: str = PROMPT
    tokens: int = 24


@dataclass(frozen=True)
class Tried:
    """tool: a row of TOOLS. text: what a language model went on with. width: of an embedding, beside its first
    numbers."""

    tool: str
    version: str
    text: str | None = None
    width: int | None = None
    numbers: tuple[float, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Tool:
    """file: that marks its folders. run: (folder, model, what is asked) -> what it gives."""

    file: str
    run: Callable[[Path, Path, Asked], Mapping[str, Any]]


def _genai(folder: Path, model: Path, asked: Asked) -> Mapping[str, Any]:
    import onnxruntime_genai as og

    held = og.Model(str(folder))
    words = og.Tokenizer(held)
    ids = words.encode(asked.prompt)
    wanted = og.GeneratorParams(held)
    wanted.set_search_options(max_length=min(len(ids) + asked.tokens, LENGTH), do_sample=False)
    generator = og.Generator(held, wanted)
    generator.append_tokens(ids)
    while not generator.is_done():
        generator.generate_next_token()
    return {"text": words.decode(generator.get_sequence(0)[len(ids) :])}


def _optimum(folder: Path, model: Path, asked: Asked) -> Mapping[str, Any]:
    from optimum import onnxruntime as ort
    from transformers import AutoTokenizer

    graph = load(model).graph
    outputs = {tensor.name for tensor in graph.outputs}
    cached = any(tensor.name.startswith("past_key_values") for tensor in graph.inputs)
    where = {
        "file_name": model.name,
        "subfolder": str(model.parent.relative_to(folder)) if model.parent != folder else "",
    }
    words = AutoTokenizer.from_pretrained(folder)
    fed = words(asked.prompt, return_tensors="pt")
    if "logits" not in outputs:
        encoder = ort.ORTModelForFeatureExtraction.from_pretrained(folder, **where)
        return _embedding(encoder(**fed).last_hidden_state[0, 0])
    decoder = ort.ORTModelForCausalLM.from_pretrained(folder, use_cache=cached, use_io_binding=False, **where)
    ids = decoder.generate(
        fed["input_ids"], attention_mask=fed["attention_mask"], max_new_tokens=asked.tokens, do_sample=False
    )[0]
    return {"text": words.decode(ids[fed["input_ids"].shape[1] :])}


def _sentences(folder: Path, model: Path, asked: Asked) -> Mapping[str, Any]:
    from sentence_transformers import SentenceTransformer

    file = model.relative_to(folder).as_posix()
    return _embedding(
        SentenceTransformer(str(folder), backend="onnx", model_kwargs={"file_name": file}).encode(asked.prompt)
    )


def _embedding(found: Any) -> Mapping[str, Any]:
    return {"width": len(found), "numbers": tuple(round(float(x), 6) for x in found[:4])}


TOOLS: Mapping[str, Tool] = {  # the first whose file is there reads the folder
    "genai": Tool(folders.GENAI, _genai),
    "sentence-transformers": Tool("modules.json", _sentences),
    "optimum": Tool("config.json", _optimum),
}


def _no_tool(folder: Path) -> str:
    """Why no tool reads what is, or is not, at a path."""
    if not folder.exists():
        return "there is no such folder"
    if not folder.is_dir():
        return "a file: give the folder that it is in"
    return f"none of {', '.join(row.file for row in TOOLS.values())} in it: a folder of no tool"


def attempt(folder: str | Path, tool: str | None = None, asked: Asked | None = None) -> Tried:
    """Load a folder in a tool, the one that it is laid out for unless another is named, and let it run once.

    Raises MissingPackage where the tool is not installed or too old, with the command, BadData for a folder of no
    tool, VerificationFailed, in the tool's own words, where it does not run.
    """
    folder = Path(folder)
    if tool is not None and tool not in TOOLS:
        raise InvalidTarget(f"no tool {tool!r} to try with; there are {', '.join(TOOLS)}")
    name = tool or next((name for name, row in TOOLS.items() if (folder / row.file).is_file()), None)
    if name is None:
        raise BadData(f"{folder}: {_no_tool(folder)}")
    model = folders.model_in(folder)
    FEATURES[name].require(f"try {folder}")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before Hugging Face's libraries are imported: all of it is here
    version = FEATURES[name].needs[-1].installed or ""
    try:
        return Tried(name, version, **TOOLS[name].run(folder, model, asked or Asked()))
    except Exception as reason:
        said = one_line(reason, 300)
        raise VerificationFailed(
            f"{folder}: {name} {version} does not run it: {type(reason).__name__}: {said}"
        ) from reason
