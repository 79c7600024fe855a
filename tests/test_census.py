"""The census of the code counts what is there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import asd

ROOT = Path(asd.__file__).parent.parent


@pytest.mark.slow
def test_the_census_counts_what_is_there() -> None:
    """Lines of the README and modules of the harness, by another way of counting."""
    done = subprocess.run(
        [sys.executable, ROOT / ".ci/census"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    counts = dict(re.split(r"\s{2,}", line) for line in done.stdout.splitlines())
    assert int(counts["lines of the README"]) == len((ROOT / "README.md").read_text().splitlines())
    assert int(counts["bench: modules"]) == sum(1 for _ in (ROOT / "bench").rglob("*.py"))
    assert float(counts["median lines of a function"]) <= 10
