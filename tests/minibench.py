"""A checkout with a small harness of its own, for tests of how a run of it begins and ends.

A ladder that is never loaded, two data sets of twenty questions, one suite that measures nothing, and a test
that is none of the harness's.
"""

import os
import struct
from pathlib import Path
from unittest.mock import patch

import pytest

from bench.run import harness as loaded

# pytester unloads what a run of its own imported first, which scipy, imported by this, does not survive
assert loaded

LADDER = """
name = "mine"
price_unit = "ms"
prices_measured = "never"
[[stages]]
name = "S"
model = "./S"
prices = { per_call = 1.0, per_prompt_token = 0.0, per_decoded_token = 1.0 }
[[stages]]
name = "L"
model = "./L"
prices = { per_call = 2.0, per_prompt_token = 0.0, per_decoded_token = 9.0 }
"""

SUITE = """
import os
import pytest
from asd.measurement.records import Cell, Metric

def test_quality(record, dataset, lam):
    if os.environ.get("SKIP"):
        pytest.skip("no GPU")
    right = int(os.environ.get("RIGHT", "20"))
    items = tuple(float(i < right) for i in range(20))
    metric = Metric(name="quality", unit="share", kind="quality", direction="higher", provenance="replayed",
                    value=sum(items) / 20, tolerance=0.01, items=items)
    record(Cell(suite="quality", policy="optimal", dataset=dataset, lam=lam, metrics=(metric,)))
    assert right > 0
"""

WORKLOAD = """
import asd

class Twenty:
    name = "tiny-{name}"

    def queries(self, split, limit):
        return [asd.Query(str(i), self.name, f"{name} {{i}}?", str(i), 4) for i in range(20)][:limit]

    def score(self, query, text):
        return float(text == query.reference)

workload = Twenty()
"""


def make(pytester: pytest.Pytester) -> pytest.Pytester:
    """The checkout, in pytester's folder."""
    pytester.makepyfile(**{name: WORKLOAD.format(name=name) for name in ("text", "lookup")})
    for name in "SL":
        folder = pytester.mkdir(name)
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    pytester.makefile(".toml", mine=LADDER)
    pytester.makepyfile(**{"bench/test_quality.py": SUITE, "tests/test_own.py": "def test_own(): pass"})
    return pytester


ARGS = ("-p", "bench.plugin", "--ladder=mine.toml", "--policy=none.json", "--device=cpu", "--limit=20")
CHOSEN = ("--lam=0.5,2", "--datasets=text.py,lookup.py", "--baselines=stored")


def run(harness: pytest.Pytester, *args: str) -> pytest.RunResult:
    """`pytest`, on the two data sets and two lambdas unless the arguments say otherwise."""
    with patch.dict(os.environ):
        # pytest-benchmark times nothing in a worker, and this run is none even if the tests run in one
        os.environ.pop("PYTEST_XDIST_WORKER", None)
        return harness.runpytest_inprocess(*ARGS, *CHOSEN, *args, syspathinsert=True, no_reraise_ctrlc=True)


STORED: dict[Path, bytes] = {}
"""The baseline that the first test recorded, for the others."""


def record(harness: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """The checkout with a baseline of its own (of as many items as --limit leaves)."""
    monkeypatch.setattr("bench.run.matrix.N_ITEMS", 20)
    if not STORED:
        result = run(harness, "bench", "--record-baseline", "--reason=first")
        assert result.ret == 0
        result.stdout.fnmatch_lines(["baseline recorded: *mine.json"])
        STORED.update(
            {path.relative_to(harness.path): path.read_bytes() for path in harness.path.glob("stored/*/*")}
        )
    for path, content in STORED.items():
        (harness.path / path).parent.mkdir(parents=True, exist_ok=True)
        (harness.path / path).write_bytes(content)
    return harness
