"""Measured beside what theory says: regret, thresholds, sample size; calibration, drafts, training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from asd.research.report.reading import Array, basis, kinds, numbers, rows_where
from asd.research.report.style import Figure, finished, hatch, line, log_axis, panels, ticks_at, tiles
from asd.research.study.record import Study, StudyTable

__all__ = ["acceptance", "regret", "reliability", "samples", "thresholds", "training"]

LAM_TICKS = (0.1, 1.0, 10.0, 100.0)


def regret(study: Study) -> Figure:
    """A panel a stream, on log axes, with sqrt(T log T) drawn through posterior sampling's first thousand."""
    tables = [study.table(name) for name in ("regret_course_simulated", "regret_course")]
    parts = [(t, s, rows_where(t, "stream", s)) for t in tables for s in kinds(t, "stream")]
    with tiles(len(parts), 4.6) as (canvas, axes):
        for panel, (table, stream, rows) in zip(axes, parts, strict=True):
            _streams(panel, rows)
            panel.set_title(f"{stream.partition(':')[0].capitalize()} ({table.provenance})")
            panel.set_ylim(1.0, _highest(tables))
        axes[0].set_ylabel("regret, cost units")
        labels = dict(zip(*reversed(axes[-1].get_legend_handles_labels()), strict=True))
        canvas.legend(labels.values(), labels.keys(), loc="outside lower center", ncols=3)
        drift = next((s for _, s, _ in parts if ":" in s), None)
        switch = (
            f" The drifting stream is {drift.partition(': ')[2]}, half of the rounds each." if drift else ""
        )
        caption = (
            "Regret against the best fixed table of actions, mean over learners; the band holds 95 % of "
            f"them. Slopes with intervals are in the regret tables.{switch} {basis(tables[-1])}"
        )
        return finished("regret", caption, canvas)


def _highest(tables: Sequence[StudyTable]) -> float:
    return 1.2 * max(float(np.nanmax(numbers(table, "regret_high"))) for table in tables)


def _streams(axes: Axes, rows: StudyTable) -> None:
    for k, learner in enumerate(kinds(rows, "learner")):
        own = rows_where(rows, "learner", learner)
        rounds, mean = numbers(own, "rounds"), numbers(own, "regret")
        low, high = (np.maximum(numbers(own, f"regret_{end}"), 1e-3) for end in ("low", "high"))
        style = line(k)
        axes.plot(rounds, np.where(mean > 0, mean, np.nan), label=learner, markevery=6, **style)
        axes.fill_between(rounds, low, high, color=style["color"], alpha=0.12, linewidth=0)
        if k == 0:
            _root(axes, rounds, mean)
    axes.set_xlabel("rounds T")
    log_axis(axes, "y")
    ticks_at(axes, (10.0, 1e3, 1e5))


def _root(axes: Axes, rounds: Array, mean: Array) -> None:
    start = int(np.searchsorted(rounds, 1000))
    late = rounds[start:]
    root = np.sqrt(late * np.log(late))
    axes.plot(late, mean[start] * root / root[0], color="#999999", linewidth=4, alpha=0.6,
              label="sqrt(T log T)", zorder=1)  # fmt: skip


def thresholds(study: Study) -> Figure:
    """Where every node stops."""
    table = study.table("thresholds")
    nodes = kinds(table, "node")
    with panels(1, 1, max(4.2, 0.22 * len(nodes) + 0.6)) as (canvas, (axes,)):
        for k, node in enumerate(nodes):
            own = rows_where(table, "node", node)
            axes.plot(numbers(own, "lambda"), numbers(own, "threshold"), label=node, **line(k))
        axes.set(xlabel="lambda", ylabel="stops from this success probability on", ylim=(-0.03, 1.03))
        ticks_at(axes, LAM_TICKS)
        axes.legend(title="answers so far", loc="center left", bbox_to_anchor=(1.0, 0.5))
        caption = (
            "Thresholds of the fitted stopping problem; S>M: M has read S's answer. A gap: the node never "
            "stops, or stops elsewhere than above a threshold. No interval: the problem is solved exactly. "
            f"{basis(table)}"
        )
        return finished("thresholds", caption, canvas)


