"""The public interface is what it says it is, and importing it is cheap."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import asd
from asd.collection import read_collected
from asd.engines.cache import ResponseStore
from asd.engines.revisions import directory_revision
from asd.errors import DataError
from asd.prices import Prices, write_prices
from asd.research.recordings.recording import models_in, read_recording

ROOT = Path(asd.__file__).parent.parent
PUBLIC = [
    "GREEDY",
    "LOSSLESS",
    "STOP",
    "Acceptance",
    "Action",
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


@pytest.mark.slow
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


def _parameters(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Name and annotation of every parameter of a module's public functions and methods."""
    listed = next((n.value for n in tree.body if "__all__" in ast.unparse(n).partition("=")[0]), None)
    public = ast.literal_eval(listed) if isinstance(listed, ast.AST) else []
    for node in tree.body:
        if getattr(node, "name", None) in public:
            for function in ast.walk(node):
                if isinstance(function, ast.FunctionDef) and not re.match("_(?!_init__)", function.name):
                    for parameter in (*function.args.args, *function.args.kwonlyargs):
                        if parameter.annotation:
                            yield f"{function.name}({parameter.arg})", ast.unparse(parameter.annotation)


@pytest.mark.slow
def test_a_path_may_be_given_as_text() -> None:
    """Every public function that takes a path takes a `str` as well."""
    found = {
        f"{path.relative_to(ROOT)}: {name}": annotation
        for path in sorted((ROOT / "asd").rglob("*.py"))
        if "cli" not in path.parts
        for name, annotation in _parameters(ast.parse(path.read_text("utf-8")))
        if re.search(r"\bPaths?\b", annotation)
    }
    assert len(found) > 20
    lacking = {name for name, a in found.items() if not re.search(r"\bstr\b|\bPaths\b", a)}
    assert not lacking


def test_files_are_read_and_written_by_text(tmp_path: Path) -> None:
    """Prices, recordings, collected outcomes, stores and hashes, by one path or several."""
    prices = str(tmp_path / "prices.json")
    write_prices(prices, {1: {"S": Prices(1, 0, 0)}}, "declared", "by hand")
    assert json.loads(Path(prices).read_text())["stages"]
    recorded = tmp_path / "recorded.jsonl"
    outputs = {name: {"score": 1.0, "cost": 1.0, "response": "4"} for name in ("S", "L")}
    recorded.write_text(json.dumps({"id": "1", "prompt": "2+2", "outputs": outputs}))
    assert models_in(str(recorded)) == ("S", "L")
    for given in (str(recorded), recorded, [str(recorded)]):
        assert read_recording(given, ["S", "L"]).keys == (("recorded", "1"),)
    with pytest.raises(DataError, match="missing"):
        read_collected(str(tmp_path / "missing.jsonl"), asd.Ladder.load("tiny"), "test")
    with ResponseStore(str(tmp_path / "store")) as store:
        assert store.find(["x"]) == [None]
    (tmp_path / "config.json").write_text("{}")
    assert directory_revision(str(tmp_path)) == directory_revision(tmp_path)
