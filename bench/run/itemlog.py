"""One line for every item and policy: what was run, what was returned, what it cost, what it was worth."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from asd.evaluation.replay import Replay
from asd.measurement.files import write_atomically
from asd.schema import msgspec
from asd.schema.decisions import decision_row

__all__ = ["write_items"]


def write_items(path: Path, replays: Iterable[Replay]) -> None:
    """Write JSON lines, one an item and policy, in the order of the replays and their items.

    Raises:
        StorageError: The file could not be written; what was there before is intact.
    """
    lines = [msgspec.json.encode(line).decode() for replay in replays for line in _lines(replay)]
    write_atomically(path, "".join(f"{line}\n" for line in lines))


def _lines(replay: Replay) -> Iterator[dict[str, Any]]:
    for completion, walk, quality, cost in zip(
        replay.completions, replay.walks, replay.quality, replay.cost, strict=True
    ):
        yield {
            "dataset": replay.outcomes.dataset,
            "id": completion.query.id,
            "policy": replay.contender.name,
            "lam": replay.contender.lam,
            "provenance": "replayed",
            "walk": walk,
            "stage": completion.stage,
            "answer": completion.text,
            "reference": completion.query.reference,
            "quality": float(quality),
            "cost": float(cost),
            "tokens": {draft.stage: draft.usage.n_decoded for draft in completion.drafts},
            "decisions": [
                {name: row[name] for name in ("action", "p_good", "values")}
                for row in map(decision_row, completion.decisions)
            ],
        }
