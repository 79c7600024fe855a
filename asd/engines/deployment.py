"""The engines of a ladder as they answer: taking turns in memory, answering again from a store.

    deployed = deploy(ladder, open_engines(ladder), revisions)
    deployed.engines, deployed.residency

What `Ladder.deployment` says is done here and nowhere else: collecting and measuring always ask the models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from asd.engines import Engine
from asd.engines.residency import Residency
from asd.ladder import Ladder

__all__ = ["Deployed", "deploy"]


class Deployed(NamedTuple):
    """Engines by stage, and what keeps them within the memory; None where all may stay."""

    engines: dict[str, Engine]
    residency: Residency | None


def deploy(
    ladder: Ladder, engines: Mapping[str, Engine], revisions: Callable[[], Mapping[str, str]]
) -> Deployed:
    """The same stages, run as the ladder's deployment says.

    Args:
        ladder: Whose stages.
        engines: One a stage, by stage name; none loaded.
        revisions: Of every stage's model, asked for where answers are kept.

    Raises:
        ConfigError: A stage's memory is not known, or it does not fit beside the pinned ones.
        DataError: The response cache is another kind of file.
        StorageError: It cannot be opened.
    """
    wanted, residency, found = ladder.deployment, None, dict(engines)
    if wanted.memory_gib is not None or wanted.pinned:
        memory = {stage.name: stage.memory_gib for stage in ladder.stages}
        residency = Residency(found, memory, wanted.memory_gib or float("inf"), wanted.pinned)
        found = residency.engines
    if wanted.response_cache is not None:
        from asd.engines.cache import ResponseStore, with_cache  # noqa: PLC0415  (few ladders keep answers)

        store, known = ResponseStore(Path(wanted.response_cache)), revisions()
        found = {
            stage.name: with_cache(found[stage.name], store, stage, known[stage.name])
            for stage in ladder.stages
        }
    return Deployed(found, residency)
