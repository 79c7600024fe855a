"""Arenas of one model, used again and again, within a budget of memory.

There is one arena of a shape, because its steps are dear to prepare: they are bound to its addresses. It
serves one batch after the other. Keys and values that are to be gone on with later stay in it until another
batch needs it; then they are copied aside, and back when they are asked for.

Where there is no room for an arena, those that are not in use are let go of, the longest unused first; where
there is none to copy something aside, what was kept longest is.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import DynamicCache

from asd.engines.hf.caches.arena import Arena, Shape
from asd.engines.hf.caches.launching import Launcher
from asd.engines.hf.caches.slots import SlotCache
from asd.engines.hf.model import Loaded
from asd.errors import OutOfMemoryError

__all__ = ["Lease", "NoRoomError", "Pool"]


class NoRoomError(OutOfMemoryError):
    """An arena does not fit the budget.

    Attributes:
        n_bytes: What the arena takes.
    """

    def __init__(self, n_bytes: int) -> None:
        super().__init__(
            f"{n_bytes / 2**30:.3g} GiB of keys and values do not fit beside those in use; ask fewer queries "
            "at a time, or raise options.transformers.kv_cache_gib in the ladder"
        )
        self.n_bytes = n_bytes


@dataclass(slots=True)
class _Holding:
    """Where the keys and values of a lease are: in an arena, or copied aside."""

    arena: Arena | None
    aside: SlotCache | None = None


class Lease:
    """The right to an arena of a shape and what was written there, until nobody holds the lease any more.

    Attributes:
        pool: Where it is from.
        shape: Of the arena.
        n_bytes: Memory of its keys and values.
    """

    def __init__(self, pool: Pool, arena: Arena, n_bytes: int) -> None:
        self.pool = pool
        self.shape = arena.shape
        self.n_bytes = n_bytes
        self._holding = _Holding(arena)
        weakref.finalize(self, pool.give_back, self._holding, n_bytes).atexit = False

    @property
    def arena(self) -> Arena:
        """The arena, with all that was written under this lease.

        Raises:
            NoRoomError: It was copied aside, and does not fit any more.
        """
        holding = self._holding
        if holding.arena is None:
            assert holding.aside is not None
            arena = self.pool.take(self.shape, self.n_bytes)
            arena.cache.copy_from(holding.aside)
            holding.arena, holding.aside = arena, None
            self.pool.n_bytes -= self.n_bytes
        return holding.arena

    @property
    def cache(self) -> SlotCache:
        """Keys and values, wherever they are."""
        found = self._holding.arena.cache if self._holding.arena else self._holding.aside
        assert found is not None
        return found

    def is_in(self, shape: Shape) -> bool:
        """Whether this holds the arena of a shape."""
        return self.shape == shape and self._holding.arena is not None

    def step_aside(self) -> None:
        """Give the arena back and keep a copy of what is in it."""
        holding = self._holding
        if holding.arena is not None:
            holding.aside = holding.arena.cache.copied()
            self.pool.n_bytes += self.n_bytes
            self.pool.wait(holding.arena)
            holding.arena = None


class Pool:
    """See the module.

    Args:
        loaded: The model.
        launcher: Runs the steps of its arenas.
        most_bytes: Memory of keys and values, those copied aside included.
        spare: Gives up what was kept longest; false: nothing is kept.

    Attributes:
        launcher: As given.
        n_bytes: Memory of keys and values now.
    """

    def __init__(
        self, loaded: Loaded, launcher: Launcher, most_bytes: int, spare: Callable[[], bool]
    ) -> None:
        self._loaded = loaded
        self.launcher = launcher
        self._most_bytes = most_bytes
        self._spare = spare
        self._waiting: list[Arena] = []  # the longest unused first
        self._leases: weakref.WeakSet[Lease] = weakref.WeakSet()
        self._bytes_per_slot = _bytes_per_slot(loaded)
        self.n_bytes = 0

    def lease(self, n_rows: int, n_tokens: int) -> Lease:
        """An arena that holds so many rows of so many tokens.

        Raises:
            NoRoomError: It does not fit.
        """
        shape = Shape.holding(n_rows, n_tokens)
        lease = Lease(self, self.take(shape), self._size(shape))
        self._leases.add(lease)
        return lease

    def take(self, shape: Shape, freed: int = 0) -> Arena:
        """The arena of a shape, made or asked back if need be; raises as `lease`.

        Args:
            shape: Rows and slots.
            freed: Bytes that will be free once this has been taken.
        """
        n_bytes = self._size(shape)
        if any(lease.is_in(shape) for lease in self._leases):
            self._make_room(n_bytes, self._spare, self._drop)  # by giving up this very lease, perhaps
            for lease in list(self._leases):
                if lease.is_in(shape):
                    lease.step_aside()
        for arena in self._waiting:
            if arena.shape == shape:
                self._waiting.remove(arena)
                return arena
        self._make_room(n_bytes - freed, self._drop, self._spare)
        arena = Arena(self._loaded, shape, self.launcher)
        self.n_bytes += n_bytes
        return arena

    def wait(self, arena: Arena) -> None:
        """An arena is not in use any more."""
        self._waiting.append(arena)

    def give_back(self, holding: _Holding, n_bytes: int) -> None:
        """A lease has ended."""
        if holding.arena is not None:
            self.wait(holding.arena)
        else:
            self.n_bytes -= n_bytes

    def clear(self) -> None:
        """Let go of all arenas that are not in use."""
        while self._drop():
            pass

    def _make_room(self, n_bytes: int, first: Callable[[], bool], then: Callable[[], bool]) -> None:
        while self.n_bytes + n_bytes > self._most_bytes:
            if not first() and not then():
                raise NoRoomError(n_bytes)

    def _drop(self) -> bool:
        """Let go of the arena that is longest out of use; false: all are in use."""
        if not self._waiting:
            return False
        arena = self._waiting.pop(0)
        arena.close()
        self.n_bytes -= self._size(arena.shape)
        return True

    def _size(self, shape: Shape) -> int:
        return shape.rows * shape.slots * self._bytes_per_slot


def _bytes_per_slot(loaded: Loaded) -> int:
    """Keys and values of one token, found by reading one."""
    cache = DynamicCache()
    token = torch.zeros((1, 1), dtype=torch.long, device=loaded.model.device)
    loaded.model(input_ids=token, use_cache=True, **{loaded.cache_argument: cache})
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers if layer.keys is not None)
