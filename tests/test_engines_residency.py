"""Stages that take turns in memory: the embedded ones for real, scripted ones for the rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asd.cascade import Cascade
from asd.engines import Engine, Verifier, alone
from asd.engines.hf.engine import TransformersEngine
from asd.engines.registry import open_engines
from asd.engines.residency import Residency
from asd.errors import ConfigError, EngineError
from asd.evidence import Judgement
from asd.ladder import Ladder
from asd.policies import OptimalPolicy
from asd.prices import Prices
from asd.stopping.graph import Edge, Graph, Node
from asd.stopping.recursion import solve
from asd.testing import FakeClock, ScriptedEngine
from asd.types import STOP, Action, Decision, Draft, Query, Verification
from asd.workloads.catalogue import find_workloads
from tests import worlds

pytestmark = pytest.mark.slow

ASKED = [Query(f"q{i}", "d", f"prompt {i}") for i in range(4)]
MEMORY = {"S": 1.0, "M": 2.0, "L": 3.0}


class Slow(ScriptedEngine):
    """Takes its time to load."""

    def __init__(self, stage: str, clock: FakeClock) -> None:
        super().__init__(stage, {q.prompt: (f"{stage} on {q.id}", (-0.1,)) for q in ASKED})
        self.loading = clock

    def load(self) -> None:
        if not self.loaded:
            self.loading.advance(10.0 * MEMORY[self.stage_name])
        super().load()


def slow(clock: FakeClock | None = None) -> dict[str, Slow]:
    ticking = clock or FakeClock()
    return {stage: Slow(stage, ticking) for stage in MEMORY}


def loaded(engines: Mapping[str, Slow]) -> set[str]:
    return {stage for stage, engine in engines.items() if engine.loaded}


def test_the_longest_unused_goes_first() -> None:
    """A budget for two of three: who was asked last stays, and loads and their seconds are noted."""
    clock = FakeClock()
    inner = slow(clock)
    residency = Residency(inner, MEMORY, budget_gib=5.0, clock=clock)
    assert loaded(inner) == set()
    for stage, left in (("S", "S"), ("M", "SM"), ("S", "SM"), ("L", "SL"), ("L", "SL"), ("M", "LM")):
        residency.engines[stage].generate(ASKED)
        assert loaded(inner) == set(left) == set(residency.resident)
    assert [(load.stage, load.seconds) for load in residency.loads] == [
        ("S", 10.0),
        ("M", 20.0),
        ("L", 30.0),
        ("M", 20.0),
    ]


def test_pinned_stages_stay() -> None:
    """A pinned stage is not put out, however long it was not asked."""
    inner = slow()
    residency = Residency(inner, MEMORY, budget_gib=4.0, pinned=("S",))
    for stage in "SMLM":
        residency.engines[stage].load()
    assert loaded(inner) == {"S", "M"}


def test_a_stage_can_be_put_out_by_hand() -> None:
    """Unloading frees the budget."""
    inner = slow()
    residency = Residency(inner, MEMORY, budget_gib=5.0)
    residency.engines["L"].load()
    residency.engines["L"].unload()
    assert residency.resident == ()
    assert loaded(inner) == set()


@given(
    asked=st.lists(st.sampled_from("SML"), max_size=20),
    budget=st.sampled_from([3.0, 4.0, 5.0, 6.0]),
    pinned=st.sampled_from(["", "S"]),
)
def test_the_budget_holds(asked: list[str], budget: float, pinned: str) -> None:
    """Whatever is asked in whatever order, the budget is kept and whoever is asked is in memory."""
    inner = slow()
    if budget == 3.0:
        pinned = ""
    residency = Residency(inner, MEMORY, budget, pinned)
    was_loaded = False
    for stage in asked:
        residency.engines[stage].generate(ASKED[:1])
        was_loaded = was_loaded or stage == pinned
        assert sum(MEMORY[s] for s in loaded(inner)) <= budget
        assert loaded(inner) == set(residency.resident)
        assert stage in residency.resident
        assert not was_loaded or pinned in residency.resident


def test_a_load_that_fails() -> None:
    """A stage that cannot be loaded is not taken for resident; the others are as they were left."""

    class Broken(Slow):
        def load(self) -> None:
            raise EngineError("no weights")

    clock = FakeClock()
    inner = slow(clock) | {"L": Broken("L", clock)}
    residency = Residency(inner, MEMORY, budget_gib=4.0)
    residency.engines["S"].load()
    with pytest.raises(EngineError, match="no weights"):
        residency.engines["L"].generate(ASKED)
    assert residency.resident == ("S",)
    assert [load.stage for load in residency.loads] == ["S"]


@pytest.mark.parametrize(
    ("memory", "budget", "pinned", "message"),
    [
        (MEMORY, 2.5, (), "'L' takes 3 GiB, with the pinned stages .* 3; the budget is 2.5"),
        (MEMORY, 3.5, ("S",), r"'L' takes 3 GiB, with the pinned stages \['S'\] 4; the budget is 3.5"),
        (MEMORY, 9.0, ("XL",), r"pinned stages \['XL'\] do not exist"),
        (MEMORY | {"M": None}, 9.0, (), "that of 'M' is None"),
        (MEMORY | {"M": -1.0}, 9.0, (), "that of 'M' is -1"),
        (MEMORY, float("nan"), (), "the budget is nan"),
    ],
)
def test_what_cannot_fit(
    memory: dict[str, float | None], budget: float, pinned: Sequence[str], message: str
) -> None:
    """Stages that can never be resident, and unknown sizes, are refused before anything is loaded."""
    with pytest.raises(ConfigError, match=message):
        Residency(slow(), memory, budget, pinned)


def test_verifiers_take_turns_too() -> None:
    """Verifying and going on make the stage resident; a stage that cannot verify does not pretend to."""
    residency = Residency(slow(), MEMORY, budget_gib=4.0)
    small, large = residency.engines["S"], residency.engines["L"]
    assert isinstance(large, Verifier)
    drafts = small.generate(ASKED)
    seen = large.verify(ASKED, drafts)
    residency.engines["M"].load()
    assert [d.text for d in large.continue_(ASKED, seen)] == [f"L on {q.id}" for q in ASKED]
    assert [load.stage for load in residency.loads] == ["S", "L", "M", "L"]
    assert not isinstance(Residency({"S": _Plain()}, {"S": 1.0}, 1.0).engines["S"], Verifier)


class _Plain:
    """Answers, and no more."""

    stage_name = "S"

    def load(self) -> None: ...

    def unload(self) -> None: ...

    def synchronise(self) -> None: ...

    def generate(self, queries: Sequence[Query]) -> list[Draft]:  # noqa: ARG002
        return []


@dataclass(frozen=True)
class Climb:
    """Asks every stage in turn, then returns the last answer."""

    stages: tuple[str, ...]
    name: str = "climb"

    def decide(
        self,
        query: Query,  # noqa: ARG002
        drafts: Mapping[str, Draft],
        verification: Verification | None = None,  # noqa: ARG002
    ) -> Decision:
        if len(drafts) == len(self.stages):
            return Decision(STOP, self.stages[-1])
        return Decision(Action.draft(self.stages[len(drafts)]), next(reversed(list(drafts)), None))


def test_the_embedded_ladder_in_a_budget_for_two() -> None:
    """Real models: two of three fit, one load serves all queries of a round, answers are the same as ever."""
    ladder = Ladder.load("tiny")
    asked = find_workloads(["tiny-arithmetic"])[0].queries("test", 6)
    engines = open_engines(ladder, "cpu")
    names = tuple(engines)
    expected = engines[names[-1]].generate(asked)
    for engine in engines.values():
        engine.unload()
    residency = Residency(engines, dict.fromkeys(names, 1.0), budget_gib=2.0)
    prices = {stage.name: stage.prices for stage in ladder.stages}
    cascade = Cascade(residency.engines, Climb(names), prices)
    completions = [cascade.run(asked, batch_size=2) for _ in range(2)]
    assert [load.stage for load in residency.loads] == [*names, *names]
    assert all(load.seconds > 0 for load in residency.loads)
    assert [name for name, engine in engines.items() if _in_memory(engine)] == list(names[1:])
    for run in completions:
        assert [c.text for c in run] == [draft.text for draft in expected]


def _in_memory(engine: Engine) -> bool:
    single = alone(engine)
    assert isinstance(single, TransformersEngine)
    return single._loaded is not None


class _Unsure:
    """S has answered, and is hardly right."""

    def judge(
        self,
        query: Query,  # noqa: ARG002
        drafts: Mapping[str, Draft],  # noqa: ARG002
        verification: Verification | None = None,  # noqa: ARG002
    ) -> Judgement:
        return Judgement("S", 0, "S", {"S": float(worlds.P_S[0])}, 1.0)


def test_the_policy_sees_what_a_load_costs() -> None:
    """Shared by few queries the load keeps the policy from the stage; by many it does not matter."""
    prices = {"S": Prices(0.0, 0.0, 1.0, per_load=50.0), "L": Prices(0.0, 0.0, 5.0, per_load=500.0)}
    engines = {stage: ScriptedEngine(stage, {}) for stage in "SL"}
    residency = Residency(engines, {"S": 1.0, "L": 2.0}, budget_gib=2.0)
    policy = OptimalPolicy(_Unsure(), solve(worlds.true_graph(0.2, 1.0), [20.0]), 20.0)

    def action(queries_per_load: float) -> Action:
        extra = residency.surcharge(prices, queries_per_load, unit=5.0)
        return policy.dearer(extra).decide(ASKED[0], {}).action

    assert policy.decide(ASKED[0], {}).action == Action.draft("L")
    assert [action(n) for n in (1.0, 100.0)] == [STOP, Action.draft("L")]
    assert residency.surcharge(prices, 10.0, unit=5.0) == pytest.approx({"S": 1.0, "L": 10.0})


def test_no_surcharge_where_nothing_is_put_out() -> None:
    """Where all stages fit, and for pinned ones, a load is paid once and by nobody in particular."""
    engines = {stage: ScriptedEngine(stage, {}) for stage in "SL"}
    prices = {"S": Prices(1, 0, 0), "L": Prices(1, 0, 0, per_load=8.0)}
    sizes = {"S": 1.0, "L": 2.0}
    assert Residency(engines, sizes, 3.0).surcharge(prices, 2.0, 1.0) == {"S": 0.0, "L": 0.0}
    pinned = Residency(engines | {"M": ScriptedEngine("M", {})}, sizes | {"M": 2.0}, 3.0, ["S"])
    assert pinned.surcharge(prices | {"M": prices["L"]}, 2.0, 1.0) == {"S": 0.0, "L": 4.0, "M": 4.0}
    turning = Residency(engines, sizes, 2.0)
    with pytest.raises(ConfigError, match="'S' has no price of a load"):
        turning.surcharge(prices, 2.0, 1.0)
    with pytest.raises(ConfigError, match="queries_per_load must be a positive number, not 0"):
        turning.surcharge(prices, 0.0, 1.0)


def test_a_load_is_not_paid_twice_for_a_verified_draft() -> None:
    """Asking and verifying cost more by the surcharge; going on from what was just read does not."""
    nodes = [Node("root", np.zeros(1), may_stop=False), *(Node(n, np.ones(1)) for n in ("S", "S>L", "S+L"))]
    one = np.ones((1, 1))
    ways = [("root", "S", "S"), ("S", "S+L", "L"), ("S", "S>L", ">L"), ("S>L", "S+L", "L")]
    edges = tuple(
        Edge(source, target, np.ones(1), one, Action.parse(action)) for source, target, action in ways
    )
    dearer = Graph(tuple(nodes), edges, np.ones(1)).dearer({"L": 3.0})
    assert [edge.cost.tolist() for edge in dearer.edges] == [[1.0], [4.0], [4.0], [1.0]]
