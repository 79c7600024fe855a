"""The one table of what a run measures: ladder x lambda x dataset, and how much of it.

A `Matrix` is made from the options of the command line and checked there, so that a wrong name ends a run
before anything is loaded. Suites take their parameters from it; the gate derives what a run owes from it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from asd.engines.registry import check_engine
from asd.errors import ConfigError
from asd.evaluation.live import unit_size
from asd.ladder import TINY_POLICY, Ladder
from asd.measurement.environment import accelerators, hardware_key, omp_threads
from asd.measurement.records import HardwareKey
from asd.measurement.timing import Budget
from asd.workloads import Workload
from asd.workloads.catalogue import default_names, find_workloads
from bench.run.recorded import REPLAY, recorded_workloads

__all__ = [
    "LAMS",
    "N_ITEMS",
    "N_PASSES",
    "N_TIMED",
    "RECORDED",
    "RENTED",
    "Matrix",
    "build_matrix",
    "parse_lams",
]

LAMS = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
"""The sweep: cost units (runs of the largest stage) that one fully right answer is worth."""

N_ITEMS = 200
"""Items of each dataset that every stage answers, without --limit."""

N_TIMED = 20
"""Items of each dataset that are timed live."""

N_PASSES, MOST_PASSES = 3, 9
"""How often they are timed in a run; and in one that is recorded or, under --strict, is in need of more."""

PASSES = Budget(most=N_PASSES)
"""Of a run over each thing that is timed; under --strict what is undecided gets further ones."""

RENTED = Budget(most=N_PASSES, seconds=60.0)
"""The same on a GPU, where the run is to end in six minutes."""

RECORDED = Budget(most=MOST_PASSES)
"""Of a run that becomes a baseline."""

LEAST_UNITS = 2
"""Units of work that are timed on each dataset, where calls hold several queries."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """What a run is asked to measure.

    Attributes:
        ladder: Whose stages answer.
        engine: What runs them.
        lams: The sweep, ascending.
        workloads: What is asked.
        n_items: Items of each dataset.
        limited: `n_items` was cut down by hand.
        batch: Queries per call in the live passes.
        device: In torch's words ("cpu", "cuda:0").
        policy: The fitted policy artifact.
    """

    ladder: Ladder
    engine: str
    lams: tuple[float, ...]
    workloads: tuple[Workload, ...]
    n_items: int
    limited: bool
    batch: int
    device: str
    policy: Path

    @property
    def datasets(self) -> tuple[str, ...]:
        """Names of the workloads."""
        return tuple(workload.name for workload in self.workloads)

    @property
    def n_timed(self) -> int:
        """Timed items of each dataset."""
        size = unit_size(self.batch)
        n_units = max(LEAST_UNITS, math.ceil(N_TIMED / size))
        return min(n_units * size, self.n_items)

    @property
    def cells(self) -> list[tuple[str, float]]:
        """Dataset and lambda of every cell of the sweep."""
        return list(product(self.datasets, self.lams))

    @property
    def passes(self) -> Budget:
        """How often each thing that is timed is timed, unless the run is recorded."""
        return PASSES if self.device == "cpu" else RENTED

    @property
    def is_exact(self) -> bool:
        """Every stage computes in float32, where lossless means token for token."""
        return self.hardware.dtype in ("float32", "any")

    @property
    def hardware(self) -> HardwareKey:
        """The key of this run; CPUs count threads, accelerators the devices a stage is spread over."""
        if self.engine == REPLAY:
            return HardwareKey(device="recorded", count=1, dtype="any", batch=self.batch, engine=REPLAY)
        is_cpu = self.device == "cpu"
        threads = omp_threads() or 1  # one is fastest for small models
        stages = self.ladder.stages
        dtypes = sorted({"float32" if is_cpu and s.dtype == "auto" else s.dtype for s in stages})
        return hardware_key(
            self.device,
            count=threads if is_cpu else max(stage.tensor_parallel for stage in stages),
            dtype="+".join(dtypes),
            batch=self.batch,
            engine=self.engine,
        )


def parse_lams(text: str) -> tuple[float, ...]:
    """Lambdas from "0.5,2": finite, not negative, each once; returned in ascending order.

    Raises:
        ConfigError: A number is none of that.
    """
    try:
        lams = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--lam {text}: give numbers separated by commas, as in 0.5,2") from error
    for lam in lams:
        if not math.isfinite(lam) or lam < 0:
            raise ConfigError(f"--lam {lam:g}: lambda must be finite and not negative")
    if len(set(lams)) < len(lams):
        raise ConfigError(f"--lam {text}: a lambda is given twice")
    return tuple(sorted(lams))


def build_matrix(  # noqa: PLR0913 - one argument an option
    *,
    ladder: str = "tiny",
    engine: str = "transformers",
    lam: str | None = None,
    datasets: str | None = None,
    limit: int | None = None,
    batch: int = 1,
    device: str | None = None,
    policy: Path | None = None,
    data: str | None = None,
    traces: Path | None = None,
    unsafe_code: bool = False,
    pinned: Mapping[str, str] | None = None,
) -> Matrix:
    """The matrix that the options describe; an option left out means the whole of it.

    Raises:
        ConfigError: A ladder, dataset, engine or device that does not exist, a number out of range, a ladder
            without a policy, or a dataset without its data.
    """
    if engine != REPLAY:
        check_engine(engine, f"--engine (also: {REPLAY})")
    for option, number, least in (("--limit", limit, 1), ("--batch", batch, 1)):
        if number is not None and number < least:
            raise ConfigError(f"{option} {number}: give at least {least}")
    names = None if datasets is None else datasets.split(",")
    workloads: Sequence[Workload]
    if engine == REPLAY:
        workloads = recorded_workloads(traces, names)
    else:
        workloads = find_workloads(names or default_names(), data, unsafe_code=unsafe_code, pinned=pinned)
    matrix = Matrix(
        ladder=Ladder.load(ladder),
        engine=engine,
        lams=LAMS if lam is None else parse_lams(lam),
        workloads=tuple(workloads),
        n_items=N_ITEMS if limit is None else min(limit, N_ITEMS),
        limited=limit is not None and limit < N_ITEMS,
        batch=batch,
        device=device or ("cuda:0" if accelerators() else "cpu"),
        policy=policy or TINY_POLICY,
    )
    matrix.ladder.prices_at(batch)  # a wrong size ends here, not after the models have answered
    if policy is None and matrix.ladder.name != "tiny":
        raise ConfigError(f"ladder {matrix.ladder.name} comes without a policy: fit one, give --policy FILE")
    return matrix
