"""How the ladder compares with vLLM's own speculation, in vLLM: same models, same prompts, taking turns.

    python -m bench.vllm_speculation --limit 8

    plain          the largest stage alone; what the others are compared with
    draft model    the largest stage, to which vLLM drafts with the smallest one
    n-gram         the largest stage, to which vLLM drafts from the prompt
    draft, verify  the smallest stage answers, the largest reads it in one pass and goes on: the same text
    cascade        the fitted policy: stops early where it pays, so its quality is told

Reported, never judged. Provenance `measured`; batch 1; ratios of total seconds within a pass, their median.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import click
import numpy as np
from tabulate import tabulate

from asd.artifact import load as load_policy
from asd.cascade import Cascade
from asd.engines.vllm import VllmEngine
from asd.ladder import PRESETS, Ladder, Stage
from asd.measurement.timing import Timings, interleave, warm_up
from asd.types import Draft, Query, Verification
from asd.workloads.catalogue import find_workloads

__all__ = ["Answered", "compare"]

DATASETS = ("tiny-arithmetic", "tiny-text", "tiny-lookup", "tiny-reasoning")
N_DRAFTED = 4
N_PASSES = 3
LAM = 5.0


@dataclass(frozen=True, slots=True)
class Answered:
    """An arm's answer to one query, and the forward passes of the largest stage that it took."""

    text: str
    n_passes: int


Arm = Callable[[Query], Answered]


def compare(ladder: Ladder, queries: Sequence[Query], n_passes: int) -> Timings[Answered]:
    """Seconds of every arm on every query, shape (passes, queries), and its answers."""
    run = arms(ladder)
    for arm in run.values():
        warm_up(partial(arm, queries[0]), synchronise=_nothing, clock=time.perf_counter)
    return interleave(run, queries, n_passes, synchronise=_nothing, clock=time.perf_counter)


def arms(ladder: Ladder) -> Mapping[str, Arm]:
    """Everything that is compared, by name."""
    small, large = (VllmEngine(stage) for stage in (ladder.stages[0], ladder.stages[-1]))
    speculations: dict[str, dict[str, object]] = {
        "draft model": {"method": "draft_model", "model": ladder.stages[0].model},
        "n-gram": {"method": "ngram", "prompt_lookup_max": 3},
    }
    return {
        "plain": partial(_alone, large),
        **{
            name: partial(_alone, VllmEngine(_speculating(ladder.stages[-1], settings)))
            for name, settings in speculations.items()
        },
        "draft, verify": partial(_verified, small, large),
        f"cascade, lam {LAM:g}": partial(_through, _cascade(ladder, small, large)),
    }


def _speculating(stage: Stage, settings: Mapping[str, object]) -> Stage:
    return replace(
        stage, options={"vllm": {"speculative_config": {**settings, "num_speculative_tokens": N_DRAFTED}}}
    )


def _alone(engine: VllmEngine, query: Query) -> Answered:
    [draft] = engine.generate([query])
    return Answered(draft.text, draft.usage.n_passes)


def _verified(small: VllmEngine, large: VllmEngine, query: Query) -> Answered:
    verifications = large.verify([query], small.generate([query]))
    [draft] = large.continue_([query], verifications)
    return Answered(draft.text, 1 + draft.usage.n_passes)


def _cascade(ladder: Ladder, small: VllmEngine, large: VllmEngine) -> Cascade:
    policy = load_policy(PRESETS.parent / "tiny" / "policy.json").policy(LAM, ladder=ladder)
    middle = {stage.name: VllmEngine(stage) for stage in ladder.stages[1:-1]}
    engines = {small.stage_name: small, **middle, large.stage_name: large}
    return Cascade(engines, policy, {stage.name: stage.prices for stage in ladder.stages})


def _through(cascade: Cascade, query: Query) -> Answered:
    [completion] = cascade.run([query])
    largest = list(cascade.engines)[-1]
    calls: list[Draft | Verification] = [*completion.drafts, *completion.verifications]
    return Answered(completion.text, sum(call.usage.n_passes for call in calls if call.stage == largest))


def _nothing() -> None:
    """A call of vLLM returns when its tokens are here."""


def _table(timings: Timings[Answered], references: Sequence[str]) -> str:
    plain = timings.results["plain"]
    rows = [
        (
            name,
            float(np.median(timings.ratios("plain", name))),
            float(np.median(seconds.sum(axis=1))),
            sum(answer.n_passes for answer in timings.results[name]),
            np.mean([a.text == b.text for a, b in zip(timings.results[name], plain, strict=True)]),
            np.mean([a.text.strip() == r for a, r in zip(timings.results[name], references, strict=True)]),
        )
        for name, seconds in timings.seconds.items()
    ]
    headers = ("arm", "speed-up", "seconds a pass", "passes of the largest", "same text", "quality")
    return tabulate(rows, headers=headers, floatfmt=".3g")


@click.command()
@click.option(
    "--limit", type=click.IntRange(min=1), default=8, show_default=True, help="Questions a dataset."
)
def main(limit: int) -> None:
    """Compare on held-out questions of the embedded ladder, and print one table."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before vLLM brings torch
    queries = [query for workload in find_workloads(DATASETS) for query in workload.queries("test", limit)]
    timings = compare(Ladder.load("tiny"), queries, N_PASSES)
    click.echo(_table(timings, [(query.reference or "").strip() for query in queries]))
    click.echo(f"\n{len(queries)} questions, {N_PASSES} passes in turns, batch 1, provenance: measured")


if __name__ == "__main__":
    main()
