"""What recorded calls did, in tokens, and what they cost at a table of prices.

    alone      tokens_in prompt tokens, tokens_out decoded ones, a pass each
    drafted    the answer of a smaller model is read in one pass with the prompt; what the two answers share
               from their beginning is accepted, the rest is decoded

Both models answered greedily, so the text that two answers share is what the larger one would have accepted:
up to there it read what it would have written itself. Shared characters count as that share of the larger
one's tokens, rounded down. After the first rejection nothing more is drafted, because no recording says what
would have been. Scope: counts of single calls; what a policy makes of them is elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from operator import eq
from typing import Any

import numpy as np
import numpy.typing as npt

from asd.errors import DataError
from asd.measurement.files import Paths
from asd.prices import Prices
from asd.research.recordings.recording import Recording, prompt_of, read_queries, read_recording
from asd.types import NO_CALL, Usage

__all__ = ["Priced", "read_priced"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Priced:
    """Recorded queries with the costs of their calls at a table of prices.

    Attributes:
        rows: Scores and evidence as recorded; `costs` are those of the table, the stages in its order.
        drafted: What the largest stage's own answer costs, by the stage that drafts it; shape (n,) each.
        n_tokens: Mean tokens of prompt and answer, by stage.
    """

    rows: Recording
    drafted: dict[str, Array]
    n_tokens: dict[str, tuple[float, float]]


def read_priced(paths: Paths, prices: Mapping[str, Prices]) -> Priced:
    """The queries of all files that every stage answered, their calls priced.

    Args:
        paths: As `read_recording`.
        prices: By model as the files call it, smallest first; two or more.

    Raises:
        DataError: As `read_recording`, or a model's tokens were not recorded.
    """
    stages = list(prices)
    rows = read_recording(paths, stages, [1.0] * len(stages))
    lines = {(str(q["dataset"]), str(q["id"]), prompt_of(q)): q["outputs"] for q in read_queries(paths)}
    outputs = [lines[(*key, prompt)] for key, prompt in zip(rows.keys, rows.prompts, strict=True)]
    usages = {stage: [_alone(output[stage], stage) for output in outputs] for stage in stages}
    costs = np.stack([_costs(prices[stage], usages[stage]) for stage in stages], axis=1)
    *smaller, largest = stages
    drafted = {
        stage: costs[:, k] + _costs_of_drafted(prices[largest], outputs, stage, largest)
        for k, stage in enumerate(smaller)
    }
    return Priced(
        replace(rows, costs=costs),
        drafted,
        {stage: _means(of_stage) for stage, of_stage in usages.items()},
    )


def _alone(output: Mapping[str, Any], stage: str) -> Usage:
    n_prompt, n_decoded = output.get("tokens_in"), output.get("tokens_out")
    if not n_prompt or not n_decoded:
        raise DataError(
            f"the tokens of an answer of {stage!r} were not recorded (tokens_in {n_prompt}, tokens_out "
            f"{n_decoded}); a call can be priced by counts only: choose files that have them"
        )
    return Usage(int(n_prompt), int(n_decoded), int(n_decoded))


def _costs(prices: Prices, usages: Sequence[Usage]) -> Array:
    return np.array([prices.cost(usage) for usage in usages])


def _costs_of_drafted(
    prices: Prices, outputs: Sequence[Mapping[str, Any]], drafter: str, largest: str
) -> Array:
    """Of reading every draft, and of writing what is left."""
    found = []
    for output in outputs:
        draft, own = _alone(output[drafter], drafter), _alone(output[largest], largest)
        n_left = own.n_decoded - _n_accepted(output[drafter], output[largest], own.n_decoded)
        reading = Usage(own.n_prompt, 0, n_passes=1, n_verified=draft.n_decoded)
        writing = Usage(0, n_left, n_left - 1) if n_left else NO_CALL
        found.append(prices.cost(reading) + prices.cost(writing))
    return np.array(found)


def _n_accepted(draft: Mapping[str, Any], own: Mapping[str, Any], n_decoded: int) -> int:
    """Of the larger model's tokens; all of them only where the answers are the same."""
    drafted, written = (str(output.get("response") or "") for output in (draft, own))
    if drafted == written:
        return n_decoded if written else 0
    n_shared = sum(1 for _ in takewhile(bool, map(eq, drafted, written)))
    return min(n_decoded - 1, int(n_decoded * n_shared / max(1, len(written))))


def _means(usages: Sequence[Usage]) -> tuple[float, float]:
    return float(np.mean([u.n_prompt for u in usages])), float(np.mean([u.n_decoded for u in usages]))
