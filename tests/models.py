"""Small causal language models with random weights, made on the spot: nothing is downloaded.

Weights are drawn wide, so that answers vary and near-ties are rare; the stop tokens' rows are enlarged, so
that some answers end early and others run out of room.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from asd.ladder import Stage
from asd.prices import Prices

CORPUS = [
    "add 4821+9377 is 14198 and reverse stone is enots",
    "sort pear apple plum: apple pear plum",
    "the quick brown fox jumps over the lazy dog; what is 17*3?",
    "close ([{ with }])",
]
CONTEXT = 256
SHAPE = {
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_attention_heads": 3,
    "max_position_embeddings": CONTEXT,
}


def save_random_model(
    path: Path, family: str = "llama", n_layers: int = 2, seed: int = 0, n_stops: int = 2
) -> Path:
    """Write a random model and its tokenizer to `path`, as `from_pretrained` reads them."""
    tokenizer = _tokenizer(ends=n_stops > 0)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(_config(family, n_layers, len(tokenizer)))
    stops = tokenizer.convert_tokens_to_ids(["</s>", "."])[:n_stops]
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=parameter.shape[1] ** -0.5 * 1.5)
        model.lm_head.weight[stops] *= 1.5
    model.generation_config.eos_token_id = stops or None
    model.generation_config.pad_token_id = 0
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def stage(path: Path, name: str = "S", **settings: object) -> Stage:
    """The stage that runs the model saved at `path`."""
    return Stage(name=name, model=str(path), prices=Prices(1.0, 0.1, 1.0), **settings)  # type: ignore[arg-type]


def _config(family: str, n_layers: int, n_vocab: int) -> PretrainedConfig:
    common = {**SHAPE, "num_hidden_layers": n_layers, "vocab_size": n_vocab, "tie_word_embeddings": False}
    if family == "llama":
        return LlamaConfig(**common, num_key_value_heads=3, head_dim=32, eos_token_id=None, bos_token_id=1)
    if family == "qwen2":
        return Qwen2Config(**common, num_key_value_heads=1, eos_token_id=None, bos_token_id=None)
    if family == "mistral":  # sliding window
        return MistralConfig(
            **common, num_key_value_heads=1, head_dim=32, sliding_window=8, eos_token_id=None
        )
    if family == "gpt2":  # learned positions
        return GPT2Config(**common, eos_token_id=None, bos_token_id=None)
    raise ValueError(f"unknown family {family!r}")


def _tokenizer(*, ends: bool) -> PreTrainedTokenizerFast:
    """Byte-level pairs over a few lines; starts every prompt with <s>, and may know no end."""
    specials = ["<pad>", "<s>", "</s>"]
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(r" ?[a-z]+|[^a-z]"), behavior="isolated")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>" if ends else None
    )
