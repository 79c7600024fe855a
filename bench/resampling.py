"""Does it pay to draw several samples from a stage and to see whether they agree, before paying for the next?

    python -m bench.resampling --limit 500 --samples 4

One more node of the stopping problem: after a stage's greedy answer one may stop, let the largest stage
answer, or first draw k samples (one call, batched) and judge the same answer again with the share of samples
that equal it. What answer and agreement say of success is cross-fitted; where sampling is chosen (by deciles
of the first judgement) it is chosen on the very rows it is measured on, so the node is flattered if anything.
The last column is what the samples would be worth as a gift.

Reported, never judged. Answers `measured`, quality and cost `replayed`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import click
import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate
from tqdm import tqdm

from asd.engines import Engine, Sampling, alone
from asd.engines.batches import in_batches
from asd.engines.registry import open_engines
from asd.evidence.crossfit import assign_folds, out_of_fold
from asd.evidence.features import answer_features, prompt_features
from asd.evidence.logistic import fit_logistic
from asd.evidence.metrics import auroc
from asd.ladder import Ladder
from asd.types import Draft, Query
from asd.workloads import Workload, score_of
from asd.workloads.catalogue import default_names, find_workloads

__all__ = ["Judged", "Played", "play"]

Array = NDArray[np.float64]

LAMS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
N_DECILES, N_FOLDS = 10, 5
BATCH = 16


@dataclass(frozen=True, slots=True)
class Judged:
    """One stage's answers, one entry a question.

    Attributes:
        right: Scores of the greedy answers.
        right_next: Scores of the largest stage's answers.
        now: Out-of-fold probability that the answer is right, before any sample.
        then: The same with the samples' agreement.
        next: Out-of-fold probability that the largest stage is right.
    """

    right: Array
    right_next: Array
    now: Array
    then: Array
    next: Array


@dataclass(frozen=True, slots=True)
class Played:
    """Mean quality and cost of one way to decide; the share of questions that were sampled."""

    quality: float
    cost: float
    sampled: float

    def value(self, lam: float) -> float:
        """What is maximised."""
        return lam * self.quality - self.cost


def play(judged: Judged, lam: float, price: float) -> Played:
    """Stop, sample or go on, by the values in cost units (one run of the largest stage).

    Args:
        judged: Of the answers in hand.
        lam: Cost units that a right answer is worth.
        price: Of the samples of one question; infinite: there is no such node.
    """
    onwards = lam * judged.next - 1.0
    without = np.maximum(lam * judged.now, onwards)
    gain = np.maximum(lam * judged.then, onwards) - without
    borders = np.quantile(judged.now, np.linspace(0, 1, N_DECILES + 1)[1:-1])
    decile = np.searchsorted(borders, judged.now)
    mean_gain = np.array([gain[decile == d].mean() if (decile == d).any() else 0.0 for d in range(N_DECILES)])
    sampled = (mean_gain > price)[decile]
    stops = lam * np.where(sampled, judged.then, judged.now) >= onwards
    paid = np.where(sampled, price if np.isfinite(price) else 0.0, 0.0)
    quality = np.where(stops, judged.right, judged.right_next)
    return Played(float(quality.mean()), float((paid + ~stops).mean()), float(sampled.mean()))


def judge(queries: Sequence[Query], drafts: Sequence[Draft], agreement: Array, scores: Array) -> Judged:
    """Cross-fit what answers and samples say; `scores` has the stage's row first, the largest's second."""
    folds = assign_folds([f"{query.dataset}/{query.id}" for query in queries], N_FOLDS, seed=0)
    plain = np.array(
        [[*prompt_features(q.prompt), *answer_features(d)] for q, d in zip(queries, drafts, strict=True)]
    )
    seen = np.column_stack([plain, agreement, agreement == 1.0])
    fits = [(plain, scores[0]), (seen, scores[0]), (plain, scores[1])]
    return Judged(*scores, *(out_of_fold(x, y, folds, _fit) for x, y in fits))


def _fit(x: Array, scores: Array) -> Callable[[Array], Array]:
    model = fit_logistic(x, scores, strength=0.1)
    return lambda rows: np.asarray(1 / (1 + np.exp(-model.logits(rows))))


@click.command()
@click.option("--ladder", default="tiny", show_default=True, help="Preset or TOML file.")
@click.option("--device", default="cpu", show_default=True, help="Such as cpu or cuda:0.")
@click.option("--limit", type=click.IntRange(min=20), default=500, show_default=True, help="A dataset.")
@click.option("--samples", type=click.IntRange(min=2), default=4, show_default=True, help="A question.")
@click.option("--temperature", type=float, default=1.0, show_default=True)
def main(ladder: str, device: str, limit: int, samples: int, temperature: float) -> None:
    """Compare stopping with and without a node of several samples, at every stage but the largest."""
    rungs = Ladder.load(ladder)
    engines = open_engines(rungs, device, "transformers", batch=BATCH)
    asked = [(w, query) for w in find_workloads(default_names()) for query in w.queries("fit", limit)]
    queries = [query for _, query in asked]
    prices = rungs.prices_at(1)
    largest = rungs.stages[-1].name
    last = _answers(alone(engines[largest]), queries)
    unit = float(np.mean([prices[largest].cost(draft.usage) for draft in last]))
    for stage in rungs.stages[:-1]:
        engine = engines[stage.name]
        drafts = _answers(engine, queries)
        drawn = _samples(engine, queries, samples, Sampling(temperature, np.random.default_rng(0)))
        agreement = np.array(
            [np.mean([e.text == d.text for e in each]) for each, d in zip(drawn, drafts, strict=True)]
        )
        cost = rungs.prices_at(samples)[stage.name].cost
        price = float(np.mean([sum(cost(draft.usage) for draft in each) for each in drawn])) / unit
        judged = judge(queries, drafts, agreement, np.array([_scores(asked, drafts), _scores(asked, last)]))
        _report(stage.name, judged, price)


def _answers(engine: Engine, queries: Sequence[Query]) -> list[Draft]:
    found: dict[int, Draft] = {}
    for drafts in in_batches(engine, queries, BATCH):
        found |= drafts
    return [found[i] for i in range(len(queries))]


def _samples(engine: Engine, queries: Sequence[Query], samples: int, sampling: Sampling) -> list[list[Draft]]:
    """Several answers to every question, drawn in one call."""
    shown = tqdm(queries, desc=f"{engine.stage_name} samples", unit="query", disable=None)
    return [engine.generate([query] * samples, sampling) for query in shown]


def _scores(asked: Sequence[tuple[Workload, Query]], drafts: Sequence[Draft]) -> list[float]:
    return [score_of(w, query, draft.text) for (w, query), draft in zip(asked, drafts, strict=True)]


def _report(stage: str, judged: Judged, price: float) -> None:
    before, after = (auroc(p, judged.right) for p in (judged.now, judged.then))
    click.echo(f"\nstage {stage}: AUROC {before:.3f} without samples, {after:.3f} with them")
    click.echo(f"price of a question's samples: {price:.3f} runs of the largest stage")
    rows = []
    for lam in LAMS:
        without, paid, gift = (play(judged, lam, p) for p in (np.inf, price, 0.0))
        gains = [f"{each.value(lam) - without.value(lam):+.4f}" for each in (paid, gift)]
        rows.append(
            [f"{lam:g}", f"{without.quality:.3f}", f"{without.cost:.3f}", f"{paid.sampled:.0%}", *gains]
        )
    headers = ["lam", "quality", "cost", "sampled", "gain", "gain at price 0"]
    click.echo(tabulate(rows, headers=headers, disable_numparse=True))


if __name__ == "__main__":
    main()
