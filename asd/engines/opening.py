"""From a ladder and the name of an engine to one engine a stage. Nothing is loaded until it has to answer."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from asd.engines import Engine
from asd.errors import ConfigError
from asd.ladder import Ladder, Stage

__all__ = ["ENGINES", "open_engines"]

ENGINES = {"transformers": "TransformersEngine", "vllm": "VllmEngine", "openai": "open_stage"}
"""By the name on the command line, which is also that of the module and of the extra: what opens a stage."""

WITH_OPTIONS = ("vllm", "openai")
"""Engines that read `Stage.options`."""


def open_engines(
    ladder: Ladder, device: str | None = None, engine: str = "transformers"
) -> dict[str, Engine]:
    """One engine a stage, by stage name, in ladder order.

    Args:
        ladder: Whose stages to serve.
        device: Device in torch's words ("cpu", "cuda:1"); None takes a CUDA device if there is one.
        engine: What runs the stages that do not name one themselves, one of `ENGINES`.

    Raises:
        ConfigError: No such engine or its library is not installed, the device is unknown, or a stage has
            options for an engine that takes none.
    """
    return {stage.name: _open(stage, device, stage.engine or engine) for stage in ladder.stages}


def _open(stage: Stage, device: str | None, engine: str) -> Engine:
    if engine not in ENGINES:
        raise ConfigError(f"stage {stage.name!r}: no engine named {engine!r}; there are {', '.join(ENGINES)}")
    for name in stage.options.keys() - set(WITH_OPTIONS):
        raise ConfigError(
            f"stage {stage.name!r} has options for {name!r}; options are for {', '.join(WITH_OPTIONS)}"
        )
    try:
        module = import_module(f"asd.engines.{engine}")
    except ImportError as error:
        raise ConfigError(
            f"running models needs libraries that are not here ({error}): pip install 'asd[{engine}]'"
        ) from error
    opener: Callable[[Stage, str | None], Engine] = getattr(module, ENGINES[engine])
    return opener(stage, device)
