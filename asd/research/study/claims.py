"""What the published study claims, beside the same quantity as it came out here.

A claim holds where the whole 95 % interval is at least as good as claimed, fails where the whole interval is
worse, and is undecided between; shares and ratios that claim a value rather than a bound hold within a
tolerance. What needs a load is read off a day of `asd day`, where one is given, and is simulated; what this
run cannot measure says "not measured", and how it could be. The ladders differ: a claim that fails here is
not thereby wrong about another ladder, and one that holds here is not thereby proven there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from asd.errors import DataError
from asd.research.study.material import Material
from asd.research.study.methods import DRAFTED, drafted, swept
from asd.research.study.record import Study, StudyTable, Value
from asd.research.study.recorded import CASCADE
from asd.research.theory.learners import DRIFTING

__all__ = ["claims_table", "verdict"]

Better = Literal["higher", "lower", "equal"]

TOLERANCE = 0.1
"""Relative, for claims of a value."""

MIXES = {3: (0.52, 0.35, 0.13), 4: (0.662, 0.251, 0.073, 0.013)}
"""Published stage mixes, by number of stages, smallest stage first."""

UNMEASURED = (("domain of a task recognised: 87.3 %", "accuracy on labelled tasks, per cent", 87.3),)
"""Needs labels that this command does not have."""

UNDER_LOAD = (
    ("99.97 % uptime", "windows with 1 % errors or more, per cent", 0.03),
    ("dynamic control 15 % better under load", "mean latency, change in per cent", -15.0),
    ("dynamic control 28 % better under load", "mean latency, change in per cent", -28.0),
)
"""Needs a day of operations: claim, quantity and claimed value as the claims of `asd day` have them."""


@dataclass(frozen=True, slots=True)
class _MeasuredClaim:
    """A quantity as it came out here and the table it is read from; `on` and `n` where a row has its own."""

    table: StudyTable
    value: float
    low: float | None = None
    high: float | None = None
    on: str | None = None
    n: int | None = None


def claims_table(material: Material, tables: Mapping[str, StudyTable]) -> StudyTable:
    """Every headline number of the published study beside what was found here.

    Args:
        material: What is studied.
        tables: By name: "methods", "latency", "differences", "differences_seconds" and "predictors", and
            "recorded", "regret", "regret_simulated" and "sample_slopes" where they were made.

    Raises:
        DataError: A table lacks a row that it must have.
    """
    rows = [*_rows(material, tables), *_of_a_day(material.day)]
    rows += [(*head, None, None, None, None, "not measured", None, "not measured") for head in UNMEASURED]
    return StudyTable(
        name="claims",
        title="Published claims beside what was measured here",
        provenance="replayed",
        measured_on=material.measured_on,
        n=material.n,
        columns=("claim", "quantity", "claimed", "here", "low", "high", "on", "provenance", "n", "holds"),
        rows=tuple(rows),
        note=f"Policy {swept(material.fitted)} at the setting that keeps 95 % of the largest stage's quality "
        "on calibration rows; provenance differs by row and is told in each. yes: the whole interval is at "
        "least as good as claimed; no: the whole interval is worse; undecided: the claim lies within it. The "
        "policy has drafters: rows that name the largest with its own are free of what drafting gives. A "
        f"claimed value holds within {TOLERANCE:.0%} of it. Under load: one simulated run each. "
        "Other models and questions than the published.",
    )


def _rows(material: Material, tables: Mapping[str, StudyTable]) -> Iterator[tuple[Value, ...]]:
    for text, quantity, claimed, better, found in [
        *_headline(material, tables),
        *_recorded(tables),
        *_mixture(material, tables),
        *_foretold(tables),
        *_theory(tables),
    ]:
        holds = verdict(claimed, better, found.value, found.low, found.high)
        told = (found.table.provenance, found.n or found.table.n)
        on = found.on or f"ladder {material.ladder.name}"
        yield (text, quantity, claimed, found.value, found.low, found.high, on, *told, holds)


def _of_a_day(day: Study | None) -> Iterator[tuple[Value, ...]]:
    """What a day answers, with the verdict that it came to; without one, how to make it."""
    if day is None:
        how = "asd day TRACES --out DIR, then asd study --day DIR"
        yield from (
            (*head, None, None, None, how, "not measured", None, "not measured") for head in UNDER_LOAD
        )
        return
    table = day.table("claims")
    on = f"ladder {day.ladder}, {table.measured_on}"
    for text, quantity, claimed in UNDER_LOAD:
        row = _row(table, claim=text, quantity=quantity)
        holds = {True: "yes", False: "no", None: "no data"}[row["holds"]]  # type: ignore[index]
        yield (text, quantity, claimed, row["here"], None, None, on, table.provenance, table.n, holds)


_Claim = tuple[str, str, float, Better, _MeasuredClaim]


def _headline(material: Material, tables: Mapping[str, StudyTable]) -> Iterator[_Claim]:
    own, largest = swept(material.fitted), f"always-{material.stages[-1]}"
    quality, cost, seconds = (
        _difference(tables[table], own, largest, metric)
        for table, metric in (
            ("differences", "quality"), ("differences", "cost"), ("differences_seconds", "seconds")
        )
    )  # fmt: skip
    yield from _faster(_found(tables["latency"], "speed_up", method=own))
    yield from _better(quality)
    yield from _cheaper(cost)
    yield from _sooner(seconds)
    if drafted(material.fitted):
        yield from _drafter_aside(own, tables)
    small = _found(tables["latency"], "speed_up", method=f"always-{material.stages[0]}")
    yield "3.8 s an answer against 1.3 s", "seconds, largest over smallest alone", 3.8 / 1.3, "equal", small
    for name in ("differences", "differences_seconds"):
        rows = [row for row in _named(tables[name]) if row["method"] == own]
        worst = _MeasuredClaim(tables[name], max(_number(row["p_holm"]) for row in rows))
        what = "seconds" if name.endswith("seconds") else "quality and cost"
        about = f"largest p (Holm) of the policy's {len(rows)} comparisons in {what}"
        yield "all comparisons p < .001", about, 0.001, "lower", worst


def _drafter_aside(own: str, tables: Mapping[str, StudyTable]) -> Iterator[_Claim]:
    """The same against the largest stage with its own drafter: what the policy adds to lossless drafting."""
    largest = "the largest with its own drafter"
    cost = _difference(tables["differences"], own, DRAFTED, "cost")
    seconds = _difference(tables["differences_seconds"], own, DRAFTED, "seconds")
    yield from _faster(_found(tables["latency"], "speed_up_drafted", method=own), f" over {largest}")
    yield from _cheaper(cost, largest)
    yield from _sooner(seconds, largest)


def _faster(found: _MeasuredClaim, over: str = "") -> Iterator[_Claim]:
    for claimed in (6.2, 6.33):
        yield (
            f"{claimed:g}x faster than the largest",
            f"speed-up, total seconds{over}",
            claimed,
            "higher",
            found,
        )


def _cheaper(cost: _MeasuredClaim, largest: str = "the largest") -> Iterator[_Claim]:
    for claimed in (-71.0, -30.6, -28.0):
        yield f"cost {claimed:g} %", f"cost against {largest}, per cent", claimed, "lower", cost


def _sooner(seconds: _MeasuredClaim, largest: str = "the largest") -> Iterator[_Claim]:
    for claimed in (-57.2, -54.0):
        yield f"latency {claimed:g} %", f"seconds against {largest}, per cent", claimed, "lower", seconds


def _better(quality: _MeasuredClaim) -> Iterator[_Claim]:
    """From the difference to the largest model in per cent."""
    ends = (quality.low, quality.high)
    low, high = (None if end is None else 100.0 + end for end in ends)
    kept = replace(quality, value=100.0 + quality.value, low=low, high=high)
    yield "more than 95 % of quality kept", "quality, per cent of the largest's", 95.0, "higher", kept
    for claimed in (4.2, 2.3):
        yield f"quality +{claimed:g} %", "quality against the largest, per cent", claimed, "higher", quality


def _recorded(tables: Mapping[str, StudyTable]) -> Iterator[_Claim]:
    """The cascade on recorded models, all data sets together."""
    if "recorded" not in tables:
        return
    table = tables["recorded"]
    row = [row for row in _named(table) if row["method"] == CASCADE][-1]

    def found(column: str) -> _MeasuredClaim:
        return replace(_interval(table, row, column), on=table.measured_on, n=int(_number(row["n"])))

    if row["speed_up"] is not None:
        yield from _faster(found("speed_up"))
    if row["cost_percent"] is not None:
        yield from _better(found("quality_percent"))
        yield from _cheaper(found("cost_percent"))


def _mixture(material: Material, tables: Mapping[str, StudyTable]) -> Iterator[_Claim]:
    own = _row(tables["methods"], method=swept(material.fitted))
    for stage, claimed in zip(material.stages, MIXES.get(len(material.stages), ()), strict=False):
        found = _MeasuredClaim(tables["methods"], _number(own[f"share_{stage}"]))
        yield f"{claimed:.1%} answered by one stage", f"share answered by {stage}", claimed, "equal", found


def _foretold(tables: Mapping[str, StudyTable]) -> Iterator[_Claim]:
    """R^2 of the published network and of the published ensemble, from the prompt as published."""
    for predictor, claimed in (("mlp", 0.489), ("ensemble", 0.76)):
        row = _row(tables["predictors"], known="prompt", predictor=predictor)
        found = _MeasuredClaim(tables["predictors"], _number(row["r_squared"]))
        about = f"R^2 of predicted quality from the prompt, {predictor}, out of fold"
        yield f"R^2 {claimed:g} of the quality predictor ({predictor})", about, claimed, "higher", found


def _theory(tables: Mapping[str, StudyTable]) -> Iterator[_Claim]:
    for name in ("regret_simulated", "regret"):
        for row in _named(tables[name]) if name in tables else ():
            drifts = str(row["stream"]).startswith(DRIFTING)  # of which the theory does not speak
            if row["slope"] is not None and row["learner"] == "posterior sampling" and not drifts:
                found = replace(_interval(tables[name], row, "slope"), n=int(_number(row["rounds"])))
                about = f"log-log slope of regret over rounds, {row['stream']}"
                yield "regret O(sqrt(T log T))", about, _number(row["slope_sqrt_T_log_T"]), "lower", found
    for row in _named(tables["sample_slopes"]) if "sample_slopes" in tables else ():
        if row["slope_low"] is not None:  # a slope from too few draws for an interval decides nothing
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


def _difference(table: StudyTable, method: str, reference: str, metric: str) -> _MeasuredClaim:
    row = _row(table, method=method, reference=reference, metric=metric)
    value, low, high = (_number(row[name]) for name in ("percent", "low_percent", "high_percent"))
    return _MeasuredClaim(table, value, low, high)


def _found(table: StudyTable, column: str, **key: str) -> _MeasuredClaim:
    return _interval(table, _row(table, **key), column)


def _interval(table: StudyTable, row: Mapping[str, Value], column: str) -> _MeasuredClaim:
    value, low, high = (_number(row[name]) for name in (column, f"{column}_low", f"{column}_high"))
    return _MeasuredClaim(table, value, low, high)


def _row(table: StudyTable, **key: str) -> Mapping[str, Value]:
    for row in _named(table):
        if all(row[name] == value for name, value in key.items()):
            return row
    raise DataError(f"table {table.name!r} has no row of {key}")


def _named(table: StudyTable) -> Iterator[dict[str, Value]]:
    return (dict(zip(table.columns, row, strict=True)) for row in table.rows)


def _number(value: Value) -> float:
    if not isinstance(value, int | float):
        raise DataError(f"a claim needs a number, got {value!r}")
    return float(value)
