"""Made-up cascades of any number of stages, as the files that `asd simulate` takes.

Every stage takes a third of the time of the next one, and the largest as long in each cascade, so that all
bear the same load. A stage is right where a query is easy enough for it, and its certainty says how likely
that was. What they show is how long the simulator takes, never quality.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from asd.traces import StageHeader, TraceHeader, encode_header, encode_trace
from asd.types import Draft, Outcome, Query, Trace, Usage

__all__ = ["PolicyEffort", "effort_of", "write_cascade"]

_ROWS = 240
_BATCH, _TOKEN_MS, _SHARE = 16, 9.0, 0.25
"""Of the largest stage: queries a call, time of a token alone, share of it that one of a full call takes."""
_TOKENS = (2, 21)
_LOAD = 0.85
"""Of the largest stage if it answered everything in full calls."""


class PolicyEffort(NamedTuple):
    """What deciding took, as `asd simulate` printed it: microseconds a decision, milliseconds a solution."""

    decision_us: float
    solve_ms: float


def effort_of(said: str) -> PolicyEffort:
    """Read off the output of a run of one policy."""
    found = re.search(r"decisions of ([\d.]+) microseconds, solved [\d,]+ times in ([\d.]+) ms", said)
    if found is None:
        raise ValueError(f"asd simulate printed no decisions:\n{said}")
    return PolicyEffort(*map(float, found.groups()))


def write_cascade(
    folder: Path, n_requests: int, n_stages: int, replicas: int, rng: np.random.Generator
) -> tuple[list[str], list[str]]:
    """Write ladder and traces; the arguments of `asd` that fit a policy, and that let so many requests come.

    The policy is fitted by a process of its own: a process begins with the peak memory of the one that starts
    it, which has to stay small.
    """
    ladder, policy, traces = (folder / name for name in ("made-up.toml", "policy.json", "rows.jsonl"))
    stages = [f"m{k}" for k in range(n_stages)]
    ladder.write_text(_ladder(stages), "utf8")
    headers = {
        s: StageHeader(model=f"made-up/{s}", revision="1", dtype="auto", chat_template=False) for s in stages
    }
    header = TraceHeader(ladder="made-up", stages=headers, datasets=("made-up",), split="fit")
    traces.write_bytes(encode_header(header) + b"".join(map(encode_trace, _traces(stages, rng))))
    mean_s = 1e-3 * _TOKEN_MS * _SHARE * (_TOKENS[0] + _TOKENS[1] - 1) / 2
    rate = _LOAD * replicas / mean_s
    fitting = ["fit", str(traces), "--ladder", str(ladder), "--out", str(policy)]
    return fitting, [
        "simulate", str(traces), "--ladder", str(ladder), "--policy", str(policy), "--policies", "queue:5:1",
        "--batch", str(_BATCH), "--replicas", ",".join(f"{stage}={replicas}" for stage in stages),
        "--arrivals", f"poisson:{rate:g}", "--hours", f"{n_requests / rate / 3600.0:g}",
    ]  # fmt: skip


def _ladder(stages: list[str]) -> str:
    lines = ['name = "made-up"', 'price_unit = "ms"', 'prices_measured = "never: made up"']
    for k, stage in enumerate(stages, 1):
        alone = _TOKEN_MS * 3.0 ** (k - len(stages))
        prices = "{{ per_call = 0.0, per_prompt_token = 0.0, per_decoded_token = {:g} }}"
        lines += ["[[stages]]", f'name = "{stage}"', f'model = "made-up/{stage}"']
        lines += [f"prices = {prices.format(alone)}", f"batched.{_BATCH} = {prices.format(_SHARE * alone)}"]
    return "\n".join(lines)


def _traces(stages: list[str], rng: np.random.Generator) -> Iterator[Trace]:
    for i in range(_ROWS):
        difficulty, n_tokens = rng.normal(), int(rng.integers(*_TOKENS))
        query = Query(f"q{i}", "made-up", f"add {rng.integers(10, 100)} and {i}", reference="right")
        outcomes = {}
        for k, stage in enumerate(stages, 1):
            certainty = 1.0 / (1.0 + math.exp(2.0 * (difficulty - 3.0 * k / len(stages) + 1.0)))
            right = bool(rng.random() < certainty)
            usage = Usage(n_prompt=10, n_decoded=n_tokens, n_passes=n_tokens)
            logprobs = (math.log(certainty) / n_tokens,) * n_tokens
            text = "right" if right else f"wrong {stage}"
            draft = Draft(stage, text, tuple(range(n_tokens)), logprobs, True, usage, 0.1)
            outcomes[stage] = Outcome(draft, float(right))
        yield Trace(query, outcomes)
