"""Plays a recorded stage back: the drafts of a trace instead of a model.

What comes out is `replayed`, never `measured`: texts, tokens and log-probabilities are the recorded ones,
and so are the seconds, those of the batch the query was in when it was recorded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from asd.engines import GREEDY, LOSSLESS, Acceptance, Sampling, continuation_usage
from asd.engines.closing import Closing
from asd.errors import ConfigError, DataError
from asd.types import Draft, Query, Trace, Usage, Verification, pair_name

__all__ = ["ReplayEngine"]


class ReplayEngine(Closing):
    """One recorded stage; implements `asd.engines.Engine` and `asd.engines.Verifier`.

    Args:
        stage_name: Which stage of the traces to play.
        traces: Where the recorded outcomes are; a trace without this stage has none.
        drafter: Usage is that with the stage's drafter, if it has one; else what it would take alone.

    Raises:
        DataError: Two traces hold this stage's outcome for the same query.
    """

    def __init__(self, stage_name: str, traces: Iterable[Trace], *, drafter: bool = True) -> None:
        self._stage_name = stage_name
        self._drafter = drafter
        self._drafts: dict[tuple[str, str], Draft] = {}
        self._verifications: dict[tuple[str, str, str], Verification] = {}
        self._continuations: dict[tuple[str, str, str], Usage] = {}
        for trace in traces:
            if stage_name in trace.outcomes:
                self._record(trace.query, trace.outcomes[stage_name].draft)
            for pair, verification in trace.verifications.items():
                self._verifications[trace.query.dataset, trace.query.id, pair] = verification
            for pair, usage in trace.continuations.items():
                self._continuations[trace.query.dataset, trace.query.id, pair] = usage

    @property
    def stage_name(self) -> str:
        """Name of the stage this engine plays."""
        return self._stage_name

    def load(self) -> None:
        """Nothing to load."""

    def unload(self) -> None:
        """Nothing to give back."""

    def synchronise(self) -> None:
        """No device to wait for."""

    def generate(self, queries: Sequence[Query], sampling: Sampling = GREEDY) -> list[Draft]:
        """The recorded draft of every query, found by dataset and id.

        Raises:
            ConfigError: Anything but greedy is asked for: a recording cannot be sampled from.
            DataError: A query was not recorded on this stage.
        """
        if sampling.temperature != 0:
            raise ConfigError(f"a recording cannot be sampled at temperature {sampling.temperature}; use 0")
        return [self._find(query) for query in queries]

    def verify(
        self, queries: Sequence[Query], drafts: Sequence[Draft], acceptance: Acceptance = LOSSLESS
    ) -> list[Verification]:
        """The recorded verification of every draft; with its text where the stage's own answer is the draft.

        Raises:
            ConfigError: Anything but lossless greedy verification is asked for.
            DataError: The stage was not recorded reading the draft of that query by that stage.
        """
        _check_acceptance(acceptance)
        return [
            self._find_verification(query, pair_name(draft.stage, self._stage_name))
            for query, draft in zip(queries, drafts, strict=True)
        ]

    def continue_(
        self,
        queries: Sequence[Query],
        verifications: Sequence[Verification],
        acceptance: Acceptance = LOSSLESS,
    ) -> list[Draft]:
        """The stage's own recorded draft, with the usage of going on from the accepted prefix.

        What is not in the prefix is decoded, its first token from the pass that verified: lossless greedy
        decoding leaves no choice, so the recorded draft is what the stage would write. What a stage with a
        drafter took for it was recorded.

        Raises:
            ConfigError: Anything but lossless greedy verification is asked for.
            DataError: A query was not recorded on this stage.
        """
        _check_acceptance(acceptance)
        return [
            replace(draft, usage=self._usage_on(query, draft, verification))
            for query, draft, verification in zip(
                queries, map(self._find, queries), verifications, strict=True
            )
        ]

    def _usage_on(self, query: Query, draft: Draft, verification: Verification) -> Usage:
        pair = pair_name(verification.drafter, verification.stage)
        recorded = self._continuations.get((query.dataset, query.id, pair))
        if recorded is None:
            return continuation_usage(draft, verification)
        return recorded if self._drafter else recorded.alone

    def _find_verification(self, query: Query, pair: str) -> Verification:
        try:
            read = self._verifications[query.dataset, query.id, pair]
        except KeyError:
            raise DataError(
                f"no recorded verification {pair!r} for query {query.id!r} of dataset {query.dataset!r}; "
                "collect it first"
            ) from None
        own = self._drafts.get((query.dataset, query.id))
        if own is None or not own.finished or not own.tokens or own.tokens != read.tokens[: read.n_accepted]:
            return read
        return replace(read, text=own.text)

    def _record(self, query: Query, draft: Draft) -> None:
        key = (query.dataset, query.id)
        if key in self._drafts:
            raise DataError(
                f"the traces hold two outcomes of stage {self._stage_name!r} for query {query.id!r} of "
                f"dataset {query.dataset!r}; keep one"
            )
        self._drafts[key] = draft if self._drafter else replace(draft, usage=draft.usage.alone)

    def _find(self, query: Query) -> Draft:
        try:
            return self._drafts[query.dataset, query.id]
        except KeyError:
            raise DataError(
                f"no recorded outcome of stage {self._stage_name!r} for query {query.id!r} of dataset "
                f"{query.dataset!r}; collect it first"
            ) from None


def _check_acceptance(acceptance: Acceptance) -> None:
    if acceptance != LOSSLESS:
        raise ConfigError(
            f"a recording verifies as it was recorded, greedy and lossless, not by {acceptance}"
        )
