"""What `from_pretrained` cannot load: one error with the remedy for the fault, before the first answer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertLMHeadModel,
    PretrainedConfig,
    PreTrainedModel,
    RwkvConfig,
    RwkvForCausalLM,
)
from transformers.utils import logging

from asd.engines.hf import quantization
from asd.engines.hf.engine import TransformersEngine
from asd.engines.hf.quantization import LIBRARIES
from asd.errors import EngineError
from asd.types import Query
from tests.models import save_random_model, stage

pytestmark = pytest.mark.usefixtures("one_thread")

Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_model(tmp_path_factory.mktemp("llama"))


@pytest.fixture
def copy(path: Path, tmp_path: Path) -> Path:
    return shutil.copytree(path, tmp_path / "copy")


def configured(**settings: object) -> Change:
    """The configuration with other settings; None takes one out."""

    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text()) | settings
        kept = {name: value for name, value in config.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(kept))

    return change


def refused(folder: Path) -> str:
    """What loading says; nothing was loaded."""
    engine = TransformersEngine(stage(folder), "cpu")
    with pytest.raises(EngineError) as raised:
        engine.load()
    message = str(raised.value)
    assert message.startswith("stage 'S': ")
    assert str(folder) in message
    return message


@pytest.mark.parametrize(
    ("change", "message", "remedy"),
    [
        (
            configured(model_type="wombat"),
            "cannot load the configuration",
            "pip install --upgrade transformers",
        ),
        (
            configured(model_type="wombat", auto_map={"AutoConfig": "wombat.Config"}),
            "contains custom code",
            "without code of the model's own",
        ),
        (configured(model_type="t5"), "is a t5, not a causal language model", "choose one that writes"),
        (configured(num_attention_heads="x"), "num_attention_heads", "restore the files"),
        (configured(hidden_size=48), r"is [320, 96] and not [320, 48]", "restore the files"),
        (configured(num_hidden_layers=3), "tensors missing: ['model.layers.2.", "restore the files"),
    ],
    ids=["unknown", "remote code", "encoder", "value", "shape", "layers"],
)
def test_configurations_that_cannot_be_served(copy: Path, change: Change, message: str, remedy: str) -> None:
    """The remedy is that of the fault."""
    change(copy)
    said = refused(copy)
    assert message in said
    assert remedy in said


BART = {"vocab_size": 320, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1}
TINY = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.mark.parametrize(
    ("model", "config", "message"),
    [
        (BertLMHeadModel, BertConfig(**TINY, intermediate_size=64), "is a bert, not a causal language model"),
        (BartForConditionalGeneration, BartConfig(**BART), "is a bart, not a causal language model"),
        (
            RwkvForCausalLM,
            RwkvConfig(vocab_size=320, hidden_size=32, num_hidden_layers=2),
            "does not take both",
        ),
    ],
    ids=["bert", "bart", "rwkv"],
)
def test_models_that_cannot_continue_a_text_from_a_cache(
    copy: Path, model: type[PreTrainedModel], config: PretrainedConfig, message: str
) -> None:
    """Encoders, which `AutoModelForCausalLM` loads all the same, and models with a state of their own."""
    model(config).save_pretrained(copy)
    assert message in refused(copy)


def _bitsandbytes(bits: int) -> Mapping[str, object]:
    return {"quant_method": "bitsandbytes", f"load_in_{bits}bit": True}


@pytest.mark.parametrize(
    "quantized",
    [
        {"quant_method": "gptq", "bits": 4, "group_size": 32},
        {"quant_method": "awq", "bits": 4, "group_size": 32},
        _bitsandbytes(4),
        _bitsandbytes(8),
        {"quant_method": "compressed-tensors", "format": "int-quantized", "config_groups": {}},
        {"quant_method": "fp8", "weight_block_size": [32, 32]},
        {"quant_method": "mxfp4"},
        {"quant_method": "hqq", "quant_config": {}},
        {"quant_method": "quanto", "weights": "int8"},
        {"quant_method": "torchao"},
    ],
    ids=lambda quantized: "-".join(map(str, list(quantized.values())[:1] + list(quantized)[1:2])),
)
def test_quantised_weights_name_the_libraries_that_are_missing(
    copy: Path, quantized: Mapping[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stage, method, what is missing and the command that installs it."""
    monkeypatch.setattr(quantization, "_is_installed", lambda _: False)
    configured(quantization_config=quantized)(copy)
    method = str(quantized["quant_method"])
    needed = ["accelerate", *LIBRARIES[method]]
    said = refused(copy)
    assert f"quantised with {method}" in said
    assert said.endswith(f"needs {', '.join(needed)}: pip install {' '.join(needed)}")
    assert "restore" not in said


