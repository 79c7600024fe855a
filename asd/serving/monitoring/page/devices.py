"""How busy the machine is: GPUs where NVIDIA's management library is installed, and this process."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["Device", "devices"]


@dataclass(frozen=True, slots=True)
class Device:
    """One of them.

    Attributes:
        name: Of the device.
        busy: Share of its time; None: not known.
        memory: Share of its memory; None: not known.
        detail: What else is known.
    """

    name: str
    busy: float | None
    memory: float | None
    detail: str


class _Process:
    """This process, beside the last time somebody looked."""

    def __init__(self) -> None:
        self._at, self._used = time.monotonic(), time.process_time()

    def read(self) -> Device:
        now, used = time.monotonic(), time.process_time()
        seconds, cores = max(now - self._at, 1e-3), os.cpu_count() or 1
        busy = (used - self._used) / seconds
        self._at, self._used = now, used
        resident = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        n_bytes = resident * os.sysconf("SC_PAGE_SIZE")
        share = n_bytes / (os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
        detail = f"{busy:.2f} of {cores} cores, {n_bytes / 2**20:,.0f} MiB"
        return Device("this process", min(1.0, busy / cores), share, detail)


PROCESS = _Process()


def devices() -> list[Device]:
    """This process and every GPU."""
    return [PROCESS.read(), *_gpus()]


def _gpus() -> list[Device]:
    nvml = _nvml()
    if nvml is None:
        return []
    found = []
    for i in range(nvml.nvmlDeviceGetCount()):
        with suppress(nvml.NVMLError):  # a device that reports nothing is not shown
            found.append(_gpu(nvml, i))
    return found


def _gpu(nvml: Any, i: int) -> Device:
    handle = nvml.nvmlDeviceGetHandleByIndex(i)
    use, memory = nvml.nvmlDeviceGetUtilizationRates(handle), nvml.nvmlDeviceGetMemoryInfo(handle)
    watts = nvml.nvmlDeviceGetPowerUsage(handle) / 1e3
    detail = f"{memory.used / 2**30:.1f} of {memory.total / 2**30:.0f} GiB, {watts:.0f} W"
    name = nvml.nvmlDeviceGetName(handle)
    return Device(f"{i}: {name}", use.gpu / 100.0, memory.used / memory.total, detail)


@cache
def _nvml() -> Any | None:
    """NVIDIA's management library, where it is installed (nvidia-ml-py) and finds a driver."""
    try:
        import pynvml  # noqa: PLC0415

        pynvml.nvmlInit()
    except Exception:  # not installed, or no driver: then there is no GPU to show
        return None
    return pynvml
