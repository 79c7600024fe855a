"""`asd simulate`: a day of a cascade under load, in a minute."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import click
from tabulate import tabulate
from tqdm import tqdm

from asd.cli.examples import examples
from asd.cli.options import FINITE, FiniteRange, ladder_option, policy_option
from asd.cli.paths import NEW_FILE
from asd.cli.scenarios import Opened, open_scenario, recorded_option, servers_options
from asd.errors import ConfigError
from asd.measurement.files import read_record, write_atomically
from asd.operations.books import Summary
from asd.operations.control.contenders import Contenders, cheapest_in_time
from asd.operations.control.deciders import Remembered
from asd.operations.control.floor_record import FloorRecord
from asd.operations.runs import Effort, Runs, Scenario, SimulatedRun, mean_of, runs_of
from asd.operations.sizing import Need, Sizing, keeps
from asd.operations.traffic import Mix
from asd.schema import msgspec


@click.command(
    epilog=examples(
        "asd simulate traces.jsonl                                    24 h, 1.06 million requests",
        "asd simulate traces.jsonl --arrivals poisson:60 --hours 1 --policies optimal:5,always:L --seeds 3",
        "asd simulate traces.jsonl --hours 2 --fault down:L:1800:600 --fault overload:3600:300:40",
        "asd simulate traces.jsonl --plan 0.5 --at-quality 0.98 --arrivals poisson:100 --hours 0.1 "
        "--policies always:L,static:0.9,queue:8:2",
        "asd simulate traces.jsonl --policies always:L,queue:5:1 --seeds 5 --json runs.json --page runs.html",
        "asd simulate mmlu.jsonl.gz --recorded 8b,70b=4,405b=8 --batch 1 --arrivals poisson:1 --hours 1",
        "asd collect --out traces.jsonl                               makes the file",
    )
)
@click.argument("traces", nargs=-1, required=True, type=click.Path(path_type=Path))
@ladder_option
@policy_option
@recorded_option
@click.option(
    "--policies",
    default="optimal:5",
    show_default=True,
    help="Of optimal:LAM, queue:LAM:MU[:AHEAD], target:LAM:P95, price:LAM:MU, gears:LAM, published:LAM, "
    "router:LAM:P, paced:LAM:MU:BUDGET, floored:LAM:P95, static:P, always:STAGE.",
)
@click.option(
    "--certified-floor",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Of floored: the file of `asd control --tables floor --out FILE`; its queries are left out.",
)
@click.option(
    "--at-quality",
    type=FINITE,
    help="Of the settings of a policy, run the one of least P95 with this share of the largest's quality.",
)
@click.option(
    "--plan", type=FINITE, help="Instead: the fewest devices on which P95 is at most so many seconds."
)
@click.option("--most-devices", type=click.IntRange(min=1), default=16, show_default=True, help="Of --plan.")
@click.option("--arrivals", help="poisson:RATE, day, bursts, FILE.csv.gz or FILE:RATE. [default: day]")
@click.option("--users", help="Instead, a closed loop: N:THINK_SECONDS.")
@click.option(
    "--mix", default="", help="EASY,MEDIUM,HARD[:bias] in percent, as 70,25,5. [default: as recorded]"
)
@click.option("--hours", type=FiniteRange(min=0, min_open=True), default=24.0, show_default=True)
@click.option("--window", type=FINITE, default=3600.0, show_default=True, help="Seconds of a window.")
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True, help="Runs of a policy.")
@servers_options
@click.option(
    "--fault", multiple=True, help="KIND:STAGE:START:SECONDS:AMOUNT; down, slow, memory, delay, loss."
)
@click.option("--mtbf", multiple=True, help="Failures of replicas: STAGE=SECONDS_BETWEEN:SECONDS_TO_REPAIR.")
@click.option(
    "--scale", multiple=True, help="Replicas by use: STAGE:MIN:MAX[:LOAD_SECONDS]. [load: as priced]"
)
@click.option(
    "--resident", default="", help="Stages share a device whose memory holds so many: N[:LOAD_SECONDS]."
)
@click.option("--most-inside", type=click.IntRange(min=1), help="Refuse requests beyond so many inside.")
@click.option(
    "--json", "out", type=click.Path(dir_okay=False, path_type=Path), help="Keep every run; continue from it."
)
@click.option("--page", type=NEW_FILE, help="HTML: the runs over time, and their table with intervals.")
def simulate(  # noqa: PLR0913, PLR0917  (one argument an option)
    traces: tuple[Path, ...],
    ladder: str,
    policy: Path | None,
    recorded: str | None,
    policies: str,
    certified_floor: Path | None,
    at_quality: float | None,
    plan: float | None,
    most_devices: int,
    arrivals: str | None,
    users: str | None,
    mix: str,
    hours: float,
    window: float,
    seeds: int,
    replicas: str,
    batch: int,
    fault: tuple[str, ...],
    mtbf: tuple[str, ...],
    scale: tuple[str, ...],
    resident: str,
    most_inside: int | None,
    out: Path | None,
    page: Path | None,
) -> None:
    """Let requests arrive at a cascade that answers from recorded TRACES, and see what they wait for.

    Calls take what the prices say, or what was recorded of them. Every window is checked: Little's law,
    utilisation, conservation.
    """
    _check_page(page, plan)
    opened = open_scenario(
        traces, ladder, policy, replicas, batch, recorded, **_loop(arrivals, users, hours), window_s=window,
        faults=fault, mtbf=dict(map(_failures, mtbf)), most_inside=most_inside, mix=mix, scale=scale,
        resident=resident,
    )  # fmt: skip
    texts = policies.split(",")
    opened, contenders = _contenders(opened, batch, texts, certified_floor, is_plan=plan is not None)
    if plan is not None:
        _plan(opened, contenders, texts, plan, at_quality or 0.0, most_devices)
    elif at_quality is not None:
        _run_best(opened, contenders, texts, at_quality, seeds, _RunFiles(out, page))
    else:
        _run(opened, contenders, texts, seeds, _RunFiles(out, page))


class _RunFiles(NamedTuple):
    """What is written: every run as it ends, and the page."""

    runs: Path | None
    page: Path | None


def _contenders(
    opened: Opened, batch: int, texts: Sequence[str], certified: Path | None, *, is_plan: bool
) -> tuple[Opened, Contenders]:
    """What makes the policies by their names, and the scenario that they are run on."""
    is_floored = any(text.strip().startswith("floored:") for text in texts)
    if is_floored and is_plan:
        raise ConfigError(
            "a floor is certified for its own replicas, which --plan changes; leave floored out"
        )
    if certified is not None and not is_floored:
        raise ConfigError("--certified-floor is a file of --policies floored:LAM:P95; give both or neither")
    floor = None if certified is None else read_record(certified, FloorRecord)
    scenario = opened.scenario if floor is None else _judging(opened.scenario, floor)
    evidence, servers = Remembered(opened.fitted.evidence()), scenario.asked.servers
    found = Contenders(opened.fitted, scenario.population, servers, batch, evidence, floor, scenario.load_s)
    for text in texts:
        found.of(text)  # refuses what names no policy, before anything is run
    return opened._replace(scenario=scenario), found


def _judging(scenario: Scenario, floor: FloorRecord) -> Scenario:
    """Without the queries that certified the floor, which cannot judge it."""
    other = scenario.without(floor.rows)
    n = scenario.asked.n_queries - other.asked.n_queries
    click.echo(f"{n:,} queries that certified the floor are left out")
    sources = other.asked.sources | {"floor": floor.digest}
    return replace(other, asked=msgspec.structs.replace(other.asked, sources=sources))


def _run_best(
    opened: Opened,
    contenders: Contenders,
    texts: Sequence[str],
    share: float,
    seeds: int,
    files: _RunFiles,
) -> None:
    """Choose every policy's setting of least P95 on one half of the queries, and run these on the other."""
    tried, judged = opened.scenario.halves()
    contenders = replace(contenders, population=tried.population)
    texts = cheapest_in_time(tried, contenders, texts, share, seed=0)
    click.echo("settings were chosen on one half of the queries; this is the other half")
    _run(opened._replace(scenario=judged), contenders, texts, seeds, files)


