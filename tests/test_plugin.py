"""The plugin end to end, on a small harness of its own: options, verdicts, exit codes, silence elsewhere."""

from pathlib import Path

import pytest

from asd.ladder import PRESETS
from asd.measurement.files import read_record
from asd.measurement.records import Run
from bench.gate.store import Baseline
from bench.gate.verdicts import CANNOT_RUN
from tests.minibench import make, record, run

pytest_plugins = ["pytester"]

TINY = PRESETS.parent / "tiny"

CLOCKED = """
def test_clock(clocked):
    clocked([0.5, 0.25, 0.75], lam=2.0)
"""


@pytest.fixture
def harness(pytester: pytest.Pytester) -> pytest.Pytester:
    """A checkout with a small harness of its own."""
    return make(pytester)


@pytest.fixture
def recorded(harness: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """The same with a baseline."""
    return record(harness, monkeypatch)


def test_a_baseline_is_recorded_with_its_reason(recorded: pytest.Pytester):
    """The file holds the reason, the ids, and the items of every dataset."""
    [path] = recorded.path.glob("stored/*/mine.json")
    baseline = read_record(path, Baseline)
    assert baseline.reason == "first"
    assert {cell.id for cell in baseline.run.cells} == {
        f"quality[{dataset}-optimal-lam={lam}]"
        for lam in ("0.5", "2")
        for dataset in ("tiny-text", "tiny-lookup")
    }
    assert [len(dataset.items) for dataset in baseline.run.datasets] == [20, 20]


def test_an_unchanged_run_passes_and_shows_the_table(recorded: pytest.Pytester):
    """One row a dataset and lambda, and the line with the verdict."""
    result = run(recorded, "bench", "--strict")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        ["tiny-text*optimal*0.5*1.000*1.000*+0.000*PASS", "gate: PASS (exit code 0)*"]
    )


def test_the_verdict_stands_below_the_table_of_times(recorded: pytest.Pytester):
    """The end of a log is what is kept of it; only pytest's own last line comes after the verdict."""
    recorded.makepyfile(**{"bench/test_clock.py": CLOCKED})
    lines = [line for line in run(recorded, "bench").stdout.lines if line.strip()]
    assert any(line.startswith("Name (time in") for line in lines)
    assert lines[-2].startswith("gate: PASS")


