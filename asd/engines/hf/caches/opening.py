"""Which cache the rows of a call get: one of a fixed size where wanted and possible, else one that grows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch

from asd.engines import StepMode
from asd.engines.hf.caches.fixed import open_fixed
from asd.engines.hf.caches.growing import open_growing
from asd.engines.hf.caches.launching import Launching
from asd.engines.hf.caches.memory import PROMISES
from asd.engines.hf.caches.pool import NoRoomError, Pool
from asd.engines.hf.caches.slots import obstacle
from asd.engines.hf.decoder import Batch
from asd.engines.hf.model import Loaded
from asd.engines.hf.settings import TransformersSettings

__all__ = ["Caches"]

_LOG = logging.getLogger(__name__)


class Caches:
    """Opens the batches of one stage.

    Args:
        stage: Its name, for messages.
        settings: What its options say.
        device: Where it runs.
        spare: Gives up a kept batch, so that memory gets free; false: there is none.
        launching: Makes what runs steps, as `launcher_for`.
    """

    def __init__(
        self,
        stage: str,
        settings: TransformersSettings,
        device: torch.device,
        spare: Callable[[], bool],
        launching: Launching,
    ) -> None:
        self._stage = stage
        self._settings = settings
        self.device = device
        self._spare = spare
        self._launching = launching
        self._pool: Pool | None = None
        self.forget()

    def promise(self) -> None:
        """The model is in memory: what was asked for is taken from what others may have."""
        PROMISES.add(self)

    @property
    def unclaimed(self) -> int:
        """Bytes that the ladder asks for and that are not allocated."""
        if self._settings.kv_cache_gib is None:
            return 0
        claimed = 0 if self._pool is None else self._pool.n_bytes
        return int(self._settings.kv_cache_gib * 2**30) - claimed

    def forget(self) -> None:
        """Begin again, as before the first call; the model has gone."""
        PROMISES.discard(self)
        self.clear()
        self._launcher = self._launching(self.device, self._settings.compile)
        self._pool = None
        self._obstacle: str | None = None  # not looked for yet
        self._told: set[str] = set()

    @property
    def step_mode(self) -> StepMode:
        """The slowest mode of any call so far; before the first, the one that is wanted."""
        is_fixed = self._settings.is_fixed(self.device) and not (self._told or self._launcher.trouble)
        return self._launcher.mode if is_fixed else "eager"

    def clear(self) -> None:
        """Give back the memory of caches that no batch is in."""
        if self._pool is not None:
            self._pool.clear()

    def open(self, loaded: Loaded, spans: Sequence[int], *, rewinds: bool) -> Batch:
        """Rows that have read nothing yet.

        Args:
            loaded: The model.
            spans: Most tokens that each row will hold.
            rewinds: Tokens will be taken back; only for a model that can (`Loaded.rewinds`).
        """
        if self._settings.is_fixed(self.device) and not self._cannot(loaded):
            try:
                return open_fixed(self._found_pool(loaded), loaded, spans)
            except NoRoomError as error:
                self._tell_of_room(len(spans), max(spans), error.n_bytes)
        return open_growing(loaded, len(spans), rewinds=rewinds)

    def _found_pool(self, loaded: Loaded) -> Pool:
        if self._pool is None:
            most = int(self._settings.cache_gib(self.device) * 2**30)
            self._pool = Pool(loaded, self._launcher, most, self._spare)
        return self._pool

    def _cannot(self, loaded: Loaded) -> bool:
        """Whether the model cannot be served from a cache of a fixed size; says why, once."""
        if self._obstacle is None:
            self._obstacle = obstacle(loaded.model)
        why = self._obstacle or self._launcher.trouble
        if why:
            self._tell("model", f"its model cannot be served from a cache of a fixed size: {why}")
        return bool(why)

    def _tell_of_room(self, n_rows: int, n_tokens: int, n_bytes: int) -> None:
        has = self._settings.cache_gib(self.device)
        self._tell(
            "room",
            f"{n_rows} rows of {n_tokens} tokens take {n_bytes / 2**30:.3g} GiB of keys and values, and "
            f"there are {has:g} for all in use: raise options.transformers.kv_cache_gib in the ladder",
        )

    def _tell(self, kind: str, why: str) -> None:
        if kind not in self._told:
            self._told.add(kind)
            _LOG.warning(
                "stage %r launches its decode steps one by one, which takes longer: %s", self._stage, why
            )
