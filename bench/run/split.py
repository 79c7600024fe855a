"""How the memory of the devices is split among the stages of a run, and what does not fit.

    one process      stages of `vllm` and `transformers` are in memory all at once: vLLM takes the share of
                     its GPUs that `gpu_memory_utilization` says, weights and cache within it (or the weights
                     and `kv_cache_memory_bytes`); transformers takes the weights and `kv_cache_gib`
    its own server   stages of `openai` run elsewhere; each needs its weights on a machine of its own

A stage of tensor parallelism n lies on the first n GPUs, so the first one is the fullest. Activations and
what a runtime keeps for itself come on top. Scope: arithmetic on the ladder; nothing is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from asd.engines.checkpoints.sizes import weights_mib
from asd.errors import DataError, EngineError
from asd.ladder import Stage
from asd.measurement.environment import device_gib
from bench.run.matrix import Matrix
from bench.run.tables import table

__all__ = ["describe_split"]

VLLM_SHARE = 0.92
"""Of a GPU's memory, what vLLM takes where the ladder says nothing."""

VLLM_CPU_CACHE = 1.0
"""GiB of its cache on a CPU where the ladder says nothing (`asd.engines.vllm.loader`)."""

SERVER, PROCESS = "its own server", "one process"


@dataclass(frozen=True, slots=True)
class MemoryShare:
    """One stage's part of the memory, in GiB on each of its devices; None: not known.

    Attributes:
        stage: Whose.
        engine: What runs it.
        devices: Where it lies.
        weights: What its weights take.
        held: All that it takes.
    """

    stage: Stage
    engine: str
    devices: tuple[str, ...]
    weights: float | None
    held: float | None

    @property
    def place(self) -> str:
        """Where its process is."""
        return SERVER if self.engine == "openai" else PROCESS


def describe_split(matrix: Matrix) -> list[str]:
    """A table of the stages, and one line for each device that says whether they fit."""
    parts = [_part(matrix, stage) for stage in matrix.ladder.stages]
    headers = ("stage", "model", "dtype", "runs in", "devices", "weights each", "in all each")
    return [table(headers, [_row(part) for part in parts]), *_judged(parts)]


def _row(part: MemoryShare) -> tuple[str, ...]:
    stage, devices = part.stage, f"{len(part.devices)} x {part.devices[0]}"
    where = part.devices[0] if len(part.devices) == 1 else devices
    model = stage.model if stage.adapter is None else f"{stage.model} with {stage.adapter}"
    return (stage.name, model, stage.dtype, part.place, where, _gib(part.weights), _gib(part.held))


def _part(matrix: Matrix, stage: Stage) -> MemoryShare:
    engine = stage.engine or matrix.engine
    device = str(stage.options.get("transformers", {}).get("device") or matrix.device)
    devices = _devices(device, stage.tensor_parallel)
    try:
        mib = weights_mib(stage, matrix.device)
    except (EngineError, DataError):  # no directory or broken files, which the run itself will say
        mib = None
    weights = None if mib is None else mib / 1024 / stage.tensor_parallel
    return MemoryShare(stage, engine, devices, weights, _held(engine, stage, devices[0], weights))


def _devices(device: str, n: int) -> tuple[str, ...]:
    kind, _, first = device.partition(":")
    if kind == "cpu":
        return (kind,) * n
    return tuple(f"{kind}:{int(first or 0) + i}" for i in range(n))


def _held(engine: str, stage: Stage, device: str, weights: float | None) -> float | None:
    """What a stage takes of each of its devices."""
    options = stage.options.get(engine, {})
    if engine == "vllm":
        cache = _number(options.get("kv_cache_memory_bytes"), 1 << 30)
        cache = VLLM_CPU_CACHE if cache is None and device == "cpu" else cache
        if cache is None:
            total, share = device_gib(device), _number(options.get("gpu_memory_utilization"))
            return None if total is None else (VLLM_SHARE if share is None else share) * total
    elif engine == "transformers":
        cache = _transformers_cache(stage, device)
    else:
        cache = 0.0
    return None if weights is None else weights + cache


def _transformers_cache(stage: Stage, device: str) -> float:
    import torch  # noqa: PLC0415 - a run of other engines may be without it

    from asd.engines.hf.settings import TransformersSettings  # noqa: PLC0415

    return TransformersSettings.of(stage).cache_gib(torch.device(device))


def _number(value: object, unit: float = 1.0) -> float | None:
    return float(value) / unit if isinstance(value, int | float) else None


def _judged(parts: Sequence[MemoryShare]) -> Iterator[str]:
    yield from _too_small(parts)
    together = [part for part in parts if part.place == PROCESS]
    for device in dict.fromkeys(name for part in together for name in part.devices):
        here = [part for part in together if device in part.devices]
        yield _on_device(device, here)
    for part in parts:
        if part.place == SERVER:
            yield f"{part.stage.name}: a server of its own needs {_gib(part.weights)} for the weights" + (
                f" on each of {len(part.devices)} devices" if len(part.devices) > 1 else ""
            )


def _too_small(parts: Sequence[MemoryShare]) -> Iterator[str]:
    """Shares that do not even hold the weights."""
    for part in parts:
        if part.weights is not None and part.held is not None and part.held < part.weights:
            yield (
                f"does not fit: {part.stage.name} has {_gib(part.weights)} of weights for each device and a "
                f"share of {_gib(part.held)}; raise its gpu_memory_utilization or tensor_parallel"
            )


def _on_device(device: str, parts: Sequence[MemoryShare]) -> str:
    names, total = ", ".join(part.stage.name for part in parts), device_gib(device)
    known = [part.held * part.devices.count(device) for part in parts if part.held is not None]
    if total is None and device != "cpu":
        return f"does not fit: {names} want {device}, which is not here"
    if total is None or len(known) < len(parts):
        return f"{device}: what {names} take together is not known"
    says = f"{device}: {names} take {_gib(sum(known))} of {_gib(total)}"
    if sum(known) <= total:
        return says
    return (
        f"does not fit: {says}; lower gpu_memory_utilization or the caches in their options, leave a stage "
        'out, or give each a server of its own (engine = "openai")'
    )


def _gib(gib: float | None) -> str:
    return "not known" if gib is None else f"{gib:.3g} GiB"
