"""Policies at equal quality on recorded real models: the recordings, the placements, the days, the file."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from asd.cli import main
from asd.errors import ConfigError, DataError
from asd.operations.arrivals import bursts, read_clients
from asd.policy.artifact import PolicyArtifact
from asd.research.load import contest
from asd.research.load.contest import (
    FORESIGHT,
    LARGEST,
    ContestFile,
    ContestHeader,
    over_quarters,
    placed,
    run_contest,
)
from asd.research.load.recorded import priced_ladder, read_timed
from asd.schema import msgspec
from asd.types import Trace

SECONDS = {"S": (0.1, 0.0, 0.02), "L": (0.3, 0.001, 0.05)}
"""Of a call, a prompt token and an answered token."""


def line(i: int, rng: np.random.Generator) -> dict[str, object]:
    """A hard or an easy question; S is right on the easy ones and mostly knows it."""
    hard, n_prompt, n = bool(rng.random() < 0.4), int(rng.integers(5, 200)), int(rng.integers(1, 20))
    p_right = {"S": 0.15 if hard else 0.95, "L": 0.9}
    outputs = {}
    for stage, (call, prompt, token) in SECONDS.items():
        right = bool(rng.random() < p_right[stage])
        confidence = -0.05 if right == (rng.random() < 0.9) else -2.0
        ms = 1e3 * (call + prompt * n_prompt + token * n)
        counts = {"latency_ms": ms, "tokens_in": n_prompt, "tokens_out": n}
        outputs[stage] = {"score": int(right), "response": "x", "confidence": confidence, **counts}
    return {"id": f"q{i}", "dataset": "made-up", "prompt": f"add {i} and {n}", "outputs": outputs}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, rng = tmp_path_factory.mktemp("contest") / "recorded.jsonl", np.random.default_rng(4)
    path.write_text("\n".join(json.dumps(line(i, rng)) for i in range(480)))
    return path


def test_prices_are_those_that_made_the_seconds(recorded: Path) -> None:
    traces = read_timed([recorded], ["S", "L"])
    for stage in priced_ladder(traces, ["S", "L"]).stages:
        prices = stage.prices
        found = (prices.per_call, prices.per_prompt_token, prices.per_decoded_token)
        assert found == pytest.approx([1e3 * part for part in SECONDS[stage.name]], abs=1e-6)
    draft = traces[3].outcomes["L"].draft
    expected = 0.3 + 0.001 * draft.usage.n_prompt + 0.05 * draft.usage.n_decoded
    assert draft.seconds == pytest.approx(expected)


def test_queries_without_seconds_are_left_out(tmp_path: Path) -> None:
    """A null confidence is the lowest there is; what has no time of some stage cannot be replayed."""
    rng = np.random.default_rng(1)
    first, second = line(0, rng), line(1, rng)
    first["outputs"]["S"]["confidence"] = None  # type: ignore[index]
    del second["outputs"]["L"]["latency_ms"]  # type: ignore[attr-defined]
    path = tmp_path / "r.jsonl"
    path.write_text(f"{json.dumps(first)}\n{json.dumps(second)}\n")
    [trace] = read_timed([path], ["S", "L"])
    assert trace.outcomes["S"].draft.signals == {"confidence": -50.0}
    path.write_text(json.dumps(second))
    with pytest.raises(DataError, match="none of 1 queries has score, latency_ms"):
        read_timed([path], ["S", "L"])


@pytest.mark.parametrize(("devices", "total"), [((1, 4, 8), 24), ((2, 3), 13), ((1, 4, 8), 12), ((5,), 11)])
def test_placements_are_all_that_leave_no_replica_s_room(devices: tuple[int, ...], total: int) -> None:
    """Beside all combinations, filtered: nothing smaller than a replica of the first stage is left over."""
    everything = product(*(range(1, total // size + 1) for size in devices))
    used = {n: sum(a * b for a, b in zip(n, devices, strict=True)) for n in everything}
    assert set(placed(devices, total)) == {n for n, u in used.items() if total - devices[0] < u <= total}


def asked(**others: object) -> ContestHeader:
    parts = {"stages": ("S", "L"), "devices": (1, 2), "total": 4, "loads": (0.8,), "arrivals": ("poisson",)}
    return ContestHeader(**(parts | {"keep": 0.95, "n_requests": 400, "n_queries": 480} | others))  # type: ignore[arg-type]


FEW = {
    "static": ("static:0.3", "static:0.7", "static:0.99"),
    "gears": ("always:S",),
    "queue": ("queue:20:1:0.5", "queue:80:1:1"),
}


@pytest.fixture(scope="module")
def held(recorded: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ContestFile, Path]:
    """Two days of a contest, and the file that it was kept in."""
    path = tmp_path_factory.mktemp("held") / "contest.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contest, "SETTINGS", FEW)
        return run_contest(asked(), read_timed([recorded], ["S", "L"]), [1, 2], path), path


@pytest.mark.slow
def test_all_policies_get_the_same_traffic(held: tuple[ContestFile, Path]) -> None:
    found, _ = held
    [cell] = found.cells
    for day in (1, 2):
        totals = [found.totals(cell, name)[day] for name in (LARGEST, "static", "queue")]
        assert len({(t.n_arrived, t.seconds) for t in totals}) == 1
        assert totals[0].n_arrived == 400
    first, second = (found.totals(cell, LARGEST)[day].seconds for day in (1, 2))
    assert first != second
    alone = found.totals(cell, LARGEST)[1].stages
    assert alone["L"].utilisation == pytest.approx(0.8, abs=0.12)
    assert alone["S"].n_visits == 0


@pytest.mark.slow
def test_a_policy_is_tuned_to_the_quality_or_is_out(held: tuple[ContestFile, Path]) -> None:
    """Of the settings that keep the floor the fastest is taken; where none does, there are no days."""
    found, _ = held
    [cell] = found.cells
    texts = {(t.name, t.quarter): t.text for t in found.tuned}
    assert texts.keys() == {(name, quarter) for name in FEW for quarter in (1, 2)}
    assert texts["static", 1]
    assert not texts["gears", 1]  # what S alone answers is too often wrong
    assert not found.totals(cell, "gears")
    for name in ("static", "queue"):
        ours, theirs = found.totals(cell, name), found.totals(cell, LARGEST)
        kept = np.mean([ours[day].quality / theirs[day].quality for day in ours])
        assert kept > 0.9
        assert np.mean([t.p95_s for t in ours.values()]) < np.mean([t.p95_s for t in theirs.values()])


@pytest.mark.slow
def test_foresight_keeps_the_quality_of_the_day_itself(held: tuple[ContestFile, Path]) -> None:
    """Which the tuned may miss; the oracle asks one stage a request, and is faster than what has to look."""
    found, _ = held
    [cell] = found.cells
    for day in (1, 2):
        ours, oracle = (found.totals(cell, name)[day] for name in ("queue", "oracle"))
        assert oracle.keeps(0.94)
        assert (oracle.p95_s or 0.0) < (ours.p95_s or 0.0)
        assert sum(stage.n_visits for stage in oracle.stages.values()) == oracle.n_arrived
        assert found.totals(cell, "hindsight")[day].keeps(0.94)
    assert not {t.name for t in found.tuned} & FORESIGHT.keys()


@pytest.mark.slow
def test_the_best_rival_is_the_fastest_of_each_day(held: tuple[ContestFile, Path]) -> None:
    """Of those that are there: gears reached no quality, ours is none of them."""
    found, _ = held
    [cell] = found.cells
    static = found.totals(cell, "static")
    assert found.best_rival(cell) == static
    faster = contest.Day(
        cell=cell, day=2, name="price", total=msgspec.structs.replace(static[2], p95_s=0.001)
    )
    more = msgspec.structs.replace(found, days=(*found.days, faster))
    assert more.best_rival(cell) == {1: static[1], 2: faster.total}


def test_an_interval_is_over_quarters_not_over_days() -> None:
    """Days 1, 5 and 9 are of one quarter, days 2 and 6 of another: means of 2 and 5, however many days."""
    found = over_quarters({1: 1.0, 5: 2.0, 9: 3.0, 2: 4.0, 6: 6.0})
    assert found.value == pytest.approx(3.5)
    assert found.half == pytest.approx(12.706204736 * 1.5)  # t of one degree of freedom x 1.5
    assert over_quarters({1: 1.0, 5: 2.0}) == (1.5, 0.0)


def test_a_margin_is_the_bound_of_one_in_four() -> None:
    """Student's 0.816 of two degrees of freedom at 75 %; without a margin the mean."""
    values = [0.0, 0.1, 0.2]
    assert contest._lower_bound(values, 0.75) == pytest.approx(0.1 - 0.816496580928 * 0.1 / 3**0.5)
    assert contest._lower_bound(values, 0.5) == pytest.approx(0.1)


