"""The proofs of `.ci/proofs.toml`: each of them runs small, and what runs is what is stored."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

from asd.measurement.records import SCHEMA_VERSION
from bench.alarms import STORED as BASELINE

ROOT = Path(__file__).parent.parent
PROOFS = tomllib.loads((ROOT / ".ci" / "proofs.toml").read_text("utf8"))


@pytest.fixture
def prove(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`.ci/prove` as a module, which stores in a folder of the test."""
    loader = SourceFileLoader("prove", str(ROOT / ".ci" / "prove"))
    spec = spec_from_loader("prove", loader)
    assert spec is not None
    module = module_from_spec(spec)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader.exec_module(module)
    monkeypatch.setattr(module, "STORED", tmp_path / "proofs")
    return module


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, proof in PROOFS.items() if "small" in proof])
def test_every_proof_runs_small(name: str):
    """Its command is one that there is, and what it claims holds at that size."""
    if (needed := PROOFS[name].get("needs")) and needed not in os.environ:
        pytest.skip(f"{needed} is not set")
    if name == "alarms" and json.loads(BASELINE.read_bytes())["schema_version"] < SCHEMA_VERSION:
        pytest.skip("the stored baseline is older than the harness: record it again")
    command = [sys.executable, ".ci/prove", "--small", name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"proof {name} (small): holds" in done.stdout
    assert "Traceback" not in done.stdout


def test_a_full_proof_is_stored_with_commit_date_and_end(
    prove: ModuleType, capsys: pytest.CaptureFixture[str]
):
    """A failure too: it is what was found."""
    says = {
        "says": "one is one",
        "small": "true",
        "full": 'WORD=two python -c \'import os; print(" 10%|# | 1/10"); print(os.environ["WORD"])\'',
    }
    prove.PROOFS = {"one": says, "none": says | {"full": "python -c 'raise SystemExit(3)'"}}
    assert prove.prove("one", "full")
    assert not prove.prove("none", "full")
    stored = (prove.STORED / "one.txt").read_text("utf8").splitlines()
    assert stored[0] == "says:    one is one"
    assert [line.split(":")[0] for line in stored[:5]] == ["says", "command", "commit", "date", "end"]
    assert stored[4].startswith("end:     holds after ")
    assert stored[5:] == ["", "two"]  # a progress bar says nothing afterwards
    assert "FAILED with exit code 3" in (prove.STORED / "none.txt").read_text("utf8")
    assert "proof none (full): FAILED" in capsys.readouterr().out


def test_small_proofs_store_nothing_and_missing_data_is_said(
    prove: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Nothing that was not run is taken for proven."""
    monkeypatch.delenv("ASD_DATA", raising=False)
    prove.PROOFS = {"data": {"small": "false", "needs": "ASD_DATA"}, "one": {"small": "true"}}
    assert prove.prove("data", "small")
    assert prove.prove("one", "small")
    assert "proof data: not run, ASD_DATA is not set" in capsys.readouterr().out
    assert not prove.STORED.exists()
