"""The policy of a vote of lists: its decisions, its way round failing stages, and its replay."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from asd.cascade import Cascade
from asd.engines.replay import ReplayEngine
from asd.errors import ConfigError, EngineError, PolicyMismatchError
from asd.evidence import Judgement
from asd.explanation import explain
from asd.policies import ListPolicy
from asd.prices import Prices
from asd.resilience import Health
from asd.stopping.lists import ListTable, RecordedRows, count
from asd.testing import FakeClock, Script, ScriptedEngine
from asd.types import STOP, Action, Draft, Outcome, Query, Trace, Usage, Verification

QUERY = Query("q", "d", "2+2=")
STAGES = ("S", "M", "L")


class Seen:
    """Evidence that reads the probability off the draft's one log-probability."""

    def judge(
        self, _query: Query, drafts: Mapping[str, Draft], _verification: Verification | None = None
    ) -> Judgement:
        p = {stage: float(np.exp(draft.logprobs[0])) for stage, draft in drafts.items()}
        return Judgement("+".join(p) or "root", 0, max(p, key=p.__getitem__, default=None), p, 1.0)


def draft(stage: str, p: float, n: int = 1) -> Draft:
    return Draft(stage, f"{stage} says so", (0,), (float(np.log(p)),), True, Usage(0, n, n), 0.0)


def table(*lists: tuple[int, int, float]) -> ListTable:
    """One draw a list, in which that list is worth 1 and the others nothing."""
    singles = [(k, k, -np.inf) for k in range(3)]
    first, second, threshold = (np.array(column) for column in zip(*lists, *singles, strict=True))
    worth = np.concatenate([np.eye(len(lists)), np.zeros((3, len(lists)))])
    return ListTable(first, second, threshold.astype(float), worth, np.zeros_like(worth))


def policy(*lists: tuple[int, int, float], reads: frozenset[str] = frozenset()) -> ListPolicy:
    return ListPolicy(Seen(), table(*lists), STAGES, reads, 1.0)


def test_the_vote_decides_and_is_told() -> None:
    """Two of three lists begin with S; at 0.4 one of these goes on to L: half is not most."""
    voted = policy((0, 2, 0.5), (0, 1, 0.3), (1, 2, 0.9))
    assert voted.decide(QUERY, {}).action == Action.draft("S")
    seen = voted.decide(QUERY, {"S": draft("S", 0.4)})
    assert (seen.action, seen.answer) == (STOP, "S")
    assert seen.votes == {STOP: 0.5, Action.draft("L"): 0.5}
    unsure = voted.decide(QUERY, {"S": draft("S", 0.2)})
    assert unsure.action == Action.draft("M")
    assert unsure.votes == {STOP: 0.0, Action.draft("M"): 0.5, Action.draft("L"): 0.5}
    assert unsure.p_good == pytest.approx({"S": 0.2})


def test_the_second_answer_is_returned() -> None:
    """Whichever is likelier: the list says so."""
    seen = policy((0, 2, 0.5)).decide(QUERY, {"S": draft("S", 0.4), "L": draft("L", 0.1)})
    assert (seen.action, seen.answer) == (STOP, "L")


def test_a_stage_goes_on_from_what_it_has_read() -> None:
    """Where that costs less on the rows fitted on: read, then answer."""
    reading = policy((0, 2, 0.5), reads=frozenset({"S>L"}))
    assert reading.decide(QUERY, {"S": draft("S", 0.4)}).action == Action.verify("L")
    read = Verification("L", "S", (0,), (-1.0,), 0, Usage(1, 0, 1, 1), 0.0)
    assert reading.decide(QUERY, {"S": draft("S", 0.4)}, read).action == Action.draft("L")
    assert reading.without({"L"}).decide(QUERY, {"S": draft("S", 0.4)}, read).action == STOP


def test_an_answer_that_no_list_begins_with_is_decided_by_those_that_would() -> None:
    """After an outage M is in hand though every draw begins with S."""
    assert policy((0, 2, 0.5)).decide(QUERY, {"M": draft("M", 0.4)}).action == STOP


@pytest.mark.parametrize(
    ("stages", "lam", "says"),
    [(("S", "S", "L"), 1.0, "different names"), (STAGES, -1.0, "not negative"), (STAGES, np.nan, "finite")],
)
def test_wrong_arguments_are_refused(stages: tuple[str, ...], lam: float, says: str) -> None:
    """A stage named twice, a worth that is none."""
    with pytest.raises(ConfigError, match=says):
        ListPolicy(Seen(), table((0, 1, 0.5)), stages, frozenset(), lam)


