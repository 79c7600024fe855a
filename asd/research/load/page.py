"""The page of a day of operations: its figure, and the tables in the study's page."""

from __future__ import annotations

from matplotlib.axes import Axes

from asd.research.report.reading import kinds, numbers, rows_where
from asd.research.report.style import Figure, finished, line, panels
from asd.research.study.record import Study

__all__ = ["drawn"]

_CAPTION = (
    "A cascade under load; simulated on recorded outcomes. Checked beside a real run of the embedded ladder "
    "only (asd reality): elsewhere it compares policies, and sizes no machine."
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
