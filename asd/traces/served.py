"""Traces that a server has written: a log of what it decided, in which most stages were not run.

A row of a server's log has the dataset `SERVED`; what it decided stands in its tags. A stage that was not
run for a request is missing there, not wrong. Which stages run depends on the evidence, so requests that
happen to have all answers are harder than others: to learn from them as they are would be wrong. Requests
with the tag `DRAWN` were drawn by lot before anything of them was decided, and answered by further stages in
the shadow; those of them that every stage has answered are as fair a sample as collected rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from asd.types import Trace

__all__ = ["DRAWN", "SERVED", "uncensored"]

SERVED = "served"
DRAWN = "drawn"


def uncensored(traces: Iterable[Trace], stages: Collection[str]) -> list[Trace]:
    """Collected rows, and those of a server's log from which stages can be compared.

    Verifications of served rows are left out: only those are there that a policy has asked for.
    """
    return [
        trace if trace.query.dataset != SERVED else replace(trace, verifications={}, continuations={})
        for trace in traces
        if trace.query.dataset != SERVED
        or (DRAWN in trace.query.tags and all(stage in trace.outcomes for stage in stages))
    ]
