"""Why the cascade did what it did for one query, as a table for people.

One row a state: the answer bought last and its evidence, the calibrated success probability of every answer
in hand, the value of every action in cost units (lam x quality - cost to come), and what was decided.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from asd.types import STOP, Completion, Decision, Draft

__all__ = ["explain"]

_NOTHING = "-"


def explain(completion: Completion) -> str:
    """The states a query went through, one line each under a line of column names."""
    actions = list(dict.fromkeys(action for decision in completion.decisions for action in decision.values))
    header = ["answered", "answer", "tokens", "log p", "p_good", *(f"V({a})" for a in actions), "decision"]
    drafts: list[Draft | None] = [None, *completion.drafts]
    rows = [
        [*_evidence(draft), _p_good(decision), *_values(decision, actions), _decided(decision)]
        for draft, decision in zip(drafts, completion.decisions, strict=True)
    ]
    return _table([header, *rows])


def _evidence(draft: Draft | None) -> list[str]:
    """Stage, text, number of tokens and mean log-probability of a token."""
    if draft is None:
        return ["(prompt)", _NOTHING, _NOTHING, _NOTHING]
    mean = f"{fmean(draft.logprobs):.3f}" if draft.logprobs else _NOTHING
    return [draft.stage, _shortened(draft.text), str(len(draft.tokens)), mean]


def _p_good(decision: Decision) -> str:
    return ", ".join(f"{stage} {p:.3f}" for stage, p in decision.p_good.items()) or _NOTHING


def _values(decision: Decision, actions: Sequence[str]) -> list[str]:
    return [f"{decision.values[a]:.3f}" if a in decision.values else _NOTHING for a in actions]


def _decided(decision: Decision) -> str:
    return f"return {decision.answer}" if decision.action == STOP else f"run {decision.action}"


def _shortened(text: str, width: int = 24) -> str:
    line = "".join(c if c.isprintable() else " " for c in text)
    return line if len(line) <= width else f"{line[: width - 3]}..."


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
