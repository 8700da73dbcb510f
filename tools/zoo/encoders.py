"""Rows: text encoders."""

from __future__ import annotations

from tools.zoo.row import POSITIONS, VOCAB, Row, Sizes, tokens

SIZES = Sizes(hidden=48, heads=6, kv_heads=6, head_dim=8, ffn=100, layers=3)
BERT_NAMES = {
    "hidden_size": "hidden",
    "num_attention_heads": "heads",
    "intermediate_size": "ffn",
    "num_hidden_layers": "layers",
}
ROWS = (
    Row(
        "bert",
        "BertForSequenceClassification",
        "BertConfig",
        BERT_NAMES,
        tokens(("logits",)),
        SIZES,
        {"vocab_size": VOCAB, "max_position_embeddings": POSITIONS, "num_labels": 5},
        fused="bert",
    ),
    Row(
        "roberta",
        "RobertaForMaskedLM",
        "RobertaConfig",
        BERT_NAMES,
        tokens(("logits",)),
        SIZES,
        {"vocab_size": VOCAB, "max_position_embeddings": POSITIONS, "type_vocab_size": 1},
        fused="bert",
    ),
    Row(
        "distilbert",
        "DistilBertForMaskedLM",
        "DistilBertConfig",
        {"dim": "hidden", "n_heads": "heads", "hidden_dim": "ffn", "n_layers": "layers"},
        tokens(("logits",)),
        SIZES,
        {"vocab_size": VOCAB, "max_position_embeddings": POSITIONS},
        fused="bert",
    ),
    Row(
        "albert",  # every layer reads the same weights
        "AlbertForMaskedLM",
        "AlbertConfig",
        BERT_NAMES,
        tokens(("logits",)),
        SIZES,
        {"vocab_size": VOCAB, "max_position_embeddings": POSITIONS, "embedding_size": 20},
        fused="bert",
    ),
    Row(
        "electra",
        "ElectraForMaskedLM",
        "ElectraConfig",
        BERT_NAMES,
        tokens(("logits",)),
        SIZES,
        {"vocab_size": VOCAB, "max_position_embeddings": POSITIONS, "embedding_size": 20},
        fused="bert",
    ),
    Row("keras-encoder", "", "", {}, tokens(()), SIZES, coupled=False, only="keras"),
)
