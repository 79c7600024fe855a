"""Recorded outcomes at measured prices: what single calls cost by hand, what the plan says of a ladder."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from asd.cli import main
from asd.errors import DataError
from asd.prices import Prices, Timing, write_prices
from asd.research import planning
from asd.research.offline.curves import sweep
from asd.research.offline.replay import ours
from asd.research.planning import plan
from asd.research.recordings.calls import read_priced
from asd.research.recordings.recording import Recording
from tests.recordings import records, write

SMALL, LARGE = Prices(1.0, 0.01, 2.0, 0.02), Prices(3.0, 0.1, 20.0, 0.2)
TIMING = Timing(
    card="H100", date="2026-01-31", dtype="bfloat16", step_modes={"7B": "graph"}, modelled={1: ("72B",)}
)


def _query(i: int, drafted: str, written: str, *, n_small: int = 4, n_large: int = 10) -> dict[str, Any]:
    outputs = {
        "small": {"score": 0, "response": drafted, "tokens_in": 30, "tokens_out": n_small},
        "large": {"score": 1, "response": written, "tokens_in": 50, "tokens_out": n_large},
    }
    return {"id": f"q{i}", "dataset": "d", "prompt": f"p{i}", "outputs": outputs}


def _priced(tmp_path: Path, *rows: dict[str, Any]):
    return read_priced([write(tmp_path / "rows.jsonl", rows)], {"small": SMALL, "large": LARGE})


def test_a_call_costs_its_tokens(tmp_path: Path) -> None:
    """Per call, per prompt token and per decoded one, whatever costs were recorded."""
    row = _query(0, "a", "b")
    row["outputs"]["small"]["cost"] = 99.0
    priced = _priced(tmp_path, row)
    assert priced.rows.costs.tolist() == [[1 + 30 * 0.01 + 4 * 2, 3 + 50 * 0.1 + 10 * 20]]
    assert priced.n_tokens == {"small": (30.0, 4.0), "large": (50.0, 10.0)}


@pytest.mark.parametrize(
    ("drafted", "written", "n_left"),
    [
        ("0123456789", "0123456789", 0),  # the same answer: nothing is left to write
        ("01234xxxxx", "0123456789", 5),
        ("01234", "0123456789", 5),
        ("01234567890000", "0123456789", 1),  # it ends where the draft goes on: its last token differs
        ("x123456789", "0123456789", 10),
        ("", "0123456789", 10),
        ("0123", "", 9),  # the larger model said nothing readable
    ],
)
def test_a_drafted_answer_costs_draft_reading_and_the_rest(
    tmp_path: Path, drafted: str, written: str, n_left: int
) -> None:
    """One pass reads prompt and draft and yields the first token that is not accepted."""
    priced = _priced(tmp_path, _query(0, drafted, written))
    reading = 3 + 50 * 0.1 + 4 * 0.2 + 20
    writing = 3 + (n_left - 1) * 20 if n_left else 0
    if written == "":
        n_left, writing = 10, 3 + 9 * 20
    assert priced.drafted["small"][0] == pytest.approx(1 + 30 * 0.01 + 4 * 2 + reading + writing)


@pytest.mark.parametrize("missing", ["tokens_in", "tokens_out"])
def test_calls_without_counts_have_no_price(tmp_path: Path, missing: str) -> None:
    """The model and the remedy are named; nothing is made up."""
    row = _query(0, "a", "b")
    del row["outputs"]["large"][missing]
    with pytest.raises(DataError, match=rf"answer of 'large' were not recorded.*{missing} None"):
        _priced(tmp_path, row)


def _recorded(n: int, quality: tuple[float, float], seed: int = 0) -> list[dict[str, Any]]:
    rows = records(n, seed, stages=("small", "large"), quality=quality, cost=(1.0, 9.0))
    for i, row in enumerate(rows):
        for k, output in enumerate(row["outputs"].values()):
            output |= {"tokens_in": 40 + i % 7, "tokens_out": 5 + 3 * k + i % 3}
    return rows


@pytest.mark.slow
def test_the_plan_compares_with_the_largest_stage_alone(tmp_path: Path) -> None:
    """That costs all of itself; lossless keeps its quality to the digit; what is asked is nearly delivered,
    for less."""
    priced = read_priced(
        [write(tmp_path / "r.jsonl", _recorded(90, (0.75, 0.9)))], {"small": SMALL, "large": LARGE}
    )
    found = plan(priced, ("7B", "72B"), "today", TIMING, 1)
    alone, lossless, at_99, at_95 = found.settings
    assert (alone.relative_quality, alone.cost, alone.cost_interval.low) == (1.0, 1.0, 1.0)
    assert alone.seconds == pytest.approx(priced.rows.costs[:, 1].mean() / 1e3)
    assert (lossless.quality, lossless.answered) == (alone.quality, {"small": 0.0, "large": 1.0})
    assert at_95.cost < at_99.cost <= 1.0
    assert at_99.relative_quality > 0.96
    assert at_95.relative_quality > 0.92
    assert [stage.quality for stage in found.stages] == priced.rows.scores.mean(axis=0).tolist()
    assert alone.p95_s == pytest.approx(np.quantile(priced.rows.costs[:, 1], 0.95) / 1e3)
    assert [stage.priced for stage in found.stages] == ["timed, graph steps", "modelled"]
    assert (found.provenance, found.n_queries) == ("replayed x timing-only", 90)


@pytest.mark.slow
def test_settings_are_fitted_on_other_queries_than_they_are_delivered_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every fold those that it leaves out, and each query is left out once."""
    seen: list[set[tuple[str, str]]] = []
    delivered: list[set[tuple[str, str]]] = []
    best = ours(2)

    def fit(rows: Recording) -> Any:
        seen.append(set(rows.keys))
        return best.fit(rows)

    def swept(fitted: Any, rows: Recording, lams: Any) -> Any:
        delivered.append(set(rows.keys))
        return sweep(fitted, rows, lams)

    monkeypatch.setattr(planning, "ours", lambda _: SimpleNamespace(fit=fit))
    monkeypatch.setattr(planning, "sweep", swept)
    path = write(tmp_path / "r.jsonl", _recorded(60, (0.75, 0.9)))
    plan(read_priced([path], {"small": SMALL, "large": LARGE}), ("7B", "72B"), "today", TIMING, 1)
    assert [len(each) for each in seen] == [48] * 5
    assert [len(each) for each in delivered] == [12] * 5
    assert not any(a & b for a, b in zip(seen, delivered, strict=True))


