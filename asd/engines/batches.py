"""Many queries through one engine, a batch at a time, with little padding.

A batch is padded to its longest prompt, so queries are batched by prompt length (in characters: a proxy
that needs no tokenizer). The composition of the batches depends on the queries and the size alone.

`call_in_batches` ends with the first error that no smaller batch would mend: `asd.resilience` is for answers
that are waited for. `until_settled` is for work that is paid for and recorded: every query ends with a result
or the stage's refusal, and one that fails takes no other with it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from asd.engines import GREEDY, LOSSLESS, Acceptance, Engine, Sampling, Verifier
from asd.engines.memory import called
from asd.errors import (
    ConfigError,
    EngineError,
    OutOfMemoryError,
    PartialBatchError,
    RefusedError,
    StageTooLargeError,
)
from asd.stops import cut_draft
from asd.types import Action, Draft, Query, Usage, Verification

__all__ = [
    "Settled",
    "answers",
    "batches",
    "call_in_batches",
    "cut",
    "half",
    "in_batches",
    "kept",
    "paired",
    "readings",
    "short_of_memory",
    "until_settled",
]

T = TypeVar("T")


def in_batches(engine: Engine, queries: Sequence[Query], batch_size: int) -> Iterator[dict[int, Draft]]:
    """Answer all queries, at most `batch_size` a call; yields the drafts of a batch by index into `queries`.

    A batch that does not fit into memory is halved. What a call brought before it failed is yielded first.

    Raises:
        ConfigError: `batch_size` is not positive.
        EngineError: The engine could not answer, or returned more or fewer drafts than it was asked for.
    """
    return call_in_batches(
        Action.draft(engine.stage_name),
        lambda batch: answers(engine, [queries[i] for i in batch]),
        queries,
        batch_size,
    )


def answers(engine: Engine, queries: Sequence[Query], sampling: Sampling = GREEDY) -> list[Draft]:
    """What an engine answers to one batch, cut at stop strings if it does not; raises as it does.

    Raises:
        ConfigError: A text was written and no decoded token or no forward pass counted: such an answer would
            cost next to nothing. `NO_CALL` is for answers that took no call, which no engine generates.
    """
    drafts = engine.generate(queries, sampling)
    for draft in (d for d in drafts if isinstance(d, Draft)):  # whoever takes the others refuses them
        if draft.text and not (draft.usage.n_decoded > 0 and draft.usage.n_passes > 0):
            raise _uncounted(engine, f"answered {draft.text[:40]!r}", draft.usage)
    if len(drafts) != len(queries) or not all(isinstance(draft, Draft) for draft in drafts):
        return drafts
    return [cut_draft(draft, query) for draft, query in zip(drafts, queries, strict=True)]


def readings(
    engine: Verifier, queries: Sequence[Query], drafts: Sequence[Draft], acceptance: Acceptance = LOSSLESS
) -> list[Verification]:
    """What an engine says of one batch of drafts; raises as it does, and where it counts no pass."""
    found = engine.verify(queries, drafts, acceptance)
    for verification in (v for v in found if isinstance(v, Verification)):
        if verification.usage.n_passes < 1:
            raise _uncounted(engine, f"read a draft of {verification.drafter!r}", verification.usage)
    return found


def _uncounted(engine: Engine, what: str, usage: Usage) -> ConfigError:
    return ConfigError(
        f"stage {engine.stage_name!r} {what} and counts {usage}, so that it would seem free; its engine must "
        "count prompt tokens, decoded tokens and forward passes (one a decoded token where it cannot tell)"
    )


def call_in_batches(
    action: Action, call: Callable[[list[int]], list[T]], queries: Sequence[Query], batch_size: int
) -> Iterator[dict[int, T]]:
    """The same for any call, which gets indices into `queries` and returns one result each.

    Args:
        action: What the call is for.
        call: Makes it.
        queries: What it is for.
        batch_size: Most indices in one call.
    """
    waiting = deque(batches(queries, batch_size))
    while waiting:
        batch = waiting.popleft()
        try:
            found = paired(action.stage, batch, call)
        except EngineError as error:
            done, again = kept(batch, error), short_of_memory(batch, error)
            if done:
                yield done
            if len(done) + len(again) < len(batch):
                raise
            waiting = cut(again, waiting, half(batch))
        else:
            yield found


@dataclass(frozen=True, slots=True)
class Settled(Generic[T]):
    """What became of some queries for good, by index: their results, or the stage's refusals."""

    done: Mapping[int, T]
    refused: Mapping[int, RefusedError]

    def __len__(self) -> int:
        return len(self.done) + len(self.refused)


