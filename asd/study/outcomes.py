"""Recorded outcomes as one table: prompts, scores, costs and what each answer says about itself.

Reads the record format of public outcome files (one query a line, `outputs` by model; `.gz` is unpacked) and
this package's own traces. Nothing is made up: rows that lack a score are counted and left out, a cost that
was not recorded has to be declared. The border: reading only; nothing is fitted.
"""

from __future__ import annotations

import gzip
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from asd.errors import ConfigError, DataError
from asd.evidence.features import ANSWER_FEATURES, answer_features
from asd.ladder import Ladder
from asd.types import Trace

__all__ = ["RECORDED_ANSWER", "Outcomes", "from_traces", "read_outcomes"]

Array = npt.NDArray[np.float64]

RECORDED_ANSWER = ("confidence", "has_confidence", "log_length", "agreement")
"""What a recorded answer says: its raw confidence (0 where none was recorded), whether one was, log(1 +
length) in tokens or else characters, and the share of smaller stages with the same answer (0 for the
smallest)."""

_MARKED = re.compile(r"####\s*(.+)")


@dataclass(frozen=True, slots=True, eq=False)
class Outcomes:
    """n queries on K stages.

    Attributes:
        stages: In ladder order.
        prompts: One a query.
        scores: Quality in [0, 1], shape (n, K).
        costs: In units of the largest stage's mean, shape (n, K).
        answers: Features of the answers, shape (n, K, d).
        n_left_out: Queries without a score of every stage.
    """

    stages: tuple[str, ...]
    prompts: tuple[str, ...]
    scores: Array
    costs: Array
    answers: Array
    n_left_out: int


def read_outcomes(
    paths: Sequence[Path], stages: Sequence[str], costs: Sequence[float] | None = None
) -> Outcomes:
    """Queries of one or more files, on the stages named.

    Args:
        paths: Files of the record format, JSON lines, gzipped if they end in ".gz".
        stages: Names of models in the files, cheapest first.
        costs: Declared cost of each stage, any unit; None: as recorded.

    Raises:
        DataError: A file is missing, broken or lacks a stage, or has no recorded cost and none is declared.
        ConfigError: Stages are named twice, or costs do not pair up with stages.
    """
    if len(set(stages)) < len(stages) or len(stages) < 2:
        raise ConfigError(f"name at least two different stages, got {list(stages)}")
    if costs is not None and (len(costs) != len(stages) or min(costs) <= 0.0):
        raise ConfigError(f"declare one positive cost a stage, got {list(costs)} for {list(stages)}")
    records = [(path, record) for path in paths for record in _records(path)]
    scored = [(path, record) for path, record in records if _is_scored(path, record, stages)]
    if not scored:
        raise DataError(f"no query in {', '.join(map(str, paths))} is scored on all of {', '.join(stages)}")
    outputs = [[record["outputs"][stage] for stage in stages] for _, record in scored]
    raw = [
        [_cost(o, s, costs, k) for k, (o, s) in enumerate(zip(row, stages, strict=True))] for row in outputs
    ]
    priced = np.array(raw, dtype=np.float64)
    return Outcomes(
        stages=tuple(stages),
        prompts=tuple(_prompt(record) for _, record in scored),
        scores=np.array([[output["score"] for output in row] for row in outputs], dtype=np.float64),
        costs=priced / priced[:, -1].mean(),
        answers=np.array([_answers(row) for row in outputs], dtype=np.float64),
        n_left_out=len(records) - len(scored),
    )


def from_traces(traces: Sequence[Trace], ladder: Ladder) -> Outcomes:
    """The same table from own traces: per-token features of each answer, and agreement with smaller stages.

    Raises:
        DataError: No query is scored on every stage.
    """
    stages = tuple(stage.name for stage in ladder.stages)
    scored = [t for t in traces if all(s in t.outcomes and t.outcomes[s].score is not None for s in stages)]
    if not scored:
        raise DataError(f"no trace is scored on all of {', '.join(stages)}")
    drafts = [[trace.outcomes[stage].draft for stage in stages] for trace in scored]
    agreements = [_agreements([draft.text for draft in row]) for row in drafts]
    costs = np.array(
        [[s.prices.cost(d.usage) for s, d in zip(ladder.stages, row, strict=True)] for row in drafts]
    )
    answers = [
        [(*answer_features(draft), agreed) for draft, agreed in zip(row, agreement, strict=True)]
        for row, agreement in zip(drafts, agreements, strict=True)
    ]
    return Outcomes(
        stages=stages,
        prompts=tuple(trace.query.prompt for trace in scored),
        scores=np.array([[t.outcomes[s].score for s in stages] for t in scored], dtype=np.float64),
        costs=costs / costs[:, -1].mean(),
        answers=np.array(answers).reshape(len(scored), len(stages), len(ANSWER_FEATURES) + 1),
        n_left_out=len(traces) - len(scored),
    )


def _records(path: Path) -> list[dict[str, Any]]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return [msgspec.json.decode(line, type=dict[str, Any]) for line in file]
    except (OSError, EOFError, msgspec.DecodeError) as error:
        raise DataError(f"cannot read outcomes from {path}: {error}") from error


def _is_scored(path: Path, record: Mapping[str, Any], stages: Sequence[str]) -> bool:
    outputs = record.get("outputs", {})
    for stage in stages:
        if stage not in outputs:
            raise DataError(
                f"{path}, query {record.get('id')!r}: no outcome of {stage!r}, only {sorted(outputs)}"
            )
    return all(outputs[stage].get("score") is not None for stage in stages)


def _cost(output: Mapping[str, Any], stage: str, costs: Sequence[float] | None, k: int) -> float:
    if costs is not None:
        return costs[k]
    if output.get("cost") is None:
        raise DataError(
            f"the cost of stage {stage!r} was not recorded; declare costs, as in --costs 1,4.5,10"
        )
    return float(output["cost"])


def _prompt(record: Mapping[str, Any]) -> str:
    """What the models were asked, or the question and its options."""
    prompt = record.get("question") or record["prompt"]
    return "\n".join([prompt, *map(str, record.get("options", ()))])


def _answers(outputs: Sequence[Mapping[str, Any]]) -> list[tuple[float, ...]]:
    """`RECORDED_ANSWER` of every stage's answer to one query."""
    agreements = _agreements([_answer(output) for output in outputs])
    rows: list[tuple[float, ...]] = []
    for output, agreement in zip(outputs, agreements, strict=True):
        confidence = output.get("confidence")
        length = output.get("tokens_out") or output.get("response_chars") or len(output.get("response") or "")
        rows.append((confidence or 0.0, float(confidence is not None), math.log1p(length), agreement))
    return rows


def _answer(output: Mapping[str, Any]) -> str:
    """The answer extracted upstream, or what follows the last "####", or the whole response."""
    if "answer" in output:
        return str(output["answer"])
    response = str(output.get("response") or "")
    marked = _MARKED.findall(response)
    return (marked[-1] if marked else response).strip().lower()


def _agreements(answers: Sequence[str]) -> list[float]:
    """Share of earlier answers that equal each answer."""
    return [answers[:k].count(answer) / max(1, k) for k, answer in enumerate(answers)]
