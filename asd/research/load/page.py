"""Pages of a cascade under load: figures of a day of operations and of runs over time, in the study's page.

Scope: what is laid out and drawn; the numbers are of `asd.research.load.tables` and `asd.operations.runs`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from asd.measurement.environment import code_revision, read_environment
from asd.operations.books import Summary
from asd.operations.runs import Runs, SimulatedRun, mean_of
from asd.research.report.reading import basis, columns_like, kinds, numbers, rows_where
from asd.research.report.style import Figure, finished, line, panels
from asd.research.study.record import Study, StudyTable, Value

__all__ = ["drawn", "drawn_runs", "runs_tables", "simulated_study"]

_CHECKED = (
    "Checked beside a real run of the embedded ladder only (asd reality): elsewhere it compares policies, "
    "and sizes no machine."
)
_CAPTION = f"A cascade under load; simulated on recorded outcomes. {_CHECKED}"
_OF_ANSWERS = ("quality", "reference", "cost", "latency_s", "p95_s", "p99_s")
"""Of `Summary`: what nothing can be said of where nothing was answered."""
_OF_STAGES = {"utilisation": "use", "mean_inside": "inside", "share_answered": "share of answers"}
"""Of `StageWindow`, and what a panel calls it."""
_MARKERS = 24
"""Of a line over time."""


def simulated_study(ladder: str, seed: int, tables: Iterable[StudyTable]) -> Study:
    """These tables as a study that is made now, by this revision, on this machine."""
    return Study(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        git_commit=code_revision(Path(__file__).parent).commit,
        environment=read_environment(),
        seed=seed,
        ladder=ladder,
        tables=tuple(tables),
    )


def drawn(study: Study) -> Figure:
    """Four panels: P95 by load, quality by load, latency by users, and by the interval between solutions."""
    with panels(2, 2, 6.6) as (canvas, axes):
        _by(axes[0], study, "load", "load", "p95_s")
        axes[0].set_title("A  P95 by load")
        axes[0].set_yscale("log")
        _by(axes[1], study, "load", "load", "quality")
        axes[1].set_title("B  Quality by load")
        users = study.table("users")
        for k, (column, label) in enumerate((("latency_s", "mean"), ("p95_s", "P95"))):
            axes[2].plot(numbers(users, "users"), numbers(users, column), label=label, **line(k))
        axes[2].set_xlabel("users")
        axes[2].legend()
        axes[2].set_title("C  Seconds by users, closed loop")
        _by(axes[3], study, "intervals", "interval_s", "p95_s")
        axes[3].set_xscale("log")
        axes[3].set_title("D  P95 by seconds between solutions")
        axes[0].legend(loc="upper left")
        axes[3].legend()
        return finished("operations", _CAPTION, canvas)


def _by(axes: Axes, study: Study, name: str, x: str, y: str) -> None:
    table = study.table(name)
    for k, policy in enumerate(kinds(table, "policy")):
        own = rows_where(table, "policy", policy)
        axes.plot(numbers(own, x), numbers(own, y), label=policy, **line(k))
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def runs_tables(made: Runs, policies: Sequence[str]) -> tuple[StudyTable, StudyTable]:
    """Runs of these policies as wholes, with 95 % intervals over seeds, and window by window."""
    runs = {policy: made.of(policy) for policy in policies}
    stages = [f"{name}_{stage}" for name in _OF_STAGES for stage in made.asked.servers]
    columns = (*_OF_ANSWERS, "error_rate", "mean_inside", *stages)
    whole = _table(
        made,
        "runs",
        "Policies on the same traffic",
        (
            "policy",
            "runs",
            "requests",
            *(f"{name}{end}" for name in columns for end in ("", "_low", "_high")),
        ),
        [_whole(policy, own) for policy, own in runs.items()],
        "Latencies in seconds from arrival to answer, cost in mean runs of the largest stage. Reference: "
        "what the largest stage scores on the queries that were answered. Utilisation: share of the time of "
        "a stage's replicas that calls took. Inside: requests that wait or are worked on, mean over time. "
        "Intervals: 95 %, Student's t over seeds; none of one run.",
    )
    windows = _table(
        made,
        "windows",
        "The same over time",
        ("policy", "hours", "requests_per_s", *columns),
        [row for policy, own in runs.items() for row in _windows(policy, own)],
        "Means over runs; hours: the middle of a window. What one of the runs does not tell is left out, as "
        "P95 of fewer than 59 answers.",
    )
    return whole, windows


def _table(
    made: Runs, name: str, title: str, columns: tuple[str, ...], rows: Sequence[tuple[Value, ...]], note: str
) -> StudyTable:
    asked = made.asked
    users = asked.users and f"{asked.users[0]} users who think for {asked.users[1]:g} s"
    traffic = users or f"arrivals {asked.arrivals}"
    return StudyTable(
        name=name,
        title=title,
        provenance=made.provenance,
        measured_on=f"recorded outcomes on {asked.n_queries} queries, {traffic}",
        n=asked.n_queries,
        columns=columns,
        rows=tuple(rows),
        note=note,
    )


def _whole(policy: str, runs: Sequence[SimulatedRun]) -> tuple[Value, ...]:
    values = zip(*(_values(run.total) for run in runs), strict=True)
    estimates = [value for of_runs in values for value in _estimate(of_runs)]
    return policy, len(runs), sum(run.total.n_arrived for run in runs), *estimates


def _windows(policy: str, runs: Sequence[SimulatedRun]) -> list[tuple[Value, ...]]:
    rows: list[tuple[Value, ...]] = []
    for same in zip(*(run.windows for run in runs), strict=True):
        hours = (same[0].start_s + same[0].seconds / 2.0) / 3600.0
        rate = fmean(window.n_arrived / window.seconds for window in same)
        values = zip(*(_values(window) for window in same), strict=True)
        rows.append((policy, hours, rate, *(_estimate(of_runs)[0] for of_runs in values)))
    return rows


def _values(summary: Summary) -> list[float | None]:
    """Everything that both tables hold of a stretch of time, in the order of their columns."""
    answers = [getattr(summary, name) if summary.n_answered else None for name in _OF_ANSWERS]
    stages = [getattr(stage, name) for name in _OF_STAGES for stage in summary.stages.values()]
    return [*answers, summary.error_rate, summary.mean_inside, *stages]


def _estimate(values: Sequence[float | None]) -> tuple[Value, Value, Value]:
    """Mean and ends of its interval over runs; nothing where one of them does not tell."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None, None, None
    mean = mean_of(known)
    ends = (mean.value - mean.half, mean.value + mean.half) if len(known) > 1 else (None, None)
    return mean.value, *ends


