"""Appending traces to a file so that a kill or a full disk loses at most the batch in flight.

A batch is written with one call and forced to disk before `TraceLog.append` returns. A process that is
killed leaves at most one cut last line, which the next `TraceLog` on the same file drops and counts; a write
that fails is undone. The format of the lines is `asd.traces`' and `asd.traces.records`'.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

from asd.engines.runtimes import UNKNOWN
from asd.errors import ConfigError, DataError, StorageError
from asd.measurement.locking import lock
from asd.schema import msgspec
from asd.traces import (
    Key,
    StageHeader,
    TraceHeader,
    as_recorded,
    check_same,
    encode_header,
    key_of,
    merge,
    parse,
)
from asd.traces.records import decode_trace, encode_trace
from asd.types import Query, Trace, pair_name

__all__ = ["TraceLog"]

_LOG = logging.getLogger(__name__)


class TraceLog:
    """A trace file open for appending, and the traces in it. A context manager; one process at a time.

    Args:
        path: Created if it does not exist; otherwise continued.
        header: Must equal the header of a file that is continued; one without outcomes begins again.

    Attributes:
        n_bytes_dropped: Length of the cut last line that was removed on opening; 0 for an intact file.

    Raises:
        ConfigError: The file was collected with another header, or is compressed.
        DataError: A line other than the last is broken, or the file is something else than traces.
        StorageError: The file cannot be opened, locked or written.
    """

    def __init__(self, path: str | Path, header: TraceHeader) -> None:
        path = Path(path)
        if path.suffix == ".gz":
            raise ConfigError(
                f"{path}: traces grow as plain JSON lines; compress the file when it is complete"
            )
        if path.exists() and not path.is_file():
            raise StorageError(f"{path} is not a regular file; choose another path")
        self.path = path
        self.header = header
        with _storing(path):
            self._file = path.open("ab", buffering=0)
        self._release: Callable[[], None] = lambda: None
        try:
            self._release = lock(path, self._file.fileno())
            self._take_up()
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._release()

    def pending(self, stage: str, queries: Iterable[Query], *, refused: bool = False) -> list[Query]:
        """The queries that `stage` has not answered yet.

        Args:
            stage: Whose answers are wanted.
            queries: To which queries.
            refused: Name those too that the stage has refused.

        Raises:
            DataError: A query is recorded under the same id with another prompt or reference.
        """
        recorded = [(query, self._traces.get(key_of(query), Trace(query, {}))) for query in queries]
        for query, trace in recorded:
            check_same(trace.query, query)
        return [
            query
            for query, trace in recorded
            if stage not in trace.outcomes and (refused or stage not in trace.refusals)
        ]

    def of_another_form(self, queries: Iterable[Query]) -> list[Query]:
        """The queries that are recorded without what their answer is, or with something else."""
        known = [(query, self._traces.get(key_of(query))) for query in queries]
        return [query for query, trace in known if trace is not None and trace.query.form != query.form]

    def unverified(
        self, drafter: str, verifier: str, queries: Iterable[Query], *, refused: bool = False
    ) -> list[Trace]:
        """The traces, answered by both stages, in which `verifier` has not read the draft of `drafter` yet.

        Args:
            drafter: Whose drafts.
            verifier: Who reads them.
            queries: All of them must be recorded.
            refused: Name those too that the verifier has refused to read.
        """
        pair = pair_name(drafter, verifier)
        return [
            trace
            for trace in self.select(queries)
            if trace.outcomes.keys() >= {drafter, verifier}
            and pair not in trace.verifications
            and (refused or pair not in trace.refusals)
        ]

    def unscored(self, stage: str, queries: Iterable[Query]) -> list[Trace]:
        """The traces that hold an answer of `stage` without a score."""
        recorded = [self._traces[key_of(query)] for query in queries if key_of(query) in self._traces]
        return [t for t in recorded if stage in t.outcomes and t.outcomes[stage].score is None]

    def append(self, traces: Sequence[Trace]) -> None:
        """Add one batch; when this returns, it is on the disk, and kept as a reader will find it.

        Raises:
            DataError: A trace repeats a recorded outcome or verification, or cannot be recorded as it is.
            StorageError: The disk is full or not writable; the file is as it was before.
        """
        lines = [encode_trace(trace) for trace in traces]
        added: dict[Key, Trace] = {}
        for line in lines:
            merge(ChainMap(added, self._traces), decode_trace(line))
        self._write(b"".join(lines))
        self._traces.update(added)

    def forget(self) -> None:
        """Let go of what is recorded so far, for a writer whose queries do not come again."""
        self._traces.clear()

    def select(self, queries: Iterable[Query]) -> list[Trace]:
        """The traces of these queries, in their order; all of them must have been appended."""
        return [self._traces[key_of(query)] for query in queries]

    def _take_up(self) -> None:
        """Continue the run that left the file, if it is the same; drop the line it died over."""
        contents = parse(self.path)
        known = contents.header and contents.header.stages
        wanted = msgspec.structs.replace(self.header, stages=as_recorded(known or {}, self.header.stages))
        same = contents.header == wanted
        if contents.header is not None and not same and (contents.traces or contents.cut):
            raise ConfigError(_difference(self.path, contents.header, self.header))
        if contents.header is None and not encode_header(self.header).startswith(contents.cut):
            raise DataError(f"{self.path} does not begin like a trace file; choose another path")
        with _storing(self.path):
            self._file.truncate(self.path.stat().st_size - len(contents.cut) if same else 0)
        if same and _says_less(known or {}, self.header.stages):
            _LOG.warning(
                "%s was begun by an earlier version, which did not record all that answers depend on (chat "
                "templates, tokenizers, engines, dtypes); what is not recorded is taken to be the same",
                self.path,
            )
        self._traces = contents.traces
        self.n_bytes_dropped = len(contents.cut)
        if not same:
            self._write(encode_header(self.header))

    def _write(self, data: bytes) -> None:
        """Append all of it or nothing."""
        with _storing(self.path):
            size = self.path.stat().st_size
            try:
                while data:
                    data = data[self._file.write(data) :]
                os.fsync(self._file.fileno())
            except BaseException:
                self._file.truncate(size)
                raise


@contextlib.contextmanager
def _storing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror}; what was collected before is intact, "
            "free space or choose another path"
        ) from error


def _says_less(recorded: Mapping[str, StageHeader], wanted: Mapping[str, StageHeader]) -> bool:
    """Whether the file's header does not know what is known of the stages now."""
    return any(
        recorded[name].revision != stage.revision or recorded[name].runtime == UNKNOWN != stage.runtime
        for name, stage in wanted.items()
    )


def _difference(path: Path, found: TraceHeader, wanted: TraceHeader) -> str:
    name = next(
        name for name in TraceHeader.__struct_fields__ if getattr(found, name) != getattr(wanted, name)
    )
    return (
        f"{path} was collected with {name} {getattr(found, name)!r}, not {getattr(wanted, name)!r}; "
        "collect into another file"
    )
