"""The answer in a reply, in one form for all who gave it: replies that say the same are equal.

    choice   the letter                            "The answer is (B) because ..."  ->  "B"
    number   the fraction in lowest terms          "... #### 1,234.50"              ->  "2469/2"
    words    normalised as for exact match         "The answer is the Seine."       ->  "seine"
    code     the program without its layout        "Sure: ```python ... ```"        ->  "def f(x): ..."
    text     the reply, as it is, without thoughts

Scope: what models said is compared; whether it is right is not asked, that is a workload's score.
"""

from __future__ import annotations

import ast
import textwrap
from functools import lru_cache

from asd.quality.blocks import parsed
from asd.quality.choice import choice_of
from asd.quality.code import program_of
from asd.quality.exact import normalise, stated
from asd.quality.number import number_of
from asd.quality.thinking import without_thinking
from asd.types import AnswerForm

__all__ = ["answer_of"]

_MOST_OPTIONS = 26


@lru_cache(maxsize=4096)  # asked for again in every state that a query passes
def answer_of(form: AnswerForm, text: str) -> str | None:
    """What a reply answers; None where it states no answer of this form."""
    said = without_thinking(text)
    reply = said.partition(form.until)[0].strip() if form.until else said
    match form.kind:
        case "choice":
            return choice_of(reply, form.options or ("",) * _MOST_OPTIONS)
        case "number":
            number = number_of(reply)
            return None if number is None else str(number)
        case "words":
            return normalise(stated(reply)) or None
        case "code":
            tree = parsed(textwrap.dedent(program_of(reply, form.name)))
            return ast.unparse(tree) or None if tree else None
    return reply if reply or not text else None
