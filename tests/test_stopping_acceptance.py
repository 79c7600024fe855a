"""`asd.stopping.acceptance`: exact by enumeration on small vocabularies; the best block by brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from asd.errors import ConfigError
from asd.stopping.acceptance import (
    accept_lenient,
    accept_lossless,
    acceptance_rate,
    best_block,
    draw,
    expected_tokens,
    n_leading,
    point_mass,
    residual,
)

GRID = (np.arange(240) + 0.5) / 240
"""Midpoints: a test of probability m/240 passes on exactly m of them."""
Q = np.array([0.25, 0.5, 0.25])
DISTRIBUTIONS = [np.array(p) / 60 for p in itertools.product(range(0, 61, 6), repeat=3) if sum(p) == 60]


def p_accepted(p: float, q: float) -> float:
    """Probability that a token passes, by trying all uniforms of the grid."""
    n = len(GRID)
    return float(accept_lossless(np.full(n, p), np.full(n, q), GRID).mean())


def written(p: np.ndarray, drafts: np.ndarray, q_of: dict[int, np.ndarray]) -> np.ndarray:
    """Distribution of what is written where token x is drafted with probability `drafts[x]`."""
    out = np.zeros(len(p))
    for x in np.flatnonzero(drafts):
        passes = p_accepted(p[x], q_of[x][x])
        out += drafts[x] * (passes * point_mass(int(x), len(p)) + (1 - passes) * residual(p, q_of[x]))
    return out


def test_a_known_draft_distribution_leaves_no_trace() -> None:
    """Draft from q, accept with min(1, p/q), else draw from the residual: what is written follows p."""
    for p in DISTRIBUTIONS:
        np.testing.assert_allclose(written(p, Q, dict.fromkeys(range(3), Q)), p, atol=1e-12)


@pytest.mark.parametrize("drafted", range(3))
def test_any_single_draft_leaves_no_trace(drafted: int) -> None:
    """A point mass is accepted with p(x), else p without x is drawn from: p again, whatever was drafted."""
    mass = point_mass(drafted, 3)
    for p in DISTRIBUTIONS:
        np.testing.assert_allclose(written(p, mass, {drafted: mass}), p, atol=1e-12)


def test_selection_that_saw_the_draft_spoils_the_rule_for_known_q_only() -> None:
    """p = (.6, .4), q = (.5, .5), only token 2 is verified: min(1, p/q) gives (.2, .8), a point mass p."""
    p, q, only_the_second = np.array([0.6, 0.4]), np.array([0.5, 0.5]), point_mass(1, 2)
    np.testing.assert_allclose(written(p, only_the_second, {1: q}), [0.2, 0.8], atol=1e-12)
    np.testing.assert_allclose(written(p, only_the_second, {1: only_the_second}), p, atol=1e-12)


def test_blocks_of_two_leave_no_trace() -> None:
    """Pairs of tokens written by a block of two, residual or extra token included, follow p(a) p(b|a)."""
    rng = np.random.default_rng(0)
    p_first, *p_next = (DISTRIBUTIONS[i] for i in rng.integers(len(DISTRIBUTIONS), size=4))
    pairs = np.zeros((3, 3))
    for a, b in itertools.product(range(3), repeat=2):
        weight = Q[a] * Q[b]
        accepts = p_accepted(p_first[a], Q[a]), p_accepted(p_next[a][b], Q[b])
        for outcome in itertools.product((True, False), repeat=2):
            chance = np.prod([x if passed else 1 - x for x, passed in zip(accepts, outcome, strict=True)])
            n = n_leading(np.array(outcome))
            if n == 0:  # the first token is drawn anew, the second by the verifier alone
                pairs += weight * chance * residual(p_first, Q)[:, None] * np.array(p_next)
            else:
                second = point_mass(b, 3) if n == 2 else residual(p_next[a], Q)
                pairs[a] += weight * chance * second
    np.testing.assert_allclose(pairs, p_first[:, None] * np.array(p_next), atol=1e-12)


def test_a_point_mass_at_the_argmax_is_greedy() -> None:
    """With p on one token, it is always accepted, any other never, and the residual is that token."""
    p = point_mass(2, 3)
    assert [p_accepted(p[x], 1.0) for x in range(3)] == [0.0, 0.0, 1.0]
    np.testing.assert_array_equal(residual(p, point_mass(0, 3)), p)


def test_equal_distributions_have_no_residual_and_need_none() -> None:
    """Where p equals q rounding may ask for a residual: p itself is drawn from, never 0/0."""
    np.testing.assert_array_equal(residual(Q, Q), Q)


def test_draw_inverts_the_distribution_function() -> None:
    """Over a grid of uniforms each token comes as often as its probability; none of probability 0 comes."""
    p = np.array([0.0, 3.0, 0.0, 1.0, 0.0])
    drawn = [draw(p, uniform) for uniform in GRID]
    np.testing.assert_array_equal(np.bincount(drawn, minlength=5), [0, 180, 0, 60, 0])
    assert draw(np.full(3, 0.1), np.nextafter(1.0, 0.0)) == 2


def test_leading_tokens_end_at_the_first_rejection() -> None:
    """What comes after a rejection does not count, whatever it says."""
    cases = {(): 0, (True,): 1, (False, True): 0, (True, True, False, True): 2, (True, True): 2}
    assert {given: n_leading(np.array(given, dtype=bool)) for given in cases} == cases


def test_lenient_acceptance_is_relative_to_the_most_probable() -> None:
    """Tolerance .5 takes what is at least half as probable as the top; 1 takes the top only."""
    p, top = np.array([0.4, 0.2, 0.19, 0.0]), np.full(4, 0.4)
    assert accept_lenient(p, top, 0.5).tolist() == [True, True, False, False]
    assert accept_lenient(p, top, 1.0).tolist() == [True, False, False, False]


@pytest.mark.parametrize("tolerance", [0.0, -0.1, 1.1, float("nan")])
def test_impossible_tolerances_are_refused(tolerance: float) -> None:
    """A tolerance outside (0, 1] raises and names itself."""
    with pytest.raises(ConfigError, match=f"not {tolerance}"):
        accept_lenient(np.ones(1), np.ones(1), tolerance)


@pytest.mark.parametrize("acceptance", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("block", [0, 1, 3])
def test_expected_tokens_by_enumeration(acceptance: float, block: int) -> None:
    """The mean of accepted tokens plus one over all patterns of acceptance."""
    total = 0.0
    for pattern in itertools.product((True, False), repeat=block):
        chance = np.prod([acceptance if passed else 1 - acceptance for passed in pattern])
        total += chance * (n_leading(np.array(pattern, dtype=bool)) + 1)
    assert expected_tokens(acceptance, block) == pytest.approx(total)


def test_the_best_block_is_the_best_of_all() -> None:
    """No other length up to 32 yields more tokens per cost."""
    for a, cost in itertools.product((0.2, 0.5, 0.8, 0.95), (0.02, 0.1, 0.4)):
        rates = [(1 - a ** (k + 1)) / (1 - a) / (1 + k * cost) for k in range(33)]
        assert best_block(a, cost / 2, cost / 2) == int(np.argmax(rates))
    assert best_block(0.5, 0.0, 0.0) == 32


def test_no_block_where_drafting_does_not_pay() -> None:
    """A draft dearer than what it saves is not worth writing: 0, plain decoding."""
    assert best_block(0.0, 0.1, 0.0) == 0
    assert best_block(0.5, 0.4, 0.1) == 0
    assert best_block(0.5, 0.39, 0.1) > 0


@pytest.mark.parametrize(
    "values", [(1.1, 0.1, 0.1), (float("nan"), 0.1, 0.1), (0.5, -1.0, 0.1), (0.5, 0.1, np.inf)]
)
def test_impossible_plans_are_refused(values: tuple[float, float, float]) -> None:
    """A rate that is none, a negative or infinite cost raise."""
    with pytest.raises(ConfigError, match="must be"):
        best_block(*values)


def test_the_acceptance_rate_counts_tests_not_tokens() -> None:
    """After a rejection nothing was tested: (2 of 5) is 2 passes of 3 tests, (4 of 4) is 4 of 4."""
    assert acceptance_rate([(2, 5), (4, 4), (0, 0)]) == 6 / 7
    with pytest.raises(ConfigError, match="ever verified"):
        acceptance_rate([(0, 0)])


def test_what_the_verifier_rules_out_is_never_accepted() -> None:
    """Not at a uniform of exactly 0 either; nor is a token of probability 0 drawn there."""
    assert not accept_lossless(np.zeros(1), np.array([0.5]), np.zeros(1)).any()
    assert draw(np.array([0.0, 0.25, 0.75]), 0.0) == 1
    assert draw(np.array([0.25, 0.75]), 0.25) == 1


def test_the_smallest_residual_is_drawn_from() -> None:
    """A difference of one in a million is no rounding."""
    np.testing.assert_allclose(residual(np.array([0.5 + 1e-6, 0.5 - 1e-6]), np.full(2, 0.5)), [1.0, 0.0])