@pytest.mark.parametrize(
    ("environment", "args", "code", "words"),
    [
        ({"RIGHT": "10"}, ["bench"], 10, "gate: REGRESSED (exit code 10)*"),
        ({"SKIP": "1"}, ["bench"], 11, "gate: MISSING (exit code 11)*"),
        ({"RIGHT": "0"}, ["bench"], 1, "gate: REGRESSED*"),
        ({}, ["bench", "-k", "text"], 0, "gate: PARTIAL (exit code 0)*"),
        ({}, ["bench", "-k", "text", "--strict"], 13, "gate: PARTIAL (exit code 13)*"),
        ({}, ["bench/test_quality.py"], 0, "gate: PARTIAL (exit code 0)*"),
        ({}, ["bench", "--lam=0.5"], 0, "gate: PASS (exit code 0)*"),
        ({}, ["bench", "--lam=1", "--strict"], 12, "gate: CANNOT_JUDGE (exit code 12)*"),
        ({}, ["bench", "--baselines=elsewhere", "--strict"], 12, "gate: CANNOT_JUDGE (exit code 12)*"),
        ({}, [".", "--strict"], 0, "gate: PASS (exit code 0)*"),
    ],
)
def test_exit_codes(
    recorded: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    args: list[str],
    code: int,
    words: str,
):
    """Each ending has its code; a failed test keeps pytest's 1, and is judged all the same."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    result = run(recorded, *args)
    assert result.ret == code
    result.stdout.fnmatch_lines([words])


def test_a_damaged_baseline_cannot_be_judged_by(recorded: pytest.Pytester):
    """The message names the file; the code is that of a run that cannot be judged."""
    [path] = recorded.path.glob("stored/*/mine.json")
    path.write_text(path.read_text()[:300])
    result = run(recorded, "bench")
    assert result.ret == 12
    result.stdout.fnmatch_lines(["gate: cannot judge this run: *mine.json cannot be read*"])


@pytest.mark.parametrize("args", [["tests"], ["bench", "-k", "nothing"], ["bench", "--collect-only"]])
def test_the_gate_is_silent_where_nothing_is_measured(recorded: pytest.Pytester, args: list[str]):
    """Own tests, empty selections and listings are none of its business."""
    result = run(recorded, *args)
    assert result.ret in (0, 5)
    result.stdout.no_fnmatch_line("gate:*")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--lam=-1"], "*--lam -1: lambda must be finite and not negative*"),
        (["--lam=nan"], "*--lam nan: lambda must be finite*"),
        (["--lam=inf"], "*--lam inf: lambda must be finite*"),
        (["--lam=a"], "*--lam a: give numbers separated by commas*"),
        (["--lam=1,1"], "*--lam 1,1: a lambda is given twice*"),
        (["--ladder=nope"], "*no ladder named 'nope'*"),
        (["--datasets=nope"], "*unknown dataset 'nope'*"),
        (
            ["--engine=nope"],
            "*--engine (also: replay): no engine named 'nope'; there are transformers, *",
        ),
        (["--limit=0"], "*--limit 0: give at least 1*"),
        (["--batch=0"], "*--batch 0: give at least 1*"),
        (["--record-baseline"], "*--record-baseline wants a reason*"),
        (["--reason=because"], "*give --record-baseline as well*"),
        (["--require-gpu"], "*--require-gpu contradicts --device cpu*"),
        (["--ladder=qwen2.5", "--device=cuda"], "*no GPU*"),
        (["bench", "-k", "text", "--record-baseline", "--reason=r"], "*recorded from a whole run*"),
    ],
)
def test_wrong_options_are_usage_errors(harness: pytest.Pytester, args: list[str], message: str):
    """Exit code 4 and one line that names the value, before anything runs."""
    result = run(harness, *args)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])


def test_a_ladder_without_a_policy_is_a_usage_error(harness: pytest.Pytester):
    """Only the embedded ladder ships with one."""
    result = harness.runpytest_inprocess("-p", "bench.plugin", "--ladder=mine.toml")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*ladder mine comes without a policy*"])


@pytest.mark.parametrize("more", [[], ["--plan"], ["--strict"]])
def test_a_gpu_that_is_required_and_not_there(
    harness: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, more: list[str]
):
    """The run ends before anything else is looked at: neither data nor policy are missed first."""
    monkeypatch.setattr("bench.run.harness.accelerators", tuple)
    wanted = ("--ladder=qwen2.5-3", "--engine=vllm", "--datasets=mmlu,gsm8k", "--require-gpu", *more)
    result = harness.runpytest_inprocess("-p", "bench.plugin", "bench", *wanted)
    assert result.ret == CANNOT_RUN
    result.stderr.fnmatch_lines(["*cannot run: --require-gpu: this machine has no GPU*"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("policy", "why"),
    [("none.json", "none.json does not exist"), (str(TINY / "policy.json"), "fitted on ladder 'tiny'")],
)
def test_a_run_that_no_suite_could_make(harness: pytest.Pytester, policy: str, why: str):
    """A policy that is missing or another ladder's ends the run with one message, not every test with it."""
    harness.makepyfile(**{"bench/test_two.py": "def test_a(session): pass\ndef test_b(session): pass"})
    result = run(harness, "bench/test_two.py", f"--policy={policy}")
    assert result.ret == CANNOT_RUN
    result.stdout.fnmatch_lines([f"*Exit: cannot run: *{why}*"])
    result.assert_outcomes()


def test_a_cut_down_run_is_no_baseline(harness: pytest.Pytester):
    """--limit gives a look, not a reference."""
    result = run(harness, "bench", "--record-baseline", "--reason=r")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert not (harness.path / "stored").exists()


