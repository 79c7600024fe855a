"""`asd simulate`: the table, the file that runs go on from, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from click.testing import CliRunner, Result

from asd.cli import main
from asd.ladder import Ladder
from asd.operations.books import Summary
from asd.operations.control.contenders import cheapest_in_time
from asd.operations.runs import Runs, Scenario, runs_of
from asd.operations.sizing import Need, Sizing
from asd.policy.fit import fit
from asd.traces import StageHeader, TraceHeader, encode_header, encode_trace, read_traces
from tests.worlds import sample, verified

LADDER = """
name = "made-up"
price_unit = "ms"
prices_measured = "never: made up for a test"
[[stages]]
name = "S"
model = "made-up/S"
prices = { per_call = 0.0, per_prompt_token = 0.0, per_decoded_token = 1.0 }
batched.4 = { per_call = 0.0, per_prompt_token = 0.0, per_decoded_token = 0.5 }
[[stages]]
name = "L"
model = "made-up/L"
prices = { per_call = 0.0, per_prompt_token = 0.0, per_decoded_token = 5.0 }
batched.4 = { per_call = 0.0, per_prompt_token = 0.0, per_decoded_token = 2.5 }
"""


class Place(NamedTuple):
    """Files of a small cascade."""

    ladder: Path
    policy: Path
    traces: Path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("simulate")
    found = Place(folder / "made-up.toml", folder / "policy.json", folder / "traces.jsonl")
    found.ladder.write_text(LADDER)
    rng = np.random.default_rng(7)
    traces = verified(sample(240, rng)[0], rng)
    fit(traces, Ladder.load(found.ladder), fitted_at="2026-01-01").save(found.policy)
    stages = {s: StageHeader(model=s, revision="1", dtype="auto", chat_template=False) for s in "SL"}
    header = TraceHeader(ladder="made-up", stages=stages, datasets=("made-up",), split="fit")
    found.traces.write_bytes(encode_header(header) + b"".join(map(encode_trace, traces)))
    return found


def simulate(place: Place, *more: str) -> Result:
    files = [str(place.traces), "--ladder", str(place.ladder), "--policy", str(place.policy)]
    return CliRunner().invoke(main, ["simulate", *files, "--batch", "4", "--hours", "0.1", *more])


def test_the_table(place: Place) -> None:
    """One row a policy, its own provenance, and what the run took."""
    found = simulate(place, "--arrivals", "poisson:20", "--policies", "optimal:8,always:L,static:0.9")
    assert found.exit_code == 0, found.output
    assert re.search(r"^optimal\(lam=8\) +1 +7,\d{3} +0\.", found.output, re.MULTILINE)
    assert re.search(r"^always\(L\) .* S:0% L:\d\d%", found.output, re.MULTILINE)
    assert "provenance: simulated" in found.output
    assert re.search(r"requests in [\d.]+ s of one core, at most \d+ MiB", found.output)


def test_a_ladder_in_money_takes_its_recorded_seconds(place: Place, tmp_path: Path) -> None:
    """One query a call; the policy sees queues, a load has no seconds unless they are said."""
    in_money = Place(tmp_path / "made-up.toml", tmp_path / "policy.json", place.traces)
    in_money.ladder.write_text(LADDER.replace('"ms"', '"usd"'))
    fit(read_traces(place.traces), Ladder.load(in_money.ladder), fitted_at="2026-01-01").save(in_money.policy)
    asked = ("--arrivals", "poisson:5", "--policies", "queue:5:1,always:S")
    found = simulate(in_money, *asked, "--batch", "1")
    assert found.exit_code == 0, found.output
    [mean] = re.findall(
        r"^always\(S\) .* (\S+) +\S+ +\S+ +0\.00% +\d+ +S:\d+% L:0%", found.output, re.MULTILINE
    )
    assert 0.13 < float(mean) < 0.17  # M/D/1 at half load: 0.1 s and half of that
    for more, said in (((), "not of 4: give --batch 1"), (("--scale", "S:1:2"), "no price says how long")):
        refused = simulate(in_money, *asked, *(more and ("--batch", "1")), *more)
        assert refused.exit_code == 2
        assert said in refused.output


def test_stages_share_a_device_that_holds_one_of_them(place: Place) -> None:
    """Loads are part of use; always the same stage loads once."""
    asked = ("--arrivals", "poisson:5", "--policies", "queue:5:1,always:L", "--resident", "1:0.2")
    found = simulate(place, *asked)
    assert found.exit_code == 0, found.output
    assert re.search(r"^always\(L\) .* S:0% L:\d\d%", found.output, re.MULTILINE)
    for more, said in (("1", "no price says how long"), ("1:2:3", "write N")):
        refused = simulate(place, *asked[:-1], more)
        assert refused.exit_code == 2
        assert said in refused.output
    assert "leave --scale and --resident out" in simulate(place, *asked, "--plan", "1").output


def test_runs_are_kept_and_not_made_twice(place: Place, tmp_path: Path) -> None:
    """A second seed is added to the file, the first stays; another scenario is refused."""
    out = tmp_path / "runs.json"
    asked = ("--arrivals", "poisson:5", "--policies", "always:S", "--json", str(out))
    assert simulate(place, *asked).exit_code == 0
    first = json.loads(out.read_text())["runs"]
    assert simulate(place, *asked, "--seeds", "2").exit_code == 0
    record = json.loads(out.read_text())
    assert [run["seed"] for run in record["runs"]] == [1, 2]
    assert record["runs"][0] == first[0] != record["runs"][1]
    assert record["provenance"] == "simulated"
    for run in record["runs"]:  # as a version wrote them that did not know the largest stage's score
        for part in (run["total"], *run["windows"]):
            assert 0.0 < part.pop("reference") <= 1.0
    out.write_text(json.dumps(record))
    found = simulate(place, *asked, "--seeds", "2")
    assert found.exit_code == 0, found.output
    assert "no data" in found.output
    other = simulate(place, *asked, "--batch", "2")
    assert other.exit_code == 2
    assert "holds runs of another scenario" in other.output


def test_a_mix_is_kept_with_the_runs(place: Place, tmp_path: Path) -> None:
    """Easy ones alone are answered rightly by S, no stage is between S and L; another mix is refused."""
    out = tmp_path / "runs.json"
    asked = ("--arrivals", "poisson:5", "--policies", "always:S", "--json", str(out))
    found = simulate(place, *asked, "--mix", "100,0,0")
    assert found.exit_code == 0, found.output
    assert re.search(r"^mix 100,0,0 of \d+ easy, 0 medium and \d+ hard recorded", found.output, re.MULTILINE)
    record = json.loads(out.read_text())
    assert record["asked"]["mix"] == "100,0,0"
    assert record["runs"][0]["total"]["quality"] == 1.0
    other = simulate(place, *asked, "--mix", "50,0,50")
    assert other.exit_code == 2
    assert "holds runs of another scenario" in other.output


def test_hours_of_devices_are_printed_where_a_stage_is_scaled(place: Place) -> None:
    """Two stages for .1 h, and what L has more; no column where none is scaled, none with a plan."""
    asked = ("--arrivals", "poisson:60", "--policies", "always:L", "--batch", "1")
    found = simulate(place, *asked, "--scale", "L:1:3:30")
    assert found.exit_code == 0, found.output
    assert found.output.splitlines()[0].endswith("device-hours")
    [row] = [line.split() for line in found.output.splitlines() if line.startswith("always(L)")]
    assert 0.2 < float(row[-1]) <= 0.4
    assert "device-hours" not in simulate(place, *asked).output
    refused = simulate(place, *asked, "--scale", "L:1:3:30", "--plan", "1")
    assert "leave --scale and --resident out" in refused.output


def test_a_closed_loop_obeys_its_law(place: Place) -> None:
    found = simulate(place, "--users", "8:0.5", "--policies", "always:S")
    [product] = re.findall(r"X \(R \+ Z\) = ([\d.]+) of 8 users", found.output)
    assert float(product) == pytest.approx(8, rel=0.05)


def test_faults_and_refusals(place: Place) -> None:
    """With the only stage of a policy down half the time, half of the requests end without an answer."""
    found = simulate(place, "--arrivals", "poisson:5", "--policies", "always:S", "--fault", "down:S:0:180")
    [errors] = re.findall(r"(\d+\.\d+)%", found.output)
    assert float(errors) == pytest.approx(50, abs=5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--policies", "best:1"), "'best:1' is no policy"),
        (("--policies", "optimal:much"), "'optimal:much' is no policy"),
        (("--arrivals", "poisson"), "arrivals 'poisson' are none"),
        (("--arrivals", "poisson:x"), "'x' is no number"),
        (("--arrivals", "poisson:-1"), "positive number of requests"),
        (("--arrivals", "day:0"), "positive number, not 0"),
        (("--arrivals", "bursts:-2"), "positive number, not -2"),
        (("--arrivals", "day", "--users", "2:1"), "not both"),
        (("--users", "two"), "write N:THINK_SECONDS"),
        (("--mix", "70,30"), "write EASY,MEDIUM,HARD"),
        (("--mix", "70,25,5"), "are to be medium, but none of the 240 recorded"),
        (("--users", "0:1"), "needs a user"),
        (("--replicas", "X=2"), "--replicas 'X=2'"),
        (("--mtbf", "L=1"), "--mtbf 'L=1'"),
        (("--mtbf", "X=1:1"), "there is no such stage"),
        (("--fault", "slow:L"), "is no fault"),
        (("--hours", "nan"), "--hours must be a finite number, as 0.5, not nan"),
        (("--hours", "inf"), "--hours must be a finite number, as 0.5, not inf"),
        (("--plan", "0.5", "--policies", "always:Z"), "there is no stage 'Z'"),
        (("--plan", "0.5", "--most-devices", "1", "--policies", "always:S,best:1"), "'best:1' is no policy"),
        (("--arrivals", "absent.csv"), "cannot read arrivals"),
    ],
)
def test_what_cannot_be_run_is_refused(place: Place, options: tuple[str, ...], message: str) -> None:
    found = simulate(place, *options)
    assert found.exit_code == 2
    assert message in found.output


@pytest.mark.parametrize(
    ("text", "rate", "message"),
    [
        ("t_s\n5\n", ":2", "single instant"),
        ("t_s\n5\n9\n", ":0", "positive rate a second, not 0"),
        ("t_s\n5\nx\n", "", "'x' in column t_s"),
        ("client,t_s,rate_rps,family,shape\na,0,x,G,1\nb,600,1,G,1\n", "", "'x' in column rate_rps"),
        ("pool,t_s,rate_rps\na,0,3\na,600,4\n", "", "is a window of time (column rate_rps)"),
        ("t_s\n0\n1\n300\n", "", "ends after 300 s, the run after 360 s"),
    ],
)
def test_recordings_that_cannot_be_played_are_refused(
    place: Place, tmp_path: Path, text: str, rate: str, message: str
) -> None:
    """Among them clients with a fault in a row, which are not taken for instants."""
    (tmp_path / "recorded.csv").write_text(text)
    found = simulate(place, "--arrivals", f"{tmp_path / 'recorded.csv'}{rate}")
    assert found.exit_code == 2
    assert message in found.output


@pytest.mark.parametrize(
    ("asked", "run"),
    [
        ("static:0.1,static:0.9,always:S,always:L", ["walk(p", "always(L)"]),
        ("static:0.9,always:S", ["walk(p"]),
    ],
)
def test_settings_at_equal_quality(place: Place, asked: str, run: list[str]) -> None:
    """Of several settings of a name one is run, and a name that cannot reach the quality is left out."""
    found = simulate(place, "--arrivals", "poisson:5", "--policies", asked, "--at-quality", "0.98")
    assert found.exit_code == 0, found.output
    rows = [line.split()[0] for line in found.output.splitlines() if line.startswith(("walk", "always"))]
    assert [row.partition(">")[0] for row in rows] == run


def asked_ids(scenario: Scenario) -> set[str]:
    return {situation.trace.query.id for situation in scenario.population.queries}


def test_settings_are_chosen_on_queries_that_are_not_reported_on(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every query is in one half; what the largest stage scores on the queries of the run is printed."""
    chosen, reported = [], []

    def choose(scenario: Scenario, *others: Any, **more: Any) -> list[str]:
        chosen.append(scenario)
        assert others[0].population is scenario.population
        return cheapest_in_time(scenario, *others, **more)

    def run(scenario: Scenario, *others: Any) -> Runs:
        reported.append(scenario)
        return runs_of(scenario, *others)

    monkeypatch.setattr("asd.cli.simulate.cheapest_in_time", choose)
    monkeypatch.setattr("asd.cli.simulate.runs_of", run)
    asked = ("--arrivals", "poisson:5", "--policies", "static:0.9,always:L", "--at-quality", "0.9")
    found = simulate(place, *asked)
    assert found.exit_code == 0, found.output
    [tried], [judged] = chosen, reported
    assert not asked_ids(tried) & asked_ids(judged)
    assert asked_ids(tried) | asked_ids(judged) == {f"q{i}" for i in range(240)}
    assert judged.asked.n_queries == len(judged.population.queries) == 120
    [row] = re.findall(r"^always\(L\) +1 +[\d,]+ +([\d.]+) +([\d.]+)", found.output, re.MULTILINE)
    assert row[0] == row[1]  # L, and what L scores on the same queries


