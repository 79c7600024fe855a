"""Revisions of local models and of the hub, the latter from a cache written by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import asd
from asd.engines.revisions import revisions, same_revision
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


@pytest.mark.slow
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


@pytest.mark.parametrize(
    "name",
    [
        "chat_template.jinja",
        "additional_chat_templates/tool_use.jinja",
        "tokenizer.model",
        "sentencepiece.bpe.model",
        "merges.txt",
        "vocab.txt",
        "qwen.tiktoken",
        "vocab.bpe",
        "generation_config.json",
        "adapter_model.safetensors",
        "chat_template.json",
        "added_tokens.json",
    ],
)
def test_every_file_that_decides_answers_is_in_the_revision(tmp_path: Path, name: str) -> None:
    """To add or change a template, a file of the tokenizer, an adapter or settings makes another model."""
    path = model(tmp_path / "a")
    found = [revisions(ladder(path))["S"]]
    (path / name).parent.mkdir(exist_ok=True)
    for content in ("one", "two"):
        (path / name).write_text(content)
        found.append(revisions(ladder(path))["S"])
    assert len(set(found)) == 3


def test_recorded_revisions_of_the_embedded_ladder_stay_valid() -> None:
    """What the baselines hold was recorded before templates were hashed: it still names these weights."""
    stored = json.loads((ROOT / "baselines/cpu-x86-64-x1-float32-b1-transformers/tiny.json").read_text())
    recorded, found = stored["run"]["header"]["ladder"]["models"], revisions(Ladder.load("tiny"))
    assert recorded.keys() == found.keys()
    for stage, was in recorded.items():
        assert same_revision(was, found[stage])
        assert not same_revision(was.replace("a", "b"), found[stage])


def test_what_an_earlier_version_recorded_is_compared_as_far_as_it_goes() -> None:
    """Weights alone are compared with a revision that knows no templates; nothing else is equal."""
    assert same_revision("sha256:aa", "sha256:aa+1")
    assert not same_revision("sha256:aa+1", "sha256:aa+2")
    assert not same_revision("sha256:aa+1", "sha256:aa")
    assert not same_revision("sha256:aa", "sha256:aab")
    assert not same_revision("served:m", "served:m+1")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """A link into a cache that was cleared: the error names the file."""
    path = model(tmp_path / "a")
    (path / "merges.txt").symlink_to(tmp_path / "gone")
    with pytest.raises(EngineError, match=r"cannot read .*merges\.txt"):
        revisions(ladder(path))
