"""The planning model of the ladder against cases that can be worked by hand."""

from dataclasses import replace

import pytest

from asd.tiny.bound import BoundPlan, bound_table, oracle_speed_up, speed_up

PLAN = BoundPlan((2, 8, 28), (0.77, 0.88, 0.93))


def test_perfect_evidence_and_full_quality_is_a_walk_up():
    """With perfect confidence everything S, M know is answered there; only the rest pays for L as well."""
    plan = replace(PLAN, auroc=0.999999, accuracy=(0.6, 0.8, 1.0))
    s, m, large = (plan.cost(k, reuse=False) for k in range(3))
    walk = s + 0.4 * m + 0.2 * large
    skip = s + 0.4 * large
    assert speed_up(plan, 1.0) == pytest.approx(1 / min(walk, skip), rel=0.02)


def test_useless_evidence_leaves_the_best_mix_of_single_stages():
    """At AUROC 1/2 a confidence says nothing, so quality is bought by mixing M and L blindly."""
    plan = replace(PLAN, auroc=0.5)
    share = (0.95 * 0.93 - 0.88) / (0.93 - 0.88)
    mix = plan.cost(1, reuse=False) * (1 - share) + share
    assert speed_up(plan, 0.95) == pytest.approx(1 / mix, rel=0.02)


def test_oracle_pays_the_cheapest_right_stage():
    """Worked by hand: 0.6 by S, 0.2 by M, the rest of the target by L, what is given up costs an S."""
    plan = replace(PLAN, accuracy=(0.6, 0.8, 1.0))
    s, m, large = (plan.cost(k, reuse=False) for k in range(3))
    assert oracle_speed_up(plan, 0.95) == pytest.approx(1 / (0.6 * s + 0.2 * m + 0.15 * large + 0.05 * s))


def test_better_evidence_reuse_and_lower_targets_speed_up():
    """More AUROC, more accepted tokens or a lower target never slow the plan down."""
    base = speed_up(PLAN, 0.99)
    assert speed_up(replace(PLAN, auroc=0.99), 0.99) > base
    assert speed_up(replace(PLAN, accepted=0.8), 0.99) > base
    assert speed_up(PLAN, 0.95) > base


def test_the_table_has_a_row_a_plan():
    """One row a candidate, all targets and kinds in it."""
    [row] = bound_table([PLAN])
    assert row["layers"] == "2/8/28"
    assert {"plain 95%", "reuse 95%", "oracle 95%", "plain 99%"} <= row.keys()
