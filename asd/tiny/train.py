"""Training the embedded ladder: phases of one recipe, resumable after a kill with identical results.

Muon (orthogonalised momentum) on the matrices of the layers, Adam on the embedding and the norms, bfloat16
forward and backward over float32 weights. A checkpoint holds weights, optimiser state and the step; data are
a function of the step (`data.py`), so nothing else is needed to resume. Checkpoints are safetensors.
"""

from __future__ import annotations

import json
import math
import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm import tqdm
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from asd.errors import ConfigError, DataError
from asd.schema.explained import explained
from asd.tiny.data import TrainingBatch, batches, encode, pad, step_items
from asd.tiny.model import PLAIN_ATTENTION, grow, new_model
from asd.tiny.tasks import GRADED, Item, held_out
from asd.tiny.tokenizer import build_tokenizer

RECIPE = Path(__file__).with_name("recipe.toml")
VALIDATION_ITEMS = 120  # per dataset


class Phase(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One phase of the recipe; see the comments in recipe.toml."""

    layers: int
    steps: int
    lr: float
    decay: float
    levels: list[float]
    mix: dict[str, float]
    stream: int
    start: str | None = None
    groups: int = 6


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole recipe."""

    seed: int
    items_per_step: int
    warmup_steps: int
    adam_lr: float
    evaluate_every: int
    checkpoint_every: int
    phases: dict[str, Phase]


def load_recipe(path: Path = RECIPE) -> Recipe:
    """Read a recipe; unknown keys are refused.

    Raises:
        ConfigError: The file is missing, no TOML, or not a recipe.
    """
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf8")), Recipe)
    except msgspec.ValidationError as error:
        raise ConfigError(f"cannot use the recipe {path}: {explained(error, Recipe)}") from error
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot use the recipe {path}: {error}") from error


def learning_rate(phase: Phase, warmup: int, step: int) -> float:
    """Share of the full learning rate at a step: linear warm-up, constant, linear to zero."""
    rise = min(1.0, (step + 1) / warmup)
    return rise if phase.decay == 0 else min(rise, (phase.steps - step) / (phase.decay * phase.steps))


@dataclass
class Trainer:
    """The state of one phase in training."""

    recipe: Recipe
    name: str
    out: Path
    device: str
    tokenizer: PreTrainedTokenizerFast = field(init=False)
    model: LlamaForCausalLM = field(init=False)
    optimizers: dict[str, torch.optim.Optimizer] = field(init=False)
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0

    @property
    def phase(self) -> Phase:
        """This phase's part of the recipe."""
        return self.recipe.phases[self.name]

    @property
    def folder(self) -> Path:
        """Where this phase's checkpoint, log and finished model go."""
        return self.out / self.name

    def prepare(self) -> None:
        """Build the model from its start, then continue from a checkpoint if there is one."""
        self.tokenizer = build_tokenizer(self.recipe.seed)
        self.model = self._start().to(self.device)
        matrices = [p for p in self.model.model.layers.parameters() if p.ndim == 2]
        others = [p for p in self.model.parameters() if not any(p is m for m in matrices)]
        self.optimizers = {
            "muon": torch.optim.Muon(matrices, lr=self.phase.lr, weight_decay=0.0, momentum=0.95),
            "adam": torch.optim.Adam(others, lr=self.recipe.adam_lr, betas=(0.9, 0.98)),
        }
        if self.checkpoint.exists():
            self._resume()

    def _start(self) -> LlamaForCausalLM:
        phase = self.phase
        if phase.start is None:
            return new_model(phase.layers, self.recipe.seed)
        origin = self.out / phase.start
        if not (origin / "model.safetensors").exists():
            raise DataError(
                f"phase {self.name!r} starts from {phase.start!r}, which is not trained: {origin}"
            )
        base = LlamaForCausalLM.from_pretrained(
            origin, dtype=torch.float32, attn_implementation=PLAIN_ATTENTION
        )
        return grow(base, phase.layers)

    @property
    def checkpoint(self) -> Path:
        """The one checkpoint of this phase, replaced as a whole."""
        return self.folder / "checkpoint.safetensors"

    def save(self) -> None:
        """Write the checkpoint beside the old one, then swap."""
        state = {f"model.{name}": p.detach().contiguous() for name, p in self.model.named_parameters()}
        for kind, optimizer in self.optimizers.items():
            for index, values in optimizer.state_dict()["state"].items():
                state |= {f"{kind}.{index}.{key}": torch.as_tensor(v) for key, v in values.items()}
        meta = {"step": str(self.step), "tokens": str(self.tokens), "seconds": str(self.seconds)}
        self.folder.mkdir(parents=True, exist_ok=True)
        fresh = self.checkpoint.with_suffix(".new")
        save_file(state, fresh, metadata=meta)
        fresh.replace(self.checkpoint)

    def _resume(self) -> None:
        with safe_open(self.checkpoint, "pt", device=self.device) as file:
            meta, state = file.metadata(), {key: file.get_tensor(key) for key in list(file.keys())}
        self.step, self.tokens, self.seconds = int(meta["step"]), int(meta["tokens"]), float(meta["seconds"])
        with torch.no_grad():
            for name, p in self.model.named_parameters():
                p.copy_(state[f"model.{name}"])
        for kind, optimizer in self.optimizers.items():
            loaded: dict[int, dict[str, torch.Tensor]] = {}
            for key in (k for k in state if k.startswith(f"{kind}.")):
                _, index, value = key.split(".")
                loaded.setdefault(int(index), {})[value] = state[key]
            optimizer.load_state_dict({**optimizer.state_dict(), "state": loaded})

    def train_step(self) -> float:
        """One optimiser step; the loss per unit of answer weight, in nats."""
        share = learning_rate(self.phase, self.recipe.warmup_steps, self.step)
        for group in self.optimizers["muon"].param_groups:
            group["lr"] = self.phase.lr * share
        for group in self.optimizers["adam"].param_groups:
            group["lr"] = self.recipe.adam_lr * share
        rng = np.random.default_rng([self.recipe.seed, self.phase.stream, self.step])
        items = step_items(rng, self.recipe.items_per_step, self.phase.mix, self.phase.levels)
        loss = 0.0
        for batch in batches(items, self.tokenizer, self.phase.groups):
            part = weighted_loss(self.model, batch, self.device)
            part.backward()  # type: ignore[no-untyped-call]
            loss += part.item()
            self.tokens += batch.ids.numel()
        if not math.isfinite(loss):
            raise DataError(f"phase {self.name!r} diverged at step {self.step}: loss {loss}")
        for optimizer in self.optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return loss

    def run(self) -> None:
        """Train to the end of the phase and save the finished model."""
        self.prepare()
        validation = [
            i for dataset in GRADED for i in islice(held_out(dataset, "validate"), VALIDATION_ITEMS)
        ]
        with tqdm(total=self.phase.steps, initial=self.step, desc=self.name, unit="step") as bar:
            while self.step < self.phase.steps:
                began = time.perf_counter()
                loss = self.train_step()
                self.seconds += time.perf_counter() - began
                bar.update()
                bar.set_postfix(loss=f"{loss:.3f}")
                if self.step % self.recipe.evaluate_every == 0 or self.step == self.phase.steps:
                    self._log(loss, exact_match(self.model, validation, self.tokenizer, self.device))
                if self.step % self.recipe.checkpoint_every == 0 or self.step == self.phase.steps:
                    self.save()
        self._finish()

    def _log(self, loss: float, right: Mapping[str, float]) -> None:
        row = {"phase": self.name, "step": self.step, "tokens": self.tokens, "loss": round(loss, 4)}
        row |= {"seconds": round(self.seconds, 1), "validation": {k: round(v, 4) for k, v in right.items()}}
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "log.jsonl").open("a", encoding="utf8") as log:
            log.write(json.dumps(row) + "\n")
        tqdm.write(json.dumps(row))

    def _finish(self) -> None:
        self.model.config.use_cache = True
        self.model.to(torch.bfloat16).save_pretrained(self.folder)
        self.tokenizer.save_pretrained(self.folder)


