"""One line of a trace file as a record: a trace to JSON and back (`asd.traces` documents the format).

Nothing is encoded that does not decode. What comes from outside the package (a workload's queries and scores,
an engine's drafts) is made plain first: numbers of numpy become Python's, and text has to be text. Files are
the business of `asd.traces` and `asd.traces.log`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from decimal import Decimal
from numbers import Real
from typing import Any

from asd.errors import DataError
from asd.messages import Message
from asd.schema import msgspec
from asd.types import (
    TEXT,
    VERIFY,
    Action,
    AnswerForm,
    Draft,
    Failure,
    Outcome,
    Query,
    StagePair,
    Trace,
    Usage,
    Verification,
)

__all__ = ["as_score", "decode_trace", "encode_trace"]


def as_score(value: object) -> float | None:
    """A score as a float in [0, 1]; None for an answer that was not scored.

    Takes any one real number: bool, int, float, Fraction, Decimal, numpy scalars and arrays without axes.

    Raises:
        ValueError: It is something else, not finite or out of range.
    """
    if value is None:
        return None
    number = _plain(value) if getattr(value, "shape", None) == () and hasattr(value, "tolist") else value
    if not isinstance(number, Real | Decimal):
        raise ValueError(f"score {value!r} is a {type(value).__name__}, not a number within [0, 1]")
    try:
        score = float(number)
    except (OverflowError, ValueError):  # a fraction beyond all floats, Decimal's signalling NaN
        score = math.nan
    if not 0.0 <= score <= 1.0:
        raise ValueError(f"score {number} is not within [0, 1]")
    return score


class _Output(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    score: float | bool | None  # earlier versions wrote bool scores as they came
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
    signals: dict[str, float] = {}

    def __post_init__(self) -> None:
        _check_numbers(self)
        as_score(self.score)
        if not all(map(math.isfinite, self.signals.values())):
            raise ValueError("a signal is not a finite number")


class _Continuation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tokens_in: int
    tokens_out: int
    n_passes: int
    n_drafted: int
    n_saved: int


class _VerificationLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    n_accepted: int
    tokens_in: int
    tokens_out: int
    n_passes: int
    seconds: float
    tokens: tuple[int, ...]
    token_logprobs: tuple[float, ...]
    continued: _Continuation | None = None
    complete: bool = True
    n_verified: int | None = None  # where it is not the number of tokens, as after a second pass

    def __post_init__(self) -> None:
        _check_numbers(self)
        if len(self.tokens) != len(self.token_logprobs):
            raise ValueError("a verification needs a log-probability for every token")
        if not 0 <= self.n_accepted <= len(self.tokens):
            raise ValueError(f"{self.n_accepted} of {len(self.tokens)} tokens cannot be accepted")


class _Refusal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    kind: str
    message: str


def _check_numbers(record: _Output | _VerificationLine) -> None:
    if record.tokens and record.token_logprobs and len(record.tokens) != len(record.token_logprobs):
        raise ValueError(f"{len(record.tokens)} tokens but {len(record.token_logprobs)} token_logprobs")
    # JSON has no NaN or infinity: they would be written as null and not be read again.
    if not all(map(math.isfinite, (*record.token_logprobs, record.seconds))):
        raise ValueError("a log-probability or time is not a finite number")


class _TraceLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    id: str
    dataset: str
    prompt: str
    reference: str | None
    max_new_tokens: int
    tags: dict[str, str]
    outputs: dict[str, _Output]
    verifications: dict[str, _VerificationLine] = {}
    refusals: dict[str, _Refusal] = {}
    form: AnswerForm = TEXT
    messages: tuple[Message, ...] = ()
    stop: tuple[str, ...] = ()


def encode_trace(trace: Trace) -> bytes:
    """One line of a trace file, which `decode_trace` reads.

    Raises:
        DataError: A value is none that JSON or the format has: NaN, text that is no text.
    """
    query = trace.query
    try:
        line = msgspec.json.encode(_to_record(trace), enc_hook=_plain) + b"\n"
        decode_trace(line)
    except (ValueError, TypeError, OverflowError, DataError) as error:
        raise DataError(f"query {query.id!r} of {query.dataset!r} cannot be recorded: {error}") from error
    return line


def decode_trace(line: bytes) -> Trace:
    """The trace in one line of a file.

    Raises:
        DataError: The line is not a record.
    """
    try:
        return _to_trace(msgspec.json.decode(line, type=_TraceLine))
    except (ValueError, msgspec.MsgspecError) as error:
        raise DataError(str(error)) from error


def _plain(value: Any) -> Any:
    """A number or array of numpy as Python's own; TypeError for anything else that JSON does not have."""
    if not hasattr(value, "tolist"):
        raise TypeError(f"{value!r} is a {type(value).__name__}, which JSON does not have")
    return value.tolist()


