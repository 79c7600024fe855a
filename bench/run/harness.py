"""One pytest session's harness: what was asked for, what was measured, and what the gate said of it.

pytest-benchmark shows the times; what is compared with the baseline goes through `cells` into one run record,
which `gate` judges when the session ends. Once there is a record the session ends with a verdict: a file that
cannot be written, a baseline that cannot be read and even an error of the harness itself are reported after
what was measured.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import pytest

from asd.errors import AsdError, ConfigError, StorageError
from asd.measurement.environment import accelerators
from asd.measurement.files import check_writable, write_atomically, write_record
from asd.measurement.records import Run
from asd.workloads.catalogue import HUB
from bench.gate.judge import RunOptions, judge
from bench.gate.store import Baseline, baseline_path, find_baseline, pinned_by, record_baseline
from bench.gate.verdicts import CANNOT_RUN, Report
from bench.metrics.measurements import Measurements
from bench.run.itemlog import write_items
from bench.run.matrix import MOST_PASSES, N_PASSES, RECORDED, Matrix, build_matrix
from bench.run.plan import describe_plan
from bench.run.recorded import REPLAY
from bench.run.requirements import cannot_run
from bench.run.session import Session
from bench.run.summary import render, render_markdown

__all__ = ["Harness"]

WARNINGS = (
    "default",
    r"error:::(asd|bench)(\.|$)",
    "default::DeprecationWarning",
    "default::PendingDeprecationWarning",
    "default::FutureWarning",
    r"default::UserWarning:asd\.(engines|tiny)(\.|$)",
)
"""No measurement fails for a warning of another library: neither for what it will remove, nor for what torch
says on behalf of the modules that call it. They are summed up at the end. Those of our own code do fail."""

JUDGED = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
BROKEN_OFF = (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERNAL_ERROR)


class Harness:
    """What one session asked for and measured; a pytest plugin of its own while it lasts.

    Args:
        config: Of the session.
        named: Paths on its command line.

    Raises:
        ConfigError: The options contradict each other or name something that does not exist.
        StorageError: A file that the run is to write cannot be written.
    """

    def __init__(self, config: pytest.Config, named: Sequence[Path]) -> None:
        option = config.getoption
        self.config = config
        self.folder = (config.rootpath / "bench").resolve()
        self.named = named
        self._check_options()
        self.matrix = self._matrix({})
        if option("data") == HUB and not option("record_baseline"):
            self.matrix = self._matrix(pinned_by(self._baseline()))
        self.hardware = self.matrix.hardware  # a device that is not there ends here
        if option("record_baseline") and self.matrix.limited:
            raise ConfigError("a baseline is recorded from a whole run: leave --limit out")
        if not option("plan") and not option("collectonly"):
            self._check_files()
        self.session: Session | None = None
        self.measurements = Measurements()
        self.selected: list[str] = []
        self.n_deselected = 0
        self.text = ""

    @classmethod
    def of(cls, config: pytest.Config, named: Sequence[Path]) -> Self:
        """The harness of a session; options that are wrong end it with pytest's usage error."""
        try:
            return cls(config, named)
        except ConfigError as error:
            raise pytest.UsageError(str(error)) from error
        except AsdError as error:
            cannot_run(str(error))

    def _matrix(self, pinned: Mapping[str, str]) -> Matrix:
        option = self.config.getoption
        return build_matrix(
            ladder=option("ladder"),
            engine=option("engine"),
            lam=option("lam"),
            datasets=option("datasets"),
            limit=option("limit"),
            batch=option("batch"),
            device=option("device"),
            policy=self._path("policy"),
            data=option("data"),
            traces=self._path("traces"),
            unsafe_code=option("unsafe_code"),
            pinned=pinned,
        )

    def _path(self, name: str) -> Path | None:
        given = self.config.getoption(name)
        return Path(given) if given else None

    @property
    def _baselines(self) -> Path:
        return Path(self.config.getoption("baselines"))

    def _baseline(self) -> Baseline | None:
        return find_baseline(self._baselines, self.matrix.hardware, self.matrix.ladder.name)

    def _check_options(self) -> None:
        option = self.config.getoption
        if option("record_baseline") and not option("reason").strip():
            raise ConfigError("--record-baseline wants a reason, which is stored: --reason 'why'")
        if option("reason") and not option("record_baseline"):
            raise ConfigError("--reason is stored with a baseline: give --record-baseline as well")
        if option("require_gpu") and option("device") == "cpu":
            raise ConfigError("--require-gpu contradicts --device cpu")
        if option("require_gpu") and not accelerators():
            raise StorageError("--require-gpu: this machine has no GPU (nvidia-smi lists none)")

    def _check_files(self) -> None:
        """Before hours of measuring, not after."""
        names = ["json_out", "log_items", "markdown_out"]
        if self.matrix.engine != REPLAY:
            names.append("traces")
        paths = [path for name in names if (path := self._path(name))]
        if self.config.getoption("record_baseline"):
            paths.append(baseline_path(self._baselines, self.hardware, self.matrix.ladder.name))
        for path in paths:
            if paths.count(path) > 1:
                raise ConfigError(f"{path} is named twice among the files to write")
            check_writable(path)

    def owns(self, path: Path) -> bool:
        """The path lies in the folder of the suites."""
        return path.resolve().is_relative_to(self.folder)

    def start(self, scratch: pytest.TempPathFactory) -> Session:
        """The run that all suites read, with every stage's answers; what ends it is told in one line."""
        traces = self._path("traces") or scratch.mktemp("outcomes") / "traces.jsonl"
        passes = RECORDED if self.config.getoption("record_baseline") else self.matrix.passes
        session = Session(self.matrix, traces, passes=passes)
        try:
            session.check()
            assert session.outcomes
        except (AsdError, ImportError) as error:
            cannot_run(str(error))
        self.session = session
        return session

    @property
    def partial(self) -> str:
        """Why only some of the suites were selected; empty if all were."""
        if self.n_deselected:
            return f"{self.n_deselected} measurements were deselected"
        if any(self.folder.is_relative_to(path) for path in self.named):
            return ""
        return "only some suites were named: " + " ".join(self.config.args)

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """Count what -k, -m and the like took away."""
        self.n_deselected += sum(self.owns(item.path) for item in items)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave out, and count, what recorded outcomes cannot tell; let no warning of a dependency fail."""
        for item in items:
            if self.owns(item.path):
                item.add_marker(pytest.mark.filterwarnings(*WARNINGS))
        if self.matrix.engine == REPLAY:
            live = [item for item in items if item.get_closest_marker("live")]
            items[:] = [item for item in items if not item.get_closest_marker("live")]
            self.config.hook.pytest_deselected(items=live)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """See what is going to be measured, and refuse what cannot be."""
        self.selected = [item.nodeid for item in session.items if self.owns(item.path)]
        if not self.selected:
            return
        if self.config.getoption("record_baseline") and self.partial:
            raise pytest.UsageError(f"a baseline is recorded from a whole run ({self.partial})")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self) -> bool | None:
        """Under --plan, tell instead of run."""
        if not self.config.getoption("plan"):
            return None
        self.text = describe_plan(self.matrix, self.selected)
        return True

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Judge or record the run; a failed test keeps its own exit code."""
        if not self.selected or self.text or self.config.getoption("collectonly"):
            return
        if exitstatus in BROKEN_OFF:
            self.text = f"gate: not judged, because the run was broken off (exit code {int(exitstatus)})"
        if exitstatus not in JUDGED:
            return
        try:
            code = self._conclude(failed=exitstatus == pytest.ExitCode.TESTS_FAILED)
        except AsdError as error:
            self.text, code = f"gate: cannot judge this run: {error}", CANNOT_RUN
        except Exception:  # an error of the harness itself is no reason to end without a word
            self.text, code = f"gate: cannot judge this run:\n{traceback.format_exc()}", CANNOT_RUN
        session.exitstatus = exitstatus or code

    def _conclude(self, *, failed: bool) -> int:
        if self.config.getoption("record_baseline"):
            run = self._run()
            unwritten, code = self._write_data(run), 0
            self.text = self._record(run, failed=failed)
        else:
            unwritten, code = self._judge(patient=not failed)
        self.text = "\n".join([*unwritten, self.text])
        return code or (CANNOT_RUN if unwritten else 0)

    def _run(self) -> Run:
        """What has been measured so far."""
        session = self.session or Session(self.matrix, self._path("traces") or Path())
        return Run(header=session.header(), datasets=session.datasets(), cells=self.measurements.cells)

    def _write_data(self, run: Run) -> list[str]:
        """Write what was measured, whatever it is worth; returns what could not be written."""
        problems, session = [], self.session
        if (log := self._path("log_items")) and session:
            replays = [replay for name in self.matrix.datasets for replay in session.replays(name)]
            problems += _tried(lambda: write_items(log, replays))
        if record := self._path("json_out"):
            problems += _tried(lambda: write_record(record, run))
        return problems

    def _record(self, run: Run, *, failed: bool) -> str:
        if failed:
            return "gate: no baseline was recorded, because tests failed"
        recorded = record_baseline(self._baselines, run, self.config.getoption("reason"))
        return "\n".join([*recorded.moved, f"baseline recorded: {recorded.path}"])

    def _judge(self, *, patient: bool) -> tuple[list[str], int]:
        """Files that could not be written, and the exit code.

        Under --strict what is undecided is timed further, up to as many passes as the baseline holds.
        """
        run, baseline = self._run(), self._baseline()
        unwritten = self._write_data(run)
        report = judge(run, baseline, self._options)
        at_most = min(MOST_PASSES, 0 if baseline is None else baseline.run.n_passes)
        while patient and report.strict and self._walk_on(report, at_most):
            run = self._run()
            unwritten = self._write_data(run)
            report = judge(run, baseline, self._options)
        self.text = render(run, report, verbose=self.config.getoption("verbose", 0) > 0)
        if path := self._path("markdown_out"):
            unwritten += _tried(lambda: write_atomically(path, render_markdown(run, report)))
        return unwritten, report.exit_code

    def _walk_on(self, report: Report, at_most: int) -> bool:
        undecided = report.undecided
        walked = self.measurements.walk_on(undecided, N_PASSES, at_most)
        if walked and (terminal := self.config.pluginmanager.get_plugin("terminalreporter")):
            terminal.write_line(f"{len(undecided)} cells were undecided: {N_PASSES} further passes were made")
        return walked

    @property
    def _options(self) -> RunOptions:
        return RunOptions(
            lams=self.matrix.lams,
            datasets=self.matrix.datasets,
            limited=self.matrix.limited,
            partial=self.partial,
            strict=bool(self.config.getini("strict")),
        )

    @pytest.hookimpl(wrapper=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> Iterator[None]:
        """Print the plan, or the report, below all other tables: a log's end should show the verdict."""
        yield
        if self.text:
            terminalreporter.section("asd")
            terminalreporter.write_line(self.text)
            self.text = ""

    def pytest_unconfigure(self) -> None:
        """Close the engines; print the text where pytest prints no summary (--no-summary, -p no:terminal)."""
        if self.session is not None:
            self.session.close()
        if self.text:
            sys.stdout.write(f"\n{self.text}\n")


def _tried(write: Callable[[], None]) -> list[str]:
    """Write a file; what went wrong, if it did, is told beside the verdict and not in its place."""
    try:
        write()
    except AsdError as error:
        return [f"gate: {error}"]
    return []