def samples(study: Study) -> Figure:
    """Sub-optimality by training queries, beside n^(-1/2)."""
    table = study.table("samples")
    with panels(1, 1, 3.8) as (canvas, (axes,)):
        for k, trained in enumerate(kinds(table, "trained")):
            own = rows_where(table, "trained", trained)
            n, lost = numbers(own, "queries"), numbers(own, "lost")
            ends = np.stack([lost - numbers(own, "lost_low"), numbers(own, "lost_high") - lost])
            axes.errorbar(n, np.where(lost > 0, lost, np.nan), np.clip(ends, 0, lost * 0.99), capsize=2,
                          label=trained, **line(k))  # fmt: skip
            if k == 0:
                axes.plot(n, lost[0] * np.sqrt(n[0] / n), color="#999999", linewidth=4, alpha=0.6,
                          label="n^(-1/2)", zorder=1)  # fmt: skip
        axes.set(xlabel="training queries n", ylabel="value lost, cost units per (1 + lambda)")
        log_axis(axes, "y", subs=(1.0, 2.0, 5.0))
        ticks_at(axes, sorted(set(numbers(table, "queries"))))
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        caption = (
            "Sub-optimality against training on all queries, mean over draws with a 95 % bootstrap interval; "
            f"a size that loses nothing cannot be drawn on a log axis. {basis(table)}"
        )
        return finished("samples", caption, canvas)


def reliability(study: Study) -> Figure:
    """A panel a stage."""
    table = study.table("reliability")
    stages = kinds(table, "stage")
    with tiles(len(stages), 3.6) as (canvas, axes):
        for panel, stage in zip(axes, stages, strict=True):
            own = rows_where(table, "stage", stage)
            seen = numbers(own, "observed")
            ends = np.stack([seen - numbers(own, "observed_low"), numbers(own, "observed_high") - seen])
            panel.plot([0, 1], [0, 1], color="#999999", linewidth=1)
            panel.errorbar(numbers(own, "predicted"), seen, np.clip(ends, 0, 1), capsize=2, **line(0))
            panel.set(
                title=f"Stage {stage}",
                xlabel="predicted success probability",
                xlim=(-0.03, 1.03),
                ylim=(-0.03, 1.03),
            )
        axes[0].set_ylabel("share right")
        caption = f"Calibration by stage, bins of equal count, 95 % Wilson intervals. {basis(table)}"
        return finished("reliability", caption, canvas)


def acceptance(study: Study) -> Figure:
    """A panel a pair of stages."""
    table, rates = study.table("acceptance_shares"), study.table("acceptance")
    pairs = kinds(table, "drafter>verifier")
    with tiles(len(pairs), 3.4) as (canvas, axes):
        for panel, pair in zip(axes, pairs, strict=True):
            own, rate = (rows_where(t, "drafter>verifier", pair) for t in (table, rates))
            counts = numbers(own, "drafts")
            low, high = numbers(own, "from"), numbers(own, "to")
            panel.bar((low + high) / 2, counts / counts.sum(), width=high - low, **hatch(1))
            measured, formula = (numbers(rate, f"tokens_{x}")[0] for x in ("per_pass", "by_formula"))
            panel.set(title=f"{pair}: {measured:.2f} a pass, formula {formula:.2f}", ylim=(0, 1),
                      xlabel="share of the draft accepted")  # fmt: skip
        axes[0].set_ylabel("share of drafts")
        caption = (
            "How much of a draft the verifier accepts; above each panel tokens per verification pass, "
            "measured and by (1 - a^(k+1)) / (1 - a); 95 % intervals are in the acceptance table. "
            + basis(table)
        )
        return finished("acceptance", caption, canvas)


def training(study: Study) -> Figure:
    """Loss and share right by phase."""
    table = study.table("training")
    with panels(1, 2, 4.4) as (canvas, axes):
        for k, phase in enumerate(kinds(table, "phase")):
            own = rows_where(table, "phase", phase)
            tokens = numbers(own, "tokens") / 1e6
            for panel, column in zip(axes, ("loss", "validation"), strict=True):
                panel.plot(tokens, numbers(own, column), label=phase, **line(k))
        axes[0].set(title="Loss", xlabel="million tokens in the phase", ylabel="nats a token")
        log_axis(axes[0], "y", subs=(1.0, 2.0, 5.0))
        axes[1].set(
            title="Validation", xlabel="million tokens in the phase", ylabel="share right", ylim=(0, 1)
        )
        canvas.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
        caption = (
            "Training of the embedded ladder, phase by phase; one run, so without an interval. "
            + basis(table)
        )
        return finished("training", caption, canvas)
