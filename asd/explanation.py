"""Why the cascade did what it did for one query, as a table for people.

One row a state: what was bought last (an answer, or "S>L": L has read S's answer) and its evidence, the
calibrated success probability of every answer that is judged there, the value of every action in cost units
(lam x quality - cost to come) or, where lists vote, the share of them for it, and what was decided. Of a
verification, the tokens are those accepted of those read. Below come the tokens that a stage need not read
again to continue from what it verified, stages for other domains, and calls that failed, one a line each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from asd.evidence.prompt.taxonomy import classify
from asd.types import Action, Completion, Decision, Draft, Verification, pair_name

__all__ = ["explain"]

_NOTHING = "-"


def explain(completion: Completion) -> str:
    """The states a query went through, one line each under a line of column names."""
    valued = list(dict.fromkeys(action for decision in completion.decisions for action in decision.values))
    voted = list(dict.fromkeys(action for decision in completion.decisions for action in decision.votes))
    named = [*(f"V({action})" for action in valued), *(f"votes({action})" for action in voted)]
    header = ["answered", "answer", "tokens", "log p", "p_good", *named, "decision"]
    rows = [
        [
            *_evidence(bought),
            _p_good(decision),
            *_numbers(decision.values, valued),
            *_numbers(decision.votes, voted),
            _decided(decision),
        ]
        for bought, decision in zip((None, *completion.bought), completion.decisions, strict=True)
    ]
    reused = completion.n_reused
    saved = [f"reused: {reused} tokens of prompt and draft, from the KV cache of their verification"]
    failures = (f"failed: {f.action}, {f.kind}: {f.message}" for f in completion.failures)
    return "\n".join([_table([header, *rows]), *saved * (reused > 0), *_left_out(completion), *failures])


def _left_out(completion: Completion) -> list[str]:
    """Stages for other domains, in a line that names the query's own."""
    if not completion.left_out:
        return []
    domain = classify(completion.query.prompt).domain
    return [f"not asked: {', '.join(completion.left_out)}, for other domains than {domain}"]


def _evidence(bought: Draft | Verification | None) -> list[str]:
    """Stage, text, number of tokens and mean log-probability of a token."""
    if bought is None:
        return ["(prompt)", _NOTHING, _NOTHING, _NOTHING]
    mean = f"{fmean(bought.logprobs):.3f}" if bought.logprobs else _NOTHING
    if isinstance(bought, Verification):
        read = f"{bought.n_accepted}/{len(bought.tokens)}"
        return [
            pair_name(bought.drafter, bought.stage),
            "accepted" if bought.accepted else "rejected",
            read,
            mean,
        ]
    return [bought.stage, _shortened(bought.text), str(bought.n_tokens), mean]


def _p_good(decision: Decision) -> str:
    return ", ".join(f"{stage} {p:.3f}" for stage, p in decision.p_good.items()) or _NOTHING


def _numbers(known: Mapping[Action, float], actions: Sequence[Action]) -> list[str]:
    return [f"{known[action]:.3f}" if action in known else _NOTHING for action in actions]


def _decided(decision: Decision) -> str:
    if decision.action.kind == "stop":
        return f"return {decision.answer}"
    if decision.action.kind == "verify":
        return f"verify {pair_name(str(decision.answer), decision.action.stage)}"
    return f"run {decision.action.stage}"


def _shortened(text: str, width: int = 24) -> str:
    line = "".join(c if c.isprintable() else " " for c in text)
    return line if len(line) <= width else f"{line[: width - 3]}..."


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
