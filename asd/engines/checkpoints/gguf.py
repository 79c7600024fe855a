"""A GGUF file as a model directory that can be a stage: weights unpacked, tokenizer and chat template.

`transformers` reads the file, which takes `gguf` and `accelerate` (`pip install 'asd[gguf]'`). It does not
save what it has read from a GGUF file, so the tensors go into a fresh model of the same configuration.
Unpacked weights are as large as before they were quantised, and no better for it.

What the library would leave out without a word is refused here: scaled positions, biases. A GGUF file has no
`generation_config.json`; the tokens that end an answer are written there from the metadata. The licence that
the file names goes along, in the README of the directory.
"""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedTokenizerFast
from transformers.integrations.gguf import GgufHeader, load_gguf_state_dict, read_gguf_metadata

from asd.engines.checkpoints.directories import is_gguf
from asd.errors import ConfigError, DataError

__all__ = ["convert", "llama3_factors", "llama3_parameters"]

ELSEWHERE = (
    'take the same model in safetensors, or serve the file (llama.cpp) and give the stage engine = "openai"'
)
ABOUT = ("name", "author", "organization", "description", "url", "source.url", "license.name", "license.link")
"""What the README repeats of the file's `general` metadata, besides the licence."""
PART = re.compile(r"-\d{5}-of-(\d{5})$")
"""How llama.cpp ends the names of the parts of a split model."""
STOP_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
STOP_TEXTS = frozenset({
    "<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<end_of_turn>",
    "<|endoftext|>", "<|end_of_text|>", "<end_of_utterance>", "<EOT>", "_<EOT>", "[EOT]",
})  # fmt: skip
"""Control tokens that llama.cpp ends an answer at, whether or not the metadata names them."""
SAMPLES = ("It's 12345 + 678 = ?\n\n  def f(x):\n\treturn x", " Übergröße, 日本語 👩‍👧", "I'LL don't")
"""Texts that tokenizers split differently."""
LOW, HIGH, TRAINED = 1.0, 4.0, 8192
"""Frequency factors and context that Llama 3 was trained with, before its positions were scaled."""
FACTORS = "rope_freqs.weight"
SETTINGS = {
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
"""By the key in a file, the setting of a configuration that says the same."""
LARGEST_GEMMAS = {46, 62}
"""Layers of Gemma 2 27B and Gemma 3 27B."""
CONTROL = 3
"""Type of a token in `tokenizer.ggml.token_type` that is never part of a text."""


@dataclass(frozen=True, slots=True)
class _Header:
    """Metadata and tensor names of a file; of long lists of strings the metadata has the length only."""

    metadata: Mapping[str, Any]
    tensors: Collection[str]


def convert(
    file: str | Path,
    directory: str | Path,
    dtype: str = "float32",
    tell: Callable[[str], object] = lambda _: None,
) -> None:
    """Write the model of a GGUF file as `save_pretrained` would have written it; all of it or nothing.

    Args:
        file: A GGUF file of a causal language model that `transformers` knows.
        directory: New or empty.
        dtype: Of the weights written: "float32", "bfloat16" or "float16".
        tell: Called with what is done next.

    Raises:
        ConfigError: The file is not there, holds no whole model, or one that `transformers` would read
            wrongly or not at all; the directory is not empty; a library is missing.
        DataError: The file is damaged.
    """
    file, directory = Path(file), Path(directory).absolute()
    _check_paths(file, directory)
    header = _read_header(file)
    _check_header(file, header)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}.", dir=directory.parent) as folder:
        unfinished = Path(folder) / directory.name
        tell("reading the weights")
        model = _read_model(file, header, dtype)
        _check_model(file, header, model)
        tell("reading the tokenizer")
        tokenizer = _read(file, PreTrainedTokenizerFast)
        tokenizer.model_max_length = getattr(model.config, "max_position_embeddings", None) or 10**30
        _name_special_tokens(model, tokenizer, header.metadata)
        tell(f"writing {directory}")
        _save(model, unfinished)
        tokenizer.save_pretrained(unfinished)
        _check_tokenizer(file, tokenizer, unfinished)
        (unfinished / "README.md").write_text(_readme(file, header.metadata), encoding="utf-8")
        unfinished.rename(directory)


