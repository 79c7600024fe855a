"""The public interface is what it says it is, and importing it is cheap."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import asd

ROOT = Path(asd.__file__).parent.parent
PUBLIC = [
    "GREEDY",
    "LOSSLESS",
    "STOP",
    "VERIFY",
    "Acceptance",
    "AnswerForm",
    "AsdError",
    "Cascade",
    "Completion",
    "Decision",
    "Draft",
    "Drafter",
    "Engine",
    "Failure",
    "Health",
    "Ladder",
    "Message",
    "Outcome",
    "Policy",
    "PolicyArtifact",
    "Prices",
    "Query",
    "Sampling",
    "Split",
    "Stage",
    "Trace",
    "TraceLog",
    "Usage",
    "Verification",
    "Verifier",
    "Workload",
    "collect",
    "collect_traces",
    "fit",
    "fit_policy",
    "load",
    "load_policy",
    "open_engines",
    "read_traces",
]


def test_public_names() -> None:
    """The public names are these; a change of the interface is a change of this list."""
    assert asd.__all__ == PUBLIC
    assert all(hasattr(asd, name) for name in PUBLIC)


def test_no_public_name_hides_a_module() -> None:
    """No exported name is also the name of a module."""
    modules = {path.stem for path in Path(asd.__file__).parent.iterdir()}
    assert modules.isdisjoint(asd.__all__)


def test_importing_is_cheap_and_silent() -> None:
    """A fresh interpreter imports `asd` and its command line without torch and the fitting libraries."""
    code = "import sys, asd, asd.cli; print({'torch', 'transformers', 'sklearn', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_the_version_is_stated_once() -> None:
    """The build takes the version from `asd.__version__`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "asd.__version__"}
