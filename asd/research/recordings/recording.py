"""Recorded outcomes of several models on the same queries, read from files into one table.

One line of a file is one query, `.gz` is unpacked:

    {"id": "q1", "dataset": "d", "prompt": "2+2=", "outputs": {"small": {"score": 1, "response": "4",
     "confidence": -0.1, "signals": {"judge": 0.8}, "cost": 1e-05}, "large": {...}}}

Only `id` and `outputs` with a `score` are needed; a query that names no `dataset` gets the file's name. What
is missing is counted, never made up: a query without a score or a cost of every stage cannot be replayed and
is left out (`Counts` says how many); a confidence or another signal that is null where others of that stage
are numbers is the lowest there is (minus infinity, in these files); a stage without any has none. Lines
become columns some thousand at a time: what is kept of a query is its texts and a few numbers, never the
line. Scope: reading; nothing is fitted and nothing is chosen here.
"""

from __future__ import annotations

import gzip
import math
import zlib
from codecs import BOM_UTF8
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from asd.errors import ConfigError, DataError
from asd.measurement.files import Paths, as_paths
from asd.research.folds import evenly
from asd.research.recordings.answers import agreement, text_of, words_of

__all__ = ["Counts", "Recording", "models_in", "prompt_of", "read_queries", "read_recording"]

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]
Strings = npt.NDArray[np.object_]

_LIMITS = {
    "score": (0, 1),
    "cost": (0, math.inf),
    "latency_ms": (0, math.inf),
    "confidence": (-math.inf, math.inf),
}
"""Least and most of the numbers of an answer; signals that are called otherwise have none."""
_BLOCK = 2000
"""Lines that are turned into columns at once."""


