"""Whether a stage fits a device before its weights are read: weights, caches asked for, caches of others.

Only memory that the ladder asks for (`kv_cache_gib`) is promised; a stage without it takes what it finds.
Devices that do not say what is free, such as a CPU, are not checked.
"""

from __future__ import annotations

from typing import Any, Protocol
from weakref import WeakSet

import torch
from transformers import AutoModelForCausalLM

from asd.engines.hf.settings import TransformersSettings
from asd.errors import StageTooLargeError
from asd.ladder import Stage

__all__ = ["PROMISES", "CacheReservation", "check_room", "free_bytes", "used_share", "weight_bytes"]

GIB = 2**30


class CacheReservation(Protocol):
    """Caches of a stage in memory."""

    @property
    def device(self) -> torch.device:
        """Where they are."""

    @property
    def unclaimed(self) -> int:
        """Bytes that they were promised and have not allocated."""


PROMISES: WeakSet[CacheReservation] = WeakSet()
"""Those of this process."""


def check_room(stage: Stage, config: Any, device: torch.device, *, is_quantised: bool) -> None:
    """Refuse a stage that does not fit.

    Args:
        stage: Whose weights are about to be read.
        config: Of its model.
        device: Where they go.
        is_quantised: The weights are smaller than the configuration says; they count nothing here.

    Raises:
        StageTooLargeError: With all numbers and the remedy.
    """
    free, settings = free_bytes(device), TransformersSettings.of(stage)
    if free is None:
        return
    weights = 0 if is_quantised else weight_bytes(config, stage.dtype)
    caches = int((settings.kv_cache_gib or 0) * GIB)
    others = sum(promise.unclaimed for promise in list(PROMISES) if promise.device == device)
    counted = "are quantised and not counted" if is_quantised else f"take {weights / GIB:.3g} GiB"
    if weights + caches + others > free:
        raise StageTooLargeError(
            f"stage {stage.name!r} does not fit {device}, where {free / GIB:.3g} GiB are free: its weights "
            f"{counted}, its caches {caches / GIB:.3g} GiB, and {others / GIB:.3g} GiB "
            "are promised to the caches of other stages; lower options.transformers.kv_cache_gib, take a "
            "smaller dtype or another device, or let stages take turns ([deployment] memory_gib)"
        )


def free_bytes(device: torch.device) -> int | None:
    """What can be allocated on a device now; None: it does not say."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def used_share(device: torch.device) -> float | None:
    """Share of a GPU's memory that is in use, whoever uses it; None: it is none, or it is not known.

    NVML reports it (nvidia-ml-py): it may be asked while a call runs, or a graph is captured.
    """
    if device.type != "cuda":
        return None
    try:
        used = torch.cuda.device_memory_used(device)
    except (ImportError, RuntimeError):  # not installed, or no driver that it finds
        return None
    return min(1.0, used / torch.cuda.get_device_properties(device).total_memory)


def weight_bytes(config: Any, dtype: str) -> int:
    """Of a model's weights in a dtype ("auto": that of the configuration), without making any."""
    kind = (getattr(config, "dtype", None) or torch.float32) if dtype == "auto" else getattr(torch, dtype)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=kind)
    return sum(parameter.nbytes for parameter in model.parameters())
