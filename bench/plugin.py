"""The harness as a pytest plugin: options, fixtures, and the gate at the end of the session.

pytest-benchmark is the fixture, the table and the JSON of the times; what is compared with the baseline goes
through `record` into one run record, which `gate` judges when the session ends. The exit codes are those of
`verdicts`; a failed test keeps pytest's own 1. Sessions in which no item of `bench/` is selected are left
alone, so that the plugin can be loaded for the project's own tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest

from asd.errors import AsdError, ConfigError
from asd.measurement.environment import accelerators
from asd.measurement.files import write_record
from asd.measurement.records import Cell, HardwareKey, Run
from asd.workloads.catalogue import HUB
from bench.itemlog import write_items
from bench.matrix import N_ITEMS, Matrix, build_matrix
from bench.plan import describe_plan
from bench.recorded import REPLAY
from bench.session import CHECKOUT, Session
from bench.store import Baseline, find_baseline, pinned_by, record_baseline
from bench.verdicts import CANNOT_RUN

_NAME = "asd-harness"

WARNINGS = ("default", r"error::RuntimeWarning:(asd|bench)(\.|$)")
"""What a dependency deprecates fails no measurement, even where it blames our call for it; arithmetic of ours
that overflows or divides by zero does."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """All options of the harness."""
    # --strict is pytest's own; under it the gate fails as well on what is inconclusive, partial or unjudged
    group = parser.getgroup("asd", "the harness of asd (bench/); with --strict, nothing may stay unjudged")
    group.addoption("--ladder", default="tiny", help="Preset or TOML file (default: tiny)")
    group.addoption(
        "--engine",
        default="transformers",
        help="What runs the stages, or replay: recorded outcomes (default: transformers)",
    )
    group.addoption("--lam", help="Lambdas, separated by commas (default: the whole sweep)")
    group.addoption("--datasets", help="Names, separated by commas (default: the embedded ones)")
    group.addoption("--data", help="Folder of the public task sets, or hub (default: $ASD_DATA)")
    group.addoption("--unsafe-code", action="store_true", help="Run models' code without a sandbox")
    group.addoption("--traces", type=Path, help="Trace file that keeps the outcomes and is taken up again")
    group.addoption("--policy", type=Path, help="Made by `asd fit` (default: the one that ships with tiny)")
    group.addoption("--limit", type=int, help=f"Items of each dataset (default: {N_ITEMS})")
    group.addoption("--batch", type=int, default=1, help="Queries a call in the live passes (default: 1)")
    group.addoption("--device", help="Such as cpu or cuda:0 (default: a GPU if there is one)")
    group.addoption("--require-gpu", action="store_true", help="End with an error where there is no GPU")
    group.addoption("--baselines", type=Path, default=CHECKOUT / "baselines", help="Folder of the baselines")
    group.addoption("--record-baseline", action="store_true", help="Make this run the baseline")
    group.addoption("--reason", default="", help="Why the baseline is recorded; stored with it")
    group.addoption("--json-out", type=Path, help="Write the record of the run to this file")
    group.addoption("--log-items", type=Path, help="Write one JSON line an item and policy to this file")
    group.addoption("--markdown-out", type=Path, help="Write the report to this file, as Markdown")
    group.addoption("--plan", action="store_true", help="Tell what would be measured; run nothing")


def pytest_configure(config: pytest.Config) -> None:
    """Check the options before anything is collected."""
    config.addinivalue_line("markers", "live: times models, so recorded outcomes are not enough")
    try:
        harness = Harness(config)
    except ConfigError as error:
        raise pytest.UsageError(str(error)) from error
    config.pluginmanager.register(harness, _NAME)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parameters of the suites: datasets and lambdas of the matrix, as strings and numbers."""
    harness = _harness(metafunc.config)
    if not harness.owns(metafunc.definition.path):
        return
    if "dataset" in metafunc.fixturenames:
        metafunc.parametrize("dataset", harness.matrix.datasets)
    if "lam" in metafunc.fixturenames:
        lams = harness.matrix.lams
        metafunc.parametrize("lam", lams, ids=[f"lam={lam:g}" for lam in lams])


