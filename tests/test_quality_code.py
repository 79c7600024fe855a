"""Programs in replies, and pass@k against counting all subsets."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asd.quality.code import complete, pass_at_k, program_of

PROMPT = (
    "from math import sqrt\n\n\ndef root(x: float) -> float:\n"
    '    """The root.\n    >>> root(4.0)\n    2.0\n    """\n'
)
FUNCTION = "def root(x):\n    return sqrt(x)"


def result(program: str) -> object:
    namespace: dict[str, object] = {}
    exec(program, namespace)
    return namespace["root"](4.0)  # type: ignore[operator]


@pytest.mark.parametrize(
    "reply",
    [
        "    return sqrt(x)\n",
        "    return sqrt(x)\n\n\nprint(root(4))\nassert False\n",
        "\n    y = sqrt(x)\n\n    return y\n\ndef other():\n    oops(\n",
        FUNCTION,
        f"```python\n{FUNCTION}\n```",
        f"```\n{FUNCTION}\n```",
        f"```py\n{PROMPT}    return sqrt(x)\n```",
        f"Sure! Here it is:\n\n```python\n{FUNCTION}\n```\n\nUse it so:\n```python\nprint(root(9))\n```",
        f"First install nothing:\n```\npip\n```\nthen\n```python\n{FUNCTION}\n```",
        f"```python\n{FUNCTION}\n",
        f"{PROMPT}    return sqrt(x)",
        f"Here is the function:\n{FUNCTION}\n\nThis works because roots are roots.",
        "```python\n    return sqrt(x)\n```",
        "root = lambda x: sqrt(x)",
    ],
)
def test_a_function_is_completed(reply: str) -> None:
    """Bare body, whole function, fenced, in prose, cut off: all give the same working function."""
    assert result(complete(PROMPT, reply, "root")) == 2.0


def test_a_prompt_without_a_docstring_is_completed() -> None:
    """Where the prompt alone is not valid Python, a whole function still replaces it."""
    bare = "from math import sqrt\ndef root(x):\n"
    assert result(complete(bare, FUNCTION, "root")) == 2.0
    assert result(complete(bare, "    return sqrt(x)\n", "root")) == 2.0


@pytest.mark.parametrize("reply", ["", "I cannot.", "```python\n```", "def", "\0", "(" * 500])
def test_nonsense_is_a_program_that_fails(reply: str) -> None:
    """Whatever is written, something comes back, and nothing is right by accident."""
    with pytest.raises((SyntaxError, AssertionError, ValueError, MemoryError)):
        assert result(complete(PROMPT, reply, "root")) == 2.0


def test_the_block_that_defines_the_name_is_taken() -> None:
    """Among several blocks the one with the function; without any name, the first."""
    reply = "```python\nx = 1\n```\n```python\ndef f(): pass\n```"
    assert program_of(reply, "f") == "def f(): pass"
    assert program_of(reply, "g") == "x = 1"


@given(st.integers(1, 7).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(counts: tuple[int, int, int]) -> None:
    """The estimate equals counting every choice of k samples."""
    n, n_right, k = counts
    choices = list(combinations([True] * n_right + [False] * (n - n_right), k))
    assert pass_at_k(n, n_right, k) == pytest.approx(sum(map(any, choices)) / len(choices))


@pytest.mark.parametrize("counts", [(0, 0, 1), (3, 4, 1), (3, 1, 0), (3, 1, 4), (3, -1, 1)])
def test_impossible_counts_are_refused(counts: tuple[int, int, int]) -> None:
    """More right ones than samples, or more asked for than there are."""
    with pytest.raises(ValueError, match="is not defined"):
        pass_at_k(*counts)
