"""The ladder's report card, on answers whose grades are known."""

import math
from pathlib import Path

import pytest
from click.testing import CliRunner

from asd.cli import main
from asd.prices import Prices
from asd.testing import FakeClock
from asd.tiny.evaluate import accuracy_by, confidence, ms_per_token
from asd.traces import read_header
from asd.types import Draft, Outcome, Query, Trace, Usage
from tests.priced import PricedDrafted, PricedEngine


def _trace(dataset, family, score, p):
    draft = Draft("S", "", (1, 2), (math.log(p) / 2,) * 2, True, Usage(3, 2, 2), 0.0)
    return Trace(Query("1", dataset, "q", tags={"family": family}), {"S": Outcome(draft, score)})


TRACES = [
    _trace("tiny-text", "sort", 1.0, 0.9),
    _trace("tiny-text", "sort", 0.0, 0.3),
    _trace("tiny-text", "close", 1.0, 0.6),
    _trace("tiny-unsolvable", "omen", 0.0, 0.99),
]


def test_accuracy_by_label_leaves_the_unsolvable_out_of_the_average():
    """Every label has its own row; the last row averages graded datasets only."""
    rows = {row[""]: (row["n"], row["S"]) for row in accuracy_by(TRACES, lambda q: q.tags["family"])}
    assert rows == {
        "sort": (2, 0.5),
        "close": (1, 1.0),
        "omen": (1, 0.0),
        "all graded": (3, pytest.approx(2 / 3)),
    }


def test_confidence_is_the_probability_of_the_whole_answer():
    """Ranking and calibration are of exp(sum of log-probabilities), graded datasets only."""
    report = confidence(TRACES)["S"]
    assert report.n == 3
    assert report.auroc == 1.0
    assert report.brier == pytest.approx((0.1**2 + 0.3**2 + 0.4**2) / 3)


def test_milliseconds_per_token():
    """All seconds of a pass over all decoded tokens."""
    clock = FakeClock()
    queries = [Query(id=str(n), dataset="d", prompt="xx") for n in (1, 2, 5)]
    speed = ms_per_token({"S": PricedEngine("S", Prices(1.0, 0.0, 3.0), clock)}, queries, clock=clock)
    assert speed["S"] == pytest.approx((3 * 1.0 + 8 * 3.0) / 8)


def test_milliseconds_per_token_are_of_the_stage_without_its_drafter():
    """What its own tokens take, however fast the two are together."""
    clock = FakeClock()
    largest = PricedDrafted("L", Prices(0.0, 0.0, 2.0), Prices(0.0, 0.0, 9.0), clock)
    speed = ms_per_token({"L": largest}, [Query(id="4", dataset="d", prompt="x")], clock=clock)
    assert speed["L"] == pytest.approx(9.0)


@pytest.mark.slow
def test_the_command_records_what_ran(tmp_path: Path):
    """Engine and dtype of every stage stand in its traces."""
    traces = tmp_path / "test.jsonl"
    found = CliRunner().invoke(
        main, ["tiny", "evaluate", "--limit", "4", "--timed", "1", "--traces", str(traces)]
    )
    assert found.exit_code == 0, found.output
    stages = read_header(traces).stages
    assert {name: stage.runtime for name, stage in stages.items()} == dict.fromkeys(
        "SML", "transformers float32"
    )
