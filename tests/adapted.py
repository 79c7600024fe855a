"""LoRA adapters with random matrices, made on the spot for models of `tests.models`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModelForCausalLM
from transformers import AutoModelForCausalLM


def save_random_adapter(model: str | Path, to: Path, seed: int = 0, **settings: Any) -> Path:
    """Write an adapter that changes what the model at `model` answers, as peft writes it."""
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    config = {"task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "target_modules": "all-linear"} | settings
    adapted = PeftModelForCausalLM(base, LoraConfig(**config))
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, matrix in adapted.named_parameters():
            if ".lora_" in name:
                matrix.normal_(std=0.1)
    adapted.save_pretrained(to, save_embedding_layers=False)
    return to


def merged_model(model: str | Path, adapter: Path) -> Any:
    """What peft makes of the two, in float32."""
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    return PeftModelForCausalLM.from_pretrained(base, str(adapter)).merge_and_unload().eval()
