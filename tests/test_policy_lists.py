"""`fit(method=...)`: lists in the policy file, how they are counted, and when they are chosen."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from asd.errors import ConfigError
from asd.guarantee.certificate import Promise, calibrate, play
from asd.guarantee.record import EVERYTHING
from asd.ladder import TINY_POLICY
from asd.policies import ListPolicy, OptimalPolicy
from asd.policy import artifact
from asd.policy.artifact import PolicyArtifact
from asd.policy.contest import compete
from asd.policy.fit import fit
from asd.policy.heldout import Alone, HeldOut, listed
from asd.policy.lists import MOST_ROWS, ListRows
from asd.policy.record import MethodComparison
from asd.stopping.lists import RecordedRows
from asd.types import Trace
from tests import worlds

LAMS = (0.5, 2.0, 5.0, 20.0)


def traces(n: int, seed: int) -> list[Trace]:
    rng = np.random.default_rng(seed)
    return worlds.verified(worlds.sample(n, rng)[0], rng)


FITTING = traces(300, 0)


@functools.cache
def fitted(method: str = "lists") -> PolicyArtifact:
    return fit(FITTING, worlds.ladder(), fitted_at="2026-01-01", lams=LAMS, method=method)


@pytest.mark.slow
def test_the_file_holds_what_the_lists_are_counted_on(tmp_path: Path) -> None:
    """What is read decides as what was written; the policy is one of lists."""
    fitted().save(tmp_path / "policy.json")
    read = artifact.load(tmp_path / "policy.json")
    assert read == fitted()
    policy = read.policy(5.0)
    assert isinstance(policy, ListPolicy)
    assert policy.name == "lists(lam=5)"
    assert policy.elected().second.tolist() == fitted().policy(5.0).elected().second.tolist()


@pytest.mark.slow
def test_files_without_lists_are_read_as_before() -> None:
    """Backward induction, as every version so far wrote it."""
    shipped = artifact.load(TINY_POLICY)
    assert shipped.lists is None
    assert isinstance(shipped.policy(5.0), OptimalPolicy)
    assert isinstance(fitted().optimal(5.0), OptimalPolicy)


def test_costs_are_those_of_the_rows_by_the_cheaper_way() -> None:
    """A run of S or L from the prompt; L after S reads the draft and goes on where it can verify."""
    lists, unit = fitted().lists, fitted().ladder.unit()
    rows, reads = lists.rows()
    alone, none = lists.rows(verify=False)
    assert (reads, none) == ({"S>L"}, frozenset())
    by_id = sorted(FITTING, key=lambda trace: trace.query.id)
    for k, trace in enumerate(by_id[:20]):
        small, large = (trace.outcomes[s].draft.usage.n_decoded for s in "SL")
        assert rows.alone[k] == pytest.approx(np.array([small, 5.0 * large]) / unit, rel=1e-5)
        assert alone.after[k, 0, 1] == pytest.approx(5.0 * large / unit, rel=1e-5)
        assert rows.score[k].tolist() == [trace.outcomes[s].score for s in "SL"]
    assert rows.after[:, 0, 1].mean() < alone.after[:, 0, 1].mean()


@pytest.mark.slow
def test_held_out_rows_tell_what_new_rows_will(tmp_path: Path) -> None:
    """Replayed through the cascade on new queries: quality and cost within the noise of the fit's own."""
    new = traces(600, 1)
    for row in fitted().fit.replayed:
        played = play(fitted().policy(row.lam), new, worlds.ladder(), fitted().ladder.unit())
        assert played.quality.mean() == pytest.approx(row.quality, abs=4 * row.errors.quality)
        assert played.cost.mean() == pytest.approx(row.cost, abs=4 * row.errors.cost + 0.02)


def test_a_unit_and_a_batch_change_what_lists_cost() -> None:
    """Twice the unit is half the cost: lam then decides as twice lam did; these prices hold for any batch."""
    policy = fitted().policy(4.0, unit=2.0 * fitted().ladder.unit())
    same = fitted().policy(8.0)
    assert policy.elected().threshold.tolist() == same.elected().threshold.tolist()
    assert fitted().policy(4.0, batch=16).elected().first == fitted().policy(4.0).elected().first
    with pytest.raises(ConfigError, match="unit must be"):
        fitted().policy(4.0, unit=0.0)


@pytest.mark.slow
def test_lists_are_guaranteed_like_any_policy() -> None:
    """The setting that passed is one of lists, and keeps what it promises on new queries."""
    promised = calibrate(
        fitted(), FITTING, [replace(t, query=replace(t.query, id=f"c{t.query.id}")) for t in traces(200, 2)],
        worlds.ladder(), Promise(delta=0.1, keep=0.8), np.random.default_rng(0),
    )  # fmt: skip
    given = promised.guarantee.grants[EVERYTHING]
    assert promised.guaranteed_policy().name == f"lists(lam={given.lam:g})"
    new = traces(200, 3)
    played = play(promised.guaranteed_policy(), new, worlds.ladder(), promised.ladder.unit())
    assert played.quality.mean() >= 0.8 * np.mean([trace.outcomes["L"].score for trace in new])


