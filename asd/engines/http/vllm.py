"""Runs a stage on a vLLM server, which can also verify another stage's draft (`dialect = "vllm"`).

Beyond what the API promises, vLLM's server tokenizes, reports token ids and echoes a prompt with
log-probabilities; that is all verification needs:

    verify      prompt and draft in one request, echoed, and one token more: the draft's log-probabilities,
                where each token was the only most probable one, and whether the server would end there; one
                prefill, which decodes that token as well
    continue_   prompt and accepted prefix in one request, from the server's prefix cache as far as it reaches

The server does not say which tokens end an answer, and nothing here has to know: whether a draft's end is
accepted shows in what the server writes behind it. An end that it would not write has no token id here: it is
missing in `Verification.tokens`, which are then not complete.

No saving is claimed that was not counted: a continuation's `usage.n_prompt` are the prompt tokens that the
server did not find in its cache (all of them, unless it was started with `--enable-prompt-tokens-details`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from asd.engines import LOSSLESS, Acceptance
from asd.engines.http.echo import Echo, EchoReply
from asd.engines.http.engine import OpenAIEngine, fan_out
from asd.engines.http.schema import Written
from asd.engines.http.tokens import Prompt, ServedTokens
from asd.engines.prompts import as_written, check, check_extras
from asd.engines.stops import shortest
from asd.errors import ConfigError, EngineError
from asd.ladder import Stage
from asd.stopping.acceptance import accept_lenient, n_leading
from asd.stops import MOST, cut_draft, position
from asd.types import NO_CALL, Draft, Query, Usage, Verification

__all__ = ["VllmServerEngine"]

GREEDY_CHOICE = {"temperature": 0.0, "top_p": 1.0}
PLAIN = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "return_token_ids": True}
"""Nothing that the checkpoint suggests about sampling; and the ids, please."""
ECHO = (
    GREEDY_CHOICE | PLAIN | {"max_tokens": 1, "echo": True, "logprobs": 2, "return_tokens_as_token_ids": True}
)
"""Score what is given, write one token. Two tokens may be written alike, two ids are never; of the two most
probable ones the second shows a tie."""


class VllmServerEngine(OpenAIEngine):
    """One stage behind one vLLM server; implements `asd.engines.Verifier`.

    Acceptance is greedy, lossless or lenient: sampling would need whole distributions, which do not travel.
    """

    def __init__(self, stage: Stage, *, clock: Callable[[], float] = time.perf_counter) -> None:
        super().__init__(stage, clock=clock)
        self._tokens = ServedTokens(self._server, self._model, stage)

    most_stops = MOST

    def verify(
        self, queries: Sequence[Query], drafts: Sequence[Draft], acceptance: Acceptance = LOSSLESS
    ) -> list[Verification]:
        """Read one draft a query, as text in the server's own tokens, as `asd.engines.vllm.engine` does.

        Raises:
            ConfigError: An empty prompt, no room for an answer, or `acceptance` is not greedy.
            PartialBatchError: Some queries failed and others did not.
            EngineError: All failed.
        """
        _check_greedy(acceptance, self.stage.name)
        for query in queries:
            check(query)
            check_extras(query, self.stage, frozenset())  # a draft that a format has led is not read as one
        return fan_out(
            lambda i: self._verify(queries[i], drafts[i], acceptance.tolerance),
            queries,
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
                raise ConfigError(f"{verification.stage!r} verified, so {self.stage.name!r} cannot continue")
        return fan_out(
            lambda i: self._continue(queries[i], verifications[i]), queries, self.settings.concurrency
        )

    def _answer(self, query: Query, choice: Mapping[str, Any]) -> Written:
        if query.extras:
            return super()._answer(query, choice)
        # a chat template is applied by the server when it tokenizes, so that both kinds are one kind here
        prompt = (
            list(self._tokens.prompt(query).ids)
            if self.stage.chat_template
            else as_written(query, self.stage)
        )
        room = {"max_tokens": query.max_new_tokens}
        written = self._complete({"prompt": prompt, **choice, **room, **self._stop(query)})
        text = self._text(written.tokens, ended=written.finished and not written.is_stopped)
        n = len(written.tokens) if written.is_stopped else self._n_tokens(query, written.tokens, text)
        return replace(written, text=text, tokens=written.tokens[:n], logprobs=written.logprobs[:n])

    def _n_tokens(self, query: Query, tokens: Sequence[int], text: str) -> int:
        """Length of an answer as far as its first stop string, which the server may have written past."""
        if position(text, query.stop) is None:
            return len(tokens)
        return shortest(tokens, query.stop, self._tokens.text)

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
        return written

    def _verify(self, query: Query, draft: Draft, tolerance: float | None) -> Verification:
        start = self._clock()
        prompt = self._tokens.prompt(query)
        passage = self._tokens.behind(prompt, draft)
        room = _room(query, prompt)
        whole = passage.whole and len(passage.ids) + draft.finished <= room
        echo = self._echo(prompt.ids, passage.ids[:room])
        tokens, logprobs, accepted = echo.tokens, echo.logprobs, _accepted(echo, tolerance)
        ends = draft.finished and whole and echo.following.ends
        if ends:
            tokens, logprobs = (*tokens, echo.following.token), (*logprobs, echo.following.logprob)
            accepted = np.append(accepted, True)
        n_accepted = n_leading(accepted)
        return Verification(
            stage=self.stage.name,
            drafter=draft.stage,
            tokens=tokens,
            logprobs=logprobs,
            n_accepted=n_accepted,
            usage=Usage(n_prompt=len(prompt.ids), n_decoded=0, n_passes=1, n_verified=len(tokens)),
            seconds=self._clock() - start,
            complete=whole and (ends or not draft.finished),
            text=self._tokens.text(tokens[:-1]) if ends and n_accepted == len(tokens) else None,
        )

    def _echo(self, prompt: Sequence[int], draft: Sequence[int]) -> Echo:
        """What the server says of a draft behind a prompt."""
        body = {"model": self._model, "prompt": [*prompt, *draft], **ECHO}
        reply = self._server.post("completions", body, EchoReply)
        return self._read(lambda: reply.tail(draft, len(prompt) + len(draft)))

    def _continue(self, query: Query, verification: Verification) -> Draft:
        start = self._clock()
        n, text = verification.n_accepted, verification.text
        tokens, logprobs, usage = verification.tokens[:n], verification.logprobs[:n], NO_CALL
        ended = text is not None
        if not ended and n < query.max_new_tokens:
            room = {"max_tokens": query.max_new_tokens - n}
            prompt = [*self._tokens.prompt(query).ids, *tokens]
            more = self._complete(GREEDY_CHOICE | room | {"prompt": prompt} | self._stop(query))
            tokens, logprobs = tokens + more.tokens, logprobs + more.logprobs
            ended, usage = more.finished, replace(more.usage, n_prompt=more.usage.n_prompt - more.n_cached)
            text = self._text(tokens, ended=ended and not more.is_stopped)
        text = self._text(tokens, ended=False) if text is None else text
        n = self._n_tokens(query, tokens, text)
        draft = Draft(
            stage=self.stage.name,
            text=text,
            tokens=tokens[:n],
            logprobs=logprobs[:n],
            finished=ended,
            usage=usage,
            seconds=self._clock() - start,
        )
        return cut_draft(draft, query)

    def _text(self, tokens: Sequence[int], *, ended: bool) -> str:
        """All tokens but the end."""
        return self._tokens.text(tokens[:-1] if ended else tokens)


def _room(query: Query, prompt: Prompt) -> int:
    """Most tokens of a draft that can be read: the server writes one more, in the same context."""
    left = query.max_new_tokens if prompt.context is None else prompt.context - 1 - len(prompt.ids)
    return max(0, min(query.max_new_tokens, left))


def _accepted(echo: Echo, tolerance: float | None) -> npt.NDArray[np.bool_]:
    if tolerance is None:
        return np.array(echo.is_best, dtype=bool)
    return accept_lenient(np.exp(echo.logprobs), np.exp(echo.best), tolerance)


def _check_greedy(acceptance: Acceptance, stage: str) -> None:
    if acceptance.sampling.temperature != 0:
        raise ConfigError(
            f"stage {stage!r} is behind a server and verifies greedily, not at temperature "
            f"{acceptance.sampling.temperature}; use 0, or an engine that runs here"
        )
