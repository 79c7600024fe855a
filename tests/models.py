"""Small causal language models with random weights, made on the spot: nothing is downloaded.

Weights are drawn wide, so that answers vary and near-ties are rare; the stop tokens' rows are enlarged, so
that some answers end early and others run out of room.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedTokenizerFast,
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

WINDOW = 8
"""Tokens that a layer with a sliding window sees."""

_GROUPED = {"num_key_value_heads": 1, "head_dim": 32}
_WINDOWED = {**_GROUPED, "sliding_window": WINDOW}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
FAMILIES: dict[str, dict[str, object]] = {
    "llama": {"num_key_value_heads": 3, "head_dim": 32, "bos_token_id": 1},
    "qwen2": {"num_key_value_heads": 1},
    "qwen3": _GROUPED,
    "phi3": {"num_key_value_heads": 1},
    "gpt2": {},  # learned positions
    "bloom": {"n_layer": 2, "n_head": 3},  # positions as biases that are derived from the mask
    "mistral": _WINDOWED,
    "gemma2": {**_WINDOWED, "query_pre_attn_scalar": 32},
    "gemma3_text": {
        **_WINDOWED,
        "query_pre_attn_scalar": 32,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "gpt_oss": {**_WINDOWED, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {**_GROUPED, **_EXPERTS},
    # a state instead of keys and values in every other layer
    "lfm2": {
        "num_key_value_heads": 1,
        "layer_types": ["conv", "full_attention"],
        "block_auto_adjust_ff_dim": False,
    },
    "qwen3_next": {
        **_GROUPED,
        **_EXPERTS,
        "layer_types": ["linear_attention", "full_attention"],
        "shared_expert_intermediate_size": 64,
        "linear_num_key_heads": 1,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
    },
    "bamba": {
        "num_key_value_heads": 1,
        "attn_layer_indices": [1],
        "mamba_n_heads": 6,
        "mamba_d_head": 32,
        "mamba_n_groups": 1,
        "mamba_d_state": 16,
    },
    "nemotron_h": {
        **_GROUPED,
        "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"],
        "mamba_num_heads": 6,
        "mamba_head_dim": 32,
        "n_groups": 1,
        "ssm_state_size": 16,
        "chunk_size": 16,
        "n_routed_experts": 4,
        "moe_intermediate_size": 64,
        "moe_shared_expert_intermediate_size": 64,
    },
}
"""By the library's name of a family: what its configuration says beyond `SHAPE`."""


def save_random_model(
    path: Path, family: str = "llama", n_layers: int = 2, seed: int = 0, n_stops: int = 2
) -> Path:
    """Write a random model and its tokenizer to `path`, as `from_pretrained` reads them."""
    tokenizer = _tokenizer(ends=n_stops > 0)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config_of(family, n_layers, len(tokenizer)))
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


def config_of(family: str, n_layers: int, n_vocab: int, **more: object) -> PretrainedConfig:
    """The configuration of a tiny model of this family."""
    common = {**SHAPE, "num_hidden_layers": n_layers, "vocab_size": n_vocab, "tie_word_embeddings": False}
    ids = {"eos_token_id": None, "bos_token_id": None, "pad_token_id": 0}
    return AutoConfig.for_model(family, **(common | ids | FAMILIES[family] | more))


def save_shaken(source: Path, to: Path, noise: float = 0.1, seed: int = 1) -> Path:
    """Write a model like the one at `source` that agrees with it on most tokens: its weights, shaken."""
    model = AutoModelForCausalLM.from_pretrained(source)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() > 1:
                parameter.add_(torch.randn_like(parameter) * parameter.std() * noise)
    model.save_pretrained(to)
    AutoTokenizer.from_pretrained(source).save_pretrained(to)
    return to


def save_pair(to: Path, family: str = "llama") -> tuple[Path, Path]:
    """Write a model that agrees with a random one on most tokens, and that random one, below `to`."""
    large = save_random_model(to / "large", family)
    return save_shaken(large, to / "small"), large


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
