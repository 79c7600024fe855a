"""Model directories that cannot be a stage: told before anything is loaded, each with its own remedy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from asd.engines.revisions import local_directory, revision
from asd.errors import EngineError
from asd.ladder import Stage
from asd.prices import Prices

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 269060552\n"
GGUF = b"GGUF\x03\x00\x00\x00"


def stage(model: str | Path) -> Stage:
    return Stage("S", str(model), Prices(1, 0, 0))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        (path / name).write_bytes(b"x")
    return path


def only(name: str, content: bytes) -> Callable[[Path], object]:
    """In place of the weights there is one other file."""

    def change(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(content)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            only("m.Q4_1.gguf", GGUF),
            r"m\.Q4_1\.gguf is a GGUF file; unpack it \(`asd convert /.*m\.Q4_1\.gguf DIRECTORY`\)",
        ),
        (only("weights", GGUF), "weights is a GGUF file; unpack it .* and name the directory"),
        (
            only("pytorch_model.bin", b"PK"),
            "but pytorch_model.bin; pickled weights .* save_pretrained, which writes",
        ),
        (only("consolidated.00.pth", b"PK"), "but consolidated.00.pth; pickled weights can run code"),
        (
            only("README.md", b"#"),
            r"no weights \(\*\.safetensors\); put a model saved with save_pretrained there",
        ),
        (
            lambda f: (f / "model.safetensors").write_bytes(POINTER),
            "model.safetensors is a Git LFS pointer.* lfs pull",
        ),
        (lambda f: (f / "tokenizer.json").write_bytes(POINTER), "tokenizer.json is a Git LFS pointer"),
        (lambda f: (f / "tokenizer.model").write_bytes(POINTER), "tokenizer.model is a Git LFS pointer"),
        (
            lambda f: (f / "adapter_config.json").write_text("{}"),
            r'a PEFT adapter, .*give the stage adapter = "',
        ),
        (only("adapter_config.json", b"{}"), "a PEFT adapter, not a whole model"),
    ],
)
def test_what_is_no_model_is_refused_with_its_remedy(
    folder: Path, change: Callable[[Path], object], message: str
) -> None:
    """Stage, path and what to do are named; nothing of it says to restore files where none is broken."""
    assert local_directory(stage(folder)) == folder
    change(folder)
    with pytest.raises(EngineError, match=message) as raised:
        revision(stage(folder))
    assert str(raised.value).startswith(f"stage 'S': {folder}")
    assert "restore" not in str(raised.value)


def test_a_gguf_file_is_to_be_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether named by its full path or from the working directory, by its suffix or its first bytes."""
    monkeypatch.chdir(tmp_path)
    for name in ("small.gguf", "SMALL.GGUF", "blob"):
        (tmp_path / name).write_bytes(GGUF)
        for model in (tmp_path / name, name):
            with pytest.raises(EngineError, match=f"a GGUF file; unpack it .`asd convert {model} DIRECTORY`"):
                revision(stage(model))
    with pytest.raises(EngineError, match="is a GGUF file, and is not there; correct"):
        revision(stage("gone.gguf"))
    (tmp_path / "notes.txt").write_text("words")
    with pytest.raises(EngineError, match=r"notes\.txt is not a directory; correct"):
        revision(stage(tmp_path / "notes.txt"))