def test_what_is_out_of_reach_is_said() -> None:
    """No stage left is a `ConfigError`, as the cascade expects; a draft of a stranger is a mismatch."""
    with pytest.raises(ConfigError, match="none can be called"):
        policy((0, 1, 0.5)).without(STAGES)
    with pytest.raises(PolicyMismatchError, match="stage 'XL' is in no list"):
        policy((0, 1, 0.5)).decide(QUERY, {"XL": draft("XL", 0.5)})


def recorded(n: int, seed: int) -> tuple[list[Trace], RecordedRows]:
    """Outcomes of three stages, as traces and as the same numbers in rows."""
    rng = np.random.default_rng(seed)
    p, n_tokens = rng.uniform(0.05, 0.95, (n, 3)), rng.integers(1, 20, (n, 3))
    score = (rng.uniform(size=(n, 3)) < p).astype(float)
    alone = n_tokens * np.array([1.0, 3.0, 10.0])
    traces = [
        Trace(
            Query(f"q{i}", "d", f"prompt {i}"),
            {s: Outcome(draft(s, p[i, k], int(n_tokens[i, k])), score[i, k]) for k, s in enumerate(STAGES)},
        )
        for i in range(n)
    ]
    signal = np.exp(np.log(p))
    return traces, RecordedRows(signal, score, alone, np.repeat(alone[:, None], 3, axis=1))


PRICES = {stage: Prices(0.0, 0.0, price) for stage, price in zip(STAGES, (1.0, 3.0, 10.0), strict=True)}


@pytest.mark.parametrize("lam", [1.0, 200.0, 2000.0])
def test_replay_through_the_cascade_is_what_was_counted(lam: float) -> None:
    """Row by row the same answer and the same cost; some go on and some do not."""
    traces, rows = recorded(200, 0)
    lists = ListPolicy(Seen(), count(rows, 20), STAGES, frozenset(), lam)
    engines = {stage: ReplayEngine(stage, traces) for stage in STAGES}
    done = Cascade(engines, lists, PRICES).run([trace.query for trace in traces])
    quality, cost = rows.play(lists.elected())
    assert [t.outcomes[c.stage].score for t, c in zip(traces, done, strict=True)] == quality.tolist()
    assert [completion.cost for completion in done] == pytest.approx(cost.tolist())
    if lam == 200.0:
        assert {len(completion.drafts) for completion in done} == {1, 2}


def scripted(stage: str, p: float, **how: object) -> ScriptedEngine:
    return ScriptedEngine(stage, {QUERY.prompt: Script(stage, (float(np.log(p)),))}, **how)


class Down(ScriptedEngine):
    """A stage that is not there."""

    def generate(self, *_: object, **__: object) -> list[Draft]:
        raise EngineError("down")


def test_a_failing_stage_is_gone_round() -> None:
    """L is down: the lists that are left from S on decide. S is down: those that begin with another stage."""
    lists = policy((0, 2, 0.5), (0, 2, 0.5), (0, 1, 0.5))
    no_large = {"S": scripted("S", 0.2), "M": scripted("M", 0.2), "L": Down("L", {})}
    [done] = Cascade(no_large, lists, PRICES, Health(clock=FakeClock())).run([QUERY])
    assert [failure.stage for failure in done.failures] == ["L"]
    assert [str(decision.action) for decision in done.decisions] == ["S", "M", "stop"]
    assert done.stage == "M"
    no_small = {"S": Down("S", {}), "M": scripted("M", 0.2), "L": scripted("L", 0.9)}
    [begun] = Cascade(no_small, lists, PRICES, Health(clock=FakeClock())).run([QUERY])
    assert begun.stage == "M"


def test_votes_are_explained() -> None:
    """A column an action, the share of the lists for it."""
    lists = policy((0, 2, 0.5), (0, 2, 0.3), (0, 1, 0.1))
    engines = {stage: scripted(stage, 0.4) for stage in STAGES}
    [done] = Cascade(engines, lists, PRICES).run([QUERY])
    header, *states = explain(done).splitlines()
    assert "votes(stop)  votes(L)" in header
    assert "0.667" in states[1]
    assert "V(" not in header
