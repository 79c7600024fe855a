"""What a verification pass yields on recorded drafts, beside what independent acceptance would yield.

A draft of k tokens before its end, read by a larger stage, settles the accepted ones and the verifier's own
next: with every token accepted independently with probability a, that is (1 - a^(k+1)) / (1 - a) in the mean
(arXiv 2211.17192). The formula is averaged over the drafts' own lengths at the measured a. Acceptance need
not be independent, and drafts need not be cut off evenly: the table shows how much that matters.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from asd.research.study.material import Material
from asd.research.study.record import StudyTable, Value
from asd.stopping.acceptance import acceptance_rate, expected_tokens
from asd.types import Trace, Verification

__all__ = ["acceptance_tables"]

N_BINS = 10
N_RESAMPLES = 1000

Array = npt.NDArray[np.float64]
Counts = tuple[int, int]
"""Accepted and drafted tokens of one draft, its end not counted."""


def acceptance_tables(material: Material) -> list[StudyTable]:
    """Tokens per verification pass, and the shares of drafts that are accepted; none if nobody verified."""
    traces = [trace for outcomes in material.test for trace in outcomes.traces]
    counts = {pair: _counts(pair, traces) for pair in material.fitted.model.pairs}
    counts = {pair: found for pair, found in counts.items() if found}
    return [_yield_table(material, counts), _share_table(material, counts)] if counts else []


def _counts(pair: str, traces: Sequence[Trace]) -> list[Counts]:
    """Of every draft with a token before its end."""
    found = []
    for trace in traces:
        if pair in trace.verifications:
            verification = trace.verifications[pair]
            ended = trace.outcomes[verification.drafter].draft.finished
            found.append(_of(verification, ended=ended))
    return [(accepted, drafted) for accepted, drafted in found if drafted]


def _of(verification: Verification, *, ended: bool) -> Counts:
    drafted = len(verification.tokens) - ended
    return min(verification.n_accepted, drafted), drafted


def _yield_table(material: Material, counts: dict[str, list[Counts]]) -> StudyTable:
    rng = np.random.default_rng(material.seed)
    return StudyTable(
        name="acceptance",
        title="Tokens per verification pass",
        provenance="replayed",
        measured_on=material.measured_on,
        n=max(map(len, counts.values())),
        columns=(
            *("drafter>verifier", "drafts", "tokens_drafted", "acceptance", "accepted_whole"),
            *("tokens_per_pass", "tokens_per_pass_low", "tokens_per_pass_high", "tokens_by_formula"),
        ),
        rows=tuple(_yield(pair, found, rng) for pair, found in counts.items()),
        note="Tokens drafted: mean before the end. The formula is (1 - a^(k+1)) / (1 - a) at the measured "
        "acceptance a, averaged over the drafts' lengths k; it takes acceptance for independent.",
    )


def _yield(pair: str, counts: Sequence[Counts], rng: np.random.Generator) -> tuple[Value, ...]:
    accepted, drafted = (np.array(column) for column in zip(*counts, strict=True))
    tokens = accepted + 1.0
    means = tokens[rng.integers(len(tokens), size=(N_RESAMPLES, len(tokens)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975]).tolist()
    rate = acceptance_rate(counts)
    formula = float(np.mean([expected_tokens(rate, k) for k in drafted.tolist()]))
    head = (pair, len(counts), float(drafted.mean()), rate, float((accepted == drafted).mean()))
    return (*head, float(tokens.mean()), low, high, formula)


def _share_table(material: Material, counts: dict[str, list[Counts]]) -> StudyTable:
    edges = np.linspace(0.0, 1.0, N_BINS + 1)
    rows: list[tuple[Value, ...]] = []
    for pair, found in counts.items():
        shares = np.array([accepted / drafted for accepted, drafted in found])
        n, _ = np.histogram(shares, edges)
        rows += [
            (pair, float(low), float(high), int(k))
            for low, high, k in zip(edges[:-1], edges[1:], n, strict=True)
        ]
    return StudyTable(
        name="acceptance_shares",
        title="Share of a draft that the verifier accepts",
        provenance="replayed",
        measured_on=material.measured_on,
        n=max(map(len, counts.values())),
        columns=("drafter>verifier", "from", "to", "drafts"),
        rows=tuple(rows),
        note="Drafts by the share of their tokens before the first mismatch; the last bin holds 1 as well.",
    )
