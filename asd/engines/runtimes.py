"""What runs a stage, as far as its answers depend on it, told without loading the stage.

    "transformers float32"        "vllm bfloat16 3f8a90c2"        "openai auto"

The engine, the dtype that "auto" comes to, and a hash of the options of vLLM: engines round differently, and
so do dtypes, so that outcomes of one are not those of another. What a server does is part of its revision.

Scope: a ladder in, text out; weights are the business of `asd.engines.revisions`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asd.engines.revisions import local_directory
from asd.errors import EngineError
from asd.ladder import Ladder, Stage

__all__ = ["UNKNOWN", "runtimes", "same_runtime"]

UNKNOWN = "unknown"
"""Of outcomes recorded by earlier versions, or by an engine that was not named."""

MEMORY = frozenset(("gpu_memory_utilization", "kv_cache_memory_bytes", "swap_space", "cpu_offload_gb"))
"""Options of vLLM that only say how much memory it may use."""


def runtimes(ladder: Ladder, engine: str = "transformers", device: str | None = None) -> dict[str, str]:
    """By stage name, what runs it.

    Args:
        ladder: Whose stages.
        engine: What runs the stages that do not name an engine themselves.
        device: As in `asd.engines.registry.open_engines`.

    Raises:
        ConfigError: The device is not here.
        EngineError: A checkpoint's configuration is missing or broken.
    """
    return {stage.name: _runtime(stage, stage.engine or engine, device) for stage in ladder.stages}


def same_runtime(recorded: str, found: str) -> bool:
    """Whether two may be the same; what is unknown may be any."""
    return recorded == found or UNKNOWN in {recorded, found}


def _runtime(stage: Stage, engine: str, device: str | None) -> str:
    parts = [engine, _dtype(stage, engine, device)]
    if engine == "vllm":
        options = {name: value for name, value in stage.options.get("vllm", {}).items() if name not in MEMORY}
        parts += [_digest(options)] if options else []
    return " ".join(parts)


def _dtype(stage: Stage, engine: str, device: str | None) -> str:
    """What "auto" comes to; left as it is where the engine alone knows."""
    if stage.dtype != "auto" or engine not in {"transformers", "vllm"}:
        return stage.dtype
    config = _config(stage)
    if _is_on_cpu(stage, engine, device) and "quantization_config" not in config:
        return "float32"
    parts: list[Mapping[str, Any]] = [config, config.get("text_config") or {}]
    named = [part.get(name) for part in parts for name in ("dtype", "torch_dtype")]
    return next((str(name) for name in named if name), "auto")


def _is_on_cpu(stage: Stage, engine: str, device: str | None) -> bool:
    if engine == "vllm":
        from asd.engines.vllm.loader import is_cpu_build  # noqa: PLC0415  (for its stages only)

        return is_cpu_build()
    from asd.engines.hf.settings import TransformersSettings, find_device  # noqa: PLC0415  (loads torch)

    return find_device(TransformersSettings.of(stage).device or device, stage.name).type == "cpu"


def _config(stage: Stage) -> dict[str, Any]:
    directory = local_directory(stage)
    try:
        path = _of_hub(stage) if directory is None else directory / "config.json"
        return dict(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise EngineError(
            f"stage {stage.name!r}: cannot read config.json of {stage.model}: {error}; restore the file"
        ) from error


def _of_hub(stage: Stage) -> Path:
    from huggingface_hub import hf_hub_download  # noqa: PLC0415  (not every ladder is on the hub)

    return Path(hf_hub_download(stage.model, "config.json"))


def _digest(options: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(options, sort_keys=True, default=str).encode()).hexdigest()[:8]
