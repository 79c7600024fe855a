"""From a ladder and the name of an engine to one engine a stage. Nothing is loaded until it has to answer."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from importlib import import_module
from pathlib import Path
from types import ModuleType

from asd.engines import Engine
from asd.errors import ConfigError
from asd.ladder import Ladder, Stage

__all__ = ["ENGINES", "check_engine", "open_drafted", "open_engines", "open_stage"]

ENGINES = {
    "transformers": "asd.engines.hf.engine:TransformersEngine",
    "vllm": "asd.engines.vllm.engine:VllmEngine",
    "openai": "asd.engines.http.stages:open_stage",
}
"""By the name on the command line, which is also that of the extra: what opens a stage.

An engine of your own is named the same way, `engine = "module:Class"`: anything that, called with a `Stage`
and a device (or None), gives an `asd.engines.Engine`.
"""

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
        engine: What runs the stages that do not name one themselves: one of `ENGINES`, or "module:Class".
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
    engines = {stage.name: open_stage(stage, device, runs[stage.name]) for stage in ladder.stages}
    drafted = dict(engines)
    for stage in ladder.stages:
        drafter = stage.drafter
        if drafter is None or stage.name not in drafting:
            continue
        if runs[stage.name] == runs[drafter.stage] == "transformers":
            speculate = import_module("asd.engines.hf.speculation").SpeculativeEngine
            drafted[stage.name] = speculate(engines[drafter.stage], engines[stage.name], drafter.block)
    return drafted


def open_stage(stage: Stage, device: str | None, engine: str) -> Engine:
    """The engine of one stage; arguments and errors as in `open_engines`."""
    check_engine(engine, f"stage {stage.name!r}")
    module, _, name = ENGINES.get(engine, engine).partition(":")
    takes = [*WITH_OPTIONS] if engine in ENGINES else [*WITH_OPTIONS, module]
    for key in stage.options.keys() - set(takes):
        raise ConfigError(f"stage {stage.name!r} has options for {key!r}; options are for {', '.join(takes)}")
    found = _library(module, engine) if engine in ENGINES else _own_module(module, stage)
    opener: Callable[[Stage, str | None], Engine] | None = getattr(found, name, None)
    if not callable(opener):
        raise ConfigError(f"stage {stage.name!r}: module {module} has nothing to call named {name!r}")
    return opener(stage, device)


def check_engine(engine: str, where: str) -> None:
    """A name in `ENGINES`, or "module:Class"; nothing is imported.

    Raises:
        ConfigError: It is neither.
    """
    module, colon, name = engine.partition(":")
    if engine not in ENGINES and not (colon and name.isidentifier() and _is_dotted(module)):
        known = ", ".join(ENGINES)
        raise ConfigError(f"{where}: no engine named {engine!r}; there are {known}, or yours: module:Class")


def _is_dotted(module: str) -> bool:
    return all(part.isidentifier() for part in module.split("."))


def _library(module: str, engine: str) -> ModuleType:
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"running models needs libraries that are not here ({error}): pip install 'asd[{engine}]'"
        ) from error


def _own_module(module: str, stage: Stage) -> ModuleType:
    """A module from where Python finds it, or from the working directory (no console script looks there)."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"stage {stage.name!r}: the module {module!r} of its engine cannot be imported ({error}); "
            "install it, or start in its directory"
        ) from error
