"""Options that several commands share, and lists of names and numbers given to them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from asd.engines.registry import ENGINES, check_engine
from asd.errors import ConfigError
from asd.workloads import Workload
from asd.workloads.catalogue import default_names, find_workloads

__all__ = [
    "FINITE",
    "FiniteRange",
    "data_option",
    "datasets_option",
    "device_option",
    "engine_option",
    "ladder_option",
    "ledger_option",
    "new_ledger_option",
    "numbers",
    "policy_option",
    "split",
    "threads_option",
    "unsafe_code_option",
    "workloads_of",
]

T = TypeVar("T", bound=Callable[..., Any])


class _Finite(click.types.FloatParamType):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number; `ConfigError` where it is not finite."""
        return _finite(super().convert(value, param, ctx), param)


class FiniteRange(click.FloatRange):
    """Numbers in a range; NaN, which is below and above no bound, passes click's own."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number; `ConfigError` where it is not finite."""
        return _finite(super().convert(value, param, ctx), param)


def _finite(number: float, param: click.Parameter | None) -> float:
    if not math.isfinite(number):
        what = "it" if param is None else param.opts[0]
        raise ConfigError(f"{what} must be a finite number, as 0.5, not {number:g}")
    return number


FINITE = _Finite()
"""Type of an option that takes any number."""


def _set_threads(_ctx: click.Context, _param: click.Parameter, threads: int | None) -> None:
    # One thread is fastest for small models; torch reads the variable when it is imported, later than this.
    if threads is None:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    else:
        os.environ["OMP_NUM_THREADS"] = str(threads)


def _checked_engine(_ctx: click.Context, _param: click.Parameter, engine: str) -> str:
    try:
        check_engine(engine, "--engine")
    except ConfigError as error:
        raise click.BadParameter(str(error)) from error
    return engine


ladder_option = click.option("--ladder", default="tiny", show_default=True, help="Preset or TOML file.")
policy_option = click.option(
    "--policy", type=click.Path(path_type=Path), help="Made by `asd fit`. [default: the ladder's own]"
)
device_option = click.option("--device", help="Such as cpu or cuda:1. [default: a GPU if there is one]")
engine_option = click.option(
    "--engine",
    callback=_checked_engine,
    metavar=f"[{'|'.join(ENGINES)}|MODULE:CLASS]",
    default="transformers",
    show_default=True,
    help="What runs the stages that name no engine.",
)
datasets_option = click.option(
    "--datasets", help="Names or FILE.py, separated by commas. [default: the embedded ones]"
)
data_option = click.option("--data", help="Folder of the public task sets, or hub. [default: $ASD_DATA]")
unsafe_code_option = click.option("--unsafe-code", is_flag=True, help="Run models' code without a sandbox.")
threads_option = click.option(
    "--threads",
    type=click.IntRange(min=1),
    callback=_set_threads,
    expose_value=False,
    help="CPU threads of torch. [default: $OMP_NUM_THREADS, else 1]",
)


def _ledger_option(*, exists: bool) -> Callable[[T], T]:
    return click.option(
        "--ledger",
        type=click.Path(exists=exists, dir_okay=False, path_type=Path),
        envvar="ASD_LEDGER",
        default="asd-ledger.db",
        show_default=True,
        show_envvar=True,
        help="File of the keys and the books.",
    )


ledger_option = _ledger_option(exists=True)
new_ledger_option = _ledger_option(exists=False)


def workloads_of(datasets: str | None, data: str | None, unsafe_code: bool) -> list[Workload]:
    """What these options name; the embedded workloads where they name none."""
    names = default_names() if datasets is None else datasets.split(",")
    return find_workloads(names, data, unsafe_code=unsafe_code)


def split(text: str) -> list[str]:
    """Names separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def numbers(text: str, option: str) -> list[float]:
    """Numbers separated by commas.

    Raises:
        ConfigError: One is no number.
    """
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"{option} {text}: give numbers separated by commas, as in 0.5,2") from error
    if not all(map(math.isfinite, found)):
        raise ConfigError(f"{option} {text}: numbers must be finite")
    return found
