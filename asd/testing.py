"""Fakes for tests and examples: a stage that says what it is told, a clock that stands still.

    engine = ScriptedEngine("S", {"2+2=": Script("4", (-0.1,))})
    engine.generate([Query(id="q", dataset="d", prompt="2+2=")])[0].text        # "4"

They follow the same protocols as the real ones and are as deterministic as the script.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from asd.engines import GREEDY, Sampling
from asd.errors import ConfigError, EngineError
from asd.types import Draft, Query, Usage

__all__ = ["FakeClock", "Script", "ScriptedEngine"]


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


class ScriptedEngine:
    """A stage that answers from a script; implements `asd.engines.Engine`.

    A prompt counts as many tokens as it has words; an answer's token ids are 0, 1, 2, ...

    Args:
        stage_name: What it calls itself.
        answers: By prompt, what to answer; a plain (text, logprobs) will do.
        seconds_per_call: What every call takes, whatever the size of its batch.
        clock: Advanced by that much in every call.

    Attributes:
        calls: Ids of the queries of every call so far.
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
        self.load()
        self.calls.append(tuple(query.id for query in queries))
        if self._clock is not None:
            self._clock.advance(self._seconds)
        return [self._draft(query) for query in queries]

    def _draft(self, query: Query) -> Draft:
        if query.prompt not in self._answers:
            raise EngineError(f"the script of stage {self._stage_name!r} has no answer to {query.prompt!r}")
        script = self._answers[query.prompt]
        n = len(script.logprobs)
        return Draft(
            stage=self._stage_name,
            text=script.text,
            tokens=tuple(range(n)),
            logprobs=tuple(script.logprobs),
            finished=script.finished,
            usage=Usage(n_prompt=len(query.prompt.split()), n_decoded=n, n_passes=n),
            seconds=self._seconds,
        )
