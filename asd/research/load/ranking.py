"""Whether the simulator ranks models as a real run does, wherever the real difference is no chance.

Every round asks each model for the same queries at the same instants, so a difference is that of two blocks
of one round, and its interval is Student's over the rounds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from asd.research.load.measured import Reality, ServedLadder
from asd.research.load.replayed import Figures, compare

__all__ = ["RankedPair", "ranked_pairs"]


@dataclass(frozen=True, slots=True)
class RankedPair:
    """Two models at one load, and by how much the second exceeds the first.

    Attributes:
        load: At which.
        figure: What is compared.
        models: The two.
        real: Mean difference over the rounds, measured.
        low: Of its interval.
        high: Likewise.
        simulated: The mean difference of the replay.
    """

    load: float
    figure: str
    models: tuple[str, str]
    real: float
    low: float
    high: float
    simulated: float

    @property
    def is_separated(self) -> bool:
        """Whether the measured difference has a sign."""
        return self.low > 0.0 or self.high < 0.0

    @property
    def agrees(self) -> bool:
        """Whether the simulated one has the same."""
        return bool(np.sign(self.real) == np.sign(self.simulated))


def ranked_pairs(place: ServedLadder, found: Reality) -> Iterator[RankedPair]:
    """Every two models, by load and figure; none where only one was asked, or less than two rounds were."""
    rounds: dict[float, dict[str, list[tuple[Figures, Figures]]]] = defaultdict(lambda: defaultdict(list))
    for number, block in enumerate(found.blocks):
        if block.down is None:
            real, replayed, _ = compare(place, found, [number], 0)
            rounds[block.rho][block.model].append((real, replayed))
    for load, by_model in rounds.items():
        for first, second in combinations(by_model, 2):
            pairs = list(zip(by_model[first], by_model[second], strict=False))
            for figure in ("mean_s", "p95_s", "cost"):
                differences = np.array(
                    [
                        [getattr(b, figure) - getattr(a, figure) for a, b in zip(*pair, strict=True)]
                        for pair in pairs
                    ]
                )
                if len(differences) > 1:
                    yield _pair(load, figure, (first, second), differences)


def _pair(
    load: float, figure: str, models: tuple[str, str], differences: npt.NDArray[np.float64]
) -> RankedPair:
    """Of differences of shape (rounds, 2): measured and simulated."""
    from asd.evaluation.statistics import student_interval  # noqa: PLC0415  (scipy takes a second)

    real, simulated = differences.mean(axis=0).tolist()
    return RankedPair(load, figure, models, real, *student_interval(differences[:, 0]), simulated)
