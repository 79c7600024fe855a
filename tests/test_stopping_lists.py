"""Counted lists and their vote, against playing every list by hand."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asd.errors import ConfigError
from asd.stopping.lists import RETURN, RecordedRows, Vote, count

SEEDS = st.integers(0, 2**32 - 1)


def made_up(seed: int, n: int = 30, n_stages: int = 3) -> RecordedRows:
    """Signals with ties, scores in [0, 1], costs that differ by order and by row."""
    rng = np.random.default_rng(seed)
    return RecordedRows(
        signal=rng.integers(0, 8, (n, n_stages)) / 8.0,
        score=rng.integers(0, 3, (n, n_stages)) / 2.0,
        alone=rng.uniform(0.1, 1.0, (n, n_stages)),
        after=rng.uniform(0.1, 1.0, (n, n_stages, n_stages)),
    )


def by_hand(rows: RecordedRows, weights: np.ndarray, lam: float) -> Iterator[tuple[float, int, int]]:
    """Value, first and second stage of every list at every threshold that tells rows apart."""
    for i in range(rows.score.shape[1]):
        yield float(weights @ (lam * rows.score[:, i] - rows.alone[:, i])), i, i
        for j in set(range(rows.score.shape[1])) - {i}:
            for threshold in sorted(set(rows.signal[:, i].tolist()))[1:]:
                onward = rows.signal[:, i] < threshold
                quality = np.where(onward, rows.score[:, j], rows.score[:, i])
                cost = rows.alone[:, i] + np.where(onward, rows.after[:, i, j], 0.0)
                yield float(weights @ (lam * quality - cost)), i, j


@pytest.mark.slow
@given(seed=SEEDS, lam=st.floats(0.1, 50.0))
def test_the_elected_list_is_the_best_of_all(seed: int, lam: float) -> None:
    """Its counted value is the largest by hand, and what playing it on the same rows comes to."""
    rows = made_up(seed)
    vote = count(rows).elect(lam)
    best = max(value for value, _, _ in by_hand(rows, np.full(30, 1 / 30), lam))
    quality, cost = rows.play(vote)
    assert vote.value == pytest.approx(best)
    assert lam * quality.mean() - cost.mean() == pytest.approx(best)


@pytest.mark.slow
@given(seed=SEEDS, lam=st.floats(0.1, 50.0))
def test_every_draw_elects_its_own_best_list(seed: int, lam: float) -> None:
    """The mean over the draws that begin alike of the best value by hand, on the rows drawn."""
    rows = made_up(seed)
    vote = count(rows, n_draws=5).elect(lam)
    drawn = np.random.default_rng(0).multinomial(30, np.full(30, 1 / 30), size=5) / 30
    best = [max(by_hand(rows, weights, lam)) for weights in drawn]
    firsts = [i for _, i, _ in best]
    assert vote.value == pytest.approx(np.mean([value for value, i, _ in best if i == vote.first]))
    assert firsts.count(vote.first) == max(map(firsts.count, firsts))


@pytest.mark.slow
@given(seed=SEEDS, lam=st.floats(0.1, 50.0), more=st.floats(1.0, 5.0))
def test_a_larger_lam_never_buys_less_quality(seed: int, lam: float, more: float) -> None:
    """On the rows counted, and never is a list worth less than the best single stage."""
    rows = made_up(seed)
    table = count(rows)
    less, greater = (rows.play(table.elect(by)) for by in (lam, lam * more))
    assert greater[0].mean() >= less[0].mean() - 1e-9
    assert greater[1].mean() >= less[1].mean() - 1e-9
    assert table.elect(lam).value >= (lam * rows.score - rows.alone).mean(axis=0).max() - 1e-9


@pytest.mark.parametrize("out", [{0}, {2}, {0, 1}])
def test_stages_that_are_out_are_not_called(out: set[int]) -> None:
    """The best of the lists that are left; with an answer of a stage in hand, that stage may be out."""
    rows = made_up(3)
    table = count(rows)
    left = [entry for entry in by_hand(rows, np.full(30, 1 / 30), 5.0) if not out & set(entry[1:])]
    vote = table.elect(5.0, out=out)
    assert vote.value == pytest.approx(max(left)[0])
    assert vote.first not in out
    asked = table.elect(5.0, first=0, out=out)
    assert asked.first == 0
    assert not out & (set(asked.second.tolist()) - {0})


def test_without_any_stage_there_is_no_list() -> None:
    """Nothing can begin; with an answer in hand it is returned."""
    table = count(made_up(3))
    with pytest.raises(ConfigError, match="none can be called"):
        table.elect(5.0, out={0, 1, 2})
    assert table.elect(5.0, first=1, out={0, 1, 2}).choose(np.array([0.0])).tolist() == [RETURN]


def test_most_lists_decide() -> None:
    """Two of three go on at 0.3, to the stage that more of them name; at 0.6 one does, and is outvoted."""
    vote = Vote(0, np.array([2, 1, 2]), np.array([0.5, 0.2, 0.9]), 0.0)
    assert vote.choose(np.array([0.1, 0.3, 0.6, 1.0])).tolist() == [2, 2, RETURN, RETURN]
    assert vote.tally(np.array([0.1])).tolist() == [[0, 1, 2]]
    tied = Vote(0, np.array([1, 0]), np.array([0.5, -np.inf]), 0.0)
    assert tied.choose(np.array([0.1])).tolist() == [RETURN]


def test_equal_signals_go_the_same_way() -> None:
    """A signal that tells nothing apart leaves single stages only."""
    rows = made_up(1)
    flat = RecordedRows(np.ones_like(rows.signal), rows.score, rows.alone, rows.after)
    table = count(flat)
    assert table.second.tolist() == table.first.tolist() == [0, 1, 2]


def test_thresholds_are_no_more_than_asked_and_spread_evenly() -> None:
    """Of the 99 places where a hundred signals rise: the first, the last and some between."""
    rows = made_up(0, n=100, n_stages=2)
    apart = RecordedRows(np.tile(np.arange(100.0)[:, None], 2), rows.score, rows.alone, rows.after)
    table = count(apart, n_steps=5)
    assert table.threshold[(table.first == 0) & (table.second == 1)].tolist() == [1, 25, 50, 74, 99]


def test_a_second_call_costs_by_who_was_asked_first() -> None:
    """By hand for one row: the first alone, then the second after it."""
    rows = RecordedRows(
        np.zeros((1, 2)), np.array([[0.0, 1.0]]), np.array([[1.0, 2.0]]), np.array([[[0, 3.0], [5.0, 0]]])
    )
    quality, cost = rows.play(Vote(0, np.array([1]), np.array([0.5]), 0.0))
    assert (quality.tolist(), cost.tolist()) == ([1.0], [4.0])
