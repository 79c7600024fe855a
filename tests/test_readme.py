"""What the README shows in Python runs as it stands there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_example_of_little_memory_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the imports to an answer, in the root of the repository."""
    blocks = re.findall(r"```python\n(import asd\n.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    [block] = [block for block in blocks if "Residency(" in block]
    monkeypatch.chdir(ROOT)
    names: dict[str, object] = {}
    exec(block, names)
    completion, residency = names["completion"], names["residency"]
    assert completion.text.endswith("42")
    assert {load.stage for load in residency.loads} >= {completion.stage}