class Counts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was in the files, and what of it could not be used.

    Attributes:
        n_queries: Lines read.
        n_used: Queries with a score and a cost of every stage.
        no_score: By stage, queries where it has no score (null or absent).
        no_cost: By stage, queries where it has no cost although others have one.
        no_confidence: By stage, used queries where its confidence is null or absent.
        cost_source: "recorded", "declared", or "calls to STAGE" where no stage has a cost in the files.
    """

    n_queries: int
    n_used: int
    no_score: dict[str, int]
    no_cost: dict[str, int]
    no_confidence: dict[str, int]
    cost_source: str


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """n queries on K stages.

    Attributes:
        stages: Names, in the order they were asked for.
        keys: Dataset and id of every query.
        prompts: What was asked ("" where not recorded), shape (n,).
        scores: Quality in [0, 1], shape (n, K).
        costs: Of one call, in the files' unit, shape (n, K).
        latency: Recorded seconds of the call, NaN where none were recorded, shape (n, K).
        confidence: Raw, any monotone scale; minus infinity for null, NaN for a stage without any; (n, K).
        texts: What every stage answered ("" where not recorded), shape (n, K).
        words: Length of every answer in words, NaN where none was recorded, shape (n, K).
        agreement: How far answers of two stages agree, in [0, 1], NaN where a text is missing; (n, K, K).
        counts: What was read and what was left out.
        signals: Other numbers recorded of the answers, by name; minus infinity and NaN as in `confidence`,
            shape (n, K).
    """

    stages: tuple[str, ...]
    keys: tuple[tuple[str, str], ...]
    prompts: Strings
    scores: Array
    costs: Array
    latency: Array
    confidence: Array
    texts: Strings
    words: Array
    agreement: Array
    counts: Counts
    signals: Mapping[str, Array] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def datasets(self) -> tuple[str, ...]:
        """Names of the datasets in it, sorted."""
        return tuple(sorted({dataset for dataset, _ in self.keys}))

    @property
    def prompt_length(self) -> Array:
        """Of every prompt in characters, shape (n,)."""
        return np.fromiter(map(len, self.prompts), dtype=np.float64, count=len(self.prompts))

    def take(self, rows: Index) -> Recording:
        """The queries at these positions."""
        return replace(
            self,
            keys=tuple(self.keys[i] for i in rows.tolist()),
            prompts=self.prompts[rows],
            scores=self.scores[rows],
            costs=self.costs[rows],
            latency=self.latency[rows],
            confidence=self.confidence[rows],
            texts=self.texts[rows],
            words=self.words[rows],
            agreement=self.agreement[rows],
            signals={name: column[rows] for name, column in self.signals.items()},
        )

    def thinned(self, most: int) -> Recording:
        """Itself, or where it has more queries than `most`, so many evenly spaced."""
        return self if len(self) <= most else self.take(evenly(len(self), most))

    def only(self, stages: Sequence[int]) -> Recording:
        """The same queries on some of the stages, by position."""
        columns = list(stages)
        return replace(
            self,
            stages=tuple(self.stages[k] for k in columns),
            scores=self.scores[:, columns],
            costs=self.costs[:, columns],
            latency=self.latency[:, columns],
            confidence=self.confidence[:, columns],
            texts=self.texts[:, columns],
            words=self.words[:, columns],
            agreement=self.agreement[:, columns][:, :, columns],
            signals={name: column[:, columns] for name, column in self.signals.items()},
        )


def models_in(path: str | Path) -> tuple[str, ...]:
    """Names of the models on the first line of a file, in its order.

    Raises:
        DataError: The file cannot be read or holds no line.
    """
    for record in _records(Path(path)):
        return tuple(record["outputs"])
    raise DataError(f"{path} holds no queries")


def read_recording(paths: Paths, stages: Sequence[str], costs: Sequence[float] | None = None) -> Recording:
    """The queries of all files that every stage answered, in the order of the files.

    Args:
        paths: JSON lines, gzipped if the name ends in ".gz".
        stages: Models, as the files call them; two or more, in any order.
        costs: Declared cost of one call of each stage; None: as recorded, or where no stage has a recorded
            cost, one for a call of the last stage and none for the others (what RouteLLM counts).

    Raises:
        ConfigError: A stage is named twice, or there are not as many costs as stages.
        DataError: A file is missing, broken or empty, a stage is in no file, a number is out of range, a
            query occurs twice, or no query has a score and a cost of every stage.
    """
    files = as_paths(paths)
    _check_request(stages, costs)
    known: dict[str, None] = {}
    read = _columns(files, stages, known)
    _check_known(stages, known, files)
    priced, source = _priced(read.costs, stages, costs)
    used = np.flatnonzero(np.isfinite(read.scores).all(axis=1) & np.isfinite(priced).all(axis=1))
    counts = Counts(
        n_queries=len(priced),
        n_used=len(used),
        no_score=_by_stage(stages, np.isnan(read.scores)),
        no_cost=_by_stage(stages, np.isnan(priced)),
        no_confidence=_by_stage(stages, np.isnan(read.confidence)[used]),
        cost_source=source,
    )
    if not len(used):
        raise DataError(
            f"no query in {', '.join(map(str, files))} has a score and a cost of all of {', '.join(stages)}; "
            f"without a score: {counts.no_score}, without a cost: {counts.no_cost}"
        )
    kept = _Columns._make(column[used] for column in read._replace(costs=priced))
    return Recording(
        stages=tuple(stages),
        keys=tuple(zip(kept.datasets.tolist(), kept.ids.tolist(), strict=True)),
        prompts=kept.prompts,
        scores=kept.scores,
        costs=kept.costs,
        latency=kept.latency,
        confidence=_with_lowest(kept.confidence),
        texts=kept.texts,
        words=kept.words,
        agreement=kept.agreement,
        counts=counts,
        signals=_named(kept.signals, len(stages)),
    )


def _check_known(stages: Sequence[str], known: Collection[str], files: Sequence[Path]) -> None:
    if missing := [stage for stage in stages if stage not in known]:
        raise DataError(
            f"no outcome of {', '.join(missing)} in {', '.join(map(str, files))}; there: {', '.join(known)}"
        )


class _Columns(NamedTuple):
    """Lines as columns, of the stages asked for; numbers that are null or absent are NaN."""

    datasets: Strings
    ids: Strings
    prompts: Strings
    scores: Array
    costs: Array
    latency: Array
    confidence: Array
    texts: Strings
    words: Array
    agreement: Array
    signals: Strings


def _named(rows: Strings, n_stages: int) -> dict[str, Array]:
    """A column a name of one dictionary a query and stage, those of a stage without any NaN."""
    names = sorted({name for row in rows for of_stage in row for name in of_stage})
    found = {}
    for name in names:
        cells = [[of_stage.get(name) for of_stage in row] for row in rows]
        column = np.array(cells, dtype=np.float64).reshape(len(rows), n_stages)
        found[name] = _with_lowest(column)
    return found


def _columns(paths: Sequence[Path], stages: Sequence[str], known: dict[str, None]) -> _Columns:
    """All lines of all files; every model met is added to `known`."""
    queries = _queries(paths)
    blocks = []
    while block := list(islice(queries, _BLOCK)):
        known.update(dict.fromkeys(model for record in block for model in record["outputs"]))
        blocks.append(_block(block, stages))
    return _Columns(*map(np.concatenate, zip(*blocks, strict=True)))


def _block(records: list[dict[str, Any]], stages: Sequence[str]) -> _Columns:
    outputs = [[record["outputs"].get(stage) or {} for stage in stages] for record in records]
    words = [[words_of(output) for output in row] for row in outputs]
    return _Columns(
        datasets=_strings(str(record["dataset"]) for record in records),
        ids=_strings(str(record["id"]) for record in records),
        prompts=_strings(prompt_of(record) for record in records),
        scores=_column(outputs, "score"),
        costs=_column(outputs, "cost"),
        latency=_column(outputs, "latency_ms") / 1e3,
        confidence=_column(outputs, "confidence"),
        texts=_strings(text_of(output) for row in outputs for output in row).reshape(len(records), -1),
        words=np.array([[math.nan if text is None else len(text) for text in row] for row in words]),
        agreement=agreement(words),
        signals=_objects([[output.get("signals") or {} for output in row] for row in outputs]),
    )


def _objects(rows: list[list[Any]]) -> Strings:
    cells = np.empty(len(rows), dtype=np.object_)
    cells[:] = rows
    return cells


def _strings(texts: Iterable[str]) -> Strings:
    return np.array(list(texts), dtype=np.object_)


def _records(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if (
                    line.removeprefix(BOM_UTF8).strip()
                    and (record := _decode(path, number, line)) is not None
                ):
                    yield record
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read outcomes from {path}: {error}") from error


def _decode(path: Path, number: int, line: bytes) -> dict[str, Any] | None:
    """One query, its numbers checked; None for the header line of this package's own traces."""
    try:
        record = msgspec.json.decode(line.removeprefix(BOM_UTF8), type=dict[str, Any])
    except ValueError as error:  # not JSON, or not UTF-8
        raise DataError(
            f"{path}, line {number}, is not strict JSON ({error}); NaN and Infinity are not"
        ) from error
    if number == 1 and "format" in record:
        return None
    outputs = record.get("outputs")
    if not isinstance(outputs, dict) or not all(isinstance(v, dict | None) for v in outputs.values()):
        raise DataError(f"{path}, line {number}: a query needs `outputs`, one object a model")
    if "id" not in record:
        raise DataError(f"{path}, line {number}: a query needs an `id`")
    for model, output in outputs.items():
        _check_numbers(f"{path}, line {number}", model, output or {})
    return record