def test_a_baseline_is_not_recorded_from_failed_tests(
    recorded: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
):
    """What failed is not what later runs should be like."""
    [path] = recorded.path.glob("stored/*/mine.json")
    before = path.read_text()
    monkeypatch.setenv("RIGHT", "0")
    result = run(recorded, "bench", "--record-baseline", "--reason=worse")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*no baseline was recorded*"])
    assert path.read_text() == before


def test_the_record_of_the_run_is_written_on_request(harness: pytest.Pytester):
    """--json-out holds the run, whatever the verdict."""
    run(harness, "bench", "--json-out=run.json")
    record = read_record(harness.path / "run.json", Run)
    assert record.header.ladder.name == "mine"
    assert set(record.header.ladder.models) == {"S", "L"}
    assert len(record.cells) == 4


def test_the_report_is_written_as_markdown_on_request(recorded: pytest.Pytester):
    """--markdown-out holds the table and the verdict, for the summary page of a CI job."""
    run(recorded, "bench", "--markdown-out=summary.md")
    text = (recorded.path / "summary.md").read_text()
    assert text.startswith("## mine on cpu-")
    assert "| tiny-text " in text
    assert "- gate: PASS (exit code 0)" in text


def test_a_plan_runs_nothing(harness: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    """Ids, placement, memory and time; no test is executed."""
    monkeypatch.setenv("RIGHT", "0")
    result = run(harness, "bench", "--plan")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "ladder mine on cpu-*",
            "S *cpu*GiB",
            "time: about * minutes*",
            "bench/test_quality.py::test_quality*",
        ]
    )
    result.stdout.no_fnmatch_line("*passed*")


def test_measured_seconds_reach_pytest_benchmark(harness: pytest.Pytester, tmp_path: Path):
    """Table and JSON of pytest-benchmark show the seconds of the interleaved passes."""
    harness.makepyfile(**{"bench/test_clock.py": CLOCKED})
    run(harness, "bench/test_clock.py", f"--benchmark-json={tmp_path / 'times.json'}")
    times = (tmp_path / "times.json").read_text().replace(" ", "").replace("\n", "")
    assert '"data":[0.5,0.25,0.75]' in times
    assert '"extra_info":{"lam":2.0}' in times


def test_hypothesis_tests_are_marked_as_properties(pytester: pytest.Pytester):
    """By machinery: nobody has to remember the mark."""
    conftest = (Path(__file__).parent.parent / "conftest.py").read_text()
    pytester.makeconftest(conftest)
    pytester.makeini("[pytest]\nmarkers = property: checked by hypothesis")
    pytester.makepyfile(
        """
        from hypothesis import given, strategies as st

        @given(st.integers())
        def test_property(n):
            pass

        def test_example():
            pass
        """
    )
    result = pytester.runpytest_inprocess("-m", "property", "--device=cpu")
    result.assert_outcomes(passed=1, deselected=1)


WARNS = """
import warnings

def test_of_a_dependency():
    warnings.warn_explicit("renamed", FutureWarning, "decoding.py", 1, module="asd.engines.hf.decoder")
    warnings.warn_explicit("unknown key", UserWarning, "x.py", 1, module="transformers.models")
    warnings.warn_explicit("lazy modules", UserWarning, "x.py", 1, module="asd.engines.hf.model")

def test_of_our_own():
    warnings.warn_explicit("overflow", RuntimeWarning, "cells.py", 1, module="bench.metrics.cells")

def test_of_our_own_that_is_no_arithmetic():
    warnings.warn_explicit("odd", UserWarning, "cascade.py", 1, module="asd.cascade")
"""


def test_a_dependency_s_warning_is_no_failed_measurement(harness: pytest.Pytester):
    """They are summed up, also those that blame our call or that torch makes; ours are errors."""
    harness.makepyfile(**{"bench/test_warns.py": WARNS})
    result = run(harness, "bench/test_warns.py", "-W", "error")
    result.assert_outcomes(passed=1, failed=2, warnings=3)
    result.stdout.fnmatch_lines(["*RuntimeWarning: overflow"])
