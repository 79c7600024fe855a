"""What can be read off a prompt and off the answers so far, as plain numbers.

Scope: only text, token counts and log-probabilities are read, and of a query what its answer is; never a
reference, score, tag or dataset name. Fitting and deciding call these same functions, so the two cannot drift
apart. Two answers agree where what they say is the same (`asd.quality.answers`), not where the words are.

Sums and means of token log-probabilities rank long answers wrongly, quantiles do not (arXiv 2404.10136); the
sum, the mean and the length stand beside the quantiles so that a fit can find its own balance.
"""

from __future__ import annotations

import math
import string
import zlib
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from asd.errors import DataError
from asd.evidence.signals import SignalKind, signal_features
from asd.types import Draft, Verification

__all__ = [
    "ANSWER_FEATURES",
    "PAIR_FEATURES",
    "PROMPT_FEATURES",
    "STATES_ANSWER",
    "VERIFICATION_FEATURES",
    "answer_features",
    "is_silent",
    "log_odds",
    "prompt_features",
    "state_feature_names",
    "state_features",
    "verification_features",
]

_NO_SIGNALS: Mapping[str, SignalKind] = MappingProxyType({})
QUANTILES = (0.0, 0.1, 0.25, 0.5)
_CERTAIN = 14.0
"""Log-odds are clipped here: a float32 softmax cannot tell 1 - 1e-6 from certainty."""
_LEAST_LOGPROB = -200.0

_N_OPENINGS = 64
_TYPICAL_LOG_LENGTH = 4.0
_MARKS = b",.?:;=+-*/()[]{}<>_\"'#"
_DIGITS, _UPPER = string.digits.encode(), string.ascii_uppercase.encode()
_PUNCTUATION = string.punctuation.encode()
_MASKED = bytes.maketrans(_DIGITS + _UPPER, b"0" * 10 + string.ascii_lowercase.encode())
_SPACED = bytes.maketrans(_PUNCTUATION, b" " * len(_PUNCTUATION))

_COUNTS = ("characters", "words", "lines", "digits", "capitals", "punctuation", "not_ascii", "distinct_words")
PROMPT_FEATURES: tuple[str, ...] = (
    *_COUNTS,
    "mean_word_length",
    *(f"mark_{mark:c}" for mark in _MARKS),
    *(f"opening_{i}" for i in range(_N_OPENINGS)),
    *(f"opening_{i}_by_length" for i in range(_N_OPENINGS)),
)
"""Names of `prompt_features`: log-counts, mean word length, log-counts of marks, the hashed first word, and
the log-length where the prompt opens with that word."""

ANSWER_FEATURES: tuple[str, ...] = (
    "sum_logprob",
    "sum_log_odds",
    "mean_logprob",
    *(f"log_odds_q{round(100 * q)}" for q in QUANTILES),
    "log_n_tokens",
    "finished",
)
"""Names of `answer_features`, what one answer says about itself."""

STATES_ANSWER = "states_answer"
"""Whether an answer of a certain form could be found in the reply; a feature where answers have forms."""

PAIR_FEATURES: tuple[str, ...] = ("agrees", "sum_log_odds_if_agrees", "sum_log_odds_if_not")
"""Names of what each other answer so far says about an answer; all 0 where one of the two states none."""

VERIFICATION_FEATURES: tuple[str, ...] = (
    "read_sum_logprob",
    "read_sum_log_odds",
    *(f"read_log_odds_q{round(100 * q)}" for q in QUANTILES),
    "read_share_accepted",
    "read_accepted",
)
"""Names of `verification_features`, what a larger stage says of the answer it has read."""


def prompt_features(prompt: str) -> list[float]:
    """What the prompt alone says, in the order of `PROMPT_FEATURES`.

    The first word, without case, punctuation or the values of its digits, says what is asked for; how much
    harder a longer prompt is depends on it. (A bag of all words was tried: it does worse, on prompts of the
    embedded ladder and on MMLU, TruthfulQA, MBPP and ARC alike.) The hash is CRC-32, so it is the same in
    every process and on every machine.
    """
    raw = prompt.encode()
    masked = raw.translate(_MASKED)
    words = masked.split()
    counts = (
        len(prompt),
        len(words),
        raw.count(b"\n"),
        len(raw) - len(raw.translate(None, _DIGITS)),
        len(raw) - len(raw.translate(None, _UPPER)),
        len(raw) - len(raw.translate(None, _PUNCTUATION)),
        len(raw) - len(prompt),
        len(set(words)),
    )
    mean_word = sum(map(len, words)) / max(1, len(words))
    marks = (math.log1p(raw.count(mark)) for mark in _MARKS)
    return [*map(math.log1p, counts), mean_word, *marks, *_opening(masked, math.log1p(len(prompt)))]


def _opening(masked: bytes, log_length: float) -> list[float]:
    """One-hot bucket of the first run of letters and digits, then the same times the centred log-length."""
    features = [0.0] * (2 * _N_OPENINGS)
    first = masked.translate(_SPACED).split(maxsplit=1)[:1]
    bucket = zlib.crc32(b"".join(first)) % _N_OPENINGS
    features[bucket] = 1.0
    features[_N_OPENINGS + bucket] = log_length - _TYPICAL_LOG_LENGTH
    return features


