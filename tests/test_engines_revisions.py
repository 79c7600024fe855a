"""Revisions of local models and of the hub, the latter from a cache written by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import asd
from asd.engines.revisions import revisions
from asd.errors import EngineError
from asd.ladder import Ladder, Stage
from asd.prices import Prices

ROOT = Path(asd.__file__).parent.parent


def ladder(model: str | Path) -> Ladder:
    return Ladder("one", (Stage("S", str(model), Prices(1, 0, 0)),), "declared", "made up")


def model(folder: Path, weights: bytes = b"w", config: str = "{}") -> Path:
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "config.json").write_text(config)
    return folder


def test_the_files_decide_not_the_place(tmp_path: Path) -> None:
    """Equal files have one revision wherever they lie; other weights or settings have another."""
    same = [revisions(ladder(model(tmp_path / name)))["S"] for name in ("a", "b")]
    assert same[0] == same[1]
    assert same[0].startswith("sha256:")
    assert revisions(ladder(model(tmp_path / "c", weights=b"v")))["S"] != same[0]
    assert revisions(ladder(model(tmp_path / "d", config='{"x": 1}')))["S"] != same[0]


def test_files_that_answers_do_not_depend_on_are_left_out(tmp_path: Path) -> None:
    """A readme beside the weights changes nothing."""
    path = model(tmp_path / "a")
    before = revisions(ladder(path))
    (path / "README.md").write_text("words")
    assert revisions(ladder(path)) == before


def test_missing_weights_are_named(tmp_path: Path) -> None:
    """A directory without weights is an error that names stage and path."""
    with pytest.raises(EngineError, match=f"stage 'S': {tmp_path}: no weights"):
        revisions(ladder(tmp_path))


def _of_hub(cache: Path, name: str) -> str:
    code = (
        "import sys; from asd.errors import EngineError; from tests.test_engines_revisions import ladder\n"
        "from asd.engines.revisions import revisions\n"
        "try: print(revisions(ladder(sys.argv[1]))['S'])\n"
        "except EngineError as error: print('EngineError', error)"
    )
    offline = os.environ | {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code, name]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=offline).stdout


def test_a_repository_is_known_by_its_commit(tmp_path: Path) -> None:
    """The commit is looked up without weights; an unknown repository is an error."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--org--small"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "snapshots" / commit / "config.json").write_text('{"model_type": "llama"}')
    assert _of_hub(tmp_path, "org/small") == f"{commit}\n"
    assert _of_hub(tmp_path, "org/none").startswith(
        "EngineError stage 'S': cannot look up org/none on the hub"
    )
