"""`asd assess`: recorded free texts against their references, by every metric of free text."""

from __future__ import annotations

import os
from pathlib import Path

import click
import msgspec
from tabulate import tabulate

from asd.cli.examples import examples
from asd.cli.options import split
from asd.measurement.files import write_atomically
from asd.quality.semantic import Encoder
from asd.research.recordings.assessment import Assessed, assess_recorded, means
from asd.workloads.catalogue import find_free_text

__all__ = ["assess"]


@click.command(
    epilog=examples(
        "asd assess traces.jsonl --dataset wmt22",
        "asd assess traces.jsonl --dataset wmt22 --encoder DIR --items items.jsonl",
    )
)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--dataset", required=True, help="Set or FILE.py whose answers these are; says what they are.")
@click.option("--models", help="Whose answers, separated by commas. [default: all]")
@click.option(
    "--encoder",
    type=click.Path(path_type=Path),
    help="Folder of a Hugging Face encoder, for BERTScore and coherence. [default: they are left out]",
)
@click.option("--items", type=click.Path(path_type=Path), help="Write one JSON line an answer.")
def assess(
    files: tuple[Path, ...], dataset: str, models: str | None, encoder: Path | None, items: Path | None
) -> None:
    """BLEU, ROUGE, BERTScore, coherence, form and their weighted mean of recorded free texts.

    FILES are those of `asd collect`, or outcomes of your own with `prompt`, `reference` and `response`. Tasks
    whose answers are right or wrong are refused: words in common decide nothing there.
    """
    workload = find_free_text(dataset)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # an encoder is a folder: nothing is fetched
    loaded = None if encoder is None else Encoder.load(encoder)
    rows = assess_recorded(files, workload, loaded, None if models is None else split(models))
    if items is not None:
        write_atomically(items, "".join(f"{_line(row)}\n" for row in rows))
    click.echo(tabulate(means(rows), headers="keys", floatfmt=".3f"))
    said = next((row.assessment for row in rows if row.assessment.scores), rows[0].assessment)
    click.echo("\nprovenance: replayed")
    for name, text in {**said.left_out, **said.signatures}.items():
        click.echo(f"{name}: {'left out, ' if name in said.left_out else ''}{text}")


def _line(row: Assessed) -> str:
    return msgspec.json.encode({"provenance": "replayed", **msgspec.to_builtins(row)}).decode()
