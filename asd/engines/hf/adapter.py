"""A LoRA adapter merged into a model in memory: W becomes W + (alpha / r) B A, and no step is dearer for it.

peft reads and merges; it is imported only for a stage that has an adapter. Every matrix of the adapter has to
find its place, and every place its matrix: what peft leaves out or fills with zeros is refused here.
"""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from typing import Any

import torch
from safetensors import SafetensorError

from asd.engines.checkpoints.adapters import Adapter, adapter_of
from asd.engines.memory import is_out_of_memory
from asd.errors import ConfigError, EngineError, StageTooLargeError
from asd.ladder import Stage

__all__ = ["merged", "require_peft"]

UNREADABLE = (
    SafetensorError,
    OSError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    RuntimeError,
    MemoryError,
)
"""What peft raises where it cannot read an adapter or put it in its place."""


def require_peft(what: str) -> None:
    """Raise if peft, which `what` needs, is not installed.

    Raises:
        ConfigError: It is not.
    """
    if find_spec("peft") is None:
        raise ConfigError(f"{what} needs peft, which is not here: pip install 'asd[adapters]'")


def merged(stage: Stage, model: Any, device: torch.device) -> Any:
    """The model with the stage's adapter in its weights, in evaluation mode; as it is where there is none.

    Args:
        stage: Whose.
        model: From `asd.engines.hf.pretrained.read_model`; changed in place.
        device: Where it is.

    Raises:
        EngineError: The adapter is no LoRA adapter, damaged, or made for another model; or the model is
            quantised.
        StageTooLargeError: It does not fit into the memory that is free.
    """
    adapter = adapter_of(stage)
    if adapter is None:
        return model
    if getattr(model.config, "quantization_config", None) is not None:
        raise EngineError(
            f"stage {stage.name!r}: {stage.model} is quantised, and merging an adapter would round it away; "
            "use the vllm engine, or weights that are not quantised"
        )
    adapter.warn_of_other_model(stage)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # all that they tell of is refused below
            return _merge(stage, adapter, model, device).eval()
    except UNREADABLE as error:
        raise _unfit(stage, error) from error


def _merge(stage: Stage, adapter: Adapter, model: Any, device: torch.device) -> Any:
    from peft import LoraConfig, PeftModelForCausalLM  # noqa: PLC0415  (few stages have an adapter)

    path = str(adapter.path)
    config = LoraConfig.from_pretrained(path)
    config.inference_mode = True
    adapted = PeftModelForCausalLM(model, config)
    renamed = getattr(model, "_checkpoint_conversion_mapping", None)
    report = adapted.load_adapter(path, "default", torch_device=str(device), key_mapping=renamed)
    for kind, keys in (("has no", report.missing_keys), ("has a stray", report.unexpected_keys)):
        if keys:
            raise _unfit(stage, f"it {kind} {_plain(min(keys))}")
    return adapted.merge_and_unload(safe_merge=True)


def _plain(key: str) -> str:
    """As the file calls it."""
    return key.removeprefix("base_model.model.").replace(".default.", ".")


def _unfit(stage: Stage, why: object) -> EngineError:
    words = _told(why)
    if isinstance(why, Exception) and is_out_of_memory(why):
        return StageTooLargeError(
            f"stage {stage.name!r}: the adapter {stage.adapter} does not fit into the memory that is free "
            f"({words}); close what else uses it, or take another device"
        )
    return EngineError(
        f"stage {stage.name!r}: the adapter {stage.adapter} does not fit {stage.model}: {words}; name "
        "the model that it was trained on, or restore the adapter's files"
    )


def _told(why: object) -> str:
    """In one line: of tensors with another shape, the first."""
    lines = [line.strip() for line in str(why).splitlines() if line.strip()] or [type(why).__name__]
    return next((_plain(line) for line in lines if line.startswith("size mismatch")), " ".join(lines))
