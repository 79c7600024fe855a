"""What a model wrote without what it thought aloud first.

    "<think>Maybe A? No.</think>The answer is B."  ->  "The answer is B."

Reasoning models put their thoughts between tags of their family, or into a channel of their own (GPT-OSS),
before they answer. A thought is no answer, its drafts of code are not run, and its words are not compared.
Where the chat template opens the thought inside the prompt, the reply holds the closing tag only: all that
stands before it is thought. A thought that never ends (the room ran out) hides everything after it: such a
reply states no answer.

Scope: text in, text out; whether the rest says anything is for those who read it.
"""

from __future__ import annotations

import re

__all__ = ["without_thinking"]

_NAMES = r"(?:seed:)?(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|scratchpad)"
_OPENING = (
    rf"<{_NAMES}(?:\s[^>]*)?>|\[THINK\]|<\|START_THINKING\|>|<\|begin_of_thought\|>"
    r"|\u25c1think\u25b7|<\|channel>thought\b"
)
_CLOSING = (
    rf"</\s*{_NAMES}\s*>|\[/THINK\]|<\|END_THINKING\|>|<\|end_of_thought\|>"
    r"|\u25c1/think\u25b7|<channel\|>"
)
"""Of Qwen, DeepSeek and many others; of Magistral, Command, Sky-T1, Kimi and Gemma 4."""
_BEGINNINGS = "<[\u25c1"
"""Of these tags; a text without any of these characters holds none."""
_TAG = re.compile(rf"(?P<closing>{_CLOSING})|{_OPENING}", re.IGNORECASE)

_CHANNEL = re.compile(
    r"<\|channel\|>\s*(\w+)(?:(?!<\|(?:message|channel)\|>).)*<\|message\|>"
    r"(.*?)(?=<\|(?:end|return|call|start|channel)\|>|\Z)",
    re.DOTALL,
)
_BARE_CHANNELS = re.compile(r"\s*analysis(?:.*assistantfinal|(?=\w).*\Z)", re.DOTALL)
"""The same channels after a tokenizer has dropped its special tokens."""


def without_thinking(text: str) -> str:
    """A reply without its thoughts, spaces at the seams removed; a reply without any thought, as it is."""
    if "<|channel|>" in text:
        text = "".join(said for channel, said in _CHANNEL.findall(text) if channel == "final").strip()
    elif bare := _BARE_CHANNELS.match(text):
        text = text[bare.end() :].strip()
    if not any(mark in text for mark in _BEGINNINGS):
        return text
    tags = list(_TAG.finditer(text))
    return _outside(text, tags).strip() if tags else text


def _outside(text: str, tags: list[re.Match[str]]) -> str:
    """The parts of a text that are within no thought."""
    said, start, i = "", 0, 0
    while i < len(tags):
        if tags[i]["closing"]:
            said, start, i = "", tags[i].end(), i + 1
            continue
        said += text[start : tags[i].start()]
        end = _end_of(tags, i)
        if end is None:
            return said
        start, i = tags[end].end(), end + 1
    return said + text[start:]


def _end_of(tags: list[re.Match[str]], opening: int) -> int | None:
    """The tag that ends the thought which one opens: where as many have closed, else the last that closes."""
    depth, last = 0, None
    for i in range(opening, len(tags)):
        depth += -1 if tags[i]["closing"] else 1
        last = i if tags[i]["closing"] else last
        if depth == 0:
            return i
    return last
