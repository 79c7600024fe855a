"""What it says of an answer that another model gave the same: by the texts, and by what the texts answer.

For every ordered pair of models on a set of recorded replies: the AUROC of "the other model's reply is the
same" as a predictor of the recorded score. Worked solutions are never the same text, so texts say nothing
there; their answers do. A reply that states no answer agrees with none.

Scope: recorded replies and scores (replayed); no model runs and nothing is fitted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import NamedTuple

import numpy as np

from asd.evidence.metrics import auroc
from asd.quality.answers import answer_of
from asd.research.recordings.agreement import LETTERS, NUMBERS, RecordedReply, replies
from asd.workloads.sources import Folder

__all__ = ["SETS", "Consensus", "consensus"]

SETS = (*NUMBERS, *LETTERS, "ladder_triviaqa", "ladder_truthfulqa")
"""Recorded replies of several models to the same questions, with texts and scores."""


@dataclass(frozen=True, slots=True)
class Consensus:
    """One set of recorded replies; means over ordered pairs of models.

    Attributes:
        name: Of the set.
        n_models: Whose replies are in it.
        n_questions: That are in it.
        share_unstated: Replies that state no answer.
        share_same_text: Pairs of replies that are the same text.
        share_same_answer: Pairs of replies that state the same answer.
        auroc_text: Of agreement by texts.
        auroc_answer: Of agreement by answers.
    """

    name: str
    n_models: int
    n_questions: int
    share_unstated: float
    share_same_text: float
    share_same_answer: float
    auroc_text: float
    auroc_answer: float


class _Said(NamedTuple):
    text: str
    answer: str | None
    score: float


class _PairAgreement(NamedTuple):
    same_text: float
    same_answer: float
    auroc_text: float
    auroc_answer: float


def consensus(data: Folder, sets: Sequence[str] | None = None) -> Iterator[Consensus]:
    """Sets of a folder, by default all, one after the other.

    Raises:
        DataError: A file is missing or damaged.
    """
    for name in SETS if sets is None else sets:
        by_model = _by_model(replies(data, name))
        pairs = np.array([pair for a, b in permutations(by_model.values(), 2) if (pair := _pair(a, b))])
        everything = [said for one in by_model.values() for said in one.values()]
        unstated = sum(said.answer is None for said in everything) / len(everything)
        questions = {question for one in by_model.values() for question in one}
        yield Consensus(name, len(by_model), len(questions), unstated, *pairs.mean(axis=0).tolist())


def _by_model(found: Iterable[RecordedReply]) -> Mapping[str, Mapping[str, _Said]]:
    by_model: defaultdict[str, dict[str, _Said]] = defaultdict(dict)
    for reply in found:
        answer = answer_of(reply.form, reply.text)
        by_model[reply.model][reply.id] = _Said(reply.text, answer, float(reply.recorded))
    return by_model


def _pair(own: Mapping[str, _Said], other: Mapping[str, _Said]) -> _PairAgreement | None:
    """Of the questions that both have replied to; None where all own answers are right or all wrong."""
    both = [(own[question], other[question]) for question in own if question in other]
    scores = np.array([a.score for a, _ in both])
    by_text = np.array([a.text == b.text for a, b in both], dtype=np.float64)
    by_answer = np.array([a.answer is not None and a.answer == b.answer for a, b in both], dtype=np.float64)
    of_text, of_answer = auroc(by_text, scores), auroc(by_answer, scores)
    if of_text is None or of_answer is None:
        return None
    return _PairAgreement(by_text.mean(), by_answer.mean(), of_text, of_answer)
