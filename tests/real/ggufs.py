"""GGUF files of small random models, written by the `gguf` library by llama.cpp's conventions."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from tests.models import CORPUS

SPECIALS = ["<pad>", "<|im_start|>", "<|im_end|>", "<|endoftext|>"]
END = SPECIALS.index("<|im_end|>")
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen2 splits text, "qwen2" in GGUF files."""
N_HEADS, N_KV_HEADS = 4, 2
ARCHITECTURES = {"llama": "llama", "qwen2": "qwen2", "gemma3": "gemma3_text"}
"""By the name in a GGUF file, that in `transformers`: plain; with biases; with norms stored as w + 1."""


def tokenizer(split: str = "qwen2") -> PreTrainedTokenizerFast:
    """Byte-level pairs, which GGUF files call "gpt2", of a text split as Qwen2 or GPT-2 ("gpt-2") does."""
    built = Tokenizer(models.BPE())
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if split == "qwen2":
        built.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    built.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    built.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=320, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=built, eos_token="<|im_end|>", pad_token="<pad>")


def random_model(architecture: str, n_vocab: int, seed: int = 0) -> Any:
    """A model of four heads and widths that every block of quantised weights divides."""
    torch.manual_seed(seed)
    windowed = {"sliding_window": 8, "query_pre_attn_scalar": 32} if architecture == "gemma3" else {}
    config = AutoConfig.for_model(
        ARCHITECTURES[architecture],
        vocab_size=n_vocab,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=N_HEADS,
        num_key_value_heads=N_KV_HEADS,
        head_dim=32,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        rms_norm_eps=1e-6,
        rope_parameters=_rope(architecture),
        eos_token_id=END,
        bos_token_id=None,
        pad_token_id=0,
        **windowed,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            wide = parameter.dim() == 2
            parameter.normal_(std=parameter.shape[-1] ** -0.5 * 1.5) if wide else parameter.normal_(1, 0.2)
    return model


def _rope(architecture: str) -> dict[str, Any]:
    plain = {"rope_type": "default", "rope_theta": 20000.0}
    if architecture != "gemma3":
        return plain
    return {"full_attention": plain, "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}


def write(
    path: Path,
    architecture: str,
    model: Any,
    words: PreTrainedTokenizerFast,
    quantisation: str = "F32",
    split: str = "qwen2",
    more: Callable[[GGUFWriter], object] = lambda _: None,
) -> Path:
    """Write the model as llama.cpp's converter would; only matrices are quantised."""
    writer = GGUFWriter(path, architecture)
    _write_metadata(writer, model.config)
    _write_tokenizer(writer, words, split)
    more(writer)
    kind = GGMLQuantizationType[quantisation]
    for name, tensor in tensors(architecture, model).items():
        wanted = kind if tensor.ndim == 2 else GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quantize(tensor, wanted), raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_metadata(writer: GGUFWriter, config: Any) -> None:
    rope = config.rope_parameters
    writer.add_name("Tiny")
    writer.add_license("mit")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    if writer.arch == "gemma3":
        writer.add_key_length(config.head_dim)
        writer.add_sliding_window(config.sliding_window)


def _write_tokenizer(writer: GGUFWriter, words: PreTrainedTokenizerFast, split: str) -> None:
    built = words.backend_tokenizer
    by_id = sorted(built.get_vocab().items(), key=lambda item: item[1])
    merges = [" ".join(pair) for pair in json.loads(built.to_str())["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split)
    writer.add_token_list([token for token, _ in by_id])
    writer.add_token_types([3 if token in SPECIALS else 1 for token, _ in by_id])
    writer.add_token_merges(merges)
    writer.add_eos_token_id(END)
    writer.add_pad_token_id(0)
    writer.add_chat_template(TEMPLATE)


def tensors(architecture: str, model: Any) -> Mapping[str, np.ndarray]:
    """By llama.cpp's names, its layout of the model's tensors."""
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(arch, model.config.num_hidden_layers)
    found = {}
    for name, parameter in model.named_parameters():
        array = parameter.detach().numpy()
        if architecture == "llama" and "q_proj" in name:
            array = _interleaved(array, N_HEADS)
        if architecture == "llama" and "k_proj" in name:
            array = _interleaved(array, N_KV_HEADS)
        if architecture == "gemma3" and "norm" in name:
            array = array + 1
        found[names.get_name(name, try_suffixes=(".weight", ".bias"))] = np.ascontiguousarray(array)
    return found


def _interleaved(rows: np.ndarray, n_heads: int) -> np.ndarray:
    """Rotary halves of every head side by side, as llama.cpp keeps them."""
    halves = rows.reshape(n_heads, 2, rows.shape[0] // n_heads // 2, -1)
    return halves.swapaxes(1, 2).reshape(rows.shape)
