"""Model directories that cannot be a stage, told from names and first bytes and refused with the remedy.

Scope: files are looked at, never loaded; no torch.
"""

from __future__ import annotations

from pathlib import Path

from asd.errors import EngineError
from asd.ladder import Stage

__all__ = ["check_directory", "check_pointers", "is_gguf"]

LFS_POINTER = b"version https://git-lfs"
"""How the text begins that Git keeps in place of a large file."""
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
CHECKED = ("*.safetensors", "*.json", "*.model", "*.jinja")
"""Files that may be Git LFS pointers."""


def check_directory(stage: Stage, directory: str | Path) -> None:
    """Refuse what is no directory with safetensors of a whole model.

    Raises:
        EngineError: Nothing is there, or something else: a GGUF file, a PEFT adapter, pickled weights,
            pointers of Git LFS.
    """
    directory = Path(directory)
    where = f"stage {stage.name!r}: {directory}"
    if is_gguf(directory):
        raise EngineError(_convert(where, directory))
    if not directory.is_dir():
        raise EngineError(f"{where} is not a directory; correct the stage's model in the ladder")
    if (directory / "adapter_config.json").exists():
        raise EngineError(
            f"{where} holds a PEFT adapter, not a whole model; name the model that it was trained on as the "
            f'stage\'s model, and give the stage adapter = "{directory}"'
        )
    if not any(directory.glob("*.safetensors")):
        raise EngineError(_without_weights(where, directory))
    check_pointers(where, directory)


def check_pointers(where: str, directory: str | Path) -> None:
    """Refuse files that Git LFS has left where they should be; `where` begins the message.

    Raises:
        EngineError: There is one.
    """
    for pattern in CHECKED:
        for path in sorted(Path(directory).glob(pattern)):
            if _begins_with(path, LFS_POINTER):
                raise EngineError(
                    f"{where}: {path.name} is a Git LFS pointer, not the file itself; "
                    "run `git lfs pull` there"
                )


def is_gguf(path: str | Path) -> bool:
    """Whether this is a GGUF file, by its name or its first bytes."""
    path = Path(path)
    return not path.is_dir() and (path.suffix.lower() == ".gguf" or _begins_with(path, b"GGUF"))


def _without_weights(where: str, directory: Path) -> str:
    for path in sorted(directory.iterdir()):
        if is_gguf(path):
            return _convert(f"{where}: no weights (*.safetensors)", path)
    pickled = sorted(path.name for pattern in PICKLED for path in directory.glob(pattern))
    if pickled:
        return (
            f"{where}: no weights (*.safetensors), but {pickled[0]}; pickled weights can run code and are "
            "never read: save the model again with save_pretrained, which writes safetensors"
        )
    return (
        f"{where}: no weights (*.safetensors); put a model saved with save_pretrained there, or correct the "
        "stage's model in the ladder"
    )


def _convert(where: str, path: Path) -> str:
    if not path.exists():
        return (
            f"{where}: {path.name} is a GGUF file, and is not there; correct the stage's model in the ladder"
        )
    return (
        f"{where}: {path.name} is a GGUF file; unpack it (`asd convert {path} DIRECTORY`) and name the "
        'directory, or serve it (llama.cpp) and give the stage engine = "openai"'
    )


def _begins_with(path: Path, start: bytes) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(start)) == start
