"""Traces: what every stage answered to every query, and what later stages said of it, as JSON lines.

The first line is a `Header`: which ladder, which datasets, how sampled. Every other line is one query with
the outcomes of one or more stages in `outputs`, and of verifications in `verifications` ("S>M": M read S's
draft; left out where there is none); lines of the same query are merged, so a file grows by appending
(`asd.tracelog`):

    {"format": "asd-traces", "version": 1, "ladder": "tiny", "stages": {"S": {"model": ...}}, ...}
    {"id": "q1", "dataset": "d", "prompt": "2+2=", "reference": "4", "max_new_tokens": 8, "tags": {},
     "outputs": {"S": {"score": 1.0, "response": "4", "tokens_in": 5, "tokens_out": 2, "n_passes": 2,
                       "seconds": 0.01, "finished": true, "tokens": [9, 2], "token_logprobs": [-0.1, -0.2]}},
     "verifications": {"S>M": {"n_accepted": 2, "tokens_in": 5, "tokens_out": 0, "n_passes": 1,
                               "seconds": 0.01, "tokens": [9, 2], "token_logprobs": [-0.3, -0.1]}}}

`"complete": false` marks a verification that did not read the whole draft. What can be derived is not stored:
the text of a draft accepted to its end is the verifier's own `response`, confidence comes from
`token_logprobs`, cost from the counts and the ladder's prices, which may be measured anew. The border: format
and reading; nothing here runs a model.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from asd.errors import DataError
from asd.types import VERIFY, Draft, Outcome, Query, Trace, Usage, Verification
from asd.workloads import Split

__all__ = ["Header", "StageHeader", "read_header", "read_traces"]

Key = tuple[str, str]
"""Dataset and query id: what identifies a trace within a file."""


class StageHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What answered: everything about a stage that its answers depend on, and no more (prices do not enter).

    Attributes:
        model: Repository on the hub, or the last part of a local directory.
        revision: Commit, or hash of the directory's files.
        dtype: As the ladder asks for it.
        chat_template: Whether prompts are wrapped in the chat template.
        chat_template_kwargs: Variables that the template was given.
    """

    model: str
    revision: str
    dtype: str
    chat_template: bool
    chat_template_kwargs: dict[str, object] = {}


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a trace file is about; runs may share a file only if their headers are equal.

    Attributes:
        format: Marks the file.
        version: Of the record format.
        ladder: Name of the ladder.
        stages: What answered, by stage name, in ladder order.
        datasets: Names of the workloads.
        split: Which rows of them.
        sampling: How tokens were chosen.
    """

    format: Literal["asd-traces"] = "asd-traces"
    version: Literal[1] = 1
    ladder: str
    stages: dict[str, StageHeader]
    datasets: tuple[str, ...]
    split: Split
    sampling: Literal["greedy"] = "greedy"


@dataclass(frozen=True, slots=True)
class Contents:
    """A trace file as it is, whole or not.

    Attributes:
        header: None before its line was written whole.
        traces: By key.
        cut: What follows the last whole line; empty for an intact file.
    """

    header: Header | None
    traces: dict[Key, Trace]
    cut: bytes


def read_traces(path: str | Path) -> list[Trace]:
    """All traces of a file (`.gz` is unpacked), sorted by dataset and query id.

    Raises:
        DataError: The file is missing or holds no trace, or a line is broken or cut off.
    """
    contents = parse(Path(path))
    if contents.cut:
        raise DataError(
            f"the last line of {path} is cut off; run the same `asd collect` again: it drops the line and "
            "goes on from there"
        )
    if not contents.traces:
        raise DataError(f"{path} holds no traces; fill it with `asd collect`")
    return [contents.traces[key] for key in sorted(contents.traces)]


def read_header(path: Path) -> Header:
    """What a trace file is about, without reading the traces.

    Raises:
        DataError: The file is missing, or does not begin with a header.
    """
    return _decode_header(path, next(_lines(path), b""))


def parse(path: Path) -> Contents:
    """Everything in a trace file, a cut last line included as bytes.

    Raises:
        DataError: The file is missing, or a line other than the last is broken.
    """
    header: Header | None = None
    traces: dict[Key, Trace] = {}
    for number, line in enumerate(_lines(path), start=1):
        if not line.endswith(b"\n"):
            return Contents(header, traces, cut=line)
        if header is None:
            header = _decode_header(path, line)
            continue
        try:
            merge(traces, _to_trace(msgspec.json.decode(line, type=_Record)))
        except (msgspec.DecodeError, DataError) as error:
            raise DataError(f"{path}, line {number}: {error}") from error
    return Contents(header, traces, cut=b"")


def _decode_header(path: Path, line: bytes) -> Header:
    try:
        return msgspec.json.decode(line, type=Header)
    except msgspec.DecodeError as error:
        raise DataError(f"{path} does not begin with the header of a trace file: {error}") from error


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield from file
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read traces from {path}: {error}") from error


def merge(traces: MutableMapping[Key, Trace], new: Trace) -> None:
    """Add what one trace holds; the query must be the recorded one, stages and verifications new to it."""
    known = traces.get(key_of(new.query), Trace(new.query, {}))
    check_same(known.query, new.query)
    if repeated := known.outcomes.keys() & new.outcomes.keys():
        raise DataError(f"query {new.query.id!r} has two outcomes of stage {min(repeated)!r}; keep one")
    if repeated := known.verifications.keys() & new.verifications.keys():
        raise DataError(f"query {new.query.id!r} has two verifications {min(repeated)!r}; keep one")
    traces[key_of(new.query)] = Trace(
        new.query,
        {**known.outcomes, **new.outcomes},
        {**known.verifications, **new.verifications},
        {**known.continuations, **new.continuations},
    )


def check_same(recorded: Query, query: Query) -> None:
    """Refuse a query that is not the one recorded under its id."""
    if recorded != query:
        raise DataError(
            f"query {query.id!r} of {query.dataset!r} is recorded with another prompt, reference, room "
            "or tags: the workload has changed; collect into another file"
        )


def key_of(query: Query) -> Key:
    """What identifies the query within a file."""
    return query.dataset, query.id


def encode_header(header: Header) -> bytes:
    """The first line of a trace file."""
    return _encode(header)


class _Output(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    score: float | None
    response: str
    tokens_in: int
    tokens_out: int
    n_passes: int
    seconds: float
    finished: bool
    tokens: tuple[int, ...]
    token_logprobs: tuple[float, ...]
    n_drafted: int = 0
    n_saved: int = 0

    def __post_init__(self) -> None:
        _check_numbers(self)
        if self.score is not None and not 0 <= self.score <= 1:
            raise ValueError(f"score {self.score} is not within [0, 1]")


class _Continuation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tokens_in: int
    tokens_out: int
    n_passes: int
    n_drafted: int
    n_saved: int


class _Verification(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    n_accepted: int
    tokens_in: int
    tokens_out: int
    n_passes: int
    seconds: float
    tokens: tuple[int, ...]
    token_logprobs: tuple[float, ...]
    continued: _Continuation | None = None
    complete: bool = True

    def __post_init__(self) -> None:
        _check_numbers(self)
        if len(self.tokens) != len(self.token_logprobs):
            raise ValueError("a verification needs a log-probability for every token")
        if not 0 <= self.n_accepted <= len(self.tokens):
            raise ValueError(f"{self.n_accepted} of {len(self.tokens)} tokens cannot be accepted")


def _check_numbers(record: _Output | _Verification) -> None:
    if record.tokens and record.token_logprobs and len(record.tokens) != len(record.token_logprobs):
        raise ValueError(f"{len(record.tokens)} tokens but {len(record.token_logprobs)} token_logprobs")
    # JSON has no NaN or infinity: they would be written as null and not be read again.
    if not all(map(math.isfinite, (*record.token_logprobs, record.seconds))):
        raise ValueError("a log-probability or time is not a finite number")


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    id: str
    dataset: str
    prompt: str
    reference: str | None
    max_new_tokens: int
    tags: dict[str, str]
    outputs: dict[str, _Output]
    verifications: dict[str, _Verification] = {}


def encode_trace(trace: Trace) -> bytes:
    """One line of a trace file; raises DataError for numbers that JSON does not have."""
    query = trace.query
    try:
        outputs = {stage: _to_output(outcome) for stage, outcome in trace.outcomes.items()}
        verifications = {
            pair: _to_row(found, trace.continuations.get(pair)) for pair, found in trace.verifications.items()
        }
    except ValueError as error:
        raise DataError(f"query {query.id!r} of {query.dataset!r} cannot be recorded: {error}") from error
    record = _Record(
        id=query.id,
        dataset=query.dataset,
        prompt=query.prompt,
        reference=query.reference,
        max_new_tokens=query.max_new_tokens,
        tags=dict(query.tags),
        outputs=outputs,
        verifications=verifications,
    )
    return _encode(record)


def _to_output(outcome: Outcome) -> _Output:
    draft = outcome.draft
    return _Output(
        score=outcome.score,
        response=draft.text,
        tokens_in=draft.usage.n_prompt,
        tokens_out=draft.usage.n_decoded,
        n_passes=draft.usage.n_passes,
        seconds=draft.seconds,
        finished=draft.finished,
        tokens=draft.tokens,
        token_logprobs=draft.logprobs,
        n_drafted=draft.usage.n_drafted,
        n_saved=draft.usage.n_saved,
    )


def _to_row(verification: Verification, continuation: Usage | None) -> _Verification:
    usage = verification.usage
    return _Verification(
        n_accepted=verification.n_accepted,
        tokens_in=usage.n_prompt,
        tokens_out=usage.n_decoded,
        n_passes=usage.n_passes,
        seconds=verification.seconds,
        tokens=verification.tokens,
        token_logprobs=verification.logprobs,
        continued=None if continuation is None else _to_continuation(continuation),
        complete=verification.complete,
    )


def _to_continuation(usage: Usage) -> _Continuation:
    return _Continuation(usage.n_prompt, usage.n_decoded, usage.n_passes, usage.n_drafted, usage.n_saved)


def _from_continuation(row: _Continuation) -> Usage:
    return Usage(row.tokens_in, row.tokens_out, row.n_passes, n_drafted=row.n_drafted, n_saved=row.n_saved)


def _to_trace(record: _Record) -> Trace:
    query = Query(
        id=record.id,
        dataset=record.dataset,
        prompt=record.prompt,
        reference=record.reference,
        max_new_tokens=record.max_new_tokens,
        tags=record.tags,
    )
    return Trace(
        query,
        {stage: _to_outcome(stage, output) for stage, output in record.outputs.items()},
        {pair: _to_verification(pair, row) for pair, row in record.verifications.items()},
        {
            pair: _from_continuation(row.continued)
            for pair, row in record.verifications.items()
            if row.continued is not None
        },
    )


def _to_outcome(stage: str, output: _Output) -> Outcome:
    draft = Draft(
        stage=stage,
        text=output.response,
        tokens=output.tokens,
        logprobs=output.token_logprobs,
        finished=output.finished,
        usage=Usage(
            output.tokens_in,
            output.tokens_out,
            output.n_passes,
            n_drafted=output.n_drafted,
            n_saved=output.n_saved,
        ),
        seconds=output.seconds,
    )
    return Outcome(draft, output.score)


def _to_verification(pair: str, row: _Verification) -> Verification:
    drafter, _, stage = pair.partition(VERIFY)
    if not drafter or not stage:
        raise DataError(f"verification {pair!r} is not named like 'S{VERIFY}M'")
    return Verification(
        stage=stage,
        drafter=drafter,
        tokens=row.tokens,
        logprobs=row.token_logprobs,
        n_accepted=row.n_accepted,
        usage=Usage(row.tokens_in, row.tokens_out, row.n_passes, len(row.tokens)),
        seconds=row.seconds,
        complete=row.complete,
    )


def _encode(line: Header | _Record) -> bytes:
    return msgspec.json.encode(line) + b"\n"
