"""Trained parents and their own tokenizers: a byte-level BPE under a tied head, a WordPiece under an encoder."""

from __future__ import annotations

import json
from pydoc_data.topics import topics

import numpy as np
import pytest
from tokenizers import Tokenizer

import graphclone as gc
import models
from graphclone.feeds import tiny_feeds
from graphclone.verification.sessions import open_session
from graphclone.vocabulary import Tokens, write
from models.building import tokenizer_beside
from tests.tolerances import assert_close

pytestmark = pytest.mark.real
PIECES = [topics[name] for name in sorted(topics)]


@pytest.mark.parametrize("name", ["smollm2", "minilm"])
def test_python_docs_alone(name, tmp_path):
    file = models.cached(name, exporter="torchscript")
    parent = gc.load(file)
    anatomy = gc.inspect(parent)
    tokens = gc.choose_tokens(parent, anatomy, "python-docs")
    assert tokens.used < len(tokens.kept) < tokens.size / 5
    same_tokens(Tokenizer.from_file(str(tokenizer_beside(file))), tokens)
    made = gc.clone(parent, gc.plan(anatomy, None, gc.Target(), tokens=tokens.kept), anatomy=anatomy)
    kept = np.asarray(tokens.kept)
    fed = tiny_feeds(made, batch=2, length=9)
    wanted = open_session(parent).run({**fed, "input_ids": kept[fed["input_ids"]]})
    for output, array in open_session(made).run(fed).items():
        expected = wanted[output]
        assert_close(array, expected[..., kept] if output == "logits" else expected)
    bytes_of = [sum(array.nbytes for array in model.constants().values()) for model in (made, parent)]
    assert bytes_of[0] < 0.85 * bytes_of[1]
    written = write(tokens, tmp_path / "small.onnx")
    assert [path.name for path in written] == ["small.tokenizer.json", "small.vocab.json"]
    assert json.loads(written[1].read_text())["ids"] == list(tokens.kept)


def same_tokens(old: Tokenizer, tokens: Tokens) -> None:
    new = Tokenizer.from_str(json.dumps(tokens.tokenizer))
    for tokenizer in (old, new):
        tokenizer.no_padding()
        tokenizer.no_truncation()
    numbers = {number: place for place, number in enumerate(tokens.kept)}
    for before, after in zip(old.encode_batch(PIECES), new.encode_batch(PIECES), strict=True):
        assert after.ids == [numbers[number] for number in before.ids]
