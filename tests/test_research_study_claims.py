"""The published claims: what counts as holding, and that nothing is said of what was not measured."""

from __future__ import annotations

from dataclasses import replace

import pytest

from asd.errors import DataError
from asd.research.study.claims import UNDER_LOAD, UNMEASURED, claims_table, verdict
from asd.research.study.record import Study, StudyTable, Value
from asd.research.study.recorded import CASCADE
from asd.types import Provenance
from tests.conducted import material
from tests.studies import study

ENDS = ("", "_low", "_high")


@pytest.mark.parametrize(
    ("claimed", "better", "here", "expected"),
    [
        (6.2, "higher", (7.0, 6.5, 7.5), "yes"),
        (6.2, "higher", (7.0, 6.0, 7.5), "undecided"),
        (6.2, "higher", (5.0, 4.0, 6.0), "no"),
        (-71.0, "lower", (-80.0, -85.0, -75.0), "yes"),
        (-71.0, "lower", (-70.0, -75.0, -65.0), "undecided"),
        (-71.0, "lower", (-60.0, -65.0, -55.0), "no"),
        (0.001, "lower", (0.0005, None, None), "yes"),
        (0.76, "higher", (0.3, None, None), "no"),
        (0.52, "equal", (0.56, None, None), "yes"),
        (0.52, "equal", (0.60, None, None), "no"),
    ],
)
def test_a_claim_holds_where_the_whole_interval_is_as_good(claimed, better, here, expected) -> None:  # type: ignore[no-untyped-def]
    """No where all of it is worse, undecided between; values within a tenth."""
    assert verdict(claimed, better, *here) == expected


def table(name: str, rows: list[dict[str, Value]], provenance: Provenance = "replayed") -> StudyTable:
    return StudyTable(
        name=name, title=name, provenance=provenance, measured_on="made up", n=100,
        columns=tuple(rows[0]), rows=tuple(tuple(row.values()) for row in rows),
    )  # fmt: skip


def around(name: str, value: float, spread: float) -> dict[str, Value]:
    ends = (value, value - spread, value + spread)
    return {f"{name}{end}": x for end, x in zip(ENDS, ends, strict=True)}


def difference(metric: str, percent: float, p_holm: float, reference: str = "always-L") -> dict[str, Value]:
    head = {"method": "optimal-verified", "reference": reference, "metric": metric, "percent": percent}
    return {**head, "low_percent": percent - 1, "high_percent": percent + 1, "p_holm": p_holm}


def tables() -> dict[str, StudyTable]:
    """What a study would hand over; the cascade twice as fast, 40 % cheaper, 2 % worse."""
    speeds = [
        {"method": m, **around("speed_up", x, 0.1), **around("speed_up_drafted", x / 2, 0.1)}
        for m, x in (("optimal-verified", 2.0), ("always-S", 9.0))
    ]
    methods = [{"method": "optimal-verified", "share_S": 0.7, "share_L": 0.3}]
    predictors = [{"known": "prompt", "predictor": name, "r_squared": 0.2} for name in ("mlp", "ensemble")]
    found = (
        table("latency", speeds, "measured"),
        table("methods", methods),
        table(
            "differences",
            [
                difference("quality", -2.0, 0.4),
                difference("cost", -40.0, 1e-9),
                difference("cost", -10.0, 1e-9, "drafted"),
            ],
        ),
        table(
            "differences_seconds",
            [difference("seconds", -60.0, 1e-9), difference("seconds", -20.0, 1e-9, "drafted")],
            "measured",
        ),
        table("predictors", predictors),
    )
    return {one.name: one for one in found}


def claims(told: dict[str, StudyTable], day: Study | None = None) -> list[dict[str, Value]]:
    found = claims_table(replace(material(), day=day), told)
    return [dict(zip(found.columns, row, strict=True)) for row in found.rows]


@pytest.mark.slow
def test_claims_are_read_off_the_tables() -> None:
    """With the interval, the provenance and the verdict that follow from them."""
    rows = claims(tables())
    by = {row["claim"]: row for row in rows if "with its own drafter" not in str(row["quantity"])}
    fast = by["6.2x faster than the largest"]
    assert (fast["here"], fast["low"], fast["provenance"], fast["holds"]) == (2.0, 1.9, "measured", "no")
    kept = by["more than 95 % of quality kept"]
    assert (kept["here"], kept["low"], kept["high"], kept["holds"]) == (98.0, 97.0, 99.0, "yes")
    assert (by["cost -71 %"]["holds"], by["cost -28 %"]["holds"]) == ("no", "yes")
    assert by["cost -28 %"]["provenance"] == "replayed"
    p = [row for row in rows if row["claim"] == "all comparisons p < .001"]
    assert [(row["here"], row["holds"]) for row in p] == [(0.4, "no"), (1e-9, "yes")]


