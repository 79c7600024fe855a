"""A stage of any shape, filled with random numbers on its device: no file, no download, no quality.

Its tokenizer has a word for every token ("t17"), so that a prompt of n words is a prompt of n tokens, and no
token ends an answer, so that every answer is as long as it may be.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from asd.engines.hf.engine import TransformersEngine
from asd.engines.hf.model import Loaded, described
from asd.ladder import Stage
from asd.prices import Prices
from asd.types import Query
from bench.shapes.families import Family

__all__ = ["model_config", "open_random", "prompts"]

UNPRICED = Prices(per_call=0, per_prompt_token=0, per_decoded_token=1)
"""A stage has to have prices; here they are what is looked for."""


def open_random(
    family: Family, size: str, dtype: str, device: str, options: Mapping[str, object]
) -> TransformersEngine:
    """The transformers engine on one size; the model is made when it is first needed.

    Args:
        family: Whose shapes.
        size: One of them.
        dtype: "float32", "bfloat16" or "float16".
        device: In torch's words.
        options: The stage's `options.transformers`.
    """

    def make(stage: Stage, on: torch.device) -> Loaded:
        torch.manual_seed(0)
        with on:
            model = AutoModelForCausalLM.from_config(model_config(family, size), dtype=getattr(torch, dtype))
        return described(stage, model.eval(), _words(family.shape(size).vocabulary), "random")

    stage = Stage(size, f"random {size}", UNPRICED, dtype=dtype, options={"transformers": options})
    return TransformersEngine(stage, device, loader=make)


def model_config(family: Family, size: str) -> AutoConfig:
    """The configuration that transformers builds the model of one size from."""
    shape = family.shape(size)
    return AutoConfig.for_model(
        family.type,
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=family.context,
        tie_word_embeddings=shape.tied,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )


def _words(n: int) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({f"t{i}": i for i in range(n)}, unk_token="t0"))  # noqa: S106 - a word
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False)


def prompts(n: int, length: int, n_new: int, n_vocab: int) -> list[Query]:
    """So many queries of `length` random tokens each, with room for `n_new`."""
    words = np.random.default_rng(length).integers(0, n_vocab, (n, length))
    return [
        Query(str(i), "random", " ".join(f"t{token}" for token in row), max_new_tokens=n_new)
        for i, row in enumerate(words)
    ]
