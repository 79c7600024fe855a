"""What running a stage costs: a price for everything that a call does, and the file that keeps them.

Scope: counts in, prices out; how prices are measured is `asd.evaluation.pricing`'s.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from asd.errors import ConfigError, StorageError
from asd.schema import msgspec
from asd.schema.explained import explained
from asd.types import Usage

__all__ = [
    "SECONDS",
    "Money",
    "PriceFile",
    "Prices",
    "Timing",
    "check_prices",
    "read_prices",
    "write_prices",
]


SECONDS = {"ms": 1e-3, "s": 1.0}
"""What a price unit is in seconds; others are no times."""
_NOT_OF_AN_ANSWER = {"per_load", "per_drafted", "ragged"}


class Prices(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Price of a call, from its counts; an answer that took no call (`NO_CALL`) costs nothing.

        per_call + per_prompt_token * n_prompt + per_verified * n_verified + per_decoded_token * n_passes
                 + per_drafted * n_drafted

    A forward pass is priced as the token it decodes: a stage that writes alone makes one pass a token, a
    verification is one pass, and its continuation gets the first token from that same pass.

    The unit is the ladder's (`Ladder.price_unit`: "ms", "usd", "declared"). Frozen: measured once, by a
    command, with where and when noted in the ladder file; a gate blocks on priced cost because it does not
    move with the weather.
    """

    per_call: float
    per_prompt_token: float
    per_decoded_token: float
    per_verified: float | None = None
    """Of a draft token read in a verification; None: as much as a prompt token."""
    per_load: float | None = None
    """Of loading the weights, which no call is charged for (`asd.engines.residency`); None: not known."""
    per_drafted: float | None = None
    """Of a token that the stage's own drafter writes and the stage reads, all that it takes. None: drafting
    does not pay; the stage writes alone, and a call that was recorded with a drafter costs what it would have
    cost without."""
    ragged: float | None = None
    """How many times its share of a step whose rows are all open a row's decode step took in the calls that
    were measured, because fewer are open towards the end; None: not known. It is in
    `per_decoded_token` and `per_drafted`, and no price of its own."""

    def cost(self, usage: Usage) -> float:
        """Priced cost of one call, in the ladder's price unit."""
        return sum(rate * count for rate, count in zip(self.rates, usage.counts, strict=True))

    @property
    def rates(self) -> tuple[float, float, float, float, float, float]:
        """What `Usage.counts` is multiplied with: what a pass costs is what one that is saved saves."""
        verified = self.per_prompt_token if self.per_verified is None else self.per_verified
        drafting = (0.0, 0.0) if self.per_drafted is None else (self.per_drafted, -self.per_decoded_token)
        return self.per_call, self.per_prompt_token, verified, self.per_decoded_token, *drafting

    @property
    def of_full_steps(self) -> Prices:
        """The same of calls whose answers are all of one length."""
        decoded, drafted, ragged = self.per_decoded_token, self.per_drafted, self.ragged or 1.0
        drafted = None if drafted is None else drafted / ragged
        return msgspec.structs.replace(
            self, per_decoded_token=decoded / ragged, per_drafted=drafted, ragged=None
        )

    def known(self) -> dict[str, float]:
        """The prices that were given, by name."""
        given = msgspec.structs.asdict(self)
        return {name: float(price) for name, price in given.items() if price is not None}


