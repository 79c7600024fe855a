"""One row a method and question: what every mean, interval and p-value of a study is computed from.

Two tables, because they came about differently: "items" holds quality and priced cost (`replayed`), with the
cost split by the stage that was called, "seconds" what a clock said in each live pass (`measured`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from asd.errors import DataError
from asd.evaluation.live import TimedPasses
from asd.evaluation.replay import Replay, calls
from asd.research.study.material import Material
from asd.research.study.record import StudyTable, Value

__all__ = ["items_table", "seconds_table", "vectors"]

Array = NDArray[np.float64]


def items_table(material: Material) -> StudyTable:
    """Quality, cost, cost by stage, passes and tokens of every method on every question."""
    rows = [row for replays in material.walks.values() for replay in replays for row in _rows(replay)]
    by_stage = tuple(f"cost_{stage}" for stage in material.stages)
    return StudyTable(
        name="items",
        title="Every method on every question",
        provenance="replayed",
        measured_on=material.measured_on,
        n=material.n,
        columns=("method", "dataset", "question", "stage", "quality", "cost", *by_stage, "passes", "tokens"),
        rows=tuple(rows),
    )


def _rows(replay: Replay) -> Iterator[tuple[Value, ...]]:
    prices = {stage.name: stage.prices for stage in replay.outcomes.ladder.stages}
    per_item = zip(
        replay.completions, replay.quality, replay.cost, replay.n_passes, replay.n_decoded, strict=True
    )
    for completion, quality, cost, n_passes, n_decoded in per_item:
        paid = dict.fromkeys(prices, 0.0)
        for call in calls(completion):
            paid[call.stage] += prices[call.stage].cost(call.usage) / replay.outcomes.unit
        query = completion.query
        head = (replay.contender.name, query.dataset, query.id, completion.stage)
        yield (*head, float(quality), float(cost), *paid.values(), int(n_passes), int(n_decoded))


def seconds_table(material: Material, timed: Mapping[str, Sequence[TimedPasses]]) -> StudyTable:
    """Seconds of every timed method, question and pass.

    Args:
        material: What is studied.
        timed: By method, one a dataset.
    """
    rows: list[tuple[Value, ...]] = []
    for name, parts in timed.items():
        for part in parts:
            for i, completion in enumerate(part.completions):
                head = (name, completion.query.dataset, completion.query.id)
                rows += [(*head, k, float(s)) for k, s in enumerate(part.seconds[:, i])]
    return StudyTable(
        name="seconds",
        title="Seconds of every method on every timed question",
        provenance="measured",
        measured_on=material.measured_on,
        n=sum(len(part.completions) for part in next(iter(timed.values()))),
        columns=("method", "dataset", "question", "pass", "seconds"),
        rows=tuple(rows),
    )


def vectors(table: StudyTable, metric: str) -> dict[str, Array]:
    """By method, one value a question, questions in one order; the mean over passes where there are several.

    Raises:
        DataError: The metric is not a number somewhere.
    """
    found: dict[str, dict[tuple[Value, Value], list[float]]] = {}
    keys = zip(table.column("method"), table.column("dataset"), table.column("question"), strict=True)
    for (method, *question), value in zip(keys, table.column(metric), strict=True):
        of_method = found.setdefault(str(method), {})
        if not isinstance(value, int | float):
            raise DataError(f"{metric} of {method} on {question} is {value!r}, not a number")
        of_method.setdefault((question[0], question[1]), []).append(float(value))
    order = sorted(next(iter(found.values())), key=str)
    return {m: np.array([np.mean(of_method[key]) for key in order]) for m, of_method in found.items()}
