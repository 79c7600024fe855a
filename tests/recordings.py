"""Recorded outcomes made up for tests: known signals, known prices, files on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asd.research.recordings.recording import Recording, read_recording

STAGES = ("small", "medium", "large")
QUALITY = (0.6, 0.75, 0.9)
COST = (1.0, 3.0, 10.0)


def records(
    n: int,
    seed: int = 0,
    *,
    stages: Sequence[str] = STAGES,
    quality: Sequence[float] = QUALITY,
    cost: Sequence[float] = COST,
    sharpness: Sequence[float] | float = 3.0,
    dataset: str = "made-up",
) -> list[dict[str, Any]]:
    """Queries of latent difficulty; a stage's confidence is its log-probability of being right, so blurred.

    Right answers agree. A stage of sharpness 0 has confidences and answers that say nothing.
    """
    rng = np.random.default_rng(seed)
    sharp = np.broadcast_to(np.asarray(sharpness, dtype=float), (len(stages),))
    found = []
    for i in range(n):
        difficulty, words = rng.normal(), int(rng.integers(3, 30))
        outputs = {}
        for k, stage in enumerate(stages):
            right = difficulty + 0.5 * rng.normal() < 2.5 * (quality[k] - 0.5)
            said = sharp[k] * (0.5 if right else -0.5) + rng.normal()
            outputs[stage] = {
                "score": int(right),
                "response": f"answer {i if right and sharp[k] else rng.integers(10_000, 10_005)}",
                "confidence": float(-np.log1p(np.exp(-said))),
                "cost": cost[k] * words / 16.5,
            }
        prompt = f"{seed} {i} " + "word " * words
        found.append({"id": f"q{i}", "dataset": dataset, "prompt": prompt, "outputs": outputs})
    return found


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """One line a record."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def recording(path: Path, rows: Sequence[dict[str, Any]], stages: Sequence[str] = STAGES) -> Recording:
    """The records, written and read again."""
    return read_recording([write(path, rows)], stages)
