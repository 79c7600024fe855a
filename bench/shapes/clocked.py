"""One size under the clock: decode, prefill and verification by batch size and prompt length.

    prefill   a call that writes one token
    decode    (a call that writes 1 + n tokens - that of one token) / n, of the whole batch
    verify    a call that reads a draft of so many tokens together with its prompt
    rivals    the same model's own `generate()`, with a growing and with a static cache

All calls of a cell take turns (`asd.measurement.timing`), each after a warm-up that pays for what is captured
or compiled. The bandwidth that a step is compared with is that of a copy on the same device, in the same run.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from asd.engines import step_mode
from asd.engines.hf.engine import TransformersEngine
from asd.engines.memory import called
from asd.measurement.timing import Clock, Turns, warm_up
from asd.types import Query
from bench.shapes.models import prompts
from bench.shapes.readings import ALL, FIRST, GENERATE, OURS, STATIC, Bandwidth, ShapeReading, verifying

__all__ = ["TimingPlan", "bandwidth", "clocked", "free_bytes"]

WARM_UPS = 5
"""Calls at most before a call is timed: what is captured or compiled is ready after the first."""

COPIED_ON_CPU, COPIED = 1 << 26, 1 << 30
"""Bytes of the copy whose bandwidth is measured."""

Call = Callable[[], object]


@dataclass(frozen=True, slots=True)
class TimingPlan:
    """What is timed of every size.

    Attributes:
        batches: Queries a call.
        lengths: Tokens of a prompt; verification and rivals are timed on the shortest.
        widths: Tokens of a draft.
        n_new: Tokens decoded after the first.
        n_passes: How often every call is timed.
        rivals: Time `generate()` too.
    """

    batches: tuple[int, ...]
    lengths: tuple[int, ...]
    widths: tuple[int, ...]
    n_new: int
    n_passes: int
    rivals: bool

    @property
    def cells(self) -> list[tuple[int, int]]:
        """Batch size and prompt length of every cell, small ones first."""
        return [(batch, length) for batch in self.batches for length in self.lengths]

    @property
    def most_tokens(self) -> int:
        """Of one row's cache."""
        return max(self.lengths) + max(self.n_new + 1, *self.widths)

    def calls(self, length: int) -> set[str]:
        """Names of what is timed at a prompt length."""
        who = [OURS, GENERATE, STATIC] if self.rivals and length == min(self.lengths) else [OURS]
        widths = self.widths if length == min(self.lengths) else ()
        return {name + call for name in who for call in (FIRST, ALL)} | {verifying(w) for w in widths}


def clocked(
    engine: TransformersEngine, plan: TimingPlan, batch: int, length: int, clock: Clock
) -> ShapeReading:
    """Time all calls of one cell.

    Raises:
        OutOfMemoryError: It does not fit the device.
    """
    return called(engine.stage_name, batch, partial(_clocked, engine, plan, batch, length, clock))


def _clocked(
    engine: TransformersEngine, plan: TimingPlan, batch: int, length: int, clock: Clock
) -> ShapeReading:
    arms = {name: call for name, call in _calls(engine, plan, batch, length) if name in plan.calls(length)}
    for call in arms.values():
        warm_up(call, synchronise=engine.synchronise, clock=clock, at_most=WARM_UPS)
    turns = Turns(
        {name: _ignoring_unit(call) for name, call in arms.items()},
        [None],
        synchronise=engine.synchronise,
        clock=clock,
    )
    turns.walk(plan.n_passes)
    seconds = {name: float(np.median(of_call)) for name, of_call in turns.timings.seconds.items()}
    return ShapeReading(
        size=engine.stage_name,
        batch=batch,
        length=length,
        step_mode=step_mode(engine) or "eager",
        seconds=seconds,
    )


def _ignoring_unit(call: Call) -> Callable[[None], object]:
    return lambda _: call()


def _calls(
    engine: TransformersEngine, plan: TimingPlan, batch: int, length: int
) -> Iterator[tuple[str, Call]]:
    """Every call by its name; drafts are written when they are first needed."""
    ask = partial(prompts, batch, length, n_vocab=engine.loaded.n_vocab)
    for name, n_new in ((FIRST, 1), (ALL, 1 + plan.n_new)):
        yield OURS + name, partial(engine.generate, ask(n_new=n_new))
        yield GENERATE + name, partial(_generate, engine, ask(n_new=n_new), {})
        yield STATIC + name, partial(_generate, engine, ask(n_new=n_new), {"cache_implementation": "static"})
    for width in plan.widths if verifying(plan.widths[0]) in plan.calls(length) else ():
        drafts = engine.generate(ask(n_new=width))
        yield verifying(width), partial(engine.verify, ask(n_new=width + 1), drafts)


@torch.inference_mode()
def _generate(engine: TransformersEngine, queries: list[Query], settings: dict[str, str]) -> object:
    """The library's own loop on the same prompts and as many tokens."""
    model: Any = engine.loaded.model
    ids = engine.loaded.tokenizer([query.prompt for query in queries], return_tensors="pt")["input_ids"]
    ids, n_new = ids.to(model.device), queries[0].max_new_tokens
    return model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=n_new,
        min_new_tokens=n_new,
        do_sample=False,
        pad_token_id=0,
        **settings,
    )


def bandwidth(device: str, clock: Clock, n_passes: int = 10) -> Bandwidth:
    """Of the fastest of several copies of one large tensor, within the device and from the host."""
    on = torch.device(device)
    n = COPIED_ON_CPU if on.type == "cpu" else COPIED
    there, here = (torch.zeros(n, dtype=torch.uint8, device=on) for _ in range(2))
    host = torch.zeros(n, dtype=torch.uint8, pin_memory=on.type == "cuda")

    def seconds(source: torch.Tensor) -> float:
        best = math.inf
        for _ in range(n_passes):
            _wait(on)
            start = clock()
            here.copy_(source)
            _wait(on)
            best = min(best, clock() - start)
        return best

    return Bandwidth(copy=2 * n / seconds(there), from_host=n / seconds(host))


def free_bytes(device: str) -> int:
    """Memory that is free on a device."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(torch.device(device))[0])
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