def _check_numbers(where: str, model: str, output: dict[str, Any]) -> None:
    signals = output.get("signals") or {}
    if not isinstance(signals, dict):
        raise DataError(f"{where}: signals of {model!r} are {signals!r}, not one object")
    for name, value in {**signals, **{name: output.get(name) for name in _LIMITS}}.items():
        least, most = _LIMITS.get(name, (-math.inf, math.inf))
        if value is not None and not (_is_number(value) and least <= value <= most):
            raise DataError(
                f"{where}: {name} of {model!r} is {value!r}; it must be null or a number"
                + (f" from {least} to {most}" if math.isfinite(least) else "")
            )


def _is_number(value: object) -> bool:
    """Whether it is one that a float can hold: JSON's whole numbers have no end."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def read_queries(paths: Paths) -> list[dict[str, Any]]:
    """The lines of all files, checked; every one has an `id`, a `dataset` and `outputs`.

    Raises:
        DataError: A file is missing, broken or empty, a number is out of range, or a query occurs twice.
    """
    return list(_queries(as_paths(paths)))


def _queries(paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
    known: set[tuple[str, str, str]] = set()
    for path in paths:
        before = len(known)
        for record in _records(path):
            record.setdefault("dataset", path.name.split(".")[0])
            key = str(record["dataset"]), str(record["id"]), prompt_of(record)
            if key in known:
                raise DataError(f"{path}: query {record['id']!r} occurs twice with the same prompt; keep one")
            known.add(key)
            yield record
        if len(known) == before:
            raise DataError(f"{path} holds no queries")


def prompt_of(record: dict[str, Any]) -> str:
    """What was asked; "" where it was not recorded."""
    return str(record.get("prompt") or record.get("question") or "")


def _column(outputs: list[list[dict[str, Any]]], name: str) -> Array:
    """One number an answer, NaN where it is null or absent, shape (n, K)."""
    cells = [[math.nan if (v := output.get(name)) is None else float(v) for output in row] for row in outputs]
    return np.array(cells, dtype=np.float64)


def _with_lowest(confidence: Array) -> Array:
    """Null is the lowest where the stage has confidences at all."""
    has_some = ~np.isnan(confidence).all(axis=0)
    return np.where(np.isnan(confidence) & has_some, -math.inf, confidence)


def _priced(recorded: Array, stages: Sequence[str], declared: Sequence[float] | None) -> tuple[Array, str]:
    if declared is not None:
        return np.tile(np.array(declared, dtype=np.float64), (len(recorded), 1)), "declared"
    if not np.isnan(recorded).all():
        return recorded, "recorded"
    calls = np.zeros_like(recorded)
    calls[:, -1] = 1.0
    return calls, f"calls to {stages[-1]}"


def _by_stage(stages: Sequence[str], cells: npt.NDArray[np.bool_]) -> dict[str, int]:
    return dict(zip(stages, cells.sum(axis=0).tolist(), strict=True))


def _check_request(stages: Sequence[str], costs: Sequence[float] | None) -> None:
    if len(stages) < 2 or len(set(stages)) < len(stages) or "" in stages:
        raise ConfigError(f"name two or more different stages, got {', '.join(stages) or 'none'}")
    if costs is None:
        return
    if len(costs) != len(stages) or not all(math.isfinite(cost) and cost >= 0.0 for cost in costs):
        raise ConfigError(f"declare one cost a stage, not negative, got {list(costs)} for {list(stages)}")
