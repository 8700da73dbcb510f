"""Fewer tokens: which ones the data needs, the tokenizer that knows no others, and the map of their ids."""

from graphclone.vocabulary.beside import write
from graphclone.vocabulary.tokens import Tokens, choose_tokens, keep, planned_tokens

__all__ = ["Tokens", "choose_tokens", "keep", "planned_tokens", "write"]
