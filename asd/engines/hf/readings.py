"""The passes of one call that verifies drafts: one over all of them, and one more over some at another seam.

A draft that the verifier rejects at its first token may differ in nothing but its leading white space, as a
chat model's "Paris" does from a base model's " Paris". Such drafts are read once more, as they continue the
token that the verifier itself begins with, from the caches of their prompts. Which ones, the first pass has
shown: no other draft costs a second one. Greedy decoding only, where the verifier's own token is its argmax.

Scope: tokens, logits and caches; no queries, no clocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from asd.engines import Acceptance
from asd.engines.hf.decoder import Batch
from asd.engines.hf.model import Loaded
from asd.engines.hf.retokenizer import Carried, carry_behind, carry_over
from asd.engines.hf.verifier import Judged, read_drafts
from asd.types import Draft

__all__ = ["Result", "VerificationPass", "read_all", "results"]


@dataclass(frozen=True, slots=True)
class VerificationPass:
    """One forward pass over some of a call's drafts.

    Attributes:
        places: Where the draft of each row stands in the call.
        carried: What the rows stand for, a first token that the verifier wrote included.
        judged: What came of them.
        n_judged: Tokens of each row that this pass judged.
        batch: The rows, which stand after their accepted prefixes once `judged.drop` is taken back.
    """

    places: list[int]
    carried: list[Carried]
    judged: Judged
    n_judged: list[int]
    batch: Batch


@dataclass(frozen=True, slots=True)
class Result:
    """What the last pass over one draft says of it.

    `n_passes` and `n_verified` count all of its passes; `stopped`: a stop string ends the accepted tokens.
    """

    carried: Carried
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    n_accepted: int
    n_passes: int
    n_verified: int
    stopped: bool = False

    def up_to(self, n: int) -> Result:
        """The first n tokens, which are accepted and end the answer."""
        whole = replace(self.carried, complete=self.carried.complete and n == len(self.tokens))
        return replace(
            self,
            carried=whole,
            tokens=self.tokens[:n],
            logprobs=self.logprobs[:n],
            n_accepted=n,
            stopped=True,
        )

    @property
    def is_whole(self) -> bool:
        """Nothing can follow what was accepted."""
        return self.carried.closed and self.n_accepted == len(self.tokens)


def read_all(
    batch: Batch,
    prompts: Sequence[Sequence[int]],
    drafts: Sequence[Draft],
    rooms: Sequence[int],
    acceptance: Acceptance,
) -> list[VerificationPass]:
    """Read all drafts in one pass, and in a second one those that need another seam.

    Args:
        batch: Rows that have read nothing yet, one a draft.
        prompts: Token ids, by draft.
        drafts: As their stages wrote them.
        rooms: Most tokens of each answer.
        acceptance: The rule; a second pass is for greedy ones, and for models that can take tokens back.
    """
    loaded = batch.loaded
    carried = [
        carry_over(draft, prompt, room, **_names(loaded))
        for draft, prompt, room in zip(drafts, prompts, rooms, strict=True)
    ]
    judged = read_drafts(batch, prompts, carried, acceptance)
    batch.logits = judged.after
    n_judged = [len(tokens) for tokens in judged.tokens]
    first = VerificationPass(list(range(len(prompts))), carried, judged, n_judged, batch)
    if not loaded.rewinds or acceptance.sampling.temperature != 0:
        return [first]
    own = judged.after.argmax(-1).tolist()
    tails = {
        i: carry_behind(drafts[i], prompts[i], own[i], rooms[i] - 1, **_names(loaded))
        for i, n_accepted in enumerate(judged.n_accepted)
        if n_accepted == 0 and judged.tokens[i]
    }
    found = {i: tail for i, tail in tails.items() if tail is not None}
    return [first, _read_behind(first, [own[i] for i in found], found, acceptance)] if found else [first]


def _names(loaded: Loaded) -> dict[str, Any]:
    """What the tokens of a stage mean, in the words of `asd.engines.hf.retokenizer`."""
    return {"tokenizer": loaded.tokenizer, "stop_ids": loaded.stop_ids, "n_vocab": loaded.n_vocab}


def _read_behind(
    first: VerificationPass, tokens: list[int], tails: dict[int, Carried], acceptance: Acceptance
) -> VerificationPass:
    """Let the rows of some drafts read a token each and then what was carried over behind it."""
    places, judged = list(tails), first.judged
    index = torch.tensor(places, device=judged.after.device)
    batch = first.batch.select(places)
    batch.rewind([judged.drop[i] for i in places])
    behind = read_drafts(batch, [[token] for token in tokens], list(tails.values()), acceptance)
    batch.logits = behind.after
    logprobs = judged.after[index].log_softmax(-1).amax(-1).tolist()
    return VerificationPass(
        places,
        [
            replace(tail, tokens=[token, *tail.tokens])
            for token, tail in zip(tokens, tails.values(), strict=True)
        ],
        replace(
            behind,
            tokens=[(token, *rest) for token, rest in zip(tokens, behind.tokens, strict=True)],
            logprobs=[(logprob, *rest) for logprob, rest in zip(logprobs, behind.logprobs, strict=True)],
            n_accepted=[1 + n for n in behind.n_accepted],
        ),
        [len(rest) for rest in behind.tokens],
        batch,
    )


def results(readings: Sequence[VerificationPass]) -> list[Result]:
    """What came of every draft, in the order of the call; the first reading holds all of them."""
    found: dict[int, Result] = {}
    for reading in readings:
        judged = reading.judged
        for row, place in enumerate(reading.places):
            before = found.get(place)
            found[place] = Result(
                reading.carried[row],
                judged.tokens[row],
                judged.logprobs[row],
                judged.n_accepted[row],
                n_passes=1 + (before.n_passes if before else 0),
                n_verified=reading.n_judged[row] + (before.n_verified if before else 0),
            )
    return list(found.values())
