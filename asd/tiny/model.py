"""The ladder's models: one Llama trunk, grown in depth without changing what it computes.

A new layer is a copy of the layer below it with `o_proj` and `down_proj` set to zero: it adds nothing to the
residual stream until training makes it (function-preserving growth), so a deep stage starts where the shallow
one ended.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM

from asd.tiny.tokenizer import VOCAB_SIZE

CONTEXT = 512
WIDTH, HEAD, FFN = 96, 32, 256
INIT_STD = 0.1  # with the customary 0.02 a 2-layer model did not learn to look things up in 7M tokens
PLAIN_ATTENTION = "plain_causal"


def _plain_causal(
    _module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _attention_mask: torch.Tensor | None,
    scaling: float,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention over right-padded rows by two matrix products.

    On a CPU its backward pass is about twice as fast as the fused kernel's at these sizes. Padding comes
    after every real token, so the causal mask hides it.
    """
    length = query.shape[-2]
    future = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1)
    scores = (query @ key.transpose(-1, -2) * scaling).masked_fill(future, -1e4)
    return (scores.softmax(-1) @ value).transpose(1, 2).contiguous(), None


AttentionInterface.register(PLAIN_ATTENTION, _plain_causal)


def new_model(layers: int, seed: int) -> LlamaForCausalLM:
    """A fresh model of the trunk's width; weights from the seed, float32."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=WIDTH,
        intermediate_size=FFN,
        num_hidden_layers=layers,
        num_attention_heads=WIDTH // HEAD,
        num_key_value_heads=WIDTH // HEAD,
        head_dim=HEAD,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        initializer_range=INIT_STD,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM._from_config(config, attn_implementation=PLAIN_ATTENTION)


def grow(model: LlamaForCausalLM, layers: int) -> LlamaForCausalLM:
    """A deeper model that computes the same function: old layers spread evenly, silent copies between.

    Raises:
        ValueError: `layers` is below the present depth.
    """
    depth = model.config.num_hidden_layers
    if layers < depth:
        raise ValueError(f"cannot grow {depth} layers to {layers}")
    deep = new_model(layers, seed=0)
    deep.model.embed_tokens.load_state_dict(model.model.embed_tokens.state_dict())
    deep.model.norm.load_state_dict(model.model.norm.state_dict())
    origin = [k * depth // layers for k in range(layers)]
    for k, layer in enumerate(deep.model.layers):
        layer.load_state_dict(model.model.layers[origin[k]].state_dict())
        if k and origin[k] == origin[k - 1]:
            torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
            torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    return deep
