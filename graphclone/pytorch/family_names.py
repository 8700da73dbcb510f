"""What transformers calls the weights inside a block, and those of the embeddings: one table a family.

Left are the names of the module that ``to_torch`` builds, right those of transformers 5.
"""

from __future__ import annotations

from collections.abc import Mapping

Names = Mapping[str, str]


def _names(pairs: str) -> Names:
    """One pair a line: ours, theirs."""
    return dict(line.split() for line in pairs.strip().splitlines())


LLAMA = _names("""
norm.0 input_layernorm
attention.q self_attn.q_proj
attention.k self_attn.k_proj
attention.v self_attn.v_proj
attention.o self_attn.o_proj
attention.q_norm self_attn.q_norm
attention.k_norm self_attn.k_norm
norm.1 post_attention_layernorm
feed_forward.gate mlp.gate_proj
feed_forward.up mlp.up_proj
feed_forward.down mlp.down_proj
""")
BERT = _names("""
attention.q attention.self.query
attention.k attention.self.key
attention.v attention.self.value
attention.o attention.output.dense
norm.0 attention.output.LayerNorm
feed_forward.up intermediate.dense
feed_forward.down output.dense
norm.1 output.LayerNorm
""")
GPT2 = _names("""
norm.0 ln_1
attention.qkv attn.c_attn
attention.o attn.c_proj
norm.1 ln_2
feed_forward.up mlp.c_fc
feed_forward.down mlp.c_proj
""")
VISION = _names("""
attention.q attention.q_proj
attention.k attention.k_proj
attention.v attention.v_proj
attention.o attention.o_proj
feed_forward.up mlp.fc1
feed_forward.down mlp.fc2
""")
T5_ENCODER = _names("""
norm.0 layer.0.layer_norm
attention.q layer.0.SelfAttention.q
attention.k layer.0.SelfAttention.k
attention.v layer.0.SelfAttention.v
attention.o layer.0.SelfAttention.o
norm.1 layer.1.layer_norm
feed_forward.up layer.1.DenseReluDense.wi
feed_forward.gate layer.1.DenseReluDense.wi_0
feed_forward.gated_up layer.1.DenseReluDense.wi_1
feed_forward.down layer.1.DenseReluDense.wo
""")
T5_DECODER = _names("""
norm.0 layer.0.layer_norm
attention.q layer.0.SelfAttention.q
attention.k layer.0.SelfAttention.k
attention.v layer.0.SelfAttention.v
attention.o layer.0.SelfAttention.o
norm.1 layer.1.layer_norm
cross_attention.q layer.1.EncDecAttention.q
cross_attention.k layer.1.EncDecAttention.k
cross_attention.v layer.1.EncDecAttention.v
cross_attention.o layer.1.EncDecAttention.o
norm.2 layer.2.layer_norm
feed_forward.up layer.2.DenseReluDense.wi
feed_forward.gate layer.2.DenseReluDense.wi_0
feed_forward.gated_up layer.2.DenseReluDense.wi_1
feed_forward.down layer.2.DenseReluDense.wo
""")
WHISPER_ENCODER = _names("""
norm.0 self_attn_layer_norm
attention.q self_attn.q_proj
attention.k self_attn.k_proj
attention.v self_attn.v_proj
attention.o self_attn.out_proj
norm.1 final_layer_norm
feed_forward.up fc1
feed_forward.down fc2
""")
WHISPER_DECODER = {
    **WHISPER_ENCODER,
    "norm.1": "encoder_attn_layer_norm",
    "norm.2": "final_layer_norm",
    **{f"cross_attention.{n}": f"encoder_attn.{n}_proj" for n in "qkv"},
    "cross_attention.o": "encoder_attn.out_proj",
}
EMBEDDINGS = {
    "embedding": "embeddings.word_embeddings",
    "position_embedding": "embeddings.position_embeddings",
    "type_embedding": "embeddings.token_type_embeddings",
    "embedding_norm": "embeddings.LayerNorm",
    "position_embeddings": "embeddings.position_embeddings.weight",  # where the exporter picks rows its own way
    "token_type_embeddings": "embeddings.token_type_embeddings.weight",
}
PATCHES = {
    "cls_token": "embeddings.cls_token",
    "position_embeddings": "embeddings.position_embeddings",
    "patch": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
}