def _run(opened: Opened, contenders: Contenders, texts: Sequence[str], seeds: int, files: _RunFiles) -> None:
    """Run every policy with every seed, and print the table."""
    scenario = opened.scenario
    names = [contenders.of(text).name for text in texts]
    hours = seeds * len(texts) * scenario.asked.seconds / 3600.0
    began = time.process_time()
    with tqdm(total=hours, unit="h", disable=None, file=sys.stderr) as bar:
        made = runs_of(
            scenario,
            [partial(contenders.of, text) for text in texts],
            range(1, seeds + 1),
            files.runs,
            lambda closed: bar.update(closed.seconds / 3600.0),
        )
    _show(made, names, time.process_time() - began, opened.devices)
    if scenario.asked.mix:
        n_easy, n_medium, n_hard = map(len, Mix.parse(scenario.asked.mix).classes(scenario.population))
        click.echo(
            f"mix {scenario.asked.mix} of {n_easy:,} easy, {n_medium:,} medium and {n_hard:,} hard recorded "
            "queries (easy: the smallest stage was right; hard: only the largest was, or none)"
        )
    if files.page is not None:
        _write_page(files.page, opened.fitted.ladder.name, made, names)


def _check_page(page: Path | None, plan: float | None) -> None:
    """Refuse a page that could not be written, before anything is run."""
    if page is None:
        return
    if plan is not None:
        raise ConfigError("--plan prints a table of devices; leave --page out")
    if not all(map(find_spec, ("jinja2", "matplotlib"))):
        raise ConfigError("--page draws with jinja2 and matplotlib: pip install 'asd[report]'")


