"""Seconds of counts, fitted to recorded seconds of calls."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from asd.ladder import Ladder
from asd.policy.artifact import PolicyArtifact
from asd.policy.artifact import load as load_policy
from asd.policy.fit import fit
from asd.policy.seconds import recorded_seconds
from asd.types import Draft, Outcome, Query, Trace, Usage, Verification
from tests.worlds import ladder, sample, verified

TRUE = {"S": (0.02, 0.001, 0.0, 0.03), "L": (0.1, 0.002, 0.004, 0.2)}
"""Seconds of a call, a prompt token, a verified token and a pass."""


def took(stage: str, usage: Usage) -> float:
    return float(np.dot(TRUE[stage], usage.counts[:4]))


def timed(n: int = 40) -> list[Trace]:
    """Calls that take exactly what their counts take; L has read every draft of S."""
    rng, found = np.random.default_rng(3), []
    for i in range(n):
        outcomes = {}
        for stage in "SL":
            n_tokens = int(rng.integers(1, 60))
            usage = Usage(int(rng.integers(5, 200)), n_tokens, n_tokens)
            draft = Draft(stage, "x", (), (), True, usage, took(stage, usage))
            outcomes[stage] = Outcome(draft, 1.0)
        reading = Usage(int(rng.integers(5, 200)), 0, 1, int(rng.integers(1, 60)))
        read = Verification("L", "S", (), (), 0, reading, took("L", reading))
        found.append(Trace(Query(f"q{i}", "d", "?"), outcomes, {"S>L": read}))
    return found


def test_what_counts_take_is_found() -> None:
    """From answers and readings of drafts; nothing is known of drafters."""
    found = recorded_seconds(timed(), "SL")
    assert {stage: seconds[:4] for stage, seconds in found.items()} == {
        stage: pytest.approx(seconds, abs=1e-9) for stage, seconds in TRUE.items()
    }
    assert found["S"][4:] == found["L"][4:] == (0.0, 0.0)


def test_no_count_takes_less_than_nothing() -> None:
    """However calls scatter: their mean is met, and a count that would save time takes none."""
    rng, rows = np.random.default_rng(5), []
    for trace in timed(200):
        draft = trace.outcomes["S"].draft
        noisy = replace(draft, seconds=draft.seconds * float(rng.lognormal(0.0, 0.5)))
        rows.append(replace(trace, outcomes={**trace.outcomes, "S": Outcome(noisy, 1.0)}))
    found = recorded_seconds(rows, "SL")["S"]
    assert min(found) >= 0.0
    drafts = [row.outcomes["S"].draft for row in rows]
    by_count = [np.dot(found, draft.usage.counts) for draft in drafts]
    assert np.mean(by_count) == pytest.approx(np.mean([draft.seconds for draft in drafts]))
    falling = [
        replace(row, outcomes={**row.outcomes, "S": Outcome(replace(d, seconds=1.0 / d.usage.n_passes), 1.0)})
        for row, d in zip(rows, drafts, strict=True)
    ]
    assert recorded_seconds(falling, "SL")["S"][3] == 0.0


def test_answers_from_a_store_and_calls_without_seconds_say_nothing() -> None:
    """Where no call of a stage has any, nothing is known of the ladder."""
    rows = timed()
    draft = rows[0].outcomes["S"].draft
    for odd in (replace(draft, seconds=0.0), replace(draft, cached=True, seconds=9e-5)):
        other = replace(rows[0], outcomes={**rows[0].outcomes, "S": Outcome(odd, 1.0)})
        assert recorded_seconds([other, *rows[1:]], "SL")["S"] == pytest.approx(
            recorded_seconds(rows[1:], "SL")["S"]
        )
        assert recorded_seconds([other], "SL") == {}


def fitted(of: Ladder, seconds: float = 0.1) -> PolicyArtifact:
    rng = np.random.default_rng(7)
    traces = verified(sample(300, rng)[0], rng)
    rows = [
        replace(
            trace,
            outcomes={
                stage: Outcome(
                    replace(outcome.draft, seconds=seconds * (1 + "SL".index(stage))), outcome.score
                )
                for stage, outcome in trace.outcomes.items()
            },
            verifications={p: replace(v, seconds=seconds) for p, v in trace.verifications.items()},
        )
        for trace in traces
    ]
    return fit(rows, of, fitted_at="2026-01-01")


def test_a_policy_keeps_them_where_prices_are_no_times(tmp_path: Path) -> None:
    """A policy of a ladder in milliseconds is the file it was."""
    declared = fitted(ladder())
    assert np.dot(declared.ladder.seconds["S"], (1, 10, 0, 11, 0, 0)) == pytest.approx(0.1, rel=0.05)
    declared.save(tmp_path / "policy.json")
    assert load_policy(tmp_path / "policy.json").ladder.seconds == declared.ladder.seconds
    for other in (fitted(replace(ladder(), price_unit="ms")), fitted(ladder(), seconds=0.0)):
        other.save(tmp_path / "other.json")
        assert '"seconds"' not in (tmp_path / "other.json").read_text()
        assert load_policy(tmp_path / "other.json").ladder.seconds == {}
