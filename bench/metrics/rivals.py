"""The same answers four ways, taking turns: our decode loop and `generate()`, with and without a drafter.

All four are greedy, at batch 1, from text to text: prompt template, tokens, model, text. What is compared is
the time; the answers are the same, and who times should check that they are.

Scope: a yardstick; nothing else in the package calls `generate()`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import torch

from asd.engines.hf.engine import TransformersEngine
from asd.engines.hf.speculation import SpeculativeEngine
from asd.engines.prompts import encode
from asd.measurement.timing import Clock, Turns, warm_up
from asd.types import Query

__all__ = ["ASSISTED", "OWN", "PLAIN", "SPECULATIVE", "rival_turns"]

OWN = "own loop"
SPECULATIVE = "own speculation"
PLAIN = "generate()"
ASSISTED = "generate(assistant_model)"


def rival_turns(
    engine: SpeculativeEngine,
    queries: Sequence[Query],
    clock: Clock = time.perf_counter,
) -> Turns[Query, str]:
    """Every way on every query, warmed up and ready to take turns; results are texts.

    Args:
        engine: Drafter, verifier and block length; `generate()` chooses its own block length.
        queries: Answered one at a time.
        clock: Reads seconds.

    Raises:
        ValueError: No query.
        EngineError: As `SpeculativeEngine.load`.
    """
    engine.load()
    arms: dict[str, Callable[[Query], str]] = {
        OWN: lambda query: engine.verifier.generate([query])[0].text,
        SPECULATIVE: lambda query: engine.generate([query])[0].text,
        PLAIN: lambda query: _generate(engine.verifier, query),
        ASSISTED: lambda query: _generate(engine.verifier, query, engine.drafter),
    }
    for arm in arms.values():
        warm_up(partial(arm, queries[0]), synchronise=engine.synchronise, clock=clock)
    return Turns(arms, queries, synchronise=engine.synchronise, clock=clock)


def _generate(engine: TransformersEngine, query: Query, assistant: TransformersEngine | None = None) -> str:
    loaded = engine.loaded
    prompt = encode(query, engine.stage, loaded.tokenizer, loaded.context, loaded.n_vocab)
    ids = torch.tensor([prompt], device=engine.device)
    written = loaded.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=query.max_new_tokens,
        pad_token_id=loaded.model.generation_config.pad_token_id or 0,
        assistant_model=None if assistant is None else assistant.loaded.model,
    )
    return str(loaded.tokenizer.decode(written[0, len(prompt) :], skip_special_tokens=True))
