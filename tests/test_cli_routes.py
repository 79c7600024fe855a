"""`asd routes` and `asd generate --route`: another first stage, another cost, and what that is worth."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from asd.collection import header_for
from asd.engines.revisions import revisions
from asd.evaluation.replay import Outcomes
from asd.evaluation.routes import effects
from asd.ladder import TINY_POLICY, Ladder
from asd.traces import read_header, read_traces
from asd.traces.log import TraceLog
from asd.types import Trace
from tests import worlds
from tests.models import save_random_model
from tests.test_cli import run, write_ladder
from tests.test_policy_route import predictor


def theorems(n: int) -> list[Trace]:
    """Rows of the made-up world whose prompts look complex to an idle largest stage only."""
    traces, _ = worlds.sample(n, np.random.default_rng(5))
    return [replace(t, query=replace(t.query, prompt=f"Prove the theorem {t.query.prompt}")) for t in traces]


def test_effects_are_those_of_the_largest_stage_where_all_goes_there() -> None:
    """Idle, L answers everything: its own mean score and cost, counted here. Busy, nothing changes."""
    rows, lam = theorems(40), 1.5
    outcomes = Outcomes("all", worlds.ladder(), tuple(rows), worlds.fitted().ladder.unit())
    plain, idle, busy = effects(outcomes, worlds.fitted(), ["complexity"], [lam])
    largest = [trace.outcomes["L"] for trace in rows]
    assert (plain.rule, idle.rule, busy.rule) == ("", "complexity, idle", "complexity, busy")
    assert idle.quality == np.mean([outcome.score for outcome in largest])
    costs = [5.0 * outcome.draft.usage.n_decoded / outcomes.unit for outcome in largest]
    assert idle.cost == pytest.approx(np.mean(costs))
    assert (busy.moved, busy.quality, busy.cost, busy.lost.estimate) == (0.0, plain.quality, plain.cost, 0.0)
    policy = worlds.fitted().policy(lam)
    first = [policy.decide(trace.query, {}).action.stage for trace in rows]
    assert idle.moved == first.count("S") / 40 > 0.5
    lost = lam * (plain.quality - idle.quality) - (plain.cost - idle.cost)
    assert idle.lost.estimate == pytest.approx(lost)
    assert idle.lost.low < lost < idle.lost.high


def test_a_rule_is_given_the_lam_of_the_policy(tmp_path: Path) -> None:
    """A predictor's rule begins with S where little is at stake; where much is, with L, at its cost."""
    rows = theorems(40)
    outcomes = Outcomes("all", worlds.ladder(), tuple(rows), worlds.fitted().ladder.unit())
    path = str(predictor(tmp_path))
    _, cautious, _, eager = effects(outcomes, worlds.fitted(), [path], [0.5, 200.0])
    tokens = np.array([trace.outcomes["L"].draft.usage.n_decoded for trace in rows])
    assert eager.cost == pytest.approx(5.0 * tokens.mean() / outcomes.unit)
    assert cautious.cost == pytest.approx(tokens.mean() / outcomes.unit)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ladder of two random models, its fitted policy, and rows of both splits."""
    folder = tmp_path_factory.mktemp("routes")
    ladder = Ladder.load(write_ladder(folder))
    for n_layers, name in enumerate(("S", "L"), start=1):
        save_random_model(folder / name, n_layers=n_layers, seed=n_layers)
    for split, rows in (
        ("fit", worlds.sample(150, np.random.default_rng(0), "fitting")[0]),
        ("test", theorems(40)),
    ):
        header = header_for(ladder, revisions(ladder), [], split)
        with TraceLog(
            folder / f"{split}.jsonl", msgspec.structs.replace(header, datasets=("made-up", "fitting"))
        ) as log:
            log.append(rows)
    done = run("fit", folder / "fit.jsonl", "--ladder", folder / "pair.toml", "--out", folder / "p.json")
    assert done.exit_code == 0, done.output
    return folder


def test_the_table_says_what_every_rule_changes(place: Path) -> None:
    """One line a rule and lam; the loss has an interval; rows that were fitted on are refused."""
    given = ("--ladder", place / "pair.toml", "--policy", place / "p.json", "--lam", "1.5")
    done = run("routes", place / "test.jsonl", *given)
    assert done.exit_code == 0, done.output
    for rule in ("the policy", "complexity, idle", "complexity, busy", "taxonomy"):
        assert rule in done.output
    assert "40 queries" in done.output
    assert "provenance: replayed" in done.output
    interval = r"[+-]\d\.\d{3} \([+-]\d\.\d{3} to [+-]\d\.\d{3}\)"
    assert len(re.findall(rf"^ *1\.500 .* {interval}$", done.output, re.MULTILINE)) == 3
    only = run("routes", place / "test.jsonl", *given, "--routes", "taxonomy").output
    assert "taxonomy" in only
    assert "complexity" not in only
    refused = run("routes", place / "fit.jsonl", *given)
    assert refused.exit_code == 2
    assert "holds rows of split 'fit'" in refused.output


def test_rows_without_a_score_are_left_out(place: Path, tmp_path: Path) -> None:
    """They are not counted; where no other is there it is an error, and so is another ladder's policy."""
    path, rows = tmp_path / "t.jsonl", read_traces(place / "test.jsonl")
    unscored = [
        replace(row, outcomes={name: replace(it, score=None) for name, it in row.outcomes.items()})
        for row in rows
    ]
    given = ("--ladder", place / "pair.toml", "--policy", place / "p.json", "--lam", "1.5")
    with TraceLog(path, read_header(place / "test.jsonl")) as log:
        log.append(unscored[:3])
        refused = run("routes", path, *given)
        log.append(rows[3:])
    assert refused.exit_code == 2
    assert "no query is answered and scored by every stage" in refused.output
    assert "37 queries" in run("routes", path, *given).output
    other = run("routes", path, *given, "--policy", TINY_POLICY)
    assert other.exit_code == 2
    assert "the policy was fitted on ladder 'tiny'" in other.output


def test_generate_begins_where_the_rule_says(place: Path) -> None:
    """The largest stage in place of the policy's own choice, at its price; without a lam it is refused."""
    given = ("--ladder", place / "pair.toml", "--policy", place / "p.json", "--device", "cpu")
    asked = ("generate", "Prove the theorem", *given, "--max-new-tokens", 4)
    plain, ruled = (
        json.loads(run(*asked, "--lam", "0.3", "--json", *route).stdout)
        for route in ((), ("--route", "complexity"))
    )
    assert (plain["drafts"][0]["stage"], ruled["drafts"][0]["stage"]) == ("S", "L")
    assert plain["cost"] < ruled["cost"]
    refused = run(*asked, "--route", "complexity")
    assert refused.exit_code == 2
    assert "a route needs a lam" in refused.output
