"""`--recorded`: what simulates with recordings of models in place of traces, a ladder and a policy."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from asd.cli import main, scenarios
from asd.ladder import Ladder
from asd.policy.artifact import PolicyArtifact
from asd.research.load.recorded import read_timed
from asd.types import Trace
from tests.test_research_load_contest import recorded  # noqa: F401  (a fixture)


def simulate(recorded: Path, *more: str) -> Result:  # noqa: F811
    asked = ["simulate", str(recorded), "--batch", "1", "--hours", "0.5", "--arrivals", "poisson:0.3", *more]
    return CliRunner().invoke(main, asked)


def test_fitted_and_judged_queries_are_halves(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """The policy never saw a query that is drawn."""
    fitted: list[str] = []
    real = scenarios.fit

    def noted(rows: Sequence[Trace], ladder: Ladder, **named: Any) -> PolicyArtifact:
        fitted.extend(trace.query.id for trace in rows)
        return real(rows, ladder, **named)

    monkeypatch.setattr(scenarios, "fit", noted)
    opened = scenarios.open_scenario(
        [recorded],
        "tiny",
        None,
        "L=3",
        1,
        "S,L=2",
        arrivals="poisson:1",
        users=None,
        seconds=60.0,
        window_s=60.0,
    )
    drawn = [query.trace.query.id for query in opened.scenario.population.queries]
    assert len(fitted) == len(drawn) == 240
    assert not set(fitted) & set(drawn)
    assert opened.devices == {"S": 1, "L": 2}
    assert opened.scenario.asked.servers == {"S": (1, 1), "L": (3, 1)}


def test_calls_take_the_recorded_seconds(recorded: Path, tmp_path: Path) -> None:  # noqa: F811
    """Of a stage that nobody waits for, mean latency is the mean over the recording."""
    out = tmp_path / "runs.json"
    found = simulate(
        recorded, "--recorded", "S,L", "--policies", "always:L", "--replicas", "L=9", "--json", str(out)
    )
    assert found.exit_code == 0, found.output
    [run] = json.loads(out.read_text())["runs"]
    mean_s = np.mean([trace.outcomes["L"].draft.seconds for trace in read_timed([recorded], ["S", "L"])])
    assert run["total"]["latency_s"] == pytest.approx(mean_s, rel=0.05)


def test_a_plan_counts_the_devices_of_a_replica(recorded: Path) -> None:  # noqa: F811
    asked = ("--plan", "4", "--most-devices", "9", "--policies", "always:L")
    found = simulate(recorded, "--recorded", "S,L=3", *asked)
    assert found.exit_code == 0, found.output
    [(devices, replicas)] = re.findall(r"^always:L +(\d+) +L:(\d+)", found.output, re.MULTILINE)
    assert int(devices) == 3 * int(replicas)


@pytest.mark.slow
def test_control_takes_recordings(recorded: Path) -> None:  # noqa: F811
    asked = [
        "control",
        str(recorded),
        "--recorded",
        "S,L",
        "--batch",
        "1",
        "--tables",
        "loss",
        "--hours",
        "0.2",
    ]
    found = CliRunner().invoke(main, asked)
    assert found.exit_code == 0, found.output
    assert "A device lost at the peak" in found.output


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--recorded", "S,L", "--batch", "4"], "not of 4: give --batch 1"),
        (["--recorded", "S,L", "--ladder", "mine.toml"], "leave --ladder and --policy out"),
        (["--recorded", "S,L", "--policy", "policy.json"], "leave --ladder and --policy out"),
        (["--recorded", "S,L=0"], "write MODEL or MODEL=DEVICES"),
        (["--recorded", "S,S"], "each model once"),
        (["--recorded", ","], "name the models"),
        (["--recorded", "S,M"], "none of 480 queries has score"),
        (["--recorded", "S,L", "--replicas", "M=2"], "with a stage of L, S"),
    ],
)
def test_what_makes_no_scenario_is_refused(recorded: Path, more: list[str], message: str) -> None:  # noqa: F811
    found = simulate(recorded, *more)
    assert found.exit_code == 2
    assert message in found.output
