"""Ours: optimal stopping on the whole history of confidences and agreements, by regression.

A state is the set S of stages bought (at most `depth`), its evidence the features of `signals`. What
another stage's answer is worth beside the best one so far, r = E[score_j - score_ref | evidence], is the
difference of two small probabilities, that j is right where ref is wrong and the other way round: where
both are right, as on most rows, both are near 0, and their difference is known far better than two separate
success probabilities are. It is the mean of a logistic estimate on all features and, where one answer is in
hand, of an isotonic one on its signal alone (a threshold rule fitted on counts is just that).

Backward over the sets, with every r from folds that did not fit it:

    V_S = max{ lam max_{i in S} r_i,  max_{j not in S} [ lam r_j - c_j + E(what going on adds | evidence) ] }

the last term by ridge regression on what was realised on the rows (Longstaff and Schwartz 2001). Stages whose
removal costs nothing, by what was realised over a sweep of lam, can be removed: in longer walks a worthless
rung that is cheap is called whenever noise makes it look useful. None of it is exact; what it is worth is
read off rows that fitted nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from asd.research.folds import deal
from asd.research.offline.logistic import fit_folds, sigmoid
from asd.research.offline.policies import STOPS, Bought, RowActions
from asd.research.offline.signals import Signals
from asd.research.offline.texts import Texts
from asd.research.recordings.recording import Recording

__all__ = ["Stopping"]

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

_N_FOLDS = 5
_MOST_ROWS = 4000
"""More rows than this, evenly spaced, are not fitted on: a dozen weights do not need them."""
_TRIED = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
"""Where it is tried whether a stage can go."""


@dataclass(frozen=True, slots=True)
class Stopping:
    """Optimal stopping by regression; see the module.

    Attributes:
        depth: Most stages bought for one query.
        strength: Penalty of the logistic gains.
        ridge: Penalty of the continuation values.
        isotonic: Whether gains are averaged with isotonic ones where there is one answer.
        prune: Whether idle stages are removed; with two calls at most they do no harm, with more they do.
        words: Whether the words of prompts and answers are evidence too (`texts`).
        name: In tables.
    """

    depth: int = 2
    strength: float = 1.0
    ridge: float = 20.0
    isotonic: bool = True
    prune: bool = False
    words: bool = False
    name: str = "stopping"

    def fit(self, train: Recording) -> FittedStopping:
        """Fit gains and prices; continuation values are fitted for every lam asked for."""
        train = train.thinned(_MOST_ROWS)
        signals = Signals.fit(train)
        numbers = signals.signals(train)
        texts = Texts.fit(train) if self.words else None
        words = None if texts is None else texts.held_out
        n_stages = len(train.stages)
        sets = [s for size in range(self.depth + 1) for s in combinations(range(n_stages), size)]
        folds = deal(len(train), _N_FOLDS)
        seen = _EvidenceRows(train, signals, numbers, words)
        states = {s: _FittedState.fit(self, seen, s, folds) for s in sets}
        priced = _Rows(train.scores.T, train.costs.T / signals.unit, signals.costs(train).T)
        rows = _Rows(*map(np.ascontiguousarray, priced))
        everything = FittedStopping(self, rows, signals, texts, states, tuple(range(n_stages)))
        return replace(everything, kept=_kept(everything)) if self.prune else everything


class _EvidenceRows(NamedTuple):
    """Rows, a number a stage, and what their words say."""

    rows: Recording
    signals: Signals
    numbers: Array
    words: Array | None

    def features(self, bought: Bought) -> Array:
        """Evidence in a state, the last column constant, shape (n, d)."""
        x = self.signals.features(self.rows, self.numbers, bought)
        if self.words is None:
            return x
        return np.concatenate([self.words[:, [0, *(1 + k for k in bought)]], x], axis=1)


class _Gains(NamedTuple):
    """How much better every stage's answer is than the reference's, fitted: weights and isotonic maps."""

    better: Array
    worse: Array
    isotonic: tuple[tuple[Array, Array], ...]

    def __call__(self, x: Array, signal: Array) -> Array:
        gains = sigmoid(x @ self.better) - sigmoid(x @ self.worse)
        if not self.isotonic:
            return np.asarray(gains)
        steps = [np.interp(signal, knots, heights) for knots, heights in self.isotonic]
        return np.asarray((gains + np.stack(steps, axis=1)) / 2.0)


@dataclass(frozen=True, slots=True, eq=False)
class _FittedState:
    """One set of stages on the rows fitted on.

    Attributes:
        bought: The set.
        reference: The stage that gains are counted from.
        gains: Of every stage, for other rows.
        out_of_fold: The same on the rows fitted on, fitted without their fold, shape (n, K).
        in_hand: Gain and score of the best answer there, shape (2, n); minus infinity and 0 of none.
        regress: On the evidence.
    """

    bought: Bought
    reference: int
    gains: _Gains
    out_of_fold: Array
    in_hand: Array
    regress: _Regression

    @classmethod
    def fit(cls, how: Stopping, seen: _EvidenceRows, bought: Bought, folds: Index) -> _FittedState:
        scores, numbers = seen.rows.scores, seen.numbers
        best = scores.mean(axis=0)
        reference = max(bought or range(len(best)), key=lambda k: float(best[k]))
        x = seen.features(bought)
        more = scores - scores[:, [reference]]
        signal = numbers[:, reference] if how.isotonic and len(bought) == 1 else None
        fitted = _fit_gains(x, signal, more, folds, how.strength)
        out_of_fold = np.empty_like(more)
        for fold, gains in enumerate(fitted[1:]):
            held_out = folds == fold
            out_of_fold[held_out] = gains(x[held_out], numbers[held_out, reference])
        in_hand = np.stack([np.full(len(x), -np.inf), np.zeros(len(x))])
        if bought:
            at = np.arange(len(x)), _best_of(out_of_fold, bought)
            in_hand = np.stack([out_of_fold[at], scores[at]])
        regress = _Regression.of(x, folds, how.ridge)
        return cls(bought, reference, fitted[0], out_of_fold, in_hand, regress)


def _fit_gains(x: Array, signal: Array | None, more: Array, folds: Index, strength: float) -> list[_Gains]:
    """On all rows, then without each fold in turn."""
    targets = np.concatenate([np.maximum(more, 0.0), np.maximum(-more, 0.0)], axis=1)
    fits = fit_folds(x, targets, folds, strength)
    seen = [np.ones(len(x), dtype=bool), *(folds != fold for fold in range(_N_FOLDS))]
    steps = [() if signal is None else _isotonic(signal[rows], more[rows]) for rows in seen]
    parts = [np.split(weights, 2, axis=1) for weights in fits]
    return [_Gains(better, worse, step) for (better, worse), step in zip(parts, steps, strict=True)]


def _isotonic(signal: Array, more: Array) -> tuple[tuple[Array, Array], ...]:
    """Gain of every stage, non-increasing in the signal: knots and heights."""
    from scipy.optimize import isotonic_regression  # noqa: PLC0415 - takes half a second

    knots, row, counts = np.unique(signal, return_inverse=True, return_counts=True)
    means = np.stack([np.bincount(row, column) for column in more.T]) / counts
    fits = [isotonic_regression(mean, weights=counts, increasing=False) for mean in means]
    return tuple((knots, fit.x) for fit in fits)


class _Regression(NamedTuple):
    """Ridge regression of anything on a state's evidence: all but the targets is worked out beforehand.

    Attributes:
        x: Evidence, shape (n, d).
        folds: Rows of every fold.
        inverse: Of the penalised Gram matrix of all rows, shape (d, d).
        without: The same without each fold, shape (folds, d, d).
    """

    x: Array
    folds: tuple[Index, ...]
    inverse: Array
    without: Array

    @classmethod
    def of(cls, x: Array, folds: Index, strength: float) -> _Regression:
        rows = tuple(np.flatnonzero(folds == fold) for fold in range(_N_FOLDS))
        grams = np.stack([x[own].T @ x[own] for own in rows])
        total = grams.sum(axis=0) + strength * np.eye(x.shape[1])
        return cls(x, rows, np.linalg.inv(total), np.linalg.inv(total - grams))

    def __call__(self, y: Array) -> tuple[Array, Array]:
        """Of targets of shape (n, t): predictions for rows it did not see, and the weights on all, (d, t)."""
        by_fold = np.stack([self.x[own].T @ y[own] for own in self.folds])
        total = by_fold.sum(axis=0)
        held_out = np.empty_like(y)
        for own, weights in zip(self.folds, self.without @ (total - by_fold), strict=True):
            held_out[own] = self.x[own] @ weights
        return held_out, np.asarray(self.inverse @ total)


class _ContinuationValues(NamedTuple):
    """Continuation values at one lam.

    Attributes:
        weights: By state, of every stage that may be called next, in order, shape (d, stages).
        realised: What the rows came to from the root.
    """

    weights: Mapping[Bought, Array]
    realised: Array


class _Rows(NamedTuple):
    """Of the rows fitted on, by stage: scores, costs and what a call was expected to cost, shape (K, n)."""

    scores: Array
    costs: Array
    expected: Array


@dataclass(slots=True, eq=False)
class FittedStopping:
    """Gains and prices, and a plan for every lam asked for so far."""

    how: Stopping
    rows: _Rows
    signals: Signals
    texts: Texts | None
    states: Mapping[Bought, _FittedState]
    kept: Bought
    _plans: dict[float, _ContinuationValues] = field(default_factory=dict, init=False)

    def on(self, rows: Recording) -> _StoppingSight:
        """Look at rows, of the same stages in the same order."""
        return _StoppingSight(self, rows)

    def plan(self, lam: float) -> _ContinuationValues:
        """Backward induction over the sets, smallest last."""
        if lam not in self._plans:
            self._plans[lam] = self.solve(lam, self.kept)
        return self._plans[lam]

    def solve(self, lam: float, kept: Bought) -> _ContinuationValues:
        """The recursion on some of the stages."""
        realised: dict[Bought, Array] = {}
        weights: dict[Bought, Array] = {}
        for bought in sorted((s for s in self.states if set(s) <= set(kept)), key=len, reverse=True):
            state, going = self.states[bought], self.open_at(bought, kept)
            stop, worth = lam * state.in_hand
            if going:
                after = np.stack([realised[tuple(sorted((*bought, j)))] for j in going])
                values = lam * state.out_of_fold.T[going] - self.rows.expected[going]
                if len(bought) + 1 < self.how.depth:
                    held_out, weights[bought] = state.regress((after - lam * self.rows.scores[going]).T)
                    values += held_out.T
                best = np.concatenate([stop[None], values]).argmax(axis=0)
                worths = np.concatenate([worth[None], after - self.rows.costs[going]])
                worth = np.take_along_axis(worths, best[None], axis=0)[0]
            realised[bought] = worth
        return _ContinuationValues(weights, realised[()])

    def open_at(self, bought: Bought, kept: Bought) -> list[int]:
        """Stages that may be called next."""
        return [] if len(bought) == self.how.depth else [j for j in kept if j not in bought]


def _kept(fitted: FittedStopping) -> Bought:
    """Stages without those whose removal costs nothing on out-of-fold rows, the idlest first."""

    def worth(stages: Bought) -> float:
        return sum(float(fitted.solve(lam, stages).realised.mean()) / (1.0 + lam) for lam in _TRIED)

    kept = fitted.kept
    best = worth(kept)
    while len(kept) > 1:
        found, fewer = max((worth(fewer), fewer) for fewer in combinations(kept, len(kept) - 1))
        if found < best:
            break
        kept, best = fewer, found
    return kept


def _best_of(gains: Array, bought: Bought) -> Index:
    return np.asarray(np.array(bought)[gains[:, list(bought)].argmax(axis=1)], dtype=np.intp)


@dataclass(eq=False)
class _StoppingSight:
    """Gains on other rows, worked out for a state when it is first met."""

    fitted: FittedStopping
    rows: Recording

    def __post_init__(self) -> None:
        self._known: dict[Bought, tuple[Array, Array]] = {}

    @cached_property
    def seen(self) -> _EvidenceRows:
        fitted, rows = self.fitted, self.rows
        words = None if fitted.texts is None else fitted.texts.on(rows)
        return _EvidenceRows(rows, fitted.signals, fitted.signals.signals(rows), words)

    @cached_property
    def expected(self) -> Array:
        return self.fitted.signals.costs(self.rows)

    def choose(self, lam: float, bought: Bought, index: Index) -> RowActions:
        """Compare stopping with every stage that is left."""
        x, gains = (part[index] for part in self._evidence(bought))
        going = self.fitted.open_at(bought, self.fitted.kept)
        answer, stop = np.zeros(len(index), dtype=np.intp), np.full(len(index), -np.inf)
        if bought:
            answer = _best_of(gains, bought)
            stop = lam * gains[np.arange(len(index)), answer]
        values = lam * gains[:, going] - self.expected[index[:, None], going]
        weights = self.fitted.plan(lam).weights
        if bought in weights:
            values += x @ weights[bought]
        best = np.concatenate([stop[:, None], values], axis=1).argmax(axis=1)
        return RowActions(np.array([STOPS, *going])[best], answer)

    def _evidence(self, bought: Bought) -> tuple[Array, Array]:
        if bought not in self._known:
            state = self.fitted.states[bought]
            x = self.seen.features(bought)
            self._known[bought] = x, state.gains(x, self.seen.numbers[:, state.reference])
        return self._known[bought]
