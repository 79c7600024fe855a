"""How a run of the harness ends, whatever is in its way: with a verdict, or one line that says why not."""

from __future__ import annotations

import json
import os

import pytest

from tests.minibench import make, record, run

pytestmark = pytest.mark.slow

pytest_plugins = ["pytester"]


@pytest.fixture
def harness(pytester: pytest.Pytester) -> pytest.Pytester:
    """A checkout with a small harness of its own."""
    return make(pytester)


@pytest.fixture
def recorded(harness: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """The same with a baseline."""
    return record(harness, monkeypatch)


@pytest.mark.parametrize("args", [["-n", "2"], ["-n", "1", "--strict"], ["--dist", "each"]])
def test_several_processes_are_refused(harness: pytest.Pytester, args: list[str]):
    """Workers would each measure a part and the controller judge nothing."""
    result = run(harness, "bench", *args)
    assert result.ret == 12
    result.stderr.fnmatch_lines(["*cannot run: models are timed and judged in one process*-n 0*"])


@pytest.mark.parametrize("args", [["bench"], ["bench", "-n", "0"], ["bench", "--dist", "no"]])
def test_a_parallel_plugin_that_is_not_used_is_no_obstacle(recorded: pytest.Pytester, args: list[str]):
    """It is loaded wherever it is installed."""
    result = run(recorded, *args, "--strict")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["gate: PASS (exit code 0)*"])


def test_own_tests_may_run_in_several_processes(harness: pytest.Pytester):
    """Nothing of theirs is timed; wrong options of the harness are nothing to them either."""
    result = run(harness, "tests", "-n", "2", "--lam=-1", "--ladder=nowhere")
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize("value", ["", "4,3,2", "1.0", "many"])
@pytest.mark.parametrize("where", ["bench", "tests"])
def test_any_number_of_threads_is_lived_with(
    harness: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, value: str, where: str
):
    """Neither the run nor the project's own tests fall over the variable."""
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    result = run(harness, where, "--plan")
    assert result.ret == 0


def test_a_gpu_that_nvidia_smi_is_silent_about_is_not_there(
    harness: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
):
    """It hangs: without a GPU asked for the CPU measures, else the run ends with one line."""
    program = harness.makefile("", **{"bin/nvidia-smi": "#!/bin/sh\nexec sleep 60"})
    program.chmod(0o755)
    monkeypatch.setattr("asd.measurement.environment._PATIENCE_S", 0.1)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    result = run(harness, "bench", "--device=cpu")
    result.stdout.fnmatch_lines(["gate: CANNOT_JUDGE*"])
    monkeypatch.setattr("tests.minibench.ARGS", ("-p", "bench.plugin", "--ladder=mine.toml", "--policy=none"))
    required = run(harness, "bench", "--require-gpu")
    assert required.ret == 12
    required.stderr.fnmatch_lines(["*cannot run: --require-gpu: this machine has no GPU*"])


@pytest.mark.parametrize("option", ["--json-out", "--log-items", "--markdown-out", "--traces"])
def test_a_file_that_cannot_be_written_ends_the_run_before_it_begins(
    harness: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, option: str
):
    """A folder, a device, or something in the way of its folders; nothing is measured first."""
    monkeypatch.setenv("RIGHT", "0")
    (harness.path / "taken").write_text("a file")
    for path in (".", "/dev/null", "taken/below.json"):
        result = run(harness, "bench", f"{option}={path}")
        assert result.ret == 12
        result.stderr.fnmatch_lines([f"*cannot run: *{path} *"])
        assert "collected" not in result.stdout.str()


def test_missing_folders_are_made(recorded: pytest.Pytester):
    """Wherever the files are to lie; a plan makes nothing."""
    wanted = {"--json-out": "a/run.json", "--markdown-out": "b/c/run.md", "--traces": "d/traces.jsonl"}
    options = [f"{option}={path}" for option, path in wanted.items()]
    assert run(recorded, "bench", "--plan", *options).ret == 0
    assert not (recorded.path / "a").exists()
    result = run(recorded, "bench", "--strict", *options)
    assert result.ret == 0
    assert json.loads((recorded.path / "a/run.json").read_text())["cells"]
    assert "gate: PASS" in (recorded.path / "b/c/run.md").read_text()


def test_two_files_in_one_place_are_a_usage_error(harness: pytest.Pytester):
    """The second would replace the first."""
    result = run(harness, "bench", "--json-out=run", "--markdown-out=run")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*run is named twice*"])


SPOILED = """
from pathlib import Path

def test_spoil():
    for name in ("run.json", "run.md"):
        Path(name).mkdir()
"""


@pytest.mark.parametrize(("right", "code"), [("20", 12), ("10", 10)])
def test_the_verdict_is_told_also_where_a_file_could_not_be_written(
    recorded: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, right: str, code: int
):
    """What went wrong while the run went on stands beside the verdict, and fails a run that passed."""
    monkeypatch.setenv("RIGHT", right)
    recorded.makepyfile(**{"bench/test_spoil.py": SPOILED})
    result = run(recorded, "bench", "--json-out=run.json", "--markdown-out=run.md")
    assert result.ret == code
    result.stdout.fnmatch_lines(["gate: *run.json*", "gate: *run.md*", "tiny-text*", "gate: *"])


