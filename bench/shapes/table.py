"""From readings to prices and to a table: what was measured, what the memory allows, what is modelled.

    floor      (bytes of the weights + bytes of the rows' caches) / bandwidth of a copy in the same run
    modelled   of a size that does not fit: floor / efficiency, the efficiency (floor over measured step)
               being that of the largest size that was measured at the same batch size; what else it takes
               grows as its bytes do

Prices are those of `asd.prices.Prices`, explained from the same calls (`asd.evaluation.pricing.explain`). A
token that is read costs at least what writing it into the cache takes: no prompt and no draft is free.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from asd.evaluation.pricing import explain
from asd.prices import Prices, Timing
from asd.types import Usage
from bench.run.tables import table
from bench.shapes.clocked import TimingPlan
from bench.shapes.families import Family
from bench.shapes.readings import ALL, FIRST, GENERATE, OURS, STATIC, Log, ShapeReading, verifying

__all__ = ["Sizes"]

MS, GIB = 1e3, 2**30


@dataclass(frozen=True, slots=True)
class Sizes:
    """Readings of several sizes of one family.

    Attributes:
        log: What was measured.
        family: Whose shapes.
        names: Of the sizes asked for.
        plan: What was asked of each.
    """

    log: Log
    family: Family
    names: tuple[str, ...]
    plan: TimingPlan

    @property
    def batches(self) -> list[int]:
        """Batch sizes at which any of the sizes was measured."""
        return [batch for batch in self.plan.batches if self._measured(batch)]

    def prices(self) -> dict[int, dict[str, Prices]]:
        """In milliseconds, by batch size and size; those of sizes that were not measured are modelled."""
        return {batch: {name: self._price(name, batch) for name in self.names} for batch in self.batches}

    def timing(self) -> Timing:
        """How these prices came about."""
        asked = self.log.file.asked
        return Timing(
            card=asked.card,
            date=self.log.file.date,
            dtype=asked.dtype,
            step_modes={name: modes for name in self.names if (modes := self._step_modes(name))},
            modelled={batch: left for batch in self.batches if (left := self._not_measured(batch))},
        )

    def shown(self) -> str:
        """One row a cell, and one for each modelled size at the shortest prompts; milliseconds."""
        rows = [row for batch in self.batches for name in self.names for row in self._rows(name, batch)]
        columns = list(dict.fromkeys(column for row in rows for column in row))
        return table(columns, [[row.get(column, "-") for column in columns] for row in rows])

    def ratios(self) -> list[str]:
        """How far the steps of the sizes are apart, one line a batch size at the shortest prompts."""
        return [self._ratio(batch) for batch in self.batches]

    def _ratio(self, batch: int) -> str:
        names, n_new = self._measured(batch), self.log.file.asked.n_new
        steps = [self._cells(name, batch)[0].decode_s(n_new) or math.nan for name in names]
        ratios = " : ".join(f"{step / steps[0]:.2g}" for step in steps)
        return f"a step at batch {batch}: {' : '.join(names)} = {ratios}"

    def _cells(self, name: str, batch: int) -> list[ShapeReading]:
        """Of one size at one batch size, at the lengths asked for; none where a single one fitted.

        What a prompt token takes is not told apart from what a call takes by prompts of one length.
        """
        found = [cell for cell in self.log.of(name, batch) if cell.length in self.plan.lengths]
        return found if len(found) > 1 else []

    def _measured(self, batch: int) -> list[str]:
        """Names of the sizes that were measured at a batch size, fewest bytes first."""
        found = [name for name in self.names if self._cells(name, batch)]
        return sorted(found, key=self._weights)

    def _step_modes(self, name: str) -> str:
        """All modes that a size was seen in, as "eager/graph"; empty where it was not measured."""
        cells = [cell for batch in self.batches for cell in self._cells(name, batch)]
        return "/".join(sorted({cell.step_mode for cell in cells}))

    def _not_measured(self, batch: int) -> tuple[str, ...]:
        measured = self._measured(batch)
        return tuple(name for name in self.names if name not in measured)

    def _weights(self, name: str) -> int:
        return self.family.weight_bytes(name, self.log.file.asked.dtype)

    def _floor_s(self, name: str, batch: int, length: int) -> float:
        """Of one decode step, by bytes and bandwidth."""
        n_bytes = self.family.decode_bytes(name, self.log.file.asked.dtype, batch, length)
        return n_bytes / self.log.file.bandwidth.copy

    def _price(self, name: str, batch: int) -> Prices:
        if name in (measured := self._measured(batch)):
            prices, growth = self._explained(name, batch), 1.0
        else:
            prices, growth = self._explained(measured[-1], batch), self._growth(measured[-1], name, batch)
        asked, bandwidth = self.log.file.asked, self.log.file.bandwidth
        least = MS * self.family.cache_bytes(name, asked.dtype, 1) / bandwidth.copy
        return Prices(
            per_call=prices.per_call,
            per_prompt_token=_rounded(max(least, growth * prices.per_prompt_token)),
            per_decoded_token=_rounded(growth * prices.per_decoded_token),
            per_verified=_rounded(max(least, growth * (prices.per_verified or 0.0))),
            per_load=_rounded(self._load_ms(name)),
        )

    def _load_ms(self, name: str) -> float:
        return MS * self._weights(name) / self.log.file.bandwidth.from_host

    def _growth(self, measured: str, modelled: str, batch: int) -> float:
        """Of a step: with the efficiency of the size that was measured, it takes as its bytes do."""
        length = self._cells(measured, batch)[0].length
        return self._floor_s(modelled, batch, length) / self._floor_s(measured, batch, length)

    def _explained(self, name: str, batch: int) -> Prices:
        """Prices that explain the seconds of all our own calls of one size at one batch size."""
        usages, seconds = [], []
        for cell in self._cells(name, batch):
            for call, usage in self._usages(cell.length).items():
                if call in cell.seconds:
                    usages.append([usage] * batch)
                    seconds.append(cell.seconds[call])
        return explain(usages, np.array(seconds))

    def _usages(self, length: int) -> dict[str, Usage]:
        """What one query of every call counts."""
        n = 1 + self.log.file.asked.n_new
        reading = {verifying(width): Usage(length, 0, 1, n_verified=width) for width in self.plan.widths}
        return {OURS + FIRST: Usage(length, 1, 1), OURS + ALL: Usage(length, n, n)} | reading

    def _rows(self, name: str, batch: int) -> Iterator[dict[str, str]]:
        cells = self._cells(name, batch)
        for cell in cells:
            yield self._row(cell)
        if not cells:
            largest = self._measured(batch)[-1]
            like, n_new = self._cells(largest, batch)[0], self.log.file.asked.n_new
            length, step = like.length, (like.decode_s(n_new) or 0.0) * self._growth(largest, name, batch)
            yield {"size": name, "batch": str(batch), "prompt": str(length), "steps": "modelled"} | {
                "decode": _ms(step),
                "floor": _ms(self._floor_s(name, batch, length)),
                "load": f"{self._load_ms(name):.4g}",
            }

    def _row(self, cell: ShapeReading) -> dict[str, str]:
        n_new, floor = self.log.file.asked.n_new, self._floor_s(cell.size, cell.batch, cell.length)
        step = cell.decode_s(n_new) or 0.0
        rivals = {"generate()": cell.decode_s(n_new, GENERATE), "static": cell.decode_s(n_new, STATIC)}
        times = {"decode": step} | rivals | {"floor": floor}
        reads = {call: cell.seconds.get(call) for call in map(verifying, self.plan.widths)}
        return (
            {"size": cell.size, "batch": str(cell.batch), "prompt": str(cell.length), "steps": cell.step_mode}
            | {column: _ms(seconds) for column, seconds in times.items()}
            | {"of floor": _share(floor, step), "of generate()": _share(step, rivals["generate()"])}
            | {"prefill": _ms(cell.seconds[OURS + FIRST])}
            | {column: _ms(seconds) + _in_steps(seconds, step) for column, seconds in reads.items()}
            | {"load": f"{self._load_ms(cell.size):.4g}"}
        )


def _share(part: float, whole: float | None) -> str:
    return f"{part / whole:.0%}" if whole and whole > 0 else "-"


def _in_steps(seconds: float | None, step: float) -> str:
    return f" ({seconds / step:.2g} steps)" if seconds is not None and step > 0 else ""


def _rounded(price: float) -> float:
    """To four digits, however small."""
    return float(f"{price:.4g}")


def _ms(seconds: float | None) -> str:
    # of a step that noise is larger than, the difference of two calls says nothing
    return "-" if seconds is None or seconds <= 0 else f"{MS * seconds:.3g}"
