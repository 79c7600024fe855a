"""Appending traces: what a kill, a full disk or another run leaves behind, produced for real."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from asd.errors import ConfigError, DataError, StorageError
from asd.traces import encode_header, encode_trace, read_header, read_traces
from asd.traces.log import TraceLog
from tests.test_traces import HEADER, stage_header, trace


@contextmanager
def full_disk(n_bytes: int) -> Iterator[None]:
    """The kernel refuses to let a file of this process grow beyond `n_bytes`, after writing what fits."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def record(path: Path, *query_ids: str) -> bytes:
    with TraceLog(path, HEADER) as log:
        log.append([trace(query_id) for query_id in query_ids])
    return path.read_bytes()


def test_a_batch_is_in_the_file_when_append_returns(tmp_path: Path) -> None:
    """Another reader sees header and batch before the log is closed."""
    path = tmp_path / "t.jsonl"
    with TraceLog(path, HEADER) as log:
        log.append([trace("q1"), trace("q2")])
        assert path.read_bytes() == encode_header(HEADER) + b"".join(map(encode_trace, read_traces(path)))


def test_a_file_is_continued(tmp_path: Path) -> None:
    """What was recorded is known on reopening, per stage, and is kept."""
    path = tmp_path / "t.jsonl"
    before = record(path, "q1")
    with TraceLog(path, HEADER) as log:
        queries = [trace("q1").query, trace("q2").query]
        assert log.n_bytes_dropped == 0
        assert [q.id for q in log.pending("S", queries)] == ["q2"]
        assert [q.id for q in log.pending("L", queries)] == ["q1", "q2"]
        log.append([trace("q2"), trace("q1", "L")])
        assert [list(t.outcomes) for t in log.select(reversed(queries))] == [["S"], ["S", "L"]]
    assert path.read_bytes().startswith(before)


def test_wherever_the_file_is_cut_whole_lines_survive(tmp_path: Path) -> None:
    """Wherever it is cut: the whole lines before are kept, the rest is dropped, counted and redone."""
    path = tmp_path / "t.jsonl"
    whole = record(path, "q1", "q2")
    line_ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for size in sorted({*range(0, len(whole), 37), *line_ends, *(end - 1 for end in line_ends)}):
        path.write_bytes(whole[:size])
        n_lines = whole[:size].count(b"\n")
        with TraceLog(path, HEADER) as log:
            assert log.n_bytes_dropped == size - (whole[:size].rfind(b"\n") + 1)
            pending = log.pending("S", [trace("q1").query, trace("q2").query])
            assert len(pending) == 2 - max(n_lines - 1, 0)
            log.append([trace(query.id) for query in pending])
        assert path.read_bytes() == whole


def test_a_broken_line_in_the_middle_is_not_repaired(tmp_path: Path) -> None:
    """Only the last line can be cut by a kill: another broken line is an error, the file is left alone."""
    path = tmp_path / "t.jsonl"
    broken = record(path, "q1", "q2").replace(b'"id":"q1"', b'"id":"q1')
    path.write_bytes(broken)
    with pytest.raises(DataError, match="line 2"):
        TraceLog(path, HEADER)
    assert path.read_bytes() == broken


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ladder", "other"),
        ("stages", {"S": stage_header("small"), "L": stage_header("large", revision="r2")}),
        ("stages", {"S": stage_header("small")}),
        ("datasets", ("sums", "words")),
        ("split", "test"),
    ],
)
def test_another_run_is_refused(tmp_path: Path, field: str, value: object) -> None:
    """A file of another ladder, model, dataset or split is not continued; the error names what differs."""
    path = tmp_path / "t.jsonl"
    before = record(path, "q1")[:-1]
    path.write_bytes(before)
    with pytest.raises(ConfigError, match=f"collected with {field}"):
        TraceLog(path, msgspec.structs.replace(HEADER, **{field: value}))
    assert path.read_bytes() == before


