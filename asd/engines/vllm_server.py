"""Runs a stage on a vLLM server, which can also verify another stage's draft (`dialect = "vllm"`).

Beyond what the API promises, vLLM's server tokenizes, tells token ids and echoes a prompt with
log-probabilities; that is all verification needs:

    verify      prompt and draft in one request, echoed: the draft's log-probabilities, and where each token
                was the most probable one; one prefill, nothing decoded
    continue_   prompt and accepted prefix in one request, from the server's prefix cache as far as it reaches

The border: the server is asked, nothing of it is kept but the id of its stop token. No saving is claimed that
was not counted: a continuation's `usage.n_prompt` are the prompt tokens that the server did not find in its
cache (all of them, unless it was started with `--enable-prompt-tokens-details`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from asd.engines import LOSSLESS, Acceptance
from asd.engines.completions import OpenAIEngine, chat_of, fan_out
from asd.engines.prompts import check
from asd.engines.replies import EchoReply, Text, Tokens, Written
from asd.errors import ConfigError, EngineError
from asd.stopping.acceptance import accept_lenient, n_leading
from asd.types import NO_CALL, Draft, Query, Usage, Verification

__all__ = ["VllmServerEngine"]

GREEDY_CHOICE = {"temperature": 0.0, "top_p": 1.0}
PLAIN = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "return_token_ids": True}
"""Nothing that the checkpoint suggests about sampling; and the ids, please."""
ECHO = {"max_tokens": 0, "echo": True, "logprobs": 1, "return_tokens_as_token_ids": True}
"""Score what is given, write nothing. Two tokens may be written alike, two ids are never."""


class VllmServerEngine(OpenAIEngine):
    """One stage behind one vLLM server; implements `asd.engines.Verifier`.

    Acceptance is greedy, lossless or lenient: sampling would need whole distributions, which do not travel.
    """

    _end: int | None = None
    """Id of the token that ends an answer, once an answer has ended."""

    def verify(
        self, queries: Sequence[Query], drafts: Sequence[Draft], acceptance: Acceptance = LOSSLESS
    ) -> list[Verification]:
        """Read one draft a query, as text in the server's own tokens.

        Raises:
            ConfigError: An empty prompt, no room for an answer, or `acceptance` is not greedy.
            PartialBatchError: Some queries failed and others did not.
            EngineError: All failed, or the server cannot be made to tell its stop token.
        """
        _check_greedy(acceptance, self.stage.name)
        for query in queries:
            check(query)
        return fan_out(
            lambda i: self._verify(queries[i], drafts[i], acceptance.tolerance),
            len(queries),
            self.settings.concurrency,
        )

    def continue_(
        self,
        queries: Sequence[Query],
        verifications: Sequence[Verification],
        acceptance: Acceptance = LOSSLESS,
    ) -> list[Draft]:
        """Go on after each accepted prefix; raises as `verify` does, and where another stage verified."""
        _check_greedy(acceptance, self.stage.name)
        for verification in verifications:
            if verification.stage != self.stage.name:
                raise ConfigError(f"{verification.stage!r} verified, so {self.stage.name!r} cannot go on")
        return fan_out(
            lambda i: self._continue(queries[i], verifications[i]), len(queries), self.settings.concurrency
        )

    def _answer(self, query: Query, choice: Mapping[str, Any]) -> Written:
        # a chat template is applied by the server when it tokenizes, so that both kinds are one kind here
        prompt = self._prompt_ids(query) if self.stage.chat_template else query.prompt
        written = self._complete({"prompt": prompt, **choice, "max_tokens": query.max_new_tokens})
        return replace(written, text=self._text(written.tokens, ended=written.finished))

    def _complete(self, body: dict[str, Any]) -> Written:
        written = super()._complete(body | PLAIN)
        if len(written.tokens) != written.n_decoded:
            raise EngineError(
                f"{self._server.where} told {len(written.tokens)} ids of {written.n_decoded} tokens; "
                'if it is not vLLM, set options.openai.dialect = "openai"'
            )
        if self.settings.logprobs and len(written.logprobs) != len(written.tokens):
            raise EngineError(
                f"{self._server.where} gave {len(written.logprobs)} log-probabilities for "
                f"{len(written.tokens)} tokens"
            )
        if written.finished and written.tokens:
            self._end = written.tokens[-1]
        return written

    def _verify(self, query: Query, draft: Draft, tolerance: float | None) -> Verification:
        start = self._clock()
        prompt = self._prompt_ids(query)
        drafted, complete = self._draft_ids(query, draft, prompt)
        body = {"model": self._model, "prompt": prompt + drafted, **ECHO}
        reply = self._server.post("completions", body, EchoReply)
        echo = self._read(lambda: reply.tail(len(drafted), len(prompt) + len(drafted)))
        own, best = np.exp(echo.logprobs), np.exp(echo.best)
        accepted = own >= best if tolerance is None else accept_lenient(own, best, tolerance)
        n_accepted = n_leading(accepted)
        ends = bool(drafted) and drafted[-1] == self._end
        return Verification(
            stage=self.stage.name,
            drafter=draft.stage,
            tokens=tuple(drafted),
            logprobs=echo.logprobs,
            n_accepted=n_accepted,
            usage=Usage(n_prompt=len(prompt), n_decoded=0, n_passes=1, n_verified=len(drafted)),
            seconds=self._clock() - start,
            complete=complete,
            text=self._text(drafted, ended=True) if ends and n_accepted == len(drafted) else None,
        )

    def _continue(self, query: Query, verification: Verification) -> Draft:
        start = self._clock()
        n = verification.n_accepted
        accepted = list(verification.tokens[:n])
        tokens, logprobs = tuple(accepted), verification.logprobs[:n]
        ended, usage = accepted[-1:] == [self._end], NO_CALL
        if not ended and n < query.max_new_tokens:
            room = {"max_tokens": query.max_new_tokens - n}
            more = self._complete(GREEDY_CHOICE | room | {"prompt": self._prompt_ids(query) + accepted})
            tokens, logprobs = tokens + more.tokens, logprobs + more.logprobs
            ended, usage = more.finished, replace(more.usage, n_prompt=more.usage.n_prompt - more.n_cached)
        return Draft(
            stage=self.stage.name,
            text=self._text(tokens, ended=ended),
            tokens=tokens,
            logprobs=logprobs,
            finished=ended,
            usage=usage,
            seconds=self._clock() - start,
        )

    def _prompt_ids(self, query: Query) -> list[int]:
        if not self.stage.chat_template:
            return self._tokenize({"prompt": query.prompt, "add_special_tokens": True})
        chat = {"messages": chat_of(query), "add_generation_prompt": True}
        kwargs = self.stage.chat_template_kwargs
        return self._tokenize(chat | ({"chat_template_kwargs": kwargs} if kwargs else {}))

    def _draft_ids(self, query: Query, draft: Draft, prompt: Sequence[int]) -> tuple[list[int], bool]:
        """The draft in this stage's tokens as far as there is room, and whether that is all of it."""
        ids = self._tokenize({"prompt": draft.text, "add_special_tokens": False}) if draft.text else []
        if draft.finished and len(ids) < query.max_new_tokens:
            ids.append(self._end_id(query, [*prompt, *ids]))
        complete = len(ids) <= query.max_new_tokens and (not draft.finished or ids[-1:] == [self._end])
        return ids[: query.max_new_tokens], complete

    def _end_id(self, query: Query, prefix: Sequence[int]) -> int:
        """The stop token; where none has been seen, the server goes on from a prefix until it stops."""
        if self._end is None:
            self._complete(GREEDY_CHOICE | {"prompt": list(prefix), "max_tokens": query.max_new_tokens})
        if self._end is None:
            raise EngineError(
                f"{self._server.where} has not yet ended an answer by itself, so that its stop token is "
                f"unknown and the end of a draft for query {query.id!r} cannot be scored"
            )
        return self._end

    def _tokenize(self, body: dict[str, Any]) -> list[int]:
        return self._server.post("../tokenize", {"model": self._model} | body, Tokens).tokens

    def _text(self, tokens: Sequence[int], *, ended: bool) -> str:
        """All tokens but the end, decoded at once: what the server streams lacks a last half character."""
        ids = list(tokens[:-1] if ended else tokens)
        body = {"model": self._model, "tokens": ids}
        return self._server.post("../detokenize", body, Text).prompt if ids else ""


def _check_greedy(acceptance: Acceptance, stage: str) -> None:
    if acceptance.sampling.temperature != 0:
        raise ConfigError(
            f"stage {stage!r} is behind a server and verifies greedily, not at temperature "
            f"{acceptance.sampling.temperature}; use 0, or an engine that runs here"
        )
