"""Token buckets: what a minute allows, how long to wait, and that no stretch of time gives more."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asd.errors import RateLimitedError
from asd.serving.keys import KeyLimits
from asd.serving.rates import Bucket, Rates
from asd.testing import FakeClock


def test_a_minute_allows_so_many_requests_at_once_and_then_one_as_it_refills():
    """Three at once, the fourth a third of a minute later; the error says when."""
    clock = FakeClock()
    rates, limits = Rates(clock), KeyLimits(requests_per_minute=3)
    for _ in range(3):
        rates.take("alice", limits, 10)
    with pytest.raises(RateLimitedError, match=r"3 requests a minute; come again in 20\.0 s") as refused:
        rates.take("alice", limits, 10)
    assert refused.value.retry_after_s == pytest.approx(20.0)
    rates.take("bob", limits, 10)
    clock.advance(20.0)
    rates.take("alice", limits, 10)


def test_tokens_are_counted_apart_from_requests_and_come_back_unused():
    """A refusal for tokens takes no request; what is given back may be asked for at once."""
    clock = FakeClock()
    rates, limits = Rates(clock), KeyLimits(requests_per_minute=2, tokens_per_minute=100)
    rates.take("alice", limits, 90)
    with pytest.raises(RateLimitedError, match=r"100 tokens a minute; come again in 12\.0 s"):
        rates.take("alice", limits, 30)
    rates.give_back("alice", 80)
    rates.take("alice", limits, 30)
    rates.give_back("alice", 10**6)
    with pytest.raises(RateLimitedError, match="requests"):
        rates.take("alice", limits, 100)


def test_what_never_fits_is_not_told_to_wait():
    """More tokens than a minute allows, and limits of nothing."""
    rates = Rates(FakeClock())
    with pytest.raises(RateLimitedError, match="this takes 101; ask for less") as refused:
        rates.take("alice", KeyLimits(tokens_per_minute=100), 101)
    assert refused.value.retry_after_s is None
    with pytest.raises(RateLimitedError, match="0 requests a minute"):
        rates.take("bob", KeyLimits(requests_per_minute=0), 1)


def test_new_limits_hold_at_once_and_no_limits_hold_nobody():
    """The buckets of the old ones are gone; a key without limits never waits."""
    rates = Rates(FakeClock())
    rates.take("alice", KeyLimits(requests_per_minute=1), 1)
    rates.take("alice", KeyLimits(requests_per_minute=2), 1)
    for _ in range(100):
        rates.take("alice", KeyLimits(), 10**9)
    rates.give_back("alice", 5)
    rates.give_back("nobody", 5)


def test_a_clock_that_goes_back_gives_nothing():
    """And nothing twice when it comes forward again."""
    clock = FakeClock(100.0)
    bucket = Bucket(60, clock)
    bucket.take(60)
    clock.now = 40.0
    assert bucket.wait_s(1) == 1.0
    clock.now = 100.5
    assert bucket.wait_s(1) == 0.5


@given(
    st.integers(1, 50),
    st.lists(st.tuples(st.floats(0, 90), st.integers(1, 20)), min_size=1, max_size=60),
)
def test_no_stretch_of_time_takes_more_than_it_allows(per_minute: int, asked: list[tuple[float, int]]):
    """Against a list of all that was taken: in t seconds at most limit x (1 + t / 60)."""
    clock, taken = FakeClock(), []
    bucket = Bucket(per_minute, clock)
    for seconds, n in asked:
        clock.advance(seconds)
        if not bucket.wait_s(n):
            bucket.take(n)
            taken.append((clock(), n))
    for i, (begin, _) in enumerate(taken):
        for j in range(i, len(taken)):
            stretch = taken[j][0] - begin
            assert sum(n for _, n in taken[i : j + 1]) <= per_minute * (1 + stretch / 60) + 1e-6


@given(st.integers(1, 50), st.integers(0, 50), st.integers(1, 50))
def test_after_the_wait_it_is_there(per_minute: int, used: int, n: int):
    """And not a moment before."""
    clock = FakeClock()
    bucket = Bucket(per_minute, clock)
    bucket.take(min(used, per_minute))
    wait_s = bucket.wait_s(n)
    if 0 < wait_s < float("inf"):
        clock.advance(wait_s * 0.99)
        assert bucket.wait_s(n) > 0
        clock.advance(wait_s * 0.01 + 1e-6)
        assert bucket.wait_s(n) == 0
