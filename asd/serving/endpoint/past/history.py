"""What became of the latest requests: the full explanation by id, and what scores of answers go to."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from asd.explanation import explain
from asd.schema.decisions import decision_row
from asd.serving.endpoint.bodies import ParsedRequest
from asd.serving.endpoint.settings import RequestSettings
from asd.serving.endpoint.walks import Delivered
from asd.serving.monitoring.evaluation import Compared
from asd.types import AnswerForm, Draft, Trace

__all__ = ["History", "PastRequest"]


@dataclass(slots=True)
class PastRequest:
    """One request.

    Attributes:
        key: Alias of the key that asked; nobody else is told of it.
        explained: Every decision and call, as JSON.
        stage: That answered.
        p_good: Probability that its answer is right; None: unknown.
        form: What an answer is.
        drafts: Answers by stage, those of the shadow among them.
        compared: With the reference's answer; None: it was not.
        logged: As it stands in the log of decisions; None: it does not.
        scores: That people gave, by stage.
        reference: The right answer, where somebody gave it.
    """

    key: str
    explained: bytes
    stage: str
    p_good: float | None
    form: AnswerForm
    drafts: dict[str, Draft]
    compared: Compared | None = None
    logged: Trace | None = None
    scores: dict[str, float] = field(default_factory=dict)
    reference: str | None = None


class History:
    """The latest requests that were answered; what they asked is kept only where it is logged.

    Args:
        most: Requests that are kept; the oldest goes first.
    """

    def __init__(self, most: int = 1000) -> None:
        self._most = most
        self._kept: OrderedDict[str, PastRequest] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, asked: ParsedRequest, key: str, setting: RequestSettings, delivered: Delivered) -> None:
        """Remember a request under its id, for whoever has the same key."""
        completion = delivered.completion
        self._kept[asked.query.id] = PastRequest(
            key,
            msgspec.json.encode(_explained(asked, setting, delivered)),
            completion.stage,
            delivered.p_good,
            completion.query.form,
            {draft.stage: draft for draft in completion.drafts},
        )
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)

    def complete(
        self, request: str, shadow: Mapping[str, Draft], compared: Compared | None, logged: Trace | None
    ) -> PastRequest | None:
        """Add what is known of a request once it is settled, if it is still remembered, and return it."""
        if (kept := self._kept.get(request)) is not None:
            kept.drafts |= shadow
            kept.compared, kept.logged = compared, logged
        return kept

    def find(self, request: str, key: str) -> PastRequest | None:
        """A request; None: it is not known, or another key's."""
        kept = self._kept.get(request)
        return kept if kept is not None and kept.key == key else None


def _explained(asked: ParsedRequest, setting: RequestSettings, delivered: Delivered) -> dict[str, Any]:
    completion = delivered.completion
    return {
        "id": asked.query.id,
        "object": "asd.request",
        "model": asked.model,
        "asked": asked.controls.given,
        "policy": setting.policy.name,
        "note": setting.note or None,
        "stage": completion.stage,
        "p_good": delivered.p_good,
        "cost": completion.cost,
        "seconds": delivered.seconds,
        "in_time": delivered.in_time,
        "decisions": [*map(decision_row, completion.decisions)],
        "calls": [
            {"stage": call.stage, "kind": type(call).__name__.lower()}
            | {"usage": msgspec.to_builtins(call.usage), "seconds": call.seconds}
            for call in completion.bought
        ],
        "failures": [{"action": str(failed.action), "kind": failed.kind} for failed in completion.failures],
        "explanation": explain(completion).splitlines(),
    }
