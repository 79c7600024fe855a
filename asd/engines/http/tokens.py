"""Text and token ids of a model that a vLLM server has: prompts, drafts behind them, and back to text.

A prompt is tokenized once and remembered for a while, as verifying and continuing both need it. A draft is
tokenized as it continues its prompt, another tokenizer's with or without a leading space
(`asd.engines.hf.retokenizer.at_seam`); on its own where the two would share a token at the seam.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from asd.engines.hf.retokenizer import at_seam
from asd.engines.http.client import ServerClient
from asd.engines.http.schema import DetokenizedText, Tokens
from asd.engines.prompts import as_written
from asd.ladder import Stage
from asd.messages import Message
from asd.types import Draft, Query

__all__ = ["Passage", "Prompt", "ServedTokens"]

N_REMEMBERED = 256
"""Prompts whose tokens are kept."""
CONTROL = re.compile(r"[<\[].+[>\]]", re.DOTALL)
"""A token that may be a control token, to judge by its looks: "</s>", "<|eot_id|>", "[SEP]"."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt in tokens; `context` is the number of positions of the model, where the server reports it."""

    ids: tuple[int, ...]
    context: int | None


@dataclass(frozen=True, slots=True)
class Passage:
    """A draft in tokens; `whole`: nothing of it was left out."""

    ids: list[int]
    whole: bool


class ServedTokens:
    """The tokenizer of one stage, at its server; safe to use from several threads.

    Args:
        server: Where it is.
        model: What the server calls it.
        stage: Whose prompts.
    """

    def __init__(self, server: ServerClient, model: str, stage: Stage) -> None:
        self._server = server
        self._model = model
        self._stage = stage
        self._prompt = lru_cache(N_REMEMBERED)(self._tokenized)
        self._prompt_text = lru_cache(N_REMEMBERED)(self.text)

    def prompt(self, query: Query) -> Prompt:
        """The prompt of a query, in the stage's chat template if it has one.

        Raises:
            RefusedError: It is a conversation, and the stage has none.
        """
        if not self._stage.chat_template:
            as_written(query, self._stage)
        return self._prompt(query.conversation)

    def behind(self, prompt: Prompt, draft: Draft) -> Passage:
        """A draft in tokens, as it continues a prompt: a stage's of the same tokenizer as it was written.

        It ends before anything that looks like a control token: the server does not tell which tokens end an
        answer, and text that spells one must not be taken for an end.
        """
        if not draft.text:
            return Passage([], whole=True)
        passage = self._continuing(prompt, draft.text)
        if passage.ids and draft.tokens[: len(passage.ids)] == tuple(passage.ids):
            return passage
        text = at_seam(self._prompt_text(prompt.ids), draft.text)
        return passage if text == draft.text else self._continuing(prompt, text)

    def _continuing(self, prompt: Prompt, text: str) -> Passage:
        n, before = len(prompt.ids), self._prompt_text(prompt.ids)
        together = self._tokenize({"prompt": before + text})
        if tuple(together.tokens[:n]) == prompt.ids:
            return _before_control(together, n)
        return _before_control(self._tokenize({"prompt": text}), 0)

    def text(self, ids: Sequence[int]) -> str:
        """Tokens as text, all at once: what a server streams may lack a last half character."""
        body = {"model": self._model, "tokens": list(ids)}
        return self._server.post("../detokenize", body, DetokenizedText).prompt if ids else ""

    def _tokenized(self, conversation: tuple[Message, ...]) -> Prompt:
        if self._stage.chat_template:
            kwargs = self._stage.chat_template_kwargs
            chat = {"messages": conversation, "add_generation_prompt": True}
            found = self._tokenize(chat | ({"chat_template_kwargs": kwargs} if kwargs else {}))
        else:
            [prompt] = conversation
            found = self._tokenize({"prompt": prompt.content, "add_special_tokens": True})
        return Prompt(tuple(found.tokens), found.max_model_len)

    def _tokenize(self, body: dict[str, Any]) -> Tokens:
        plain = {"model": self._model, "add_special_tokens": False, "return_token_strs": True}
        return self._server.post("../tokenize", plain | body, Tokens)


def _before_control(found: Tokens, start: int) -> Passage:
    ids, names = found.tokens[start:], (found.token_strs or [])[start:]
    end = next((i for i, name in enumerate(names) if CONTROL.fullmatch(name)), len(ids))
    return Passage(ids[:end], whole=end == len(ids))
