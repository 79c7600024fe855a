"""Decisions and failures as JSON holds them: an action is its text ("stop", "L", ">L").

Whatever shows a decision or a completion as JSON takes it from here: msgspec would write the class's fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from asd.schema import msgspec
from asd.types import Action, Completion, Decision, Failure

__all__ = ["completion_row", "decision_row", "failure_row"]


def decision_row(decision: Decision) -> dict[str, Any]:
    """The fields of a decision, in their order."""
    return {
        "action": str(decision.action),
        "answer": decision.answer,
        "p_good": dict(decision.p_good),
        "values": _by_name(decision.values),
        "votes": _by_name(decision.votes),
    }


def failure_row(failure: Failure) -> dict[str, str]:
    """The fields of a failure, in their order."""
    return {"action": str(failure.action), "kind": failure.kind, "message": failure.message}


def completion_row(completion: Completion) -> dict[str, Any]:
    """The fields of a completion, in their order."""
    rest: dict[str, Any] = msgspec.to_builtins(replace(completion, decisions=(), failures=()))
    return rest | {
        "decisions": [*map(decision_row, completion.decisions)],
        "failures": [*map(failure_row, completion.failures)],
    }


def _by_name(of_actions: Mapping[Action, float]) -> dict[str, float]:
    return {str(action): number for action, number in of_actions.items()}
