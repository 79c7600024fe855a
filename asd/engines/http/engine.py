"""Answers from an OpenAI-compatible server: one request a query, several in flight.

The server batches; a query that fails takes no other with it. What the API promises is all that is used:
completions, or chat completions for a stage with a chat template. Such servers tell no token ids, so
`Draft.tokens` is empty, and one that gives no log-probabilities leaves `Draft.logprobs` empty as well.

Scope: text over HTTP (`asd.engines.http.client`); where the server runs and which revision of the
weights it has is the server's business.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import msgspec

from asd.cancellation import cancellable, tokens_of
from asd.engines import GREEDY, Sampling
from asd.engines.closing import Closing
from asd.engines.http.client import OpenAISettings, ServerClient
from asd.engines.http.counting import Counter
from asd.engines.http.credentials import read_key
from asd.engines.http.gauges import ServerGauges
from asd.engines.http.schema import Models, Reply, ServedModel, Written
from asd.engines.prompts import as_written, chat_of, check, check_extras
from asd.engines.sampling import choices
from asd.errors import EngineError, PartialBatchError, RefusedError, UnavailableError
from asd.ladder import Stage
from asd.stops import cut_draft, sent
from asd.types import Draft, Query

__all__ = ["OpenAIEngine"]

T = TypeVar("T")

_LOG = logging.getLogger(__name__)

CUT_EARLY = (
    "ran out of room before the first word of an answer (finish_reason 'length'); raise the max_new_tokens "
    "(max tokens) of the workload, "
)
EMPTY = "wrote {n} tokens and no text; look at what the server does with the model's words, "
ELSEWHERE = (
    "wrote no answer: {fields} holds what the model said, content is empty; correct the server's parser of "
    "reasoning or tool calls, "
)
THINKING_OFF = (
    "or turn thinking off: chat_template_kwargs = { enable_thinking = false } in the stage, or the "
    "server's own switch in options.openai.extra_body"
)


class OpenAIEngine(Closing):
    """One stage behind one server; implements `asd.engines.Engine`.

    Usage is what the server counts, or what can be counted here where it does not
    (`asd.engines.http.counting`); a token is taken for a forward pass, whatever the server does inside.
    `Draft.seconds` are those of the query's own request.

    Args:
        stage: What to run; its `options.openai` are `asd.engines.http.settings.OpenAISettings`.
        clock: Seconds now, for `Draft.seconds`.

    Raises:
        ConfigError: The options are missing or wrong, or the key's variable is not set.
    """

    def __init__(self, stage: Stage, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self.stage = stage
        self.settings = OpenAISettings.of(stage)
        self._model = self.settings.model or stage.model
        self._clock = clock
        self._server = ServerClient(stage.name, self.settings)
        key = read_key(stage.name, self.settings.api_key_env)
        self._gauges = ServerGauges(self._server.where, self.settings.base_url, key)
        self._counter = Counter(stage, self.settings.tokenizer)
        self._warned = False

    most_stops = 4
    """Stop strings that every server takes in a request."""

    @property
    def stage_name(self) -> str:
        """Name of the stage this engine serves."""
        return self.stage.name

    @property
    def revision(self) -> str:
        """What the server says it serves, "served:..."; which commit that is, only the server knows.

        With it a hash of what the stage adds to requests and leaves out, for that decides answers too.
        """
        served = f"served:{self._server.excerpt(self._served().root or self._model)}"
        if not (self.settings.extra_body or self.settings.omit):
            return served
        form = msgspec.json.encode(
            [self.settings.extra_body, sorted(self.settings.omit)], order="deterministic"
        )
        return f"{served}+{hashlib.sha256(form).hexdigest()[:8]}"

    @property
    def accepts(self) -> frozenset[str]:
        """What of `Query.extras` the server follows, as the ladder says."""
        return frozenset(self.settings.accepts)

    @property
    def concurrency(self) -> int:
        """Most requests in flight."""
        return self.settings.concurrency

    def gauges(self) -> dict[str, float]:
        """What the server reports of its own load (`asd.engines.Gauged`)."""
        return self._gauges.read()

    def load(self) -> None:
        """Make sure that the server is there and has the model.

        Raises:
            EngineError: It is not, or has not.
        """
        self._served()

    def unload(self) -> None:
        """Give the connections back; the weights are the server's."""
        self._server.close()
        self._gauges.close()

    def synchronise(self) -> None:
        """No device to wait for: a reply is whole when it is here."""

    def generate(self, queries: Sequence[Query], sampling: Sampling = GREEDY) -> list[Draft]:
        """Answer one batch; log-probabilities are whatever the server gives, none at all included.

        Raises:
            ConfigError: An empty prompt, no room for an answer, or `sampling` that cannot be followed.
            RefusedError: The server refuses the one query there is: filtered, rejected, too long.
            PartialBatchError: Some queries failed and others were answered, or several were refused.
            EngineError: All failed: no connection, out of time, a request that the server does not take, or a
                reply that makes no sense.
        """
        for query in queries:
            check(query)
        ways = choices(sampling, len(queries))
        return fan_out(lambda i: self._write(queries[i], ways[i]), queries, self.settings.concurrency)

    def _write(self, query: Query, choice: Mapping[str, Any]) -> Draft:
        check_extras(query, self.stage, self.accepts)
        start = self._clock()
        written = self._answer(query, choice)
        calls = written.tool_calls if "tools" in query.needs else ()
        is_stopped = query.stop and written.finished and not written.elsewhere
        if not (written.text.strip() or calls or is_stopped):
            self._explain_silence(written)
        draft = Draft(
            stage=self.stage.name,
            text=written.text,
            tokens=written.tokens,
            logprobs=written.logprobs,
            finished=written.finished,
            usage=self._counter.usage(query, written),
            seconds=self._clock() - start,
            tool_calls=calls,
        )
        return cut_draft(draft, query)

    def _answer(self, query: Query, choice: Mapping[str, Any]) -> Written:
        """Ask for the answer to one query."""
        room = {self.settings.max_tokens_field: query.max_new_tokens} | self._stop(query)
        if not self.stage.chat_template:
            return self._complete({"prompt": as_written(query, self.stage), **choice, **room})
        kwargs = self.stage.chat_template_kwargs
        chat = {"messages": chat_of(query)} | ({"chat_template_kwargs": kwargs} if kwargs else {})
        body = {**chat, **choice, **room, **query.extras}
        return self._ask("chat/completions", body, {"logprobs": True}, extended=bool(query.extras))

    def _stop(self, query: Query) -> dict[str, Any]:
        """Stop strings that the server can be trusted with; what it does not cut is cut here."""
        strings = sent(query.stop)
        return {"stop": strings} if strings and len(strings) <= self.most_stops else {}

    def _complete(self, body: dict[str, Any]) -> Written:
        return self._ask("completions", body, {"logprobs": 1})

    def _ask(
        self, path: str, body: dict[str, Any], logprobs: dict[str, Any], *, extended: bool = False
    ) -> Written:
        own = {"model": self._model} | body | (logprobs if self.settings.logprobs else {})
        sent = {name: value for name, value in own.items() if name not in self.settings.omit}
        reply = self._server.post(path, sent | self.settings.extra_body, Reply, extended=extended)
        refusal = self._read(reply.refusal)
        if refusal is not None:
            raise RefusedError(f"{self._server.where} withholds the answer: {self._server.excerpt(refusal)}")
        return self._read(reply.written)

    def _explain_silence(self, written: Written) -> None:
        """Say once why answers may be empty.

        Raises:
            RefusedError: The model said something, and not in the text: that is no answer.
        """
        if written.is_cut:
            self._warn(CUT_EARLY)
        elif written.elsewhere:
            found = ELSEWHERE.format(fields=", ".join(written.elsewhere))
            self._warn(found)
            raise RefusedError(f"{self._server.where} {found}{THINKING_OFF}")
        elif written.n_decoded > 1:
            self._warn(EMPTY.format(n=written.n_decoded))

    def _warn(self, what: str) -> None:
        if not self._warned:
            self._warned = True
            _LOG.warning("%s %s%s", self._server.where, what, THINKING_OFF)

    def _read(self, reading: Callable[[], T]) -> T:
        try:
            return reading()
        except ValueError as error:
            raise EngineError(f"{self._server.where} returned data that makes no sense: {error}") from error

    def _served(self) -> ServedModel:
        models = self._server.get("models", Models).data or []
        for model in models:
            if model.id == self._model:
                return model
        names = self._server.excerpt(str([model.id for model in models]))
        raise EngineError(
            f"{self._server.where} does not serve {self._model!r} but {names}; "
            "name one of these in options.openai.model"
        )


