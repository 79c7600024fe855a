"""Record files are whole or untouched, strict, and free of NaN."""

import errno
import os
from pathlib import Path

import msgspec
import numpy as np
import pytest

from asd.errors import DataError, StorageError
from asd.ladder import TINY_POLICY
from asd.measurement.files import read_record, write_atomically, write_record
from asd.measurement.records import HardwareKey, Record, Run
from asd.policy.artifact import load as load_policy
from tests.fabricated import KEY, fabricate


def test_a_run_survives_the_round_trip(tmp_path: Path):
    """What is read equals what was written, digit for digit."""
    run = fabricate(np.random.default_rng(0))
    write_record(tmp_path / "run.json", run)
    assert read_record(tmp_path / "run.json", Run) == run


def test_every_cell_has_a_line_of_its_own(tmp_path: Path):
    """A changed cell is a changed line in a review."""
    run = fabricate(np.random.default_rng(0))
    write_record(tmp_path / "run.json", run)
    lines = (tmp_path / "run.json").read_text().splitlines()
    assert sum(line.startswith('{"suite"') for line in lines) == len(run.cells)


def test_nan_anywhere_is_refused_before_writing(tmp_path: Path):
    """msgspec would write NaN as null; gauges are checked nowhere else."""
    run = fabricate(np.random.default_rng(0))
    surroundings = msgspec.structs.replace(run.header.environment, gauges={"gpu0_power_w": float("nan")})
    header = msgspec.structs.replace(run.header, environment=surroundings)
    with pytest.raises(DataError, match="gpu0_power_w is nan"):
        write_record(tmp_path / "run.json", msgspec.structs.replace(run, header=header))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"device": "cpu", "cou', "truncated"),
        ('{"device":"c","count":1,"dtype":"f","batch":1,"engine":"e","colour":"red"}', "colour"),
        ('{"device":"c","count":"one","dtype":"f","batch":1,"engine":"e"}', "int"),
        ("", "truncated"),
    ],
)
def test_a_damaged_file_is_named_with_the_remedy(tmp_path: Path, text: str, problem: str):
    """The message says which file, what is wrong with it, and what to do."""
    path = tmp_path / "key.json"
    path.write_text(text)
    with pytest.raises(DataError, match=problem) as caught:
        read_record(path, HardwareKey)
    assert str(path) in str(caught.value)
    assert "record it again" in str(caught.value)


def test_a_missing_file_is_an_error(tmp_path: Path):
    """Nothing is made up in place of a file that is not there."""
    with pytest.raises(DataError, match="does not exist"):
        read_record(tmp_path / "none.json", HardwareKey)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A write that fails half way loses nothing and leaves no debris."""
    path = tmp_path / "key.json"
    write_record(path, KEY)
    before = path.read_text()

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        write_atomically(path, "new")
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path):
    """A file where a folder should be ends in the same exception as a full disk."""
    (tmp_path / "baselines").write_text("in the way")
    with pytest.raises(StorageError, match=r"key\.json"):
        write_record(tmp_path / "baselines" / "key.json", KEY)


def test_what_is_no_file_is_neither_read_nor_replaced(tmp_path: Path):
    """A folder is no record, and a pipe or device keeps its place."""
    with pytest.raises(DataError, match=r"cannot be read: Is a directory"):
        read_record(tmp_path, HardwareKey)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StorageError, match="not a regular file"):
        write_record(tmp_path / "pipe", KEY)
    assert (tmp_path / "pipe").is_fifo()


def test_paths_may_be_strings(tmp_path: Path):
    """A record is written and read under a name as under a path; so are a policy artifact and a text."""
    run, path = fabricate(np.random.default_rng(0)), str(tmp_path / "run.json")
    write_record(path, run)
    assert read_record(path, Run) == run
    write_atomically(path, "text")
    assert Path(path).read_text() == "text"
    policy = load_policy(TINY_POLICY)
    policy.save(path)
    assert load_policy(path) == policy


def test_a_record_by_numbers_is_read_back(tmp_path: Path) -> None:
    """Keys that are whole numbers are JSON's strings at every depth that is laid out."""

    class BySize(Record, frozen=True, kw_only=True):
        found: dict[int, dict[int, float]]

    kept = BySize(found={1: {4: 0.5}, 16: {}})
    for expand in (0, 1, 2, 3):
        write_record(tmp_path / "sizes.json", kept, expand)
        assert read_record(tmp_path / "sizes.json", BySize) == kept
