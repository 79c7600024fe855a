"""Resampled reruns: no alarms where nothing changed, alarms where something did, refusal without passes."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from asd.measurement.files import write_record
from asd.measurement.records import Run
from bench.alarms import Reruns, alarms, outcomes, upper_limit
from bench.gate.judge import RunOptions, judge
from bench.gate.store import Baseline, Target
from bench.gate.verdicts import Report
from tests import fabricated
from tests.fabricated import baseline_of, change, fabricate


@pytest.fixture(scope="module")
def baseline() -> Baseline:
    """Nine passes, as recordings have them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fabricated, "N_PASSES", 9)
        run = fabricate(np.random.default_rng(0))
    target = Target(cell="latency[tiny-text-optimal-lam=50]", metric="speedup", least=1.0)
    return baseline_of(run, target)


def reruns(baseline: Baseline, state: float = 0.05) -> Reruns:
    return Reruns(baseline, np.random.default_rng(0), state)


@pytest.mark.slow
def test_unchanged_builds_raise_no_alarm_and_slow_ones_do(baseline: Baseline):
    """A seeded small version of the thousand runs that the command makes."""
    assert outcomes(reruns(baseline), 20).n_alarms == 0
    assert outcomes(reruns(baseline), 5, slowdown=1.0).n_alarms == 5


def test_a_rerun_is_another_draw_every_time_and_the_same_for_a_seed(baseline: Baseline):
    """Other seconds, the same answers."""
    first, other = reruns(baseline), reruns(baseline)
    report = first.judge()
    assert report == other.judge()
    assert report != first.judge()
    cost = [finding for finding in report.findings if finding.metric in ("quality", "cost")]
    assert {finding.verdict for finding in cost} == {"PASS"}
    assert {f.loss for f in report.findings if f.metric == "speedup"} != {None}


@pytest.mark.parametrize("n_passes", [2, 3])
def test_a_rerun_begins_with_as_many_passes_as_asked(
    baseline: Baseline, monkeypatch: pytest.MonkeyPatch, n_passes: int
) -> None:
    """And goes on by three where something is undecided, as a run does."""
    judged: list[int] = []

    def seen(run: Run, stored: Baseline, options: RunOptions) -> Report:
        judged.append(run.n_passes)
        return judge(run, stored, options)

    monkeypatch.setattr("bench.alarms.judge", seen)
    rerun = Reruns(baseline, np.random.default_rng(0), 0.3, n_passes)
    while len(judged) < 2:
        judged.clear()
        rerun.judge(0.15)
    assert judged[:2] == [n_passes, n_passes + 3]


def test_the_state_of_the_machine_moves_all_ratios_of_a_data_set(baseline: Baseline):
    """Without jitter nothing else is left: each data set has one loss for all its lambdas."""
    calm = change(
        baseline.run, "latency", "speedup",
        lambda _, m: msgspec.structs.replace(m, samples=(m.samples[0],) * 9, reference=(m.reference[0],) * 9),
    )  # fmt: skip
    report = Reruns(baseline_of(calm), np.random.default_rng(0), 0.05).judge()
    losses = {f.cell: f.loss.estimate for f in report.findings if f.metric == "speedup" and f.loss}
    of_text = [loss for cell, loss in losses.items() if "tiny-text" in cell]
    assert len(of_text) > 1
    assert of_text == pytest.approx([of_text[0]] * len(of_text))
    assert len({round(loss, 9) for loss in losses.values()}) == 5  # four data sets, and all together


def test_a_target_is_judged_by_the_value_of_the_rerun(baseline: Baseline):
    """A hundred times slower is below a target that the recorded value meets."""
    report = reruns(baseline).judge(slowdown=99.0)
    assert "BELOW_TARGET" in {finding.verdict for finding in report.findings}


@pytest.mark.parametrize(("events", "runs", "limit"), [(0, 1000, 0.00299), (3, 1000, 0.00773), (2, 2, 1.0)])
def test_upper_limits_are_those_of_clopper_and_pearson(events: int, runs: int, limit: float):
    """None of a thousand: 1 - .05^(1/1000)."""
    assert upper_limit(events, runs) == pytest.approx(limit, rel=1e-2)


def test_the_command_prints_the_limit_and_fails_where_it_is_too_high(baseline: Baseline, tmp_path: Path):
    """Two runs without an alarm leave a rate of 78 % possible."""
    path = tmp_path / "tiny.json"
    write_record(path, baseline, expand=3)
    result = CliRunner().invoke(alarms, [str(path), "--runs", "2", "--slow-runs", "0", "--state", "0"])
    assert result.exit_code == 1
    assert "0 false alarms, a rate of at most 77.64% with 95 % confidence" in result.output


def test_a_baseline_without_passes_is_refused(baseline: Baseline, tmp_path: Path):
    """There is nothing to draw from."""
    cells = tuple(cell for cell in baseline.run.cells if cell.suite in ("quality", "cost"))
    path = tmp_path / "tiny.json"
    write_record(path, baseline_of(msgspec.structs.replace(baseline.run, cells=cells)), expand=3)
    result = CliRunner().invoke(alarms, [str(path)])
    assert result.exit_code == 1
    assert "record it again" in result.output