def test_a_file_without_outcomes_begins_anew(tmp_path: Path) -> None:
    """What a run that failed at once has left does not stand in the way of another."""
    path, other = tmp_path / "t.jsonl", msgspec.structs.replace(HEADER, split="test")
    TraceLog(path, HEADER).__exit__()
    with TraceLog(path, other) as log:
        log.append([trace("q1")])
    assert read_header(path) == other
    assert len(list(read_traces(path))) == 1


@pytest.mark.parametrize("content", [b"notes", b"notes\n", b'{"format": "asd-traces"}'])
def test_a_file_of_something_else_is_left_alone(tmp_path: Path, content: bytes) -> None:
    """A path typed wrongly must not cost a file."""
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match="does not begin"):
        TraceLog(path, HEADER)
    assert path.read_bytes() == content


def test_a_changed_workload_is_refused(tmp_path: Path) -> None:
    """A query with a known id and another prompt is an error, not a recorded answer to something else."""
    path = tmp_path / "t.jsonl"
    record(path, "q1")
    changed = replace(trace("q1").query, prompt="3+3=")
    with TraceLog(path, HEADER) as log, pytest.raises(DataError, match="the workload has changed"):
        log.pending("L", [changed])


@pytest.mark.parametrize("twice", [["q1"], ["q2", "q2"]])
def test_an_outcome_is_recorded_once(tmp_path: Path, twice: list[str]) -> None:
    """A second outcome of a stage for a query is refused, in the file or in the batch; nothing is written."""
    path = tmp_path / "t.jsonl"
    before = record(path, "q1")
    with TraceLog(path, HEADER) as log, pytest.raises(DataError, match="two outcomes of stage 'S'"):
        log.append([trace(query_id) for query_id in twice])
    assert path.read_bytes() == before


def test_a_full_disk_loses_the_batch_in_flight_only(tmp_path: Path) -> None:
    """A write that the kernel cuts short is undone and reported; the log goes on once there is space."""
    path = tmp_path / "t.jsonl"
    before = record(path, "q1")
    with TraceLog(path, HEADER) as log:
        with full_disk(len(before) + 20), pytest.raises(StorageError, match=r"cannot write .*t\.jsonl"):
            log.append([trace("q2")])
        assert path.read_bytes() == before
        assert [q.id for q in log.pending("S", [trace("q2").query])] == ["q2"]
        log.append([trace("q2")])
    assert [t.query.id for t in read_traces(path)] == ["q1", "q2"]


def test_a_disk_full_from_the_start(tmp_path: Path) -> None:
    """Not even the header fits: reported, and the empty file can be used later."""
    path = tmp_path / "t.jsonl"
    with full_disk(10), pytest.raises(StorageError, match="cannot write"):
        TraceLog(path, HEADER)
    assert path.read_bytes() == b""
    assert record(path, "q1")


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    """A missing folder, a folder and a device are errors that name the path."""
    with pytest.raises(StorageError, match="No such file or directory"):
        TraceLog(tmp_path / "none" / "t.jsonl", HEADER)
    with pytest.raises(StorageError, match="not a regular file"):
        TraceLog(tmp_path, HEADER)
    with pytest.raises(StorageError, match="not a regular file"):
        TraceLog(Path("/dev/full"), HEADER)


def test_compressed_files_do_not_grow(tmp_path: Path) -> None:
    """Appending to `.gz` is refused before anything is written."""
    with pytest.raises(ConfigError, match="plain JSON lines"):
        TraceLog(tmp_path / "t.jsonl.gz", HEADER)
    assert not list(tmp_path.iterdir())


def test_one_process_at_a_time(tmp_path: Path) -> None:
    """A second log on an open file is refused, and allowed once the first is closed."""
    path = tmp_path / "t.jsonl"
    with TraceLog(path, HEADER), pytest.raises(StorageError, match="another process"):
        TraceLog(path, HEADER)
    assert record(path, "q1")


def test_what_is_selected_is_what_was_appended(tmp_path: Path) -> None:
    """A trace read back from a reopened file equals the one appended to it."""
    path = tmp_path / "t.jsonl"
    record(path, "q1")
    with TraceLog(path, HEADER) as log:
        assert log.select([trace("q1").query]) == [trace("q1")]
