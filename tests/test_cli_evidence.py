"""`asd evidence ...` from the command line."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from asd.cli import main


def run(*args: object) -> Result:
    """The command's result."""
    return CliRunner().invoke(main, ["evidence", *map(str, args)])


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """Ninety queries of two kinds; the small model only knows the easy ones."""
    path = tmp_path / "recorded.jsonl"
    rows = [
        {
            "id": f"q{i}",
            "prompt": f"{'Prove the theorem' if i % 3 else 'What is the name'} of {chr(97 + i % 26)}b{i % 7}",
            "outputs": {
                "s": {"score": int(i % 3 == 0), "cost": 1.0},
                "l": {"score": int(i % 10 > 0), "cost": 4.0},
            },
        }
        for i in range(90)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_features_as_a_table() -> None:
    """31 rows of Markdown; with a prompt, its values beside."""
    lines = run("features").stdout.splitlines()
    assert len(lines) == 33
    assert lines[0].startswith("| group")
    [words] = [
        line for line in run("features", "one two three").stdout.splitlines() if "| word_count  " in line
    ]
    assert words.endswith("3.000 |")


def test_fit_and_predict(recorded: Path, tmp_path: Path) -> None:
    """A predictor is fitted, kept in a file, and asked."""
    out = tmp_path / "p.json"
    fitted = run("fit", recorded, "--stages", "s,l", "--predictor", "logistic", "--out", out)
    assert fitted.exit_code == 0, fitted.output
    assert "90 queries" in fitted.stdout
    prompts = ("What is the name of xab3c", "Prove the theorem of xab3c")
    easy, hard = (float(run("predict", out, prompt).stdout.split()[1]) for prompt in prompts)
    assert easy > 0.7
    assert hard < 0.3


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "give --stages"),
        (("--ladder", "tiny", "--stages", "s,l"), "give --stages"),
        (("--stages", "s,l", "--costs", "1,x"), "give numbers"),
        (("--stages", "s,x"), "no outcome of x"),
        (("--stages", "s,l", "--predictor", "guess"), "no predictor 'guess'"),
    ],
)
def test_wrong_options_end_with_2(
    args: tuple[str, ...], message: str, recorded: Path, tmp_path: Path
) -> None:
    """One line that says what to give instead."""
    failed = run("fit", recorded, "--out", tmp_path / "p.json", *args)
    assert failed.exit_code == 2
    assert message in failed.output
    assert not (tmp_path / "p.json").exists()


def test_classify() -> None:
    """Eleven characteristics, and a score for every stage."""
    shown = run("classify", "Who wrote Hamlet?", "--stages", 2)
    assert shown.exit_code == 0
    assert len(shown.stdout.splitlines()) == 2 + 11 + 2
    assert shown.stdout.splitlines()[2].split() == ["domain", "factual"]
    assert shown.stdout.splitlines()[-1].count("0.") == 2


def test_taxonomy_of_a_folder_without_sets(tmp_path: Path) -> None:
    """The first missing set is named."""
    failed = run("taxonomy", tmp_path)
    assert failed.exit_code == 2
    assert "mmlu_test.jsonl.gz" in failed.output
