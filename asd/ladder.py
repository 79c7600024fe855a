"""A ladder: the stages of a cascade, small to large, and what running them costs.

Nothing here touches a model; an engine opens a `Stage`. Ladders come from TOML (`Ladder.load`), by preset
name ("tiny", "qwen2.5", ...) or by path. Unknown keys are rejected.
"""

from __future__ import annotations

from dataclasses import dataclass

from asd.types import Usage


@dataclass(frozen=True, slots=True)
class Prices:
    """Price of a call: `per_call + per_prompt_token * n_prompt + per_decoded_token * n_decoded`.

    The unit is the ladder's (`Ladder.price_unit`: "ms", "usd", "declared"). Frozen: measured once, by a
    command, with where and when noted in the ladder file; a gate blocks on priced cost because it does not
    move with the weather.
    """

    per_call: float
    per_prompt_token: float
    per_decoded_token: float

    def cost(self, usage: Usage) -> float:
        """Priced cost of one call, in the ladder's price unit."""
        return (
            self.per_call
            + self.per_prompt_token * usage.n_prompt
            + self.per_decoded_token * usage.n_decoded
        )


@dataclass(frozen=True, slots=True)
class Stage:
    """One model of the ladder: where its weights are, how it is loaded, what a call costs."""

    name: str
    model: str
    prices: Prices
    dtype: str = "auto"
    tensor_parallel: int = 1
    memory_gib: float | None = None
    chat_template: bool = False


@dataclass(frozen=True, slots=True)
class Ladder:
    """Stages in order of cost, cheapest first."""

    name: str
    stages: tuple[Stage, ...]
    price_unit: str
    prices_measured: str
