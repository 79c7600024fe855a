"""A public task set as a workload: rows in hash order, split by hash, with worked examples in the prompt.

    blake2b(question)  ->  part: the first byte says fit (96 of 256), calibrate (32) or test (128)
                       ->  order: ascending, so that the first n of a part are a sample of it

Both depend on the question alone: not on the file, its order, or other rows. Rows that ask the same are in
the same part. The options of a set are part of its name (`gsm8k:shots=0:chars=300`), because another prompt
or another choice of rows is another data set to everything that compares runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import islice
from typing import Generic, Protocol, TypeVar

from asd.errors import ConfigError, DataError
from asd.quality.thinking import without_thinking
from asd.types import TEXT, AnswerForm, Query
from asd.workloads import Split
from asd.workloads.sources import Source, SourceTable

__all__ = ["Options", "Show", "TaskRow", "TaskSet", "TaskWorkload", "digest", "part_of"]


class TaskRow(Protocol):
    """One question of a task set."""

    @property
    def id(self) -> str:
        """Unique in its set."""


RowT = TypeVar("RowT", bound=TaskRow)
RowIn_contra = TypeVar("RowIn_contra", contravariant=True)


class Show(Protocol[RowIn_contra]):
    """A question as text."""

    def __call__(self, row: RowIn_contra, *, answered: bool) -> str:
        """With its right answer, or ending where a model continues."""


@dataclass(frozen=True, kw_only=True)
class TaskSet(Generic[RowT]):
    """What is particular to one task set.

    A prompt is the instruction, worked examples and the question, with an empty line between any two.

    Attributes:
        name: Of the set.
        kind: What an answer is: "choice", "number", "exact", "code", or a free text of the kinds that
            `asd.quality.aggregate` knows: only there words in common with the reference say something.
        tables: What is read.
        rows: The questions.
        question: What a row asks, without examples: decides its part and its place.
        instruction: First paragraph of a prompt; may be empty.
        show: A row as text.
        reference: The right answer, for a reader.
        score: Quality of a reply in [0, 1].
        form: What the answer to a row is; the set's `until` is added.
        until: What begins the question that a model asks itself after its answer; "": it does not.
        max_new_tokens: Room for an answer.
        shots: Worked examples in a prompt.
        examples: Rows that may be worked examples for a question, best first; none of them is asked.
        tags: Labels the set carries.
    """

    name: str
    kind: str
    tables: tuple[SourceTable[RowT], ...]
    rows: Callable[[Source], Sequence[RowT]]
    question: Callable[[RowT], str]
    instruction: Callable[[RowT], str]
    show: Show[RowT]
    reference: Callable[[RowT], str]
    score: Callable[[RowT, str], float]
    max_new_tokens: int
    form: Callable[[RowT], AnswerForm] = lambda _row: TEXT
    until: str = ""
    shots: int = 0
    examples: Callable[[Source, RowT], Sequence[RowT]] = lambda _source, _row: ()
    tags: Callable[[RowT], Mapping[str, str]] = lambda _row: {}

    def prompt(self, row: RowT, examples: Sequence[RowT]) -> str:
        """What a model reads."""
        worked = [self.show(example, answered=True) for example in examples]
        blocks = [self.instruction(row), *worked, self.show(row, answered=False)]
        return "\n\n".join(block for block in blocks if block)

    def reply(self, text: str) -> str:
        """The part of what a model wrote that counts."""
        said = without_thinking(text)
        return said.partition(self.until)[0].strip() if self.until else said


@dataclass(frozen=True, slots=True)
class Options:
    """What may be asked of any set; None leaves it as the set has it.

    Attributes:
        shots: Worked examples in a prompt.
        chars: Longest prompt in characters; longer ones are left out.
        tokens: Room for an answer.
    """

    shots: int | None = None
    chars: int | None = None
    tokens: int | None = None

    @classmethod
    def parse(cls, words: Sequence[str]) -> Options:
        """From "shots=0", "chars=300".

        Raises:
            ConfigError: A word is no option, or its value no number in range.
        """
        known, values = {f.name for f in fields(cls)}, dict[str, int]()
        for word in words:
            name, _, value = word.partition("=")
            if name not in known or not value.isdecimal() or name in values:
                raise ConfigError(
                    f"unknown or repeated option {word!r} of a dataset; known are shots=N, chars=N, tokens=N"
                )
            values[name] = int(value)
        if values.get("chars") == 0 or values.get("tokens") == 0:
            raise ConfigError("chars and tokens of a dataset must be at least 1")
        return cls(**values)

    def __str__(self) -> str:
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        return "".join(f":{name}={value}" for name, value in given.items() if value is not None)


@dataclass(frozen=True)
class TaskWorkload(Generic[RowT]):
    """A task set from a source; implements `asd.workloads.Workload`."""

    set: TaskSet[RowT]
    source: Source
    options: Options = field(default_factory=Options)

    @property
    def name(self) -> str:
        """Name of the set and the options that were given."""
        return f"{self.set.name}{self.options}"

    @property
    def version(self) -> str:
        """Which rows these are: checksums or commits of all that is read."""
        return " ".join(dict.fromkeys(self.source.version(table) for table in self.set.tables))

    def queries(self, split: Split, limit: int) -> list[Query]:
        """The first `limit` questions of a split in hash order.

        Raises:
            ConfigError: `limit` is below 1, or the set has fewer worked examples than asked for.
            DataError: The rows cannot be read, or no prompt is short enough.
        """
        if limit < 1:
            raise ConfigError(f"an empty workload was asked for: limit {limit}; give at least 1")
        mine = (row for row in self._ordered if part_of(self.set.question(row)) == split)
        queries = map(self._query, mine)
        longest = self.options.chars
        chosen = list(islice((q for q in queries if longest is None or len(q.prompt) <= longest), limit))
        if not chosen:
            raise DataError(
                f"dataset {self.name!r} has no question in split {split!r} whose prompt is short enough"
            )
        return chosen

    def score(self, query: Query, text: str) -> float:
        """Quality of an answer in [0, 1], by the set's own rule.

        Raises:
            DataError: The query is not of this set.
        """
        try:
            row = self._by_id[query.id]
        except KeyError:
            raise DataError(f"dataset {self.name!r} has no question {query.id!r}") from None
        return self.set.score(row, self.set.reply(text))

    @cached_property
    def _ordered(self) -> list[RowT]:
        return sorted(self.set.rows(self.source), key=lambda row: (digest(self.set.question(row)), row.id))

    @cached_property
    def _by_id(self) -> dict[str, RowT]:
        return {row.id: row for row in self._ordered}

    def _query(self, row: RowT) -> Query:
        shots = self.set.shots if self.options.shots is None else self.options.shots
        examples = self.set.examples(self.source, row)[:shots] if shots else []
        if len(examples) < shots:
            raise ConfigError(f"dataset {self.name!r} has {len(examples)} worked examples, not {shots}")
        return Query(
            id=row.id,
            dataset=self.name,
            prompt=self.set.prompt(row, examples),
            reference=self.set.reference(row),
            max_new_tokens=self.options.tokens or self.set.max_new_tokens,
            tags=dict(self.set.tags(row)),
            form=replace(self.set.form(row), until=self.set.until),
        )


def digest(question: str) -> bytes:
    """What decides part and order of a question."""
    return hashlib.blake2b(question.encode(), digest_size=16).digest()


def part_of(question: str) -> Split:
    """The part a question belongs to, by its digest alone."""
    byte = digest(question)[0]
    return "fit" if byte < 96 else "calibrate" if byte < 128 else "test"
