"""The 31 published features of a prompt and a stage, in six groups; `asd evidence features` prints the table.

    basic 6, linguistic 6, semantic 5, task indicators 5, complexity 4      of the prompt
    stage 5                                                                 of the stage that is asked

The study gives names, not formulas; the formulas are ours, are listed in `FEATURES`, and count English words
(`asd.evidence.prompt.lexicon`). Its stage one-hot ("stage_13b", "stage_34b", "stage_70b") is first / middle
/ last here, so that it fits every ladder. Scope: only the prompt is read. An empty prompt is all zeros.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from asd.errors import ConfigError
from asd.evidence.prompt.complexity import complexity_score
from asd.evidence.prompt.lexicon import CONJUNCTIONS, FUNCTION_WORDS, QUESTION_WORDS, TASK_WORDS, TECHNICAL
from asd.evidence.prompt.semantics import N_DIMS, Projection

__all__ = ["FEATURES", "N_PROMPT", "Feature", "at_stage", "published_features", "text_features"]

Array = npt.NDArray[np.float64]


class Feature(NamedTuple):
    """One published feature: its name, its group, and what it is here."""

    name: str
    group: str
    meaning: str


_BASIC = (
    Feature("word_count", "basic", "runs of letters, digits and apostrophes"),
    Feature("sentence_count", "basic", "runs of . ! ? before a space or the end; 1 where there is none"),
    Feature("character_count", "basic", "characters"),
    Feature("avg_words_per_sentence", "basic", "word_count / sentence_count"),
    Feature("avg_chars_per_word", "basic", "characters of words / word_count"),
    Feature("vocab_diversity", "basic", "different words, ignoring case / word_count"),
)
_LINGUISTIC = (
    Feature("is_question", "linguistic", "1 if a question mark occurs or the first word is a question word"),
    Feature("question_word_count", "linguistic", "how, what, when, where, which, who, whom, whose, why"),
    Feature("complexity_score", "linguistic", "the published router score (asd.evidence.prompt.complexity)"),
    Feature("technical_count", "linguistic", "words of a technical vocabulary"),
    Feature("punct_count", "linguistic", "characters that are neither letter, digit, underscore nor space"),
    Feature("multiline_indicator", "linguistic", "1 if there is a line break"),
)
_SEMANTIC = tuple(
    Feature(f"semantic_dim{i + 1}", "semantic", "latent semantic analysis (asd.evidence.prompt.semantics)")
    for i in range(N_DIMS)
)
_TASKS = ("math", "code", "factual", "creative", "reasoning")
_INDICATORS = tuple(
    Feature(f"{task}_score", "task indicators", f"share of words in the {task} vocabulary") for task in _TASKS
)
_COMPLEXITY = (
    Feature("long_word_ratio", "complexity", "share of words longer than six characters"),
    Feature("conjunction_count", "complexity", "conjunctions"),
    Feature("info_density", "complexity", "different words that are no function words / word_count"),
    Feature("text_entropy", "complexity", "entropy of the UTF-8 bytes, bits"),
)
_STAGE = (
    Feature("stage_first", "stage", "1 for the smallest stage (published: stage_13b)"),
    Feature("stage_middle", "stage", "1 for a stage that is neither smallest nor largest (stage_34b)"),
    Feature("stage_last", "stage", "1 for the largest stage (stage_70b)"),
    Feature("stage_raw", "stage", "position in the ladder, from 0"),
    Feature("stage_normalized", "stage", "position / last position"),
)
FEATURES: tuple[Feature, ...] = (*_BASIC, *_LINGUISTIC, *_SEMANTIC, *_INDICATORS, *_COMPLEXITY, *_STAGE)
"""All 31, in the order of the columns."""

N_PROMPT = len(FEATURES) - len(_STAGE)
"""How many of them are of the prompt."""

_N_BEFORE_SEMANTIC = len(_BASIC) + len(_LINGUISTIC)
_WORD = re.compile(r"\w+(?:'\w+)?")
_SENTENCE_END = re.compile(r"[.!?]+(?=\s|$)")
_PUNCTUATION = re.compile(r"[^\w\s]")
_CHUNK = 1024
"""Prompts whose byte histograms are held at once."""


def published_features(prompts: Sequence[str], semantics: Projection) -> Array:
    """The features of the prompts, in the order of `FEATURES`, shape (n, N_PROMPT)."""
    text = text_features(prompts)
    before, after = text[:, :_N_BEFORE_SEMANTIC], text[:, _N_BEFORE_SEMANTIC:]
    return np.hstack([before, semantics(prompts), after])


def at_stage(features: Array, stage: int, n_stages: int) -> Array:
    """The features of prompts with those of one stage, shape (n, 31).

    Args:
        features: As from `published_features`, shape (n, N_PROMPT).
        stage: Position in the ladder, from 0.
        n_stages: Of the ladder.

    Raises:
        ConfigError: The ladder has no such stage.
    """
    if not 0 <= stage < n_stages:
        raise ConfigError(f"stage {stage} is not in a ladder of {n_stages}; count from 0")
    last = n_stages - 1
    of_stage = (stage == 0, 0 < stage < last, stage == last, stage, stage / max(1, last))
    return np.hstack([features, np.tile(np.array(of_stage, dtype=np.float64), (len(features), 1))])


def text_features(prompts: Sequence[str]) -> Array:
    """All features of the prompts but the semantic ones, in order, shape (n, 21)."""
    words = [_WORD.findall(prompt.lower()) for prompt in prompts]
    w = _count_words(words)
    sentences = np.array([len(_SENTENCE_END.findall(prompt)) for prompt in prompts])
    sentences = np.maximum(sentences, np.minimum(w.words, 1.0))
    asks = [bool(found) and found[0] in QUESTION_WORDS for found in words]
    n = np.maximum(w.words, 1.0)
    columns = (
        w.words, sentences, list(map(len, prompts)), w.words / np.maximum(sentences, 1.0), w.letters / n,
        w.distinct / n,
        [a or "?" in prompt for a, prompt in zip(asks, prompts, strict=True)], w.question_words,
        list(map(complexity_score, prompts)), w.technical,
        [len(_PUNCTUATION.findall(prompt)) for prompt in prompts], ["\n" in prompt for prompt in prompts],
        w.math / n, w.code / n, w.factual / n, w.creative / n, w.reasoning / n,
        w.long / n, w.conjunctions, w.content / n, _byte_entropy(prompts),
    )  # fmt: skip
    return np.column_stack([np.asarray(column, dtype=np.float64) for column in columns])


class _PromptWords(NamedTuple):
    """Counts of words by prompt, each of shape (n,); `distinct` and `content` count a word once."""

    words: Array
    letters: Array
    long: Array
    question_words: Array
    technical: Array
    conjunctions: Array
    math: Array
    code: Array
    factual: Array
    creative: Array
    reasoning: Array
    distinct: Array
    content: Array


_N_PER_WORD = _PromptWords._fields.index("distinct")


def _count_words(words: Sequence[Sequence[str]]) -> _PromptWords:
    """Every different word is looked at once; the rest is sums over its occurrences."""
    n = len(words)
    seen: dict[str, int] = {}
    ids = np.array([seen.setdefault(word, len(seen)) for found in words for word in found], dtype=np.intp)
    row = np.repeat(np.arange(n), list(map(len, words)))
    of_word = np.array(list(map(_describe, seen)), dtype=np.float64).reshape(len(seen), _N_PER_WORD)
    once = list(map(set, words))  # in half of the time that np.unique takes
    row_once = np.repeat(np.arange(n), list(map(len, once)))
    id_once = np.array([seen[word] for found in once for word in found], dtype=np.intp)
    content = np.array([word not in FUNCTION_WORDS for word in seen], dtype=np.float64)
    totals = [np.bincount(row, weights, n) for weights in of_word[ids].T]
    totals += [np.bincount(row_once, minlength=n), np.bincount(row_once, content[id_once], n)]
    return _PromptWords._make(np.asarray(total, dtype=np.float64) for total in totals)


@lru_cache(maxsize=1 << 16)
def _describe(word: str) -> tuple[float, ...]:
    """What one occurrence adds to the counts, in the order of `_PromptWords` up to `distinct`."""
    return (
        1,
        len(word),
        len(word) > 6,
        word in QUESTION_WORDS,
        word in TECHNICAL,
        word in CONJUNCTIONS,
        *(word in TASK_WORDS[task] for task in _TASKS),
    )


def _byte_entropy(prompts: Sequence[str]) -> Array:
    """Shannon entropy of each prompt's bytes in bits, shape (n,); 0 for an empty one."""
    entropy = np.zeros(len(prompts))
    for start in range(0, len(prompts), _CHUNK):
        chunk = prompts[start : start + _CHUNK]
        histogram = np.array(
            [np.bincount(np.frombuffer(prompt.encode(), np.uint8), minlength=256) for prompt in chunk]
        )
        p = histogram / np.maximum(histogram.sum(axis=1, keepdims=True), 1)
        entropy[start : start + len(chunk)] = -(p * np.log2(np.where(p > 0.0, p, 1.0))).sum(axis=1)
    return entropy