def _write_page(file: Path, ladder: str, made: Runs, names: Sequence[str]) -> None:
    from asd.research.load.page import drawn_runs, runs_tables, simulated_study  # noqa: PLC0415  (matplotlib)
    from asd.research.report.page import render_page  # noqa: PLC0415

    study = simulated_study(ladder, 1, runs_tables(made, list(dict.fromkeys(names))))
    write_atomically(file, render_page(study, drawn_runs(study), missing=(), with_files=False))
    click.echo(f"{file}: the runs over time, and their table")


def _plan(
    opened: Opened, contenders: Contenders, texts: Sequence[str], p95_s: float, keep: float, most: int
) -> None:
    """Print how many devices each policy takes: the best of its settings, seen again on the other queries."""
    if opened.scenario.asked.scale or opened.scenario.asked.resident:
        raise ConfigError("--plan looks for replicas that stay; leave --scale and --resident out")
    tried, judged = opened.scenario.halves()
    chooser = replace(contenders, population=tried.population)
    sizing = Sizing(
        tried,
        opened.devices,
        lambda text, servers: replace(chooser, servers=servers).of(text),
        seed=0,
        most=most,
    )
    need, largest = Need(p95_s, keep), opened.scenario.population.stages[-1]
    rows: list[dict[str, str]] = []
    settings: dict[str, list[str]] = {}
    for text in texts:
        settings.setdefault(text.partition(":")[0], []).append(text)
    for name, own in settings.items():
        size = sizing.smallest(own, need)
        if size is None:
            rows.append({"policy": name, "devices": f"more than {most}"})
            continue
        total = replace(sizing, scenario=judged, seed=1).run(size.text, size.replicas)
        rows.append(
            {
                "policy": size.text,
                "devices": str(size.devices),
                "replicas": " ".join(f"{stage}:{n}" for stage, n in size.replicas.items()),
                "P95": "no data" if total.p95_s is None else f"{total.p95_s:.3g}",
                "quality": f"{total.quality:.3f}",
                f"{largest} scores": _reference([total]),
                "kept": "yes" if keeps(total, need) else "no",
            }
        )
    click.echo(tabulate(rows, headers="keys", disable_numparse=True))
    click.echo(
        f"fewest devices for P95 <= {p95_s:g} s at {keep:g} of what {largest} scores on the same queries, "
        "chosen on one half of the queries; the other columns are of the other half"
    )
    click.echo("provenance: simulated")


def _loop(arrivals: str | None, users: str | None, hours: float) -> dict[str, Any]:
    """Whether requests come by themselves or from users, and how long, as a header of runs has it."""
    if arrivals is not None and users is not None:
        raise ConfigError("give --arrivals or --users, not both")
    if users is not None:
        return {"arrivals": "", "users": _users(users), "seconds": 3600.0 * hours}
    return {"arrivals": arrivals or "day", "users": None, "seconds": 3600.0 * hours}


