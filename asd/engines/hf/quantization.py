"""Quantised checkpoints: by which method, whether `transformers` reads it, and the libraries that it takes.

Scope: a configuration in, names out; the library loads the weights.
"""

from __future__ import annotations

from importlib import metadata
from typing import Any

from transformers.quantizers import AutoHfQuantizer

from asd.errors import EngineError
from asd.ladder import Stage

__all__ = ["is_scale", "missing_libraries", "quantization_method"]

LIBRARIES = {
    "aqlm": ("aqlm",),
    "auto-round": ("auto-round",),
    "awq": ("gptqmodel",),
    "bitsandbytes": ("bitsandbytes",),
    "compressed-tensors": ("compressed-tensors",),
    "eetq": ("kernels",),
    "fbgemm_fp8": ("fbgemm-gpu-genai",),
    "fouroversix": ("fouroversix",),
    "fp8": ("kernels",),
    "fp_quant": ("fp_quant", "qutlass"),
    "gptq": ("optimum", "gptqmodel"),
    "higgs": ("flute-kernel", "fast-hadamard-transform"),
    "hqq": ("hqq",),
    "metal": ("kernels",),
    "mxfp4": ("kernels",),
    "mxfp8": ("kernels",),
    "quanto": ("optimum-quanto",),
    "quark": ("amd-quark",),
    "sinq": ("sinq",),
    "spqr": ("spqr_quant",),
    "torchao": ("torchao",),
    "vptq": ("vptq",),
}
"""Distributions that `transformers` reads a method with, by method; all of them need accelerate as well."""


def quantization_method(stage: Stage, config: Any) -> str | None:
    """The method by which a model is quantised; None: it is not.

    Raises:
        EngineError: `transformers` does not read this method; it would take the numbers as they stand.
    """
    found = getattr(config, "quantization_config", None)
    if found is None:
        return None
    described = found if isinstance(found, dict) else found.to_dict()
    method = described.get("quant_method")
    method = getattr(method, "value", method)
    if not isinstance(method, str) or not AutoHfQuantizer.supports_quant_method(described):
        raise EngineError(
            f"stage {stage.name!r}: {stage.model} is quantised with {method or 'a method without a name'}, "
            "which transformers does not read; use the vllm engine, or weights quantised in another way or "
            "not at all"
        )
    return method


def missing_libraries(method: str | None) -> list[str]:
    """What a method (None: reading straight to a device) needs and is not installed, as pip knows it."""
    return [name for name in ("accelerate", *LIBRARIES.get(method or "", ())) if not _is_installed(name)]


def is_scale(tensor: str) -> bool:
    """Whether a tensor, by its name, scales quantised weights."""
    return tensor.rpartition(".")[2].removesuffix("_inv").endswith(("scale", "scales", "qzeros", "absmax"))


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
