"""A LoRA adapter in vLLM: it answers as the merged model does, and verifies as it answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from asd.engines.hf.engine import TransformersEngine
from asd.engines.vllm.engine import VllmEngine
from asd.errors import EngineError
from asd.ladder import Stage
from tests.models import save_random_model
from tests.models import stage as stage_of
from tests.vllm.test_engines_vllm import CACHE, assert_same_answers, prompts

RANK, ALPHA = 5, 10
CONFIG = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": ALPHA}
PLACES = ("q_proj", "o_proj", "up_proj", "down_proj")
ENDS = tuple(f"{place}.weight" for place in PLACES)


def save_adapter(base: Path, adapter: Path, merged: Path) -> None:
    """Write an adapter by hand (no peft is in this environment), and the model that it makes of its base."""
    shutil.copytree(base, merged)
    weights, matrices = load_file(base / "model.safetensors"), {}
    generator = torch.Generator().manual_seed(0)
    for name in [name for name in weights if name.endswith(ENDS)]:
        n_out, n_in = weights[name].shape
        a = torch.randn(RANK, n_in, generator=generator) * 0.1
        b = torch.randn(n_out, RANK, generator=generator) * 0.1
        weights[name] += ALPHA / RANK * b @ a
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        matrices |= {f"{stem}.lora_A.weight": a, f"{stem}.lora_B.weight": b}
    save_file(weights, merged / "model.safetensors", {"format": "pt"})
    adapter.mkdir()
    save_file(matrices, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(json.dumps(CONFIG | {"target_modules": list(PLACES)}))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("adapted")
    save_random_model(home / "base", "qwen2")
    save_adapter(home / "base", home / "adapter", home / "merged")
    return home


def stage(model: Path, adapter: Path) -> Stage:
    options = {"vllm": {"kv_cache_memory_bytes": CACHE}}
    return stage_of(model, adapter=str(adapter), options=options)


def test_answers_and_verifications_are_those_of_the_merged_model(home: Path) -> None:
    """Token for token but for near-ties; continuing a verified draft is lossless."""
    asked = prompts(24)
    adapted = VllmEngine(stage(home / "base", home / "adapter"), "cpu")
    merged = TransformersEngine(stage_of(home / "merged"), "cpu")
    plain = TransformersEngine(stage_of(home / "base"), "cpu")
    own, drafts = adapted.generate(asked), plain.generate(asked)
    assert_same_answers(own, merged.generate(asked), most_ties=1)
    assert sum(a.tokens != b.tokens for a, b in zip(own, drafts, strict=True)) >= 12
    read = adapted.verify(asked, drafts)
    assert sum(one.n_accepted for one in read) > 0
    assert_same_answers(adapted.continue_(asked, read), own, most_ties=1)
    assert adapted.revision.startswith("adapter:")
    adapted.unload()


def test_what_does_not_fit_is_refused(home: Path, tmp_path: Path) -> None:
    """A deeper model's, of which vLLM would leave out the rest; and more than LoRA."""
    shallow = save_random_model(tmp_path / "shallow", "qwen2", n_layers=1)
    with pytest.raises(EngineError, match=rf"does not fit {shallow}: .*layers\.1\..*; name the model"):
        VllmEngine(stage(shallow, home / "adapter"), "cpu").load()
    dora = shutil.copytree(home / "adapter", tmp_path / "dora")
    (dora / "adapter_config.json").write_text(
        json.dumps(CONFIG | {"target_modules": list(PLACES), "use_dora": True})
    )
    with pytest.raises(
        EngineError, match=r"vLLM cannot load the adapter .*DoRA.*use the transformers engine"
    ):
        VllmEngine(stage(home / "base", dora), "cpu").load()
