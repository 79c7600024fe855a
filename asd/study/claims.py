"""What the published study claims, beside the same quantity as it came out here.

A claim holds where the whole 95 % interval is at least as good as claimed, fails where the whole interval is
worse, and is undecided between; shares and ratios that claim a value rather than a bound hold within a
tolerance. What this run cannot measure says "not measured". The ladders differ: a claim that fails here is
not thereby wrong about another ladder, and one that holds here is not thereby proven there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from asd.errors import DataError
from asd.study.material import Material
from asd.study.methods import swept
from asd.study.record import Table, Value

__all__ = ["claims_table", "verdict"]

Better = Literal["higher", "lower", "equal"]

TOLERANCE = 0.1
"""Relative, for claims of a value."""

MIXES = {3: (0.52, 0.35, 0.13), 4: (0.662, 0.251, 0.073, 0.013)}
"""Published stage mixes, by number of stages, smallest stage first."""

UNMEASURED = (
    ("R^2 of the quality predictor rises from .489", "R^2 of predicted quality on held-out questions", 0.489),
    ("R^2 of the quality predictor, ensemble: .76", "R^2 of predicted quality on held-out questions", 0.76),
    ("domain of a task recognised: 87.3 %", "accuracy on labelled tasks, per cent", 87.3),
    (
        "dynamic control 15-28 % better under load",
        "latency under load against fixed settings, per cent",
        15.0,
    ),
    ("99.97 % uptime", "share of time in service, per cent", 99.97),
)
"""Needs labels, a load or a service that this command does not have."""


@dataclass(frozen=True, slots=True)
class _Found:
    """A quantity as it came out here, and the table it is read from."""

    table: Table
    value: float
    low: float | None = None
    high: float | None = None


def claims_table(material: Material, tables: Mapping[str, Table]) -> Table:
    """Every headline number of the published study beside what was found here.

    Args:
        material: What is studied.
        tables: By name: "methods", "latency", "differences", "differences_seconds", and "regret" and
            "sample_slopes" where they were made.

    Raises:
        DataError: A table lacks a row that it must have.
    """
    rows = [*_rows(material, tables)]
    rows += [(*head, None, None, None, "not measured", None, "not measured") for head in UNMEASURED]
    return Table(
        name="claims",
        title="Published claims beside what was measured here",
        provenance="replayed",
        measured_on=material.measured_on,
        n=material.n,
        columns=("claim", "quantity", "claimed", "here", "low", "high", "provenance", "n", "holds"),
        rows=tuple(rows),
        note=f"Policy {swept(material.fitted)} at the setting that keeps 95 % of the largest stage's quality."
        " Provenance differs by row and is told in each. yes: the whole interval is at least as good as "
        f"claimed; a claimed value holds within {TOLERANCE:.0%}. Other models and questions than the "
        "published ones.",
    )


def _rows(material: Material, tables: Mapping[str, Table]) -> Iterator[tuple[Value, ...]]:
    for text, quantity, claimed, better, found in [
        *_headline(material, tables),
        *_mixture(material, tables),
        *_theory(tables),
    ]:
        shown = (found.value, found.low, found.high, found.table.provenance, found.table.n)
        yield (text, quantity, claimed, *shown, verdict(claimed, better, found.value, found.low, found.high))


_Claim = tuple[str, str, float, Better, _Found]


def _headline(material: Material, tables: Mapping[str, Table]) -> Iterator[_Claim]:
    own, largest = swept(material.fitted), f"always-{material.stages[-1]}"
    fast = _found(tables["latency"], "speed_up", method=own)
    quality, cost, seconds = (
        _difference(tables[table], own, largest, metric)
        for table, metric in (
            ("differences", "quality"), ("differences", "cost"), ("differences_seconds", "seconds")
        )
    )  # fmt: skip
    kept = _Found(quality.table, *(100.0 + (v or 0.0) for v in (quality.value, quality.low, quality.high)))
    yield "6.2x faster than the largest model", "speed-up, total seconds", 6.2, "higher", fast
    yield "6.33x faster than the largest model", "speed-up, total seconds", 6.33, "higher", fast
    yield "more than 95 % of quality kept", "quality, per cent of the largest's", 95.0, "higher", kept
    yield "71 % cheaper", "cost against the largest, per cent", -71.0, "lower", cost
    for claimed in (-57.2, -54.0):
        yield f"latency {claimed:g} %", "seconds against the largest, per cent", claimed, "lower", seconds
    for claimed in (-30.6, -28.0):
        yield f"cost {claimed:g} %", "cost against the largest, per cent", claimed, "lower", cost
    for claimed in (4.2, 2.3):
        yield f"quality +{claimed:g} %", "quality against the largest, per cent", claimed, "higher", quality
    small = _found(tables["latency"], "speed_up", method=f"always-{material.stages[0]}")
    yield "3.8 s an answer against 1.3 s", "seconds, largest over smallest alone", 3.8 / 1.3, "equal", small
    worst = max(
        (_number(row["p_holm"]), name)
        for name in ("differences", "differences_seconds")
        for row in _named(tables[name])
        if row["method"] == own
    )
    p = _Found(tables[worst[1]], worst[0])
    yield "all comparisons p < .001", "largest p (Holm) of the policy's comparisons", 0.001, "lower", p


def _mixture(material: Material, tables: Mapping[str, Table]) -> Iterator[_Claim]:
    own = _row(tables["methods"], method=swept(material.fitted))
    for stage, claimed in zip(material.stages, MIXES.get(len(material.stages), ()), strict=False):
        found = _Found(tables["methods"], _number(own[f"share_{stage}"]))
        yield f"{claimed:.1%} answered by one stage", f"share answered by {stage}", claimed, "equal", found


def _theory(tables: Mapping[str, Table]) -> Iterator[_Claim]:
    if "regret" in tables:
        for row in _named(tables["regret"]):
            if row["slope"] is not None and str(row["learner"]).startswith("posterior"):
                found = _interval(tables["regret"], row, "slope")
                about = f"log-log slope of regret, {row['learner']}, {row['stream']}"
                yield "regret O(sqrt(T log T))", about, _number(row["slope_sqrt_T_log_T"]), "lower", found
    if "sample_slopes" in tables:
        for row in _named(tables["sample_slopes"]):
            found = _interval(tables["sample_slopes"], row, "slope")
            about = f"log-log slope of what is lost over training queries, {row['trained']}"
            yield "O(1/eps^2) queries suffice", about, _number(row["slope_theory"]), "lower", found


def verdict(claimed: float, better: Better, value: float, low: float | None, high: float | None) -> str:
    """The word for a claim, "yes", "no" or "undecided", as at the top of this module."""
    if better == "equal":
        return "yes" if abs(value - claimed) <= TOLERANCE * abs(claimed) else "no"
    worst, best = (value, value) if low is None or high is None else (low, high)
    if better == "lower":
        worst, best, claimed = -best, -worst, -claimed
    return "yes" if worst >= claimed else "no" if best < claimed else "undecided"


def _difference(table: Table, method: str, reference: str, metric: str) -> _Found:
    row = _row(table, method=method, reference=reference, metric=metric)
    return _Found(table, *(_number(row[name]) for name in ("percent", "low_percent", "high_percent")))


def _found(table: Table, column: str, **key: str) -> _Found:
    return _interval(table, _row(table, **key), column)


def _interval(table: Table, row: Mapping[str, Value], column: str) -> _Found:
    return _Found(table, *(_number(row[name]) for name in (column, f"{column}_low", f"{column}_high")))


def _row(table: Table, **key: str) -> Mapping[str, Value]:
    for row in _named(table):
        if all(row[name] == value for name, value in key.items()):
            return row
    raise DataError(f"table {table.name!r} has no row of {key}")


def _named(table: Table) -> Iterator[dict[str, Value]]:
    return (dict(zip(table.columns, row, strict=True)) for row in table.rows)


def _number(value: Value) -> float:
    if not isinstance(value, int | float):
        raise DataError(f"a claim needs a number, got {value!r}")
    return float(value)
