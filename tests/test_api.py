"""The short way in: `asd.load`, `asd.collect`, `asd.fit`, on the embedded ladder."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec
import numpy as np
import pytest

import asd
from asd.errors import ConfigError
from asd.guarantee.record import EVERYTHING, Grant, Guarantee
from asd.ladder import TINY_POLICY, Ladder
from asd.policies import FixedStage
from asd.types import Action

pytestmark = pytest.mark.usefixtures("one_thread")


def test_two_lines_answer() -> None:
    """A text in, a completion out; closing gives the models back."""
    with asd.load("tiny", quality=0.95) as cascade:
        completion = cascade("add 12+30")
        assert completion.text.endswith("42")
        assert [c.text for c in cascade.run(["add 12+30", "add 12+30"])] == [completion.text] * 2
        assert cascade.form.kind == asd.load_policy(TINY_POLICY).model.forms[0]
    assert "Cascade(S -> M -> L, optimal(lam=" in repr(cascade)


@pytest.mark.parametrize("policy", [None, TINY_POLICY, str(TINY_POLICY), asd.load_policy(TINY_POLICY)])
def test_a_policy_is_a_file_or_what_it_holds(policy: object) -> None:
    """By default the ladder's own; without lam or quality, lam is 5."""
    assert asd.load(Ladder.load("tiny"), policy=policy).policy.name == "optimal(lam=5)"


def test_any_policy_will_do() -> None:
    """One that was not fitted has nothing to choose by lam or quality."""
    assert asd.load("tiny", policy=FixedStage("M"))("add 12+30").stage == "M"
    with pytest.raises(ConfigError, match=r"policy 'always\(M\)' is not a fitted one; leave lam"):
        asd.load("tiny", policy=FixedStage("M"), lam=2)


def test_prices_are_those_of_the_batch_size() -> None:
    """What the policy reckons with is what completions are charged."""
    ladder = Ladder.load("tiny")
    cascade = asd.load(ladder, batch=4)
    assert cascade.prices == ladder.prices_at(4) != ladder.prices_at(1)


def test_a_ladder_without_a_policy_says_how_to_make_one() -> None:
    """Presets other than the embedded one come without."""
    with pytest.raises(ConfigError, match=r"'llama2' comes without a policy; make one with .asd collect."):
        asd.load("llama2")


def test_a_quality_that_nothing_keeps_is_the_largest_stages(caplog: pytest.LogCaptureFixture) -> None:
    """And it is said."""
    with caplog.at_level(logging.WARNING, "asd"):
        cascade = asd.load("tiny", quality=1.0)
    if cascade.policy == FixedStage("L"):
        assert "L alone" in caplog.text
    else:
        assert not caplog.records


@pytest.mark.slow
def test_from_questions_to_a_policy_in_three_lines(tmp_path: Path) -> None:
    """Collected, continued, fitted from rows or from their file, saved and used."""
    asked = {"workloads": ["tiny-arithmetic"], "limit": 100, "out": str(tmp_path / "t.jsonl")}
    traces = asd.collect("tiny", **asked)
    assert asd.collect("tiny", **asked) == traces
    policy = asd.fit(traces)
    again = asd.fit(asked["out"])
    assert (policy.model, policy.problem) == (again.model, again.problem)
    policy.save(str(tmp_path / "policy.json"))
    with asd.load("tiny", policy=str(tmp_path / "policy.json"), lam=50) as cascade:
        assert cascade("add 12+30").text.endswith("42")


def test_files_and_outcomes_are_not_mixed(tmp_path: Path) -> None:
    """It would be unclear which rows are meant."""
    trace = asd.Trace(asd.Query("1", "d", "p"), {})
    with pytest.raises(ConfigError, match="files or outcomes, not both"):
        asd.fit([trace, tmp_path / "t.jsonl"])


def test_what_is_shown_of_a_policy_is_short() -> None:
    """In a prompt one line; in a notebook the table of what each lam is worth."""
    policy = asd.load_policy(TINY_POLICY)
    shown = [policy, policy.fit, policy.problem, policy.model, policy.policy(5.0), policy.graph()]
    assert all(len(repr(thing)) < 200 for thing in shown)
    table = policy._repr_html_()
    assert table.count("<tr>") == len(policy.fit.replayed) + 1
    first = policy.fit.replayed[0]
    assert f"<td>{first.lam:g}</td><td>{first}</td>" in table


def test_a_rule_chooses_the_first_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another stage than the policy's own; the complexity rule reads how busy the largest one is."""
    query, use = asd.Query("q", "d", "Prove the theorem"), {"L": 0.0}
    monkeypatch.setattr(asd.Cascade, "utilisation", lambda _, stage: use[stage])
    plain, ruled = (asd.load("tiny", lam=1, route=route).policy for route in (None, "complexity"))
    assert plain.decide(query, {}).action != Action.draft("L")
    assert ruled.decide(query, {}).action == Action.draft("L")
    use["L"] = 0.6  # the bar is 0.6 - (0.8 - 0.6) = 0.4, and the prompt scores 0.409
    assert ruled.decide(query, {}).action == Action.draft("L")
    use["L"] = 0.65
    assert ruled.decide(query, {}) == plain.decide(query, {})


def test_a_rule_goes_with_a_lam() -> None:
    """Quality was measured without one; policies that were not fitted have no stages to choose among."""
    with pytest.raises(ConfigError, match="a route needs a lam"):
        asd.load("tiny", quality=0.95, route="taxonomy")
    with pytest.raises(ConfigError, match="is not a fitted one; leave lam, quality and route out"):
        asd.load("tiny", policy=FixedStage("M"), route="taxonomy")


def test_draws_are_outside_of_the_guarantee(caplog: pytest.LogCaptureFixture) -> None:
    """Guarantees are made on greedy outcomes: with a temperature it is said that none holds."""
    fitted = asd.load_policy(TINY_POLICY)
    grant = Grant(
        stage="L", n=500, lam=5.0, p_value=0.01, n_needed=None, quality=0.97, stage_quality=0.98, cost=0.3,
        stage_cost=1.0, watched={},
    )  # fmt: skip
    guarantee = Guarantee(
        keep=0.95, cap_cost=None, cost_bound=3.0, delta=0.1, n_lams=1, grants={EVERYTHING: grant}
    )
    promised = msgspec.structs.replace(fitted, guarantee=guarantee)
    with caplog.at_level(logging.WARNING, "asd"):
        asd.load("tiny", policy=promised)
        assert not caplog.text
        asd.load("tiny", policy=promised, sampling=asd.Sampling(0.7, np.random.default_rng(0)))
    assert "the guarantee is for temperature 0; at 0.7 it does not hold" in caplog.text
    with pytest.raises(ConfigError, match="needs a random generator"):
        asd.load("tiny", sampling=asd.Sampling(0.7))
