"""Traces: what every stage answered to every query, and what later stages said of it, as JSON lines.

The first line is a `TraceHeader`: which ladder, which datasets, how sampled. Every other line is one query
with the outcomes of one or more stages in `outputs`, of verifications in `verifications` ("S>M": M read S's
draft), and in `refusals` what a stage will never do for it; the last two are left out where there are none.
Lines of the same query are merged, so a file grows by appending (`asd.traces.log`):

    {"format": "asd-traces", "version": 1, "ladder": "tiny", "stages": {"S": {"model": ...}}, ...}
    {"id": "q1", "dataset": "d", "prompt": "2+2=", "reference": "4", "max_new_tokens": 8, "tags": {},
     "outputs": {"S": {"score": 1.0, "response": "4", "tokens_in": 5, "tokens_out": 2, "n_passes": 2,
                       "seconds": 0.01, "finished": true, "tokens": [9, 2], "token_logprobs": [-0.1, -0.2]}},
     "verifications": {"S>M": {"n_accepted": 2, "tokens_in": 5, "tokens_out": 0, "n_passes": 1,
                               "seconds": 0.01, "tokens": [9, 2], "token_logprobs": [-0.3, -0.1]}},
     "refusals": {"L": {"kind": "RefusedError", "message": "stage 'L' answered 400: content_filter"}}}

`"complete": false` marks a verification that did not read the whole draft, `"form": {"kind": "number"}` says
what the answer to a query is, where that is not the whole text, `"messages": [{"role": "system", "content":
"..."}, ...]` is the conversation of which the prompt is the last message, `"stop": ["Question:"]` are strings
before which every answer ends. What can be derived is not stored: the text of a draft accepted to its end is
the verifier's own `response`, confidence comes from `token_logprobs`, the answer from text and form, cost
from the counts and the ladder's prices, which may be measured again. This module reads and merges;
`asd.traces.records` encodes a line.
"""

from __future__ import annotations

import gzip
import zlib
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from asd.engines.revisions import same_revision
from asd.engines.runtimes import UNKNOWN, same_runtime
from asd.errors import DataError
from asd.schema import msgspec
from asd.traces.records import decode_trace, encode_trace
from asd.types import TEXT, Outcome, Query, Trace
from asd.workloads import Split

__all__ = ["StageHeader", "TraceHeader", "answered", "encode_trace", "read_header", "read_traces"]

Key = tuple[str, str]
"""Dataset and query id: what identifies a trace within a file."""


class StageHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What answered: everything about a stage that its answers depend on, and no more (prices do not enter).

    Attributes:
        model: Repository on the hub, or the last part of a local directory; " with " that of its adapter.
        revision: Commit, or hash of the directory's files; before it that of the adapter's.
        dtype: As the ladder asks for it.
        chat_template: Whether prompts are wrapped in the chat template.
        chat_template_kwargs: Variables that the template was given.
        runtime: The engine, the dtype that it came to, and a hash of vLLM's options
            (`asd.engines.runtimes`); "unknown" in files of earlier versions.
    """

    model: str
    revision: str
    dtype: str
    chat_template: bool
    chat_template_kwargs: dict[str, object] = {}
    runtime: str = UNKNOWN


class TraceHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
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

    header: TraceHeader | None
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
            "continues from there"
        )
    if not contents.traces:
        raise DataError(f"{path} holds no traces; fill it with `asd collect`")
    return [contents.traces[key] for key in sorted(contents.traces)]


def answered(traces: Iterable[Trace]) -> list[Trace]:
    """The traces without any refusal: those that a policy can be fitted, replayed or measured on.

    A query that one stage refuses says nothing of what that stage's answers are worth, and the stages can be
    compared only on queries that all of them answered.
    """
    return [trace for trace in traces if not trace.refusals]


def read_header(path: str | Path) -> TraceHeader:
    """What a trace file is about, without reading the traces.

    Raises:
        DataError: The file is missing, or does not begin with a header.
    """
    path = Path(path)
    return _decode_header(path, next(_lines(path), b""))


def parse(path: Path) -> Contents:
    """Everything in a trace file, a cut last line included as bytes.

    Raises:
        DataError: The file is missing, or a line other than the last is broken.
    """
    header: TraceHeader | None = None
    traces: dict[Key, Trace] = {}
    for number, line in enumerate(_lines(path), start=1):
        if not line.endswith(b"\n"):
            return Contents(header, traces, cut=line)
        if header is None:
            header = _decode_header(path, line)
            continue
        try:
            merge(traces, decode_trace(line))
        except DataError as error:
            raise DataError(f"{path}, line {number}: {error}") from error
    return Contents(header, traces, cut=b"")


def _decode_header(path: Path, line: bytes) -> TraceHeader:
    try:
        return msgspec.json.decode(line.removeprefix(BOM_UTF8), type=TraceHeader)
    except ValueError as error:  # not JSON, not text, or not a header
        raise DataError(f"{path} does not begin with the header of a trace file: {error}") from error


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield from file
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read traces from {path}: {error}") from error


def merge(traces: MutableMapping[Key, Trace], new: Trace) -> None:
    """Add what one trace holds; the query must be the recorded one, stages and verifications new to it.

    An answer that had no score may come again with one. What was refused before may be answered now.
    """
    known = traces.get(key_of(new.query), Trace(new.query, {}))
    check_same(known.query, new.query)
    for stage in known.outcomes.keys() & new.outcomes.keys():
        if not _is_now_scored(known.outcomes[stage], new.outcomes[stage]):
            raise DataError(f"query {new.query.id!r} has two outcomes of stage {stage!r}; keep one")
    if repeated := known.verifications.keys() & new.verifications.keys():
        raise DataError(f"query {new.query.id!r} has two verifications {min(repeated)!r}; keep one")
    outcomes = {**known.outcomes, **new.outcomes}
    verifications = {**known.verifications, **new.verifications}
    refusals = {**known.refusals, **new.refusals}
    query = known.query if new.query.form == TEXT else new.query  # old files do not say what an answer is
    traces[key_of(query)] = Trace(
        query,
        outcomes,
        verifications,
        {**known.continuations, **new.continuations},
        {action: why for action, why in refusals.items() if action not in {*outcomes, *verifications}},
    )


def _is_now_scored(known: Outcome, new: Outcome) -> bool:
    return known.score is None and new.score is not None and known.draft == new.draft


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


def as_recorded(
    recorded: Mapping[str, StageHeader], wanted: Mapping[str, StageHeader]
) -> dict[str, StageHeader]:
    """The wanted stages, with the revision and runtime recorded of each, where they may be the same."""
    return {
        name: _as_recorded(recorded[name], stage) if name in recorded else stage
        for name, stage in wanted.items()
    }


def _as_recorded(recorded: StageHeader, wanted: StageHeader) -> StageHeader:
    same: dict[str, str] = {}
    if same_revision(recorded.revision, wanted.revision):
        same["revision"] = recorded.revision
    if same_runtime(recorded.runtime, wanted.runtime):
        same["runtime"] = recorded.runtime
    return msgspec.structs.replace(wanted, **same)


def encode_header(header: TraceHeader) -> bytes:
    """The first line of a trace file."""
    return msgspec.json.encode(header) + b"\n"
