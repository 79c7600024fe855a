"""The embedded tasks as workloads: generated on the spot, graded by equality with the canonical answer."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

from asd.errors import ConfigError
from asd.tiny.tasks import DATASETS, held_out
from asd.types import Query
from asd.workloads import Split

MAX_NEW_TOKENS = 80  # the longest canonical answer has 64 tokens, the stop token included


@dataclass(frozen=True, slots=True)
class TinyWorkload:
    """One dataset of the embedded tasks; splits follow the hash rule of `asd.tiny.tasks`."""

    name: str

    def queries(self, split: Split, limit: int) -> list[Query]:
        """The first `limit` held-out questions; families and levels in turn.

        Raises:
            ConfigError: `limit` is below 1.
        """
        if limit < 1:
            raise ConfigError(f"an empty workload was asked for: limit {limit}; give at least 1")
        return [
            Query(
                id=f"{split}-{k}",
                dataset=self.name,
                prompt=item.prompt.removesuffix("\n"),  # the stages' chat template adds it
                reference=item.answer,
                max_new_tokens=MAX_NEW_TOKENS,
                tags={"family": item.family, "level": str(item.level)},
            )
            for k, item in enumerate(islice(held_out(self.name, split), limit))
        ]

    def score(self, query: Query, text: str) -> float:
        """1.0 if the answer is the canonical one, spaces at the ends aside."""
        if query.reference is None:
            raise ConfigError(f"query {query.id!r} of {self.name!r} has no reference to score against")
        return float(text.strip() == query.reference.strip())


def tiny_workloads() -> dict[str, TinyWorkload]:
    """Every embedded dataset by name."""
    return {name: TinyWorkload(name) for name in DATASETS}
