"""`asd serve`: the cascade behind an OpenAI-compatible endpoint; `asd serve keys ...`: its keys and books."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from click.core import ParameterSource

from asd.api import policy_of
from asd.cli.examples import examples
from asd.cli.opening import closed_at_the_end, keep_quiet
from asd.cli.options import device_option, engine_option, ladder_option, policy_option, threads_option
from asd.cli.serve.keys import keys
from asd.cli.serve.ledger import correct, ledger
from asd.engines.deployment import deploy
from asd.engines.registry import open_engines
from asd.engines.revisions import revisions
from asd.errors import ConfigError
from asd.ladder import Ladder
from asd.serving.admission import Admission
from asd.serving.cashier import Cashier
from asd.serving.ledger import NO_CAPS, Caps
from asd.serving.loopback import Loopback, is_loopback
from asd.serving.spending import micros_of
from asd.serving.tariff import Tariff

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
@click.option("--lam", type=float, help="Of requests that name none. [default: what is guaranteed, else 5]")
@click.option("--quality", type=float, help="Instead: the share of quality that they get.")
@click.option("--certified", is_flag=True, help="Refuse a quality that no guarantee of the policy covers.")
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
@click.option("--max-seconds", type=click.FloatRange(0, min_open=True), default=600.0, show_default=True,
              help="Deadline of requests that name none, and the latest that one may name.")  # fmt: skip
@click.option(
    "--batch", type=click.IntRange(1), default=16, show_default=True, help="Queries a call at most."
)
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
    certified: bool,
    ledger_path: Path | None,
    cap_day: str | None,
    cap_total: str | None,
    host: str,
    port: int,
    max_open: int,
    max_seconds: float,
    batch: int,
    device: str | None,
    engine: str,
) -> None:
    """Answer OpenAI's clients with the cascade (asd/serving/README.md), or keep its keys and its books."""
    if ctx.invoked_subcommand is not None:
        _check_no_option(ctx)
        return
    try:
        from asd.serving.endpoint.application import Application  # noqa: PLC0415  (starlette)
        from asd.serving.endpoint.server import Server, listening, set_up_logs, url_of  # noqa: PLC0415
        from asd.serving.endpoint.service import Capacity, Service, load, tariff_of  # noqa: PLC0415
        from asd.serving.endpoint.settings import SettingCache  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(f"{error.name} is not installed; pip install 'asd[serve]'") from error
    steps, local = Ladder.load(ladder), is_loopback(host)
    keep_quiet(steps)
    fitted = policy_of(steps, policy)
    deployed = deploy(steps, open_engines(steps, device, engine), lambda: revisions(steps, engine))
    engines = closed_at_the_end(deployed.engines)
    settings = SettingCache(
        fitted, steps, lam=lam, quality=quality, certified=certified, residency=deployed.residency
    )
    caps = Caps(_micros(cap_day, steps), _micros(cap_total, steps))
    capacity = Capacity(max_open, batch, max_seconds)
    with (
        _admission(ledger_path, tariff_of(steps, engines), caps, keyless=local) as admission,
        listening(host, port) as at,
    ):
        set_up_logs()
        if deployed.residency is None:
            load(engines)

        def service() -> Service:
            return Service(engines, steps, settings, fitted.model.forms, admission, capacity)

        click.echo(f"{steps.name} at {url_of(at)}", err=True)
        Server(Application(service, loopback_only=local)).run([at])


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


def _check_no_option(ctx: click.Context) -> None:
    for option in ctx.command.params:
        if ctx.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE:
            raise click.UsageError(
                f"{option.opts[0]} before {ctx.invoked_subcommand} is an option of the server"
            )


def _micros(amount: str | None, ladder: Ladder) -> int | None:
    return None if amount is None else micros_of(amount, ladder.price_unit, ladder.money)


for command in (keys, ledger, correct):
    serve.add_command(command)
