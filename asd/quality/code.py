"""The program in a reply, and pass@k.

Models answer with a fenced block, with bare code, with code in prose, or, asked to go on, with the rest of
a function. The border: this module finds the program and counts; running it is `asd.quality.sandbox`'s.
"""

from __future__ import annotations

import ast
import re
from math import comb

__all__ = ["complete", "pass_at_k", "program_of"]

_FENCED = re.compile(r"```[ \t]*(?:[Pp]ython3?|py)?[ \t]*\r?\n(.*?)(?:\n[ \t]*```|\Z)", re.DOTALL)
_CODE_LINE = re.compile(r"^(?:def|class|import|from|@|async def)\b", re.MULTILINE)


def program_of(reply: str, name: str) -> str:
    """The Python program in a reply: the fenced block that defines `name`, else the first one, else the text.

    Text around unfenced code is cut away where that makes it valid Python.
    """
    blocks = _FENCED.findall(reply)
    if blocks:
        return next((block for block in blocks if _defines(block, name)), str(blocks[0]))
    if _parses(reply) or not (start := _CODE_LINE.search(reply)):
        return reply
    return _longest_valid(reply[start.start() :])


def complete(prompt: str, reply: str, name: str) -> str:
    """The program that a reply to an unfinished function makes of it.

    Args:
        prompt: Imports, helper functions, and a function without its body.
        reply: The whole function again, in whatever form, or the body that was missing.
        name: Of that function.
    """
    if reply.strip() and reply.lstrip("\n")[0].isspace() and "```" not in reply:
        return prompt + _body(reply)
    program = program_of(reply, name)
    if _defines(program, name):
        return f"{prompt}\n    pass\n\n{program}" if not _parses(prompt) else f"{prompt}\n\n{program}"
    return prompt + _body(program)


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
    definition = rf"^(?:(?:async )?def|class) {name}\b|^{name} *="
    return re.search(definition, program, re.MULTILINE) is not None


def _parses(program: str) -> bool:
    try:
        ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _longest_valid(program: str) -> str:
    """Without the lines at its end that keep it from being valid; as it is, where none of that helps."""
    lines = program.splitlines()
    beginnings = ("\n".join(lines[:n]) for n in range(len(lines), 0, -1))
    return next((text for text in beginnings if _parses(text)), program)


def _body(program: str) -> str:
    """Up to the first line that is no longer part of the function."""
    lines = program.splitlines()
    indented = [i for i, line in enumerate(lines) if i and line.strip() and not line[0].isspace()]
    return "\n".join(lines[: indented[0]] if indented else lines) + "\n"
