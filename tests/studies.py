"""A small study made up for tests: every table that a figure is drawn from, in the study's own shape."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache

from asd.measurement.records import Environment
from asd.research.report.figures import draw
from asd.research.report.style import Figure
from asd.research.study.record import Study, StudyTable, Value
from asd.research.theory.reliability import training_table
from asd.types import Provenance

STAGES = ("S", "M", "L")
LAMS = (0.1, 1.0, 10.0, 100.0)
DATASETS = ("tiny-arithmetic", "tiny-lookup")
METHODS = (
    "always-S", "always-M", "always-L", "drafted", "static", "random", "closed-form", "myopic", "prompt-only",
    "optimal", "optimal-verified", "lossless", "oracle",
)  # fmt: skip
SHARES = tuple(f"share_{stage}" for stage in STAGES)
MIX = (0.5, 0.3, 0.2)


def table(
    name: str,
    columns: Sequence[str],
    rows: Iterable[tuple[Value, ...]],
    provenance: Provenance = "replayed",
    title: str | None = None,
) -> StudyTable:
    """A table on 24 questions of a made-up ladder."""
    return StudyTable(
        name=name,
        title=title or f"About {name}",
        provenance=provenance,
        measured_on="a made-up ladder",
        n=24,
        columns=tuple(columns),
        rows=tuple(rows),
    )


def study(*without: str, extra: Sequence[StudyTable] = ()) -> Study:
    """The whole study, less the tables named."""
    tables = [t for t in (*_methods(), *_sweep(), *_theory(), training_table()) if t.name not in without]
    return Study(
        created="2026-01-01T00:00:00+00:00",
        git_commit="0123456789abcdef",
        environment=Environment(
            python="3.11.7", platform="linux", packages={}, cpu="a CPU", cores=2, threads=1
        ),
        seed=0,
        ladder="made-up",
        tables=(*tables, *extra),
    )


@cache
def drawn() -> tuple[Figure, ...]:
    """Every figure of the whole study; drawn once a session."""
    return tuple(draw(study()))


def _methods() -> list[StudyTable]:
    steps = list(enumerate(METHODS, start=1))
    seconds = ("mean_ms", *_with_interval("speed_up"), *_with_interval("speed_up_drafted"))
    tests = ("method", "reference", "metric", "percent", "low_percent", "high_percent", "p_holm")
    compared = [m for m in METHODS if m != "always-L"]

    def differences(metric: str) -> list[tuple[Value, ...]]:
        ps = (0.0001, 0.004, 0.03, 0.4)
        rows = [(m, "always-L", -1.5 * k, -2.0 * k, -1.0 * k, ps[k % 4]) for k, m in enumerate(compared)]
        rows.append(("optimal-verified", "drafted", -5.0, -6.0, -4.0, 0.02))
        return [(method, against, metric, *numbers) for method, against, *numbers in rows]

    return [
        table(
            "methods",
            ("method", "lambda", *_with_interval("quality"), *_with_interval("cost"), "passes", *SHARES),
            [
                (m, None, *_around(0.5 + 0.03 * k, 0.02), *_around(0.1 * k, 0.03), 12.5, *MIX)
                for k, m in steps
            ],
        ),
        table("differences", tests, [*differences("quality"), *differences("cost")]),
        table("differences_seconds", tests, differences("seconds"), "measured"),
        table(
            "latency",
            ("method", *seconds),
            [(m, 10.0 * k, *_around(13 / k, 1 / k), *_around(6.5 / k, 1 / k)) for k, m in steps],
            "measured",
        ),
        table(
            "claims",
            ("claim", "quantity", "claimed", "here", "low", "high", "provenance", "n", "holds"),
            [
                ("6.2x faster than the largest model", "speed-up, total seconds", 6.2, 2.0, 1.8, 2.2,
                 "measured", 24, "no"),
                ("99.97 % uptime", "share of time in service, per cent", 99.97, None, None, None,
                 "not measured", None, "not measured"),
            ],
        ),
    ]  # fmt: skip


def _sweep() -> list[StudyTable]:
    steps = list(enumerate(LAMS, start=1))
    return [
        table(
            "lambda",
            ("lambda", "quality", "cost", "efficiency", *SHARES, "flag"),
            [(lam, 0.6 + 0.08 * k, 0.2 * k, 0.9 / k, *MIX, "") for k, lam in steps],
        ),
        table(
            "lambda_latency",
            ("lambda", "mean_ms", "speed_up", "speed_up_low", "speed_up_high"),
            [(lam, 20.0 * k, *_around(5 / k, 1 / k)) for k, lam in steps],
            "measured",
        ),
        table(
            "lambda_datasets",
            ("lambda", "dataset", "quality", "cost", *SHARES),
            [(lam, name, 0.8, 0.4, *MIX) for lam in LAMS for name in DATASETS],
        ),
        table("levels", ("level", "n", *SHARES), [(str(level), 8, *MIX) for level in (1, 2, 3)]),
        table(
            "thresholds",
            ("node", "lambda", "threshold"),
            [(node, lam, None if lam > 50 else 0.2 * k) for node in ("S", "S>M", "S+M") for k, lam in steps],
        ),
    ]


def _theory() -> list[StudyTable]:
    course = ("stream", "learner", "rounds", "regret", "regret_low", "regret_high")
    learners = ("posterior sampling", "greedy", "frozen")
    rounds = tuple(10 ** (k / 2) for k in range(2, 11))

    def courses(stream: str) -> list[tuple[Value, ...]]:
        return [
            (stream, who, r, *_around(k * r**0.6, r**0.5))
            for k, who in enumerate(learners, 1)
            for r in rounds
        ]

    return [
        table("regret_course_simulated", course, courses("drawn from the problem"), "simulated"),
        table("regret_course", course, [*courses("recorded queries"), *courses("drifting: one then two")]),
        table(
            "samples",
            ("trained", "queries", "draws", "lost", "lost_low", "lost_high"),
            [("tables", n, 50, *_around(n**-0.5, 0.01)) for n in (20, 40, 80, 160)],
        ),
        table(
            "reliability",
            ("stage", "bin", "predicted", *_with_interval("observed"), "answers"),
            [(stage, k, k / 4, *_around(0.1 + k / 5, 0.1), 8) for stage in STAGES for k in range(5)],
        ),
        table(
            "acceptance",
            ("drafter>verifier", *_with_interval("tokens_per_pass"), "tokens_by_formula"),
            [(pair, *_around(4.0, 0.5), 4.2) for pair in ("S>M", "M>L")],
        ),
        table(
            "acceptance_shares",
            ("drafter>verifier", "from", "to", "drafts"),
            [(pair, k / 4, (k + 1) / 4, 3 + 5 * k) for pair in ("S>M", "M>L") for k in range(4)],
        ),
    ]


def _with_interval(column: str) -> tuple[str, str, str]:
    return column, f"{column}_low", f"{column}_high"


def _around(value: float, half: float) -> tuple[float, float, float]:
    return value, value - half, value + half
