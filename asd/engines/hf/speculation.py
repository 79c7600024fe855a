"""Block speculation: a smaller model drafts a few tokens, a larger one reads them in one pass, and so on.

    draft    the drafter writes up to `block` tokens
    verify   the verifier reads them in one forward pass, takes a prefix and adds one token of its own
    rewind   both caches take back what was not accepted; nothing is computed twice

Lossless: greedy text is the verifier's own token for token; samples follow its distribution, by the rule of
arXiv 2211.17192 (here the draft is an unconditional draw from a known q; a cascade's is not, see
`asd.stopping.acceptance`). It changes time only, and pays where drafted tokens are cheap and mostly accepted:
`asd.evaluation.pricing.plan_block` says how long a block should be, 0 where plain decoding is faster.

Models that cannot take tokens back, because they add up what they read in a state (linear attention,
convolutions), neither draft nor are drafted for: their stage writes alone. So it does where the drafter
cannot be loaded, its context is too short, or the two do not fit into memory together. Queries written alone
are counted by cause in `SpeculativeEngine.undrafted`, and the first of each cause is logged.

Scope: two `transformers` stages of one vocabulary in this process.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from asd.cancellation import tokens_of
from asd.engines import GREEDY, LOSSLESS, Acceptance, Sampling, StepMode
from asd.engines.closing import Closing
from asd.engines.hf.decoder import Batch
from asd.engines.hf.engine import Resumed, TransformersEngine
from asd.engines.hf.outputs import Answer
from asd.engines.hf.rounds import DecodingRow, Rounds
from asd.engines.memory import translated
from asd.engines.prompts import encode
from asd.engines.stops import watch
from asd.errors import ConfigError, EngineError, OutOfMemoryError, RefusedError
from asd.types import NO_CALL, Draft, Query, Usage, Verification

__all__ = ["Speculated", "SpeculativeEngine"]

_LOG = logging.getLogger(__name__)

Write = Callable[[list[int]], list[Draft]]
"""Writes the answers to some of a batch's queries, given by their places in it."""


@dataclass(frozen=True, slots=True)
class Speculated:
    """An answer and how it came about; `accepted` is the length of the accepted prefix of every block."""

    draft: Draft
    accepted: tuple[int, ...]


