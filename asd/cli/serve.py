"""`asd serve ...`: the keys and the books of a server. The server itself, an endpoint, is not there yet."""

from __future__ import annotations

import click

from asd.cli.keys import keys
from asd.cli.ledger import correct, ledger

__all__ = ["serve"]


@click.group()
def serve() -> None:
    """Keys, caps and spend of what serves a ladder (`asd.serving`)."""


for command in (keys, ledger, correct):
    serve.add_command(command)
