"""Labels of the taxonomy that real sets carry, and the map from what they carry to the classes.

What a set carries is a fact (its subject, its task, the steps of its worked solutions, the grade in an exam's
name). Which class a subject or task belongs to is our reading, written down here and nowhere else; subjects
that could be read two ways have no label. Steps are counted as calculations marked in the worked solution: 1
trivial, 2 simple, 3-5 moderate, 6-10 complex, as published. No set at hand has a label for creative or
conversational prompts, for expert or research complexity, or for creativity.

Scope: reading and mapping; nothing is fitted.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from asd.errors import DataError
from asd.evidence.prompt.taxonomy import EXPERTISE

__all__ = ["DIMENSIONS", "Labelled", "read_labelled"]

DIMENSIONS = (
    "domain", "complexity", "load", "expertise",
    "computation", "factual_knowledge", "reasoning", "code_generation",
)  # fmt: skip
"""The dimensions that have labels somewhere."""

YES, NO = "True", "False"


@dataclass(frozen=True, slots=True)
class Labelled:
    """One prompt of a set.

    Attributes:
        prompt: As asked.
        group: The subject or task it is from; what is held out together.
        labels: By dimension, only those that are known.
    """

    prompt: str
    group: str
    labels: Mapping[str, str]


_DOMAIN_OF_SUBJECT = {
    "mathematical": "abstract_algebra college_mathematics elementary_mathematics high_school_mathematics "
    "high_school_statistics",
    "technical": "college_computer_science computer_security electrical_engineering "
    "high_school_computer_science machine_learning",
    "reasoning": "formal_logic logical_fallacies",
    "analytical": "business_ethics econometrics high_school_macroeconomics high_school_microeconomics "
    "management marketing professional_accounting public_relations",
    "factual": "anatomy astronomy clinical_knowledge college_biology global_facts high_school_biology "
    "high_school_european_history high_school_geography high_school_government_and_politics "
    "high_school_us_history high_school_world_history human_aging medical_genetics miscellaneous nutrition "
    "prehistory us_foreign_policy virology world_religions",
}
_DOMAIN_OF_TASK = {
    "mathematical": "multistep_arithmetic_two object_counting",
    "reasoning": "boolean_expressions causal_judgement formal_fallacies logical_deduction navigate "
    "temporal_sequences tracking_shuffled_objects web_of_lies",
    "linguistic": "disambiguation_qa hyperbaton ruin_names salient_translation_error_detection snarks "
    "word_sorting",
    "analytical": "penguins_in_a_table",
}
_LOAD_OF_SUBJECT = {
    "recall": "anatomy global_facts high_school_geography miscellaneous nutrition prehistory virology "
    "world_religions",
    "application": "college_mathematics elementary_mathematics high_school_mathematics "
    "high_school_statistics high_school_physics",
    "analysis": "formal_logic logical_fallacies",
    "evaluation": "moral_disputes moral_scenarios",
}
_LOAD_OF_TASK = {
    "comprehension": "disambiguation_qa penguins_in_a_table reasoning_about_colored_objects",
    "application": "multistep_arithmetic_two object_counting boolean_expressions",
    "analysis": "formal_fallacies logical_deduction tracking_shuffled_objects web_of_lies temporal_sequences",
    "evaluation": "causal_judgement snarks sports_understanding",
}
_COUNTING = {"object_counting", "multistep_arithmetic_two"}
_SIZE = re.compile(r"_(three|five|seven)_objects$")
_GRADE = re.compile(r"^[^_]+_\d{4}_(\d+)_")


def _inverted(classes: Mapping[str, str]) -> dict[str, str]:
    return {name: label for label, names in classes.items() for name in names.split()}


_SUBJECT_DOMAIN, _TASK_DOMAIN = _inverted(_DOMAIN_OF_SUBJECT), _inverted(_DOMAIN_OF_TASK)
_SUBJECT_LOAD, _TASK_LOAD = _inverted(_LOAD_OF_SUBJECT), _inverted(_LOAD_OF_TASK)


def read_labelled(folder: str | Path) -> list[Labelled]:
    """Labelled prompts of every set in the folder, in the order of the files.

    Raises:
        DataError: A file is missing or broken.
    """
    return [label(row) for name, label in _SETS.items() for row in _rows(Path(folder) / f"{name}.jsonl.gz")]


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with gzip.open(path) as file:
            for line in file:
                yield msgspec.json.decode(line)
    except (OSError, EOFError, msgspec.DecodeError) as error:
        raise DataError(f"cannot read labelled prompts from {path}: {error}") from error


def _mmlu(row: Mapping[str, Any]) -> Labelled:
    subject = str(row["subject"])
    labels = _known(domain=_SUBJECT_DOMAIN.get(subject), load=_SUBJECT_LOAD.get(subject))
    level = next((level for level in EXPERTISE if subject.startswith(level)), None)
    labels |= _known(expertise=level)
    if (domain := labels.get("domain")) is not None:
        labels["factual_knowledge"] = YES if domain == "factual" else NO
        labels["computation"] = YES if domain == "mathematical" else NO
    if subject in _SUBJECT_LOAD:
        labels["reasoning"] = NO if _SUBJECT_LOAD[subject] == "recall" else YES
    return Labelled(str(row["question"]), f"mmlu {subject}", labels | {"code_generation": NO})


def _bbh(row: Mapping[str, Any]) -> Labelled:
    task = _SIZE.sub("", str(row["task"]))
    labels = _known(domain=_TASK_DOMAIN.get(task), load=_TASK_LOAD.get(task))
    labels |= {"code_generation": NO, "computation": YES if task in _COUNTING else NO}
    if labels.get("domain") == "reasoning":
        labels |= {"reasoning": YES, "factual_knowledge": NO}
    return Labelled(str(row["input"]), f"bbh {task}", labels)


def _gsm8k(row: Mapping[str, Any]) -> Labelled:
    labels = {
        "domain": "mathematical", "load": "application", "computation": YES, "factual_knowledge": NO,
        "reasoning": YES, "code_generation": NO,
    }  # fmt: skip
    n_steps = str(row["answer"]).count("<<")
    return Labelled(str(row["question"]), "gsm8k", labels | _known(complexity=_complexity(n_steps)))


def _complexity(n_steps: int) -> str | None:
    """None for the few solutions whose calculations are not marked."""
    bounds = ((1, "trivial"), (2, "simple"), (5, "moderate"), (10, "complex"))
    return next((label for most, label in bounds if 0 < n_steps <= most), None)


def _code(prompt: str, group: str) -> Labelled:
    labels = {"domain": "technical", "load": "synthesis", "code_generation": YES, "factual_knowledge": NO}
    return Labelled(prompt, group, labels)


def _simpleqa(row: Mapping[str, Any]) -> Labelled:
    labels = {
        "domain": "factual", "load": "recall", "computation": NO, "factual_knowledge": YES, "reasoning": NO,
        "code_generation": NO,
    }  # fmt: skip
    return Labelled(str(row["problem"]), f"simpleqa {row['topic']}", labels)


def _arc(row: Mapping[str, Any]) -> Labelled:
    found = _GRADE.match(str(row["id"]))
    grade = int(found[1]) if found else 0
    level = "elementary" if grade <= 5 else "middle_school" if grade <= 8 else "high_school"
    exam = str(row["id"]).split("_")[0]
    return Labelled(str(row["question"]), f"arc {exam}", _known(expertise=level if grade else None))


def _known(**labels: str | None) -> dict[str, str]:
    return {dimension: label for dimension, label in labels.items() if label is not None}


_SETS: Mapping[str, Callable[[Mapping[str, Any]], Labelled]] = {
    "mmlu_test": _mmlu,
    "bbh": _bbh,
    "gsm8k_test": _gsm8k,
    "humaneval": lambda row: _code(str(row["prompt"]), "humaneval"),
    "mbpp": lambda row: _code(str(row["text"]), "mbpp"),
    "simpleqa": _simpleqa,
    "arc_challenge": _arc,
}
