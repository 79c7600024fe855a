"""From a ladder to its engines. Nothing is loaded until an engine is asked for an answer."""

from __future__ import annotations

from asd.engines import Engine
from asd.errors import ConfigError
from asd.ladder import Ladder

__all__ = ["open_engines"]


def open_engines(ladder: Ladder, device: str | None = None) -> dict[str, Engine]:
    """One `transformers` engine a stage, by stage name, in ladder order.

    Args:
        ladder: Whose stages to serve.
        device: Device in torch's words ("cpu", "cuda:1"); None takes a CUDA device if there is one.

    Raises:
        ConfigError: The device is unknown, or torch and transformers are not installed.
    """
    try:
        from asd.engines.transformers import TransformersEngine  # noqa: PLC0415  (torch takes seconds)
    except ImportError as error:
        raise ConfigError(
            f"running models needs torch and transformers ({error}): pip install 'asd[transformers]'"
        ) from error
    return {stage.name: TransformersEngine(stage, device) for stage in ladder.stages}
