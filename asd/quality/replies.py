r"""The part of a model's text that is its reply, in plain characters.

    "<think>A?</think>\n\uff22\n\nQuestion: What is ...?\nAnswer: C"  ->  "B"

Left out are thoughts (`asd.quality.thinking`) and what follows the reply: special tokens that were written
out, and the next question that a base model asks itself. Full-width letters and digits, curly quotes, the
many dashes and spaces become those of ASCII, so that what reads a reply has to know one of each.

Scope: text in, text out; what the reply says is read by `choice`, `number` and `exact`.
"""

from __future__ import annotations

import re

from asd.quality.thinking import without_thinking

__all__ = ["plain", "reply_of", "written"]

_PLAIN = (
    {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
    | dict.fromkeys(map(ord, "\u2018\u2019\u02bc\u2032"), "'")
    | dict.fromkeys(map(ord, "\u201c\u201d\u201e\u00ab\u00bb"), '"')
    | dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2212\ufe63"), "-")
    | dict.fromkeys(map(ord, "\u2014\u2015"), " - ")
    | dict.fromkeys(map(ord, "\u00a0\u2002\u2003\u2007\u2009\u202f\u3000"), " ")
    | dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff"), "")
    | {ord("\u2026"): "...", ord("\u3002"): ". ", ord("\u3001"): ", ", ord("\u3010"): "[", ord("\u3011"): "]"}
)
_NEXT = re.compile(
    r"\n[ \t#*]*(?:(?:next |new )?(?:question|problem|exercise)|q|human|user)[ \t]*\d*[ \t]*:", re.IGNORECASE
)
_SPECIAL = re.compile(
    r"<\|?(?:im_end|im_start|eot_id|endoftext|end_of_text|end_of_turn|end_of_solution|eos)\|?>|</s>",
    re.IGNORECASE,
)
"""What ends a turn, where a server writes it out."""
_HEADER = re.compile(
    r"\s*(?:<\|im_start\|>\s*assistant|<\|start_header_id\|>\s*assistant\s*<\|end_header_id\|>|<\|assistant\|>"
    r"|<start_of_turn>\s*model|<\|begin_of_solution\|>)\s*"
)
"""What opens the model's own turn or its answer, where a server writes it out."""

_NUMBERED = re.compile(r"[#*\s]*(?:question|problem|exercise|q)\s*\d+\s*:", re.IGNORECASE)
"""A reply that begins so goes through several questions, the one it was asked last."""


def written(text: str) -> str:
    """What a model wrote without its thoughts, up to the end of its turn."""
    said = without_thinking(text)
    opened = _HEADER.match(said)
    return _SPECIAL.split(said[opened.end() :] if opened else said, maxsplit=1)[0]


def plain(text: str) -> str:
    """The text with letters, digits, quotes, dashes and spaces that mean the same as ASCII's made these."""
    return text if text.isascii() else text.translate(_PLAIN)


def reply_of(text: str) -> str:
    """What a model wrote in reply, in plain characters; a question that it repeats first is part of it."""
    reply = plain(written(text)).strip()
    following = None if _NUMBERED.match(reply) else _NEXT.search(reply)
    return reply[: following.start()].rstrip() if following else reply
