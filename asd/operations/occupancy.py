"""Who is inside something, counted twice: an integral over time, and a sum over those who were there.

    integral of n(t) dt over a window  =  sum of the time that each one spent inside during that window

This is Little's law with its edge terms: exact on every sample path, whatever arrivals and service are. With
calls in place of requests it is the utilisation law. The left side is accumulated at every change of n, the
right side at every departure, so that a request that is lost, doubled or moved at the wrong time breaks it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from asd.errors import SimulationError

__all__ = ["TOLERANCE", "Occupancy", "Stay"]

TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class Stay:
    """One window of an `Occupancy`.

    Attributes:
        seconds: Length of the window.
        n_before: Inside when it opened.
        n_after: Inside when it closed.
        n_entered: Arrivals.
        n_left: Departures.
        integral_s: Integral of the number inside.
        sum_s: Sum of the times spent inside, of those who have left and of those who are still there.
    """

    seconds: float
    n_before: int
    n_after: int
    n_entered: int
    n_left: int
    integral_s: float
    sum_s: float

    @property
    def mean_inside(self) -> float:
        """L of Little's law; 0 for a window of no length."""
        return self.integral_s / self.seconds if self.seconds else 0.0

    @property
    def error(self) -> float:
        """How far the two sides of Little's law are apart, relative to the larger."""
        return abs(self.integral_s - self.sum_s) / max(self.integral_s, self.sum_s, 1.0)

    def check(self, where: str) -> None:
        """`SimulationError` where Little's law or the count of heads does not hold."""
        if self.n_before + self.n_entered != self.n_after + self.n_left:
            raise SimulationError(
                f"{where}: {self.n_before} inside and {self.n_entered} arrivals are not {self.n_after} "
                f"inside and {self.n_left} departures"
            )
        if self.error > TOLERANCE:
            raise SimulationError(
                f"{where}: the integral of the number inside is {self.integral_s} s, those inside spent "
                f"{self.sum_s} s there"
            )


class Occupancy:
    """Counts who is inside.

    Attributes:
        n: Inside now.
    """

    __slots__ = ("_at_change", "_integral", "_n_before", "_n_entered", "_n_left", "_opened", "_sum", "n")

    def __init__(self) -> None:
        self.n = 0
        self._at_change = 0.0
        self._open(0.0)

    def enter(self, now: float) -> None:
        """Somebody comes."""
        self._integral += self.n * (now - self._at_change)
        self._at_change = now
        self.n += 1
        self._n_entered += 1

    def leave(self, now: float, entered: float) -> None:
        """Somebody goes who came at `entered`."""
        self._integral += self.n * (now - self._at_change)
        self._at_change = now
        self.n -= 1
        self._n_left += 1
        self._sum += now - max(entered, self._opened)

    def integral(self, now: float) -> float:
        """Of the number inside, since the window opened."""
        return self._integral + self.n * (now - self._at_change)

    def close(self, now: float, inside: Iterable[float]) -> Stay:
        """End the window and open the next.

        Args:
            now: The end.
            inside: When each of those who are still there came.
        """
        total, n_inside = self._sum, 0
        for entered in inside:
            total += now - max(entered, self._opened)
            n_inside += 1
        stay = Stay(
            now - self._opened,
            self._n_before,
            n_inside,
            self._n_entered,
            self._n_left,
            self.integral(now),
            total,
        )
        self._open(now)
        return stay

    def _open(self, now: float) -> None:
        self._opened = self._at_change = now
        self._integral = self._sum = 0.0
        self._n_before = self.n
        self._n_entered = self._n_left = 0
