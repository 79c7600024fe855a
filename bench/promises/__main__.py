"""Whether a server keeps what it promises when stages fail, clients leave, and it is stopped or killed.

    python -m bench.promises --requests 20000 --leavers 1000 --stops 20 --kills 50

Everything runs over HTTP on loopback; stages write a token every 2 ms and compute nothing.

Faults: clients that think for half a second in the mean name deadlines between 0.1 and 0.6 s; every fourth
call of a stage meets one of eight faults. The server is a process of its own, so that clients read their
clock while it works. A request is late when its last byte came more than 50 ms after its deadline, and lost
when its reply broke off.

Leavers: each goes within 50 ms; its stage would write for half a minute. An abort takes from a client's
leaving to the end of its stage's work.

Stops and kills: a process with a ledger, in the middle of a crowd. After SIGTERM, what was sent before must
be answered; after kill -9, what was answered must be in the books, what was open settled, and nothing held.

Exit code 1 if something was lost or left, an abort took longer than a second at the 99th percentile, or, of
at least 1,000 requests, more than one in a thousand was late.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np

from bench.promises.tries import Stopped, faults, kill, leavers, stop

__all__ = ["promises"]

MOST_LATE = 0.001
LEAST_JUDGED = 1000
"""Requests of which that share says something."""
MOST_ABORT_S = 1.0
MOST_MIB = 8.0
MOST_DESCRIPTORS = 5
"""Connections of the clients themselves come and go."""


@click.command()
@click.option(
    "--requests", type=click.IntRange(min=0), default=20_000, show_default=True, help="To stages that fail."
)
@click.option("--leavers", "n_leavers", type=click.IntRange(min=0), default=1000, show_default=True)
@click.option("--stops", type=click.IntRange(min=0), default=20, show_default=True, help="By SIGTERM.")
@click.option("--kills", type=click.IntRange(min=0), default=50, show_default=True, help="By kill -9.")
@click.option("--clients", type=click.IntRange(min=1), default=32, show_default=True, help="At a time.")
@click.option("--seed", default=0, show_default=True)
def promises(requests: int, n_leavers: int, stops: int, kills: int, clients: int, seed: int) -> None:
    """Try a server under faults, leaving clients, stops and kills."""
    broken = _faults(requests, clients, seed) if requests else []
    broken += _leavers(n_leavers, clients, seed) if n_leavers else []
    broken += _ends("stops by SIGTERM", stop, stops, clients, seed) if stops else []
    broken += _ends("kills", kill, kills, clients, seed) if kills else []
    for fault in broken[:20]:
        click.echo(fault, err=True)
    sys.exit(1 if broken else 0)


def _faults(n: int, n_clients: int, seed: int) -> list[str]:
    found = faults(n, n_clients, seed)
    met = ", ".join(f"{name} {times}" for name, times in sorted(found.met.items()))
    late = 1000 * np.quantile(found.late_s, (0.99, 0.999, 1))
    click.echo(f"faults met: {met}")
    click.echo(
        f"{n} requests: {_told(found.ends)}; {100 * found.in_time:.2f} % within deadline + 50 ms "
        f"(p99 {late[0]:.0f} ms after the deadline, p99.9 {late[1]:.0f}, latest {late[2]:.0f})"
    )
    lost = [f"{found.ends['lost']} requests were lost"] if found.ends["lost"] else []
    late_ones = [f"only {100 * found.in_time:.2f} % were in time"] if found.in_time < 1 - MOST_LATE else []
    return lost + (late_ones if n >= LEAST_JUDGED else [])


def _leavers(n: int, n_clients: int, seed: int) -> list[str]:
    left = leavers(n, n_clients, seed)
    p50, p99 = np.quantile(left.aborted_s, (0.5, 0.99))
    click.echo(
        f"{n} clients left, {left.n_begun} of them in the middle of a call: aborted after "
        f"{1000 * p50:.0f} ms (p50), {1000 * p99:.0f} ms (p99); more than before: {left.tasks} tasks, "
        f"{left.descriptors} descriptors, {left.mib:.1f} MiB"
    )
    checks = {
        "tasks are left": left.tasks > 0,
        "descriptors are left": left.descriptors > MOST_DESCRIPTORS,
        "memory grows": left.mib > MOST_MIB,
        "aborts are slow": p99 > MOST_ABORT_S,
    }
    return [what for what, is_so in checks.items() if is_so]


def _ends(
    what: str, end: Callable[[Path, int, int], Stopped], n: int, n_clients: int, seed: int
) -> list[str]:
    ends: Counter[str] = Counter()
    broken: list[str] = []
    for i in range(n):
        with tempfile.TemporaryDirectory(prefix="asd-promises-") as folder:
            found = end(Path(folder) / "ledger.db", n_clients, seed + i)
        ends.update(found.ends)
        broken += found.faults
    click.echo(f"{n} {what}, {n_clients} clients: {_told(ends)}; {len(broken)} faults")
    return broken


def _told(ends: Counter[str]) -> str:
    return ", ".join(f"{kind} {n}" for kind, n in sorted(ends.items()))


if __name__ == "__main__":
    # of a process of its own: what is planned to fail is no news
    logging.disable(logging.CRITICAL)
    promises()
