"""The harness as a pytest plugin: its options, and a `Harness` for sessions that are about `bench/`.

Loaded for every session of this checkout, so nothing here may fail or be slow where `bench/` is not asked
for: the harness, its libraries and its options are looked at only if a path on the command line lies in
`bench/` or above it. Exit codes are those of `bench.gate.verdicts`; a failed test keeps pytest's own 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.run.requirements import cannot_run, what_is_missing

if TYPE_CHECKING:
    from bench.metrics.measurements import Record
    from bench.run.harness import Harness
    from bench.run.session import Session

_NAME = "asd-harness"
_CHECKOUT = Path(__file__).parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    """All options of the harness: plain values, which other plugins may send to other processes."""
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
    group.addoption("--traces", help="Trace file that keeps the outcomes and is taken up again")
    group.addoption("--policy", help="Made by `asd fit` (default: the one that ships with tiny)")
    group.addoption("--limit", type=int, help="Items of each dataset (default: 200)")
    group.addoption("--batch", type=int, default=1, help="Queries a call in the live passes (default: 1)")
    group.addoption("--device", help="Such as cpu or cuda:0 (default: a GPU if there is one)")
    group.addoption("--require-gpu", action="store_true", help="End with an error where there is no GPU")
    group.addoption("--baselines", default=str(_CHECKOUT / "baselines"), help="Folder of the baselines")
    group.addoption("--record-baseline", action="store_true", help="Make this run the baseline")
    group.addoption("--reason", default="", help="Why the baseline is recorded; stored with it")
    group.addoption("--json-out", help="Write the record of the run to this file")
    group.addoption("--log-items", help="Write one JSON line an item and policy to this file")
    group.addoption("--markdown-out", help="Write the report to this file, as Markdown")
    group.addoption("--plan", action="store_true", help="Tell what would be measured; run nothing")


def pytest_configure(config: pytest.Config) -> None:
    """Check what is there and the options, before anything is collected."""
    config.addinivalue_line("markers", "live: times models, so recorded outcomes are not enough")
    if not _is_about_bench(config) or config.getoption("help") or config.getoption("version"):
        return
    if missing := what_is_missing(config.getoption("engine")):
        cannot_run(missing)
    if config.getoption("dist", "no") != "no":
        cannot_run(
            "models are timed and judged in one process, and pytest-xdist would use several: leave -n out, "
            "or give -n 0"
        )
    try:
        from bench.run.harness import Harness  # noqa: PLC0415 - with all that it takes, where it is asked for
    except ImportError as error:
        cannot_run(f"the installed libraries do not work together: {error}")
    config.pluginmanager.register(Harness.of(config, _named_paths(config)), _NAME)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parameters of the suites: datasets and lambdas of the matrix, as strings and numbers."""
    harness = _find(metafunc.config)
    if harness is None or not harness.owns(metafunc.definition.path):
        return
    if "dataset" in metafunc.fixturenames:
        metafunc.parametrize("dataset", harness.matrix.datasets)
    if "lam" in metafunc.fixturenames:
        lams = harness.matrix.lams
        metafunc.parametrize("lam", lams, ids=[f"lam={lam:g}" for lam in lams])


@pytest.fixture(scope="session")
def session(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Session:
    """The run that all suites read: outcomes, replays and live passes, each made once."""
    return _harness(pytestconfig).start(tmp_path_factory)


@pytest.fixture
def record(pytestconfig: pytest.Config) -> Record:
    """Puts a cell into the record of the run."""
    return _harness(pytestconfig).measurements.add


@pytest.fixture
def clocked(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Hands seconds that were measured in turns to pytest-benchmark, for its table and JSON."""

    def show(seconds: Iterable[float], **info: object) -> None:
        if not any(map(request.config.pluginmanager.hasplugin, ("benchmark", "pytest_benchmark.plugin"))):
            return  # -p no:benchmark: nothing but the table is lost
        samples = list(seconds)
        request.node.add_marker(pytest.mark.benchmark(timer=_playback(samples)))
        benchmark = request.getfixturevalue("benchmark")
        benchmark.extra_info.update(info)
        benchmark.pedantic(lambda: None, rounds=len(samples), iterations=1)

    return show


def _is_about_bench(config: pytest.Config) -> bool:
    """A path on the command line lies in `bench/` or above it."""
    folder = (config.rootpath / "bench").resolve()
    return any(folder.is_relative_to(path) or path.is_relative_to(folder) for path in _named_paths(config))


def _named_paths(config: pytest.Config) -> list[Path]:
    """What the command line names, or what pytest takes in its place."""
    start = config.invocation_params.dir
    return [(start / arg.split("::")[0]).resolve() for arg in config.args]


def _find(config: pytest.Config) -> Harness | None:
    found: Harness | None = config.pluginmanager.get_plugin(_NAME)
    return found


def _harness(config: pytest.Config) -> Harness:
    found = _find(config)
    if found is None:
        pytest.fail("the harness was not started: name bench/, or a path in it, on the command line")
    return found


def _playback(samples: Sequence[float]) -> Callable[[], float]:
    """A timer for pytest-benchmark, which reads it before and after each round."""
    readings = iter([reading for sample in samples for reading in (0.0, sample)])

    def interleaved_passes() -> float:
        return next(readings)

    return interleaved_passes
