"""The program in a reply, and pass@k.

Models answer with one fenced block or several, with bare code, with code in prose, or, asked to continue,
with the rest of a function. The last piece that defines what is asked for counts, if it is whole: a
correction comes later, an example of use defines nothing. What a model thought aloud is not run.

Scope: this module finds the program and counts; running it is `asd.quality.sandbox`'s.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Sequence
from math import comb

from asd.quality.blocks import bare, fenced, longest_valid, parsed
from asd.quality.replies import written

__all__ = ["complete", "pass_at_k", "program_of"]


def program_of(reply: str, name: str) -> str:
    """The Python program in a reply: the last whole piece of code that defines `name`.

    Definitions and imports of earlier pieces that it uses go before it. Where no piece defines the name it
    is the first piece, and where there is no code at all the text.
    """
    text = written(reply)
    pieces = fenced(text) or ([text] if parsed(text) else list(bare(text)))
    defining = [i for i, piece in enumerate(pieces) if _defines(piece, name)]
    if not defining:
        return pieces[0] if pieces else text
    whole = [i for i in defining if parsed(pieces[i])]
    chosen = (whole or defining)[-1]
    program = pieces[chosen] if whole else longest_valid(pieces[chosen])
    return _with_helpers(pieces[:chosen], program, name)


def complete(prompt: str, reply: str, name: str) -> str:
    """The program that a reply to an unfinished function makes of it.

    Args:
        prompt: Imports, helper functions, and a function without its body.
        reply: The whole function again, in whatever form, or the body that was missing.
        name: Of that function.
    """
    text = written(reply)
    program = text if _is_body(text, name) else program_of(reply, name)
    if _defines(program, name):
        return f"{prompt}\n    pass\n\n{program}" if parsed(prompt) is None else f"{prompt}\n\n{program}"
    if program[:1].isspace():
        return prompt + _body(program)
    # a body that has lost its indentation, or that of its first line
    bodies = (textwrap.indent(program, "    "), _body(f"    {program}"))
    return next((prompt + body for body in bodies if parsed(prompt + body)), prompt + program)


def pass_at_k(n: int, n_right: int, k: int) -> float:
    """Unbiased estimate of the chance that at least one of `k` samples passes (arXiv 2107.03374, eq. 1).

        1 - C(n - c, k) / C(n, k)

    Args:
        n: Samples drawn.
        n_right: c, those that passed.
        k: At least 1, at most `n`.

    Raises:
        ValueError: The counts contradict each other.
    """
    if not (1 <= k <= n and 0 <= n_right <= n):
        raise ValueError(f"pass@{k} of {n_right} right among {n} samples is not defined")
    return 1.0 - comb(n - n_right, k) / comb(n, k)


def _defines(program: str, name: str) -> bool:
    name = re.escape(name)
    definition = rf"^(?:(?:async )?def|class) {name}\b|^{name} *(?::[^=\n]*)?="
    return re.search(definition, program, re.MULTILINE) is not None


def _is_body(text: str, name: str) -> bool:
    """Whether a text is the indented rest of a function."""
    begins_indented = text.strip() != "" and text.lstrip("\n")[0].isspace()
    return begins_indented and not fenced(text) and not _defines(textwrap.dedent(text), name)


def _body(program: str) -> str:
    """Up to the first line that is no longer part of the function."""
    lines = program.splitlines()
    indented = [i for i, line in enumerate(lines) if i and line.strip() and not line[0].isspace()]
    return "\n".join(lines[: indented[0]] if indented else lines) + "\n"


def _with_helpers(earlier: Sequence[str], program: str, name: str) -> str:
    """A program behind those earlier pieces of which it uses a definition or an import."""
    tree = parsed(program) or ast.Module([], [])
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    needed = [piece for piece in earlier if used & _defined(piece) and not _defines(piece, name)]
    return "\n\n".join([*needed, program])


def _defined(piece: str) -> set[str]:
    """Names that a piece defines or imports, if it does nothing else."""
    statements = getattr(parsed(piece), "body", [])
    defining = [s for s in statements if isinstance(s, ast.FunctionDef | ast.ClassDef)]
    imports = [s for s in statements if isinstance(s, ast.Import | ast.ImportFrom)]
    if len(defining) + len(imports) < len(statements):
        return set()
    aliases = [alias for statement in imports for alias in statement.names]
    return {s.name for s in defining} | {a.asname or a.name.partition(".")[0] for a in aliases}
