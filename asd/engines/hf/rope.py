"""Scaled rotary positions of Llama 3, which GGUF files keep as one factor a frequency.

`transformers` works the factors out of five numbers instead. Here those numbers are found again: the largest
factor is one of them, the others are the same for every Llama 3.1, 3.2 and 3.3. What does not lead back to
the file's own factors is refused by the caller.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

__all__ = ["llama3_factors", "llama3_parameters"]

LOW, HIGH, TRAINED = 1.0, 4.0, 8192
"""Frequency factors and context that Llama 3 was trained with, before its positions were scaled."""


def llama3_parameters(factors: Tensor, theta: float) -> dict[str, Any] | None:
    """The `rope_parameters` that give these factors; None where Llama 3's do not.

    Args:
        factors: What every frequency is divided by, [head_dim / 2].
        theta: Base of the frequencies.
    """
    factor = float(factors.max())
    if not torch.allclose(llama3_factors(factor, theta, len(factors)), factors.double(), rtol=1e-4):
        return None
    return {
        "rope_type": "llama3",
        "rope_theta": theta,
        "factor": factor,
        "low_freq_factor": LOW,
        "high_freq_factor": HIGH,
        "original_max_position_embeddings": TRAINED,
    }


def llama3_factors(factor: float, theta: float, n: int) -> Tensor:
    """As llama.cpp's converter writes them, [n] float64: 1 for short waves, `factor` for long ones."""
    turns = TRAINED / (2 * math.pi) * theta ** -(torch.arange(n, dtype=torch.float64) / n)
    smooth = ((turns - LOW) / (HIGH - LOW)).clamp(0, 1)
    return 1 / ((1 - smooth) / factor + smooth)
