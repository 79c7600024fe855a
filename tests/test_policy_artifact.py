"""The artifact on disk: what comes back, what is refused, and the policy that is made of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from asd.errors import ConfigError, DataError, PolicyMismatchError
from asd.evidence import Evidence, Judgement
from asd.policies import FixedStage, Lossless, Policy
from asd.policy.artifact import PolicyArtifact, load
from asd.policy.problem import UnpricedGraph
from asd.prices import Prices
from asd.stopping.recursion import solve
from asd.types import STOP, Action, Decision, Trace
from tests import worlds

TRACES = worlds.sample(80, np.random.default_rng(41))[0]


def decisions(policy: Policy, trace: Trace) -> list[Decision]:
    """What the policy decides in each of the four states that a query can be in."""
    return [policy.decide(trace.query, worlds.drafts_of(trace, stages)) for stages in ("", "S", "L", "SL")]


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "policy.json"
    worlds.fitted().save(path)
    return path


@pytest.mark.parametrize("lam", [0.3, 3.0, 30.0])
def test_a_round_trip_decides_alike(stored: Path, lam: float) -> None:
    """Loaded from disk: the same numbers, hence the same decisions, probabilities and values."""
    back = load(stored)
    assert back == worlds.fitted()
    for trace in TRACES:
        assert decisions(back.policy(lam), trace) == decisions(worlds.fitted().policy(lam), trace)


def test_the_file_is_json_and_small(stored: Path) -> None:
    """Two stages: well below a megabyte, readable with the standard library."""
    content = json.loads(stored.read_text())
    assert (content["format"], content["schema_version"]) == ("asd-policy", 2)
    assert stored.stat().st_size < 100_000


@pytest.mark.parametrize("length", [0, 1, 1000, -2])
def test_a_cut_file_is_refused(stored: Path, length: int) -> None:
    """Cut anywhere, down to nothing."""
    stored.write_bytes(stored.read_bytes()[:length])
    with pytest.raises(DataError, match=r"policy\.json"):
        load(stored)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """By its name."""
    with pytest.raises(DataError, match=r"nowhere\.json does not exist"):
        load(tmp_path / "nowhere.json")


def other_version(content: dict[str, Any]) -> None:
    content["schema_version"] = 1


def unknown_key(content: dict[str, Any]) -> None:
    content["comment"] = "?"


def unknown_nested_key(content: dict[str, Any]) -> None:
    content["model"]["nodes"]["S"]["comment"] = "?"


def missing_key(content: dict[str, Any]) -> None:
    del content["problem"]


def missing_node(content: dict[str, Any]) -> None:
    del content["model"]["nodes"]["S+L"]


def null_weight(content: dict[str, Any]) -> None:
    content["model"]["prompt"]["S"]["logistic"]["bias"] = None


def impossible_kernel(content: dict[str, Any]) -> None:
    content["problem"]["edges"][0]["kernel"][0][0] += 0.5


def ragged_kernel(content: dict[str, Any]) -> None:
    content["problem"]["edges"][0]["kernel"][0].append(0.0)


def one_bin_more(content: dict[str, Any]) -> None:
    content["model"]["nodes"]["S"]["edges"].append(2.0)


def other_stages(content: dict[str, Any]) -> None:
    content["ladder"]["prices"]["XL"] = content["ladder"]["prices"].pop("L")


def nan_text(content: dict[str, Any]) -> None:
    content["ladder"]["largest_run"][0] = math.nan


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (other_version, "schema_version"),
        (unknown_key, "comment"),
        (unknown_nested_key, "comment"),
        (missing_key, "problem"),
        (missing_node, "are not the sets of stages"),
        (null_weight, "bias"),
        (impossible_kernel, "must sum to 1"),
        (ragged_kernel, "rows of unequal length"),
        (one_bin_more, "do not fit together"),
        (other_stages, "do not fit together"),
        (nan_text, r"policy\.json"),
    ],
)
def test_a_damaged_file_is_refused(
    stored: Path, damage: Callable[[dict[str, Any]], None], message: str
) -> None:
    """Another version, unknown, missing or impossible content: an error that names file and fault."""
    content = json.loads(stored.read_text())
    damage(content)
    stored.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message) as error:
        load(stored)
    assert "policy.json" in str(error.value)


def test_nan_is_not_written(stored: Path) -> None:
    """The file that was there stays as it was."""
    before = stored.read_bytes()
    broken = msgspec.structs.replace(
        worlds.fitted(), ladder=msgspec.structs.replace(worlds.fitted().ladder, largest_run=(math.nan,) * 6)
    )
    with pytest.raises(DataError, match=r"largest_run\[0\] is nan"):
        broken.save(stored)
    assert stored.read_bytes() == before


def test_another_ladder_is_refused() -> None:
    """Other prices make another ladder; the message names both fingerprints."""
    artifact, other = worlds.fitted(), worlds.ladder((1.0, 6.0))
    with pytest.raises(PolicyMismatchError, match=f"{artifact.ladder.fingerprint}.*{other.fingerprint}"):
        artifact.policy(1.0, ladder=other)
    assert artifact.policy(1.0, ladder=worlds.ladder()).lam == 1.0


@pytest.mark.parametrize("lam", [-1.0, math.nan, math.inf])
def test_an_impossible_lam_is_refused(lam: float) -> None:
    """Negative or not a number."""
    with pytest.raises(ConfigError, match="lam must be a finite number"):
        worlds.fitted().policy(lam)


@pytest.mark.parametrize("unit", [0.0, -2.0, math.nan, math.inf])
def test_an_impossible_unit_is_refused(unit: float) -> None:
    """A cost unit is a positive amount."""
    with pytest.raises(ConfigError, match="unit must be a positive cost in declared"):
        worlds.fitted().policy(1.0, unit=unit)


def test_lam_zero_buys_the_cheapest_answer() -> None:
    """Quality is worth nothing: run the smallest stage and stop."""
    policy = worlds.fitted().policy(0.0)
    for trace in TRACES:
        root, after, *_ = decisions(policy, trace)
        assert (root.action, after.action) == (Action.draft("S"), STOP)


def test_another_unit_is_another_lam() -> None:
    """In a unit twice as large, lam means twice as much; values are in the caller's unit."""
    artifact = worlds.fitted()
    twice, plain = artifact.policy(2.0, unit=2.0 * artifact.ladder.unit()), artifact.policy(4.0)
    assert twice.name == "optimal(lam=2)"
    for trace in TRACES:
        for a, b in zip(decisions(twice, trace), decisions(plain, trace), strict=True):
            assert a.action == b.action
            assert {k: 2.0 * v for k, v in a.values.items()} == pytest.approx(b.values)


