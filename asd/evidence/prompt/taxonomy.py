"""The published taxonomy of tasks by rule: domain, complexity, cognitive load and the eleven characteristics.

    profile = classify("Prove that the sum of two even numbers is even.")
    recommend(profile, 3)      # a score a stage, summing to 1

Keyword rules, as published in kind (the study lists dimensions, classes and weights, not its words; ours are
in `asd.evidence.prompt.lexicon`). What real labels exist for is learned instead, and shown beside these
rules, by
`asd evidence taxonomy` (`asd.research.predictors.taxonomy`). **No set at hand labels creativity, the
creative and conversational domains, expert and research complexity, or the length of an answer: there the
rule is a rule, of unknown accuracy.**

Scope: one prompt in, labels out; English only; nothing is fitted.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from asd.errors import ConfigError
from asd.evidence.prompt.complexity import complexity_score
from asd.evidence.prompt.lexicon import EXPERTISE_WORDS, LOAD_WORDS, TASK_WORDS
from asd.types import DOMAINS, Domain

__all__ = [
    "COMPLEXITIES", "DOMAINS", "EXPERTISE", "LOADS", "Complexity", "Domain", "Expertise", "Load", "Profile",
    "classify", "left_out", "recommend",
]  # fmt: skip

Complexity = Literal["trivial", "simple", "moderate", "complex", "expert", "research"]
Load = Literal["recall", "comprehension", "application", "analysis", "synthesis", "evaluation"]
Expertise = Literal["elementary", "middle_school", "high_school", "college", "professional"]

COMPLEXITIES: tuple[Complexity, ...] = get_args(Complexity)
LOADS: tuple[Load, ...] = get_args(Load)
EXPERTISE: tuple[Expertise, ...] = get_args(Expertise)

_WORDS_OF: Mapping[Domain, str] = dict(zip(DOMAINS, ("math", "code", *DOMAINS[2:]), strict=True))

STEPS: Mapping[Complexity, int] = dict(zip(COMPLEXITIES, (1, 2, 4, 8, 12, 20), strict=True))
"""Steps that a level stands for; published are 1, 1-2, 3-5, 6-10, more than 10, and nothing for research."""

_WORD = re.compile(r"[a-z']+")
T = TypeVar("T", bound=str)


@dataclass(frozen=True, slots=True)
class Profile:
    """The eleven characteristics of one prompt.

    Attributes:
        domain: Of the eight.
        complexity: Of the six levels.
        load: Of the six cognitive loads.
        computation: Numbers have to be worked out.
        creativity: Something has to be invented.
        factual_knowledge: Facts have to be known.
        reasoning: Steps have to be argued.
        code_generation: A program has to be written.
        n_tokens: Estimated length of an answer.
        n_steps: Estimated number of steps.
        expertise: Level of education the question is from.
    """

    domain: Domain
    complexity: Complexity
    load: Load
    computation: bool
    creativity: bool
    factual_knowledge: bool
    reasoning: bool
    code_generation: bool
    n_tokens: int
    n_steps: int
    expertise: Expertise


def classify(prompt: str) -> Profile:
    """All characteristics by rule."""
    words = _WORD.findall(prompt.lower())
    counts = {domain: sum(map(TASK_WORDS[name].__contains__, words)) for domain, name in _WORDS_OF.items()}
    n_numbers = len(re.findall(r"\d+", prompt))
    domain = max(DOMAINS, key=counts.__getitem__) if any(counts.values()) else "conversational"
    complexity = _complexity(prompt, n_numbers)
    n_steps = STEPS[complexity]
    is_code = "def " in prompt or (domain == "technical" and not LOAD_WORDS["synthesis"].isdisjoint(words))
    return Profile(
        domain=domain,
        complexity=complexity,
        load=_most(LOAD_WORDS, LOADS, words),
        computation=n_numbers >= 2 and counts["mathematical"] > 0,
        creativity=counts["creative"] >= 2,
        factual_knowledge=domain == "factual",
        reasoning=counts["reasoning"] >= 2 or n_steps > 2,
        code_generation=is_code,
        n_tokens=(100 if is_code else 10) + 20 * n_steps,
        n_steps=n_steps,
        expertise=_most(EXPERTISE_WORDS, EXPERTISE, words),
    )


def left_out(only: Mapping[str, Collection[str]], prompt: str) -> frozenset[str]:
    """The stages of `only` (domains by stage) that are for other domains than the prompt's."""
    if not only:
        return frozenset()
    domain = classify(prompt).domain
    return frozenset(stage for stage, domains in only.items() if domain not in domains)


def recommend(profile: Profile, n_stages: int) -> npt.NDArray[np.float64]:
    """The published recommendation: weights by complexity and domain, a score a stage, of sum 1.

    Published are three stages, weights of the outer complexity levels and of two domains; levels in between
    are interpolated, other domains weigh 1, and a ladder of another length reads the weights at its relative
    positions.

    Raises:
        ConfigError: There is no stage.
    """
    if n_stages < 1:
        raise ConfigError(f"a recommendation needs at least one stage, got {n_stages}")
    at = np.linspace(0.0, 2.0, n_stages) if n_stages > 1 else np.zeros(1)
    depth = min(1.0, COMPLEXITIES.index(profile.complexity) / COMPLEXITIES.index("expert"))
    by_complexity = (1.0 - depth) * np.array(_TRIVIAL) + depth * np.array(_EXPERT)
    by_domain = np.array(_BY_DOMAIN.get(profile.domain, (1.0, 1.0, 1.0)))
    scores = np.interp(at, (0.0, 1.0, 2.0), by_complexity * by_domain)
    return np.asarray(scores / scores.sum())


_TRIVIAL, _EXPERT = (1.5, 1.0, 0.8), (0.5, 1.0, 1.6)
_BY_DOMAIN: Mapping[Domain, tuple[float, float, float]] = {
    "mathematical": (0.9, 1.1, 1.3), "creative": (1.2, 1.1, 1.0)
}  # fmt: skip


def _complexity(prompt: str, n_numbers: int) -> Complexity:
    """Sixths of the published complexity score, or as many levels as numbers need to be combined."""
    by_score = int(complexity_score(prompt) * len(COMPLEXITIES))
    by_numbers = 0 if n_numbers < 2 else 1 if n_numbers == 2 else 2 if n_numbers <= 5 else 3
    return COMPLEXITIES[min(max(by_score, by_numbers), len(COMPLEXITIES) - 1)]


def _most(vocabularies: Mapping[str, frozenset[str]], labels: Sequence[T], words: list[str]) -> T:
    """The label most of whose words occur; the last of equals, and the first where none does."""
    counts = [sum(map(vocabularies[label].__contains__, words)) for label in labels]
    return labels[max(range(len(labels)), key=lambda i: (counts[i], i))] if any(counts) else labels[0]
