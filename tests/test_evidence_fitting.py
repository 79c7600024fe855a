"""Fitted on a world whose probabilities are known: what the heads recover, and that nothing leaks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from asd.evidence.fitting import fit_evidence
from asd.types import Trace
from tests import worlds


def costs_of(traces: list[Trace]) -> np.ndarray:
    return np.array([float(trace.outcomes["L"].draft.usage.n_decoded) for trace in traces])


def test_single_answers_get_their_true_probability() -> None:
    """On new queries, mean absolute distance from the world's own certainty is below .04."""
    traces, truths = worlds.sample(500, np.random.default_rng(21))
    evidence = worlds.fitted().evidence()
    for stage, true_p in (
        ("S", worlds.P_S[[t.small for t in truths]]),
        ("L", worlds.P_L[[t.large for t in truths]]),
    ):
        p = [evidence.judge(t.query, worlds.drafts_of(t, stage)).p_good[stage] for t in traces]
        assert np.abs(p - true_p).mean() < 0.04


def test_two_answers_get_their_true_probability() -> None:
    """Agreement included: the exact posterior of both answers is recovered to .05 on average."""
    traces, truths = worlds.sample(500, np.random.default_rng(22))
    evidence = worlds.fitted().evidence()
    p, true_p = [], []
    for trace, truth in zip(traces, truths, strict=True):
        drafts = worlds.drafts_of(trace)
        agree = drafts["S"].text == drafts["L"].text
        p.append(list(evidence.judge(trace.query, drafts).p_good.values()))
        true_p.append(worlds.p_both(worlds.P_S[truth.small], worlds.P_L[truth.large], agree))
    assert (np.abs(np.array(p) - true_p).mean(axis=0) < 0.05).all()


def test_out_of_fold_probabilities_are_calibrated() -> None:
    """Expected calibration error of every head below .05, and answers rank better than prompts."""
    quality = worlds.fitted().fit.reliability
    assert all(r.calibration_error < 0.05 for heads in quality.values() for r in heads.values())
    assert quality["S"]["S"].auroc > quality["root"]["S"].auroc > 0.65


@pytest.mark.slow
def test_scores_that_nothing_explains_are_not_explained() -> None:
    """Coin tosses as scores: out of fold no head ranks better than chance (four standard errors).

    Every prompt opens with a word of its own, so a head that had seen its rows would know them by heart.
    """
    rng = np.random.default_rng(23)
    traces = [
        Trace(
            replace(t.query, prompt=" ".join(rng.choice(list("abcdefghij.,:;!?-"), 12)).replace(" ", "", 5)),
            {s: replace(o, score=float(rng.random() < 0.5)) for s, o in t.outcomes.items()},
        )
        for t in worlds.sample(200, rng)[0]
    ]
    fitted = fit_evidence(traces, costs_of(traces), ("S", "L"), seed=0)
    for heads in fitted.reliability.values():
        assert all(r.auroc < 0.5 + 4 * np.sqrt(201 / 12 / 100**2) for r in heads.values())


@pytest.mark.slow
def test_rows_hold_what_each_node_sees() -> None:
    """Bins of about equal mass, quality of the best answer, scale 1 where no larger stage is left."""
    traces, _ = worlds.sample(300, np.random.default_rng(24))
    rows = fit_evidence(traces, costs_of(traces), ("S", "L"), seed=0).rows
    assert list(rows) == ["root", "S", "L", "S+L"]
    for name, node in rows.items():
        assert np.bincount(node.bins, minlength=node.n_bins).min() > 0
        assert len(node.bins) == len(node.p) == len(node.score) == len(node.scale) == 300, name
    best = rows["S+L"].score
    either = np.array([max(o.score for o in t.outcomes.values()) for t in traces])
    assert best.mean() > max(rows["S"].score.mean(), rows["L"].score.mean()) - 0.02
    assert (best <= either).all()
    assert (rows["L"].scale == 1.0).all()
    assert rows["S"].scale.mean() == pytest.approx(1.0)
    assert rows["S"].scale.std() > 0.3


def test_easier_cells_of_the_root_come_last() -> None:
    """Cells are ordered by their mean probability, so that neighbouring bins are alike."""
    model = worlds.fitted().model
    assert np.diff(np.array(model.centroids).sum(axis=1)).min() > 0