def drawn_runs(study: Study) -> list[Figure]:
    """Policies over time, and the stages of each; from the table `windows`."""
    windows = study.table("windows")
    return [_policies_over_time(windows), _stages_over_time(windows)]


def _policies_over_time(windows: StudyTable) -> Figure:
    shown = {
        "p95_s": "A  P95 of a window, s",
        "quality": "B  Quality",
        "cost": "C  Cost, runs of the largest stage",
        "mean_inside": "D  Requests that wait or are worked on",
    }
    with panels(2, 2, 6.6) as (canvas, axes):
        for panel, (column, title) in zip(axes, shown.items(), strict=True):
            for k, policy in enumerate(kinds(windows, "policy")):
                _over_time(panel, rows_where(windows, "policy", policy), column, policy, k)
            panel.set_title(title)
        for panel in axes[2:]:
            panel.set_xlabel("hours")
        _legend_below(canvas, axes[0], 2)
        return finished("runs", f"Policies over time. {basis(windows)} {_CHECKED}", canvas)


def _stages_over_time(windows: StudyTable) -> Figure:
    policies, stages = kinds(windows, "policy"), columns_like(windows, "utilisation_")
    with panels(len(policies), len(_OF_STAGES), 1.0 + 2.2 * len(policies)) as (canvas, axes):
        for policy, first in zip(policies, range(0, len(axes), len(_OF_STAGES)), strict=True):
            own = rows_where(windows, "policy", policy)
            for panel, (column, label) in zip(axes[first:], _OF_STAGES.items(), strict=False):
                for k, stage in enumerate(stages):
                    _over_time(panel, own, f"{column}_{stage}", stage, k)
                panel.set_ylabel(label)
            axes[first].set_title(policy)
        for panel in axes[-len(_OF_STAGES) :]:
            panel.set_xlabel("hours")
        _legend_below(canvas, axes[0], len(stages))
        shown = "use of the replicas, requests that wait or are worked on, share of the answers"
        return finished("run_stages", f"Stages over time: {shown}. {basis(windows)} {_CHECKED}", canvas)


def _over_time(axes: Axes, table: StudyTable, column: str, label: str, k: int) -> None:
    values = numbers(table, column)
    every = max(1, len(values) // _MARKERS)
    axes.plot(numbers(table, "hours"), values, label=label, markevery=every, **line(k))


def _legend_below(canvas: Canvas, axes: Axes, n_columns: int) -> None:
    """What the lines of all panels are, under them."""
    canvas.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=n_columns)