def _check_paths(file: Path, directory: Path) -> None:
    if not file.is_file():
        raise ConfigError(f"{file} is not there, or no file; name a GGUF file")
    if not is_gguf(file):
        raise ConfigError(f"{file} is not a GGUF file; name one that is")
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ConfigError(f"{directory} is there and not empty; name a new directory")
    if above := next((path for path in directory.parents if path.exists() and not path.is_dir()), None):
        raise ConfigError(f"{directory}: {above} is no folder; name another directory")
    missing = [name for name in ("gguf", "accelerate") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"converting a GGUF file needs {' and '.join(missing)}: pip install 'asd[gguf]'")


def _read_header(file: Path) -> _Header:
    if PART.search(file.stem):
        raise _in_parts(file)
    try:
        return _Header(*read_gguf_metadata(str(file)))
    except Exception as error:  # the library raises whatever the bytes lead to
        raise _damaged(file, error) from error


def _check_header(file: Path, header: _Header) -> None:
    """Refuse what is no whole language model, and what `transformers` would read as another one."""
    metadata = header.metadata
    architecture = metadata["general.architecture"]
    if metadata.get("split.count", 1) > 1:
        raise _in_parts(file)
    if (kind := metadata.get("general.type", "model")) != "model":
        raise ConfigError(f"{file} holds a {kind}, not a model; name the file of the model itself")
    scaling = metadata.get(f"{architecture}.rope.scaling.type", "none")
    if scaling != "none":
        raise _scaled(file, f"rope.scaling.type = {scaling}")
    scaled = [name for name in header.tensors if name.startswith(("rope_freqs", "rope_factors"))]
    if any(name != FACTORS for name in scaled):
        raise _scaled(file, scaled[0])


def _read_model(file: Path, header: _Header, dtype: str) -> Any:
    """The model with its weights, of a class and configuration that may be saved."""
    config = _read(file, AutoConfig)
    _complete(config, file, header)
    model, report = _read(
        file,
        AutoModelForCausalLM,
        config=config,  # else the file's metadata is parsed once more
        dtype=dtype,
        quantization_config=GgufConfig(dequantize=True),
        output_loading_info=True,
    )
    if report["missing_keys"]:
        raise _damaged(file, f"tensors are missing: {sorted(report['missing_keys'])[:4]}")
    with torch.device("meta"):
        fresh = type(model)(model.config)
    fresh.load_state_dict(model.state_dict(), assign=True)
    fresh.generation_config = model.generation_config
    return fresh


def _complete(config: Any, file: Path, header: _Header) -> None:
    """Settings that the file has and `transformers` keeps a default of, or that llama.cpp derives."""
    architecture = header.metadata["general.architecture"]
    for key, name in SETTINGS.items():
        if hasattr(config, name) and (value := header.metadata.get(f"{architecture}.{key}")) is not None:
            setattr(config, name, value)
    if hasattr(config, "query_pre_attn_scalar"):
        is_largest = config.num_hidden_layers in LARGEST_GEMMAS
        by_width = config.hidden_size // config.num_attention_heads
        config.query_pre_attn_scalar = by_width if is_largest else config.head_dim
    if FACTORS in header.tensors:
        factors = load_gguf_state_dict(GgufHeader.from_file(str(file)))[FACTORS][...]
        scaled = llama3_parameters(factors, config.rope_parameters["rope_theta"])
        if config.model_type != "llama" or scaled is None:
            raise _scaled(file, FACTORS)
        config.rope_parameters = scaled


def _read(file: Path, reader: Any, **options: Any) -> Any:
    try:
        return reader.from_pretrained(file.parent, gguf_file=file.name, **options)
    except MemoryError:
        raise
    except Exception as error:
        words = " ".join(str(error).split())
        if "not supported yet" in words or "Unrecognized configuration class" in words:
            raise ConfigError(f"{file}: {words[:300]}; {ELSEWHERE}") from error
        raise _damaged(file, error) from error


def _check_model(file: Path, header: _Header, model: Any) -> None:
    names = [name for name, _ in model.named_parameters()]
    biases = [name for name in header.tensors if name.endswith(".bias")]
    if biases and not any(name.endswith("bias") for name in names):
        raise ConfigError(
            f"{file} has biases ({biases[0]}), which transformers leaves out of a "
            f"{model.config.model_type}; {ELSEWHERE}"
        )


def _save(model: Any, directory: Path) -> None:
    try:
        model.save_pretrained(directory)
    except SafetensorError as error:  # its name for a full disk
        raise OSError(f"cannot write the weights: {error}") from error


