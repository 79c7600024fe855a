"""Which weights a stage has, told without loading them; no torch is needed for a local directory.

    sha256:...+...               a directory: weights and settings, then templates and tokenizers
    3f8a90...                    a repository on the hub: its commit
    adapter:<of its files>:...   either of them with a LoRA adapter

A stage's `model` is a directory if it is an absolute path or exists, else the name of a repository on the
Hugging Face hub, or whatever the server calls it that serves it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from asd.engines.checkpoints.adapters import CONFIG, WEIGHTS, adapter_of
from asd.engines.checkpoints.directories import check_directory, is_gguf
from asd.engines.registry import open_stage
from asd.errors import EngineError
from asd.ladder import Ladder, Stage

__all__ = [
    "base_revision",
    "directory_revision",
    "local_directory",
    "revision",
    "revisions",
    "same_revision",
    "with_adapter",
]

TEXT_FILES = (
    "*.jinja",
    "additional_chat_templates/*",
    "*.model",
    "*.tiktoken",
    "*.spm",
    "*.bpe",
    "*.codes",
    "*.vocab",
    "vocab*.txt",
    "merges*.txt",
    "dict*.txt",
)
"""Files beside weights and JSON that decide what a model reads and writes: chat templates and tokenizers."""


def revisions(ladder: Ladder, engine: str = "transformers") -> dict[str, str]:
    """Revision of the model of every stage: "sha256:..." over a directory's files, or the hub's commit.

    Of a stage behind a server it is what the server says it serves, "served:..."; no more can be known here.
    An engine of your own may have a `revision`; else it is the engine's name and the stage's model.

    Args:
        ladder: Whose stages.
        engine: What runs the stages that do not name an engine themselves.

    Raises:
        EngineError: A directory holds no weights, or a repository or server cannot be reached.
    """
    return {stage.name: _run_by(stage, stage.engine or engine) for stage in ladder.stages}


def local_directory(stage: Stage) -> Path | None:
    """The local directory of a stage, checked for weights; None for a hub repository.

    Raises:
        EngineError: As `asd.engines.checkpoints.directories.check_directory`.
    """
    path = Path(stage.model).expanduser()
    if not path.is_absolute() and not path.exists() and not is_gguf(path):
        return None
    check_directory(stage, path)
    return path


def directory_revision(directory: str | Path) -> str:
    """Hash of all files of a model directory that its answers depend on.

    "sha256:" over safetensors and JSON (weights, adapters, configuration, tokenizer), and where there are
    other files of templates or tokenizers "+" and a hash of those: "sha256:...+...".

    Raises:
        EngineError: A file cannot be read.
    """
    directory = Path(directory)
    weights = _digest(directory, ("*.safetensors", "*.json"))
    texts = _digest(directory, TEXT_FILES)
    return f"sha256:{weights}+{texts[:16]}" if texts else f"sha256:{weights}"


def _digest(directory: Path, patterns: Sequence[str]) -> str:
    """Hash of names and contents; empty where no file matches."""
    files = sorted({path for pattern in patterns for path in directory.glob(pattern) if not path.is_dir()})
    total = hashlib.sha256()
    for path in files:
        try:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise EngineError(f"cannot read {path}: {error.strerror}; restore the model's files") from error
        total.update(f"{path.relative_to(directory).as_posix()}:{content}\n".encode())
    return total.hexdigest() if files else ""


def same_revision(recorded: str, found: str) -> bool:
    """Whether two revisions of a model may be the same.

    Those recorded by earlier versions know nothing of templates and tokenizers outside of JSON ("sha256:..."
    without "+"): what they know is compared.
    """
    return recorded == found or (recorded.startswith("sha256:") and found.startswith(f"{recorded}+"))


def revision(stage: Stage) -> str:
    """Revision of one stage's model, as in `revisions`."""
    return with_adapter(stage, base_revision(stage))


def base_revision(stage: Stage) -> str:
    """The same without the stage's adapter."""
    directory = local_directory(stage)
    return directory_revision(directory) if directory else _hub_commit(stage)


def with_adapter(stage: Stage, base: str) -> str:
    """The revision of a model whose own is `base`, with the stage's adapter if it has one.

    The adapter comes first, so that no revision that an earlier version recorded begins like it.

    Raises:
        EngineError: As `asd.engines.checkpoints.adapters.adapter_of`.
    """
    adapter = adapter_of(stage)
    return base if adapter is None else f"adapter:{_digest(adapter.path, (CONFIG, WEIGHTS))}:{base}"


def _run_by(stage: Stage, engine: str) -> str:
    if engine != "openai" and ":" not in engine:
        return revision(stage)
    opened = open_stage(stage, None, engine)
    try:
        return with_adapter(stage, str(getattr(opened, "revision", f"{engine}:{stage.model}")))
    finally:
        opened.unload()


def _hub_commit(stage: Stage) -> str:
    """The commit the hub has now, or offline the one in its cache: files lie in a directory of that name."""
    from huggingface_hub import hf_hub_download  # noqa: PLC0415  (not every ladder is on the hub)

    try:
        return Path(hf_hub_download(stage.model, "config.json")).parent.name
    except (OSError, ValueError) as error:
        remedy = (
            "download the GGUF file, unpack it (`asd convert FILE DIRECTORY`) and name the directory"
            if "gguf" in stage.model.lower()
            else "correct the stage's model in the ladder, or download it while there is a network"
        )
        raise EngineError(
            f"stage {stage.name!r}: cannot look up {stage.model} on the hub: {error}; {remedy}"
        ) from error
