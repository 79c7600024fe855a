"""Rows of recordings, made up or resampled, as many as are asked for."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from asd.schema import msgspec

__all__ = ["made_up", "models_of", "resampled", "write_rows"]


def write_rows(path: Path, rows: Iterator[dict[str, Any]], n: int) -> Path:
    """Write the first of them, one a line."""
    with path.open("wb") as file:
        file.writelines(msgspec.json.encode(next(rows)) + b"\n" for _ in range(n))
    return path


def made_up(n_models: int, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Queries without end: prompts of 10 to 99 random words, answers of 1 to 39; dearer models are better."""
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = ["".join(rng.choice(letters, size)) for size in rng.integers(2, 9, 5000)]
    number = 0
    while True:
        number += 1
        prompt, difficulty = _said(words, int(rng.integers(10, 100)), rng), rng.normal()
        outputs = {}
        for k, model in enumerate(models_of(None, n_models)):
            right = bool(difficulty + rng.normal() < 3.0 * k / n_models)
            outputs[model] = {
                "score": int(right),
                "response": _said(words, int(rng.integers(1, 40)), rng),
                "confidence": -float(rng.exponential(0.5 if right else 1.5)),
                "cost": 3.0**k * len(prompt),
            }
        yield {"id": str(number), "dataset": "made-up", "prompt": prompt, "outputs": outputs}


def _said(words: Sequence[str], n: int, rng: np.random.Generator) -> str:
    return " ".join(words[i] for i in rng.integers(0, len(words), n))


def resampled(path: Path, n_models: int, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Recorded rows without end, drawn with replacement; a number before the prompt keeps them apart."""
    models = models_of(path, n_models)
    rows = [row for row in _rows(path) if all(_is_scored(row, model) for model in models)]
    if not rows:
        raise click.ClickException(f"{path} has no row with a score of all of {', '.join(models)}")
    number = 0
    while True:
        number += 1
        row = rows[rng.integers(len(rows))]
        said = row.get("prompt") or row.get("question") or ""
        outputs = {model: row["outputs"][model] for model in models}
        yield {"id": str(number), "dataset": "resampled", "prompt": f"{number} {said}", "outputs": outputs}


def _is_scored(row: dict[str, Any], model: str) -> bool:
    return (row["outputs"].get(model) or {}).get("score") is not None


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        yield from (msgspec.json.decode(line) for line in file if line.strip())


def models_of(path: Path | None, n_models: int) -> list[str]:
    """Names of the first models on the file's first line, or made-up ones."""
    if path is None:
        return [f"m{k}" for k in range(n_models)]
    known = list(next(_rows(path))["outputs"])
    if len(known) < n_models:
        raise click.ClickException(f"{path} has {len(known)} models, not {n_models}: {', '.join(known)}")
    return known[:n_models]
