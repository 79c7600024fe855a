"""A workload's queries and scores, checked where they enter: before a stage is paid for, and at each answer.

A workload is a user's code. What it gives is accepted where it can be recorded and read back as it is;
numbers and texts of numpy become plain ones. Anything else is refused with the name of the query and the
remedy. The workload is always handed its own query objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from asd.engines.prompts import check
from asd.errors import AsdError, ConfigError, DataError
from asd.traces import Key, key_of
from asd.traces.records import as_score, decode_trace, encode_trace
from asd.types import Query, Trace
from asd.workloads import Split, Workload, score_of

__all__ = ["Questions", "read_questions"]


@dataclass(frozen=True, slots=True)
class Questions:
    """What is asked of every stage.

    Attributes:
        workload: Whose questions.
        queries: As they are asked and recorded, in the workload's order.
        own: The same by dataset and id, as the workload made them.
    """

    workload: Workload
    queries: Sequence[Query]
    own: Mapping[Key, Query]

    def score(self, query: Query, text: str) -> float | None:
        """Quality of an answer in [0, 1]; None where the workload gives no score.

        Raises:
            DataError: The workload fails, or its score is no number in [0, 1].
        """
        try:
            score: object = score_of(self.workload, self.own[key_of(query)], text)
        except Exception as error:  # a user's code may raise anything
            message = f"score() of workload {self.workload.name!r} raised {type(error).__name__}: {error}"
            raise DataError(message) from error
        try:
            return as_score(score)
        except ValueError as error:
            raise DataError(f"workload {self.workload.name!r}: {error}") from error


def read_questions(workloads: Sequence[Workload], split: Split, limit: int) -> list[Questions]:
    """The first `limit` questions of every workload.

    Raises:
        DataError: A workload has none, repeats an id, or a query cannot be asked and recorded.
    """
    found = [_read(workload, split, limit) for workload in workloads]
    _check_distinct(query for questions in found for query in questions.queries)
    return found


def _read(workload: Workload, split: Split, limit: int) -> Questions:
    own = _given(workload, split, limit)
    if not own:
        raise DataError(f"workload {workload.name!r} has no queries in split {split!r}")
    queries = [_recordable(workload, query) for query in own]
    return Questions(
        workload, queries, {key_of(plain): query for plain, query in zip(queries, own, strict=True)}
    )


def _given(workload: Workload, split: Split, limit: int) -> list[Query]:
    """What a workload gives, but no more than it was asked for: every query is paid for."""
    try:
        return list(islice(workload.queries(split, limit), limit))
    except AsdError:  # such as data that is not here
        raise
    except Exception as error:  # a user's code may raise anything
        message = f"queries() of workload {workload.name!r} raised {type(error).__name__}: {error}"
        raise DataError(message) from error


def _recordable(workload: Workload, query: object) -> Query:
    """The query as a reader of its traces will find it."""
    if not isinstance(query, Query):
        raise DataError(f"workload {workload.name!r} gives {query!r} for a query; give asd.Query objects")
    try:
        plain = decode_trace(encode_trace(Trace(query, {}))).query
        check(plain)
    except (DataError, ConfigError) as error:
        raise DataError(f"workload {workload.name!r}: {error}") from error
    if plain.dataset != workload.name:
        raise DataError(
            f"workload {workload.name!r} gives query {plain.id!r} of dataset {plain.dataset!r}; name the "
            "workload there, by which outcomes are found again"
        )
    return plain


def _check_distinct(queries: Iterable[Query]) -> None:
    known: set[Key] = set()
    for query in queries:
        if key_of(query) in known:
            raise DataError(
                f"workload {query.dataset!r} repeats a query id, {query.id!r}; outcomes are kept by id, so "
                "give every query one of its own"
            )
        known.add(key_of(query))
