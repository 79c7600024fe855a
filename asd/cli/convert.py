"""`asd convert`: a GGUF file into a model directory that a ladder can name."""

from __future__ import annotations

from pathlib import Path

import click

from asd.cli.examples import examples
from asd.errors import ConfigError

DTYPES = ("float32", "bfloat16", "float16")


@click.command(epilog=examples("asd convert SmolLM2-135M-Instruct.Q4_1.gguf models/smollm2"))
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "--dtype", type=click.Choice(DTYPES), default="float32", show_default=True, help="Of the weights."
)
def convert(file: Path, directory: Path, dtype: str) -> None:
    """Unpack the GGUF FILE into DIRECTORY: safetensors, tokenizer, chat template and licence.

    DIRECTORY can be a stage's model then.
    """
    try:
        from asd.engines.checkpoints.gguf import convert as convert_file  # noqa: PLC0415  (torch takes seconds)
    except ImportError as error:
        raise ConfigError(f"{error}: pip install 'asd[gguf]'") from error
    convert_file(file, directory, dtype, lambda step: click.echo(step, err=True))
    click.echo(f"{directory}: converted from {file}; its licence is in README.md there")
