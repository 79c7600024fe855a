"""Two baselines: every digit of what is no time must be the same, and what is gone must have been retired."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner, Result

from asd.measurement.files import write_record
from asd.measurement.records import Metric, Run
from bench.gate.same import same
from tests.fabricated import baseline_of, change, fabricate, slower


@pytest.fixture(scope="module")
def run() -> Run:
    return fabricate(np.random.default_rng(0))


def compare(folder: Path, old: Run, new: Run) -> Result:
    paths = [folder / f"{name}.json" for name in ("old", "new")]
    for path, recorded in zip(paths, (old, new), strict=True):
        write_record(path, baseline_of(recorded), expand=3)
    return CliRunner().invoke(same, list(map(str, paths)))


def test_other_times_are_the_same_baseline(tmp_path: Path, run: Run):
    """A clock never says the same twice."""
    result = compare(tmp_path, run, change(run, "latency", "speedup", lambda _, m: slower(m, 1.3)))
    assert result.exit_code == 0, result.output
    assert result.output == "88 numbers of quality, cost and counts compared, 0 differences\n"


def test_the_last_digit_of_one_item_is_a_difference(tmp_path: Path, run: Run):
    """Even where the mean that is shown rounds to the same."""

    def edit(_: object, metric: Metric) -> Metric:
        items = np.array(metric.items)
        items[3] = np.nextafter(items[3], 9)
        return msgspec.structs.replace(metric, items=tuple(items.tolist()))

    result = compare(tmp_path, run, change(run, "cost", "cost", edit))
    assert result.exit_code == 1
    assert result.output.count("differs: cost[") == 44
    assert ", 1 of 150 items" in result.output


def test_a_value_without_items_is_compared_too(tmp_path: Path, run: Run):
    """Counts are bare values."""

    def count(value: float) -> Run:
        return change(run, "overhead", "decision_s", lambda *_: count_of(value))

    result = compare(tmp_path, count(1.0), count(float(np.nextafter(1.0, 2.0))))
    assert result.exit_code == 1
    assert "differs: overhead[optimal] tokens: 1.0 -> 1.0000000000000002" in result.output


@pytest.mark.parametrize(("factor", "exit_code"), [(1 + 1e-14, 0), (1 + 1e-8, 1)])
def test_a_summary_may_differ_in_the_last_places(tmp_path: Path, run: Run, factor: float, exit_code: int):
    """It was a metric of its own once, and what it is made of is compared to every digit."""
    old = change(run, "overhead", "decision_s", lambda *_: count_of(0.3))
    summed = msgspec.structs.replace(count_of(0.3 * factor), kind="summary")
    assert compare(tmp_path, old, change(run, "overhead", "decision_s", lambda *_: summed)).exit_code == (
        exit_code
    )


def count_of(value: float) -> Metric:
    return Metric(
        name="tokens", unit="tokens", kind="count", direction="lower", provenance="replayed",
        value=value, tolerance=0.0,
    )  # fmt: skip


def test_what_is_gone_must_have_been_retired(tmp_path: Path, run: Run):
    """By name; anything else that is not there any more is a difference."""
    p95 = Metric(
        name="p95_s", unit="s", kind="time", direction="lower", provenance="measured", value=1.0, tolerance=1
    )
    cells = tuple(
        msgspec.structs.replace(cell, metrics=(*cell.metrics, p95)) if cell.suite == "latency" else cell
        for cell in run.cells
    )
    result = compare(tmp_path, msgspec.structs.replace(run, cells=cells), run)
    assert result.exit_code == 0
    assert result.output.count("retired: latency[tiny-text-optimal-lam=1] p95_s\n") == 1
    back = compare(tmp_path, run, msgspec.structs.replace(run, cells=cells))
    assert back.exit_code == 0
    assert "new: latency[tiny-text-optimal-lam=1] p95_s" in back.output
    gone = msgspec.structs.replace(run, cells=run.cells[1:])
    lost = compare(tmp_path, run, gone)
    assert lost.exit_code == 1
    assert f"differs: {run.cells[0].id} quality: " in lost.output


def test_other_questions_are_a_difference(tmp_path: Path, run: Run):
    """The same numbers of other items are no evidence."""
    datasets = tuple(
        msgspec.structs.replace(d, digests=("e", *d.digests[1:])) if d.name == "tiny-text" else d
        for d in run.datasets
    )
    result = compare(tmp_path, run, msgspec.structs.replace(run, datasets=datasets))
    assert result.exit_code == 1
    assert "differs: the items of the data sets" in result.output
