"""Two baselines of one ladder: is everything but time the same, to every digit?

    python -m bench.gate.same OLD.json NEW.json

For a baseline that is recorded again because times are counted otherwise: quality, cost and counts, item by
item, may not have moved with it. Prints what differs, what was retired by name and what is new; exit code 1
if anything differs or is gone without having been retired.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from asd.measurement.records import Metric, Run
from bench.gate.retired import is_retired
from bench.gate.store import read_baseline

__all__ = ["added", "differences", "retired", "same"]

Where = tuple[str, str]
"""Cell and metric."""


@click.command()
@click.argument("old", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("new", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def same(old: Path, new: Path) -> None:
    """Compare quality, cost and counts of two baselines to every digit."""
    before, after = read_baseline(old).run, read_baseline(new).run
    different = list(differences(before, after))
    told = {"differs": different, "retired": retired(before, after), "new": added(before, after)}
    for title, lines in told.items():
        click.echo("".join(f"{title}: {line}\n" for line in lines), nl=False)
    n = len(_untimed(before).keys() & _untimed(after).keys())
    click.echo(f"{n} numbers of quality, cost and counts compared, {len(different)} differences")
    sys.exit(1 if different else 0)


def differences(before: Run, after: Run) -> Iterator[str]:
    """What is another number, of other items, or gone without a word."""
    if before.datasets != after.datasets:
        yield "the items of the data sets"
    old, new = _untimed(before), _all(after)
    for where, metric in old.items():
        now = new.get(where)
        if now is None:
            if not is_retired(*where):
                yield f"{' '.join(where)}: {metric.value!r} -> not there"
        elif not _is_same(metric, now):
            yield f"{' '.join(where)}: {metric.value!r} -> {now.value!r}{_items(metric, now)}"


def retired(before: Run, after: Run) -> list[str]:
    """Measurements that are gone and were said to be: by cell and metric, times among them."""
    return [" ".join(where) for where in _all(before) if where not in _all(after) and is_retired(*where)]


def added(before: Run, after: Run) -> list[str]:
    """Measurements that the older one does not have."""
    known = _all(before)
    return [" ".join(where) for where in _all(after) if where not in known]


def _is_same(metric: Metric, now: Metric) -> bool:
    """To every digit; of what sums up other numbers, the order of summing may move the last ones."""
    if now.kind == "summary":
        return math.isclose(metric.value, now.value, rel_tol=1e-9, abs_tol=1e-12)
    return (metric.value, metric.items) == (now.value, now.items)


def _items(metric: Metric, now: Metric) -> str:
    """How many of the items are others."""
    if metric.items is None or now.items is None or len(metric.items) != len(now.items):
        return ""
    n = sum(a != b for a, b in zip(metric.items, now.items, strict=True))
    return f", {n} of {len(now.items)} items"


def _all(run: Run) -> dict[Where, Metric]:
    return {(cell.id, metric.name): metric for cell in run.cells for metric in cell.metrics}


def _untimed(run: Run) -> dict[Where, Metric]:
    """What repeats exactly: nothing that a clock said."""
    return {
        where: metric
        for where, metric in _all(run).items()
        if metric.kind != "time" and not (metric.kind == "summary" and metric.provenance == "measured")
    }


if __name__ == "__main__":
    same()
