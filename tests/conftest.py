"""What several test modules share and is dear to make."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conducted import Conducted

NO_GPU = "no CUDA device (pytest -m gpu on a machine that has one)"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """What needs a GPU is skipped without one."""
    if item.get_closest_marker("gpu") is None:
        return
    import torch  # noqa: PLC0415  (only where a test runs models)

    if not torch.cuda.is_available():
        pytest.skip(NO_GPU)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how much was not tested for want of a GPU."""
    skipped = [r for r in terminalreporter.stats.get("skipped", []) if NO_GPU in str(r.longrepr)]
    if skipped:
        terminalreporter.write_line(f"{len(skipped)} tests not run: {NO_GPU}")


@pytest.fixture(autouse=True)
def logging_on() -> Iterator[None]:
    """A test that silenced logging for all others would fail them far from here."""
    yield
    off, logging.root.manager.disable = logging.root.manager.disable, logging.NOTSET
    assert off == logging.NOTSET, "logging was disabled and left so"


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Torch on one thread, which is fastest for models this small, and as it was afterwards."""
    import torch  # noqa: PLC0415  (only where a test runs models)

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="session")
def done(tmp_path_factory: pytest.TempPathFactory) -> Conducted:
    """A small study, conducted once; tests read it and leave it as it is."""
    from asd.measurement.files import read_record  # noqa: PLC0415  (only where a test needs a study)
    from asd.research.study.record import Study  # noqa: PLC0415
    from asd.research.study.run import conduct  # noqa: PLC0415
    from tests.conducted import QUICK, Conducted, material  # noqa: PLC0415

    out = tmp_path_factory.mktemp("study")
    conduct(material(), out, QUICK)
    return Conducted(out, read_record(out / "results.json", Study))
