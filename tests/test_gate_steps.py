"""Decode steps in another mode than the baseline's: what is compared, what is not, and what fails."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace as changed

from asd.measurement.files import read_record, write_record
from asd.measurement.records import HardwareKey, Run
from bench.gate.judge import judge
from bench.gate.store import read_baseline, record_baseline
from bench.gate.verdicts import Report, Verdict
from bench.run.summary import render
from tests.fabricated import KEY, OPTIONS, baseline_of, fabricate

GPU = changed(KEY, device="nvidia-h100", dtype="bfloat16")
GRAPH = {"S": "graph", "M": "graph", "L": "graph"}
BASELINES = Path(__file__).parents[1] / "baselines"
TIME, QUALITY = "latency[tiny-text-optimal-lam=1]", "quality[tiny-text-optimal-lam=1]"


def _run(modes: dict[str, str], hardware: HardwareKey = GPU, asked_eager: tuple[str, ...] = ()) -> Run:
    run = fabricate(np.random.default_rng(0), hardware)
    return changed(run, header=changed(run.header, step_modes=modes, asked_eager=asked_eager))


def _judged(before: Run, after: Run) -> Report:
    return judge(after, baseline_of(before), replace(OPTIONS, strict=True))


@pytest.mark.parametrize("modes", [{}, GRAPH, {"S": "compiled", "M": "eager"}])
def test_the_same_modes_are_compared(modes: dict[str, str]) -> None:
    """Whatever they are: the same run passes under --strict."""
    assert _judged(_run(modes), _run(modes)).exit_code == 0


def test_a_record_that_does_not_say_stepped_eagerly() -> None:
    """So a baseline of an earlier version is compared with an eager run of this one."""
    assert _judged(_run({}), _run(dict.fromkeys("SML", "eager"))).exit_code == 0


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ({}, GRAPH, "S eager -> graph, M eager -> graph, L eager -> graph"),
        (GRAPH, GRAPH | {"L": "compiled"}, "mode: L graph -> compiled"),
        ({}, {"S": "static"}, "mode: S eager -> static"),
    ],
)
def test_times_of_two_modes_are_not_compared(
    before: dict[str, str], after: dict[str, str], says: str
) -> None:
    """The reason names stages and modes; quality is judged all the same; only --strict fails."""
    report = _judged(_run(before), _run(after))
    assert report.of(TIME, "speedup").verdict is Verdict.CANNOT_JUDGE
    assert says in report.of(TIME, "speedup").note
    assert report.of(QUALITY, "quality").verdict is Verdict.PASS
    assert report.exit_code == 12
    assert judge(_run(after), baseline_of(_run(before)), OPTIONS).exit_code == 0


@pytest.mark.parametrize("was", ["graph", "compiled"])
@pytest.mark.parametrize("now", ["eager", "static"])
def test_a_silent_fallback_is_below_target(was: str, now: str) -> None:
    """A captured stage that is not any more fails the build, strict or not, by name; its speed is not
    compared."""
    report = judge(_run(GRAPH | {"M": now}), baseline_of(_run(GRAPH | {"M": was})), OPTIONS)
    (found,) = [finding for finding in report.findings if finding.verdict is Verdict.BELOW_TARGET]
    assert (found.metric, report.exit_code) == ("steps of M", 10)
    assert f"fell back to {now} steps, the baseline's are {was}" in found.note


def test_a_mode_that_was_asked_for_is_no_fallback() -> None:
    """graphs = "off" in the ladder: times cannot be judged, and that is all."""
    report = _judged(_run(GRAPH), _run(GRAPH | {"M": "eager"}, asked_eager=("M",)))
    assert {finding.verdict for finding in report.findings} == {Verdict.PASS, Verdict.CANNOT_JUDGE}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (_run(GRAPH), _run({"S": "eager"}, changed(GPU, device="nvidia-l4"))),
        (_run(GRAPH), _run({})),
        (_run({"S": "compiled"}), _run({"S": "graph"})),
    ],
)
def test_what_is_no_fallback(before: Run, after: Run) -> None:
    """Other hardware, a run whose engines were not opened, a graph that is not compiled first."""
    assert judge(after, baseline_of(before), OPTIONS).exit_code == 0


def test_a_recording_in_another_mode_says_so(tmp_path: Path) -> None:
    """Else a stage that is not captured any more would pass from then on without a word."""
    assert not record_baseline(tmp_path, _run(GRAPH), "first").moved
    assert not record_baseline(tmp_path, _run(GRAPH), "again").moved
    (said,) = record_baseline(tmp_path, _run(GRAPH | {"M": "eager"}), "once more").moved
    assert "M graph -> eager, than in the baseline that is replaced" in said


def test_modes_survive_the_file_and_are_shown(tmp_path: Path) -> None:
    """Written with the record, read from it, printed in the report."""
    run = _run(GRAPH | {"L": "eager"}, asked_eager=("L",))
    write_record(tmp_path / "run.json", run)
    assert read_record(tmp_path / "run.json", Run).header == run.header
    shown = render(run, judge(run, baseline_of(run), OPTIONS))
    assert "decode steps: S graph, M graph, L eager" in shown


def test_stored_baselines_are_read_as_eager() -> None:
    """They were recorded before there was another way."""
    paths = sorted(BASELINES.glob("cpu-*/*.json"))
    assert paths
    for path in paths:
        assert read_baseline(path).run.header.step_mode("L") == "eager"
