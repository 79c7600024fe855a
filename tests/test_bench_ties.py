"""Answers that a stage writes twice and not alike: near-ties in short dtypes, else failures."""

import dataclasses

import msgspec
import numpy as np
import pytest
import torch

from asd.engines import Verifier
from asd.engines.prompts import encode
from asd.engines.registry import open_engines
from asd.evaluation.live import TimedPasses
from asd.evaluation.replay import Contender
from asd.ladder import Ladder
from asd.measurement.records import Cell, Metric, Run
from asd.policies import FixedStage
from asd.types import STOP, Action, Completion, Decision, Draft, Outcome, Query, Trace
from asd.workloads.catalogue import find_workloads
from bench.gate.judge import judge
from bench.gate.store import Target
from bench.gate.verdicts import Verdict
from bench.metrics.ties import Ties, gap, rounding, ties_of
from tests.fabricated import KEY, OPTIONS, baseline_of, fabricate

[WORKLOAD] = find_workloads(["tiny-text"])
QUERIES = WORKLOAD.queries("test", 6)


@pytest.fixture(scope="module")
def engine() -> Verifier:
    """The smallest stage of the embedded ladder, in bfloat16."""
    ladder = Ladder.load("tiny")
    stage = dataclasses.replace(ladder.stages[0], dtype="bfloat16")
    return open_engines(dataclasses.replace(ladder, stages=(stage,)), "cpu")[stage.name]


def other(engine: Verifier, draft: Draft, place: int, token: int) -> Draft:
    """The same answer with another token in one place, and the text that follows from it."""
    tokens = (*draft.tokens[:place], token, *draft.tokens[place + 1 :])
    text = engine.loaded.tokenizer.decode(tokens, skip_special_tokens=True)
    return dataclasses.replace(draft, tokens=tokens, text=text)


def logits(engine: Verifier, query: Query, draft: Draft, place: int) -> torch.Tensor:
    """Before that place of the answer, by the library's own forward pass."""
    loaded = engine.loaded
    prompt = encode(query, engine.stage, loaded.tokenizer, loaded.context, loaded.n_vocab)
    with torch.no_grad():
        ids = torch.tensor([[*prompt, *draft.tokens[:place]]])
        return loaded.model(ids).logits[0, -1].float()


def test_the_gap_is_that_of_the_logits_where_two_answers_part(engine: Verifier):
    """Against the model's own logits there."""
    [draft] = engine.generate(QUERIES[:1])
    here = logits(engine, QUERIES[0], draft, 1)
    best, second = here.topk(2).indices.tolist()
    assert best == draft.tokens[1]
    expected = float(here[best] - here[second])
    found = gap(engine, QUERIES[0], draft, other(engine, draft, 1, second))
    assert found == pytest.approx(expected, abs=0.1)
    assert gap(engine, QUERIES[0], draft, draft) == 0.0


def completion(query: Query, draft: Draft) -> Completion:
    decisions = (Decision(Action.draft(draft.stage), None), Decision(STOP, draft.stage))
    return Completion(query, draft.stage, draft.text, (draft,), decisions, 1.0)


def test_differences_are_near_ties_up_to_the_rounding_of_the_dtype(engine: Verifier):
    """One answer that parts at the likeliest other token, one that parts at the least likely, four alike."""
    drafts = engine.generate(QUERIES)
    traces = [Trace(q, {d.stage: Outcome(d, 1.0)}) for q, d in zip(QUERIES, drafts, strict=True)]
    least = int(logits(engine, QUERIES[1], drafts[1], 0).argmin())
    live = [drafts[0], other(engine, drafts[1], 0, least), *drafts[2:]]
    timed = TimedPasses(
        contender=Contender("always-S", None, FixedStage(drafts[0].stage)),
        seconds=np.ones((1, 6)),
        largest=np.ones((1, 6)),
        completions=tuple(map(completion, QUERIES, live)),
        expected=tuple(map(completion, QUERIES, drafts)),
    )
    found = ties_of(timed, traces, {drafts[0].stage: engine}, "bfloat16")
    assert (len(found.gaps), found.n, found.share) == (1, 6, 0.0)
    assert found.widest > rounding("bfloat16")
    assert timed.agreement == pytest.approx(5 / 6)


def test_shares_and_widths():
    """Of four answers one differs by a near-tie and one by more."""
    ties = Ties(gaps=(0.5, 0.51), n=4, rounding=0.5)
    assert (ties.share, ties.widest) == (0.25, 0.51)
    assert (Ties((), 4, 0.5).share, Ties((), 4, 0.5).widest) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("dtype", "nats"),
    [("bfloat16", 0.5), ("float16", 0.0625), ("float32+float16", 0.0625), ("auto", 0.5), ("float32", 1e-4)],
)
def test_the_coarsest_dtype_decides(dtype: str, nats: float):
    """What a file decides may be bfloat16."""
    assert rounding(dtype) == nats


def with_agreement(agreement: float, near_ties: float | None) -> Run:
    def metric(name: str, kind: str, value: float) -> Metric:
        return Metric(
            name=name, unit="share", kind=kind, direction="higher", provenance="measured", value=value,
            tolerance=1.0,
        )  # fmt: skip

    metrics = [metric("agreement", "count", agreement)]
    if near_ties is not None:
        metrics.append(metric("near_ties", "summary", near_ties))
    run = fabricate(np.random.default_rng(0))
    cells = (*run.cells, Cell(suite="frontier", policy="lossless", metrics=tuple(metrics)))
    return msgspec.structs.replace(run, cells=cells)


@pytest.mark.parametrize(
    ("agreement", "near_ties", "verdict"),
    [(1.0, None, "PASS"), (0.9, 0.1, "PASS"), (0.9, 0.05, "BELOW_TARGET"), (0.9, None, "BELOW_TARGET")],
)
def test_near_ties_count_as_agreement_where_a_target_asks_for_it(
    agreement: float, near_ties: float | None, verdict: str
):
    """In float32 there are none, and every answer must be the same."""
    target = Target(cell="frontier[lossless]", metric="agreement", least=1.0)
    run = with_agreement(agreement, near_ties)
    assert judge(run, baseline_of(run, target), OPTIONS).verdict is Verdict(verdict)


def test_near_ties_are_not_missed_in_float32():
    """A baseline of another dtype has them."""
    stored, run = with_agreement(1.0, 0.0), with_agreement(1.0, None)
    assert judge(run, baseline_of(stored), OPTIONS).exit_code == 11
    short = msgspec.structs.replace(
        stored.header, hardware=msgspec.structs.replace(KEY, dtype="bfloat16", device="nvidia-h100")
    )
    assert judge(run, baseline_of(msgspec.structs.replace(stored, header=short)), OPTIONS).exit_code == 0
