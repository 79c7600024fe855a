"""Promises made from calibration rows of a made-up world, and whether they hold in it."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from asd.errors import ConfigError, DataError, PolicyMismatchError
from asd.guarantee.certificate import LAMS, Promise, Sweep, calibrate, grant, play, sweep
from asd.guarantee.record import EVERYTHING
from asd.policies import FixedStage
from asd.policy.artifact import PolicyArtifact
from asd.policy.artifact import load as load_artifact
from asd.policy.fit import fit
from asd.types import Outcome, Trace
from tests import worlds

FITTING = worlds.sample(400, np.random.default_rng(0))[0]
KEEP = Promise(delta=0.1, keep=0.8)


def renamed(traces: list[Trace], prefix: str) -> list[Trace]:
    return [Trace(replace(t.query, id=f"{prefix}{t.query.id}"), t.outcomes) for t in traces]


def rows(n: int, seed: int, dataset: str = "made-up") -> list[Trace]:
    return renamed(worlds.sample(n, np.random.default_rng(seed), dataset)[0], f"{dataset}-{seed}-")


@pytest.fixture(scope="module")
def artifact() -> PolicyArtifact:
    return fit(FITTING, worlds.ladder(), fitted_at="2026-01-01", lams=(2.0,))


def promised(
    artifact: PolicyArtifact, calibration: list[Trace], promise: Promise, seed: int = 0, fitting=FITTING
) -> PolicyArtifact:
    return calibrate(artifact, fitting, calibration, worlds.ladder(), promise, np.random.default_rng(seed))


def fabricated(p_right: np.ndarray, costs: np.ndarray, n: int, rng: np.random.Generator) -> Sweep:
    """Settings of given accuracy and cost; the single stage is always right and costs 1."""
    quality = (rng.random((len(p_right), n)) < p_right[:, None]).astype(float)
    cost = np.tile(costs[:, None], n)
    return Sweep(np.arange(1.0, len(p_right) + 1), quality, cost, "L", np.ones(n), np.ones(n), 2.0)


def test_a_played_policy_pays_and_scores_what_was_recorded() -> None:
    """A fixed stage: its own scores and prices, in units."""
    traces = FITTING[:5]
    played = play(FixedStage("L"), traces, worlds.ladder(), 50.0)
    assert played.quality.tolist() == [t.outcomes["L"].score for t in traces]
    assert played.cost.tolist() == [5.0 * t.outcomes["L"].draft.usage.n_decoded / 50.0 for t in traces]


@pytest.mark.slow
def test_the_promise_holds_on_new_queries(artifact: PolicyArtifact) -> None:
    """A setting is found that saves, and on 2,000 new queries it keeps what was promised."""
    fitted = promised(artifact, rows(400, 1), KEEP)
    given = fitted.guarantee.grants[EVERYTHING]
    assert (given.stage, given.n) == ("L", 400)
    assert given.lam in LAMS
    assert given.saving > 0.1
    new = rows(2000, 2)
    played = play(fitted.guaranteed_policy(), new, worlds.ladder(), fitted.ladder.unit())
    alone = play(FixedStage("L"), new, worlds.ladder(), fitted.ladder.unit())
    assert played.quality.mean() >= 0.8 * alone.quality.mean()
    assert 1 - played.cost.mean() / alone.cost.mean() == pytest.approx(given.saving, abs=0.06)


@pytest.mark.slow
def test_a_guarantee_holds_at_its_batch_size_and_says_so(artifact: PolicyArtifact) -> None:
    """Policy, costs and unit are those of the batch; at another one nothing is promised."""
    stages = tuple(
        replace(stage, batched={8: msgspec.structs.replace(stage.prices, per_decoded_token=price)})
        for stage, price in zip(worlds.ladder().stages, (0.1, 4.0), strict=True)
    )
    ladder = replace(worlds.ladder(), stages=stages)
    both = fit(FITTING, ladder, fitted_at="2026-01-01", lams=(2.0,))
    promise, seen = replace(KEEP, batch=8), rows(400, 1)
    fitted = calibrate(both, FITTING, seen, ladder, promise, np.random.default_rng(0))
    given = fitted.guarantee.grants[EVERYTHING]
    assert "at batch 8" in str(fitted.guarantee)
    policy = fitted.guaranteed_policy(batch=8)
    assert policy.name == both.policy(given.lam, batch=8).name
    played = play(policy, seen, ladder, both.ladder.unit(8), 8)
    assert given.cost == pytest.approx(played.cost.mean())
    assert given.stage_cost == pytest.approx(
        4.0 * np.mean([t.outcomes["L"].draft.usage.n_decoded for t in seen]) / both.ladder.unit(8)
    )
    assert sum(given.watched["cost"]) == pytest.approx(played.cost.sum() * both.ladder.unit(8))
    with pytest.raises(ConfigError, match="holds at batch 8, not at 1"):
        fitted.guaranteed_policy()
    with pytest.raises(ConfigError, match="holds at batch 1, not at 8"):
        promised(artifact, seen, KEEP).guaranteed_policy(batch=8)
    with pytest.raises(ConfigError, match="one query or more, got 0"):
        replace(KEEP, batch=0)


def test_few_rows_end_in_the_fallback_that_says_how_many_would_do(artifact: PolicyArtifact) -> None:
    """Twenty rows are not enough to keep 99 %: the single stage is used, nothing is saved."""
    fitted = promised(artifact, rows(20, 3), Promise(delta=0.1, keep=0.99))
    given = fitted.guarantee.grants[EVERYTHING]
    assert (given.lam, given.saving, given.p_value) == (None, 0.0, None)
    assert fitted.guaranteed_policy() == FixedStage("L")
    assert "not enough evidence in 20 rows" in str(fitted.guarantee)


def test_the_cheapest_setting_that_passed_is_chosen() -> None:
    """Settings 3 to 5 keep 90 %; setting 2 does not, and stops the sequence although 1 would pass again."""
    p_right = np.array([1.0, 0.5, 0.99, 0.995, 1.0])
    seen = fabricated(p_right, np.array([0.1, 0.2, 0.3, 0.25, 0.5]), 400, np.random.default_rng(0))
    given = grant(seen, Promise(delta=0.1, keep=0.9), 0.1)
    assert (given.lam, given.cost) == (4.0, 0.25)


def test_a_setting_that_saves_nothing_is_not_worth_a_promise() -> None:
    """All settings keep the quality, none is cheaper than the stage: the fallback, and no number of rows."""
    seen = fabricated(np.ones(3), np.array([1.0, 1.1, 1.2]), 400, np.random.default_rng(0))
    given = grant(seen, Promise(delta=0.1, keep=0.9), 0.1)
    assert (given.lam, given.n_needed) == (None, None)
    assert "no number of such rows would do" in str(given)


def test_the_rows_needed_reach_the_first_setting_that_saves() -> None:
    """The largest lam needs few rows and saves nothing; what counts is the next one."""
    rng = np.random.default_rng(0)
    seen = fabricated(np.array([0.93, 0.99]), np.array([0.5, 1.5]), 100, rng)
    seen = replace(seen, quality=np.repeat([[0.0, 1.0], [0.0, 1.0]], [7, 93], axis=1))
    given = grant(seen, Promise(delta=0.1, keep=0.92), 0.1)
    margin = np.repeat([0.0, 1.0], [7, 93]) - 0.92
    assert given.n_needed == np.ceil(2 * np.log(10) * margin.var() / margin.mean() ** 2)


def test_a_cap_on_cost_takes_the_largest_lam_below_it() -> None:
    """Costs grow with lam; the promise is about the mean, and the stage compared with is the cheapest."""
    rng = np.random.default_rng(0)
    cost = np.linspace(0.1, 1.0, 10)[:, None] * rng.uniform(0.8, 1.2, (10, 800))
    seen = replace(fabricated(np.linspace(0.5, 1.0, 10), np.ones(10), 800, rng), cost=cost)
    given = grant(seen, Promise(delta=0.1, cap_cost=0.55), 0.1)
    assert given.lam == 5.0
    assert given.cost < 0.55


def test_two_requirements_must_both_pass() -> None:
    """With a cap below what the quality costs, neither setting is promised."""
    seen = fabricated(np.array([0.5, 1.0]), np.array([0.2, 0.8]), 500, np.random.default_rng(0))
    assert grant(seen, Promise(delta=0.1, keep=0.9, cap_cost=0.5), 0.1).lam is None
    assert grant(seen, Promise(delta=0.1, keep=0.9, cap_cost=0.9), 0.1).lam == 2.0


@pytest.mark.parametrize("promise", [Promise(delta=0.1, keep=0.9), Promise(delta=0.1, cap_cost=0.5)])
def test_wrong_promises_are_rarer_than_delta(promise: Promise) -> None:
    """Settings on both sides of the border, 600 draws of the rows: false promises at most delta."""
    rng = np.random.default_rng(1)
    p_right = np.array([0.85, 0.88, 0.899, 0.94, 0.97])
    costs = np.array([0.3, 0.4, 0.45, 0.501, 0.6])
    wrong = {1.0, 2.0, 3.0} if promise.keep else {4.0, 5.0}
    given = [grant(noisy(p_right, costs, rng), promise, 0.1).lam for _ in range(600)]
    assert np.mean([lam in wrong for lam in given]) <= 0.1
    assert np.mean([lam is not None for lam in given]) > 0.3


def noisy(p_right: np.ndarray, costs: np.ndarray, rng: np.random.Generator) -> Sweep:
    seen = fabricated(p_right, costs, 300, rng)
    return replace(seen, cost=seen.cost * rng.choice([0.5, 1.5], seen.cost.shape))


@pytest.mark.slow
def test_every_dataset_gets_its_own_promise(artifact: PolicyArtifact) -> None:
    """Two datasets share delta; one with too few rows falls back without touching the other."""
    fitting = [*rows(300, 4, "a"), *rows(300, 5, "b")]
    calibration = [*rows(300, 6, "a"), *rows(15, 7, "b")]
    fitted = promised(artifact, calibration, Promise(delta=0.1, keep=0.8, per_dataset=True), fitting=fitting)
    grants = fitted.guarantee.grants
    assert (grants["a"].n, grants["b"].n) == (300, 15)
    assert grants["a"].lam is not None
    assert grants["b"].lam is None
    assert fitted.guaranteed_policy("b") == FixedStage("L")
    with pytest.raises(ConfigError, match="no guarantee for dataset 'c'"):
        fitted.guaranteed_policy("c")
    asked = Promise(delta=0.1, keep=0.8, per_dataset=True)
    part = sweep(artifact, fitting, rows(15, 7, "b"), worlds.ladder(), asked)["b"]
    assert msgspec.structs.replace(grants["b"], watched={}) == grant(part, KEEP, 0.05)
    assert len(grants["b"].watched["cost"]) == 15


def test_the_guarantee_is_stored_with_the_policy(artifact: PolicyArtifact, tmp_path) -> None:
    """Saved and loaded, it is the same, and so is the policy it names."""
    fitted = promised(artifact, rows(100, 8), KEEP)
    fitted.save(tmp_path / "policy.json")
    loaded = load_artifact(tmp_path / "policy.json")
    assert loaded.guarantee == fitted.guarantee
    assert loaded.guaranteed_policy().name == fitted.guaranteed_policy().name


def test_what_cannot_be_promised_from_is_refused(artifact: PolicyArtifact) -> None:
    """Rows the fit has seen, unscored ones, none, another ladder, nothing asked for."""
    with pytest.raises(DataError, match="a row serves once"):
        promised(artifact, FITTING[:50], KEEP)
    with pytest.raises(DataError, match="no calibration rows"):
        promised(artifact, [], KEEP)
    unscored = [
        Trace(t.query, {s: Outcome(o.draft, None) for s, o in t.outcomes.items()}) for t in rows(9, 9)
    ]
    with pytest.raises(DataError, match="not scored"):
        promised(artifact, unscored, KEEP)
    with pytest.raises(DataError, match="no fitting rows"):
        promised(artifact, rows(9, 9, "new"), Promise(delta=0.1, keep=0.8, per_dataset=True))
    with pytest.raises(PolicyMismatchError):
        calibrate(artifact, FITTING, rows(9, 9), worlds.ladder((1.0, 9.0)), KEEP, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="keep, a cap on cost, or both"):
        Promise(delta=0.1)
    with pytest.raises(ConfigError, match="no guarantee"):
        artifact.guaranteed_policy()