@pytest.mark.slow
def test_a_setting_that_barely_reaches_the_floor_is_not_taken(recorded: Path) -> None:
    """What might be at it is taken at 1 % confidence and not at 99; what is at it for sure at any."""
    play = contest._ContestRun(asked(keep=1.0), read_timed([recorded], ["S", "L"]), {}, {})
    place, [cell] = play.quarter(1), ContestFile(asked=play.asked).cells
    traffic = play.traffic(cell, place.tuning, 7, 400)
    tries = [contest._Setting(text, (2, 1)) for text in ("always:L", "static:0.7")]
    for confidence, taken in ((0.01, ["always:L", "static:0.7"]), (0.99, ["always:L"])):
        found = play._tried(place, place.tuning, tries, confidence, traffic)
        assert [setting.text for _, setting in found] == taken


@pytest.mark.slow
def test_a_contest_is_gone_on_from(held: tuple[ContestFile, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in the file is neither tuned nor run again; another contest is refused."""
    found, path = held
    monkeypatch.setattr(contest, "SETTINGS", FEW)
    monkeypatch.setattr(contest._ContestRun, "quarter", lambda *_: pytest.fail("made again"))
    steps: list[None] = []
    assert run_contest(asked(), [], [1, 2], path, lambda: steps.append(None)) == found
    assert len(steps) == 2 * (1 + len(FEW) + len(FORESIGHT))
    with pytest.raises(ConfigError, match="another contest"):
        run_contest(asked(keep=0.9), [], [1], path)


def test_fitted_tuned_and_judged_queries_are_apart(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In every quarter half of the queries are fitted on, and the judged quarters are all queries in turn."""
    fitted: list[set[str]] = []
    real = contest.fit

    def noted(rows: Sequence[Trace], *others: Any, **named: Any) -> PolicyArtifact:
        fitted.append({trace.query.id for trace in rows})
        return real(rows, *others, **named)

    monkeypatch.setattr(contest, "fit", noted)
    play, judged = contest._ContestRun(asked(), read_timed([recorded], ["S", "L"]), {}, {}), set[str]()
    for number in range(4):
        place = play.quarter(number)
        parts = [{s.trace.query.id for s in drawn.queries} for drawn in (place.tuning, place.judged)]
        assert [len(part) for part in (fitted[number], *parts)] == [240, 120, 120]
        assert len(set.union(fitted[number], *parts)) == 480
        judged |= parts[1]
    assert len(judged) == 480


def test_recorded_clients_come_at_the_rate_asked_for(tmp_path: Path, recorded: Path) -> None:
    """However their own rates are: time is stretched; too short a recording is refused."""
    path = tmp_path / "clients.csv.gz"
    rows = [f"c{c},{600 * w},{0.2 + 0.1 * c},G,0.3" for w in range(40) for c in range(5)]
    with gzip.open(path, "wt") as file:
        file.write("\n".join(["client,t_s,rate_rps,family,shape", *rows]))
    instants = bursts(read_clients(path), 0.8, 500, np.random.default_rng(2))
    assert len(instants) == 500
    assert instants[-1] - instants[0] == pytest.approx(500 / 0.8)
    assert np.var(np.diff(instants)) > 1.5 * np.mean(np.diff(instants)) ** 2  # burstier than Poisson
    with pytest.raises(DataError, match="ask for fewer"):
        bursts(read_clients(path), 0.8, 10**6, np.random.default_rng(2))
    play = contest._ContestRun(asked(), read_timed([recorded], ["S", "L"]), {}, {})
    cell = contest.LoadCell(rho=0.5, arrivals=str(path))
    came = play.traffic(cell, play.quarter(0).judged, 3, 200)
    assert len(came.instants) == len(came.queries) == 200
    assert np.var(np.diff(came.instants)) > 1.5 * np.mean(np.diff(came.instants)) ** 2


def command(recorded: Path, *more: str) -> Result:
    asked = ["contest", str(recorded), "--stages", "S,L", "--days", "1", "--requests", "300", *more]
    return CliRunner().invoke(main, asked)


@pytest.mark.slow
def test_the_table(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every policy, and ours beside each of the others, paired by day."""
    monkeypatch.setattr(contest, "SETTINGS", FEW)
    others = {"one step": (), "price": (), "router": (), "published": ()}
    monkeypatch.setattr("asd.cli.research.contest.SETTINGS", FEW | others)
    found = command(recorded, "--devices", "1,2", "--total", "4", "--loads", "0.8", "--keep", "0.9")
    assert found.exit_code == 0, found.output
    assert "P95 of always / P95 of queue = " in found.output
    assert "P95 of static / P95 of queue = " in found.output
    assert "gears: no setting reached 0.9 of the largest stage's quality" in found.output
    assert "provenance: simulated, with recorded outcomes" in found.output


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--devices", "1", "--total", "4"], "give 2 whole numbers"),
        (["--devices", "1,2", "--total", "2"], "do not hold a replica of every stage"),
        (["--devices", "1,2", "--total", "4", "--loads", "1.2"], "between 0 and 1"),
        (["--devices", "1,2", "--total", "4", "--keep", "nan"], "--keep must be a finite number"),
        (["--devices", "1,2", "--total", "4", "--keep", "98"], "--keep 98: a share"),
        (["--devices", "1,2", "--total", "4", "--arrivals", ","], "give poisson or files"),
        (["--devices", "1,2", "--total", "4", "--arrivals", "no.csv"], "cannot read arrivals"),
    ],
)
def test_what_makes_no_contest_is_refused(recorded: Path, more: list[str], message: str) -> None:
    found = command(recorded, *more)
    assert found.exit_code == 2
    assert message in found.output
