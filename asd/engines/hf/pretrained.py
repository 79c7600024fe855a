"""A stage's configuration, tokenizer and weights from `from_pretrained`, each failure with its remedy.

The library raises whatever the code raises that comes upon the fault, of any class. Here that is an
`EngineError` which says what cannot be loaded, why in the library's words, and what to do about it. Only
safetensors are read and no code that comes with a model is run. Scope: the parts as they come; what the
engine makes of them is `asd.engines.hf.model`.
"""

from __future__ import annotations

from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
)

from asd.engines.hf.caches.memory import check_room
from asd.engines.hf.quantization import is_scale, missing_libraries, quantization_method
from asd.engines.hf.settings import TransformersSettings
from asd.engines.memory import is_out_of_memory
from asd.engines.revisions import local_directory
from asd.errors import EngineError, StageTooLargeError
from asd.ladder import Stage

__all__ = ["read_config", "read_model", "read_tokenizer"]

RESTORE = (
    "restore the files from where they were made or downloaded, or correct the stage's model in the ladder"
)
TOKENIZER_FILES = ("tokenizer.json", "*.model", "vocab*", "*.tiktoken", "tekken.json")
TOKENIZER_LIBRARIES = ("sentencepiece", "tiktoken", "protobuf")


def read_config(stage: Stage, commit: str | None) -> Any:
    """The configuration of a stage's model.

    Args:
        stage: Whose.
        commit: Of the hub; None for a directory.

    Raises:
        EngineError: There is none, it is broken, or not that of a causal language model that is known.
    """
    try:
        config = AutoConfig.from_pretrained(stage.model, revision=commit, trust_remote_code=False)
    except Exception as error:
        raise _unreadable(stage, "configuration", error, _config_remedy(stage, error)) from error
    masked = type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)
    is_causal = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
    if masked or not is_causal or getattr(config, "is_encoder_decoder", False):
        raise EngineError(
            f"stage {stage.name!r}: {stage.model} is a {config.model_type}, not a causal language model; "
            "choose one that writes text from left to right"
        )
    return config


def _config_remedy(stage: Stage, error: Exception) -> str:
    folder = local_directory(stage)
    if folder is not None and not (folder / "config.json").exists():
        return "the directory has no config.json; put what save_pretrained writes there, all of it"
    if isinstance(error, ValueError):  # an unknown type of model, or one that brings code
        return (
            "choose a model that transformers knows without code of the model's own, or a newer transformers "
            "(pip install --upgrade transformers)"
        )
    return RESTORE


def read_tokenizer(stage: Stage, commit: str | None) -> Any:
    """The tokenizer of a stage's model; arguments and errors as `read_config`."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(stage.model, revision=commit, trust_remote_code=False)
    except Exception as error:
        raise _without_tokenizer(stage, error) from error
    if len(tokenizer) <= len(tokenizer.get_added_vocab()):
        raise _unreadable(stage, "tokenizer", "it has no vocabulary")
    return tokenizer


def _without_tokenizer(stage: Stage, error: Exception) -> EngineError:
    folder = local_directory(stage)
    if folder is not None and not any(found for name in TOKENIZER_FILES for found in folder.glob(name)):
        remedy = "put its files beside the weights (tokenizer.save_pretrained)"
        return _unreadable(stage, "tokenizer", "there is none", remedy)
    if isinstance(error, ImportError) or any(name in str(error) for name in TOKENIZER_LIBRARIES):
        return _unreadable(stage, "tokenizer", error, f"pip install {' '.join(TOKENIZER_LIBRARIES)}")
    return _unreadable(stage, "tokenizer", error)


def read_model(stage: Stage, commit: str | None, config: Any, device: torch.device) -> Any:
    """The model with its weights, on its device, in evaluation mode.

    Args:
        stage: Whose.
        commit: Of the hub; None for a directory.
        config: From `read_config`.
        device: Where it goes; straight if accelerate is installed, which quantised weights need.

    Raises:
        EngineError: Weights are missing, damaged, of another shape, or quantised in a way that cannot be read
            here.
        StageTooLargeError: They do not fit into the memory that is free.
    """
    method = quantization_method(stage, config)
    check_room(stage, config, device, is_quantised=method is not None)
    if method is not None and "accelerate" in missing_libraries(method):
        raise _unreadable(stage, "weights", f"they are quantised with {method}", _quantised_remedy(method))
    # bfloat16 decodes slower than float32 on a CPU, and float32 holds bfloat16 weights exactly
    on_cpu = device.type == "cpu" and method is None
    # without accelerate, weights pass through the host's memory
    goes_straight = method is not None or (device.type != "cpu" and not missing_libraries(method))
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            stage.model,
            config=config,
            revision=commit,
            dtype="float32" if stage.dtype == "auto" and on_cpu else stage.dtype,
            attn_implementation=TransformersSettings.of(stage).attention,
            device_map={"": device} if goes_straight else None,
            ignore_mismatched_sizes=True,  # they are reported, and refused here
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        if not goes_straight:
            model = model.to(device)
    except Exception as error:
        raise _unloadable(stage, method, error) from error
    _check_report(stage, report)
    return model.eval()


def _check_report(stage: Stage, report: Any) -> None:
    """What transformers fills with random numbers, or reads without its scale, without an error."""
    if report["missing_keys"]:
        raise _unreadable(stage, "weights", f"tensors missing: {sorted(report['missing_keys'])[:4]}")
    if report["mismatched_keys"]:
        name, stored, wanted = min(report["mismatched_keys"])
        raise _unreadable(
            stage,
            "weights",
            f"{len(report['mismatched_keys'])} tensors have another shape than config.json says, {name} is "
            f"{list(stored)} and not {list(wanted)}",
        )
    scales = sorted(filter(is_scale, report["unexpected_keys"]))
    if scales:
        remedy = "use the vllm engine, or weights that are not quantised"
        raise _unreadable(
            stage, "weights", f"they are quantised ({scales[0]}), which config.json does not say", remedy
        )


def _unloadable(stage: Stage, method: str | None, error: Exception) -> EngineError:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return StageTooLargeError(
            f"stage {stage.name!r}: the weights of {stage.model} do not fit into the memory that is free "
            f"({error}); close what else uses it, or take a smaller dtype or another device"
        )
    if method is None:
        remedy = "install the library that is named" if isinstance(error, ImportError) else RESTORE
        return _unreadable(stage, "weights", error, remedy)
    remedy = RESTORE if isinstance(error, (OSError, SafetensorError)) else _quantised_remedy(method)
    return _unreadable(stage, f"weights, quantised with {method},", error, remedy)


def _quantised_remedy(method: str) -> str:
    missing = missing_libraries(method)
    if missing:
        return f"that needs {', '.join(missing)}: pip install {' '.join(missing)}"
    return (
        "if they need another device, name it in options.transformers.device; else use the vllm engine, or "
        "weights quantised in another way or not at all"
    )


def _unreadable(stage: Stage, what: str, why: object, remedy: str = RESTORE) -> EngineError:
    words = " ".join(str(why).split()) or type(why).__name__
    if isinstance(why, Exception) and is_out_of_memory(why):
        return StageTooLargeError(
            f"stage {stage.name!r}: the {what} of {stage.model} do not fit into the memory that is free "
            f"({words}); close what else uses it, or take a smaller dtype or device"
        )
    return EngineError(f"stage {stage.name!r}: cannot load the {what} of {stage.model}: {words}; {remedy}")
