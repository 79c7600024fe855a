"""What calls cost and the most that a request can cost, in whole micro-units of the ladder's price unit.

A price is taken to the next 1e-12 of the price unit, a call to the next micro-unit; from there on books add
integers. So a call never costs more than its bound, and no order of additions changes a sum.

The bound is over every way through the cascade (`asd.cascade`): each stage answers at most once, and between
two answers each stage that has not answered yet verifies at most once. The stage that answers k-th has then
verified k - 1 times, so the dearest way is an order of the stages: any of them first, and of the others those
whose verification is dearer come later.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal

from asd.errors import ConfigError
from asd.ladder import Ladder
from asd.prices import Money, Prices
from asd.serving.admission import Call, RequestFacts
from asd.types import Query, Usage

__all__ = ["MICRO", "Tariff", "prompt_bound"]

MICRO = 10**6
"""Micro-units in a price unit."""

_PICO = 10**12

_PER_MESSAGE, _PER_PROMPT, _PER_EXTRAS = 16, 256, 2048
"""Tokens that a chat template adds; no template that is known here adds more."""


def prompt_bound(query: Query) -> int:
    """Most prompt tokens that any stage reads: a token stands for at least one byte of the text.

    Templates write tools as indented JSON, behind some words about how to call them.
    """
    n_bytes = sum(len(message.content.encode("utf8", "replace")) for message in query.conversation)
    if query.extras:
        n_bytes += _PER_EXTRAS + 2 * len(json.dumps(query.extras, indent=4))
    return n_bytes + _PER_MESSAGE * len(query.conversation) + _PER_PROMPT


@dataclass(frozen=True, slots=True)
class _StageRates:
    """Prices of one stage in 1e-12 price units, in the order of `Usage.counts`; `block`: see `Drafter`."""

    rates: tuple[int, ...]
    block: int
    verifies: bool

    def micros(self, usage: Usage) -> int:
        picos = sum(rate * count for rate, count in zip(self.rates, usage.counts, strict=True))
        return -(-picos * MICRO // _PICO)

    def writing(self, facts: RequestFacts) -> int:
        """Most that an answer costs from the prompt: of every drafted block nothing is accepted."""
        n = facts.max_new_tokens
        return self.micros(Usage(facts.n_prompt, n, n, n_drafted=self.block * (n - 1)))

    def answering_later(self, facts: RequestFacts) -> int:
        """Most that an answer costs when another stage has answered.

        Going on from an accepted prefix whose cache is gone reads it again; the cost is linear in its length.
        """
        reread = Usage(facts.n_prompt + facts.max_new_tokens - 1, 1, 1)
        return max(self.writing(facts), self.micros(reread) if self.verifies else 0)

    def reading(self, facts: RequestFacts) -> int:
        """Most that a verification costs: a draft of full length in two passes (`Verification.usage`)."""
        if not self.verifies:
            return 0
        return self.micros(Usage(facts.n_prompt, 0, 2, n_verified=2 * facts.max_new_tokens))


class Tariff:
    """Prices of a ladder's stages.

    Args:
        ladder: Whose.
        batch: Queries a call, as the cascade is priced (`Ladder.prices_at`).
        verifiers: Stages whose engine verifies (`Cascade.verifiers`); default: all.

    Attributes:
        unit: The ladder's price unit.
        money: What a unit is worth, where the ladder says so.

    Raises:
        ConfigError: There are no prices at this batch size.
    """

    def __init__(self, ladder: Ladder, batch: int = 1, verifiers: Collection[str] | None = None) -> None:
        prices = ladder.prices_at(batch)
        blocks = {stage.name: stage.drafter.block for stage in ladder.stages if stage.drafter is not None}
        self.unit = ladder.price_unit
        self.money: Money | None = ladder.money
        self._stages = {
            name: _StageRates(_integers(of), blocks.get(name, 0), verifiers is None or name in verifiers)
            for name, of in prices.items()
        }

    def micros(self, call: Call) -> int:
        """What a call costs.

        Raises:
            ConfigError: Its stage has no price.
        """
        return self._rates(call.stage).micros(call.usage)

    def bound(self, facts: RequestFacts) -> int:
        """The most that a request can cost, whatever the policy decides and however long the answers are.

        Raises:
            ConfigError: A stage has no price.
        """
        way = _dearest_way([self._rates(name) for name in dict.fromkeys(facts.stages)], facts)
        own = facts.attempts * way if facts.budget is None else min(facts.budget, facts.attempts * way)
        return own + facts.attempts * sum(self._rates(name).writing(facts) for name in facts.shadow)

    def call_bound(self, stage: str, facts: RequestFacts) -> int:
        """The most that one call of a stage costs, whether it answers or verifies.

        Raises:
            ConfigError: The stage has no price.
        """
        rates = self._rates(stage)
        return max(rates.answering_later(facts), rates.reading(facts))

    def _rates(self, name: str) -> _StageRates:
        if name not in self._stages:
            raise ConfigError(f"stage {name!r} has no price; there are {', '.join(self._stages)}")
        return self._stages[name]


def _dearest_way(stages: Sequence[_StageRates], facts: RequestFacts) -> int:
    later = sum(stage.answering_later(facts) for stage in stages)
    by_reading = sorted(stages, key=lambda stage: stage.reading(facts))
    return max(
        later
        + first.writing(facts)
        - first.answering_later(facts)
        + sum(k * stage.reading(facts) for k, stage in enumerate(_without(i, by_reading), 1))
        for i, first in enumerate(by_reading)
    )


def _without(i: int, stages: Sequence[_StageRates]) -> list[_StageRates]:
    return [*stages[:i], *stages[i + 1 :]]


def _integers(prices: Prices) -> tuple[int, ...]:
    """`Prices.rates` in 1e-12 price units, rounded away from 0: a saved pass is worth what it costs."""

    def integer(rate: float) -> int:
        size = int((Decimal(repr(abs(rate))) * _PICO).to_integral_value(ROUND_CEILING))
        return -size if rate < 0 else size

    return tuple(map(integer, prices.rates))
