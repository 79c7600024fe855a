"""The node of several samples: chosen where it is worth its price, and never without one."""

import numpy as np
import pytest

from bench.resampling import Judged, play

RNG = np.random.default_rng(0)
RIGHT = (RNG.random(400) < 0.5).astype(float)
UNSURE = np.full(400, 0.5) + RNG.normal(0, 1e-3, 400)
"""An answer that says nothing of itself, and samples that say everything."""
REVEALED = Judged(RIGHT, np.ones(400), now=UNSURE, then=RIGHT, next=np.ones(400))


def test_without_the_node_the_larger_stage_is_asked_where_it_is_worth_its_run():
    """At lam = 1 half a point does not pay for a run, at lam = 4 it does."""
    stays, goes = (play(REVEALED, lam, np.inf) for lam in (1.0, 4.0))
    assert (stays.quality, stays.cost, stays.sampled) == (RIGHT.mean(), 0.0, 0.0)
    assert (goes.quality, goes.cost, goes.sampled) == (1.0, 1.0, 0.0)


@pytest.mark.parametrize(("price", "sampled"), [(0.0, 1.0), (0.2, 1.0), (0.8, 0.0)])
def test_samples_that_tell_all_are_bought_up_to_what_they_save(price: float, sampled: float):
    """They save the run where the answer was right: half a run a question, in every tenth about as much."""
    found = play(REVEALED, 4.0, price)
    assert found.sampled == sampled
    if sampled:
        assert found.quality == 1.0
        assert found.cost == pytest.approx(price + (1 - RIGHT.mean()))
        assert found.value(4.0) == pytest.approx(4.0 - found.cost)


def test_samples_that_tell_nothing_are_never_bought():
    """The same judgement twice changes no decision."""
    silent = Judged(RIGHT, np.ones(400), now=UNSURE, then=UNSURE, next=np.ones(400))
    assert play(silent, 4.0, 0.0) == play(silent, 4.0, np.inf)
