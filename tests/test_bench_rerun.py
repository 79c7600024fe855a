"""A/A reruns: each verdict is counted as what it is, and a run that was no run is shown."""

from collections.abc import Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from asd.measurement.files import write_record
from bench import rerun
from tests.fabricated import fabricate


class Runs:
    """Stands for `pytest bench/`: the first call writes its record, the others end with the codes given."""

    def __init__(self, *codes: int) -> None:
        self.codes, self.commands = list(codes), []

    def __call__(self, command: Sequence[str], **_: Any) -> CompletedProcess[str]:
        self.commands.append(list(command))
        if "--json-out" in command:
            write_record(Path(command[command.index("--json-out") + 1]), fabricate(np.random.default_rng(0)))
            return CompletedProcess(command, 0, "", "")
        baselines = Path(command[command.index("--baselines") + 1])
        assert [path.name for path in baselines.glob("*/*.json")] == ["tiny.json"]
        return CompletedProcess(command, self.codes.pop(0), "INCONCLUSIVE: here\nno verdict\n", "")


@pytest.mark.parametrize(
    ("codes", "exit_code", "shown"),
    [
        ((0, 0), 0, "pass            2"),
        ((0, 13), 0, "inconclusive       1"),
        ((10, 0), 1, "false alarm       1"),
        ((11, 11), 1, "false alarm       2"),
        ((0, 3), 1, "a rerun ended with exit code 3"),
    ],
)
def test_reruns_are_judged_against_the_first(
    monkeypatch: pytest.MonkeyPatch, codes: tuple[int, ...], exit_code: int, shown: str
):
    """The options reach every run, a cut-down one included; only alarms and broken runs end with 1."""
    runs = Runs(*codes)
    monkeypatch.setattr(rerun.subprocess, "run", runs)
    result = CliRunner().invoke(rerun.rerun, ["--times", "2", "--", "--limit", "40"])
    assert result.exit_code == exit_code, result.output
    assert shown in result.output
    assert all("--limit 40" in " ".join(command) for command in runs.commands)
