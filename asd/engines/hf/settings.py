"""What a stage's `options.transformers` say, and the device that is named there or for the run.

    options.transformers = { device = "cuda:1", kv_cache_gib = 8, compile = true }

Scope: a stage in, checked values out; no weights are loaded.
"""

from __future__ import annotations

import math
from typing import Literal

import torch

from asd.errors import ConfigError
from asd.ladder import Stage
from asd.schema import msgspec
from asd.schema.explained import explained

__all__ = ["TransformersSettings", "find_device"]


class TransformersSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The keys of `options.transformers` of a stage.

    Attributes:
        device: Where the stage runs, in torch's words; None: where the run says (`--device`).
        kv_cache_gib: GiB of keys and values that are held between calls: what verifying may leave for
            continuing (0: nothing), and caches of a fixed size; None: 1 on a CPU, else 4.
        graphs: "auto": decode steps are replayed from CUDA graphs, over caches of a fixed size, on a device
            that has them; "on": over such caches on any device; "off": each kernel is launched by itself,
            over caches that grow.
        compile: Compile the steps, too: half a minute for every size of a cache, then faster steps.
        attention: Implementation of attention in the words of transformers, such as "sdpa" or "eager"; None:
            its own choice.
    """

    device: str | None = None
    kv_cache_gib: float | None = None
    graphs: Literal["auto", "on", "off"] = "auto"
    compile: bool = False
    attention: str | None = None

    def __post_init__(self) -> None:
        if self.kv_cache_gib is not None and not 0 <= self.kv_cache_gib < math.inf:
            raise ValueError(f"kv_cache_gib must be a number of at least 0, got {self.kv_cache_gib}")
        if self.compile and self.graphs == "off":
            raise ValueError('compile = true needs caches of a fixed size: leave graphs = "off" out')

    def cache_gib(self, device: torch.device) -> float:
        """GiB of keys and values on this device."""
        default = 1.0 if device.type == "cpu" else 4.0
        return default if self.kv_cache_gib is None else self.kv_cache_gib

    def is_fixed(self, device: torch.device) -> bool:
        """Whether caches are of a fixed size on this device."""
        return self.compile or self.graphs == "on" or (self.graphs == "auto" and device.type == "cuda")

    @classmethod
    def of(cls, stage: Stage) -> TransformersSettings:
        """What a stage's `options.transformers` say.

        Raises:
            ConfigError: They are unknown or out of range.
        """
        try:
            return msgspec.convert(dict(stage.options.get("transformers", {})), cls)
        except msgspec.ValidationError as error:
            raise ConfigError(
                f"stage {stage.name!r}: options.transformers: {explained(error, cls)}"
            ) from error


def find_device(name: str | None, stage: str) -> torch.device:
    """The device of this name, by its number; None takes a CUDA device if there is one, else the CPU.

    Args:
        name: Such as "cpu" or "cuda:1".
        stage: Whose it is to be, for messages.

    Raises:
        ConfigError: torch knows no such device, or it is not here.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(
            f"stage {stage!r}: unknown device {name!r}; torch knows 'cpu', 'cuda', 'cuda:1', ..."
        ) from error
    try:
        if device.type == "meta":
            raise RuntimeError("it holds no numbers")
        return torch.empty(0, device=device).device  # "cuda" is some "cuda:0"
    except (RuntimeError, AssertionError) as error:  # an assertion where torch was built without CUDA
        why = str(error).partition("\n")[0]
        raise ConfigError(
            f"stage {stage!r}: device {name!r} is not here: {why}; name another, such as cpu"
        ) from error
