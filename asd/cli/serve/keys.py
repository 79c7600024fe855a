"""`asd serve keys ...`: who may ask a server, how fast and for how much money."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypedDict, Unpack

import click
from tabulate import tabulate

from asd.cli.examples import examples
from asd.cli.options import ladder_option, ledger_option, new_ledger_option
from asd.errors import ConfigError
from asd.ladder import Ladder
from asd.serving.keys import ApiKey, KeyLimits, Keyring
from asd.serving.spending import micros_of, read_spending
from asd.serving.tariff import MICRO

__all__ = ["keys"]


class _Limited(TypedDict):
    requests_per_minute: int | None
    tokens_per_minute: int | None
    cap_day: str | None
    cap_total: str | None
    ladder: str


def _limits_options(command: Callable[..., None]) -> Callable[..., None]:
    amount = "In the ladder's price unit, or with its currency, as 2.5EUR."
    options = (
        click.option("--requests-per-minute", type=click.IntRange(0), help="[default: as many as it likes]"),
        click.option("--tokens-per-minute", type=click.IntRange(0), help="Of prompts and answers."),
        click.option("--cap-day", help=f"Most spend a day (UTC). {amount}"),
        click.option("--cap-total", help=f"Most spend for ever. {amount}"),
        ladder_option,
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.group(
    epilog=examples(
        "asd serve keys add alice --requests-per-minute 60 --cap-day 5000",
        "asd serve keys list",
        "asd serve keys revoke alice",
    )
)
def keys() -> None:
    """API keys of a server; a server that runs follows changes at once."""


@keys.command(epilog=examples("asd serve keys add alice --cap-day 5000 --expires 2027-01-31"))
@click.argument("alias")
@_limits_options
@click.option("--expires", type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]), help="UTC.")
@click.option("--operator", is_flag=True, help="It sees what every key spends, on the page and in /metrics.")
@new_ledger_option
def add(
    alias: str, ledger: Path, expires: datetime | None, operator: bool, **limits: Unpack[_Limited]
) -> None:
    """Make a key, and print it, this once, to standard output."""
    allowed = _limits(ledger, limits)
    expires_at = None if expires is None else expires.replace(tzinfo=UTC).timestamp()
    with Keyring(ledger) as keyring:
        issued = keyring.add(alias, allowed, expires_at, operator=operator)
    click.echo(f"key {alias!r} is in {ledger}; it is shown this once:", err=True)
    click.echo(issued.secret)


@keys.command(epilog=examples("asd serve keys limit alice --cap-day 10000"))
@click.argument("alias")
@_limits_options
@ledger_option
def limit(alias: str, ledger: Path, **limits: Unpack[_Limited]) -> None:
    """Give a key new limits; what is not named is not limited."""
    allowed = _limits(ledger, limits)
    with Keyring(ledger) as keyring:
        _show([keyring.limit(alias, allowed)])


@keys.command(epilog=examples("asd serve keys revoke alice"))
@click.argument("alias")
@ledger_option
def revoke(alias: str, ledger: Path) -> None:
    """End a key, for good."""
    with Keyring(ledger) as keyring:
        _show([keyring.revoke(alias)])


@keys.command("list", epilog=examples("asd serve keys list --json"))
@ledger_option
@click.option("--json", "as_json", is_flag=True, help="Print everything as one line of JSON.")
def list_(ledger: Path, as_json: bool) -> None:
    """All keys, by alias; never what a client sends."""
    with Keyring(ledger) as keyring:
        known = keyring.listed()
    if as_json:
        click.echo(json.dumps([asdict(key) | {"state": key.state(time.time())} for key in known]))
    else:
        _show(known)


def _limits(ledger: Path, given: _Limited) -> KeyLimits:
    steps = Ladder.load(given["ladder"])

    def micros(cap: str | None) -> int | None:
        return None if cap is None else micros_of(cap, steps.price_unit, steps.money)

    cap_day, cap_total = micros(given["cap_day"]), micros(given["cap_total"])
    if (cap_day, cap_total) != (None, None):
        _check_unit(ledger, steps)
    return KeyLimits(given["requests_per_minute"], given["tokens_per_minute"], cap_day, cap_total)


def _check_unit(ledger: Path, ladder: Ladder) -> None:
    unit = read_spending(ledger).unit if ledger.exists() else None
    if unit not in (None, ladder.price_unit):
        raise ConfigError(
            f"{ledger} has amounts in {unit}, the prices of ladder {ladder.name!r} are in "
            f"{ladder.price_unit}; name the ladder that is served with --ladder"
        )


def _show(known: list[ApiKey]) -> None:
    click.echo(tabulate([_row(key) for key in known], headers="keys", disable_numparse=True))


def _row(key: ApiKey) -> dict[str, Any]:
    limits = key.limits
    return {
        "key": key.alias,
        "id": key.id,
        "state": key.state(time.time()),
        "made": _date(key.created_at),
        "expires": _date(key.expires_at),
        "requests/min": limits.requests_per_minute,
        "tokens/min": limits.tokens_per_minute,
        "cap a day": _units(limits.cap_day),
        "cap in total": _units(limits.cap_total),
        "operator": "yes" if key.operator else None,
    }


def _date(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


def _units(micros: int | None) -> str | None:
    return None if micros is None else f"{micros / MICRO:,.6g}"
