"""The census of the code counts what is there."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import asd

ROOT = Path(asd.__file__).parent.parent


@pytest.fixture(scope="module")
def counts() -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, ROOT / ".ci/census"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return dict(re.split(r"\s{2,}", line) for line in done.stdout.splitlines())


@pytest.mark.slow
def test_the_census_counts_what_is_there(counts: dict[str, str]) -> None:
    """Lines of the README and modules of the harness, by another way of counting."""
    assert int(counts["lines of the README"]) == len((ROOT / "README.md").read_text().splitlines())
    assert int(counts["bench: modules"]) == sum(1 for _ in (ROOT / "bench").rglob("*.py"))
    assert float(counts["median lines of a function"]) <= 10


@pytest.mark.slow
@pytest.mark.parametrize("name", [
    "folders with more than 15",
    "class names that occur twice",
    "functions of more than 50 lines",
    "words of the house",
])  # fmt: skip
def test_the_census_finds_none(counts: dict[str, str], name: str) -> None:
    """A reader finds a class by its name and a module among few, and needs only the field's words."""
    assert counts[name] == "0"


def test_a_private_class_of_the_harness_may_not_share_a_name(tmp_path: Path) -> None:
    """`_Pair` beside `Pair` is a name that occurs twice, wherever they are; tests may name as they like."""
    for module, text in {
        "asd/a.py": "class Pair: ...\n",
        "bench/b.py": "def f():\n    class _Pair: ...\n",
        "tests/c.py": "class Other: ...\nclass Pair: ...\n",
        "asd/d.py": "class Other: ...\n",
        "README.md": "",
    }.items():
        (tmp_path / module).parent.mkdir(exist_ok=True)
        (tmp_path / module).write_text(text)
    census = runpy.run_path(str(ROOT / ".ci/census"))["census"]
    assert census(tmp_path)["class names that occur twice"] == "1"