def test_more_rows_than_are_needed_are_thinned_evenly() -> None:
    """The file does not grow without end."""
    column = tuple(float(i) for i in range(3 * MOST_ROWS))
    rows = ListRows(p={"S": column}, score={"S": column}, alone={1: {"S": column}}, read={1: {}}).thinned()
    assert len(rows.p["S"]) == len(rows.alone[1]["S"]) == MOST_ROWS
    assert (rows.p["S"][0], rows.p["S"][-1]) == (0.0, 3.0 * MOST_ROWS - 1)
    assert np.diff(rows.score["S"]).max() <= 4.0


def held(quality: float, cost: float, n: int = 400, noise: float = 0.0, seed: int = 0) -> HeldOut:
    """One setting, its cost spread over the rows."""
    spread = noise * np.random.default_rng(seed).normal(size=n)
    spread -= spread.mean()
    return HeldOut(np.ones(1), np.full((1, n), quality), cost + spread[None], np.zeros(1))


ALONE = Alone(np.full(400, 0.9), np.ones(400))


def test_costs_at_the_quality_asked_for_are_read_off_the_hull() -> None:
    """Half way between a setting of .8 at .2 and the largest stage's .9 at 1; the error by the spread."""
    found = compete(held(0.8, 0.2), held(0.8, 0.4, noise=0.5), ALONE, share=0.85 / 0.9)
    assert (found.dp, found.lists) == pytest.approx((0.6, 0.7))
    assert found.error == pytest.approx(0.5 * 0.5 / np.sqrt(400), rel=0.2)
    assert found.chosen == "dp"
    with pytest.raises(ConfigError, match="share of the largest stage's quality"):
        compete(held(0.8, 0.2), held(0.8, 0.2), ALONE, share=1.1)


@pytest.mark.parametrize(
    ("lists", "error", "chosen", "turns", "says"),
    [
        (0.50, 0.01, "dp", None, "more rows would change only if lists became cheaper"),
        (0.50, 0.00, "dp", None, "more rows would change only if lists became cheaper"),
        (0.49, 0.01, "dp", 1600, "on 1,600 rows in place of 400"),
        (0.481, 0.01, "dp", 443, "on 443 rows in place of 400"),
        (0.46, 0.01, "lists", 100, "lists; on fewer than 100 rows"),
        (0.60, 0.01, "dp", None, "more rows would change only if lists became cheaper"),
    ],
)
def test_lists_are_chosen_where_they_are_surely_cheaper(
    lists: float, error: float, chosen: str, turns: int | None, says: str
) -> None:
    """By more than two standard errors; a tie keeps backward induction; it says how many rows would do."""
    contest = MethodComparison(share=0.95, dp=0.5, lists=lists, error=error, n_rows=400)
    assert contest.chosen == chosen
    assert contest.turning_point == turns
    assert says in str(contest)


@pytest.mark.slow
def test_auto_fits_the_winner_and_remembers_the_contest(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this world stopping after a verification is worth more than any list."""
    auto = fitted("auto")
    assert auto.fit.contest.chosen == "dp"
    assert auto.lists is None
    assert msgspec.structs.replace(auto.fit, contest=None) == fitted("dp").fit
    monkeypatch.setattr(MethodComparison, "chosen", "lists")
    other = fit(FITTING, worlds.ladder(), fitted_at="2026-01-01", lams=LAMS, method="auto")
    assert other.lists == fitted().lists
    assert other.fit.replayed == fitted().fit.replayed
    with pytest.raises(ConfigError, match="not 'best'"):
        fit(FITTING, worlds.ladder(), fitted_at="2026-01-01", method="best")


def test_lists_win_where_one_threshold_is_all_there_is_to_know() -> None:
    """Held-out values by fold: nothing of a row decides about it, and what is known pays."""
    rng = np.random.default_rng(0)
    p = rng.uniform(size=(400, 2))
    score = (rng.uniform(size=(400, 2)) < np.column_stack([p[:, 0], np.full(400, 0.9)])).astype(float)
    alone = np.tile([0.2, 1.0], (400, 1))
    rows = RecordedRows(p, score, alone, np.repeat(alone[:, None], 2, axis=1))
    folds = np.arange(400) % 5
    found = listed(rows, folds, np.array([3.0]))
    assert found.values[0] > max(3.0 * score[:, k].mean() - alone[:, k].mean() for k in range(2)) + 0.05
    changed = rows.score.copy()
    changed[folds == 2] = 0.0
    again = listed(replace(rows, score=changed), folds, np.array([3.0]))
    np.testing.assert_array_equal(again.cost[:, folds == 2], found.cost[:, folds == 2])
