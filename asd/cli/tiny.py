"""`asd tiny ...`: the embedded ladder planned, trained, installed and evaluated."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import click
from tabulate import tabulate
from tqdm import tqdm

from asd.cli.examples import examples
from asd.cli.opening import open_quietly
from asd.cli.options import FINITE
from asd.collection import collect, header_for
from asd.engines.revisions import revisions
from asd.engines.runtimes import runtimes
from asd.errors import DataError
from asd.ladder import Ladder
from asd.traces import answered
from asd.traces.log import TraceLog
from asd.types import Trace
from asd.workloads.catalogue import find_workloads, workload_names

HOME = Path(__file__).parents[1] / "tiny"
RUN = Path("runs/tiny")
TRACES = Path("runs/tiny-test.jsonl")
SHIPPED = (
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)


@click.group(epilog=examples("asd tiny bound", "asd tiny evaluate --limit 100"))
def tiny() -> None:
    """The embedded ladder: plan it, train it, install its weights, evaluate it."""


@tiny.command(epilog=examples("asd tiny bound --accepted 0.9"))
@click.option(
    "--accepted", type=FINITE, default=0.8, show_default=True, help="Share of a draft that is reused."
)
def bound(accepted: float) -> None:
    """What speed-up sizes and accuracies allow; worked out, not measured."""
    from asd.tiny.bound import bound_table  # noqa: PLC0415

    click.echo(tabulate(bound_table(accepted=accepted), headers="keys"))
    click.echo("\nprovenance: a planning model (asd/tiny/bound.py); nothing was run")


@tiny.command(epilog=examples("asd tiny train", "asd tiny train --out runs/gpu --device cuda"))
@click.option("--out", type=click.Path(path_type=Path), default=RUN, show_default=True)
@click.option("--recipe", type=click.Path(path_type=Path), help="[default: the shipped one]")
@click.option("--only", help="One phase of the recipe. [default: all that are not finished]")
@click.option("--device", default="cpu", show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="CPU threads.")
def train(out: Path, recipe: Path | None, only: str | None, device: str, threads: int) -> None:
    """Train the ladder by its recipe; a killed run continues from its last checkpoint."""
    import torch  # noqa: PLC0415  (takes seconds)

    from asd.tiny.train import RECIPE, load_recipe  # noqa: PLC0415
    from asd.tiny.train import train as run_recipe  # noqa: PLC0415

    torch.set_num_threads(threads)
    try:
        run_recipe(load_recipe(recipe or RECIPE), out, only, device)
    except KeyboardInterrupt:
        click.echo(f"checkpoints are in {out}; give the same command again to continue", err=True)
        raise


@tiny.command(epilog=examples("asd tiny install --run runs/tiny"))
@click.option("--run", type=click.Path(path_type=Path), default=RUN, show_default=True)
def install(run: Path) -> None:
    """Copy the trained stages and their training log from a run into the package.

    Prices and policy are made from them by `asd price`, `asd collect` and `asd fit`.
    """
    from asd.tiny.train import load_recipe  # noqa: PLC0415  (imports torch)

    stages = [stage.name for stage in Ladder.load("tiny").stages]
    for stage in stages:
        if not (run / stage / "model.safetensors").exists():
            raise DataError(f"{run / stage} holds no trained stage; `asd tiny train --out {run}` makes it")
    for stage in stages:
        target = HOME / "weights" / stage
        target.mkdir(parents=True, exist_ok=True)
        for name in SHIPPED:
            shutil.copyfile(run / stage / name, target / name)
    logs = [log for phase in load_recipe().phases if (log := run / phase / "log.jsonl").exists()]
    (HOME / "training.jsonl").write_text("".join(log.read_text("utf8") for log in logs), "utf8")
    size = sum(file.stat().st_size for file in (HOME / "weights").rglob("*") if file.is_file())
    click.echo(f"{', '.join(stages)} installed in {HOME / 'weights'}: {size / 1e6:.1f} MB")


@tiny.command(epilog=examples("asd tiny adapter --family mul --out runs/mul"))
@click.option("--family", required=True, help="Task family that it is for (asd/tiny/README.md).")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Its directory.")
@click.option("--steps", type=click.IntRange(min=1), default=500, show_default=True)
@click.option("--rank", type=click.IntRange(min=1), default=8, show_default=True)
@click.option(
    "--rehearsal",
    type=FINITE,
    default=0.5,
    show_default=True,
    help="Share of questions of all other families.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--limit", type=click.IntRange(min=3), default=900, show_default=True, help="As in evaluate.")
def adapter(family: str, out: Path, steps: int, rank: int, rehearsal: float, seed: int, limit: int) -> None:
    """Train a LoRA adapter for S and one family; what it gains there and loses elsewhere (measured).

    The directory is what a stage of a ladder takes as its adapter.
    """
    import torch  # noqa: PLC0415  (takes seconds)

    from asd.tiny.adapter import Training, held_out_scores, smallest, train_adapter  # noqa: PLC0415

    torch.set_num_threads(1)
    seconds = train_adapter(Training(family, steps, seed, rank, rehearsal), out)
    plain = smallest()
    before = held_out_scores(plain, limit)
    after = held_out_scores(replace(plain, adapter=str(out)), limit)
    others = [name for name in before if name != family]
    pooled = [[score for name in others for score in side[name]] for side in (before, after)]
    rows = [_gain(plain.name, name, before[name], after[name]) for name in (family, *others)]
    _show([*rows, _gain(plain.name, "all others", *pooled)])
    click.echo(f"{out}: {steps} steps of {family}, rank {rank}, seed {seed}, {seconds:.0f} s on one thread")
    click.echo('provenance: measured on split "test"; 95 % intervals: Wilson, the change by paired bootstrap')


def _gain(stage: str, name: str, before: Sequence[float], after: Sequence[float]) -> dict[str, object]:
    """A line of the table: the same questions without and with the adapter."""
    from asd.evaluation.statistics import Bootstrap, mean_interval  # noqa: PLC0415  (takes scipy)

    change = [new - old for old, new in zip(before, after, strict=True)]
    low, high = mean_interval(change, Bootstrap())
    return {
        "": name,
        "n": len(before),
        stage: _share(before),
        f"{stage} with adapter": _share(after),
        "change": f"{fmean(change):+.3f} ({low:+.3f} to {high:+.3f})",
    }


def _share(scores: Sequence[float]) -> str:
    from scipy.stats import binomtest  # noqa: PLC0415  (an extra)

    found = binomtest(int(sum(scores)), len(scores)).proportion_ci(method="wilson")
    return f"{fmean(scores):.3f} ({found.low:.3f} to {found.high:.3f})"


@tiny.command(epilog=examples("asd tiny evaluate --limit 100 --traces runs/test.jsonl"))
@click.option("--limit", type=int, default=1000, show_default=True, help="Questions of a dataset.")
@click.option("--batch", type=int, default=16, show_default=True)
@click.option("--traces", type=click.Path(path_type=Path), default=TRACES, show_default=True)
@click.option("--timed", type=int, default=24, show_default=True, help="Timed questions of a dataset.")
def evaluate(limit: int, batch: int, traces: Path, timed: int) -> None:
    """Accuracy, confidence and speed on held-out questions of split "test" (measured)."""
    from asd.tiny.evaluate import accuracy_by, ms_per_token  # noqa: PLC0415
    from asd.tiny.tasks import GRADED  # noqa: PLC0415

    ladder = Ladder.load("tiny")
    engines, workloads = open_quietly(ladder, "cpu"), find_workloads(workload_names())
    traces.parent.mkdir(parents=True, exist_ok=True)
    header = header_for(ladder, revisions(ladder), workloads, "test", runtimes(ladder, device="cpu"))
    with TraceLog(traces, header) as log:
        rows = answered(collect(workloads, engines, log, limit=limit, batch_size=batch))
    graded = [trace for trace in rows if trace.query.dataset in GRADED]
    _show(accuracy_by(rows, lambda query: query.tags["family"]))
    _show(accuracy_by(graded, lambda query: query.tags["level"]))
    _show_confidence(rows)
    speed = ms_per_token(engines, [q for w in find_workloads(GRADED) for q in w.queries("test", timed)])
    first = next(iter(speed.values()))
    _show([{"": f"stage {s}", "ms/token": ms, "ratio": ms / first} for s, ms in speed.items()])
    tqdm.write("provenance: measured, batch 1 for speed; accuracy and confidence at the batch size given")


def _show_confidence(rows: list[Trace]) -> None:
    from asd.tiny.evaluate import confidence  # noqa: PLC0415

    _show(
        [
            {
                "": f"stage {stage}",
                "n": r.n,
                "accuracy": r.base_rate,
                "AUROC": r.auroc,
                "Brier": r.brier,
                "calibration error": r.calibration_error,
            }
            for stage, r in confidence(rows).items()
        ]
    )


def _show(rows: Sequence[Mapping[str, object]]) -> None:
    click.echo(tabulate(rows, headers="keys", floatfmt=".3f") + "\n")
