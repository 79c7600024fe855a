"""`asd convert` on small random models: the model that the file was written from is what comes out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from gguf import GGUFWriter
from transformers import AutoModelForCausalLM, AutoTokenizer

from asd.cli import main
from asd.engines.checkpoints.gguf import convert
from asd.engines.hf.engine import TransformersEngine
from asd.errors import ConfigError, DataError
from asd.types import Query
from tests.models import CORPUS, stage
from tests.real.ggufs import ARCHITECTURES, TEMPLATE, random_model, tensors, tokenizer, write
from tests.written import by_generate

ROOM = 16


@pytest.fixture(scope="module")
def words() -> Any:
    return tokenizer()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_model_that_was_written_comes_out(tmp_path: Path, words: Any, architecture: str) -> None:
    """Equal tensors, and the text that the first model's `generate()` writes, through the engine."""
    model = random_model(architecture, len(words))
    file = write(tmp_path / "m.gguf", architecture, model, words)
    convert(file, tmp_path / "out")
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    own = dict(model.named_parameters())
    assert own.keys() == dict(back.named_parameters()).keys()
    for name, tensor in back.named_parameters():
        torch.testing.assert_close(tensor, own[name], rtol=0, atol=2e-7)
    asked = [Query(str(i), "d", text, None, ROOM) for i, text in enumerate(CORPUS)]
    engine = TransformersEngine(stage(tmp_path / "out"), "cpu")
    library = [by_generate(model, words, [query])[0] for query in asked]
    assert [draft.tokens for draft in engine.generate(asked)] == library
    engine.unload()


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_the_scaled_positions_of_llama_3_come_out(tmp_path: Path, words: Any, factor: float) -> None:
    """A file has one factor a frequency, by which llama.cpp divides the plain ones."""
    model = random_model("llama", len(words))
    plain = model.model.rotary_emb.inv_freq.clone()
    model.config.rope_parameters = {
        "rope_type": "llama3",
        "rope_theta": 20000.0,
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    scaled = type(model)(model.config).model.rotary_emb.inv_freq
    assert len(set((plain / scaled).tolist()) - {1.0, factor}) > 1
    factors = (plain / scaled).numpy()
    file = write(
        tmp_path / "m.gguf",
        "llama",
        model,
        words,
        more=lambda writer: writer.add_tensor("rope_freqs.weight", factors),
    )
    convert(file, tmp_path / "out")
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(back.model.rotary_emb.inv_freq, scaled, rtol=1e-5, atol=0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("quantisation", ["Q8_0", "Q4_1", "F16", "BF16"])
def test_quantised_tensors_are_as_near_as_the_quantisation_allows(
    tmp_path: Path, words: Any, architecture: str, quantisation: str
) -> None:
    """Half a step of every block of 32, or half a unit in the last place."""
    model = random_model(architecture, len(words))
    file = write(tmp_path / "m.gguf", architecture, model, words, quantisation)
    convert(file, tmp_path / "out")
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    own, read = tensors(architecture, model), tensors(architecture, back)
    assert own.keys() == read.keys()
    for name, tensor in own.items():
        allowed = _half_a_step(tensor, quantisation) if tensor.ndim == 2 else 2e-7
        error = np.abs(read[name] - tensor)
        assert (error <= allowed).all(), name
        assert tensor.ndim == 1 or error.max() > 0, name


def _half_a_step(tensor: np.ndarray, quantisation: str) -> np.ndarray:
    if quantisation in ("F16", "BF16"):
        return np.abs(tensor) * 2.0 ** (-11 if quantisation == "F16" else -8) + 1e-7
    blocks = tensor.reshape(-1, 32)
    step = np.abs(blocks).max(1) / 127 if quantisation == "Q8_0" else np.ptp(blocks, axis=1) / 15
    # the step itself is kept in half precision
    return np.repeat(step * 0.5 + np.abs(blocks).max(1) * 2e-3, 32).reshape(tensor.shape)


def test_the_tokenizer_reads_as_before_and_keeps_its_template(tmp_path: Path, words: Any) -> None:
    """Token ids of plain text, of control tokens within it, and of a prompt in the chat template."""
    convert(write(tmp_path / "m.gguf", "llama", random_model("llama", len(words)), words), tmp_path / "out")
    back = AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in (*CORPUS, " Übermut 👩‍👧\n", "<|im_start|>who<|im_end|>", ""):
        assert back(text)["input_ids"] == words(text)["input_ids"]
    assert back.chat_template == TEMPLATE
    assert (back.eos_token, back.pad_token) == ("<|im_end|>", "<pad>")


@pytest.mark.parametrize(
    ("more", "stops"),
    [
        (lambda _: None, [2, 3]),
        (lambda writer: writer.add_eot_token_id(1), [2, 1, 3]),
    ],
)
def test_every_token_that_ends_an_answer_is_a_stop_token(
    tmp_path: Path, words: Any, more: Callable[[GGUFWriter], object], stops: list[int]
) -> None:
    """Those of the metadata, its end of text first, and the control tokens that llama.cpp knows."""
    model = random_model("llama", len(words))
    convert(write(tmp_path / "m.gguf", "llama", model, words, more=more), tmp_path / "out")
    engine = TransformersEngine(stage(tmp_path / "out"), "cpu")
    assert list(engine.loaded.stop_ids) == stops
    engine.unload()


def test_the_licence_goes_along_and_the_command_says_where(tmp_path: Path, words: Any) -> None:
    file = write(tmp_path / "m.gguf", "llama", random_model("llama", len(words)), words)
    result = CliRunner().invoke(
        main, ["convert", str(file), str(tmp_path / "a" / "b"), "--dtype", "bfloat16"]
    )
    assert result.exit_code == 0, result.output
    assert f"{tmp_path / 'a' / 'b'}: converted from {file}" in result.output
    assert "- licence: mit\n" in (tmp_path / "a" / "b" / "README.md").read_text()
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "a" / "b", dtype="auto")
    assert back.dtype == torch.bfloat16


def _yarn(writer: GGUFWriter) -> None:
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)