def log_odds(logprob: float) -> float:
    """`log(p / (1 - p))` of a natural log-probability, clipped to [-14, 14]."""
    if logprob > -1e-7:
        return _CERTAIN
    return min(_CERTAIN, max(-_CERTAIN, logprob - math.log(-math.expm1(logprob))))


def answer_features(draft: Draft, signals: Mapping[str, SignalKind] = _NO_SIGNALS) -> tuple[float, ...]:
    """What one answer says about itself, in the order of `ANSWER_FEATURES`, then its signals.

    An empty answer says the least.

    An answer without log-probabilities (`is_silent`) says how long it is and whether it ended: the rest is 0.

    Raises:
        DataError: Log-probabilities are given for some tokens only, one is not a number, or a signal is
            missing.
    """
    return (*_own_features(draft), *signal_features(draft, signals))


def _own_features(draft: Draft) -> tuple[float, ...]:
    logprobs, n = draft.logprobs, draft.n_tokens
    if is_silent(draft):
        return (*(0.0 for _ in ANSWER_FEATURES[:-2]), math.log1p(n), float(draft.finished))
    if len(logprobs) != n:
        raise DataError(
            f"draft of stage {draft.stage!r} has {n} tokens and {len(logprobs)} log-probabilities; "
            "the evidence needs one per token or none at all"
        )
    if n == 0:
        return (_LEAST_LOGPROB, -_CERTAIN, _LEAST_LOGPROB, *(-_CERTAIN for _ in QUANTILES), 0.0, 0.0)
    total = _total(logprobs, f"draft of stage {draft.stage!r}")
    ordered = sorted(logprobs)
    return (
        total,
        log_odds(total),
        total / n,
        *(log_odds(_quantile(ordered, q)) for q in QUANTILES),
        math.log1p(n),
        float(draft.finished),
    )


def is_silent(draft: Draft) -> bool:
    """An answer that has tokens and log-probabilities for none of them: its stage gives none."""
    return not draft.logprobs and draft.n_tokens > 0


def _total(logprobs: Sequence[float], what: str) -> float:
    total = sum(logprobs)
    if math.isnan(total):
        raise DataError(f"{what} has a log-probability that is not a number")
    return max(total, _LEAST_LOGPROB)


def verification_features(verification: Verification) -> tuple[float, ...]:
    """What a larger stage says of an answer, in the order of `VERIFICATION_FEATURES`.

    Raises:
        DataError: A log-probability is missing or not a number.
    """
    logprobs, n = verification.logprobs, len(verification.tokens)
    what = f"verification of stage {verification.drafter!r} by {verification.stage!r}"
    if len(logprobs) != n:
        raise DataError(
            f"{what} has {n} tokens and {len(logprobs)} log-probabilities; one per token is needed"
        )
    if n == 0:
        return (0.0, _CERTAIN, *(_CERTAIN for _ in QUANTILES), 1.0, 1.0)
    total = _total(logprobs, what)
    ordered = sorted(logprobs)
    return (
        total,
        log_odds(total),
        *(log_odds(_quantile(ordered, q)) for q in QUANTILES),
        verification.n_accepted / n,
        float(verification.accepted),
    )


def _quantile(ordered: Sequence[float], q: float) -> float:
    """Quantile of sorted values with linear interpolation (numpy's default)."""
    at = q * (len(ordered) - 1)
    low = int(at)
    if low == at:
        return ordered[low]
    return ordered[low] + (at - low) * (ordered[low + 1] - ordered[low])


def state_feature_names(
    stage: str,
    node: Sequence[str],
    stages: Sequence[str],
    *,
    forms: bool = False,
    signals: Iterable[str] = (),
) -> tuple[str, ...]:
    """Names of `state_features` for the answer of `stage` where the stages of `node` have answered."""
    pairs = (f"{other}_{name}" for other in node if other != stage for name in PAIR_FEATURES)
    own = (*ANSWER_FEATURES, *signals)
    return (*own, *((STATES_ANSWER,) if forms else ()), *pairs, *(f"prompt_logit_{name}" for name in stages))


def state_features(
    stage: str,
    said: Mapping[str, str | None],
    answers: Mapping[str, tuple[float, ...]],
    prompt_logits: Sequence[float],
    *,
    forms: bool = False,
) -> list[float]:
    """Everything known so far that bears on one answer: itself, every other answer, the prompt.

    Args:
        stage: Whose answer is judged.
        said: The answers so far by stage, as far as they can be compared; None: the reply states none.
        answers: `answer_features` of the same replies, in ladder order.
        prompt_logits: Prompt-only log-odds of success of every stage of the ladder.
        forms: Whether it is known what an answer is, so that a reply may state none.

    Returns:
        As many numbers as `state_feature_names` has names, in that order.
    """
    row, own = list(answers[stage]), said[stage]
    if forms:
        row.append(float(own is not None))
    for other, features in answers.items():
        if other != stage:
            row += _pair(own, said[other], features[1])
    row += prompt_logits
    return row


def _pair(own: str | None, other: str | None, confidence: float) -> tuple[float, float, float]:
    """Agreement is of two answers; two replies that state none do not agree, nor do they differ."""
    if own is None or other is None:
        return 0.0, 0.0, 0.0
    return (1.0, confidence, 0.0) if own == other else (0.0, 0.0, confidence)