def _text(value: object, what: str) -> str:
    """Text as it is, without the class that may be around it (numpy's)."""
    if not isinstance(value, str):
        raise TypeError(f"{what} is {value!r}, a {type(value).__name__}; give text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{what} holds a lone surrogate at character {error.start}; decode it again"
        ) from error
    return str(value)


def _labels(tags: object) -> dict[str, str]:
    if not isinstance(tags, Mapping):
        raise TypeError(f"tags are {tags!r}, a {type(tags).__name__}; give a dict of texts")
    return {_text(name, "tag"): _text(label, f"tag {name!r}") for name, label in tags.items()}


def _count(value: Any, what: str) -> int:
    if isinstance(value, bool):
        raise TypeError(f"{what} is {value}; give a whole number")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{what} is {value!r}, a {type(value).__name__}; give a whole number") from None


def _to_record(trace: Trace) -> _TraceLine:
    query = trace.query
    return _TraceLine(
        id=_text(query.id, "id"),
        dataset=_text(query.dataset, "dataset"),
        prompt=_text(query.prompt, "prompt"),
        reference=None if query.reference is None else _text(query.reference, "reference"),
        max_new_tokens=_count(query.max_new_tokens, "max_new_tokens"),
        tags=_labels(query.tags),
        form=TEXT if query.form == TEXT else query.form,  # the default itself is left out
        messages=tuple(
            Message(_text(m.role, "a role"), _text(m.content, "a message")) for m in query.messages
        ),
        stop=tuple(_text(string, "a stop string") for string in query.stop),
        outputs={_text(stage, "stage"): _to_output(found) for stage, found in trace.outcomes.items()},
        verifications={
            pair: _to_row(found, trace.continuations.get(pair)) for pair, found in trace.verifications.items()
        },
        refusals={
            action: _Refusal(why.kind, why.message.encode(errors="replace").decode())
            for action, why in trace.refusals.items()
        },
    )


def _to_output(outcome: Outcome) -> _Output:
    draft = outcome.draft
    return _Output(
        score=as_score(outcome.score),
        response=_text(draft.text, "the answer"),
        tokens_in=draft.usage.n_prompt,
        tokens_out=draft.usage.n_decoded,
        n_passes=draft.usage.n_passes,
        seconds=draft.seconds,
        finished=draft.finished,
        tokens=tuple(draft.tokens),
        token_logprobs=tuple(draft.logprobs),
        n_drafted=draft.usage.n_drafted,
        n_saved=draft.usage.n_saved,
        signals=dict(draft.signals),
    )


def _to_row(verification: Verification, continuation: Usage | None) -> _VerificationLine:
    usage = verification.usage
    return _VerificationLine(
        n_accepted=verification.n_accepted,
        tokens_in=usage.n_prompt,
        tokens_out=usage.n_decoded,
        n_passes=usage.n_passes,
        seconds=verification.seconds,
        tokens=tuple(verification.tokens),
        token_logprobs=tuple(verification.logprobs),
        continued=None if continuation is None else _to_continuation(continuation),
        complete=verification.complete,
        n_verified=None if usage.n_verified == len(verification.tokens) else usage.n_verified,
    )


def _to_continuation(usage: Usage) -> _Continuation:
    return _Continuation(usage.n_prompt, usage.n_decoded, usage.n_passes, usage.n_drafted, usage.n_saved)


def _from_continuation(row: _Continuation) -> Usage:
    return Usage(row.tokens_in, row.tokens_out, row.n_passes, n_drafted=row.n_drafted, n_saved=row.n_saved)


def _to_trace(record: _TraceLine) -> Trace:
    query = Query(
        id=record.id,
        dataset=record.dataset,
        prompt=record.prompt,
        reference=record.reference,
        max_new_tokens=record.max_new_tokens,
        tags=record.tags,
        form=record.form,
        messages=record.messages,
        stop=record.stop,
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
        {key: _to_failure(key, row) for key, row in record.refusals.items()},
    )


def _to_failure(key: str, row: _Refusal) -> Failure:
    """Keyed "L", the stage would not answer; "S>L", it would not read the draft of S."""
    try:
        action = Action.verify(StagePair.parse(key).verifier) if VERIFY in key else Action.draft(key)
    except ValueError as error:
        raise DataError(f"refusal {key!r}: {error}") from error
    return Failure(action, row.kind, row.message)


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
        signals=output.signals,
    )
    return Outcome(draft, as_score(output.score))


def _to_verification(pair: str, row: _VerificationLine) -> Verification:
    try:
        drafter, stage = StagePair.parse(pair)
    except ValueError as error:
        raise DataError(f"verification {error}") from error
    n_verified = len(row.tokens) if row.n_verified is None else row.n_verified
    return Verification(
        stage=stage,
        drafter=drafter,
        tokens=row.tokens,
        logprobs=row.token_logprobs,
        n_accepted=row.n_accepted,
        usage=Usage(row.tokens_in, row.tokens_out, row.n_passes, n_verified),
        seconds=row.seconds,
        complete=row.complete,
    )
