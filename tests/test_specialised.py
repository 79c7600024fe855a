"""Stages for some domains only, on the embedded ladder: asked for those queries, not there for all others."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from openai import BadRequestError

import asd
from asd.cascade import Cascade
from asd.cli import main
from asd.engines.closing import close_all
from asd.engines.registry import open_engines
from asd.engines.replay import ReplayEngine
from asd.errors import ConfigError
from asd.evaluation.live import run_live
from asd.evaluation.replay import Contender, Outcomes
from asd.explanation import explain
from asd.guarantee.certificate import play
from asd.ladder import PRESETS, TINY_POLICY, Ladder
from asd.measurement.timing import Budget
from asd.operations.control.deciders import Decider
from asd.operations.population import Population
from asd.policies import ClosedForm, FixedStage, Lossless, Policy, RandomMix, StaticWalk
from asd.policy import artifact
from asd.serving.endpoint.settings import SettingCache
from asd.testing import Script, ScriptedEngine
from asd.types import Completion
from tests import worlds
from tests.endpoint import client, running

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = Ladder.load("tiny")
MATHS, OTHER = "add 12+30", "reverse abcd"
ASKED_LAM = 5.0
STAGES = ("S", "M", "L")


def specialised(*stages: str, domain: str = "mathematical") -> Ladder:
    """The embedded ladder with these stages for one domain."""
    return replace(TINY, stages=tuple(replace(s, only=(domain,) * (s.name in stages)) for s in TINY.stages))


def fitted_for(ladder: Ladder) -> asd.PolicyArtifact:
    """The embedded policy as if it had been fitted on this ladder: its stages answer alike."""
    known = artifact.load(TINY_POLICY)
    return msgspec.structs.replace(
        known, ladder=msgspec.structs.replace(known.ladder, fingerprint=ladder.fingerprint)
    )


@pytest.fixture(scope="module")
def engines() -> Iterator[dict[str, asd.Engine]]:
    """Of the embedded ladder."""
    found = open_engines(TINY, "cpu")
    yield found
    close_all(found.values())


def named(completion: Completion) -> set[str]:
    """Stages that the policy valued or chose."""
    decisions = completion.decisions
    actions = {a for d in decisions for a in (d.action, *d.values)}
    return {action.stage for action in actions} - {asd.STOP.stage}


def test_its_own_domain_is_asked_as_ever_and_for_another_the_policy_never_names_it(
    engines: dict[str, asd.Engine],
) -> None:
    """The same walk as on the plain ladder, and the walk of the policy solved again without the stage."""
    policy = artifact.load(TINY_POLICY).policy(ASKED_LAM, ladder=TINY)
    plain = Cascade(engines, policy, TINY).run([MATHS, OTHER], 2)
    maths, other = Cascade(engines, policy, specialised("S")).run([MATHS, OTHER], 2)
    assert plain[0].stage == maths.stage
    assert [d.action for d in plain[0].decisions] == [d.action for d in maths.decisions]
    assert "S" in named(plain[1])
    assert "S" not in named(other)
    without = Cascade(engines, policy.without({"S"}), TINY)(OTHER)
    assert [d.action for d in without.decisions] == [d.action for d in other.decisions]
    assert (maths.left_out, other.left_out) == ((), ("S",))
    assert explain(other).splitlines()[-1] == "not asked: S, for other domains than conversational"
    assert "not asked" not in explain(maths)


@pytest.mark.parametrize(
    ("policy", "left", "calls"),
    [
        (RandomMix({"S": 1.0}, seed=0), ("S",), ["M"]),
        (RandomMix({"S": 1.0}, seed=0), ("S", "M"), ["L"]),
        (FixedStage("S"), ("S",), ["S"]),
    ],
)
def test_a_policy_that_cannot_do_without_goes_on_to_the_next_larger(
    engines: dict[str, asd.Engine], policy: Policy, left: tuple[str, ...], calls: list[str]
) -> None:
    """But a fixed stage is the one that was named."""
    completion = Cascade(engines, policy, specialised(*left))(OTHER)
    assert [draft.stage for draft in completion.drafts] == calls


def test_a_chain_of_drafts_leaves_it_out(engines: dict[str, asd.Engine]) -> None:
    """And still ends with what the largest stage writes."""
    completion = Cascade(engines, Lossless(("S", "M", "L")), specialised("M"))(OTHER)
    assert completion.text == Cascade(engines, FixedStage("L"), TINY)(OTHER).text
    assert "M" not in {call.stage for call in completion.bought}


def test_the_command_leaves_it_out_and_says_so(tmp_path: Path) -> None:
    """A ladder file, the policy fitted for it, `asd generate`."""
    text = (PRESETS / "tiny.toml").read_text()
    text = text.replace("../tiny/weights", str(PRESETS.parent / "tiny" / "weights"))
    text = text.replace("tiny-prices.json", str(PRESETS / "tiny-prices.json"))
    path, policy = tmp_path / "mine.toml", tmp_path / "policy.json"
    path.write_text(text.replace('name = "S"\n', 'name = "S"\nonly = { domain = ["mathematical"] }\n', 1))
    ladder = Ladder.load(path)
    assert ladder.only == {"S": frozenset({"mathematical"})}
    fitted_for(ladder).save(policy)
    line = ["generate", "--ladder", str(path), "--policy", str(policy), "--lam", "5", "--answers", "text"]
    told = CliRunner().invoke(main, [*line, OTHER, "--explain"])
    assert "not asked: S, for other domains than conversational" in told.output
    ran = CliRunner().invoke(main, [*line, MATHS, "--json"])
    found = json.loads(ran.stdout)
    assert found["left_out"] == []
    assert found["drafts"][0]["stage"] == "S"
    stale = CliRunner().invoke(main, ["generate", "--ladder", str(path), "--policy", str(TINY_POLICY), MATHS])
    assert stale.exit_code == 2
    assert "fitted on ladder" in stale.output


def test_recorded_outcomes_are_played_without_it() -> None:
    """By the guarantee, the harness and the simulator alike; queries of its domain as on the plain ladder."""
    rng = np.random.default_rng(5)
    plain, fitted = worlds.ladder(), worlds.fitted_verified()
    small, large = plain.stages
    traces = worlds.verified(worlds.sample(60, rng)[0], rng)
    policy, unit = fitted.policy(20.0), fitted.ladder.unit()
    ladder = replace(plain, stages=(replace(small, only=("mathematical",)), large))
    played = play(policy, traces, ladder, unit).completions
    timed = replace(ladder, price_unit="ms")
    population = Population(traces, timed, unit, 1)
    decider = Decider(population, policy)
    simulated = [[step.action for step in decider.walk(situation)] for situation in population.queries]
    outcomes = Outcomes("made-up", ladder, traces, unit)
    replays = [
        outcomes.walk(Contender("always-L", None, FixedStage("L"))),
        outcomes.walk(Contender("optimal", 20.0, policy)),
    ]
    recorded = {name: ReplayEngine(name, traces) for name in "SL"}
    live = run_live(ladder, recorded, replays, range(60), batch=1, passes=Budget(1), clock=time.perf_counter)
    replayed = replays[1].completions
    assert live.timed["optimal", 20.0].completions == replayed
    as_ever = play(policy, traces, plain, unit).completions
    for trace, one, walk, again, other in zip(traces, played, simulated, replayed, as_ever, strict=True):
        assert [d.action for d in one.decisions[:-1]] == walk == [d.action for d in again.decisions[:-1]]
        if trace.query.prompt.startswith("add"):
            assert one.decisions == other.decisions
        else:
            assert {draft.stage for draft in one.drafts} == {"L"}
            assert one.left_out == ("S",)
    assert {"S"} < {draft.stage for one in as_ever for draft in one.drafts}


def test_the_server_leaves_it_out() -> None:
    """A request that allows nothing else is refused, with the domain in the message."""
    script: Script = {MATHS: ("42.", (-0.01,)), OTHER: ("dcba.", (-0.01,))}
    fleet = {name: ScriptedEngine(name, script) for name in ("S", "M", "L")}
    ladder = specialised("S")
    with (
        running(fleet, SettingCache(fitted_for(ladder), ladder), ladder=ladder) as server,
        client(server) as asks,
    ):
        maths, other = (
            asks.chat.completions.create(model="asd", messages=[{"role": "user", "content": prompt}]).id
            for prompt in (MATHS, OTHER)
        )
        with pytest.raises(
            BadRequestError, match="S are for other domains than this prompt's, conversational"
        ):
            asks.chat.completions.create(
                model="asd",
                messages=[{"role": "user", "content": OTHER}],
                extra_body={"asd": {"stages": ["S"]}},
            )
    assert [query for call in fleet["S"].calls for query in call] == [maths]
    assert any(other in call for name in ("M", "L") for call in fleet[name].calls)


def test_climbs_and_chains_go_round_it_step_by_step() -> None:
    """Their own rules over what is left; nothing left is refused."""
    evidence = artifact.load(TINY_POLICY).policy(ASKED_LAM, ladder=TINY).evidence
    assert StaticWalk(STAGES, 0.8, evidence).without({"M"}).stages == ("S", "L")
    formula = ClosedForm(STAGES, (1.0, 2.0, 8.0), 1.0, evidence).without({"M"})
    assert formula.thresholds == ClosedForm(("S", "L"), (1.0, 8.0), 1.0, evidence).thresholds
    assert Lossless(STAGES).without({"M"}) == Lossless(("S", "L"))
    for policy in (StaticWalk(STAGES, 0.8, evidence), Lossless(STAGES)):
        with pytest.raises(ConfigError):
            policy.without(STAGES)
    with pytest.raises(ConfigError, match="the text is that of L"):
        Lossless(STAGES).without({"L"})
