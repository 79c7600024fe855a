"""From a ladder and the name of an engine to one engine a stage. Nothing is loaded until it has to answer."""

from __future__ import annotations

from collections.abc import Callable, Collection
from importlib import import_module

from asd.engines import Engine
from asd.errors import ConfigError
from asd.ladder import Ladder, Stage

__all__ = ["ENGINES", "open_drafted", "open_engines"]

ENGINES = {
    "transformers": "asd.engines.hf.engine:TransformersEngine",
    "vllm": "asd.engines.vllm.engine:VllmEngine",
    "openai": "asd.engines.http.stages:open_stage",
}
"""By the name on the command line, which is also that of the extra: what opens a stage."""

WITH_OPTIONS = ("transformers", "vllm", "openai")
"""Engines that read `Stage.options`."""


def open_engines(
    ladder: Ladder, device: str | None = None, engine: str = "transformers", *, batch: int = 1
) -> dict[str, Engine]:
    """One engine a stage, by stage name, in ladder order; stages draft where their prices say that it pays.

    Args:
        ladder: Whose stages to serve.
        device: Device in torch's words ("cpu", "cuda:1") of the stages that name none in their options; None
            takes a CUDA device if there is one.
        engine: What runs the stages that do not name one themselves, one of `ENGINES`.
        batch: Queries a call, which decides the prices.

    Raises:
        ConfigError: No such engine or its library is not installed, the device is unknown, or a stage has
            options for an engine that takes none.
    """
    pays = [name for name, prices in ladder.prices_at(batch).items() if prices.per_drafted is not None]
    return _open_all(ladder, device, engine, pays)


def open_drafted(
    ladder: Ladder, device: str | None = None, engine: str = "transformers"
) -> dict[str, Engine]:
    """The same, every stage drafting that has a drafter, whether it pays or not; raises as `open_engines`."""
    return _open_all(ladder, device, engine, [stage.name for stage in ladder.stages])


def _open_all(
    ladder: Ladder, device: str | None, engine: str, drafting: Collection[str]
) -> dict[str, Engine]:
    """One engine a stage; those of `drafting` with their drafters, where `transformers` runs both of them."""
    runs = {stage.name: stage.engine or engine for stage in ladder.stages}
    engines = {stage.name: _open(stage, device, runs[stage.name]) for stage in ladder.stages}
    drafted = dict(engines)
    for stage in ladder.stages:
        drafter = stage.drafter
        if drafter is None or stage.name not in drafting:
            continue
        if runs[stage.name] == runs[drafter.stage] == "transformers":
            speculate = import_module("asd.engines.hf.speculation").SpeculativeEngine
            drafted[stage.name] = speculate(engines[drafter.stage], engines[stage.name], drafter.block)
    return drafted


def _open(stage: Stage, device: str | None, engine: str) -> Engine:
    if engine not in ENGINES:
        raise ConfigError(f"stage {stage.name!r}: no engine named {engine!r}; there are {', '.join(ENGINES)}")
    for name in stage.options.keys() - set(WITH_OPTIONS):
        raise ConfigError(
            f"stage {stage.name!r} has options for {name!r}; options are for {', '.join(WITH_OPTIONS)}"
        )
    where, _, name_there = ENGINES[engine].partition(":")
    try:
        module = import_module(where)
    except ImportError as error:
        raise ConfigError(
            f"running models needs libraries that are not here ({error}): pip install 'asd[{engine}]'"
        ) from error
    opener: Callable[[Stage, str | None], Engine] = getattr(module, name_there)
    return opener(stage, device)