class Money(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one price unit is worth, such as 2.5e-8 EUR for a millisecond of a machine at 0.09 EUR an hour.

    Raises:
        ConfigError: The currency has no name, or the worth is not a positive number.
    """

    currency: str
    per_unit: float

    def __post_init__(self) -> None:
        if not self.currency.isalpha():
            raise ConfigError(f"a currency is named by letters, as EUR, not {self.currency!r}")
        if not (math.isfinite(self.per_unit) and self.per_unit > 0):
            raise ConfigError(f"a price unit must be worth more than 0 {self.currency}, not {self.per_unit}")


def check_prices(prices: Prices, where: str) -> None:
    """`ConfigError` where one is negative or not finite, or all those of an answer are zero."""
    values = prices.known()
    for name, value in values.items():
        if not (math.isfinite(value) and value >= 0):
            raise ConfigError(f"{where}: {name} must be a number of at least 0, not {value}")
    if not any(price for name, price in values.items() if name not in _NOT_OF_AN_ANSWER):
        raise ConfigError(f"{where}: all prices are 0; a stage that costs nothing cannot be traded off")


class Timing(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How prices came about that were measured on random weights, which say nothing about quality.

    Attributes:
        card: Name of the device.
        date: Of the measurement, ISO 8601.
        dtype: Of the weights.
        step_modes: How every measured stage made its decode steps (`asd.engines.StepMode`), several as
            "eager/graph".
        modelled: By batch size, stages that were not measured: their prices are scaled from those of the
            largest that was.
        provenance: "timing-only".
    """

    card: str
    date: str
    dtype: str
    step_modes: dict[str, str]
    modelled: dict[int, tuple[str, ...]] = {}
    provenance: Literal["timing-only"] = "timing-only"

    def how(self, stage: str, batch: int) -> str:
        """What a stage's prices at a batch size come from: the steps that were timed, or "modelled"."""
        is_modelled = stage in self.modelled.get(batch, ())
        return "modelled" if is_modelled else f"timed, {self.step_modes.get(stage, 'unknown')} steps"

    def __str__(self) -> str:
        """In one line, for `prices_measured`."""
        steps = ", ".join(sorted(set(self.step_modes.values())))
        modelled = sorted({stage for stages in self.modelled.values() for stage in stages})
        left = f"; modelled, not measured: {', '.join(modelled)}" if modelled else ""
        return f"{self.date} on {self.card}, {self.dtype}, steps {steps}, random weights (timing-only){left}"


class PriceFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Prices of all stages by name, at batch 1 and at other batch sizes.

    `timing` is there where no real weights were timed (`python -m bench.shapes`).
    """

    price_unit: str
    prices_measured: str
    stages: dict[str, Prices]
    batched: dict[int, dict[str, Prices]] = {}
    timing: Timing | None = None

    def at(self, batch: int = 1) -> dict[str, Prices] | None:
        """The prices of a batch size; None: nobody has measured them."""
        return self.stages if batch == 1 else self.batched.get(batch)


def read_prices(path: str | Path) -> PriceFile:
    """Read a price file.

    Raises:
        ConfigError: It is missing or no price file.
    """
    try:
        return msgspec.json.decode(Path(path).read_bytes(), type=PriceFile)
    except OSError as error:
        raise ConfigError(f"cannot read the price file {path}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path} is not a price file: {explained(error, PriceFile)}") from error


def write_prices(
    path: str | Path,
    prices: Mapping[int, Mapping[str, Prices]],
    price_unit: str,
    prices_measured: str,
    timing: Timing | None = None,
) -> None:
    """Write the price file that a ladder file names in `prices`.

    Args:
        path: The file, replaced as a whole.
        prices: By batch size, 1 among them, and stage name.
        price_unit: "ms", "usd", "declared".
        prices_measured: Where, when and how.
        timing: The same of prices that were measured on random weights.

    Raises:
        ConfigError: A price is negative or not finite, all of a stage's are zero, or batch 1 is missing.
        StorageError: The file cannot be written; the old one is intact.
    """
    if 1 not in prices:
        raise ConfigError(f"prices at batch {', '.join(map(str, prices))} were given; batch 1 is needed too")
    for batch, of_batch in prices.items():
        for name, of_stage in of_batch.items():
            check_prices(of_stage, f"batch {batch}, stage {name!r}")
    stages, batched = dict(prices[1]), {size: dict(row) for size, row in prices.items() if size != 1}
    table = PriceFile(price_unit, prices_measured, stages, batched, timing)
    text = json.dumps(json.loads(msgspec.json.encode(table)), indent=2)
    path = Path(path)
    temporary = path.with_name(path.name + ".part")
    try:
        temporary.write_text(text + "\n", "utf8")
        temporary.replace(path)
    except OSError as error:
        raise StorageError(f"cannot write the prices to {path}: {error.strerror}") from error