@pytest.mark.slow
def test_what_the_drafter_gives_is_not_claimed_for_the_policy() -> None:
    """Every claim against the largest stage is also held against it with its own drafter."""
    rows = [row for row in claims(tables()) if "with its own drafter" in str(row["quantity"])]
    assert [(row["claim"], row["here"], row["holds"]) for row in rows] == [
        ("6.2x faster than the largest", 1.0, "no"),
        ("6.33x faster than the largest", 1.0, "no"),
        *((f"cost {claimed} %", -10.0, "no") for claimed in ("-71", "-30.6", "-28")),
        *((f"latency {claimed} %", -20.0, "no") for claimed in ("-57.2", "-54")),
    ]


@pytest.mark.slow
def test_nothing_is_said_of_what_was_not_measured() -> None:
    """Load, uptime and labelled domains have neither a number nor a verdict; for a load, how to get them."""
    rows = {row["claim"]: row for row in claims(tables())}
    for claim, *_ in UNDER_LOAD:
        assert "asd study --day DIR" in str(rows[claim]["on"])
    for claim, *_ in (*UNMEASURED, *UNDER_LOAD):
        row = rows[claim]
        assert row["here"] is row["low"] is row["n"] is None
        assert row["provenance"] == row["holds"] == "not measured"


def day_of(*seen: tuple[float | None, bool | None]) -> Study:
    """A folder of `asd day`, as far as a study reads it."""
    told = [
        {"claim": claim, "quantity": quantity, "claimed": claimed, "here": here, "holds": holds}
        for (claim, quantity, claimed), (here, holds) in zip(UNDER_LOAD, seen, strict=True)
    ]
    return study("claims", extra=[table("claims", told, "simulated")])


def test_a_day_answers_the_claims_about_load() -> None:
    """With its own numbers, verdicts and provenance; a load without an answer has no verdict."""
    seen = (1.5, False), (-20.0, True), (None, None)
    rows = {row["claim"]: row for row in claims(tables(), day_of(*seen))}
    found = [rows[claim] for claim, *_ in UNDER_LOAD]
    assert [(row["here"], row["holds"]) for row in found] == [(1.5, "no"), (-20.0, "yes"), (None, "no data")]
    assert {row["provenance"] for row in found} == {"simulated"}
    assert {row["on"] for row in found} == {"ladder made-up, made up"}
    assert [row["claimed"] for row in found] == [claimed for *_, claimed in UNDER_LOAD]
    assert rows[UNMEASURED[0][0]]["holds"] == "not measured"


@pytest.mark.slow
def test_recorded_models_have_rows_of_their_own() -> None:
    """Beside the ladder's, naming whose outcomes they are; seconds only where seconds were recorded."""
    cascade = {
        "method": CASCADE,
        "n": 300,
        **around("quality_percent", -3.0, 1.0),
        **around("cost_percent", -75.0, 2.0),
    }
    with_seconds = table("recorded", [cascade | around("speed_up", 7.0, 0.5)])
    rows = [row for row in claims({**tables(), "recorded": with_seconds}) if row["on"] == "made up"]
    assert {row["n"] for row in rows} == {300}
    assert {row["claim"]: row["holds"] for row in rows} == {
        "6.2x faster than the largest": "yes",
        "6.33x faster than the largest": "yes",
        "more than 95 % of quality kept": "yes",
        "cost -71 %": "yes",
        "cost -30.6 %": "yes",
        "cost -28 %": "yes",
        "quality +4.2 %": "no",
        "quality +2.3 %": "no",
    }
    none = dict.fromkeys((f"speed_up{end}" for end in ENDS), None)
    rows = claims({**tables(), "recorded": table("recorded", [cascade | none])})
    assert not [row for row in rows if row["on"] == "made up" and "faster" in str(row["claim"])]


def test_a_slope_without_an_interval_decides_no_claim() -> None:
    """Too few draws give a number in the table, and no verdict."""
    known = {"trained": "tables", **around("slope", -0.7, 0.1), "slope_theory": -0.5}
    rough = {
        "trained": "whole fit",
        "slope": -0.9,
        "slope_low": None,
        "slope_high": None,
        "slope_theory": -0.5,
    }
    rows = claims({**tables(), "sample_slopes": table("sample_slopes", [known, rough])})
    found = [row for row in rows if row["claim"] == "O(1/eps^2) queries suffice"]
    assert [(row["here"], row["holds"]) for row in found] == [(-0.7, "yes")]


def test_a_table_without_the_row_is_an_error() -> None:
    """A claim is never filled in from something else."""
    told = tables()
    told["latency"] = table("latency", [{"method": "always-S", **around("speed_up", 9.0, 1.0)}], "measured")
    with pytest.raises(DataError, match="'latency' has no row"):
        claims(told)
