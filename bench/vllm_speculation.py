"""How the ladder compares with vLLM's own speculation, in vLLM: same models, same prompts, taking turns.

    python -m bench.vllm_speculation --limit 8 --batch 1

    plain           the largest stage alone; what the others are compared with
    draft model, n  the largest stage, for which vLLM drafts n tokens at a time with the smallest one
    n-gram, n       the largest stage, for which vLLM drafts n tokens at a time from the prompt
    draft, verify   the smallest stage answers, the largest reads it in one pass and continues: the same text
    both            the same, and where the largest continues, vLLM drafts 8 tokens at a time
    cascade         the fitted policy: stops early where it pays, so its quality is told

Reported, never judged. Provenance `measured`; ratios of total seconds within a pass, their median.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

import click
import numpy as np
from tabulate import tabulate

from asd.cascade import Cascade
from asd.engines.vllm.engine import VllmEngine
from asd.ladder import TINY_POLICY, Ladder, Stage
from asd.measurement.timing import Timings, interleave, warm_up
from asd.policy.artifact import load as load_policy
from asd.types import Query
from asd.workloads import score_of
from asd.workloads.catalogue import find_workloads

__all__ = ["ArmAnswer", "compare"]

DATASETS = ("tiny-arithmetic", "tiny-text", "tiny-lookup", "tiny-reasoning")
N_PASSES = 3
LAM = 5.0
PLAIN, OURS = "plain", "draft, verify"


@dataclass(frozen=True, slots=True)
class ArmAnswer:
    """An arm's answer to one query, and the forward passes of the largest stage that it took."""

    text: str
    n_passes: int


Arm = Callable[[Sequence[Query]], list[ArmAnswer]]


def compare(ladder: Ladder, batches: Sequence[Sequence[Query]], n_passes: int) -> Timings[list[ArmAnswer]]:
    """Seconds of every arm on every batch, shape (passes, batches), and its answers."""
    run = arms(ladder)
    for arm in run.values():
        warm_up(partial(arm, batches[0]), synchronise=_nothing, clock=time.perf_counter)
    return interleave(run, batches, n_passes, synchronise=_nothing, clock=time.perf_counter)


def arms(ladder: Ladder) -> Mapping[str, Arm]:
    """Everything that is compared, by name."""
    small, large = (VllmEngine(stage) for stage in (ladder.stages[0], ladder.stages[-1]))
    drafting = {"method": "draft_model", "model": ladder.stages[0].model}
    theirs: dict[str, dict[str, object]] = {
        "draft model, 4": {**drafting, "num_speculative_tokens": 4},
        "draft model, 8": {**drafting, "num_speculative_tokens": 8},
        "n-gram, 4": {"method": "ngram", "prompt_lookup_max": 3, "num_speculative_tokens": 4},
    }
    engines = {name: VllmEngine(_speculating(ladder.stages[-1], how)) for name, how in theirs.items()}
    return {
        PLAIN: partial(_alone, large),
        **{name: partial(_alone, engine) for name, engine in engines.items()},
        OURS: partial(_verified, small, large),
        "both": partial(_verified, small, engines["draft model, 8"]),
        f"cascade, lam {LAM:g}": partial(_through, _cascade(ladder, small, large)),
    }


def _speculating(stage: Stage, settings: Mapping[str, object]) -> Stage:
    vllm = {**stage.options.get("vllm", {}), "speculative_config": settings}
    return replace(stage, options={"vllm": vllm})


def _alone(engine: VllmEngine, queries: Sequence[Query]) -> list[ArmAnswer]:
    return [ArmAnswer(draft.text, draft.usage.n_passes) for draft in engine.generate(queries)]


def _verified(small: VllmEngine, large: VllmEngine, queries: Sequence[Query]) -> list[ArmAnswer]:
    verifications = large.verify(queries, small.generate(queries))
    drafts = large.continue_(queries, verifications)
    return [ArmAnswer(draft.text, 1 + draft.usage.n_passes) for draft in drafts]


def _cascade(ladder: Ladder, small: VllmEngine, large: VllmEngine) -> Cascade:
    policy = load_policy(TINY_POLICY).policy(LAM, ladder=ladder)
    middle = {stage.name: VllmEngine(stage) for stage in ladder.stages[1:-1]}
    engines = {small.stage_name: small, **middle, large.stage_name: large}
    return Cascade(engines, policy, {stage.name: stage.prices for stage in ladder.stages})


def _through(cascade: Cascade, queries: Sequence[Query]) -> list[ArmAnswer]:
    largest = list(cascade.engines)[-1]
    return [
        ArmAnswer(
            completion.text,
            sum(draft.usage.n_passes for draft in completion.drafts if draft.stage == largest)
            + sum(seen.usage.n_passes for seen in completion.verifications if seen.stage == largest),
        )
        for completion in cascade.run(queries, batch_size=len(queries))
    ]


def _nothing() -> None:
    """A call of vLLM returns when its tokens are here."""


def _table(timings: Timings[list[ArmAnswer]], right: Callable[[Sequence[str]], float]) -> str:
    answers = {name: list(chain.from_iterable(batches)) for name, batches in timings.results.items()}
    rows = [
        (
            name,
            float(np.median(timings.ratios(PLAIN, name))),
            float(np.median(timings.ratios(name, OURS))),
            float(np.median(seconds.sum(axis=1))),
            sum(answer.n_passes for answer in answers[name]),
            np.mean([a.text == b.text for a, b in zip(answers[name], answers[PLAIN], strict=True)]),
            right([answer.text for answer in answers[name]]),
        )
        for name, seconds in timings.seconds.items()
    ]
    headers = ("arm", "speed-up", f"{OURS!r} is faster by", "seconds", "passes of the largest", "same text")
    return tabulate(rows, headers=(*headers, "quality"), floatfmt=".3g")


@click.command()
@click.option(
    "--limit", type=click.IntRange(min=1), default=8, show_default=True, help="Questions a dataset."
)
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Questions a call.")
def main(limit: int, batch: int) -> None:
    """Compare on held-out questions of the embedded ladder, and print one table."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before vLLM brings torch
    asked = [(workload, q) for workload in find_workloads(DATASETS) for q in workload.queries("test", limit)]
    queries = [query for _, query in asked]
    timings = compare(
        Ladder.load("tiny"), [queries[i : i + batch] for i in range(0, len(queries), batch)], N_PASSES
    )

    def right(texts: Sequence[str]) -> float:
        return float(np.mean([score_of(w, q, text) for (w, q), text in zip(asked, texts, strict=True)]))

    click.echo(_table(timings, right))
    click.echo(f"\n{len(queries)} questions, {N_PASSES} passes in turns, batch {batch}, provenance: measured")


if __name__ == "__main__":
    main()
