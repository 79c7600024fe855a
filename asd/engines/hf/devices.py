"""Devices by their names in torch's words, checked before anything is put there."""

from __future__ import annotations

import torch

from asd.errors import ConfigError

__all__ = ["find_device"]


def find_device(name: str | None, stage: str) -> torch.device:
    """The device of this name; None takes a CUDA device if there is one, else the CPU.

    Args:
        name: Such as "cpu" or "cuda:1".
        stage: Whose it is to be, for messages.

    Raises:
        ConfigError: torch knows no such device, or it is not here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(
            f"stage {stage!r}: unknown device {name!r}; torch knows 'cpu', 'cuda', 'cuda:1', ..."
        ) from error
    try:
        if device.type == "meta":
            raise RuntimeError("it holds no numbers")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # an assertion where torch was built without CUDA
        why = str(error).partition("\n")[0]
        raise ConfigError(
            f"stage {stage!r}: device {name!r} is not here: {why}; name another, such as cpu"
        ) from error
    return device
