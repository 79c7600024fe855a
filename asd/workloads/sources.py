"""Where the rows of a public task set come from: files in a folder, or the Hugging Face hub.

    Folder(path)   `path/tasks/mmlu_test.jsonl.gz`: one JSON object a line, in the columns of the row's class
    Hub(pinned)    the same rows out of `datasets`, each repository at one commit

Either says which version was read: a checksum of the content, or the commit. Scope: rows come out as
they are; which of them are asked, and how, is the task set's business.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from asd.errors import ConfigError, DataError
from asd.schema import msgspec

__all__ = ["Folder", "Hub", "HubTable", "Source", "SourceTable"]

RowT = TypeVar("RowT")

SUBFOLDERS = ("tasks", "traces", "")


@dataclass(frozen=True, slots=True)
class HubTable:
    """Where a table lies on the hub.

    Attributes:
        repo: Data set repository.
        configs: Configurations whose rows are put one after the other.
        split: Of each.
        columns: From a row of theirs, its configuration and its position to ours.
    """

    repo: str
    configs: tuple[str, ...]
    split: str
    columns: Callable[[Mapping[str, Any], str, int], dict[str, Any]]


@dataclass(frozen=True, slots=True, eq=False)
class SourceTable(Generic[RowT]):
    """Rows of one kind: the file that holds them, their class, and where they are on the hub."""

    file: str
    row: type[RowT]
    hub: HubTable


class Source(Protocol):
    """Where rows are read; reading twice gives the same."""

    def read(self, table: SourceTable[RowT]) -> list[RowT]:
        """All rows of a table."""

    def version(self, table: SourceTable[Any]) -> str:
        """What exactly is read: equal versions have equal rows."""


@dataclass(frozen=True, slots=True)
class Folder:
    """Files on this machine, `.jsonl.gz` or `.jsonl`, in a folder or in `tasks/` and `traces/` below it."""

    path: Path
    _read: dict[SourceTable[Any], list[Any]] = field(default_factory=dict, repr=False)

    def read(self, table: SourceTable[RowT]) -> list[RowT]:
        """All rows of a table.

        Raises:
            DataError: The file is missing, damaged or empty, or has other columns.
        """
        if table not in self._read:
            self._read[table] = self._decode(table)
        return self._read[table]

    def _decode(self, table: SourceTable[RowT]) -> list[RowT]:
        path = self._find(table.file)
        try:
            rows = msgspec.json.Decoder(table.row).decode_lines(_content(path))
        except msgspec.DecodeError as error:
            raise DataError(f"{path} does not hold rows as expected: {error}") from error
        if not rows:
            raise DataError(f"{path} is empty")
        return rows

    def version(self, table: SourceTable[Any]) -> str:
        """Checksum of the content, however it is packed."""
        return "sha256:" + hashlib.sha256(_content(self._find(table.file))).hexdigest()

    def _find(self, file: str) -> Path:
        names = (file, file.removesuffix(".gz"))
        for path in (self.path / folder / name for folder in SUBFOLDERS for name in names):
            if path.is_file():
                return path
        raise DataError(
            f"{self.path} has no {file}, neither itself nor in tasks/ or traces/; give the folder of the "
            "task files (--data DIR or ASD_DATA), or --data hub to fetch it"
        )


@dataclass(frozen=True, slots=True)
class Hub:
    """The Hugging Face hub, through `datasets` and its cache.

    Attributes:
        pinned: Commits to read, by repository; any other repository is read at the commit it is at now.
    """

    pinned: Mapping[str, str] = field(default_factory=dict)
    _read: dict[SourceTable[Any], list[Any]] = field(default_factory=dict, repr=False)

    def read(self, table: SourceTable[RowT]) -> list[RowT]:
        """All rows of a table.

        Raises:
            ConfigError: `datasets` is not installed.
            DataError: The repository cannot be read, or has other columns.
        """
        if table not in self._read:
            self._read[table] = self._convert(table)
        return self._read[table]

    def _convert(self, table: SourceTable[RowT]) -> list[RowT]:
        there, commit = table.hub, self._commit(table.hub.repo)
        rows: Iterable[dict[str, Any]] = (
            there.columns(row, config, position)
            for config in there.configs
            for position, row in enumerate(_download(there.repo, config, there.split, commit))
        )
        try:
            return [msgspec.convert(row, table.row) for row in rows]
        except (msgspec.ValidationError, KeyError) as error:
            raise DataError(f"{there.repo} at {commit} does not hold rows as expected: {error}") from error

    def version(self, table: SourceTable[Any]) -> str:
        """Repository and commit."""
        return f"{table.hub.repo}@{self._commit(table.hub.repo)}"

    def _commit(self, repo: str) -> str:
        return self.pinned.get(repo) or _latest(repo)


def _content(path: Path) -> bytes:
    try:
        packed = path.read_bytes()
        return gzip.decompress(packed) if path.suffix == ".gz" else packed
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}") from error


@cache
def _latest(repo: str) -> str:
    """The commit a repository is at; asked once, so that all tables of a run agree."""
    _need_datasets()
    from huggingface_hub import HfApi  # noqa: PLC0415  (takes a second)

    try:
        return str(HfApi().dataset_info(repo).sha)
    except Exception as error:  # whatever the network comes up with
        raise DataError(f"cannot find the data set {repo} on the hub: {error}") from error


def _download(repo: str, config: str, split: str, commit: str) -> Iterable[Mapping[str, Any]]:
    _need_datasets()
    from datasets import load_dataset  # noqa: PLC0415  (takes seconds)

    try:
        rows: Iterable[Mapping[str, Any]] = load_dataset(repo, config, split=split, revision=commit)
    except Exception as error:  # whatever the network comes up with
        raise DataError(f"cannot read {repo}, {config}, at {commit} from the hub: {error}") from error
    return rows


def _need_datasets() -> None:
    try:
        import datasets  # noqa: F401, PLC0415
    except ImportError as error:
        raise ConfigError("reading from the hub needs `datasets`: pip install 'asd[datasets]'") from error