@pytest.mark.slow
@pytest.mark.parametrize("keeps", [True, False])
def test_a_plan_is_chosen_on_queries_that_it_is_not_reported_on(
    place: Place, monkeypatch: pytest.MonkeyPatch, keeps: bool
) -> None:
    """The last run of each policy is the reported one, on the other half and on traffic of its own; whether
    it kept the need is asked of that run.
    """
    needs: list[tuple[Summary, Need]] = []
    runs: list[tuple[int, set[str], Summary]] = []
    played = Sizing.run

    def run(sizing: Sizing, text: str, replicas: Mapping[str, int]) -> Summary:
        runs.append((sizing.seed, asked_ids(sizing.scenario), played(sizing, text, replicas)))
        return runs[-1][-1]

    def kept(total: Summary, need: Need) -> bool:
        needs.append((total, need))
        return keeps

    monkeypatch.setattr(Sizing, "run", run)
    monkeypatch.setattr("asd.cli.simulate.keeps", kept)
    asked = ("--plan", "0.3", "--at-quality", "0.9", "--arrivals", "poisson:30", "--policies", "static:0.9")
    found = simulate(place, *asked)
    assert found.exit_code == 0, found.output
    *tried, (seed, judged, total) = runs
    assert tried
    assert all(other != seed and not queries & judged for other, queries, _ in tried)
    [row] = [line.split() for line in found.output.splitlines() if line.startswith("static:0.9")]
    assert row[-3] == f"{total.quality:.3f}"
    assert row[-1] == ("yes" if keeps else "no")
    assert needs == [(total, Need(0.3, 0.9))]
    assert f"{total.reference:.3g}" == row[-2]