@pytest.mark.parametrize(
    ("quantized", "method"),
    [
        ({"quant_method": "exl2"}, "exl2"),
        ({"quant_method": "modelopt"}, "modelopt"),
        ({"bits": 4}, "a method without a name"),
        ({"quant_method": ["gptq"]}, "['gptq']"),
        ({"quant_method": 4}, "4"),
    ],
)
def test_quantised_weights_that_the_library_would_take_as_they_stand(
    copy: Path, quantized: Mapping[str, object], method: str
) -> None:
    """What transformers does not know it warns of and goes on, or it fails on it; here that is refused."""
    configured(quantization_config=quantized)(copy)
    assert f"is quantised with {method}" in refused(copy)


def test_scales_without_a_quantised_configuration(copy: Path) -> None:
    """Weights with scales that nobody would apply are refused; other tensors without a use are not."""
    weights = load_file(copy / "model.safetensors")
    save_file(weights | {"model.layers.0.extra": torch.ones(2)}, copy / "model.safetensors", {"format": "pt"})
    TransformersEngine(stage(copy), "cpu").load()
    scaled = weights | {"model.layers.0.mlp.up_proj.weight_scale": torch.ones(2)}
    save_file(scaled, copy / "model.safetensors", {"format": "pt"})
    assert "they are quantised (model.layers.0.mlp.up_proj.weight_scale), which config.json" in refused(copy)


def _without_pad_token(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)


def test_a_tokenizer_without_a_pad_token_is_enough(path: Path, copy: Path) -> None:
    """Padding is masked, so batches need no token for it."""
    _without_pad_token(copy)
    assert AutoTokenizer.from_pretrained(copy).pad_token is None
    asked = [Query(str(n), "d", "a" * n, max_new_tokens=4) for n in (1, 9, 4)]
    expected = TransformersEngine(stage(path), "cpu").generate(asked)
    assert [d.tokens for d in TransformersEngine(stage(copy), "cpu").generate(asked)] == [
        d.tokens for d in expected
    ]


def test_tokens_that_the_model_does_not_know(copy: Path) -> None:
    """A tokenizer may have more tokens than its model: a query that holds one is refused, no other."""
    tokenizer = AutoTokenizer.from_pretrained(copy)
    assert len(tokenizer) <= 320
    tokenizer.add_tokens([f"<image_{i}>" for i in range(330 - len(tokenizer))])
    tokenizer.save_pretrained(copy)
    engine = TransformersEngine(stage(copy), "cpu")
    assert engine.generate([Query("q", "d", "sort", max_new_tokens=2)])
    last = tokenizer.convert_ids_to_tokens(329)
    with pytest.raises(
        EngineError, match=f"query 'q' of 'd': the model of stage 'S' knows 320 tokens, not '{last}'"
    ):
        engine.generate([Query("q", "d", f"sort {last}", max_new_tokens=2)])


def test_a_tokenizer_that_begins_every_prompt_with_such_a_token(copy: Path) -> None:
    """No prompt could be read: refused when the stage is loaded."""
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][1], "id": 320, "content": "<new>"})
    tokenizer["post_processor"]["special_tokens"]["<s>"]["ids"] = [320]
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    said = refused(copy)
    assert "puts '<new>' (token 320) into prompts, and the model knows 320 tokens" in said
    assert "resize_token_embeddings" in said


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logging.set_verbosity_error()
