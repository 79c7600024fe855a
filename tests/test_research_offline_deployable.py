"""What `asd fit` makes of a recording: the table's figures are those of a cascade on recorded stages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from asd.cascade import Cascade
from asd.research.offline import comparison, selection
from asd.research.offline.comparison import ComparisonCell, compare
from asd.research.offline.curves import SWEEP, Curve, cost_shares, in_order, splits, sweep
from asd.research.offline.deployable import Deployable, FittedDeployable, ladder_of, traces_of
from asd.research.recordings.recording import Recording
from asd.testing import ReplayEngine
from tests.recordings import STAGES, recording, records

LAMS = (0.5, 3.0, 20.0)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return recording(tmp_path_factory.mktemp("rows") / "rows.jsonl", records(250, 5))


@pytest.fixture(scope="module")
def train(rows: Recording) -> Recording:
    """One object, so that the methods share one fit."""
    return rows.take(np.arange(150))


def by_cascade(fitted: FittedDeployable, rows: Recording, lam: float) -> tuple[np.ndarray, np.ndarray]:
    """Score and cost of every row, run through the loop that `asd generate` runs."""
    traces, prices = traces_of(rows), ladder_of(rows).prices_at(1)
    engines = {stage: ReplayEngine(stage, traces) for stage in rows.stages}
    cascade = Cascade(engines, fitted.artifact.policy(lam), prices)
    done = cascade.run([trace.query for trace in traces])
    scores = [t.outcomes[c.stage].score for t, c in zip(traces, done, strict=True)]
    return np.array(scores), np.array([completion.cost for completion in done])


@pytest.mark.slow
@pytest.mark.parametrize("how", ["lists", "dp", "auto"])
def test_every_row_is_answered_as_by_a_cascade(train: Recording, rows: Recording, how: str) -> None:
    """Row by row the same answer and the same cost, at a setting that buys little, some and all."""
    test = rows.take(np.arange(150, 190))
    fitted = Deployable(how).fit(train)
    played = sweep(fitted, test, LAMS)
    for i, lam in enumerate(LAMS):
        quality, cost = by_cascade(fitted, test, lam)
        assert played.quality[i].tolist() == quality.tolist()
        assert played.cost[i] == pytest.approx(cost, rel=1e-6)
    assert played.cost[0].mean() < played.cost[-1].mean()


def test_the_evidence_takes_every_recorded_signal(rows: Recording) -> None:
    """Confidence and named columns, of the stages that have them."""
    judge = np.full(rows.confidence.shape, np.nan)
    judge[:, 1] = rows.scores[:, 1]
    told = traces_of(rows)[0].outcomes
    assert told["medium"].draft.signals == {"confidence": rows.confidence[0, 1]}
    named = traces_of(replace(rows, signals={"judge": judge}))[0].outcomes
    assert named["medium"].draft.signals["judge"] == rows.scores[0, 1]
    assert "judge" not in named["small"].draft.signals


@pytest.mark.slow
def test_the_table_gives_what_a_cascade_comes_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`asd frontier --deployable`: the row of lists, fold by fold through the cascade, to the last digit."""
    lams, ladder = SWEEP[::4], STAGES[::2]
    for module in (comparison, selection):
        monkeypatch.setattr(module, "SWEEP", lams)
    made = records(150, 5, stages=ladder, quality=(0.6, 0.9), cost=(1.0, 10.0))
    rows = recording(tmp_path / "rows.jsonl", made, ladder)
    found = compare([ComparisonCell("made-up", rows)], deployable=True)
    shares = {row.method: list(row.shares.values()) for row in found.rows}
    assert {"asd fit --method dp", "asd fit --method lists", "asd fit --method auto"} < shares.keys()
    folds, curves = list(splits(len(rows), 5, seed=0)), []
    for seen, held_out in folds:
        fitted, other = Deployable("lists").fit(rows.take(seen)), rows.take(held_out)
        played = [by_cascade(fitted, other, lam) for lam in lams]
        quality, cost = (np.stack(part) for part in zip(*played, strict=True))
        nothing = np.zeros(quality.shape, dtype=np.intp)
        called = np.zeros((*quality.shape, len(ladder)), dtype=bool)
        curves.append(Curve(np.array(lams), quality, cost, nothing, called))
    back = np.argsort(np.concatenate([held_out for _, held_out in folds]))
    [expected] = cost_shares(rows, [in_order(curves, back)])
    assert shares["asd fit --method lists"] == pytest.approx(expected[0].tolist(), rel=1e-6)
