"""`asd serve`: the cascade behind an OpenAI-compatible endpoint; `asd serve keys ...`: its keys and books."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from asd.api import policy_of
from asd.cli.examples import examples
from asd.cli.opening import closed_at_the_end, keep_quiet
from asd.cli.options import (
    FINITE,
    FiniteRange,
    device_option,
    engine_option,
    ladder_option,
    policy_option,
    threads_option,
)
from asd.cli.serve.keys import keys
from asd.cli.serve.ledger import correct, ledger
from asd.collection import header_for
from asd.dispatch import servers_of
from asd.engines.deployment import Deployed, deploy
from asd.engines.registry import open_engines
from asd.engines.revisions import revisions
from asd.engines.runtimes import runtimes
from asd.errors import ConfigError
from asd.ladder import Ladder
from asd.measurement.files import read_record
from asd.operations.control.budget import DayBudget
from asd.operations.control.floor_record import FloorRecord
from asd.operations.control.steering import STEERED, named, steering_of
from asd.operations.traffic import Controller
from asd.policy.artifact import PolicyArtifact
from asd.serving.admission import Admission
from asd.serving.cashier import Cashier
from asd.serving.ledger import NO_CAPS, Caps
from asd.serving.loopback import Loopback, is_loopback
from asd.serving.monitoring.decisions import DecisionLog
from asd.serving.spending import micros_of, read_demand
from asd.serving.tariff import MICRO, Tariff
from asd.traces import TraceHeader
from asd.traces.served import SERVED

if TYPE_CHECKING:
    from asd.serving.endpoint.past.tracing import Tracing
    from asd.serving.endpoint.service import Steers
    from asd.serving.endpoint.settings import Certified

__all__ = ["serve"]


@click.group(
    invoke_without_command=True,
    epilog=examples(
        "asd serve                                      the embedded ladder, at http://127.0.0.1:8000/v1",
        "asd serve --ladder mine.toml --policy policy.json --quality 0.95",
        "asd serve --ledger ledger.db --cap-day 5000    with keys, caps and books",
        "asd serve keys add alice --ledger ledger.db",
    ),
)
@ladder_option
@policy_option
@click.option("--lam", type=FINITE, help="Of requests that name none. [default: what is guaranteed, else 5]")
@click.option("--quality", type=FINITE, help="Instead: the share of quality that they get.")
@click.option("--controller", help="Instead, what sees the queues at every decision: queue:LAM:MU[:AHEAD], "
              "target:LAM:P95, price:LAM:MU, or paced:LAM:MU, which spreads --cap-day over the day "
              "(asd/operations/README.md); or floored:LAM:P95, which keeps a certified floor.")  # fmt: skip
@click.option("--certified-floor", type=click.Path(dir_okay=False, path_type=Path),
              help="Of floored: the file of `asd control --tables floor --out FILE`.")  # fmt: skip
@click.option("--certified", type=click.Choice(["refuse", "reference"]), is_flag=False, flag_value="refuse",
              help="A quality that no guarantee of the policy covers is refused (without a value), or the "
              "reference stage alone answers. [default: an estimate decides]")  # fmt: skip
@click.option("--ledger", "ledger_path", type=click.Path(dir_okay=False, path_type=Path), envvar="ASD_LEDGER",
              show_envvar=True, help="File of the keys and the books. [default: neither]")  # fmt: skip
@click.option("--cap-day", help="Most spend of all keys a day (UTC), in the price unit or as 2.5EUR.")
@click.option("--cap-total", help="Most spend of all keys for ever.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Others than loopback need a ledger.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: any free one."
)
@click.option("--max-open", type=click.IntRange(1), default=256, show_default=True,
              help="Requests at a time; further ones get 429.")  # fmt: skip
@click.option("--max-seconds", type=FiniteRange(0, min_open=True), default=600.0, show_default=True,
              help="Deadline of requests that name none, and the latest that one may name.")  # fmt: skip
@click.option(
    "--batch", type=click.IntRange(1), default=16, show_default=True, help="Queries a call at most."
)
@click.option("--shadow", type=FiniteRange(0, 1), default=0.0, show_default=True,
              help="Share of the requests that the largest stage answers too, to see quality.")  # fmt: skip
@click.option("--shadow-all", is_flag=True, help="All stages answer these, as `asd fit` needs it.")
@click.option("--log", "log_path", type=click.Path(dir_okay=False, path_type=Path),
              help="Write every decision to this file; `asd fit` reads it.")  # fmt: skip
@click.option(
    "--log-prompts", is_flag=True, help="With prompts and answers, which a fit needs; also in --otlp."
)
@click.option("--otlp", is_flag=False, flag_value="", metavar="[URL]",
              help="Send a trace of every request to this OpenTelemetry collector, as http://127.0.0.1:4318; "
              "without a URL, to that of OTEL_EXPORTER_OTLP_ENDPOINT.")  # fmt: skip
@device_option
@engine_option
@threads_option
@click.pass_context
def serve(  # noqa: PLR0913, PLR0917  (one argument an option)
    ctx: click.Context,
    ladder: str,
    policy: Path | None,
    lam: float | None,
    quality: float | None,
    controller: str | None,
    certified_floor: Path | None,
    certified: Certified | None,
    ledger_path: Path | None,
    cap_day: str | None,
    cap_total: str | None,
    host: str,
    port: int,
    max_open: int,
    max_seconds: float,
    batch: int,
    shadow: float,
    shadow_all: bool,
    log_path: Path | None,
    log_prompts: bool,
    otlp: str | None,
    device: str | None,
    engine: str,
) -> None:
    """Answer OpenAI's clients with the cascade (asd/serving/README.md), or keep its keys and its books."""
    if not _is_to_serve(ctx):
        return
    try:
        from asd.cli.serve import endpoint  # noqa: PLC0415  (starlette and prometheus-client)
    except ImportError as error:
        raise ConfigError(f"{error.name} is not installed; pip install 'asd[serve]'") from error
    steps, local = Ladder.load(ladder), is_loopback(host)
    fitted, caps = policy_of(steps, policy), _caps(cap_day, cap_total, steps)
    capacity, day = endpoint.Capacity(max_open, batch, max_seconds), _day_budget(caps.day, ledger_path)
    steering = None if controller is None else _steering(controller, certified_floor, fitted, steps, day)
    deployed = _deployed(steps, device, engine, batch, steering)
    settings = endpoint.SettingCache(
        fitted, steps, lam=lam, quality=quality, certified=certified, residency=deployed.residency
    )
    opened = endpoint.Endpoint(steps, deployed, fitted, settings, capacity, steering)
    with (
        _admission(ledger_path, opened.tariff, caps, keyless=local) as admission,
        endpoint.listening(host, port) as at,
        _log_of(log_path, steps, engine, device, prompts=log_prompts) as log,
        _tracing_of(otlp, steps, opened.tariff, prompts=log_prompts) as tracing,
    ):
        watching = endpoint.MonitorSettings(shadow, shadow_all, quality, log=log)
        opened.run(at, admission, watching, tracing, loopback_only=local)


