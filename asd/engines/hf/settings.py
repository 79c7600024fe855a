"""What a stage's `options.transformers` say.

    options.transformers = { device = "cuda:1", kv_cache_gib = 8 }

Scope: a stage in, checked values out; nothing is loaded.
"""

from __future__ import annotations

import math

from asd.errors import ConfigError
from asd.ladder import Stage
from asd.schema import msgspec

__all__ = ["Settings"]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The keys of `options.transformers` of a stage.

    Attributes:
        device: Where the stage runs, in torch's words; None: where the run says (`--device`).
        kv_cache_gib: GiB of keys and values that verifying may leave for continuing, over all calls; 0: none.
    """

    device: str | None = None
    kv_cache_gib: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.kv_cache_gib < math.inf:
            raise ValueError(f"kv_cache_gib must be a number of at least 0, got {self.kv_cache_gib}")

    @classmethod
    def of(cls, stage: Stage) -> Settings:
        """What a stage's `options.transformers` say.

        Raises:
            ConfigError: They are unknown or out of range.
        """
        try:
            return msgspec.convert(dict(stage.options.get("transformers", {})), cls)
        except msgspec.ValidationError as error:
            known = ", ".join(cls.__struct_fields__)
            raise ConfigError(
                f"stage {stage.name!r}: options.transformers: {error}; it takes {known}"
            ) from error
