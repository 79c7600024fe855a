"""Labels that real sets carry, and how well the taxonomy is known on held-out subjects."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score

from asd.errors import DataError
from asd.evidence.prompt.taxonomy import classify
from asd.research.predictors.labels import DIMENSIONS, Labelled, read_labelled
from asd.research.predictors.taxonomy import evaluate_taxonomy, fit_taxonomy

ROWS = {
    "mmlu_test": [
        {"subject": "college_mathematics", "question": "m?"},
        {"subject": "professional_law", "question": "l?"},
        {"subject": "global_facts", "question": "g?"},
    ],
    "bbh": [
        {"task": "logical_deduction_five_objects", "input": "b"},
        {"task": "object_counting", "input": "c"},
    ],
    "gsm8k_test": [
        {"question": "four", "answer": "<<1+1=2>>2 <<2+1=3>> <<3+1=4>> <<4+1=5>> #### 5"},
        {"question": "unmarked", "answer": "#### 5"},
    ],
    "humaneval": [{"prompt": "def f():"}],
    "mbpp": [{"text": "Write a function"}],
    "simpleqa": [{"problem": "Who?", "topic": "Art"}],
    "arc_challenge": [
        {"id": "MCAS_2006_9_44", "question": "nine"},
        {"id": "TIMSS_2003_4_pg7", "question": "grade"},
        {"id": "Mercury_7175875", "question": "unknown"},
    ],
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Every set with a few rows."""
    for name, rows in ROWS.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    return tmp_path


def test_labels_that_sets_carry(folder: Path) -> None:
    """Subject, task, marked steps and grade become labels; what is not known has none."""
    items = {item.prompt: item for item in read_labelled(folder)}
    assert items["m?"].labels == {
        "domain": "mathematical", "load": "application", "expertise": "college", "factual_knowledge": "False",
        "computation": "True", "reasoning": "True", "code_generation": "False",
    }  # fmt: skip
    assert items["l?"].labels == {"expertise": "professional", "code_generation": "False"}
    assert items["g?"].labels["reasoning"] == "False"
    assert items["b"].group == "bbh logical_deduction"
    assert items["b"].labels["domain"] == "reasoning"
    assert items["c"].labels["computation"] == "True"
    assert "complexity" not in items["unmarked"].labels
    assert items["def f():"].labels["code_generation"] == "True"
    assert items["Who?"].labels["factual_knowledge"] == "True"
    assert items["nine"].labels == {"expertise": "high_school"}
    assert items["grade"].labels == {"expertise": "elementary"}
    assert items["four"].labels["complexity"] == "moderate"
    assert items["unknown"].labels == {}
    assert {d for item in items.values() for d in item.labels} == set(DIMENSIONS)


@pytest.mark.parametrize(
    ("n_steps", "label"), [(1, "trivial"), (2, "simple"), (3, "moderate"), (5, "moderate"), (6, "complex")]
)
def test_steps_are_levels(folder: Path, n_steps: int, label: str) -> None:
    """Calculations marked in the worked solution, in the published steps a level."""
    row = {"question": "steps", "answer": "<<1=1>>" * n_steps}
    (folder / "gsm8k_test.jsonl.gz").write_bytes(gzip.compress(json.dumps(row).encode()))
    assert next(i for i in read_labelled(folder) if i.prompt == "steps").labels["complexity"] == label


def test_a_missing_set(folder: Path) -> None:
    """The file is named."""
    (folder / "bbh.jsonl.gz").unlink()
    with pytest.raises(DataError, match="bbh"):
        read_labelled(folder)


KINDS = ("mathematical", "technical", "factual")
WORDS = ("equation sum", "loop array", "king capital")


def invented() -> list[Labelled]:
    """Six subjects of each of three kinds; words of the kind and of the subject. Steps in one set only."""
    rng = np.random.default_rng(0)
    items = []
    for subject in range(18):
        kind = subject % 3
        for i in range(12):
            prompt = (
                f"{rng.choice(WORDS[kind].split())} subject{chr(97 + subject)} {rng.choice(list('uvwxyz'))}"
            )
            labels = dict.fromkeys(DIMENSIONS[4:], "True" if i % 2 else "False")
            labels |= {
                "domain": KINDS[kind],
                "load": ("recall", "analysis")[kind % 2],
                "expertise": ("college", "high_school")[i % 2],
            }
            if subject == 0:
                labels["complexity"] = ("simple", "moderate")[i % 2]
            items.append(Labelled(prompt, f"subject {subject}", labels))
    return items


def test_held_out_subjects() -> None:
    """What subjects share is learned, what does not show in words is not."""
    asked = ("domain", "complexity", "expertise")
    results = {r.dimension: r for r in evaluate_taxonomy(invented(), seed=0, dimensions=asked)}
    assert tuple(results) == asked
    domain = results["domain"]
    assert (domain.n, domain.n_groups, domain.n_classes, domain.held_out) == (216, 18, 3, "groups")
    assert domain.learned.accuracy > 0.95
    assert domain.learned.kappa > 0.9
    assert results["expertise"].learned.kappa < 0.3
    assert results["complexity"].held_out == "prompts"
    assert domain.majority.accuracy < 0.5


def test_accuracy_is_scikit_learns() -> None:
    """Accuracy, macro-F1 over the true classes and kappa of the rule, computed apart."""
    items = invented()
    [result] = evaluate_taxonomy(items, seed=0, dimensions=["domain"])
    rule = result.rule
    truth, said = [i.labels["domain"] for i in items], [classify(i.prompt).domain for i in items]
    assert rule.accuracy == pytest.approx(accuracy_score(truth, said))
    assert rule.macro_f1 == pytest.approx(
        f1_score(truth, said, average="macro", labels=KINDS, zero_division=0)
    )
    assert rule.kappa == pytest.approx(cohen_kappa_score(truth, said))


def test_no_group_outweighs_the_rest() -> None:
    """Of many groups, at most a hundred prompts of each are used."""
    items = invented()
    flood = [Labelled("sum", "subject 0", items[0].labels)] * 500
    results = {
        r.dimension: r
        for r in evaluate_taxonomy([*items, *flood], seed=0, dimensions=("domain", "complexity"))
    }
    assert results["domain"].n == 216 - 12 + 100
    assert results["complexity"].n == 512


def test_fitted_on_everything() -> None:
    """Every dimension with labels has a classifier; without labels that is an error."""
    fitted = fit_taxonomy(invented())
    assert tuple(fitted.dimensions) == DIMENSIONS
    assert fitted.classify(["loop"])["domain"] == ["technical"]
    with pytest.raises(DataError, match="'domain' needs two labels"):
        fit_taxonomy([Labelled("x", "g", {})])
