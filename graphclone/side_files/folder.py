"""From the parent's folder to the clone's: configurations brought up to date, files about tokens and images copied."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graphclone.anatomy.parts import Anatomy
from graphclone.anatomy.vocabulary import KIND
from graphclone.errors import BadData, InvalidTarget, one_line
from graphclone.folders import CONFIGURATIONS, home
from graphclone.outputs import staged
from graphclone.plan import Plan
from graphclone.side_files import sentence
from graphclone.side_files.sizes import changes, left_over
from graphclone.side_files.update import Update

# as they are: none says a size
COPIED = (
    "tokenizer_config.json", "special_tokens_map.json", "preprocessor_config.json", "processor_config.json",
    "chat_template.jinja", "chat_template.json", "modules.json", "sentence_bert_config.json",
    "config_sentence_transformers.json", "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "NOTICE.txt",
)  # fmt: skip
TOKENIZERS = ("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt", "added_tokens.json", "spiece.model",
              "sentencepiece.bpe.model", "tokenizer.model")  # fmt: skip
MINE = "tokenizer.json"  # what is written anew where tokens were dropped; the others are older forms of the same


@dataclass(frozen=True)
class Written:
    """files: what was written. warnings: a line for each thing in them that is not up to date. left: what else the
    parent's folder holds, by names inside it."""

    files: list[Path] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def source(model: Path, given: Path | None) -> Path:
    """The folder given, or the parent's; of a file in a folder ``onnx``, the one above where its config.json lies."""
    beside = given or home(model)
    if not any((beside / name).is_file() for name in CONFIGURATIONS):
        raise BadData(f"{beside}: no {' or '.join(CONFIGURATIONS)} to bring up to date: name the folder (--side-files)")
    return beside


def reads(folder: Path) -> list[Path]:
    """All files of a parent's folder that ``write`` makes something of. Raises BadData for a broken modules.json."""
    named = (folder / name for name in (*CONFIGURATIONS, *COPIED, *TOKENIZERS))
    modules = sentence.folders(folder) if (folder / sentence.LIST).is_file() else []
    inside = (file for module in modules for file in sorted(module.iterdir()))
    return [file for file in (*named, *inside) if file.is_file()]


def refuse(model: Path, out: Path, given: Path | None) -> None:
    """Side files never take the place of those they are read from. Raises InvalidTarget, BadData."""
    if os.path.realpath(source(model, given)) == os.path.realpath(out.parent):
        raise InvalidTarget(f"{out}: its folder holds the parent's side files: write the clone into another folder")
    for name in CONFIGURATIONS:
        if (source(model, given) / name).is_file():
            _read(source(model, given) / name)


def write(
    model: Path,
    out: Path,
    parent: Anatomy,
    clone: Anatomy,
    plan: Plan,
    *,
    given: Path | None = None,
    to: Path | None = None,
    tokenizer: Mapping[str, Any] | None = None,
) -> Written:
    """Write the side files that belong to the clone ``out`` into ``to``, or ``out``'s folder.

    tokenizer: the clone's, where tokens were dropped. Raises BadData for a configuration that is not JSON.
    """
    to = out.parent if to is None else to
    refuse(model, to / out.name, given)
    folder = source(model, given)
    kept = _kept(parent, plan, KIND)
    known = changes(parent, clone, plan)
    update = Update(known, kept, out.relative_to(to).as_posix())
    written, warnings = [], list[str]()
    for name in CONFIGURATIONS:
        if (folder / name).is_file():
            made = update.scope(_read(folder / name), "")
            lines = update.warnings + (left_over(parent, clone) if name == "config.json" else [])
            warnings += [f"{name}: {line}" for line in lines]
            update.warnings.clear()
            written.append(_write(to / name, json.dumps(made, indent=2) + "\n"))
    for name, text in _tokenizers(folder, kept, tokenizer, warnings):
        written.append(_write(to / name, text))
    for name in (*COPIED, *(TOKENIZERS if kept is None else ())):
        if (folder / name).is_file() and to / name not in written:
            written.append(_copied(folder / name, to / name))
    if (folder / sentence.LIST).is_file() and known:
        more, lines = sentence.write(folder, to, _kept(parent, plan, "residual"), parent.stacks[-1].hidden)
        written += more
        warnings += lines
    return Written(sorted(written), warnings, _left(folder, model, {str(file.relative_to(to)) for file in written}))


def _kept(parent: Anatomy, plan: Plan, kind: str) -> Sequence[int] | None:
    """What the plan keeps of the group of a kind, None for all."""
    found = (plan.keep[g.name] for g in parent.groups.values() if g.kind == kind and g.name in plan.keep)
    return next(found, None)


def _left(folder: Path, model: Path, written: set[str]) -> list[str]:
    """What the folder holds beside the model, its data and what has a counterpart; other folders by their names."""
    tops = {name.partition("/")[0] for name in written}
    folder, model = folder.resolve(), model.resolve()
    mine = {model, *model.parent.glob(f"{model.name}*data")}
    found = [f for f in sorted(folder.iterdir()) if f.name not in tops and not f.name.startswith(".")]
    below = folder in model.parent.parents  # a folder that was named may be anywhere
    inside = [f for f in sorted(model.parent.iterdir()) if f.is_file()] if below else []
    others = [f for f in (*found, *inside) if f.resolve() not in mine and f != model.parent and not _empty(f)]
    return [name for f in others if (name := f.relative_to(folder).as_posix()) not in written]


def _empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _tokenizers(
    folder: Path, kept: Sequence[int] | None, tokenizer: Mapping[str, Any] | None, warnings: list[str]
) -> Iterator[tuple[str, str]]:
    """What says which token has which number, where some are gone."""
    if kept is None:
        return
    if tokenizer is not None:
        yield MINE, json.dumps(tokenizer, ensure_ascii=False) + "\n"
    left = [name for name in TOKENIZERS if (folder / name).is_file() and (name != MINE or tokenizer is None)]
    if left:
        warnings.append(f"{', '.join(left)}: not copied: the clone has fewer tokens")
    file = folder / "tokenizer_config.json"
    if file.is_file():
        held, numbers = _read(file), {str(old): str(new) for new, old in enumerate(kept)}
        if isinstance(decoder := held.get("added_tokens_decoder"), dict):
            held["added_tokens_decoder"] = {numbers[k]: entry for k, entry in decoder.items() if k in numbers}
        yield file.name, json.dumps(held, indent=2, ensure_ascii=False) + "\n"


def _read(file: Path) -> dict[str, Any]:
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as reason:
        raise BadData(f"{file}: not a configuration in JSON ({one_line(reason, 200)})") from None
    if not isinstance(held, dict):
        raise BadData(f"{file}: a configuration is a table of names, this is a {type(held).__name__}")
    return held


def _write(path: Path, text: str) -> Path:
    with staged(path) as draft:
        draft.write_text(text, encoding="utf-8")
    return path


def _copied(file: Path, path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    with staged(path) as draft:
        shutil.copyfile(file, draft)
    return path
