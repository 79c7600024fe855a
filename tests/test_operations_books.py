"""The books of a run: sums and means of two windows, worked out by hand."""

from __future__ import annotations

import pytest

from asd.operations.books import Books, StageStay, Summary, Tally
from asd.operations.occupancy import Occupancy


def stay(**numbers: float) -> StageStay:
    return StageStay(**numbers)  # type: ignore[arg-type]


def two_windows() -> tuple[Summary, Summary, Summary]:
    """Ten seconds with two answers, a refusal and a failure; five with one answer and one left inside."""
    books, system = Books(["S", "L"]), Occupancy()
    for at in (0.0, 1.0, 2.0):
        system.enter(at)
    books.now.n_arrived, books.now.n_refused, books.now.n_failed = 4, 1, 1
    books.now.answer(3.0, "S", 1.0, 0.25, 0.5)
    books.now.answer(5.0, "L", 0.5, 1.25, 0.5)
    for at, came in ((3.0, 0.0), (6.0, 1.0), (8.0, 2.0)):
        system.leave(at, came)
    first = books.close(
        system.close(10.0, []),
        {
            "S": stay(up_s=20.0, busy_s=5.0, inside_s=8.0, n_left=2, n_calls=3, n_visits=4),
            "L": stay(up_s=10.0, busy_s=4.0, inside_s=6.0, n_left=1, n_calls=1, n_visits=1),
        },
    )
    for at in (11.0, 12.0):
        system.enter(at)
    books.now.n_arrived = 2
    books.now.answer(1.0, "S", 1.0, 0.5, 1.0)
    system.leave(12.0, 11.0)
    second = books.close(
        system.close(15.0, [12.0]),
        {"S": stay(up_s=10.0, busy_s=1.0, inside_s=1.0, n_left=1, n_calls=1, n_visits=2), "L": stay()},
    )
    return first, second, books.total()


def test_a_window_by_hand() -> None:
    first, second, _ = two_windows()
    assert (first.start_s, first.seconds, second.start_s, second.seconds) == (0.0, 10.0, 10.0, 5.0)
    assert (first.n_arrived, first.n_answered, first.n_refused, first.n_failed) == (4, 2, 1, 1)
    assert (first.n_inside, second.n_inside) == (0, 1)
    assert first.mean_inside == pytest.approx((3.0 + 5.0 + 6.0) / 10.0)
    assert (first.latency_s, first.quality, first.cost) == pytest.approx((4.0, 0.75, 0.75))
    assert first.reference == pytest.approx(0.5)
    assert first.keeps(1.5)
    assert not first.keeps(1.51)
    assert first.rate == pytest.approx(0.2)
    assert first.error_rate == pytest.approx(0.5)
    assert first.p95_s is None
    small, large = first.stages["S"], first.stages["L"]
    assert (small.utilisation, small.mean_inside, small.visit_s) == pytest.approx((0.25, 0.8, 4.0))
    assert (small.n_calls, small.n_visits) == (3, 4)
    assert (small.share_answered, large.share_answered) == (0.5, 0.5)
    idle = second.stages["L"]
    assert (idle.utilisation, idle.visit_s, idle.mean_inside) == (0.0, 0.0, 0.0)


def test_windows_add_up_by_hand() -> None:
    """Means are over answers and over time, not over windows; the end is that of the last window."""
    *_, total = two_windows()
    assert (total.start_s, total.seconds, total.n_inside) == (0.0, 15.0, 1)
    assert (total.n_arrived, total.n_answered, total.n_refused, total.n_failed) == (6, 3, 1, 1)
    assert total.mean_inside == pytest.approx((14.0 + 1.0 + 3.0) / 15.0)
    assert (total.latency_s, total.quality, total.cost) == pytest.approx((3.0, 2.5 / 3, 2.0 / 3))
    assert total.reference == pytest.approx(2 / 3)
    assert total.error_rate == pytest.approx(0.4)
    small = total.stages["S"]
    assert (small.utilisation, small.visit_s, small.mean_inside) == pytest.approx((0.2, 3.0, 0.6))
    assert (small.n_calls, small.n_visits) == (4, 6)
    assert small.share_answered == pytest.approx(2 / 3)


def test_nothing_at_all_divides_by_nothing() -> None:
    books = Books(["S"])
    empty = books.close(Occupancy().close(5.0, []), {"S": stay()})
    assert (empty.latency_s, empty.quality, empty.cost, empty.rate, empty.error_rate) == (0, 0, 0, 0, 0)
    assert empty.reference is None
    assert not empty.keeps(0.0)
    assert empty.stages["S"].share_answered == 0.0


def test_percentiles_are_apart() -> None:
    """Of 1 to 400 seconds, within half a percent."""
    books, system = Books(["S"]), Occupancy()
    for n in range(1, 401):
        books.now.n_arrived += 1
        books.now.answer(float(n), "S", 1.0, 1.0, 1.0)
    whole = books.close(system.close(500.0, []), {"S": stay()})
    assert whole.p50_s == pytest.approx(200.0, rel=0.01)
    assert whole.p95_s == pytest.approx(380.0, rel=0.01)
    assert whole.p99_s == pytest.approx(396.0, rel=0.01)


def test_who_ended_is_everybody_but_the_refused() -> None:
    tally = Tally()
    tally.n_refused, tally.n_failed = 5, 2
    tally.answer(1.0, "S", 1.0, 1.0, 1.0)
    assert tally.n_ended == 3
