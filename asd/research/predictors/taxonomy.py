"""How well the taxonomy is known: learned classifiers and keyword rules on subjects that were held out.

Folds are of whole groups (a subject of MMLU, a task of BBH, an exam of ARC), so a classifier never saw a
prompt of the subject it is judged on. Where a label exists within one group only (steps: GSM8K), folds are of
prompts, and the row says so. Beside both stands the majority class. Scope: evaluation and fitting on
given labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from asd.errors import DataError
from asd.evidence.crossfit import assign_folds
from asd.evidence.prompt.taxonomy import classify
from asd.evidence.prompt.taxonomy_model import LearnedTaxonomy, fit_classifier
from asd.research.predictors.labels import DIMENSIONS, Labelled

__all__ = ["Accuracy", "DimensionResult", "evaluate_taxonomy", "fit_taxonomy"]

N_FOLDS = 5
MOST = 100


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Share right, mean F1 over classes, and Cohen's kappa."""

    accuracy: float
    macro_f1: float
    kappa: float


@dataclass(frozen=True, slots=True)
class DimensionResult:
    """One dimension on held-out rows.

    Attributes:
        dimension: Its name.
        n: Prompts with a label.
        n_groups: Groups they are from.
        n_classes: Different labels.
        held_out: What folds are of, "groups" or "prompts".
        majority: Always the most frequent label of the other folds.
        rule: `asd.evidence.prompt.taxonomy.classify`.
        learned: A classifier fitted on the other folds.
    """

    dimension: str
    n: int
    n_groups: int
    n_classes: int
    held_out: str
    majority: Accuracy
    rule: Accuracy
    learned: Accuracy


def evaluate_taxonomy(
    items: Sequence[Labelled], *, seed: int, dimensions: Sequence[str] = DIMENSIONS
) -> list[DimensionResult]:
    """Each dimension on the items that have its label.

    Raises:
        DataError: A dimension has no label among the items, or only one.
    """
    return [_evaluate(dimension, items, seed) for dimension in dimensions]


def fit_taxonomy(items: Sequence[Labelled]) -> LearnedTaxonomy:
    """Classifiers of all dimensions, on all items."""
    dimensions = {}
    for dimension in DIMENSIONS:
        known = _labelled(dimension, items)
        dimensions[dimension] = fit_classifier(
            [item.prompt for item in known], [item.labels[dimension] for item in known]
        )
    return LearnedTaxonomy(dimensions=dimensions)


def _labelled(dimension: str, items: Sequence[Labelled]) -> list[Labelled]:
    """The items with a label; of many groups, the first `MOST` of each, so that none outweighs the rest."""
    every = [item for item in items if dimension in item.labels]
    seen: Counter[str] = Counter()
    known = []
    for item in every:
        seen[item.group] += 1
        if seen[item.group] <= MOST:
            known.append(item)
    if len(seen) < N_FOLDS:
        known = every
    if len({item.labels[dimension] for item in known}) < 2:
        raise DataError(f"dimension {dimension!r} needs two labels, {len(known)} prompts have one")
    return known


def _evaluate(dimension: str, items: Sequence[Labelled], seed: int) -> DimensionResult:
    known = _labelled(dimension, items)
    prompts = np.array([item.prompt for item in known], dtype=object)
    truth = np.array([item.labels[dimension] for item in known])
    groups = [item.group for item in known]
    by_group = len(set(groups)) >= N_FOLDS
    folds = assign_folds(groups if by_group else prompts.tolist(), N_FOLDS, seed)
    learned, majority = np.empty_like(truth), np.empty_like(truth)
    for fold in np.unique(folds):
        out = folds == fold
        fitted = fit_classifier(prompts[~out].tolist(), truth[~out].tolist())
        learned[out] = fitted.classify(prompts[out].tolist())
        labels, counts = np.unique(truth[~out], return_counts=True)
        majority[out] = labels[counts.argmax()]
    rule = np.array([str(getattr(classify(prompt), dimension)) for prompt in prompts])
    return DimensionResult(
        dimension=dimension,
        n=len(known),
        n_groups=len(set(groups)),
        n_classes=len(set(truth)),
        held_out="groups" if by_group else "prompts",
        majority=_accuracy(truth, majority),
        rule=_accuracy(truth, rule),
        learned=_accuracy(truth, learned),
    )


def _accuracy(truth: npt.NDArray[np.str_], said: npt.NDArray[np.str_]) -> Accuracy:
    """F1 is averaged over the classes that occur in the truth."""
    from sklearn.metrics import cohen_kappa_score, f1_score  # noqa: PLC0415 - needed when evaluating only

    return Accuracy(
        float(np.mean(truth == said)),
        float(f1_score(truth, said, average="macro", labels=np.unique(truth), zero_division=0.0)),
        float(cohen_kappa_score(truth, said)),
    )
