"""A stage in memory: model and tokenizer, what the decode loop needs to know of them, where they came from.

A stage's `model` is a directory if it is an absolute path or exists, else the name of a repository on the
Hugging Face hub. What can be known to fail before the weights are read is refused before.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from asd.engines.hf.adapter import merged
from asd.engines.hf.pretrained import read_config, read_model, read_tokenizer
from asd.engines.prompts import check_template, check_vocabulary
from asd.engines.revisions import base_revision, local_directory, with_adapter
from asd.errors import EngineError
from asd.ladder import Stage

__all__ = ["Loaded", "described", "load"]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A stage in memory.

    Attributes:
        model: The causal language model, on its device, in evaluation mode.
        tokenizer: Its tokenizer.
        stop_ids: Tokens that end an answer; empty if the checkpoint names none.
        context: Number of positions the model has (None: unbounded).
        n_vocab: Number of tokens the model knows; its tokenizer may know more.
        sees_all: Every layer attends to all tokens (no sliding window, no linear attention).
        rewinds: Tokens read can be taken back: every layer keeps its tokens' keys and values, none a state
            that they have been added up in (linear attention, convolutions).
        step_mask: Which mask a step takes in a batch with empty slots: a finished one, [n, 1, 1, slots], that
            the model need not build (an eighth of the time of a two-layer model), one to build it from,
            [n, slots], or none, where no layer attends to tokens.
        cache_argument: Name under which `model.forward` takes the key-value cache.
        revision: Hub commit, or "sha256:..." over the files of a local directory, and its adapter
            (`asd.engines.revisions`).
    """

    model: Any
    tokenizer: Any
    stop_ids: tuple[int, ...]
    context: int | None
    n_vocab: int
    sees_all: bool
    rewinds: bool
    step_mask: Literal["ready", "built", "none"]
    cache_argument: str
    revision: str


def load(stage: Stage, device: torch.device) -> Loaded:
    """Bring a stage into memory.

    Raises:
        EngineError: No weights or tokenizer there, damaged or incomplete files, a model that is no causal
            language model or quantised in a way that cannot be read here, a chat template that is missing
            where the stage asks for one or does not take its prompts, not enough memory.
    """
    if stage.tensor_parallel != 1:
        raise EngineError(
            f"stage {stage.name!r} asks for tensor_parallel = {stage.tensor_parallel}; the transformers "
            "engine runs a stage on one device: set it to 1 if the model fits on one, else use another engine"
        )
    base = base_revision(stage)
    found = with_adapter(stage, base)
    commit = base if local_directory(stage) is None else None
    config, tokenizer = read_config(stage, commit), read_tokenizer(stage, commit)
    check_template(stage, tokenizer)
    check_vocabulary(stage, tokenizer, config.get_text_config().vocab_size)
    model = merged(stage, read_model(stage, commit, config, device), device)
    return described(stage, model, tokenizer, found)


def described(stage: Stage, model: Any, tokenizer: Any, revision: str) -> Loaded:
    """A model in memory with what the decode loop needs to know of it; `revision` says where it came from.

    Raises:
        EngineError: Its forward pass takes no key-value cache.
    """
    layers = {type(layer) for layer in DynamicCache(config=model.config).layers}
    sees_all = layers == {DynamicLayer}
    return Loaded(
        model,
        tokenizer,
        _stop_ids(model, tokenizer),
        getattr(model.config.get_text_config(), "max_position_embeddings", None),
        model.config.get_text_config().vocab_size,
        sees_all,
        layers <= {DynamicLayer, DynamicSlidingWindowLayer},
        _step_mask(model.config, layers),
        _cache_argument(stage, model),
        revision,
    )


def _step_mask(config: Any, layers: set[type]) -> Literal["ready", "built", "none"]:
    """A finished mask is for models that use masks as masks only, not to derive positions or biases from."""
    if not any(issubclass(layer, DynamicLayer) for layer in layers):
        return "none"
    is_rotary = bool(getattr(config, "rope_parameters", None)) and not getattr(config, "alibi", False)
    is_plain = layers == {DynamicLayer} and config._attn_implementation == "sdpa"
    return "ready" if is_rotary and is_plain else "built"


def _cache_argument(stage: Stage, model: Any) -> str:
    """Renamed in transformers 5.24, where the old name warns until it goes in 5.40."""
    known = inspect.signature(model.forward).parameters
    for name in ("cache", "past_key_values"):
        if name in known and "logits_to_keep" in known:  # a model with a state of its own has not both
            return name
    raise EngineError(
        f"stage {stage.name!r}: {stage.model}: {type(model).__name__}.forward does not take both a key-value "
        "cache ('cache' or 'past_key_values') and 'logits_to_keep', so it cannot decode here; use the vllm "
        "engine or another model"
    )


def _stop_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """The checkpoint's generation settings decide, as in `generate()`; else the tokenizer.

    A token that the model has no logit for never ends an answer.
    """
    ids = model.generation_config.eos_token_id
    if ids is None:
        ids = tokenizer.eos_token_id
    named = ids if isinstance(ids, list) else [ids]
    n_vocab = model.config.get_text_config().vocab_size
    return tuple(token for token in named if token is not None and token < n_vocab)