def until_settled(
    stage: str, call: Callable[[list[int]], list[T]], queries: Sequence[Query], batch_size: int
) -> Iterator[Settled[T]]:
    """Call a stage for all queries, at most `batch_size` a call.

    A batch that holds a refused query or does not fit into memory is halved until the query is alone; queries
    that failed otherwise are asked again after all others.

    Args:
        stage: What is called.
        call: Gets indices into `queries` and returns one result each, or raises.
        queries: What it is for.
        batch_size: Most indices in one call.

    Raises:
        ConfigError: `batch_size` is not positive.
        EngineError: The very first call brought nothing, or two calls in a row.
    """
    waiting = deque(batches(queries, batch_size))
    had_success = False
    while waiting:
        batch = waiting.popleft()
        try:
            found = Settled(paired(stage, batch, call), {})
        except EngineError as error:
            found, smaller = _brought(batch, error), _to_cut(batch, error)
            waiting = cut(smaller, waiting, half(batch)) if smaller else waiting
            if left := [i for i in batch if i not in {*found.done, *found.refused, *smaller}]:
                if not found and not had_success:
                    _name_query(error, [queries[i] for i in batch])
                    raise
                waiting.append(left)
            had_success = had_success and bool(smaller)
        had_success = had_success or bool(found)
        if found:
            yield found


def _brought(batch: Sequence[int], error: Exception) -> Settled[T]:
    """What a failed call brought all the same."""
    failed = error.failed if isinstance(error, PartialBatchError) else {}
    failed = {0: error} if isinstance(error, RefusedError) and len(batch) == 1 else failed
    refused = {batch[at]: why for at, why in failed.items() if isinstance(why, RefusedError)}
    return Settled(kept(batch, error), refused)


def _to_cut(batch: list[int], error: Exception) -> list[int]:
    """What may succeed in smaller batches: memory was short, or nobody says which query was refused."""
    if isinstance(error, RefusedError):
        return batch if len(batch) > 1 else []
    return short_of_memory(batch, error)


def _name_query(error: Exception, asked: Sequence[Query]) -> None:
    """Where one query was asked alone, the error begins with its name."""
    if len(asked) == 1 and repr(asked[0].id) not in str(error):
        error.args = (f"query {asked[0].id!r} of {asked[0].dataset!r}: {error}",)


def kept(batch: Sequence[int], error: Exception) -> dict[int, Any]:
    """What a failed call brought all the same, by index."""
    done = error.done if isinstance(error, PartialBatchError) else {}
    return {batch[at]: result for at, result in done.items()}


def short_of_memory(batch: Sequence[int], error: Exception) -> list[int]:
    """Indices of a failed batch for which memory was short, and may not be in a smaller one."""
    failed = error.failed if isinstance(error, PartialBatchError) else dict.fromkeys(range(len(batch)), error)
    if len(batch) == 1:
        return []
    return [batch[at] for at, why in failed.items() if _is_short_of_memory(why)]


def _is_short_of_memory(error: Exception) -> bool:
    return isinstance(error, OutOfMemoryError) and not isinstance(error, StageTooLargeError)


def half(batch: Sequence[int]) -> int:
    """Size of the larger half."""
    return (len(batch) + 1) // 2


def cut(batch: list[int], waiting: Iterable[list[int]], size: int) -> deque[list[int]]:
    """The batch before those that wait, all of them cut into pieces of at most `size`."""
    return deque(each[i : i + size] for each in [batch, *waiting] for i in range(0, len(each), size))


def batches(queries: Sequence[Query], batch_size: int) -> list[list[int]]:
    """Indices into `queries`, at most `batch_size` a batch; raises as `in_batches`."""
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, not {batch_size}")
    by_length = sorted(range(len(queries)), key=lambda i: queries[i].n_characters)
    return [by_length[start : start + batch_size] for start in range(0, len(by_length), batch_size)]


def paired(stage: str, batch: list[int], call: Callable[[list[int]], Sequence[T]]) -> dict[int, T]:
    """The results of a call for a batch by index.

    Raises:
        OutOfMemoryError: Memory was short, whatever the engine's library raised.
        EngineError: There are more or fewer results than asked for.
    """
    results = called(stage, len(batch), partial(call, batch))
    n = sum(result is not None for result in results)
    if n != len(batch) or len(results) != n:
        raise EngineError(f"stage {stage!r} returned {n} results for {len(batch)} queries")
    return dict(zip(batch, results, strict=True))