def _deployed(
    ladder: Ladder, device: str | None, engine: str, batch: int, steering: Steers | None
) -> Deployed:
    """The engines of the stages, closed when the command ends."""
    keep_quiet(ladder)
    found = deploy(ladder, open_engines(ladder, device, engine), lambda: revisions(ladder, engine))
    closed_at_the_end(found.engines)
    if steering is not None:
        steering(servers_of(found.engines, batch))  # refuses what was certified for other ones
    return found


def _steering(
    text: str, certified: Path | None, fitted: PolicyArtifact, ladder: Ladder, day: DayBudget | None
) -> Steers:
    """Makes the controller that is named, once it is known how the stages are run."""
    floor = None if certified is None else read_record(certified, FloorRecord)

    def steering(servers: Mapping[str, tuple[int, int]]) -> Controller:
        return named(text, steering_of(fitted, ladder, servers, day, floor).makers, STEERED)

    expected = {stage.name: (1, 1) for stage in ladder.stages} if floor is None else floor.servers
    steering(expected)  # refuses what is none before stages are loaded
    return steering


@contextmanager
def _admission(path: Path | None, tariff: Tariff, caps: Caps, *, keyless: bool) -> Iterator[Admission]:
    """Keys and books where there is a ledger; without one, only this machine is served."""
    if path is not None:
        with Cashier(path, tariff, caps, keyless=keyless) as cashier:
            yield cashier
    elif not keyless:
        raise ConfigError("other machines are served with keys only; name a --ledger, or --host 127.0.0.1")
    elif caps != NO_CAPS:
        raise ConfigError("caps are kept in a ledger; name its file with --ledger")
    else:
        yield Loopback()