def _check_tokenizer(file: Path, tokenizer: Any, directory: Path) -> None:
    """Refuse what a stage would read as another tokenizer: some architectures have one whatever is saved."""
    saved = AutoTokenizer.from_pretrained(directory)
    words = tokenizer.decode(range(0, len(tokenizer), 1 + len(tokenizer) // 2000))
    if any(saved(text)["input_ids"] != tokenizer(text)["input_ids"] for text in (*SAMPLES, words)):
        raise ConfigError(
            f"{file}: transformers would read its tokenizer as a {type(saved).__name__}, which splits text "
            f"otherwise; {ELSEWHERE}"
        )


def _name_special_tokens(model: Any, tokenizer: Any, metadata: Mapping[str, Any]) -> None:
    """The file's own ids; where it names none, not the defaults of the class either."""
    stops = _stop_ids(metadata, tokenizer)
    model.generation_config.eos_token_id = stops or None
    model.config.eos_token_id = stops[0] if stops else None
    for settings in (model.config, model.generation_config):
        settings.bos_token_id = metadata.get("tokenizer.ggml.bos_token_id")
        settings.pad_token_id = metadata.get("tokenizer.ggml.padding_token_id")


def _stop_ids(metadata: Mapping[str, Any], tokenizer: Any) -> list[int]:
    """Tokens that end an answer: those named by the metadata, then control tokens known by their text."""
    named = [metadata.get(f"tokenizer.ggml.{key}") for key in STOP_KEYS]
    types = metadata.get("tokenizer.ggml.token_type", [])
    vocabulary = tokenizer.get_vocab()
    known = sorted(vocabulary[text] for text in STOP_TEXTS & vocabulary.keys())
    known = [token for token in known if token < len(types) and types[token] == CONTROL]
    return list(dict.fromkeys(token for token in [*named, *known] if token is not None))


def _readme(file: Path, metadata: Mapping[str, Any]) -> str:
    said = {name: metadata.get(f"general.{name}") for name in (*ABOUT, "license")}
    head = f"---\nlicense: {said['license']}\n---\n" if said["license"] else ""
    licence = said.pop("license") or "none is named in the file; ask where it came from"
    lines = [f"- {name}: {value}" for name, value in said.items() if value]
    return "\n".join([f"{head}# Converted from {file.name}\n", *lines, f"- licence: {licence}", ""])


def _scaled(file: Path, what: str) -> ConfigError:
    return ConfigError(
        f"{file} scales its positions ({what}) in a way that is not read from GGUF files here; {ELSEWHERE}"
    )


def _in_parts(file: Path) -> ConfigError:
    first = file.with_stem(PART.sub(r"-00001-of-\1", file.stem))
    return ConfigError(
        f"{file} is one part of a split model; join the parts first (llama.cpp: `llama-gguf-split --merge "
        f"{first} whole.gguf`)"
    )


def _damaged(file: Path, why: object) -> DataError:
    words = " ".join(str(why).split()) or type(why).__name__
    return DataError(f"{file} cannot be read: {words}; download it again, or take a newer transformers")


def llama3_parameters(factors: Tensor, theta: float) -> dict[str, Any] | None:
    """The `rope_parameters` that give these factors; None where Llama 3's do not.

    A GGUF file keeps one factor a frequency, `transformers` works them out of five numbers. The largest is
    one of those; the others are the same for every Llama 3.1, 3.2 and 3.3.

    Args:
        factors: What every frequency is divided by, [head_dim / 2].
        theta: Base of the frequencies.
    """
    factor = float(factors.max())
    if not torch.allclose(llama3_factors(factor, theta, len(factors)), factors.double(), rtol=1e-4):
        return None
    return {
        "rope_type": "llama3",
        "rope_theta": theta,
        "factor": factor,
        "low_freq_factor": LOW,
        "high_freq_factor": HIGH,
        "original_max_position_embeddings": TRAINED,
    }


def llama3_factors(factor: float, theta: float, n: int) -> Tensor:
    """As llama.cpp's converter writes them, [n] float64: 1 for short waves, `factor` for long ones."""
    turns = TRAINED / (2 * math.pi) * theta ** -(torch.arange(n, dtype=torch.float64) / n)
    smooth = ((turns - LOW) / (HIGH - LOW)).clamp(0, 1)
    return 1 / ((1 - smooth) / factor + smooth)
