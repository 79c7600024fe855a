"""A LoRA adapter for the embedded S and one task family, trained from its seed in a minute or two.

Two matrices of small rank beside every matrix of S's layers, W + (alpha / r) B A (arXiv 2106.09685); S itself
stays as it is. Questions are those of the ladder's own training (`asd.tiny.data.step_items`, part "train"),
so none is held out; like all data here they are a function of the seed and the step. peft holds the matrices
and writes them; `asd.engines.hf.adapter` reads them.
"""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import trange
from transformers import AutoTokenizer, LlamaForCausalLM

from asd.engines.batches import in_batches
from asd.engines.hf.adapter import require_peft
from asd.engines.hf.engine import TransformersEngine
from asd.errors import ConfigError, DataError
from asd.ladder import Ladder, Stage
from asd.tiny.data import batches, step_items
from asd.tiny.model import PLAIN_ATTENTION
from asd.tiny.tasks import DATASETS, FAMILIES, GRADED
from asd.tiny.train import weighted_loss
from asd.workloads.tiny import TinyWorkload

__all__ = ["Training", "held_out_scores", "smallest", "train_adapter"]

ADAPTER_STREAM = 100
"""Number of this stream of questions; those of the recipe's phases are below."""
LEVEL_WEIGHTS = (1.0, 1.0, 1.0, 1.0, 1.0)
GROUPS = 3
"""Batches of similar length that a step's questions are cut into."""


@dataclass(frozen=True, slots=True)
class Training:
    """How an adapter is trained.

    Attributes:
        family: Of the questions it is for.
        steps: Of the optimiser.
        seed: Of its first matrices and of the questions.
        rank: Of its matrices.
        rehearsal: Share of questions of all other families, without which S forgets them.
        items_per_step: Questions a step.
        lr: Learning rate at its height; it rises for a tenth of the steps and falls to zero.
    """

    family: str
    steps: int = 500
    seed: int = 0
    rank: int = 8
    rehearsal: float = 0.5
    items_per_step: int = 64
    lr: float = 0.01


def train_adapter(training: Training, out: str | Path) -> float:
    """Train an adapter for the embedded S and write it to the directory `out`; the seconds it took.

    Raises:
        ConfigError: No such family, a number that is not positive, or peft is not installed.
        DataError: Training diverged; nothing is written.
        OSError: `out` cannot be made; nothing was computed.
    """
    _check(training)
    Path(out).mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    stage, mix = smallest(), _mix(training)
    tokenizer, adapted = AutoTokenizer.from_pretrained(stage.model), _adapted(stage, training)
    matrices = [p for p in adapted.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(matrices, lr=training.lr, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(_share, training.steps))
    for step in trange(training.steps, desc=training.family, unit="step", leave=False):
        rng = np.random.default_rng([training.seed, ADAPTER_STREAM, step])
        items = step_items(rng, training.items_per_step, mix, LEVEL_WEIGHTS)
        for batch in batches(items, tokenizer, GROUPS):
            weighted_loss(adapted.get_base_model(), batch, "cpu").backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
    if not all(bool(p.isfinite().all()) for p in matrices):
        raise DataError(f"the adapter diverged at a learning rate of {training.lr}; lower it")
    adapted.save_pretrained(out, save_embedding_layers=False)
    return time.perf_counter() - began


def smallest() -> Stage:
    """The embedded stage that adapters are trained for."""
    return Ladder.load("tiny").stages[0]


def held_out_scores(stage: Stage, limit: int, batch: int = 64) -> dict[str, list[float]]:
    """By family, scores of a stage's greedy answers to the first test questions of every graded dataset.

    There are `limit` of each, the same for every stage and in the same order.
    """
    engine, scores = TransformersEngine(stage, "cpu"), defaultdict[str, list[float]](list)
    with closing(engine):
        for workload in map(TinyWorkload, GRADED):
            asked = workload.queries("test", limit)
            drafts = {i: draft for part in in_batches(engine, asked, batch) for i, draft in part.items()}
            for i, query in enumerate(asked):
                scores[query.tags["family"]].append(workload.score(query, drafts[i].text))
    return dict(scores)


def _check(training: Training) -> None:
    require_peft("an adapter")
    if training.family not in FAMILIES:
        raise ConfigError(f"no task family {training.family!r}; there are {', '.join(FAMILIES)}")
    for name in ("steps", "rank", "items_per_step", "lr"):
        if not getattr(training, name) > 0:
            raise ConfigError(f"{name} must be positive, not {getattr(training, name)}")
    if not 0 <= training.rehearsal < 1:
        raise ConfigError(f"rehearsal must be at least 0 and below 1, not {training.rehearsal}")


def _mix(training: Training) -> dict[str, float]:
    """Share of every family's questions."""
    others = [name for dataset in GRADED for name in DATASETS[dataset] if name != training.family]
    return {training.family: 1 - training.rehearsal} | dict.fromkeys(others, training.rehearsal / len(others))


def _adapted(stage: Stage, training: Training) -> Any:
    """S in float32 with fresh matrices beside its own; only they learn."""
    from peft import LoraConfig, PeftModelForCausalLM  # noqa: PLC0415  (an extra)

    model = LlamaForCausalLM.from_pretrained(
        stage.model, dtype=torch.float32, attn_implementation=PLAIN_ATTENTION
    )
    torch.manual_seed(training.seed)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=training.rank,
        lora_alpha=2 * training.rank,
        target_modules="all-linear",
        base_model_name_or_path=f"asd/tiny/weights/{stage.name}",  # the same wherever it is installed
    )
    return PeftModelForCausalLM(model, config)


def _share(steps: int, step: int) -> float:
    """Share of the full learning rate at a step: up for a tenth of the steps, then down to zero."""
    return min((step + 1) / max(1, steps // 10), (steps - step) / steps)