def test_long_queries_are_decided_at_lam_over_scale() -> None:
    """The looked-up action is the one of the problem solved at exactly lam / scale, but for near ties."""
    artifact, lam = worlds.fitted(), 3.0
    policy, evidence, graph = artifact.policy(lam), artifact.evidence(), artifact.graph()
    same, scales = [], []
    for trace in TRACES:
        drafts = worlds.drafts_of(trace, "S")
        state = evidence.judge(trace.query, drafts)
        exact = solve(graph, [lam / state.scale])
        same.append(policy.decide(trace.query, drafts).action == exact.chosen(state.node, state.bin, 0))
        scales.append(state.scale)
    assert max(scales) > 1.5
    assert min(scales) < 0.5
    assert np.mean(same) >= 0.97


@dataclass(frozen=True)
class Scaled:
    """Evidence that takes every query for `scale` times as long as the mean."""

    evidence: Evidence
    scale: float

    def judge(self, *state: Any) -> Judgement:
        return replace(self.evidence.judge(*state), scale=self.scale)


def test_a_policy_that_verifies_survives_the_disk(tmp_path: Path) -> None:
    """Verified states, heads and pairs come back, and with them the decisions."""
    artifact = worlds.fitted_verified()
    artifact.save(tmp_path / "policy.json")
    back = load(tmp_path / "policy.json")
    assert back == artifact
    assert back.verifies
    assert not worlds.fitted().verifies


def test_the_cheapest_lossless_chain_is_named() -> None:
    """With two stages there is one; without verifications there is none."""
    assert worlds.fitted_verified().lossless().chain == ("S", "L")
    with pytest.raises(ConfigError, match="fitted without verifications by 'L'"):
        worlds.fitted().lossless()


def test_without_verifying_engines_the_policy_throws_drafts_away() -> None:
    """It is the policy of the same traces without verifications."""
    plain, other = worlds.fitted().policy(5.0), worlds.fitted_verified().policy(5.0, verify=False)
    for trace in TRACES:
        assert decisions(plain, trace) == decisions(other, trace)


def test_scaling_changes_decisions() -> None:
    """A draft as sure as another but ten times longer can be worth stopping at where the other is not."""
    policy = worlds.fitted().policy(2.0)
    short, long = (replace(policy, evidence=Scaled(policy.evidence, scale)) for scale in (0.25, 4.0))
    actions = {
        tuple(p.decide(trace.query, worlds.drafts_of(trace, "S")).action for p in (short, long))
        for trace in TRACES
    }
    assert (Action.draft("L"), STOP) in actions
    assert (STOP, Action.draft("L")) not in actions


