"""Answers from an OpenAI-compatible server: one request a query, several in flight.

The server batches; a query that fails takes no other with it. What the API promises is all that is used:
completions, or chat completions for a stage with a chat template. Such servers tell no token ids, so
`Draft.tokens` is empty, and one that gives no log-probabilities leaves `Draft.logprobs` empty as well.

The border: text over HTTP (`asd.engines.server`); where the server runs and which revision of the weights it
has is the server's business.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from asd.engines import GREEDY, Sampling
from asd.engines.prompts import check
from asd.engines.replies import ChatReply, Models, Reply, Served, Written
from asd.engines.server import Server, Settings
from asd.errors import ConfigError, EngineError, PartialBatchError, UnavailableError
from asd.ladder import Stage
from asd.types import Draft, Query

__all__ = ["OpenAIEngine"]

T = TypeVar("T")


class OpenAIEngine:
    """One stage behind one server; implements `asd.engines.Engine`.

    Usage is what the server counts; a token is taken for a forward pass, whatever the server does inside.
    `Draft.seconds` are those of the query's own request.

    Args:
        stage: What to run; its `options.openai` are `asd.engines.server.Settings`.
        clock: Seconds now, for `Draft.seconds`.

    Raises:
        ConfigError: The options are missing or wrong, or the key's variable is not set.
    """

    def __init__(self, stage: Stage, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self.stage = stage
        self.settings = Settings.of(stage)
        self._model = self.settings.model or stage.model
        self._clock = clock
        self._server = Server(stage.name, self.settings)

    @property
    def stage_name(self) -> str:
        """Name of the stage this engine serves."""
        return self.stage.name

    @property
    def revision(self) -> str:
        """What the server says it serves, "served:..."; which commit that is, only the server knows."""
        return f"served:{self._served().root or self._model}"

    def load(self) -> None:
        """Make sure that the server is there and has the model.

        Raises:
            EngineError: It is not, or has not.
        """
        self._served()

    def unload(self) -> None:
        """Give the connections back; the weights are the server's."""
        self._server.close()

    def synchronise(self) -> None:
        """No device to wait for: a reply is whole when it is here."""

    def generate(self, queries: Sequence[Query], sampling: Sampling = GREEDY) -> list[Draft]:
        """Answer one batch; log-probabilities are whatever the server gives, none at all included.

        Raises:
            ConfigError: An empty prompt, no room for an answer, or `sampling` that cannot be followed.
            PromptTooLongError: A prompt does not fit, and no other query was answered.
            PartialBatchError: Some queries failed and others were answered.
            EngineError: All failed: no connection, refused, out of time, or a reply that makes no sense.
        """
        for query in queries:
            check(query)
        choices = _choices(sampling, len(queries))
        return fan_out(lambda i: self._write(queries[i], choices[i]), len(queries), self.settings.concurrency)

    def _write(self, query: Query, choice: Mapping[str, Any]) -> Draft:
        start = self._clock()
        written = self._answer(query, {**choice, "max_tokens": query.max_new_tokens})
        return Draft(
            stage=self.stage.name,
            text=written.text,
            tokens=written.tokens,
            logprobs=written.logprobs,
            finished=written.finished,
            usage=written.usage,
            seconds=self._clock() - start,
        )

    def _answer(self, query: Query, body: dict[str, Any]) -> Written:
        """Ask for the answer to one query."""
        if not self.stage.chat_template:
            return self._complete(body | {"prompt": query.prompt})
        chat = {"messages": chat_of(query), "logprobs": self.settings.logprobs}
        return self._ask("chat/completions", body | chat, ChatReply)

    def _complete(self, body: dict[str, Any]) -> Written:
        return self._ask("completions", body | ({"logprobs": 1} if self.settings.logprobs else {}), Reply)

    def _ask(self, path: str, body: dict[str, Any], reply: type[Reply] | type[ChatReply]) -> Written:
        answer = self._server.post(path, {"model": self._model} | body, reply)
        return self._read(answer.written)

    def _read(self, reading: Callable[[], T]) -> T:
        try:
            return reading()
        except ValueError as error:
            raise EngineError(f"{self._server.where} returned data that makes no sense: {error}") from error

    def _served(self) -> Served:
        models = self._server.get("models", Models).data
        for model in models:
            if model.id == self._model:
                return model
        raise EngineError(
            f"{self._server.where} does not serve {self._model!r} but {[model.id for model in models]}; "
            "name one of these in options.openai.model"
        )


def fan_out(call: Callable[[int], T], n: int, concurrency: int) -> list[T]:
    """Do it for 0 to n - 1, several at a time; once the server is not there, what has not begun never begins.

    Raises:
        PartialBatchError: Some failed; it holds the results of the others.
        EngineError: All failed, the first of them so.
    """
    done: dict[int, T] = {}
    failed: dict[int, EngineError] = {}
    with ThreadPoolExecutor(max(1, min(concurrency, n))) as pool:
        futures = [pool.submit(call, i) for i in range(n)]
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
    if not done:
        raise first
    raise PartialBatchError(f"{len(failed)} of {len(done) + len(failed)} queries: {first}", done, failed)


def chat_of(query: Query) -> list[dict[str, str]]:
    """The prompt as the one message of a chat."""
    return [{"role": "user", "content": query.prompt}]


def _choices(sampling: Sampling, n: int) -> list[dict[str, Any]]:
    """How to choose tokens, for each of n queries: a seed of its own, drawn here, so that a run repeats."""
    temperature = sampling.temperature
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ConfigError(f"temperature must be a number of at least 0, not {temperature}")
    choice = {"temperature": temperature, "top_p": 1.0}
    if temperature == 0:
        return [choice] * n
    if sampling.rng is None:
        raise ConfigError(
            f"sampling at temperature {temperature} needs a random generator: Sampling(rng=...)"
        )
    return [choice | {"seed": int(seed)} for seed in sampling.rng.integers(2**31, size=n)]
