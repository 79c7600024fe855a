"""Block speculation: a smaller model drafts a few tokens, a larger one reads them in one pass, and so on.

    draft    the drafter writes up to `block` tokens
    verify   the verifier reads them in one forward pass, takes a prefix and adds one token of its own
    rewind   both caches take back what was not accepted; nothing is computed twice

Lossless: greedy text is the verifier's own token for token; samples follow its distribution, by the rule of
arXiv 2211.17192 (here the draft is an unconditional draw from a known q; a cascade's is not, see
`asd.stopping.acceptance`). It changes time only, and pays where drafted tokens are cheap and mostly accepted:
`plan_block` says how long a block should be, 0 where plain decoding is faster.

The border: two `transformers` stages of one vocabulary in this process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from asd.engines import GREEDY, Sampling
from asd.engines.prompts import encode
from asd.engines.speculating import Rounds, Row
from asd.engines.transformers import TransformersEngine
from asd.errors import ConfigError, EngineError
from asd.ladder import Prices
from asd.stopping.acceptance import acceptance_rate, best_block
from asd.types import Draft, Query, Usage, Verification

__all__ = ["Speculated", "SpeculativeEngine", "plan_block"]


@dataclass(frozen=True, slots=True)
class Speculated:
    """An answer and what it took on either side.

    Attributes:
        draft: The verifier's answer; its usage counts the verifier: prompt, own tokens, tokens read, passes.
        drafting: What the drafter did for it.
        accepted: Length of the accepted prefix of every block.
    """

    draft: Draft
    drafting: Usage
    accepted: tuple[int, ...]


def plan_block(drafter: Prices, verifier: Prices, verifications: Sequence[Verification]) -> int:
    """Block length with the most tokens per price; 0: plain decoding is cheaper.

    Args:
        drafter: Prices at the batch size in question.
        verifier: Likewise.
        verifications: Of the drafter's answers by the verifier: how much is accepted.

    Raises:
        ConfigError: The verifier's decoded tokens cost nothing, or no token was ever verified.
    """
    unit = verifier.per_decoded_token
    if unit <= 0:
        raise ConfigError("the verifier's decoded tokens cost nothing; measure its prices first")
    verified = verifier.per_prompt_token if verifier.per_verified is None else verifier.per_verified
    rate = acceptance_rate([(v.n_accepted, len(v.tokens)) for v in verifications])
    return best_block(rate, drafter.per_decoded_token / unit, verified / unit)


class SpeculativeEngine:
    """The verifier's stage, written faster; implements `asd.engines.Engine`.

    Args:
        drafter: The smaller stage.
        verifier: The stage that is served.
        block: Most tokens drafted at a time; 0: plain decoding.
        clock: Seconds now, for `Draft.seconds`.

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

    @property
    def stage_name(self) -> str:
        """Name of the verifier's stage."""
        return self.verifier.stage_name

    def load(self) -> None:
        """Bring both stages into memory.

        Raises:
            EngineError: A stage cannot be loaded, or the two have different vocabularies.
        """
        small, big = self.drafter.loaded, self.verifier.loaded
        if not self._checked and small.tokenizer.get_vocab() != big.tokenizer.get_vocab():
            raise EngineError(
                f"stages {self.drafter.stage_name!r} and {self.stage_name!r} have different vocabularies; "
                "block speculation needs one, `verify` carries whole answers over as text"
            )
        self._checked = True

    def unload(self) -> None:
        """Give the memory of both back."""
        self.drafter.unload()
        self.verifier.unload()

    def synchronise(self) -> None:
        """Wait until the device is idle."""
        self.verifier.synchronise()

    def generate(self, queries: Sequence[Query], sampling: Sampling = GREEDY) -> list[Draft]:
        """The verifier's answers; errors as in its own `generate`."""
        if self.block == 0:
            return self.verifier.generate(queries, sampling)
        return [speculated.draft for speculated in self.speculate(queries, sampling)]

    @torch.inference_mode()
    def speculate(self, queries: Sequence[Query], sampling: Sampling = GREEDY) -> list[Speculated]:
        """The verifier's answers, and how they came about.

        Raises:
            ConfigError, PromptTooLongError, EngineError: As `generate` of either stage.
        """
        if not queries:
            return []
        self.load()
        self.synchronise()
        start = self._clock()
        rows = [self._row(query) for query in queries]
        Rounds(
            self.drafter.loaded, self.verifier.loaded, rows, self.block, sampling, self.verifier.padding_side
        ).run()
        tokenizer = self.verifier.loaded.tokenizer
        texts = tokenizer.batch_decode([row.tokens for row in rows], skip_special_tokens=True)
        self.synchronise()
        seconds = self._clock() - start
        return [self._speculated(row, text, seconds) for row, text in zip(rows, texts, strict=True)]

    def _row(self, query: Query) -> Row:
        small, big = (
            encode(query, engine.stage, engine.loaded.tokenizer, engine.loaded.context)
            for engine in (self.drafter, self.verifier)
        )
        return Row(small, big, query.max_new_tokens, Usage(len(small), 0, 0), Usage(len(big), 0, 0))

    def _speculated(self, row: Row, text: str, seconds: float) -> Speculated:
        tokens, logprobs = tuple(row.tokens), tuple(row.logprobs)
        draft = Draft(self.stage_name, text, tokens, logprobs, row.finished, row.verifying, seconds)
        return Speculated(draft, row.drafting, tuple(row.accepted))
