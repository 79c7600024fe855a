"""Whether a cap on spend can be passed, and whether a kill loses money: many schedules and many kills.

    python -m bench.ledger --schedules 1000 --clients 32 --kills 50

A schedule is a crowd of clients of two keys that share a cap, on one event loop: they ask, are refused or
served, leave at any moment, and run over midnight. What their calls cost is counted apart from the books,
from the prices of the ladder in rational numbers, when the call ends: no cap may be passed then, and at the
end the books must say the same to the last micro-unit, with nothing held.

A kill is `kill -9` of a server process in the middle of such a crowd. The engine is a process of its own that
lives on and has its own count. Whatever the server had acknowledged must be in the books as it was, and after
recovery nothing may be held: after every other kill, requests that were open are settled by the engine's
journal and must equal its count; else they are booked at their bound, which must cover it.

Exit code 1 if anything of that did not hold. The requests are generated; no model runs.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import click
import numpy as np
from tqdm import tqdm

from bench.ledger.crowds import Scheduled, schedule
from bench.ledger.kills import kills

__all__ = ["ledger"]


@click.command()
@click.option("--schedules", type=click.IntRange(min=0), default=1000, show_default=True)
@click.option(
    "--clients", type=click.IntRange(min=4), default=32, show_default=True, help="Clients at a time."
)
@click.option("--kills", "n_kills", type=click.IntRange(min=0), default=50, show_default=True)
@click.option("--seed", default=0, show_default=True)
def ledger(schedules: int, clients: int, n_kills: int, seed: int) -> None:
    """Try to pass a cap, and to lose money by kill -9."""
    faults = _schedules(schedules, clients, seed) + _kills(n_kills, clients, seed)
    for fault in faults[:20]:
        click.echo(fault, err=True)
    sys.exit(1 if faults else 0)


def _schedules(n: int, n_clients: int, seed: int) -> list[str]:
    ran = []
    for number in tqdm(range(seed, seed + n), "schedules", disable=None):
        with tempfile.TemporaryDirectory(prefix="asd-ledger-") as folder:
            ran.append(schedule(number, Path(folder), n_clients))
    if ran:
        click.echo(_told(ran, n_clients))
    return [fault for each in ran for fault in each.faults]


def _kills(n: int, n_clients: int, seed: int) -> list[str]:
    if not n:
        return []
    with tempfile.TemporaryDirectory(prefix="asd-ledger-") as folder:
        killed = list(tqdm(kills(n, Path(folder), seed, n_clients), "kills", n, disable=None))
    faults = [fault for each in killed for fault in each.faults]
    n_settled, n_open = sum(each.n_acknowledged for each in killed), sum(each.n_open for each in killed)
    click.echo(
        f"{n} kills: {n_settled} requests were acknowledged and {n_open} open; {len(faults)} lost, "
        "still held or booked at something else"
    )
    return faults


def _told(ran: list[Scheduled], n_clients: int) -> str:
    used = np.array([each.used for each in ran])
    return (
        f"{len(ran)} schedules of {n_clients} clients: {sum(r.n_admitted for r in ran)} requests admitted, "
        f"{sum(r.n_refused for r in ran)} refused, {sum(r.n_left for r in ran)} clients left; spent of the "
        f"cap on all: {used.mean():.1%} in the mean, {used.max():.1%} at most; "
        f"{sum(len(r.faults) for r in ran)} times a cap was passed or the books were wrong"
    )


if __name__ == "__main__":
    ledger()