@pytest.fixture(scope="session")
def session(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Session:
    """The run that all suites read: outcomes, replays and live passes, each made once."""
    traces = pytestconfig.getoption("traces") or tmp_path_factory.mktemp("outcomes") / "traces.jsonl"
    harness = _harness(pytestconfig)
    harness.session = Session(harness.matrix, traces)
    _make_sure(harness.session)
    return harness.session


@pytest.fixture
def record(pytestconfig: pytest.Config) -> Callable[[Cell], None]:
    """Puts a cell into the record of the run."""
    return _harness(pytestconfig).cells.append


@pytest.fixture
def clocked(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Hands seconds that were measured in turns to pytest-benchmark, for its table and JSON."""

    def show(seconds: Iterable[float], **info: object) -> None:
        samples = list(seconds)
        request.node.add_marker(pytest.mark.benchmark(timer=_playback(samples)))
        benchmark = request.getfixturevalue("benchmark")
        benchmark.extra_info.update(info)
        benchmark.pedantic(lambda: None, rounds=len(samples), iterations=1)

    return show


class Harness:
    """One pytest session's harness: what was asked for, what was recorded, what the gate said.

    Raises:
        ConfigError: The options contradict each other or name something that does not exist.
    """

    def __init__(self, config: pytest.Config) -> None:
        option = config.getoption
        self.config = config
        self.folder = config.rootpath / "bench"
        self._check_options()
        self.matrix = self._matrix({})
        if option("data") == HUB and not option("record_baseline"):
            self.matrix = self._matrix(pinned_by(self._baseline()))
        self.session: Session | None = None
        self.hardware: HardwareKey = self.matrix.hardware
        self.cells: list[Cell] = []
        self.selected: list[str] = []
        self.n_deselected = 0
        self.text = ""

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
            policy=option("policy"),
            data=option("data"),
            traces=option("traces"),
            unsafe_code=option("unsafe_code"),
            pinned=pinned,
        )

    def _baseline(self) -> Baseline | None:
        folder = self.config.getoption("baselines")
        return find_baseline(folder, self.matrix.hardware, self.matrix.ladder.name)

    def _check_options(self) -> None:
        option = self.config.getoption
        if option("record_baseline") and not option("reason").strip():
            raise ConfigError("--record-baseline wants a reason, which is stored: --reason 'why'")
        if option("reason") and not option("record_baseline"):
            raise ConfigError("--reason is stored with a baseline: give --record-baseline as well")
        if option("require_gpu") and option("device") == "cpu":
            raise ConfigError("--require-gpu contradicts --device cpu")
        if option("require_gpu") and not accelerators():
            cannot_run("--require-gpu: this machine has no GPU (nvidia-smi lists none)")

    def owns(self, path: Path) -> bool:
        """The path lies in the folder of the suites."""
        return path.is_relative_to(self.folder)

    @property
    def partial(self) -> str:
        """Why only some of the suites were selected; empty if all were."""
        if self.n_deselected:
            return f"{self.n_deselected} measurements were deselected"
        paths = [
            (self.config.invocation_params.dir / arg.split("::")[0]).resolve() for arg in self.config.args
        ]
        if any(self.folder.is_relative_to(path) for path in paths):
            return ""
        return "only some suites were named: " + " ".join(self.config.args)

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """Count what -k, -m and the like took away."""
        self.n_deselected += sum(self.owns(item.path) for item in items)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Recorded outcomes cannot be timed: what needs live models is left out, and counted as such."""
        for item in items:
            if self.owns(item.path):
                item.add_marker(pytest.mark.filterwarnings(*WARNINGS))
        if self.matrix.engine != REPLAY:
            return
        live = [item for item in items if item.get_closest_marker("live")]
        items[:] = [item for item in items if not item.get_closest_marker("live")]
        self.config.hook.pytest_deselected(items=live)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """See what is going to be measured, and refuse what cannot be."""
        self.selected = [item.nodeid for item in session.items if self.owns(item.path)]
        if not self.selected:
            return
        if self.config.getoption("record_baseline") and (self.partial or self.matrix.limited):
            raise pytest.UsageError(f"a baseline is recorded from a whole run ({self.partial or '--limit'})")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self) -> bool | None:
        """Under --plan, tell instead of run."""
        if not self.config.getoption("plan"):
            return None
        self.text = describe_plan(self.matrix, self.selected)
        return True

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Judge or record the run; a failed test keeps its own exit code."""
        asked = self.selected and not self.text and not self.config.getoption("collectonly")
        if not asked or exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            return
        try:
            code = self._conclude(failed=exitstatus == pytest.ExitCode.TESTS_FAILED)
        except AsdError as error:
            self.text, code = f"gate: cannot judge this run: {error}", CANNOT_RUN
        session.exitstatus = exitstatus or code

    def _conclude(self, *, failed: bool) -> int:
        option = self.config.getoption
        session = self.session or Session(self.matrix, option("traces") or Path())
        if option("log_items") and self.session:
            replays = [replay for name in self.matrix.datasets for replay in self.session.replays(name)]
            write_items(option("log_items"), replays)
        run = Run(header=session.header(), datasets=session.datasets(), cells=tuple(self.cells))
        if option("json_out"):
            write_record(option("json_out"), run)
        if option("record_baseline") and failed:
            self.text = "gate: no baseline was recorded, because tests failed"
        elif option("record_baseline"):
            self.text = f"baseline recorded: {record_baseline(option('baselines'), run, option('reason'))}"
        else:
            return self._judge(run)
        return 0

    def _judge(self, run: Run) -> int:
        # scipy takes seconds to import, which the project's own tests need not wait for
        from bench.gate import Options, judge  # noqa: PLC0415
        from bench.summary import render, render_markdown  # noqa: PLC0415

        baseline = self._baseline()
        options = Options(
            lams=self.matrix.lams,
            datasets=self.matrix.datasets,
            limited=self.matrix.limited,
            partial=self.partial,
            strict=bool(self.config.getini("strict")),
        )
        report = judge(run, baseline, options)
        self.text = render(run, report, verbose=self.config.getoption("verbose") > 0)
        if markdown := self.config.getoption("markdown_out"):
            markdown.write_text(render_markdown(run, report), "utf8")
        return report.exit_code

    @pytest.hookimpl(wrapper=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> Iterator[None]:
        """Print the plan, or the report, below all other tables: a log's end should show the verdict."""
        yield
        if self.text:
            terminalreporter.section("asd")
            terminalreporter.write_line(self.text)


def cannot_run(why: str) -> NoReturn:
    """End the session: what was asked for cannot be measured on this machine."""
    pytest.exit(f"cannot run: {why}", returncode=CANNOT_RUN)


def _make_sure(session: Session) -> None:
    """End now, with one message, where every suite would fail for the same reason."""
    try:
        session.policy.check(session.matrix.ladder)
        if session.matrix.engine != REPLAY:
            assert session.engines  # opened, not loaded: their libraries are there and the options are theirs
    except AsdError as error:
        cannot_run(str(error))


def _harness(config: pytest.Config) -> Harness:
    harness = config.pluginmanager.get_plugin(_NAME)
    assert isinstance(harness, Harness)
    return harness


def _playback(samples: Sequence[float]) -> Callable[[], float]:
    """A timer for pytest-benchmark, which reads it before and after each round."""
    readings = iter([reading for sample in samples for reading in (0.0, sample)])

    def interleaved_passes() -> float:
        return next(readings)

    return interleaved_passes
