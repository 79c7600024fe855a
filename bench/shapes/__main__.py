"""What the models of a ladder take on this device, from their shapes alone: a table, and prices for a ladder.

    python -m bench.shapes --ladder qwen2.5 --sizes 0.5B,3B,7B,14B,32B --out qwen2.5-h100.json

Weights are random numbers made on the device, so nothing is downloaded and nothing can be said of quality
(`timing-only`). Our engine's decode step stands beside `generate()` of transformers, with a growing and a
static cache, and beside the floor: bytes of weights and cache over the bandwidth of a copy in the same run. A
load is priced as the weights' bytes over the bandwidth from the host; reading a disk is not in it. Sizes run
one at a time; what is measured is kept beside the price table, so that the same command continues after
Ctrl-C. A size that does not fit is `modelled` and labelled so (`bench/shapes/table.py`). A ladder names the
table: prices = "qwen2.5-h100.json".
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import torch

from asd.engines.hf.engine import TransformersEngine
from asd.engines.hf.settings import find_device
from asd.engines.memory import called
from asd.errors import AsdError, ConfigError, OutOfMemoryError
from asd.ladder import Ladder
from asd.measurement.environment import read_environment
from asd.measurement.files import check_writable
from asd.prices import write_prices
from bench.shapes.clocked import TimingPlan, bandwidth, clocked, free_bytes
from bench.shapes.families import DTYPE_BYTES, Family, family_of
from bench.shapes.models import open_random
from bench.shapes.readings import Asked, Log
from bench.shapes.table import GIB, Sizes

__all__ = ["shapes"]

STEPS: dict[str, dict[str, object]] = {"auto": {}, "compiled": {"compile": True}, "eager": {"graphs": "off"}}
"""What is asked of the engine, and the options of a stage that ask for it."""

ROOM = 1.1
"""Times the weights' bytes that have to be free: what a runtime takes for itself comes on top."""

CACHES = 4
"""Times the largest cell's keys and values that may be held: sizes are rounded up, verified rows kept."""

INTERRUPTED = 130


def _numbers(least: int) -> Callable[[click.Context, click.Parameter, str], tuple[int, ...]]:
    def parse(_ctx: click.Context, _param: click.Parameter, text: str) -> tuple[int, ...]:
        parts = text.split(",")
        if not all(part.isdecimal() and int(part) > 0 for part in parts) or len(set(parts)) < least:
            few = f"{least} or more different numbers" if least > 1 else "numbers"
            raise click.BadParameter(f"{text}: give {few} separated by commas, as in 128,512")
        return tuple(sorted({int(part) for part in parts}))

    return parse


