"""What a ladder would cost and take at measured prices: recorded outcomes x timed shapes.

    largest alone           what everything is compared with
    lossless, X drafts      its own answers, each drafted once by a smaller stage (`recordings.calls`)
    asked 99 %, 95 %        the cheapest setting that keeps this share of its quality, asked of the rows that
                            were fitted on and delivered on held-out ones, five folds

The answers are those of real models, the seconds are counts of their tokens times prices: where these were
measured on random weights the result is `replayed x timing-only`. A stage that escalates throws its draft
away here, so what verification would save on top is in the lossless rows only. Scope: arithmetic on two
files; nothing runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from asd.errors import DataError
from asd.evaluation.statistics import Bootstrap, mean_interval, ratio_interval
from asd.measurement.records import Record
from asd.prices import Timing
from asd.research.offline.curves import SWEEP, splits, sweep
from asd.research.offline.replay import MIN_ROWS, Interval, ours
from asd.research.offline.selection import deliver
from asd.research.recordings.calls import Priced
from asd.research.recordings.recording import Recording

__all__ = ["SHARES", "LadderSetting", "Planned", "StageFigures", "plan"]

Array = npt.NDArray[np.float64]

SHARES = (0.99, 0.95)
"""Of the largest stage's quality, that are asked for."""
_N_FOLDS = 5
_MS = 1e3


class StageFigures(Record, frozen=True, kw_only=True):
    """One stage alone.

    Attributes:
        model: As the recordings call it.
        size: As the price table calls it.
        priced: How its prices came about: the step mode that was timed, or "modelled".
        quality: Mean score.
        prompt_tokens: Mean.
        decoded_tokens: Mean.
        seconds: Mean of a query, by its counts.
    """

    model: str
    size: str
    priced: str
    quality: float
    prompt_tokens: float
    decoded_tokens: float
    seconds: float


class LadderSetting(Record, frozen=True, kw_only=True):
    """One way to run the ladder.

    Attributes:
        name: What it is.
        quality: Mean score of the answers returned.
        quality_interval: Of it, over the draw of the queries.
        relative_quality: `quality` over the largest stage's.
        cost: Over that of the largest stage alone.
        cost_interval: Of it.
        seconds: Mean of a query.
        p95_s: 95th percentile over the queries.
        answered: Share of queries by the stage that answered.
    """

    name: str
    quality: float
    quality_interval: Interval
    relative_quality: float
    cost: float
    cost_interval: Interval
    seconds: float
    p95_s: float
    answered: dict[str, float]


class Planned(Record, frozen=True, kw_only=True):
    """What `asd plan --json` writes; `prices` says where, when and how these were measured."""

    kind: Literal["asd-plan"] = "asd-plan"
    version: Literal[1] = 1
    provenance: str
    prices: str
    batch: int
    n_queries: int
    stages: tuple[StageFigures, ...]
    settings: tuple[LadderSetting, ...]


def plan(priced: Priced, sizes: Sequence[str], prices: str, timing: Timing | None, batch: int) -> Planned:
    """Every setting on the recorded queries.

    Args:
        priced: The queries, their calls in milliseconds.
        sizes: What the price table calls the stages.
        prices: Where, when and how they were measured.
        timing: The same of prices of random weights.
        batch: Queries a call that the prices are for.

    Raises:
        DataError: Too few queries to fit on.
    """
    rows = priced.rows
    if len(rows) < MIN_ROWS:
        raise DataError(f"{len(rows)} queries were answered by all; {MIN_ROWS} are needed to fit on")
    return Planned(
        provenance="replayed x timing-only" if timing is not None else "replayed x measured prices",
        prices=prices,
        batch=batch,
        n_queries=len(rows),
        stages=tuple(_stages(priced, sizes, timing, batch)),
        settings=tuple(_settings(priced)),
    )


def _stages(
    priced: Priced, sizes: Sequence[str], timing: Timing | None, batch: int
) -> Iterator[StageFigures]:
    rows = priced.rows
    for k, (model, size) in enumerate(zip(rows.stages, sizes, strict=True)):
        n_prompt, n_decoded = priced.n_tokens[model]
        yield StageFigures(
            model=model,
            size=size,
            priced="measured" if timing is None else timing.how(size, batch),
            quality=float(rows.scores[:, k].mean()),
            prompt_tokens=n_prompt,
            decoded_tokens=n_decoded,
            seconds=float(rows.costs[:, k].mean()) / _MS,
        )


def _settings(priced: Priced) -> Iterator[LadderSetting]:
    rows, last = priced.rows, len(priced.rows.stages) - 1
    always = np.full(len(rows), last)
    yield _setting(f"{rows.stages[last]} alone", rows, always, rows.costs[:, last])
    for drafter, costs in priced.drafted.items():
        yield _setting(f"lossless, {drafter} drafts", rows, always, costs)
    for share, (answer, costs) in zip(SHARES, _asked(rows), strict=True):
        yield _setting(f"asked {share:.0%}", rows, answer, costs)


def _asked(rows: Recording) -> list[tuple[npt.NDArray[np.intp], Array]]:
    """Of every share, who answers and what it costs on every row, by what the other folds chose."""
    best, n = ours(len(rows.stages)), len(rows)
    found = [(np.zeros(n, np.intp), np.zeros(n)) for _ in SHARES]
    for seen, held_out in splits(n, _N_FOLDS, seed=0):
        train, other = rows.take(seen), rows.take(held_out)
        fitted = best.fit(train)
        curve, contest = sweep(fitted, other, SWEEP), fitted.contest
        reference, largest = contest.quality.mean(), train.scores[:, -1].mean()
        for share, (answer, costs) in zip(SHARES, found, strict=True):
            asked = contest.ask(max(0.0, float(reference - share * largest)))
            delivered = deliver(asked, curve, other, contest.reference)
            answer[held_out], costs[held_out] = delivered.answer[0], delivered.cost[0]
    return found


def _setting(name: str, rows: Recording, answer: npt.NDArray[np.intp], costs: Array) -> LadderSetting:
    quality, bootstrap = rows.scores[np.arange(len(rows)), answer], Bootstrap()
    alone = float(rows.costs[:, -1].mean())
    return LadderSetting(
        name=name,
        quality=float(quality.mean()),
        quality_interval=Interval(*mean_interval(quality, bootstrap)),
        relative_quality=float(quality.mean() / rows.scores[:, -1].mean()),
        cost=float(costs.mean()) / alone,
        cost_interval=Interval(*ratio_interval(costs, rows.costs[:, -1], bootstrap)),
        seconds=float(costs.mean()) / _MS,
        p95_s=float(np.quantile(costs, 0.95)) / _MS,
        answered={stage: float((answer == k).mean()) for k, stage in enumerate(rows.stages)},
    )