class SpeculativeEngine(Closing):
    """The verifier's stage, written faster; implements `asd.engines.Drafted`.

    Usage counts what was done for the query itself, as the verifier's own engine does: the verifier's prompt
    and passes, the tokens drafted (one pass of the drafter each) and the passes that they saved.

    Args:
        drafter: The smaller stage; `unload` leaves it in memory, because it answers too.
        verifier: The stage that is served.
        block: Most tokens drafted at a time; 0: plain decoding.
        clock: Seconds now, for `Draft.seconds`.

    Attributes:
        undrafted: Queries written without the drafter so far, by the kind of error that kept it from helping.

    Raises:
        ConfigError: `block` is negative, or the stages are on different devices.
    """

    def __init__(
        self,
        drafter: TransformersEngine,
        verifier: TransformersEngine,
        block: int,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if block < 0:
            raise ConfigError(f"block must be at least 0, not {block}")
        if drafter.device != verifier.device:
            raise ConfigError(f"drafter and verifier are on {drafter.device} and {verifier.device}; use one")
        self.drafter = drafter
        self.verifier = verifier
        self.block = block
        self._clock = clock
        self._checked = False
        self._obstacle: EngineError | None = None
        self.undrafted: Counter[str] = Counter()

    @property
    def stage_name(self) -> str:
        """Name of the verifier's stage."""
        return self.verifier.stage_name

    @property
    def step_mode(self) -> StepMode:
        """How the verifier makes its decode steps; the drafter has a mode of its own."""
        return self.verifier.step_mode

    @property
    def device(self) -> torch.device:
        """Where both stages are."""
        return self.verifier.device

    @property
    def alone(self) -> TransformersEngine:
        """The same stage without its drafter."""
        return self.verifier

    def gauges(self) -> dict[str, float]:
        """How full its GPU is, where that is known."""
        return self.verifier.gauges()

    def load(self) -> None:
        """Bring both stages into memory.

        Raises:
            EngineError: A stage cannot be loaded.
            ConfigError: The two have different vocabularies.
        """
        small, big = self.drafter.loaded, self.verifier.loaded
        if not self._checked and small.tokenizer.get_vocab() != big.tokenizer.get_vocab():
            raise ConfigError(
                f"stages {self.drafter.stage_name!r} and {self.stage_name!r} have different vocabularies; "
                "block speculation needs one, `verify` carries whole answers over as text"
            )
        self._checked = True

    def unload(self) -> None:
        """Give the verifier's memory back; the drafter, a stage of its own, will be tried again."""
        self.verifier.unload()
        self._obstacle = None

    def close(self) -> None:
        """Close both stages; either opens again when it is asked."""
        self.unload()
        self.drafter.close()

    def make_room(self) -> None:
        """Give back what both stages hold between calls."""
        self.verifier.make_room()
        self.drafter.make_room()

    def synchronise(self) -> None:
        """Wait until the device is idle."""
        self.verifier.synchronise()

    def generate(self, queries: Sequence[Query], sampling: Sampling = GREEDY) -> list[Draft]:
        """The verifier's answers; errors as in its own `generate`."""

        def drafted(places: list[int]) -> list[Draft]:
            speculated = self.speculate([queries[i] for i in places], sampling)
            return [each.draft for each in speculated]

        def alone(places: list[int]) -> list[Draft]:
            return self.verifier.generate([queries[i] for i in places], sampling)

        return self._write(queries, drafted, alone)

    def verify(
        self, queries: Sequence[Query], drafts: Sequence[Draft], acceptance: Acceptance = LOSSLESS
    ) -> list[Verification]:
        """The verifier's own `verify`."""
        return self.verifier.verify(queries, drafts, acceptance)

    def continue_(
        self,
        queries: Sequence[Query],
        verifications: Sequence[Verification],
        acceptance: Acceptance = LOSSLESS,
    ) -> list[Draft]:
        """Go on after each accepted prefix, block by block; errors as in the verifier's own `continue_`.

        Samples continue without the drafter.
        """
        if acceptance.sampling.temperature != 0:
            return self.verifier.continue_(queries, verifications, acceptance)

        def drafted(places: list[int]) -> list[Draft]:
            return self._go_on([queries[i] for i in places], [verifications[i] for i in places])

        def alone(places: list[int]) -> list[Draft]:
            read = [verifications[i] for i in places]
            return self.verifier.continue_([queries[i] for i in places], read, acceptance)

        return self._write(queries, drafted, alone)

    def _write(self, queries: Sequence[Query], drafted: Write, alone: Write) -> list[Draft]:
        """Answers with the drafter as far as it can help, the others without; in the order of the queries."""
        places = list(range(len(queries)))
        if self.block == 0 or not self._has_drafter(len(queries)):
            return alone(places)
        try:
            return drafted(places)
        except OutOfMemoryError as error:
            self._do_without(error, len(queries))
            return alone(places)
        except RefusedError:  # before anything was written
            return self._write_apart(queries, drafted, alone)

    def _write_apart(self, queries: Sequence[Query], drafted: Write, alone: Write) -> list[Draft]:
        """Alone where the drafter cannot read a prompt; raises where the verifier cannot."""
        for query in queries:
            self._prompt(self.verifier, query)
        fitting = {i for i, query in enumerate(queries) if self._fits_drafter(query)}
        apart = [sorted(fitting), [i for i in range(len(queries)) if i not in fitting]]
        found: dict[int, Draft] = {}
        for places, write in zip(apart, (drafted, alone), strict=True):
            found |= zip(places, write(places), strict=True)
        return [found[i] for i in range(len(queries))]

    def _fits_drafter(self, query: Query) -> bool:
        try:
            self._prompt(self.drafter, query)
        except RefusedError as error:
            self._do_without(error, 1)
            return False
        return True

    def _has_drafter(self, n_queries: int) -> bool:
        """Whether there is one that can help; what cannot is not tried again before `unload`."""
        if self._obstacle is None:
            try:
                self.drafter.load()
            except EngineError as error:
                self._obstacle = error
            else:
                stuck = self._cannot_rewind()
                self._obstacle = EngineError(stuck) if stuck else None
        if self._obstacle is not None:
            self._do_without(self._obstacle, n_queries)
        return self._obstacle is None

    def _do_without(self, error: EngineError, n_queries: int) -> None:
        """Count and log queries that are written without the drafter."""
        kind = type(error).__name__
        level = logging.DEBUG if self.undrafted[kind] else logging.WARNING
        self.undrafted[kind] += n_queries
        message = "stage %r writes %d queries without its drafter, which takes longer: %s"
        _LOG.log(level, message, self.stage_name, n_queries, error)
        _LOG.debug("why stage %r writes without its drafter", self.stage_name, exc_info=error)

    def _cannot_rewind(self) -> str:
        """Why a rejected block could not be taken back; empty where it can."""
        for engine in (self.drafter, self.verifier):
            if not engine.loaded.rewinds:
                return f"the model of stage {engine.stage_name!r} has layers that cannot take tokens back"
        return ""

    @translated
    @torch.inference_mode()
    def speculate(self, queries: Sequence[Query], sampling: Sampling = GREEDY) -> list[Speculated]:
        """The verifier's answers, and how they came about.

        Raises:
            ConfigError: As `load` and `generate`, or a model cannot take tokens back.
            PromptTooLongError, EngineError: As `generate` of either stage.
        """
        if not queries:
            return []
        self.load()
        if stuck := self._cannot_rewind():
            raise ConfigError(f"stage {self.stage_name!r} cannot speculate: {stuck}")
        self.synchronise()
        start = self._clock()
        rows = [self._row(query) for query in queries]
        big = self.verifier.open_batch([len(row.unread_big) + row.room for row in rows], rewinds=True)
        self._run(rows, big, sampling)
        drafts = self.verifier.drafts(queries, list(map(_answer, rows)), [row.usage for row in rows], start)
        return [Speculated(draft, tuple(row.accepted)) for draft, row in zip(drafts, rows, strict=True)]

    @translated
    @torch.inference_mode()
    def _go_on(self, queries: Sequence[Query], verifications: Sequence[Verification]) -> list[Draft]:
        if not queries:
            return []
        self.load()
        self.synchronise()
        start = self._clock()
        prompts = [self._prompt(self.drafter, query) for query in queries]  # before caches are taken
        resumed = self.verifier.resume(queries, verifications)
        answers, usages = resumed.answers, [NO_CALL] * len(queries)
        if resumed.open:
            rows = self._rows_on(queries, prompts, resumed)
            self._run(rows, resumed.batch, GREEDY)
            for i, row in zip(resumed.open, rows, strict=True):
                answers[i], usages[i] = _answer(row), row.usage
        return self.verifier.drafts(queries, answers, usages, start)

    def _run(self, rows: Sequence[DecodingRow], big: Batch, sampling: Sampling) -> None:
        small = self.drafter.open_batch([len(row.unread_small) + row.room for row in rows], rewinds=True)
        Rounds(small, big, rows, self.block, sampling).run()

    def _row(self, query: Query) -> DecodingRow:
        """A row that has read nothing yet."""
        small, big = self._prompt(self.drafter, query), self._prompt(self.verifier, query)
        watching = watch(query, self.verifier.loaded.tokenizer)
        [cancel] = tokens_of([query])
        return DecodingRow(
            small, big, query.max_new_tokens, Usage(len(big), 0, 0), watch=watching, cancel=cancel
        )

    def _rows_on(
        self, queries: Sequence[Query], prompts: Sequence[list[int]], resumed: Resumed
    ) -> list[DecodingRow]:
        """Rows that continue: the verifier's next token is known, the drafter reads the whole answer."""
        rows: list[DecodingRow] = []
        logits = resumed.batch.logits
        tokens = logits.argmax(-1)
        logprobs = logits.log_softmax(-1).gather(1, tokens.unsqueeze(1)).squeeze(1).tolist()
        for i, n_read, token, logprob in zip(
            resumed.open, resumed.n_read, tokens.tolist(), logprobs, strict=True
        ):
            before = resumed.answers[i]
            row = DecodingRow(
                unread_small=[*prompts[i], *before.tokens, token],
                unread_big=[token],
                limit=queries[i].max_new_tokens,
                usage=Usage(n_read, n_decoded=1, n_passes=int(n_read > 0)),
                tokens=list(before.tokens),
                logprobs=list(before.logprobs),
                watch=watch(queries[i], self.verifier.loaded.tokenizer, before.tokens),
                cancel=tokens_of([queries[i]])[0],
            )
            row.write([token], [logprob], self.verifier.loaded.stop_ids)
            rows.append(row)
        return rows

    @staticmethod
    def _prompt(engine: TransformersEngine, query: Query) -> list[int]:
        loaded = engine.loaded
        return encode(query, engine.stage, loaded.tokenizer, loaded.context, loaded.n_vocab)


def _answer(row: DecodingRow) -> Answer:
    return Answer(tuple(row.tokens), tuple(row.logprobs), row.finished)
