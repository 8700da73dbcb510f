"""Trimmed tokenizers: text that gave kept tokens alone is cut as before, and everything still encodes."""

from __future__ import annotations

import json
from functools import cache
from pydoc_data.topics import topics

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from graphclone.errors import UnsupportedGraph
from graphclone.vocabulary.models import kind_of
from graphclone.vocabulary.tokens import _used
from graphclone.vocabulary.trimming import trim

LEARNED = [topics[name] for name in sorted(topics)[::5]]
USED = [topics[name] for name in sorted(topics)[:2]]
ODD = "zürich 東京 ♥ quixotic\n\tx̂ = 'naïve'"
SPECIAL = ["<s>", "</s>", "<unk>", "<pad>"]


def byte_level(prefix: str = "", suffix: str = "") -> Tokenizer:
    made = Tokenizer(models.BPE(continuing_subword_prefix=prefix, end_of_word_suffix=suffix))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1200,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        continuing_subword_prefix=prefix,
        end_of_word_suffix=suffix,
    )
    made.train_from_iterator(LEARNED, trainer)
    made.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
    return made


def byte_fallback() -> Tokenizer:
    """As Llama 2's: whole characters, or bytes by name."""
    fallbacks = [f"<0x{value:02X}>" for value in range(256)]
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.train_from_iterator(
        LEARNED, trainers.BpeTrainer(vocab_size=900, special_tokens=SPECIAL + fallbacks, show_progress=False)
    )
    held = json.loads(made.to_str())
    held["added_tokens"] = held["added_tokens"][: len(SPECIAL)]
    return Tokenizer.from_str(json.dumps(held))


def word_piece() -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="<unk>"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.train_from_iterator(
        LEARNED, trainers.WordPieceTrainer(vocab_size=1200, special_tokens=SPECIAL, show_progress=False)
    )
    made.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    made.enable_padding(pad_id=3, pad_token="<pad>")
    return made


def unigram() -> Tokenizer:
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.train_from_iterator(
        LEARNED,
        trainers.UnigramTrainer(vocab_size=800, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False),
    )
    return made


def words() -> Tokenizer:
    made = Tokenizer(models.WordLevel(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.train_from_iterator(
        LEARNED, trainers.WordLevelTrainer(vocab_size=2000, special_tokens=SPECIAL, show_progress=False)
    )
    return made


MADE = {
    "byte-level": byte_level,
    "suffix": lambda: byte_level(suffix="</w>"),
    "byte-fallback": byte_fallback,
    "word-piece": word_piece,
    "unigram": unigram,
    "words": words,
}


@cache
def trained(name: str) -> str:
    return MADE[name]().to_str()


def trimmed(old: Tokenizer) -> tuple[dict[int, int], Tokenizer]:
    """Old id -> new id, and the tokenizer for USED."""
    held, names = json.loads(old.to_str()), old.get_vocab(with_added_tokens=True)
    used, lost = _used(old, iter(USED), held)
    tokens = {token for token, number in names.items() if number in used}
    stay = kind_of(held["model"], "here").needs(held["model"], tokens, lost) | set(SPECIAL)
    kept = sorted(used | {names[token] for token in stay})
    numbers = {number: new for new, number in enumerate(kept)}
    return numbers, Tokenizer.from_str(json.dumps(trim(held, numbers, names, "here")))


@pytest.mark.parametrize("name", MADE)
def test_the_same_text_gives_the_same_tokens_counted_anew(name):
    old = Tokenizer.from_str(trained(name))
    numbers, new = trimmed(old)
    assert len(numbers) == new.get_vocab_size() < old.get_vocab_size()
    for text in [*USED, *(line for piece in USED for line in piece.splitlines())]:
        assert new.encode(text).ids == [numbers[i] for i in old.encode(text).ids]


@pytest.mark.parametrize("name", MADE)
def test_everything_still_encodes_to_what_it_was(name):
    old = Tokenizer.from_str(trained(name))
    _, new = trimmed(old)
    for text in (ODD, *LEARNED[-4:]):
        assert max(new.encode(text).ids) < new.get_vocab_size()
        if name != "words":  # which has no way to spell a word out
            unknown = [t for t in new.encode(text).tokens if t == "<unk>"]
            assert len(unknown) <= old.encode(text).tokens.count("<unk>")
    if name == "byte-level":
        assert new.decode(new.encode(ODD).ids) == ODD


def test_words_that_were_unknown_stay_so():
    """The longest match of 'abx' takes 'ab' and fails at x; without 'ab' it would take 'a' and '##bx'."""
    vocab = {"<unk>": 0, "a": 1, "ab": 2, "##bx": 3, "abc": 4, "q": 5, "##b": 6}
    old = Tokenizer(models.WordPiece(vocab, unk_token="<unk>"))
    old.pre_tokenizer = pre_tokenizers.Whitespace()
    held = json.loads(old.to_str())
    used, lost = _used(old, iter(["abx q qbx"]), held)
    assert (used, lost) == ({0, 5, 3}, {"abx"})
    assert kind_of(held["model"], "here").needs(held["model"], {"q", "##bx"}, lost) == {"<unk>", "a", "q", "##b", "ab"}


def test_special_tokens_around_a_text_and_the_padding_are_counted_anew():
    old = Tokenizer.from_str(trained("word-piece"))
    held, names = json.loads(old.to_str()), old.get_vocab(with_added_tokens=True)
    kept = sorted(names[t] for t in (*SPECIAL[1:], "<s>", "a"))
    numbers = {number: len(kept) - 1 - new for new, number in enumerate(kept)}  # any order of numbers will do
    made = trim(held, numbers, names, "here")
    assert made["padding"]["pad_id"] == numbers[3]
    assert made["post_processor"]["special_tokens"]["</s>"]["ids"] == [numbers[1]]


def test_what_cannot_be_trimmed_is_refused():
    old = Tokenizer.from_str(trained("word-piece"))
    held, names = json.loads(old.to_str()), old.get_vocab(with_added_tokens=True)
    with pytest.raises(UnsupportedGraph, match="of type Odd"):
        kind_of({"type": "Odd"}, "here")
    without = {number: new for new, number in enumerate(range(4, len(names)))}
    with pytest.raises(UnsupportedGraph, match="around texts, which is no token"):
        trim(held, without, names, "here")
    names = Tokenizer.from_str(trained("unigram")).get_vocab(with_added_tokens=True)
    gaps = {number: 2 * number for number in names.values()}
    with pytest.raises(UnsupportedGraph, match="ids have gaps"):
        trim(json.loads(trained("unigram")), gaps, names, "here")