@click.command()
@click.option("--ladder", default="qwen2.5", show_default=True, help="Preset or family (families.toml).")
@click.option("--sizes", help="Of the family, by commas. [default: the stages of the preset]")
@click.option("--batch", default="1,4,16", show_default=True, callback=_numbers(1), help="Queries a call.")
@click.option(
    "--lengths", default="128,512,2048", show_default=True, callback=_numbers(2), help="Of prompts."
)
@click.option("--widths", default="16,32,64", show_default=True, callback=_numbers(1), help="Of drafts.")
@click.option("--new-tokens", type=click.IntRange(min=1), default=32, show_default=True)
@click.option("--passes", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--dtype", type=click.Choice([*DTYPE_BYTES]), help="[default: bfloat16, float32 on a CPU]")
@click.option("--device", help="In torch's words. [default: a GPU if there is one]")
@click.option("--steps", type=click.Choice([*STEPS]), default="auto", show_default=True)
@click.option("--memory-gib", type=click.FloatRange(min=0), help="[default: what is free on the device]")
@click.option("--rivals/--no-rivals", default=True, show_default=True, help="Time generate() as well.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Price table. [default: shapes-LADDER.json]",
)
def shapes(  # noqa: PLR0913, PLR0917  (one argument an option)
    ladder: str,
    sizes: str | None,
    batch: tuple[int, ...],
    lengths: tuple[int, ...],
    widths: tuple[int, ...],
    new_tokens: int,
    passes: int,
    dtype: str | None,
    device: str | None,
    steps: str,
    memory_gib: float | None,
    rivals: bool,
    out: Path | None,
) -> None:
    """Measure what models of these shapes take on this device (timing-only, random weights)."""
    out = out or Path(f"shapes-{ladder}.json")
    try:
        family, plan = family_of(ladder), TimingPlan(batch, lengths, widths, new_tokens, passes, rivals)
        names = tuple(dict.fromkeys(sizes.split(","))) if sizes else _stages(ladder, family)
        _check(family, names, plan)
        check_writable(out)
        on = str(find_device(device, "random weights"))
        asked = Asked(
            ladder=ladder,
            card=_card(on),
            dtype=dtype or ("float32" if on == "cpu" else "bfloat16"),
            steps=steps,
            n_new=new_tokens,
        )
        log = _log(out, asked, on)
        for name in names:
            _measure(log, family, name, plan, on, memory_gib)
        _conclude(Sizes(log, family, names, plan), out)
    except AsdError as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        click.echo("interrupted; the same command continues after the last cell", err=True)
        sys.exit(INTERRUPTED)


def _stages(ladder: str, family: Family) -> tuple[str, ...]:
    if ladder not in family.ladders:
        raise ConfigError(f"{ladder} is no preset: name its sizes, as in --sizes {','.join(family.sizes)}")
    return tuple(stage.name for stage in Ladder.load(ladder).stages)


def _check(family: Family, names: tuple[str, ...], plan: TimingPlan) -> None:
    """Before minutes are spent."""
    for name in names:
        family.shape(name)
    if 1 not in plan.batches:
        raise ConfigError("a price table needs batch 1: name it in --batch too")
    if plan.most_tokens > family.context:
        raise ConfigError(
            f"{plan.most_tokens} tokens of prompt and answer exceed the context of {family.context}; give "
            "smaller --lengths, --widths or --new-tokens"
        )


def _card(device: str) -> str:
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(torch.device(device))
    machine = read_environment()
    return f"{machine.cpu}, {machine.threads} thread(s)"


def _log(out: Path, asked: Asked, device: str) -> Log:
    rates = bandwidth(device, time.perf_counter)
    click.echo(f"copy {rates.copy / 1e9:.4g} GB/s, from the host {rates.from_host / 1e9:.4g} GB/s", err=True)
    return Log.open(out.with_suffix(".readings.json"), asked, f"{datetime.now(UTC).date()}", rates)


def _measure(
    log: Log, family: Family, name: str, plan: TimingPlan, device: str, memory_gib: float | None
) -> None:
    """All cells of one size that are not there yet; none where it does not fit."""
    todo = [cell for cell in plan.cells if not log.has(name, *cell, plan.calls(cell[1]))]
    asked, n_weights = log.file.asked, family.weight_bytes(name, log.file.asked.dtype)
    free = free_bytes(device) if memory_gib is None else memory_gib * GIB
    if not todo:
        return
    if n_weights * ROOM > free:
        fits = f"{n_weights / GIB:.1f} GiB of weights and a tenth more, of {free / GIB:.1f} GiB"
        click.echo(f"{name}: does not fit ({fits}): modelled", err=True)
        return
    cache = family.cache_bytes(name, asked.dtype, max(plan.batches) * plan.most_tokens)
    options = {"kv_cache_gib": max(1.0, CACHES * cache / GIB)} | STEPS[asked.steps]
    engine = open_random(family, name, asked.dtype, device, options)
    try:
        called(name, 1, engine.load)
        for batch, length in todo:
            _cell(log, engine, plan, batch, length)
    except OutOfMemoryError as error:
        click.echo(f"{name}: does not fit ({error}): modelled", err=True)
    finally:
        engine.unload()


def _cell(log: Log, engine: TransformersEngine, plan: TimingPlan, batch: int, length: int) -> None:
    where, start = f"{engine.stage_name}, batch {batch}, prompt {length}", time.perf_counter()
    try:
        cell = clocked(engine, plan, batch, length, time.perf_counter)
    except OutOfMemoryError as error:
        click.echo(f"{where}: left out: {error}", err=True)
        return
    log.put(cell)
    step: Any = cell.decode_s(plan.n_new)
    took = time.perf_counter() - start
    click.echo(f"{where}: {cell.step_mode}, {1e3 * step:.3g} ms a step ({took:.1f} s)", err=True)


def _conclude(found: Sizes, out: Path) -> None:
    if 1 not in found.batches:
        raise ConfigError(f"none of {', '.join(found.names)} fits at batch 1, so nothing was measured")
    timing = found.timing()
    write_prices(out, found.prices(), "ms", str(timing), timing)
    click.echo("\n".join([found.shown(), *found.ratios()]))
    click.echo(f"ms, of a whole batch; {timing}; nothing here says how good an answer is\n{out}")


if __name__ == "__main__":
    shapes()
