"""The same answers by steps that are made in several ways, taking turns: which way is the fastest here?

    python -m bench.shapes.steps --batch 1 --batch 16 --limit 32

    off        every kernel is launched by itself, over caches that grow
    on         over caches of a fixed size: replayed from CUDA graphs where there are any
    compiled   compiled as well (`--compile`)

What is done on a device by default is `off` on a CPU and `on` on a GPU; this is how one finds out whether it
should. Answers must be the same. Reported, never judged; ratios of total seconds within a pass, their median.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import click
import numpy as np
from tabulate import tabulate

from asd.engines.batches import batches
from asd.engines.hf.engine import TransformersEngine
from asd.ladder import Ladder, Stage
from asd.measurement.timing import Timings, interleave, warm_up
from asd.types import Query
from asd.workloads.catalogue import find_workloads

__all__ = ["compare"]

OFF = "off"
WAYS: dict[str, dict[str, object]] = {OFF: {"graphs": "off"}, "on": {"graphs": "on"}}
COMPILED: dict[str, dict[str, object]] = {"compiled": {"graphs": "on", "compile": True}}
DATASETS = ("tiny-arithmetic", "tiny-text", "tiny-lookup", "tiny-reasoning")

Texts = list[str]


def compare(
    engines: dict[str, TransformersEngine], asked: Sequence[Query], batch: int, n_passes: int
) -> Timings[Texts]:
    """Seconds of every way on every batch, shape (passes, batches), and what it wrote.

    Raises:
        RuntimeError: Two ways wrote different answers.
    """
    units = [[asked[i] for i in of_batch] for of_batch in batches(asked, batch)]
    arms = {name: partial(_texts, engine) for name, engine in engines.items()}
    synchronise = next(iter(engines.values())).synchronise
    for unit in (units[0], units[-1]):
        for arm in arms.values():
            warm_up(partial(arm, unit), synchronise=synchronise, clock=time.perf_counter, at_most=5)
    timings = interleave(arms, units, n_passes, synchronise=synchronise, clock=time.perf_counter)
    if any(written != timings.results[OFF] for written in timings.results.values()):
        raise RuntimeError("answers depend on how steps are made; compare in float32")
    return timings


def _texts(engine: TransformersEngine, asked: Sequence[Query]) -> Texts:
    return [draft.text for draft in engine.generate(asked)]


def _engine(stage: Stage, options: dict[str, object], device: str | None) -> TransformersEngine:
    own = {"transformers": {**stage.options.get("transformers", {}), **options}}
    return TransformersEngine(replace(stage, options={**stage.options, **own}), device)


@click.command(context_settings={"show_default": True})
@click.option("--ladder", default="tiny", help="Whose stages: a preset or a file.")
@click.option("--batch", type=click.IntRange(1), multiple=True, default=(1, 16), help="Queries a call.")
@click.option("--limit", type=click.IntRange(1), default=32, help="Queries, of all tasks together.")
@click.option("--passes", type=click.IntRange(1), default=3)
@click.option("--device", help="In torch's words; default: a GPU if there is one.")
@click.option("--compile", "compiled", is_flag=True, help="Compile steps, too; half a minute a shape.")
def main(
    ladder: str, batch: tuple[int, ...], limit: int, passes: int, device: str | None, compiled: bool
) -> None:
    """Time the stages of a ladder by how their steps are made."""
    ways = WAYS | (COMPILED if compiled else {})
    n_each = -(-limit // len(DATASETS))
    asked = [query for w in find_workloads(DATASETS) for query in w.queries("test", n_each)][:limit]
    rows = []
    for stage in Ladder.load(ladder).stages:
        engines = {name: _engine(stage, options, device) for name, options in ways.items()}
        for size in batch:
            timings = compare(engines, asked, size, passes)
            for name, engine in engines.items():
                ratio = float(np.median(timings.ratios(OFF, name)))
                seconds = float(np.median(timings.seconds[name].sum(axis=1)))
                rows.append((stage.name, size, name, engine.step_mode, seconds, ratio))
    heads = ["stage", "batch", "graphs", "steps", "seconds", "speed-up over off"]
    click.echo(tabulate(rows, headers=heads, floatfmt=".3f"))


if __name__ == "__main__":
    main()