def fan_out(call: Callable[[int], T], queries: Sequence[Query], concurrency: int) -> list[T]:
    """Do it for every query by index, several at a time, each with its own cancel token.

    Once the server is not there, what has not begun never begins.

    Raises:
        PartialBatchError: Some failed; it holds the results of the others. Or all did, and some were refused:
            none of these needs to be asked again.
        EngineError: All failed, the first of them so.
    """
    done: dict[int, T] = {}
    failed: dict[int, EngineError] = {}
    tokens = tokens_of(queries)

    def one(i: int) -> T:
        with cancellable([queries[i]], [tokens[i]]):
            return call(i)

    with ThreadPoolExecutor(max(1, min(concurrency, len(queries)))) as pool:
        futures = [pool.submit(one, i) for i in range(len(queries))]
        for i, future in enumerate(futures):
            if future.cancelled():
                failed[i] = failed[max(failed)]
                continue
            try:
                done[i] = future.result()
            except EngineError as error:
                failed[i] = error
                if isinstance(error, UnavailableError):
                    for later in futures[i + 1 :]:
                        later.cancel()
    return settled(done, failed)


def settled(done: Mapping[int, T], failed: Mapping[int, EngineError]) -> list[T]:
    """The results of a batch in order, or what `fan_out` raises."""
    if not failed:
        return [done[i] for i in range(len(done))]
    first = failed[min(failed)]
    refused = [error for error in failed.values() if isinstance(error, RefusedError)]
    if not done and (len(failed) == 1 or not refused):
        raise first
    raise PartialBatchError(f"{len(failed)} of {len(done) + len(failed)} queries: {first}", done, failed)
