"""Named numbers of an answer as evidence: their scales, and what is missing."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from asd.errors import DataError
from asd.evidence.features import ANSWER_FEATURES, answer_features
from asd.evidence.signals import kinds_of, signal_features
from asd.guarantee.certificate import play
from asd.policy.fit import fit
from asd.traces.records import decode_trace, encode_trace
from asd.types import Draft, Trace, Usage
from tests import worlds


def draft(**signals: float) -> Draft:
    return Draft("S", "yes", (0,), (-0.1,), True, Usage(1, 1, 1), 0.0, signals=signals)


@pytest.mark.parametrize(
    ("values", "kind"),
    [([-3.0, -0.01, 0.0], "log"), ([0.0, 0.5, 1.0], "share"), ([0.2, 3.0], "score"), ([-1.0, 0.5], "score")],
)
def test_a_scale_is_known_by_its_range(values: list[float], kind: str) -> None:
    """Whatever it is, a larger number is a larger feature, and none is infinite."""
    drafts = [draft(judge=value) for value in values]
    assert kinds_of("S", drafts) == {"judge": kind}
    told = [signal_features(d, {"judge": kind})[0] for d in drafts]
    assert told == sorted(told)
    assert len(set(told)) == len(told)
    assert all(map(math.isfinite, [*told, *signal_features(draft(judge=-math.inf), {"judge": kind})]))


def test_log_probabilities_near_zero_are_told_apart() -> None:
    """As far apart as those of large magnitude."""
    [near, nearer], [far, farther] = (
        [signal_features(draft(judge=-v), {"judge": "log"})[0] for v in pair]
        for pair in ((1e-3, 1e-4), (1.0, 10.0))
    )
    assert nearer - near == pytest.approx(far - farther)


def test_signals_stand_behind_the_answers_own_features() -> None:
    """In the order of the fit; without signals nothing changes."""
    kinds = {"a": "score", "b": "share"}
    plain = answer_features(draft())
    told = answer_features(draft(b=0.5, a=math.e - 1.0), kinds)
    assert told[: len(ANSWER_FEATURES)] == plain
    assert told[len(ANSWER_FEATURES) :] == pytest.approx((1.0, 0.0))


def test_a_signal_that_some_answers_lack_is_refused() -> None:
    """When fitting as when judging; the remedy is named."""
    with pytest.raises(DataError, match="1 of 2 answers of stage 'S' have no signal 'judge'"):
        kinds_of("S", [draft(judge=1.0), draft()])
    with pytest.raises(DataError, match="no number for signal 'judge'"):
        answer_features(draft(other=1.0), {"judge": "score"})
    with pytest.raises(DataError, match="no number for signal 'judge'"):
        kinds_of("S", [draft(judge=math.nan)])


def signalled(traces: list[Trace], truths: list[worlds.Truth]) -> list[Trace]:
    """Answers of S without their log-probabilities, with a judge who knows their certainty."""
    found = []
    for trace, truth in zip(traces, truths, strict=True):
        own = trace.outcomes["S"]
        told = replace(own.draft, logprobs=(), signals={"judge": float(worlds.P_S[truth.small])})
        found.append(replace(trace, outcomes={**trace.outcomes, "S": replace(own, draft=told)}))
    return found


@pytest.mark.slow
def test_a_signal_is_recorded_fitted_and_used() -> None:
    """From the trace file to the decision: the policy stops where the judge is sure, and needs it."""
    traces = signalled(*worlds.sample(300, np.random.default_rng(0)))
    read = [decode_trace(encode_trace(trace)) for trace in traces]
    assert read == traces
    fitted = fit(read, worlds.ladder(), fitted_at="2026-01-01", lams=(2.0,))
    assert fitted.model.signals == {"S": {"judge": "share"}}
    new = signalled(*worlds.sample(200, np.random.default_rng(1)))
    done = play(fitted.policy(3.0), new, worlds.ladder(), fitted.ladder.unit()).completions
    asked = [c for c in done if c.drafts[0].stage == "S"]
    sure, unsure = ([c for c in asked if c.drafts[0].signals["judge"] == worlds.P_S[k]] for k in (2, 0))
    assert min(c.decisions[1].p_good["S"] for c in sure) > max(c.decisions[1].p_good["S"] for c in unsure)
    assert {len(c.drafts) for c in sure} == {1}
    assert np.mean([len(c.drafts) == 2 for c in unsure]) > 0.2
    with pytest.raises(DataError, match="no number for signal 'judge'"):
        fitted.evidence().judge(new[0].query, {"S": replace(new[0].outcomes["S"].draft, signals={})})