@contextmanager
def _log_of(
    path: Path | None, ladder: Ladder, engine: str, device: str | None, *, prompts: bool
) -> Iterator[DecisionLog | None]:
    """The log of decisions, where one is asked for."""
    if path is None:
        yield None
        return
    stages = header_for(ladder, revisions(ladder, engine), (), "fit", runtimes(ladder, engine, device)).stages
    header = TraceHeader(ladder=ladder.name, stages=stages, datasets=(SERVED,), split="fit")
    with DecisionLog(path, header, prompts=prompts) as log:
        yield log


@contextmanager
def _tracing_of(
    collector: str | None, ladder: Ladder, tariff: Tariff, *, prompts: bool
) -> Iterator[Tracing | None]:
    """What sends traces, where it is asked for."""
    if collector is None:
        yield None
        return
    try:
        from asd.serving.endpoint.past.tracing import Tracing  # noqa: PLC0415  (opentelemetry)
    except ImportError as error:
        raise ConfigError(f"{error.name} is not installed; pip install 'asd[otel]'") from error
    with Tracing(collector, ladder, tariff, prompts=prompts) as tracing:
        yield tracing


def _is_to_serve(ctx: click.Context) -> bool:
    """Whether no other command follows; its options are checked, or that there are none."""
    if ctx.invoked_subcommand is not None:
        _check_no_option(ctx)
        return False
    _check_together(ctx.params)
    return True


def _check_together(given: Mapping[str, Any]) -> None:
    """Options that need another, or exclude one."""
    if given["shadow_all"] and not given["shadow"]:
        raise ConfigError("--shadow-all says which stages answer in the shadow; give a share with --shadow")
    if given["log_prompts"] and given["log_path"] is None and given["otlp"] is None:
        raise ConfigError("--log-prompts says what is written to the --log; name its file, or --otlp")
    chosen = [given[name] for name in ("lam", "quality", "certified")]
    if given["controller"] is not None and chosen != [None, None, None]:
        raise ConfigError("--controller chooses by itself; leave --lam, --quality and --certified out")
    if given["certified_floor"] is not None and not (given["controller"] or "").startswith("floored:"):
        raise ConfigError("--certified-floor is a file of --controller floored:LAM:P95; give both or neither")


def _check_no_option(ctx: click.Context) -> None:
    for option in ctx.command.params:
        if ctx.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE:
            raise click.UsageError(
                f"{option.opts[0]} before {ctx.invoked_subcommand} is an option of the server"
            )


def _day_budget(cap: int | None, ledger: Path | None) -> DayBudget | None:
    """The cap of a day, spread as the ledger's last days were."""
    if cap is None or ledger is None:
        return None
    return DayBudget(cap / MICRO, partial(read_demand, ledger))


def _caps(day: str | None, total: str | None, ladder: Ladder) -> Caps:
    def micros(amount: str | None) -> int | None:
        return None if amount is None else micros_of(amount, ladder.price_unit, ladder.money)

    return Caps(micros(day), micros(total))


for command in (keys, ledger, correct):
    serve.add_command(command)
