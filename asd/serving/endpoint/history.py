"""What became of the latest requests: the full explanation by id, for as long as there is room."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import msgspec

from asd.explanation import explain
from asd.serving.endpoint.bodies import Asked
from asd.serving.endpoint.settings import Setting
from asd.serving.endpoint.walks import Delivered

__all__ = ["History"]


class History:
    """The latest requests that were answered; what they asked is not kept.

    Args:
        most: Requests that are kept; the oldest goes first.
    """

    def __init__(self, most: int = 1000) -> None:
        self._most = most
        self._kept: OrderedDict[str, tuple[str, bytes]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, asked: Asked, key: str, setting: Setting, delivered: Delivered) -> None:
        """Remember a request under its id, for whoever has the same key."""
        self._kept[asked.query.id] = key, msgspec.json.encode(_explained(asked, setting, delivered))
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)

    def explained(self, request: str, key: str) -> bytes | None:
        """All decisions and calls of a request as JSON; None: it is not known, or another key's."""
        owner, explained = self._kept.get(request, ("", None))
        return explained if owner == key else None


def _explained(asked: Asked, setting: Setting, delivered: Delivered) -> dict[str, Any]:
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
        "decisions": msgspec.to_builtins(completion.decisions),
        "calls": [
            {"stage": call.stage, "kind": type(call).__name__.lower()}
            | {"usage": msgspec.to_builtins(call.usage), "seconds": call.seconds}
            for call in completion.bought
        ],
        "failures": [{"action": failed.action, "kind": failed.kind} for failed in completion.failures],
        "explanation": explain(completion).splitlines(),
    }
