"""Fakes for tests and examples: stages that say what they are told or what was recorded, a clock.

    engine = ScriptedEngine("S", {"2+2=": Script("4", (-0.1,))})
    engine.generate([Query(id="q", dataset="d", prompt="2+2=")])[0].text        # "4"

They follow the same protocols as the real ones and are as deterministic as the script.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import NamedTuple

from asd.engines import GREEDY, LOSSLESS, Acceptance, Sampling, continuation_usage
from asd.engines.closing import Closing
from asd.engines.replay import ReplayEngine
from asd.errors import ConfigError, EngineError
from asd.stops import cut
from asd.types import Draft, Query, Usage, Verification

__all__ = ["FakeClock", "ReplayEngine", "Script", "ScriptedEngine"]


class Script(NamedTuple):
    """One scripted answer: its text and the log-probability of each of its tokens."""

    text: str
    logprobs: tuple[float, ...]
    finished: bool = True


class FakeClock:
    """A clock that moves when told to; call it for the seconds it shows."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """Seconds now."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass.

        Raises:
            ConfigError: `seconds` is negative.
        """
        if not seconds >= 0:
            raise ConfigError(f"a clock cannot go back: {seconds} s")
        self.now += seconds


class ScriptedEngine(Closing):
    """A stage that answers from a script; implements `asd.engines.Engine` and `asd.engines.Verifier`.

    A prompt, or a whole conversation, counts as many tokens as it has words, an answer as many as it has
    log-probabilities, and at least one; its token ids are 0, 1, 2, ... A draft with the scripted text is
    accepted whole; of any other the scripted answer's first tokens are, as many as the two texts share
    characters at their beginning, but never all.

    Args:
        stage_name: What it calls itself.
        answers: By prompt, of a conversation the last message, what to answer; a plain (text, logprobs) will
            do.
        seconds_per_call: What every call takes, whatever the size of its batch.
        clock: Advanced by that much in every call.

    Attributes:
        calls: Ids of the queries of every call so far, whatever was called.
        loaded: Whether the stage is in memory.
    """

    def __init__(
        self,
        stage_name: str,
        answers: Mapping[str, Script | tuple[str, Sequence[float]]],
        *,
        seconds_per_call: float = 0.0,
        clock: FakeClock | None = None,
    ) -> None:
        self._stage_name = stage_name
        self._answers = {prompt: Script(*answer) for prompt, answer in answers.items()}
        self._seconds = seconds_per_call
        self._clock = clock
        self.calls: list[tuple[str, ...]] = []
        self.loaded = False

    @property
    def stage_name(self) -> str:
        """Name of the stage this engine plays."""
        return self._stage_name

    def load(self) -> None:
        """Marks the stage as loaded."""
        self.loaded = True

    def unload(self) -> None:
        """Marks the stage as not loaded; `generate` loads again."""
        self.loaded = False

    def synchronise(self) -> None:
        """No device to wait for."""

    def generate(
        self,
        queries: Sequence[Query],
        sampling: Sampling = GREEDY,  # noqa: ARG002 - a script has one answer
    ) -> list[Draft]:
        """The scripted answer to every prompt, however it is sampled.

        Raises:
            EngineError: The script has no answer to a prompt.
        """
        self._call(queries)
        return [self._draft(query) for query in queries]

    def verify(
        self,
        queries: Sequence[Query],
        drafts: Sequence[Draft],
        acceptance: Acceptance = LOSSLESS,  # noqa: ARG002 - a script has one answer
    ) -> list[Verification]:
        """What the script says of every draft: its own log-probabilities, and -5 for what it rejects.

        Raises:
            EngineError: The script has no answer to a prompt.
        """
        self._call(queries)
        return [self._verification(query, draft) for query, draft in zip(queries, drafts, strict=True)]

    def continue_(
        self,
        queries: Sequence[Query],
        verifications: Sequence[Verification],
        acceptance: Acceptance = LOSSLESS,  # noqa: ARG002 - a script has one answer
    ) -> list[Draft]:
        """The scripted answer, counting what was not accepted.

        Raises:
            EngineError: The script has no answer to a prompt.
        """
        self._call(queries)
        return [
            replace(draft, usage=continuation_usage(draft, verification))
            for draft, verification in zip(map(self._draft, queries), verifications, strict=True)
        ]

    def _call(self, queries: Sequence[Query]) -> None:
        self.load()
        self.calls.append(tuple(query.id for query in queries))
        if self._clock is not None:
            self._clock.advance(self._seconds)

    def _verification(self, query: Query, draft: Draft) -> Verification:
        script = self._script(query)
        n, accepted = len(script.logprobs), draft.text == script.text
        is_answer = accepted and draft.finished and script.finished
        same = (a == b for a, b in zip(draft.text, script.text, strict=False))
        n_shared = sum(1 for _ in takewhile(bool, same))
        n_accepted = n if accepted else min(n_shared, max(0, n - 1))
        n_rejected = 0 if accepted else max(1, len(draft.tokens) - n_accepted)
        return Verification(
            stage=self._stage_name,
            drafter=draft.stage,
            tokens=tuple(range(n_accepted + n_rejected)),
            logprobs=(*script.logprobs[:n_accepted], *(-5.0,) * n_rejected),
            n_accepted=n_accepted,
            usage=Usage(_n_words(query), 0, 1, n_accepted + n_rejected),
            seconds=self._seconds,
            text=script.text if is_answer else None,
        )

    def _script(self, query: Query) -> Script:
        if query.prompt not in self._answers:
            raise EngineError(f"the script of stage {self._stage_name!r} has no answer to {query.prompt!r}")
        script = self._answers[query.prompt]
        text = cut(script.text, query.stop)
        return script if text == script.text else script._replace(text=text, finished=True)

    def _draft(self, query: Query) -> Draft:
        script = self._script(query)
        n = len(script.logprobs)
        return Draft(
            stage=self._stage_name,
            text=script.text,
            tokens=tuple(range(n)),
            logprobs=tuple(script.logprobs),
            finished=script.finished,
            usage=Usage(n_prompt=_n_words(query), n_decoded=max(1, n), n_passes=max(1, n)),
            seconds=self._seconds,
        )


def _n_words(query: Query) -> int:
    return sum(len(message.content.split()) for message in query.conversation)
