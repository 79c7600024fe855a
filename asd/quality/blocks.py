r"""Pieces of Python in a reply: between fences or tags, typed into an interpreter, or bare between prose.

    "Sure:\n```python\ndef f(): ...\n```\nUse it so:\n~~~\nf()\n~~~"  ->  "def f(): ...", "f()"

A fence ends at the same mark or with the text. A piece may be set in as a whole (in a list, in a quotation).

Scope: text in, pieces out, in their order; which of them is the answer is for `asd.quality.code` to say.
"""

from __future__ import annotations

import ast
import re
import textwrap
import warnings
from collections.abc import Callable, Iterator
from itertools import islice, takewhile

__all__ = ["bare", "fenced", "longest_valid", "parsed"]

_FENCE = re.compile(
    r"(?P<indent>^[ \t>]*|)(?P<marks>`{3,}|~{3,})[ \t]*(?P<info>[^\n`]*)\n(?P<code>.*?)"
    r"(?:(?P=marks)(?![`~\w])|\Z)"
    r"|```(?:python3?|py)?[ \t]*(?P<inline>[^`\n]+?)[ \t]*```"
    r"|(?:\[PYTHON\]|<code>)[ \t]*\n?(?P<tagged>.*?)(?:\[/PYTHON\]|</code>|\Z)",
    re.MULTILINE | re.DOTALL | re.IGNORECASE,
)
_PYTHON = re.compile(r"(?:i?python[\d.]*|py3?|pycon)?\b", re.IGNORECASE)
_QUOTED = re.compile(r"^[ \t]*> ?", re.MULTILINE)
_CODE_LINE = re.compile(r"^(?P<indent>[ \t]*)(?:def|class|import|from|@|async def)\b", re.MULTILINE)
_MOST_STARTS = 300
"""A text with more lines that look like code is a model's loop; trying them all would take minutes."""


def fenced(text: str) -> list[str]:
    """Pieces between fences or tags; those marked as another language only where there are no others."""
    found = [
        (_PYTHON.fullmatch((m["info"] or "").strip().split(" ")[0]), _inside(m))
        for m in _FENCE.finditer(text)
    ]
    return [code for is_python, code in found if is_python] or [code for _, code in found]


def bare(text: str) -> Iterator[str]:
    """The longest valid pieces that begin with a definition, decorator or import."""
    end = 0
    for start in islice(_CODE_LINE.finditer(text), _MOST_STARTS):
        if start.start() < end:
            continue
        lines = list(takewhile(_is_within(start["indent"]), text[start.start() :].splitlines(keepends=True)))
        if code := longest_valid(textwrap.dedent("".join(lines))):
            end = start.start() + sum(map(len, lines[: code.count("\n")]))
            yield code


def longest_valid(text: str) -> str:
    """The lines up to where they stop being Python; "" if the first one is none."""
    lines = text.splitlines(keepends=True)
    n = len(lines)
    while n:
        try:
            _parse("".join(lines[:n]))
        except SyntaxError as error:
            n = min(n, error.lineno or n) - 1
        except (ValueError, RecursionError, MemoryError):
            n -= 1
        else:
            break
    return "".join(lines[:n])


def _is_within(indent: str) -> Callable[[str], bool]:
    """Whether a line is indented at least so far, or empty."""
    return lambda line: line.startswith(indent) or not line.strip()


def parsed(code: str) -> ast.Module | None:
    """The code's syntax tree; None where it is no Python."""
    try:
        return _parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _parse(code: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the style of a model's code; as errors they would forbid it
        return ast.parse(code)


def _inside(found: re.Match[str]) -> str:
    code = (found["code"] or found["inline"] or found["tagged"] or "").removesuffix("\n")
    if ">" in (found["indent"] or ""):
        code = _QUOTED.sub("", code)
    return _typed(textwrap.dedent(code) if found["indent"] else code)


def _typed(code: str) -> str:
    """What was typed into an interpreter, where the code is a session of one; without what it only showed."""
    if not code.lstrip().startswith(">>> "):
        return code
    import doctest  # noqa: PLC0415  (brings a debugger along, which imports any `code.py` of the user's)

    try:
        examples = doctest.DocTestParser().get_examples(code)
    except ValueError:
        return code
    return "".join(example.source for example in examples if not _shows(example.source))


def _shows(source: str) -> bool:
    tree = parsed(source)
    return tree is not None and all(isinstance(statement, ast.Expr) for statement in tree.body)
