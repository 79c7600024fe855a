"""What verifying leaves for continuing: caches of the batches verified lately, within a memory budget.

Rows are found by what their cache depends on, so any of them can be continued later, in any company, also
after other batches were verified. The least recent batch is evicted first; who does not find a row here reads
it again. Scope: batches of `asd.engines.hf.decoder`; no text, no queries.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from asd.engines.hf.decoder import Batch

__all__ = ["Keeper", "KeptRows"]


@dataclass(frozen=True, slots=True)
class KeptRows:
    """Rows that are ready to be continued: `places[i]` is where row i's key stood in the question."""

    batch: Batch
    places: list[int]


@dataclass(slots=True, eq=False)
class _KeptBatch:
    """One verified batch; `drop[i]` tokens are still to be taken back from row i before it continues."""

    batch: Batch
    drop: list[int]
    rows: dict[Hashable, int]
    n_bytes: int

    def hand_over(self, rows: list[int]) -> Batch:
        batch = self.batch
        if rows != list(range(len(self.drop))):
            batch = batch.select(rows)
        batch.rewind([self.drop[row] for row in rows])
        return batch


class Keeper:
    """Keeps verified batches until their rows are taken, or until newer ones need the memory.

    Args:
        most_bytes: Memory of keys and values that may be held between calls.

    Attributes:
        n_evicted: Rows given up so far for want of memory.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._entries: list[_KeptBatch] = []
        self.n_evicted = 0

    def put(self, batch: Batch, drop: Sequence[int], keys: Sequence[Hashable | None]) -> None:
        """Keep a batch.

        Args:
            batch: Its logits are those after the tokens that stay.
            drop: Tokens to take back from each row when it is taken.
            keys: What each row is asked for by (None: never).
        """
        rows = [row for row, key in enumerate(keys) if key is not None]
        by_key = {key: row for row, key in enumerate(keys[row] for row in rows)}
        for key in by_key:
            self._pop(key)
        if not rows:
            return
        n_bytes = batch.bytes_for(len(rows))
        if n_bytes > self._most_bytes:
            self.n_evicted += len(rows)
            return
        self._make_room(n_bytes)
        if len(rows) < len(keys):
            batch = batch.select(rows)
        self._entries.append(_KeptBatch(batch, [drop[row] for row in rows], by_key, n_bytes))

    def take(self, keys: Sequence[Hashable]) -> list[KeptRows]:
        """The rows of these keys that are still here; each can be taken once."""
        taken: dict[int, tuple[_KeptBatch, list[int], list[int]]] = {}
        for place, key in enumerate(keys):
            found = self._pop(key)
            if found is not None:
                entry, row = found
                _, rows, places = taken.setdefault(id(entry), (entry, [], []))
                rows.append(row)
                places.append(place)
        return [KeptRows(entry.hand_over(rows), places) for entry, rows, places in taken.values()]

    def spare(self) -> bool:
        """Evict the least recent batch; false: there is none."""
        if not self._entries:
            return False
        self.n_evicted += len(self._entries.pop(0).rows)
        return True

    def clear(self) -> None:
        """Give all memory back."""
        self._entries.clear()

    def _make_room(self, n_bytes: int) -> None:
        """Evict the least recent batches until this much more can be held."""
        while sum(entry.n_bytes for entry in self._entries) + n_bytes > self._most_bytes and self.spare():
            pass

    def _pop(self, key: Hashable) -> tuple[_KeptBatch, int] | None:
        for entry in self._entries:
            if key in entry.rows:
                row = entry.rows.pop(key)
                if not entry.rows:
                    self._entries.remove(entry)
                return entry, row
        return None
