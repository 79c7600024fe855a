"""A against A, for real: measure, make that the baseline, measure again and again, count what is alarmed.

    python -m bench.rerun --times 10 -- --limit 40 --lam 1,10

What stands after `--` goes to every run of `pytest bench/`. Nothing changes between the runs, so every
REGRESSED, BELOW_TARGET or MISSING is a false alarm, and every INCONCLUSIVE says that the machine was too busy
to tell. Exit code 1 if there was a false alarm.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click
from tabulate import tabulate
from tqdm import tqdm

from asd.measurement.files import read_record
from asd.measurement.records import Run
from bench.gate.store import record_baseline

__all__ = ["rerun"]

MEANING = {0: "pass", 10: "false alarm", 11: "false alarm", 13: "inconclusive"}


@click.command()
@click.option("--times", type=click.IntRange(min=1), default=10, show_default=True, help="Runs to judge.")
@click.argument("options", nargs=-1)
def rerun(times: int, options: Sequence[str]) -> None:
    """Measure once, then again and again against that, and count the alarms."""
    with tempfile.TemporaryDirectory() as folder:
        baselines, record = Path(folder), Path(folder) / "first.json"
        first = _bench(baselines, *options, "--json-out", str(record))
        if first.returncode:
            raise click.ClickException(f"the first run failed:\n{first.stdout[-3000:]}")
        # not --record-baseline, which refuses a run that --limit cut down
        record_baseline(baselines, read_record(record, Run), "A against A")
        found = Counter(_outcome(baselines, options) for _ in tqdm(range(times), desc="A/A", unit="run"))
    click.echo(tabulate(sorted(found.items()), headers=["outcome", "runs"]))
    sys.exit(1 if found["false alarm"] else 0)


def _outcome(baselines: Path, options: Sequence[str]) -> str:
    """What the gate said of one rerun; whatever is not a verdict is shown, not counted as one."""
    run = _bench(baselines, *options, "--strict")
    if run.returncode not in MEANING:
        raise click.ClickException(f"a rerun ended with exit code {run.returncode}:\n{run.stdout[-3000:]}")
    if run.returncode:
        tqdm.write("\n".join(filter(_is_verdict, run.stdout.splitlines())))
    return MEANING[run.returncode]


def _is_verdict(line: str) -> bool:
    return any(word in line for word in ("REGRESSED", "BELOW_TARGET", "MISSING", "INCONCLUSIVE"))


def _bench(baselines: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "bench/", "-q", "--baselines", str(baselines), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command


if __name__ == "__main__":
    rerun()
