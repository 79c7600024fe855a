"""Theory in experiments that could fail: every table of a study that stands beside a formula.

regret, regret_course (and _simulated)   learning while answering against sqrt(T log T)     `learners`
samples, sample_slopes                   training queries against n^(-1/2)                  `samples`
thresholds                               where every node stops, over lambda                here
exactness, solving                       the recursion against brute force; its time        `solving`
acceptance, acceptance_shares            tokens per pass against (1 - a^(k+1)) / (1 - a)    `drafting`
lenient                                  quality and passes over the verifier's tolerance   `lenient`
reliability, training                    calibration by stage; losses of the ladder         `reliability`
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from asd.research.study.material import Material
from asd.research.study.methods import LAMS
from asd.research.study.record import StudyTable, Value
from asd.research.theory.drafting import acceptance_tables
from asd.research.theory.learners import regret_tables
from asd.research.theory.lenient import lenient_tables
from asd.research.theory.reliability import reliability_table, training_table
from asd.research.theory.samples import sample_tables
from asd.research.theory.solving import exactness_table, solving_table
from asd.stopping.recursion import Solution, solve

__all__ = ["THEORY", "thresholds_table"]

EMBEDDED = "tiny"
"""The ladder whose training log ships with the package."""


THEORY: Mapping[str, Callable[[Material], Sequence[StudyTable]]] = {
    "regret": regret_tables,
    "samples": sample_tables,
    "thresholds": lambda m: [thresholds_table(m)],
    "solving": lambda m: [exactness_table(m.seed), solving_table(m.seed, m.clock)],
    "acceptance": acceptance_tables,
    "lenient": lenient_tables,
    "reliability": lambda m: [reliability_table(m)],
    "training": lambda m: [training_table()] if m.ladder.name == EMBEDDED else [],
}
"""By step, how its tables are made; regret takes a minute or two, samples half a minute."""


def thresholds_table(material: Material) -> StudyTable:
    """The lowest success probability at which each node stops, by lambda."""
    solution = solve(material.fitted.graph(), LAMS)
    n_rows = material.fitted.fit.n_rows
    return StudyTable(
        name="thresholds",
        title="Where the policy stops, over lambda",
        provenance="replayed",
        measured_on=f"the stopping problem fitted on ladder {material.ladder.name}, {', '.join(n_rows)}",
        n=sum(n_rows.values()),
        columns=("node", "lambda", "stops", "threshold", "share_of_bins"),
        rows=tuple(_thresholds(solution)),
        note="Threshold: lowest success probability of the best answer so far at which the node stops; a "
        "dash where it never stops, or where its stop set is no upper interval.",
    )


def _thresholds(solution: Solution) -> Iterator[tuple[Value, ...]]:
    for node in solution.graph.nodes:
        if not (node.may_stop and solution.graph.outgoing(node.name)):
            continue
        for i, lam in enumerate(solution.lams.tolist()):
            share = float(solution.stop_set(node.name)[i].mean())
            lowest = solution.threshold(node.name, i)
            kind = "never" if share == 0.0 else "elsewhere" if lowest is None else "from a threshold on"
            shown = lowest if lowest is not None and np.isfinite(lowest) else None
            yield node.name, lam, kind, shown, share
