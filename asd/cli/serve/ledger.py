"""`asd serve ledger`: what was spent; `asd serve correct`: where the books are wrong."""

from __future__ import annotations

import json
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from typing import Any

import click
from tabulate import tabulate

from asd.cli.examples import examples
from asd.cli.options import ledger_option
from asd.schema import msgspec
from asd.serving import corrections
from asd.serving.spending import Spend, Spending, micros_of, read_spending
from asd.serving.tariff import MICRO

__all__ = ["correct", "ledger"]


@click.command(epilog=examples("asd serve ledger", "asd serve ledger --json"))
@ledger_option
@click.option("--json", "as_json", is_flag=True, help="Print everything as one line of JSON.")
def ledger(ledger: Path, as_json: bool) -> None:
    """What every key has spent on every day (UTC), in price units and in money; also while a server runs."""
    spending = read_spending(ledger)
    if as_json:
        click.echo(json.dumps(_as_json(spending)))
        return
    rows = [_row(spending, row) for row in spending.rows]
    click.echo(tabulate(rows, headers="keys", disable_numparse=True, stralign="right"))
    total = f"{_units(spending.micros)} {spending.unit or 'units'}"
    money = (
        "" if spending.money is None else f", {_money(spending, spending.micros)} {spending.money.currency}"
    )
    click.echo(f"\nin total {total}{money}")


@click.command(epilog=examples('asd serve correct req-17 0.25 --reason "the price of L was wrong"'))
@click.argument("request")
@click.argument("amount")
@click.option("--reason", required=True, help="Kept with the correction.")
@ledger_option
def correct(request: str, amount: str, reason: str, ledger: Path) -> None:
    """Book REQUEST at AMOUNT, in the price unit or in money, as 2.5EUR; also while a server runs."""
    spending = read_spending(ledger)
    micros = micros_of(amount, spending.unit or "", spending.money)
    done = corrections.correct(ledger, request, micros, reason)
    click.echo(f"{request}: {_units(done.before)} -> {_units(done.after)} {spending.unit}")


def _row(spending: Spending, row: Spend) -> dict[str, Any]:
    money = {} if spending.money is None else {spending.money.currency: _money(spending, row.micros)}
    return {
        "day": row.day,
        "key": row.key,
        "requests": row.n_requests,
        f"spent {spending.unit}": _units(row.micros),
        **money,
        "in the shadow": _units(row.shadow_micros),
        "estimated": _units(row.estimated_micros),
        "open": row.n_open,
        "held": _units(row.held_micros),
    }


def _as_json(spending: Spending) -> dict[str, Any]:
    return {
        "price_unit": spending.unit,
        "money": None if spending.money is None else msgspec.structs.asdict(spending.money),
        "total_micros": spending.micros,
        "rows": [asdict(row) | {"worth": _worth(spending, row)} for row in spending.rows],
    }


def _units(micros: int) -> str:
    return f"{Decimal(micros) / MICRO:,.6f}"


def _worth(spending: Spending, row: Spend) -> str | None:
    worth = spending.worth(row.micros)
    return None if worth is None else format(worth.normalize(), "f")


def _money(spending: Spending, micros: int) -> str | None:
    worth = spending.worth(micros)
    return None if worth is None else f"{worth:,.9f}"
