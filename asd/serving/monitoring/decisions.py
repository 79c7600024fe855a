"""The log of what a server decided, as traces (`asd.traces`): `asd fit` reads it.

A line a request: the answers that stages have written from the prompt, what they took, verifications, and in
the tags who asked, what was decided and whether the request was drawn for the shadow (`asd.traces.served`). A
score that comes later is one more line. Prompts and answers are left out unless they are asked for; then a
policy cannot be fitted on the log, but counts, probabilities and decisions are there.

One thread writes, so that no request waits for the disk; a file is continued by the next server.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Self

from asd.errors import AsdError
from asd.serving.monitoring.events import Ended
from asd.traces import TraceHeader
from asd.traces.log import TraceLog
from asd.traces.served import DRAWN
from asd.types import Draft, Outcome, Query, Trace, Verification, pair_name

__all__ = ["DecisionLog", "from_the_prompt", "trace_of"]

_LOG = logging.getLogger(__name__)


class DecisionLog:
    """A log that one server writes; a context manager.

    Args:
        path: Continued if it is there.
        header: Of the ladder, with the dataset `SERVED` and the split "fit".
        prompts: Keep what was asked and answered.

    Raises:
        ConfigError, DataError, StorageError: As `TraceLog`.
    """

    def __init__(self, path: str | Path, header: TraceHeader, *, prompts: bool) -> None:
        self.prompts = prompts
        self._log = TraceLog(path, header)
        self._log.forget()
        self._thread = ThreadPoolExecutor(1, "asd-log")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Write what was asked for so far."""
        self._thread.shutdown()
        self._log.__exit__()

    def write(self, trace: Trace) -> Trace:
        """Append a line, soon, and return it; that one cannot be written stands in the server's own log."""
        line = trace if self.prompts else _without_words(trace)
        self._thread.submit(self._write, line)
        return line

    def _write(self, trace: Trace) -> None:
        try:
            self._log.append([trace])
        except AsdError as error:
            _LOG.error("request %s is not in the log of decisions: %s", trace.query.id, error)
        self._log.forget()


def trace_of(query: Query, ended: Ended, shadow: Mapping[str, Draft]) -> Trace:
    """A request as a line of the log; one with answers of the shadow had been drawn for that."""
    read = [result for result in ended.bought if isinstance(result, Verification)]
    answers = {**from_the_prompt(ended.bought), **shadow}
    tags = {"key": ended.key, "outcome": ended.outcome, "micros": str(ended.micros)}
    if ended.completion is not None:
        tags["answered_by"] = ended.completion.stage
        tags["path"] = ",".join(str(decision.action) for decision in ended.completion.decisions)
    if ended.p_good is not None:
        tags["p_good"] = f"{ended.p_good:.6g}"
    if query.needs:  # the text alone is not what was asked
        tags["needs"] = ",".join(sorted(query.needs))
    if shadow:
        tags[DRAWN] = "by lot"
    return Trace(
        replace(query, tags=tags),
        {name: Outcome(draft, None) for name, draft in answers.items()},
        {pair_name(one.drafter, one.stage): one for one in read},
    )


def from_the_prompt(bought: Iterable[Draft | Verification]) -> dict[str, Draft]:
    """Answers by stage, without those that continue a verified draft: alone they would have taken more."""
    results = list(bought)
    readers = {result.stage for result in results if isinstance(result, Verification)}
    return {
        result.stage: result
        for result in results
        if isinstance(result, Draft) and result.stage not in readers
    }


def _without_words(trace: Trace) -> Trace:
    """The same without anything that a prompt or an answer could be read from, token ids among it."""
    outcomes = {
        name: replace(outcome, draft=replace(outcome.draft, text="", tokens=()))
        for name, outcome in trace.outcomes.items()
    }
    return Trace(replace(trace.query, prompt="", reference=None, messages=(), stop=()), outcomes)
