"""The report as text: what a reader must find in it."""

import numpy as np
import pytest

from asd.measurement.records import Run
from bench.gate.judge import judge
from bench.run.summary import render, render_markdown
from tests.fabricated import DATASETS, LAMS, OPTIONS, baseline_of, change, fabricate, with_items


@pytest.fixture(scope="module")
def stored() -> Run:
    return fabricate(np.random.default_rng(0))


def test_one_row_a_dataset_and_lambda(stored: Run):
    """Adaptive policy first, in the order of the lambdas; then the single stages."""
    lines = render(stored, judge(stored, baseline_of(stored), OPTIONS)).splitlines()
    rows = [line.split()[:3] for line in lines if line.startswith("tiny-")]
    assert len(rows) == len(DATASETS) * (len(LAMS) + 3)
    assert [row[2] for row in rows[: len(LAMS)]] == [f"{lam:g}" for lam in LAMS]
    assert [row[1] for row in rows[len(LAMS) : len(LAMS) + 3]] == ["L", "M", "S"]


def test_a_row_shows_value_baseline_delta_and_verdict(stored: Run):
    """What got dearer is seen in its row, and told once more below with its interval."""
    run = change(stored, "cost", "cost", lambda _, m: with_items(m, np.array(m.items) * 2))
    text = render(run, judge(run, baseline_of(stored), OPTIONS))
    [row] = [line for line in text.splitlines() if line.split()[:3] == ["tiny-text", "optimal", "50"]]
    cell = next(c for c in stored.cells if c.id == "cost[tiny-text-optimal-lam=50]")
    was = cell.metrics[0].value
    assert f"{2 * was:.3f}" in row
    assert f"{was:.3f}" in row
    assert f"{was:+.3f}" in row
    assert row.endswith("REGRESSED")
    assert "REGRESSED: cost[*-optimal-*] cost" in text
    assert "loss +1 [+1, +1]" in text
    assert text.splitlines()[-1].startswith("gate: REGRESSED (exit code 10): ")


def test_without_a_baseline_no_row_claims_a_verdict(stored: Run):
    """Unjudged is not passed."""
    text = render(stored, judge(stored, None, OPTIONS))
    assert "PASS" not in text
    assert "record one with --record-baseline" in text


def test_markdown_holds_the_same_rows_and_ends_in_a_list(stored: Run):
    """A heading, a table of pipes with the rows of the text, and the verdict first among the points."""
    report = judge(stored, baseline_of(stored), OPTIONS)
    lines = render_markdown(stored, report).splitlines()
    assert lines[0] == f"## {stored.header.ladder.name} on {stored.header.hardware.slug}"
    rows = [line.replace("|", " ").split() for line in lines if line.startswith("| tiny-")]
    text_rows = [line.split() for line in render(stored, report).splitlines() if line.startswith("tiny-")]
    assert rows == text_rows
    points = [line for line in lines if line.startswith("- ")]
    assert points[0].startswith("- gate: PASS (exit code 0)")
