"""Recorded outcomes as the data of a run (`--engine replay --traces FILE`): nothing is asked or timed.

The file is one of `asd collect`; its questions, answers and scores are taken as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from asd.errors import ConfigError, DataError
from asd.quality.thinking import without_thinking
from asd.traces import read_traces
from asd.types import Query, Trace
from asd.workloads import Split

__all__ = ["REPLAY", "RecordedWorkload", "recorded_workloads"]

REPLAY = "replay"
"""Name of the engine that plays recorded outcomes."""


@dataclass(frozen=True)
class RecordedWorkload:
    """One dataset of a trace file; implements `asd.workloads.Workload`."""

    name: str
    traces: tuple[Trace, ...]

    def queries(self, split: Split, limit: int) -> list[Query]:  # noqa: ARG002 - the file is of one split
        """The first `limit` questions, ordered by id."""
        return [trace.query for trace in self.traces[:limit]]

    def score(self, query: Query, text: str) -> float:
        """The recorded score of a recorded answer.

        Raises:
            DataError: Nobody gave this answer, or it was not scored.
        """
        for trace in self.traces:
            for outcome in trace.outcomes.values():
                said = {outcome.draft.text, without_thinking(outcome.draft.text)}
                if trace.query.id == query.id and text in said and outcome.score is not None:
                    return outcome.score
        raise DataError(f"no recorded score of this answer to query {query.id!r} of {query.dataset!r}")


def recorded_workloads(path: Path | None, names: Sequence[str] | None) -> list[RecordedWorkload]:
    """The datasets of a trace file, all or those named.

    Raises:
        ConfigError: There is no file, or it has no dataset of a name.
        DataError: The file cannot be read.
    """
    if path is None:
        raise ConfigError(
            "--engine replay plays recorded outcomes: give --traces FILE, made by `asd collect`"
        )
    traces = read_traces(path)
    known = list(dict.fromkeys(trace.query.dataset for trace in traces))
    for name in names or ():
        if name not in known:
            raise ConfigError(f"{path} has no dataset {name!r}, only {', '.join(known)}")
    return [
        RecordedWorkload(name, tuple(trace for trace in traces if trace.query.dataset == name))
        for name in names or known
    ]