def _factors(writer: GGUFWriter, name: str = "rope_freqs.weight") -> None:
    writer.add_tensor(name, np.linspace(1, 8, 16, dtype=np.float32))


def _bias(writer: GGUFWriter) -> None:
    writer.add_tensor("blk.0.attn_q.bias", np.ones(128, np.float32))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (_yarn, r"scales its positions \(rope\.scaling\.type = yarn\).* safetensors"),
        (lambda writer: _factors(writer, "rope_factors_long.weight"), r"positions \(rope_factors_long"),
        (_factors, r"scales its positions \(rope_freqs\.weight\)"),
        (_bias, r"has biases \(blk\.0\.attn_q\.bias\), which transformers leaves out of a llama"),
        (lambda writer: writer.add_type("adapter"), "holds a adapter, not a model"),
        (lambda writer: writer.add_uint16("split.count", 3), "one part of a split model.*gguf-split --merge"),
    ],
)
def test_what_would_be_read_as_another_model_is_refused(
    tmp_path: Path, words: Any, more: Callable[[GGUFWriter], object], message: str
) -> None:
    """With the remedy, and nothing is left behind."""
    file = write(tmp_path / "m.gguf", "llama", random_model("llama", len(words)), words, more=more)
    with pytest.raises(ConfigError, match=message):
        convert(file, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [file]


def test_a_tokenizer_that_its_class_would_change_is_refused(tmp_path: Path) -> None:
    """A Qwen2 checkpoint's tokenizer splits text as Qwen2's whatever its files say; this one is GPT-2's."""
    words = tokenizer("gpt-2")
    file = write(tmp_path / "m.gguf", "qwen2", random_model("qwen2", len(words)), words, split="gpt-2")
    with pytest.raises(ConfigError, match=r"Qwen2Tokenizer, which splits text otherwise.* safetensors"):
        convert(file, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [file]


def test_an_architecture_that_the_library_does_not_know_is_named(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "m.gguf", "rwkv7")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ConfigError, match=r"architecture rwkv7 is not supported.*llama\.cpp"):
        convert(tmp_path / "m.gguf", tmp_path / "out")


@pytest.mark.parametrize("n_bytes", [4, 30, 2000, -5000])
def test_a_file_that_is_cut_is_damaged(tmp_path: Path, words: Any, n_bytes: int) -> None:
    """In its header, its vocabulary or its tensors; nothing is left behind."""
    file = write(tmp_path / "m.gguf", "llama", random_model("llama", len(words)), words)
    file.write_bytes(file.read_bytes()[:n_bytes])
    with pytest.raises(DataError, match=rf"{file} cannot be read: .*download it again, or take a newer"):
        convert(file, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [file]