def _users(text: str) -> tuple[int, float]:
    number, _, think = text.partition(":")
    try:
        return int(number), float(think)
    except ValueError as error:
        raise ConfigError(f"--users {text!r}: write N:THINK_SECONDS, as in 50:4") from error


def _failures(text: str) -> tuple[str, tuple[float, float]]:
    stage, _, times = text.partition("=")
    between, _, repair = times.partition(":")
    try:
        return stage, (float(between), float(repair))
    except ValueError as error:
        raise ConfigError(f"--mtbf {text!r}: write STAGE=SECONDS_BETWEEN:SECONDS_TO_REPAIR") from error


def _show(made: Runs, names: Sequence[str], seconds: float, devices: Mapping[str, int]) -> None:
    rows = [_row(name, made.of(name)) | _held(made.of(name), devices) for name in names]
    click.echo(tabulate(rows, headers="keys", disable_numparse=True))
    n = sum(run.total.n_arrived for run in made.runs)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    click.echo(f"\n{n:,} requests in {seconds:.1f} s of one core, at most {peak:.0f} MiB of memory")
    for run in made.runs:
        if run.effort is not None:
            click.echo(_effort(run.controller, run.effort))
    for run in made.runs:
        if run.unheld is not None:
            warned = f"{run.unheld:.0%} of its looks warned of its target"
            click.echo(f"{run.controller}, seed {run.seed}: {warned}")
    if made.asked.users is not None:
        for run in made.runs:
            click.echo(_closed(run, *made.asked.users))
    click.echo("provenance: simulated; latencies in seconds, cost in runs of the largest stage")
    click.echo("every window: Little's law, utilisation law and conservation hold to 1e-9")


def _effort(name: str, effort: Effort) -> str:
    decisions = f"{effort.n_decisions:,} decisions of {1e6 * effort.decision_s:.1f} microseconds"
    return f"{name}: {decisions}, solved {effort.n_solved:,} times in {1e3 * effort.solve_s:.1f} ms"


def _row(name: str, runs: Sequence[SimulatedRun]) -> dict[str, str]:
    totals = [run.total for run in runs]
    return {
        "policy": name,
        "runs": str(len(runs)),
        "requests": f"{sum(t.n_arrived for t in totals):,}",
        "quality": str(mean_of([t.quality for t in totals])),
        f"{[*totals[0].stages][-1]} scores": _reference(totals),
        "cost": str(mean_of([t.cost for t in totals])),
        "mean": str(mean_of([t.latency_s for t in totals])),
        "P95": _tail(totals, "p95_s"),
        "P99": _tail(totals, "p99_s"),
        "errors": f"{sum(t.error_rate for t in totals) / len(totals):.2%}",
        "inside at end": f"{sum(t.n_inside for t in totals) / len(totals):.0f}",
        "use": " ".join(
            f"{stage}:{sum(t.stages[stage].utilisation for t in totals) / len(totals):.0%}"
            for stage in totals[0].stages
        ),
    }


def _held(runs: Sequence[SimulatedRun], devices: Mapping[str, int]) -> dict[str, str]:
    """Hours of all devices, those that load a replica among them, where stages are scaled."""
    seconds = [
        sum(devices[stage] * held_s for stage, held_s in run.replica_s.items())
        for run in runs
        if run.replica_s is not None
    ]
    return {"device-hours": str(mean_of([held_s / 3600.0 for held_s in seconds]))} if seconds else {}


def _reference(totals: Sequence[Summary]) -> str:
    """What the largest stage scores on the queries that were answered."""
    values = [total.reference for total in totals if total.reference is not None]
    return str(mean_of(values)) if len(values) == len(totals) else "no data"


def _tail(totals: Sequence[Summary], name: str) -> str:
    values = [value for total in totals if (value := getattr(total, name)) is not None]
    return str(mean_of(values)) if len(values) == len(totals) else "no data"


def _closed(run: SimulatedRun, n_users: int, think_s: float) -> str:
    """The law of a closed loop, with the throughput and latency measured."""
    product = run.total.rate * (run.total.latency_s + think_s)
    parts = f"X = {run.total.rate:.4g}/s, R = {run.total.latency_s:.4g} s, Z = {think_s:g} s"
    return f"{run.controller}, seed {run.seed}: {parts}, X (R + Z) = {product:.4g} of {n_users} users"
