"""The taxonomy, learned: one linear classifier a dimension over hashed words and the published text features.

    score_label = bias + w_words @ tfidf + w_features @ features,      the label with the largest score

Fitted by ridge regression on one-against-rest targets with balanced classes; kept as JSON. Scope: labels
are given (`asd.research.predictors.labels` derives them from real sets); no fitted model ships with the
package, because the sets at hand are public test sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from asd.errors import DataError
from asd.evidence.prompt.published import text_features
from asd.evidence.prompt.semantics import N_BUCKETS, count_words
from asd.measurement.files import read_record, write_record
from asd.measurement.records import Record

__all__ = ["Classifier", "LearnedTaxonomy", "fit_classifier"]

Array = npt.NDArray[np.float64]

N_TEXT = 21
ALPHA = 1.0


class Classifier(Record, frozen=True, kw_only=True):
    """One dimension.

    Attributes:
        labels: The classes, at least two.
        weights: By label, `N_BUCKETS` for words and then `N_TEXT` for text features.
        biases: By label.
    """

    labels: tuple[str, ...]
    weights: tuple[tuple[float, ...], ...]
    biases: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.labels) < 2 or not len(self.labels) == len(self.weights) == len(self.biases):
            raise DataError(f"a classifier of labels {self.labels} has {len(self.weights)} rows of weights")
        if {len(row) for row in self.weights} != {N_BUCKETS + N_TEXT}:
            raise DataError(f"every label needs {N_BUCKETS + N_TEXT} weights; fit the taxonomy again")

    def classify(self, prompts: Sequence[str]) -> list[str]:
        """The label of every prompt."""
        weights, counts = np.array(self.weights).T, count_words(prompts)
        scores = np.zeros((len(prompts), len(self.labels)))
        norms = np.sqrt(np.bincount(counts.row, counts.tf**2, len(prompts)))
        np.add.at(scores, counts.row, (counts.tf / norms[counts.row])[:, None] * weights[counts.bucket])
        scores += _squashed(prompts) @ weights[N_BUCKETS:] + np.array(self.biases)
        return [self.labels[i] for i in scores.argmax(axis=1)]


class LearnedTaxonomy(Record, frozen=True, kw_only=True):
    """Classifiers by dimension ("domain", "complexity", "load", "code_generation", ...)."""

    format: Literal["asd-taxonomy"] = "asd-taxonomy"
    schema_version: Literal[1] = 1
    dimensions: dict[str, Classifier]

    def classify(self, prompts: Sequence[str]) -> Mapping[str, list[str]]:
        """Labels of every prompt, by dimension."""
        return {dimension: fitted.classify(prompts) for dimension, fitted in self.dimensions.items()}

    def save(self, path: str | Path) -> None:
        """Write the file in one step; `StorageError` where that fails."""
        write_record(path, self)

    @classmethod
    def load(cls, path: str | Path) -> LearnedTaxonomy:
        """Read a file; `DataError` where it is missing or broken."""
        return read_record(path, cls)


def fit_classifier(prompts: Sequence[str], labels: Sequence[str]) -> Classifier:
    """Ridge on one-against-rest targets.

    Raises:
        DataError: Fewer than two different labels.
    """
    from scipy.sparse import csr_array, hstack  # noqa: PLC0415 - needed when fitting only
    from sklearn.linear_model import RidgeClassifier  # noqa: PLC0415
    from sklearn.preprocessing import normalize  # noqa: PLC0415

    distinct = sorted(set(labels))
    if len(distinct) < 2:
        raise DataError(f"{len(labels)} prompts all have the label {distinct}; nothing is to be learned")
    counts = count_words(prompts)
    words = csr_array((counts.tf, (counts.row, counts.bucket)), shape=(len(prompts), N_BUCKETS))
    rows = hstack([normalize(words), csr_array(_squashed(prompts))]).tocsr()
    fitted = RidgeClassifier(ALPHA, class_weight="balanced", solver="sparse_cg").fit(rows, list(labels))
    weights, biases = np.atleast_2d(fitted.coef_), np.atleast_1d(fitted.intercept_)
    if len(distinct) == 2:  # scikit-learn keeps one row of weights for two classes
        weights, biases = np.vstack([-weights, weights]), np.concatenate([-biases, biases])
    return Classifier(
        labels=tuple(map(str, fitted.classes_)),
        weights=tuple(map(tuple, weights.round(6).tolist())),
        biases=tuple(biases.tolist()),
    )


def _squashed(prompts: Sequence[str]) -> Array:
    """Text features on a scale of about one: counts by their logarithm."""
    return np.asarray(np.log1p(text_features(prompts)) / 4.0)
