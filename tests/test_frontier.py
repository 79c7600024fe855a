"""The hull and the retreat from it, on cases worked by hand."""

import numpy as np
import pytest

from asd.measurement.records import Run
from bench.gate.family import ErrorRates, decide
from bench.gate.frontier import compare_frontiers, hull_quality
from bench.gate.verdicts import Finding, Verdict
from tests.fabricated import DATASETS, LAMS, change, fabricate, with_items


@pytest.fixture(scope="module")
def stored() -> Run:
    return fabricate(np.random.default_rng(0))


def judge_frontier(run: Run, stored: Run, limits: ErrorRates) -> list[Finding]:
    """As the gate would, were there nothing but the frontier."""
    compared = compare_frontiers(run, stored, limits.bootstrap)
    return [*compared.findings, *decide(compared.candidates, limits)]


@pytest.mark.parametrize(
    ("cost", "height"),
    [(0.0, 0.0), (0.5, 0.3), (1.0, 0.6), (2.0, 0.7), (3.0, 0.8), (9.0, 0.8)],
)
def test_hull_by_hand(cost: float, height: float):
    """Points (1, .6), (2, .65), (3, .8), (4, .7): the second lies below the chord, the last is dominated."""
    points = np.array([[3, 1, 4, 2], [0.8, 0.6, 0.7, 0.65]])
    assert hull_quality(points, np.array([cost]))[0] == pytest.approx(height)
    many = hull_quality(np.stack([points, points * 2]), np.array([[cost], [2 * cost]]))
    assert many == pytest.approx(np.array([[height], [2 * height]]))


def test_hull_is_never_below_its_points_nor_convex():
    """Against the definition, on random points: above all of them, concave, non-decreasing."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        points = rng.uniform(size=(2, 8))
        assert (hull_quality(points, points[0]) >= points[1] - 1e-12).all()
        heights = hull_quality(points, np.linspace(0, 1.2, 50))
        assert (np.diff(heights) >= -1e-12).all()
        assert (np.diff(heights, 2) <= 1e-12).all()


def test_an_unchanged_sweep_retreats_nowhere(stored: Run):
    """Also where a stored point lay inside its own hull."""
    findings = judge_frontier(stored, stored, ErrorRates())
    assert len(findings) == len(DATASETS) * len(LAMS)
    assert {finding.verdict for finding in findings} == {Verdict.PASS}
    assert {finding.current for finding in findings} == {0.0}


def test_dearer_at_equal_quality_is_a_retreat(stored: Run):
    """At half as much again for the same answers, the thrifty end of the frontier is lost."""
    run = change(stored, "cost", "cost", lambda _, m: with_items(m, np.array(m.items) * 1.5))
    verdicts = {finding.cell: finding.verdict for finding in judge_frontier(run, stored, ErrorRates())}
    assert verdicts["frontier[tiny-text-optimal-lam=0.1]"] is Verdict.REGRESSED
    assert verdicts["frontier[tiny-text-optimal-lam=50]"] is Verdict.PASS


def test_moving_along_the_frontier_is_no_retreat(stored: Run):
    """A sweep that answers lambda as the stored one answered twice the lambda buys no less for its cost."""
    cells = {(c.suite, c.dataset, c.policy, c.lam): c for c in stored.cells}
    neighbour = dict(zip(LAMS, (*LAMS[1:], LAMS[-1]), strict=True))

    def shifted(cell, metric):
        if cell.policy != "optimal":
            return metric
        return cells[cell.suite, cell.dataset, cell.policy, neighbour[cell.lam]].metrics[0]

    run = change(change(stored, "cost", "cost", shifted), "quality", "quality", shifted)
    worst = max(judge_frontier(run, stored, ErrorRates()), key=lambda finding: finding.current)
    assert worst.verdict is not Verdict.REGRESSED
    assert worst.current < 0.02


def test_a_point_that_lay_inside_the_hull_is_not_blamed_for_it(stored: Run):
    """Only what the shortfall grew by is a retreat."""

    def dearer(cell, metric):
        return with_items(metric, np.array(metric.items) * 1.5) if cell.lam == 1.0 else metric

    def one_item(cell, metric):
        items = np.array(metric.items)
        items[0] *= 1.001
        return with_items(metric, items) if cell.lam == 50.0 else metric

    bent = change(stored, "cost", "cost", dearer)
    found = {f.cell: f for f in judge_frontier(change(bent, "cost", "cost", one_item), bent, ErrorRates())}
    assert found["frontier[tiny-text-optimal-lam=1]"].current == pytest.approx(0.0, abs=1e-3)