@pytest.mark.parametrize(
    "args",
    [
        ["--benchmark-disable"],
        ["--benchmark-skip"],
        ["-p", "no:benchmark"],
        ["-p", "no:cacheprovider"],
        ["--no-summary"],
        ["--no-header", "-q", "-q"],
        ["-p", "no:terminal"],
        ["-p", "no:logging", "-s"],
        ["-v"],
    ],
)
def test_switches_of_other_plugins_leave_the_verdict(
    recorded: pytest.Pytester, capfd: pytest.CaptureFixture[str], args: list[str]
):
    """The table of times may go; what is judged stays."""
    recorded.makepyfile(**{"bench/test_clock.py": "def test_clock(clocked):\n    clocked([0.5, 0.25])\n"})
    result = run(recorded, "bench", "--strict", *args)
    assert result.ret == 0
    assert "gate: PASS (exit code 0)" in result.stdout.str() + capfd.readouterr().out


def test_only_what_pytest_benchmark_times_is_missing_the_rest(recorded: pytest.Pytester):
    """--benchmark-only skips the suites; the gate says what that leaves out."""
    result = run(recorded, "bench", "--benchmark-only")
    assert result.ret == 11
    result.stdout.fnmatch_lines(["gate: MISSING (exit code 11)*"])


def test_an_error_of_the_harness_itself_is_told(recorded: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    """Nothing is judged, so nothing passes; the record of the run is written all the same."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError("float division by zero")

    monkeypatch.setattr("bench.run.harness.judge", broken)
    result = run(recorded, "bench", "--json-out=run.json")
    assert result.ret == 12
    result.stdout.fnmatch_lines(
        ["gate: cannot judge this run:*", "*ZeroDivisionError: float division by zero"]
    )
    assert json.loads((recorded.path / "run.json").read_text())["cells"]


def test_a_run_that_was_broken_off_says_so(recorded: pytest.Pytester):
    """The exit code is pytest's; no verdict is made up."""
    recorded.makepyfile(**{"bench/test_a.py": "def test_a():\n    raise KeyboardInterrupt\n"})
    result = run(recorded, "bench")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["gate: not judged, because the run was broken off*"])


def test_a_folder_where_nothing_can_be_written_is_measured(
    recorded: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
):
    """pytest warns of its cache, which is no measurement's failure."""
    (recorded.path / ".pytest_cache").write_text("in the way")
    recorded.makeini("[pytest]\nfilterwarnings =\n    default\n    error:::(asd|bench|tests)(\\\\.|$)\n")
    result = run(recorded, "bench", "--strict")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*PytestCacheWarning*", "gate: PASS (exit code 0)*"])


TIMED = """
import os
import numpy as np
from asd.measurement.timing import Turns
from asd.testing import FakeClock
from bench.metrics.cells import rival_cell

def test_rivals(record):
    clock, noise, turns = FakeClock(), np.random.default_rng(1), None
    busy = int(os.environ.get("BUSY", "0"))

    def ours(unit):
        spread = 1.5 if turns.n_passes < busy else 0.01
        clock.advance(0.01 * float(np.exp(noise.normal(0, spread))))
        return "text"

    def theirs(unit):
        clock.advance(0.02)
        return "text"

    turns = Turns({"ours": ours, "theirs": theirs}, range(20), synchronise=lambda: None, clock=clock)
    turns.walk(9 if os.environ.get("RECORD") else 3)
    record(lambda: rival_cell("ours", "theirs", turns.timings), turns)
    assert turns.n_passes
"""


@pytest.mark.parametrize(
    ("busy", "strict", "told", "code"),
    [
        (0, True, "gate: PASS*", 0),
        (3, False, "gate: INCONCLUSIVE*", 0),
        (3, True, "*cells were undecided: 3 further passes were made", 0),
        (99, True, "gate: INCONCLUSIVE*", 13),
    ],
)
def test_undecided_times_get_further_passes_under_strict(
    harness: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, busy: int, strict: bool, told: str, code: int
):
    """A machine that is busy for three passes is waited for; one that stays busy leaves it open."""
    monkeypatch.setattr("bench.run.matrix.N_ITEMS", 20)
    (harness.path / "bench" / "test_quality.py").unlink()
    harness.makepyfile(**{"bench/test_rivals.py": TIMED})
    monkeypatch.setenv("RECORD", "1")
    assert run(harness, "bench", "--record-baseline", "--reason=first").ret == 0
    monkeypatch.delenv("RECORD")
    monkeypatch.setenv("BUSY", str(busy))
    result = run(harness, "bench", *(["--strict"] if strict else []))
    result.stdout.fnmatch_lines([told])
    assert result.ret == code