def weighted_loss(model: LlamaForCausalLM, batch: TrainingBatch, device: str) -> torch.Tensor:
    """Weighted sum of the negative log-likelihoods of the answer tokens of one batch, scalar."""
    ids, weights = batch.ids.to(device), batch.weights.to(device)
    with torch.autocast(torch.device(device).type, torch.bfloat16):
        hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
        asked = weights[:, 1:] > 0
        logits = torch.nn.functional.linear(hidden[asked], model.model.embed_tokens.weight)
    losses = torch.nn.functional.cross_entropy(logits.float(), ids[:, 1:][asked], reduction="none")
    return (losses * weights[:, 1:][asked]).sum()


@torch.inference_mode()
def exact_match(
    model: LlamaForCausalLM, items: list[Item], tokenizer: PreTrainedTokenizerFast, device: str
) -> dict[str, float]:
    """Share of items whose every answer token is the argmax given the right ones before it, by family."""
    right: dict[str, list[bool]] = {}
    for start in range(0, len(items), 64):
        chunk = items[start : start + 64]
        for item, ok in zip(chunk, _all_argmax(model, chunk, tokenizer, device), strict=True):
            right.setdefault(item.family, []).append(ok)
    rows = {family: sum(hits) / len(hits) for family, hits in right.items()}
    return {"all": sum(map(sum, right.values())) / len(items), **rows}


def _all_argmax(
    model: LlamaForCausalLM, items: list[Item], tokenizer: PreTrainedTokenizerFast, device: str
) -> list[bool]:
    batch = pad(encode(items, tokenizer), 1.0)
    ids, asked = batch.ids.to(device), batch.weights.to(device)[:, 1:] > 0
    logits: Any = model(input_ids=ids[:, :-1], use_cache=False).logits
    result: list[bool] = ((logits.argmax(-1) == ids[:, 1:]) | ~asked).all(1).tolist()
    return result


def train(recipe: Recipe, out: Path, only: str | None = None, device: str = "cpu") -> None:
    """Run every phase that is not finished yet (or one of them), in the recipe's order.

    Raises:
        ConfigError: `only` is not a phase of the recipe.
        DataError: A phase starts from one that is not trained, or training diverged.
        OSError: `out` cannot be made; nothing was computed.
    """
    out.mkdir(parents=True, exist_ok=True)
    if only is not None and only not in recipe.phases:
        raise ConfigError(f"unknown phase {only!r}; the recipe has {', '.join(recipe.phases)}")
    for name in [only] if only else recipe.phases:
        trainer = Trainer(recipe, name, out, device)
        if not (trainer.folder / "model.safetensors").exists():
            trainer.run()
