"""`asd convert`: what is no GGUF file, where it may not go, and what it takes; real files: tests/real."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from click.testing import CliRunner

from asd.cli import main

GGUF = b"GGUF\x03\x00\x00\x00"


def said(*arguments: object) -> str:
    result = CliRunner().invoke(main, ["convert", *map(str, arguments)])
    assert result.exit_code == 2
    assert result.output.count("\n") == 1
    return result.output


def test_what_cannot_be_converted_is_refused(tmp_path: Path) -> None:
    """One line that names the file or directory; nothing is written."""
    words = tmp_path / "words.txt"
    words.write_text("GGU")
    assert f"{words} is not a GGUF file" in said(words, tmp_path / "out")
    assert f"{tmp_path / 'gone.gguf'} is not there" in said(tmp_path / "gone.gguf", tmp_path / "out")
    file = tmp_path / "m.gguf"
    file.write_bytes(GGUF)
    assert f"{tmp_path} is there and not empty; name a new directory" in said(file, tmp_path)
    assert f"{words} is there and not empty" in said(file, words)
    assert f"{words} is no folder" in said(file, words / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("missing", [["gguf"], ["accelerate"], ["gguf", "accelerate"]])
def test_the_libraries_that_it_takes_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: list[str]
) -> None:
    """Without one of them the command says what to install."""
    file = tmp_path / "m.gguf"
    file.write_bytes(GGUF)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "asd.engines.checkpoints.gguf.find_spec", lambda name: None if name in missing else find("json")
    )
    assert f"needs {' and '.join(missing)}: pip install 'asd[gguf]'" in said(file, tmp_path / "out")


@pytest.mark.parametrize("name", ["m-00001-of-00003.gguf", "m-00003-of-00003.gguf"])
def test_a_part_of_a_split_model_is_to_be_joined_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Told by its name, as llama.cpp gives it: later parts say nothing of the model."""
    (tmp_path / name).write_bytes(GGUF)
    monkeypatch.setattr("asd.engines.checkpoints.gguf.find_spec", lambda _: importlib.util.find_spec("json"))
    message = said(tmp_path / name, tmp_path / "out")
    whole = f"llama-gguf-split --merge {tmp_path}/m-00001-of-00003.gguf whole.gguf"
    assert f"is one part of a split model; join the parts first (llama.cpp: `{whole}`)" in message