def test_a_graph_survives_its_record() -> None:
    """Nodes, edges, start: equal arrays; costs are usage times prices, in units."""
    graph = worlds.true_graph(0.2, 1.0)
    passes = {(e.source, e.action): np.outer(e.cost, [0.0, 0.0, 0.0, 1.0, 0.0, 0.0]) for e in graph.edges}
    prices = dict.fromkeys("SL", Prices(7.0, 7.0, 6.0))
    back = UnpricedGraph.of(graph, passes).graph(prices, unit=2.0)
    assert (back.start == graph.start).all()
    for a, b in zip(back.nodes, graph.nodes, strict=True):
        assert (a.name, a.may_stop, a.p.tolist()) == (b.name, b.may_stop, b.p.tolist())
    for a, b in zip(back.edges, graph.edges, strict=True):
        assert (a.source, a.target, a.action) == (b.source, b.target, b.action)
        assert (a.kernel == b.kernel).all()
        assert a.cost == pytest.approx(3.0 * b.cost)


def at_16(artifact: PolicyArtifact, **large: float) -> PolicyArtifact:
    """The same, with prices for 16 queries a call: those at batch 1, but for some of the large stage's."""
    prices = artifact.ladder.prices
    dearer = {**prices, "L": msgspec.structs.replace(prices["L"], **large)}
    return msgspec.structs.replace(
        artifact, ladder=msgspec.structs.replace(artifact.ladder, batched={16: dearer})
    )


VERIFIED = worlds.verified(TRACES, np.random.default_rng(5))


def verifies(policy: Policy) -> bool:
    """Whether some query's first draft is given to the large stage to read."""
    return any(
        policy.decide(t.query, worlds.drafts_of(t, "S")).action == Action.verify("L") for t in VERIFIED
    )


def test_what_costs_the_same_at_every_size_is_decided_alike() -> None:
    """Equal prices, equal problem; twice the price of everything is the same in units of the largest run."""
    artifact = at_16(worlds.fitted_verified())
    for a, b in zip(artifact.graph().edges, artifact.graph(batch=16).edges, strict=True):
        assert a.cost == pytest.approx(b.cost)
    prices = {s: msgspec.structs.replace(p, per_decoded_token=2 * p.per_decoded_token)
              for s, p in artifact.ladder.prices.items()}  # fmt: skip
    twice = msgspec.structs.replace(
        artifact, ladder=msgspec.structs.replace(artifact.ladder, batched={16: prices})
    )
    assert twice.ladder.unit(16) == pytest.approx(2.0 * twice.ladder.unit())
    for a, b in zip(twice.graph().edges, twice.graph(batch=16).edges, strict=True):
        assert a.cost == pytest.approx(b.cost)


def test_verification_goes_off_by_itself_where_it_loses() -> None:
    """Cheap to read at batch 1, dear at 16: there no draft is read, and the policy is the one without."""
    artifact = at_16(worlds.fitted_verified(), per_verified=40.0)
    assert verifies(artifact.policy(5.0))
    there, without = artifact.policy(5.0, batch=16), artifact.policy(5.0, batch=16, verify=False)
    assert not verifies(there)
    for trace in TRACES:
        assert [d.action for d in decisions(there, trace)] == [d.action for d in decisions(without, trace)]


def test_a_lossless_chain_that_costs_more_is_the_largest_stage_alone() -> None:
    """Speculation is lossless and pays at batch 1; where it does not, the answers are the same without."""
    artifact = at_16(worlds.fitted_verified(), per_verified=40.0)
    assert artifact.lossless() == Lossless(("S", "L"))
    assert artifact.lossless(batch=16) == FixedStage("L")


def test_batch_sizes_without_prices_are_refused() -> None:
    """Milliseconds at one size say nothing of another; a ladder that prices otherwise is another ladder."""
    artifact = worlds.fitted()
    measured = msgspec.structs.replace(
        artifact, ladder=msgspec.structs.replace(artifact.ladder, price_unit="ms")
    )
    with pytest.raises(ConfigError, match="knows prices at batch 1, not 16"):
        measured.policy(1.0, batch=16)
    stages = tuple(replace(stage, batched={16: Prices(0.0, 0.0, 9.0)}) for stage in worlds.ladder().stages)
    with pytest.raises(PolicyMismatchError, match="other prices of ladder 'made-up' at batch 16"):
        at_16(artifact).policy(1.0, ladder=replace(worlds.ladder(), stages=stages))
    at_16(artifact).policy(1.0, ladder=worlds.ladder())
