"""The overview in nine panels: what lambda buys, who answers, where single stages and policies lie, load."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colorizer import ColorizingArtist
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from asd.research.report.reading import (
    around,
    basis,
    columns_like,
    has,
    kinds,
    milliseconds_around,
    numbers,
    rows_where,
)
from asd.research.report.style import Figure, finished, hatch, line, panels, ticks_at
from asd.research.study.record import Study, StudyTable

__all__ = ["overview"]

TICKS = (0.1, 1.0, 10.0, 100.0)
NO_LOAD = "I is left out: this study was given no day of operations (asd study --day)."


def overview(study: Study) -> Figure:
    """Needs the tables lambda, lambda_datasets, levels and methods; latency is named where it is missing."""
    over = study.table("lambda")
    n_rows = 4 if has(study, ["load"]) else 3
    with panels(n_rows, 3, 3.6 * n_rows) as (canvas, axes):
        _latency(axes[0], study)
        _against_lambda(axes[1], over, "cost", "B  Cost", "runs of the largest stage")
        _against_lambda(axes[2], over, "quality", "C  Quality", "mean score")
        _scale(canvas, axes[3], _surface(axes[3], over), "value lost per (1 + worth)")
        _scale(canvas, axes[4], _stage_use(axes[4], study.table("lambda_datasets")), "share answered")
        _levels(axes[5], study.table("levels"))
        _frontier(axes[6], over, study.table("methods"))
        _against_lambda(axes[7], over, "efficiency", "H  Cost-effectiveness", "quality per cost")
        if n_rows == 4:
            _load(axes[8], study.table("load"))
            axes[10].axis("off")
            _key(axes[11], axes[8], "I")
        _key(axes[9 if n_rows == 4 else 8], axes[6], "G")
        return finished("overview", _caption(study), canvas)


def _caption(study: Study) -> str:
    seconds = "A: bars span the 95 % bootstrap interval of the speed-up, turned into milliseconds. "
    return (
        "What lambda buys. "
        + (seconds if has(study, ["lambda_latency"]) else "A is left out: nothing was timed. ")
        + "D: value lost, per (1 + worth), where an answer is worth the number on the y axis and the policy "
        "was solved for the lambda on the x axis. E: share of questions answered by each stage. F: by "
        f"level of difficulty. G: quality and cost with 95 % BCa intervals. {_about_load(study)} "
        f"{basis(study.table('lambda'))}"
    )


def _about_load(study: Study) -> str:
    if not has(study, ["load"]):
        return NO_LOAD
    return f"I: P95 by load of the largest stage alone, {study.table('load').provenance}."


def _scale(canvas: Canvas, axes: Axes, shades: ColorizingArtist, label: str) -> None:
    """What the greys of a panel mean, below it."""
    bar = canvas.colorbar(shades, ax=axes, label=label, location="bottom", aspect=30)
    bar.ax.xaxis.set_major_locator(MaxNLocator(4))


def _latency(axes: Axes, study: Study) -> None:
    axes.set_title("A  Latency")
    if not has(study, ["lambda_latency"]):
        _say(axes, "Nothing was timed.")
        return
    table = study.table("lambda_latency")
    lams, mean = numbers(table, "lambda"), numbers(table, "mean_ms")
    axes.errorbar(lams, mean, milliseconds_around(table), capsize=2, **line(0))
    axes.set(xlabel="lambda", ylabel="mean ms a question", ylim=(0, None))
    ticks_at(axes, TICKS)


def _against_lambda(axes: Axes, table: StudyTable, column: str, title: str, label: str) -> None:
    axes.plot(numbers(table, "lambda"), numbers(table, column), **line(0))
    axes.set(title=title, xlabel="lambda", ylabel=label)
    ticks_at(axes, TICKS)


def _surface(axes: Axes, table: StudyTable) -> ColorizingArtist:
    """Value lost by solving for lambda (x) where an answer is worth another number (y)."""
    lams, quality, cost = (numbers(table, name) for name in ("lambda", "quality", "cost"))
    value = lams[:, None] * quality - cost
    lost = (value.max(axis=1, keepdims=True) - value) / (1.0 + lams[:, None])
    shades = axes.contourf(lams, lams, lost, levels=8, cmap="Greys")
    axes.plot(lams, lams, **(line(1) | {"marker": ""}))
    axes.set(title="D  Trade-off surface", xlabel="lambda solved for", ylabel="worth of an answer")
    axes.set_yscale("log")
    ticks_at(axes, TICKS)
    axes.yaxis.set_major_locator(axes.xaxis.get_major_locator())
    axes.yaxis.set_major_formatter(axes.xaxis.get_major_formatter())
    axes.yaxis.set_minor_locator(axes.xaxis.get_minor_locator())
    return shades


def _stage_use(axes: Axes, table: StudyTable) -> ColorizingArtist:
    datasets, stages = kinds(table, "dataset"), columns_like(table, "share_")
    parts = {name: rows_where(table, "dataset", name) for name in datasets}
    shares = np.array([numbers(parts[name], f"share_{stage}") for name in datasets for stage in stages])
    shades = axes.imshow(shares, aspect="auto", cmap="Greys", vmin=0.0, vmax=1.0)
    axes.set_title("E  Stage use")
    axes.set_xlabel("lambda")
    axes.set_xticks(range(shares.shape[1]), [f"{lam:g}" for lam in numbers(parts[datasets[0]], "lambda")])
    axes.tick_params(axis="x", rotation=90)
    shown = [f"{_short(name)}  {stage}" for name in datasets for stage in stages]
    axes.set_yticks(range(len(shown)), shown)
    for k in range(1, len(datasets)):
        axes.axhline(k * len(stages) - 0.5, color="#0072b2", linewidth=1)
    axes.grid(visible=False)
    return shades


def _short(dataset: str) -> str:
    return dataset.rpartition("-")[2][:10]


def _levels(axes: Axes, table: StudyTable) -> None:
    below = np.zeros(len(table.rows))
    for k, stage in enumerate(columns_like(table, "share_")):
        share = numbers(table, f"share_{stage}")
        axes.bar(kinds(table, "level"), share, bottom=below, label=stage, **hatch(k))
        below = below + share
    axes.set(title="F  Stage by complexity", xlabel="level", ylabel="share answered", ylim=(0, 1))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.25), ncols=4)


def _frontier(axes: Axes, over: StudyTable, methods: StudyTable) -> None:
    axes.plot(numbers(over, "cost"), numbers(over, "quality"), label="policy over lambda", **line(0))
    for k, row in enumerate(kinds(methods, "method"), start=1):
        one = rows_where(methods, "method", row)
        cost, quality = numbers(one, "cost"), numbers(one, "quality")
        style = line(k) | {"linestyle": "none", "markersize": 6, "label": row}
        axes.errorbar(cost, quality, around(one, "quality"), around(one, "cost"), elinewidth=0.6, **style)
    axes.set(title="G  Pareto frontier", xlabel="cost, runs of the largest stage", ylabel="quality")


def _load(axes: Axes, table: StudyTable) -> None:
    for k, policy in enumerate(kinds(table, "policy")):
        own = rows_where(table, "policy", policy)
        axes.plot(numbers(own, "load"), numbers(own, "p95_s"), label=policy, **line(k))
    axes.set(title="I  Load", xlabel="load", ylabel="P95, s", yscale="log")


def _key(axes: Axes, panel: Axes, name: str) -> None:
    """What a panel's marks mean, where another would be."""
    axes.set_title(f"Key to {name}")
    axes.axis("off")
    axes.legend(*panel.get_legend_handles_labels(), loc="upper left", borderaxespad=0.0)


def _say(axes: Axes, words: str) -> None:
    axes.axis("off")
    axes.text(0.0, 0.5, words, transform=axes.transAxes)