def test_what_deciding_takes_is_printed_and_kept(place: Place, tmp_path: Path) -> None:
    """Of policies that decide from tables: solutions come every 30 s, and before the first."""
    out = tmp_path / "runs.json"
    found = simulate(place, "--arrivals", "poisson:5", "--policies", "queue:5:1,always:S", "--json", str(out))
    assert found.exit_code == 0, found.output
    assert re.search(
        r"^queue-aware.*: [\d,]+ decisions of [\d.]+ micros.*solved 13 times", found.output, re.MULTILINE
    )
    queue_aware, always = json.loads(out.read_text())["runs"]
    assert queue_aware["effort"]["n_decisions"] > queue_aware["total"]["n_arrived"]
    assert queue_aware["effort"]["decision_s"] < 1e-4
    assert always.get("effort") is None


@pytest.mark.slow
def test_a_plan_of_devices(place: Place) -> None:
    """By policy, the fewest devices and where they go; more than are allowed is said."""
    asked = ("--plan", "0.3", "--at-quality", "0.9", "--arrivals", "poisson:60", "--most-devices", "4")
    found = simulate(place, *asked, "--policies", "always:L,queue:30:2,queue:60:2,always:S")
    assert found.exit_code == 0, found.output
    rows = [line.split() for line in found.output.splitlines() if line.startswith(("always", "queue"))]
    assert [row[0].partition(":")[0] for row in rows] == ["always", "queue"]
    for _, devices, *placed, p95, quality, largest, kept in rows:
        assert kept == "yes"
        assert sum(int(part.partition(":")[2]) for part in placed) == int(devices) <= 4
        assert float(p95) <= 0.3
        assert float(quality) >= 0.9 * float(largest) - 0.001
    assert "fewest devices for P95 <= 0.3 s" in found.output
    assert simulate(place, "--plan", "-1", "--policies", "always:L").exit_code == 2