@pytest.mark.slow
def test_a_small_stage_that_is_as_good_answers_alone(tmp_path: Path) -> None:
    """Nothing is paid to a stage that adds nothing."""
    rows = _recorded(120, (0.8, 0.8))
    for row in rows:
        row["outputs"]["large"]["score"] = row["outputs"]["small"]["score"]
    priced = read_priced([write(tmp_path / "r.jsonl", rows)], {"small": SMALL, "large": LARGE})
    found = plan(priced, ("7B", "72B"), "today", None, 1)
    assert (found.provenance, found.stages[1].priced) == ("replayed x measured prices", "measured")
    asked = found.settings[2]
    assert asked.answered["small"] == 1.0
    assert asked.cost == pytest.approx(priced.rows.costs[:, 0].mean() / priced.rows.costs[:, 1].mean())


def test_too_few_queries_fit_nothing(tmp_path: Path) -> None:
    """As many as are needed are named."""
    priced = read_priced(
        [write(tmp_path / "r.jsonl", _recorded(20, (0.6, 0.9)))], {"small": SMALL, "large": LARGE}
    )
    with pytest.raises(DataError, match="20 queries were answered by all; 50 are needed"):
        plan(priced, ("7B", "72B"), "today", TIMING, 1)


def _table(tmp_path: Path, unit: str = "ms") -> Path:
    path = tmp_path / "prices.json"
    prices = {"7B": SMALL, "72B": LARGE}
    write_prices(path, {1: prices, 4: prices}, unit, "2026-01-31 on H100", TIMING)
    return path


def _run(tmp_path: Path, *more: str, stages: str = "small=7B,large=72B", unit: str = "ms") -> Result:
    rows = write(tmp_path / "r.jsonl", _recorded(60, (0.7, 0.9)))
    table = _table(tmp_path, unit)
    return CliRunner().invoke(main, ["plan", str(rows), "--prices", str(table), "--stages", stages, *more])


@pytest.mark.slow
def test_the_command_prints_what_it_writes_and_labels_it(tmp_path: Path) -> None:
    """Every setting, the stage that was not timed, and where the numbers are from."""
    done = _run(tmp_path, "--json", str(tmp_path / "plan.json"))
    assert done.exit_code == 0, done.output
    written = json.loads((tmp_path / "plan.json").read_text())
    assert [setting["name"] for setting in written["settings"]] == [
        "large alone", "lossless, small drafts", "asked 99%", "asked 95%"
    ]  # fmt: skip
    assert all(setting["name"] in done.output for setting in written["settings"])
    assert "modelled" in done.output
    assert "provenance: replayed x timing-only; prices at batch 1: 2026-01-31 on H100" in done.output


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"stages": "small=7B"}, "name two or more different models"),
        ({"stages": "small=7B,small=72B"}, "name two or more different models"),
        ({"stages": "small,large=72B"}, "has no prices of small; there are 7B, 72B"),
        ({"stages": "tiny=7B,large=72B"}, "no outcome of tiny"),
        ({"unit": "declared"}, "prices in declared, not ms"),
        ({"batch": "16"}, "no prices at batch 16; there are those at batch 1, 4"),
        ({"prices": "none.json"}, "cannot read the price file none.json"),
    ],
)
def test_wrong_requests_end_with_one_line(tmp_path: Path, more: dict[str, str], says: str) -> None:
    """Exit code 2, naming the value and what there is."""
    options = [part for name in ("batch", "prices") if name in more for part in (f"--{name}", more[name])]
    named = {name: text for name, text in more.items() if name in ("stages", "unit")}
    done = _run(tmp_path, *options, **named)
    assert (done.exit_code, says in done.output) == (2, True), done.output
