"""A whole run of the harness over scripted stages: outcomes, replays, live passes, headline, cells.

Three stages of growing skill answer real questions of two datasets; a fake clock makes every call of a stage
take exactly its time, so speed-ups are known in advance.
"""

import dataclasses
import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from asd.collection import collect, header_for
from asd.engines import GREEDY, Engine, Sampling
from asd.engines.revisions import revisions
from asd.evaluation.live import Live, run_live
from asd.evaluation.replay import Contender, Replay, keeping
from asd.ladder import Ladder, Stage
from asd.measurement.records import Cell, Metric, Run
from asd.measurement.timing import Budget, Timings
from asd.policy.fit import fit
from asd.prices import Prices
from asd.testing import FakeClock, ScriptedEngine
from asd.traces.log import TraceLog
from asd.types import Completion, Draft, Query, Trace, Usage, Verification
from asd.workloads.catalogue import find_workloads
from bench.gate.judge import RunOptions, judge
from bench.gate.verdicts import Verdict
from bench.metrics.cells import (
    cost_cell,
    frontier_cell,
    hardware_cell,
    headline_cell,
    latency_cell,
    overhead_cell,
    quality_cell,
    rival_cell,
    sweep_cell,
    verification_cell,
)
from bench.metrics.hardware import ALL_MEMORY, Footprint, contenders, footprint, larger_call
from bench.metrics.headline import Headline, headline, live_turns
from bench.metrics.measurements import Measurements
from bench.run.matrix import RENTED, Matrix
from bench.run.session import Session
from bench.run.summary import render
from tests.fabricated import baseline_of

pytestmark = pytest.mark.slow

DATASETS = ("tiny-arithmetic", "tiny-text")
SKILL = {"S": 0.6, "M": 0.8, "L": 0.96}
SECONDS = {"S": 0.1, "M": 0.3, "L": 1.0}
LAMS = (0.1, 1.0, 5.0, 50.0)
LAYERS = {"S": 2, "M": 8, "L": 28}
N_ITEMS = 40
BATCH = 4


def answer(stage: str, query: Query) -> tuple[str, list[float]]:
    """Right with the stage's skill, the same item being hard for all; confident mostly where right."""
    rng = np.random.default_rng(zlib.crc32(query.prompt.encode()))
    hardness, certainty = rng.uniform(), rng.normal(0, 0.05)
    is_right = hardness < SKILL[stage]
    text = query.reference if is_right else f"wrong {stage}"
    return text, [min(-0.001, (-0.05 if is_right else -0.4) + certainty)] * (len(text) // 2 + 2)


def scripted(clock: FakeClock, queries: list[Query]) -> dict[str, Engine]:
    return {
        stage: ScriptedEngine(
            stage,
            {query.prompt: answer(stage, query) for query in queries},
            seconds_per_call=SECONDS[stage],
            clock=clock,
        )
        for stage in SKILL
    }


def all_queries() -> list[Query]:
    workloads = find_workloads(DATASETS)
    return [
        q for w in workloads for split, n in (("fit", 100), ("test", N_ITEMS)) for q in w.queries(split, n)
    ]


def write_model(folder: Path, n_layers: int) -> None:
    """Files of a model: 256 KiB of weights a layer, and 1 KiB of cache a layer and token."""
    folder.mkdir()
    tensor = {"dtype": "BF16", "shape": [n_layers, 256, 256], "data_offsets": [0, 131072 * n_layers]}
    header = json.dumps({"__metadata__": {"format": "pt"}, "weights": tensor}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    config = {"num_hidden_layers": n_layers, "num_attention_heads": 4, "hidden_size": 128}
    (folder / "config.json").write_text(json.dumps(config))


def ladder_in(folder: Path) -> Ladder:
    stages = []
    for name, seconds in SECONDS.items():
        write_model(folder / name, LAYERS[name])
        alone, shared = Prices(0.0, 0.0, seconds * 100), Prices(0.0, 0.0, seconds * 25)
        stages.append(Stage(name, str(folder / name), alone, batched={BATCH: shared}))
    return Ladder("scripted", tuple(stages), "ms", "never: scripted")


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    """Two datasets, four lambdas, and a policy fitted on the other split."""
    folder = tmp_path_factory.mktemp("scripted")
    ladder, workloads = ladder_in(folder), find_workloads(DATASETS)
    header = header_for(ladder, revisions(ladder), workloads, "fit")
    with TraceLog(folder / "fit.jsonl", header) as log:
        traces = collect(workloads, scripted(FakeClock(), all_queries()), log, limit=100)
    fit(traces, ladder, fitted_at="2026-01-01", lams=LAMS).save(folder / "policy.json")
    return Matrix(
        ladder=ladder,
        engine="transformers",
        lams=LAMS,
        workloads=tuple(workloads),
        n_items=N_ITEMS,
        limited=False,
        batch=1,
        device="cpu",
        policy=folder / "policy.json",
    )


@pytest.fixture(scope="module")
def session(matrix: Matrix, tmp_path_factory: pytest.TempPathFactory) -> Session:
    clock = FakeClock()
    data = tmp_path_factory.mktemp("data") / "test.jsonl"
    return Session(matrix, data, lambda _: scripted(clock, all_queries()), clock=clock)


def calls(session: Session) -> Mapping[str, int]:
    return {name: sum(map(len, engine.calls)) for name, engine in session.engines.items()}


def headlines(session: Session) -> dict[str, Headline]:
    return {name: headline(session, name) for name in session.settings}


def footprints(session: Session) -> dict[str, Footprint]:
    return {name: footprint(session, name) for name in contenders(session)}


ONCE = {"S": 2 * N_ITEMS, "M": 2 * 2 * N_ITEMS, "L": 3 * 2 * N_ITEMS}
"""Queries that each stage is asked: every item once to answer, and once a smaller stage to verify."""


@pytest.mark.slow
def test_every_stage_answers_every_item_once(session: Session):
    """Outcomes and verifications are collected once, however many policies are looked at."""
    assert {name: len(o.traces) for name, o in session.outcomes.items()} == dict.fromkeys(DATASETS, N_ITEMS)
    for dataset in DATASETS:
        session.replays(dataset)
    assert calls(session) == ONCE


def test_single_stages_are_what_they_scored(session: Session):
    """The replay of a fixed stage is that stage's column of the outcomes, in the artifact's cost unit."""
    for dataset in DATASETS:
        traces = session.outcomes[dataset].traces
        for stage in SKILL:
            replay = session.replay(dataset, f"always-{stage}")
            assert replay.quality.tolist() == [trace.outcomes[stage].score for trace in traces]
            assert replay.shares == {name: float(name == stage) for name in SKILL}
            tokens = [trace.outcomes[stage].draft.usage.n_decoded for trace in traces]
            assert replay.n_decoded.tolist() == tokens
        priced = session.outcomes[dataset].costs("L") / session.policy.ladder.unit()
        assert session.replay(dataset, "always-L").cost == pytest.approx(priced)
        assert session.replay(dataset, "always-S").cost.mean() < 0.2


def paid_for(completion: Completion, trace: Trace) -> list[tuple[str, Usage]]:
    """Stage and usage of every call, worked out from decisions and recorded outcomes."""
    paid, read = [], None
    for decision in completion.decisions[:-1]:
        stage = decision.action.stage
        own = trace.outcomes[stage].draft
        if decision.action.kind == "verify":
            read = trace.verifications[f"{decision.answer}>{stage}"]
            paid.append((stage, read.usage))
        elif read is None or read.stage != stage:
            paid.append((stage, own.usage))
        elif not read.accepted:
            left = len(own.tokens) - read.n_accepted
            paid.append((stage, Usage(0, left, left - 1)))
        read = read if decision.action.kind == "verify" else None
    return paid


@pytest.mark.parametrize("lam", LAMS)
def test_cost_is_the_sum_over_the_calls(session: Session, lam: float):
    """Whatever was called is paid for, priced by counts, in units of the largest stage's mean run."""
    replay = session.replay("tiny-text", "optimal", lam)
    outcomes = session.outcomes["tiny-text"]
    prices = {stage.name: stage.prices for stage in session.matrix.ladder.stages}
    for trace, completion, cost in zip(outcomes.traces, replay.completions, replay.cost, strict=True):
        paid = sum(prices[stage].cost(usage) for stage, usage in paid_for(completion, trace))
        assert cost == pytest.approx(paid / outcomes.unit)
    if lam >= 1.0:
        assert len({len(walk) for walk in replay.walks}) > 1


def test_the_policy_verifies_where_the_stages_can(session: Session):
    """Somewhere in the sweep a larger stage reads a draft; the same policy without that reads none."""
    verifying = [session.replay("tiny-text", "optimal", lam) for lam in LAMS]
    assert any(replay.n_verified.any() for replay in verifying)
    assert all((replay.n_accepted <= replay.n_verified).all() for replay in verifying)
    plain = [session.replay("tiny-text", "unverified", lam) for lam in LAMS]
    assert not any(replay.n_verified.any() for replay in plain)


def test_lossless_answers_are_the_largest_stage_own(session: Session):
    """Text for text, scored alike, for less than its own decoding."""
    for dataset in DATASETS:
        replay, largest = session.replay(dataset, "lossless"), session.replay(dataset, "always-L")
        assert [c.text for c in replay.completions] == [c.text for c in largest.completions]
        assert replay.quality.tolist() == largest.quality.tolist()
        assert replay.cost.mean() < 1.0
        assert session.live(dataset).timed["lossless", None].agreement == 1.0


def test_everything_that_is_compared_is_there(session: Session):
    """The adaptive policy and all its rivals, at every lambda where they have one."""
    found = {(r.contender.name, r.contender.lam) for r in session.replays("tiny-text")}
    rivals = ("optimal", "unverified", "myopic", "closed-form", "oracle")
    alone = (
        "always-S",
        "always-M",
        "always-L",
        "random",
        "static",
        "lossless",
        "optimal@0.95",
        "optimal@0.99",
    )
    assert found == {(name, lam) for name in rivals for lam in LAMS} | {(name, None) for name in alone}


def test_live_seconds_are_those_of_the_walk(session: Session):
    """Each item costs the seconds of the calls made for it; the largest alone costs 1 s a call."""
    timed = session.live("tiny-text").timed["optimal", 5.0]
    replay = session.replay("tiny-text", "optimal", 5.0)
    items = range(20)
    traces = session.outcomes["tiny-text"].traces
    paid = [paid_for(replay.completions[i], traces[i]) for i in items]
    expected = [sum(SECONDS[stage] for stage, _ in calls_made) for calls_made in paid]
    assert timed.seconds == pytest.approx(np.tile(expected, (3, 1)))
    assert timed.largest == pytest.approx(np.ones((3, 20)))
    assert timed.agreement == 1.0


def test_equal_walks_are_run_once(session: Session):
    """Policies that take the same way on the timed items are one arm."""
    items = range(20)
    names = {("always-L", None), *session.settings.values(), *(("optimal", lam) for lam in LAMS)}
    walks = {tuple(session.replay("tiny-text", *name).walks[i] for i in items) for name in names}
    assert session.live("tiny-text").n_arms == len(walks)
    assert set(session.live("tiny-text").timed) == names


def test_answers_that_differ_live_are_counted(session: Session):
    """A model that answers otherwise when it is timed shows in the agreement."""
    replays = [session.replay("tiny-text", "always-L"), session.replay("tiny-text", "always-S")]
    clock, queries = FakeClock(), [t.query for t in session.outcomes["tiny-text"].traces]
    engines = scripted(clock, queries)
    other = {q.prompt: ("else", [-0.1]) if q.id in ("test-1", "test-3") else answer("S", q) for q in queries}
    engines["S"] = ScriptedEngine("S", other, seconds_per_call=0.1, clock=clock)
    ladder, items = session.matrix.ladder, [1, 3, 5, 7]
    found = run_live(ladder, engines, replays, items, batch=1, passes=Budget(1), clock=clock)
    assert found.timed["always-S", None].agreement == 0.5
    assert found.timed["always-L", None].agreement == 1.0
    assert found.timed["always-S", None].seconds.shape == (1, 4)


def test_headline_is_the_setting_chosen_on_the_fitting_rows(session: Session):
    """The artifact names the lambda; quality and cost are told on all items of both datasets, timed live."""
    found = headlines(session)
    assert set(found) == {"optimal@0.95", "optimal@0.99", "lossless", "oracle"}
    largest = np.mean([session.replay(d, "always-L").quality.mean() for d in DATASETS])
    for share in (0.95, 0.99):
        setting = found[f"optimal@{share:g}"]
        lam = session.policy.cheapest_lam(share)
        assert lam is not None
        policy = session.policy.policy(lam)
        walked = [session.outcomes[d].walk(Contender("again", lam, policy)) for d in DATASETS]
        kept = {m.name: m for m in headline_cell(setting).metrics}
        assert kept["cost"].value == pytest.approx(np.mean([r.cost.mean() for r in walked]))
        expected = np.mean([r.quality.mean() for r in walked]) / largest
        assert kept["relative_quality"].value == pytest.approx(expected)
        low, high = kept["relative_quality"].interval
        assert low <= expected <= high
        assert setting.seconds.shape == (3, 40)
    assert headline_cell(found["oracle"]).metric("relative_quality").value >= 1.0
    assert found["optimal@0.95"].largest.sum() > found["optimal@0.95"].seconds.sum()


def test_without_a_good_setting_the_headline_is_the_largest_stage(session: Session):
    """No lambda that the fit replayed keeps more than all of the quality: the fallback saves nothing."""
    outcomes = session.outcomes["tiny-text"]
    fallback = outcomes.walk(keeping(outcomes, session.policy, 2.0))
    largest = session.replay("tiny-text", "always-L")
    assert fallback.walks == largest.walks
    assert fallback.contender.name == "optimal@2"


def acceptance(session: Session, dataset: str, pair: str) -> Cell:
    """The cell of what a stage read of another's drafts."""
    outcomes = session.outcomes[dataset]
    alone = [trace.outcomes[pair[-1]].draft.usage for trace in outcomes.traces]
    return verification_cell(dataset, pair, outcomes.verifications(pair), alone)


def all_cells(session: Session) -> Run:
    """What the suites record."""
    cells = [overhead_cell("optimal", "decision_s", np.array([[1e-5, 2e-5]]))]
    cells += map(headline_cell, headlines(session).values())
    for dataset in DATASETS:
        fixed = [session.replay(dataset, f"always-{stage}") for stage in SKILL]
        sweep = [session.replay(dataset, "optimal", lam) for lam in LAMS]
        cells += [cell(replay) for replay in session.replays(dataset) for cell in (quality_cell, cost_cell)]
        cells += [frontier_cell(replay, fixed) for replay in sweep]
        timed = session.live(dataset).timed
        cells += [latency_cell(r, timed["optimal", r.contender.lam], "cpu") for r in sweep]
        cells.append(sweep_cell(dataset, sweep, session.live(dataset)))
        cells += [acceptance(session, dataset, pair) for pair in ("S>M", "S>L", "M>L")]
    cells += [hardware_cell(found, "cpu") for found in footprints(session).values()]
    return Run(header=session.header(), datasets=session.datasets(), cells=tuple(cells))


def test_a_rival_cell_is_the_ratio_of_total_seconds():
    """How many times faster our way is, pass by pass, and how many answers are the same."""
    seconds = {"ours": np.array([[1.0, 1.0], [1.0, 3.0]]), "theirs": np.array([[2.0, 4.0], [1.0, 3.0]])}
    cell = rival_cell("ours", "theirs", Timings(seconds, {"ours": ["a", "b"], "theirs": ["a", "c"]}))
    assert cell.id == "rivals[ours over theirs]"
    speedup, agreement = cell.metrics
    assert speedup.value == 2.0
    assert (speedup.samples, speedup.reference) == (((1.0, 1.0), (1.0, 3.0)), ((2.0, 4.0), (1.0, 3.0)))
    assert agreement.value == 0.5


def test_the_record_of_a_run_passes_against_itself(session: Session):
    """Everything the suites record fits the schema, and an unchanged run passes strictly."""
    run = all_cells(session)
    report = judge(run, baseline_of(run), RunOptions(lams=LAMS, datasets=DATASETS, strict=True))
    assert report.exit_code == 0
    text = render(run, report)
    assert "headline optimal@0.95: speedup" in text
    rows = [line.split()[0] for line in text.partition("all datasets")[2].splitlines()[2:8] if line]
    assert rows == ["always-L", "optimal@0.95", "optimal@0.99", "lossless", "oracle", ALL_MEMORY]
    assert text.count("\ntiny-text ") == len(LAMS) + 8
    assert render(run, report, verbose=True).count("\ntiny-text ") == 5 * len(LAMS) + 8


def metric(run: Run, cell_id: str, name: str) -> Metric:
    [found] = [m for cell in run.cells if cell.id == cell_id for m in cell.metrics if m.name == name]
    return found


def test_cells_hold_what_was_seen(session: Session):
    """Values of the record against the replays and timings they come from."""
    run = all_cells(session)
    replay = session.replay("tiny-text", "optimal", 5.0)
    where = "[tiny-text-optimal-lam=5]"
    assert metric(run, "quality" + where, "quality").value == replay.quality.mean()
    assert metric(run, "cost" + where, "cost").items == pytest.approx(tuple(replay.cost), rel=1e-5)
    assert metric(run, "cost" + where, "share_S").value == replay.shares["S"]
    timed = session.live("tiny-text").timed["optimal", 5.0]
    speedup = metric(run, "latency" + where, "speedup")
    assert speedup.value == pytest.approx(np.median(timed.largest.sum(axis=1) / timed.seconds.sum(axis=1)))
    assert speedup.reference == pytest.approx(np.ones((3, 20)))
    assert speedup.interval[0] < speedup.value < speedup.interval[1]
    assert metric(run, "latency" + where, "p50_s").value == pytest.approx(np.median(timed.seconds))
    distinct = len({session.replay("tiny-text", "optimal", lam).walks for lam in LAMS})
    assert metric(run, "frontier[tiny-text-optimal]", "distinct_policies").value == distinct


@pytest.mark.parametrize(("n_units", "tolerance"), [(4, 0.5), (20, 0.35), (59, 0.35), (60, 0.25)])
def test_the_fewer_units_are_timed_the_more_is_tolerated(n_units: int, tolerance: float):
    """Eighty questions of four data sets bound a ratio; a handful of larger calls says much less."""
    seconds = {"ours": np.ones((3, n_units)), "theirs": np.ones((3, n_units))}
    texts = {name: ["a"] * n_units for name in seconds}
    cell = rival_cell("ours", "theirs", Timings(seconds, texts))
    assert cell.metrics[0].tolerance == tolerance


@pytest.mark.slow
@pytest.mark.parametrize("n_items", [1, 2, 5, 10])
def test_few_questions_are_timed_and_what_needs_more_cannot_be_judged(
    session: Session, matrix: Matrix, tmp_path: Path, n_items: int
):
    """As many as there are; against a run of forty nothing is MISSING, and P95 names the number it needs."""
    clock, few = FakeClock(), dataclasses.replace(matrix, n_items=n_items, limited=True)
    small = Session(few, tmp_path / "t.jsonl", lambda _: scripted(clock, all_queries()), clock=clock)
    run, stored = all_cells(small), with_p95(all_cells(session))
    assert np.shape(metric(run, "latency[tiny-text-optimal-lam=5]", "speedup").samples) == (3, n_items)
    options = RunOptions(lams=LAMS, datasets=DATASETS, limited=True)
    report = judge(run, baseline_of(stored), options)
    assert report.exit_code == 0
    p95 = report.of("hardware[lossless]", "p95_s")
    assert p95.verdict is Verdict.CANNOT_JUDGE
    assert p95.note == f"needs 59 items, and {2 * n_items} were timed"
    assert judge(run, baseline_of(run), options).verdict is Verdict.PASS
    assert render(run, report)


def with_p95(run: Run) -> Run:
    """As of a run that timed a hundred questions."""
    tail = Metric(
        name="p95_s", unit="s", kind="summary", direction="lower", provenance="measured", value=1.0,
        tolerance=0.0, needs=59,
    )  # fmt: skip
    cells = tuple(
        msgspec.structs.replace(cell, metrics=(*cell.metrics, tail))
        if cell.id == "hardware[lossless]"
        else cell
        for cell in run.cells
    )
    return msgspec.structs.replace(run, cells=cells)


def test_p95_is_of_questions_and_needs_59_of_them():
    """Passes over one question are no further draws: the median pass of each counts."""

    def cell(n_units: int, n_queries: int) -> Cell:
        seconds = np.tile(np.arange(1.0, n_units + 1), (3, 1))
        seconds[0] *= 100
        found = Footprint("x", seconds, seconds, n_queries, 1, seconds[1], None, 1)
        return hardware_cell(found, "cpu")

    assert cell(58, 58).metric("p95_s") is None
    assert cell(60, 240).metric("p95_s") is None  # units of four questions
    tail = cell(60, 60).metric("p95_s")
    assert tail.value == pytest.approx(np.quantile(np.arange(1, 61), 0.95))
    assert tail.interval == (53.0, 60.0)
    assert tail.needs == 59


def test_acceptance_is_counted_by_pair(session: Session):
    """Tokens and the histogram of accepted shares against a count by hand."""
    read = session.outcomes["tiny-text"].verifications("S>L")
    cell = acceptance(session, "tiny-text", "S>L")
    assert cell.id == "verification[tiny-text-S>L]"
    values = {m.name: m.value for m in cell.metrics}
    assert values["accepted_tokens"] == np.mean([v.n_accepted for v in read])
    assert values["verified_tokens"] == np.mean([len(v.tokens) for v in read])
    assert values["passes"] == 1.0
    own = [trace.outcomes["L"].draft.usage for trace in session.outcomes["tiny-text"].traces]
    left = [use.n_passes - v.n_accepted for use, v in zip(own, read, strict=True)]
    assert values["passes_to_finish"] == 1.0 + np.mean([max(0, n - 1) for n in left])
    assert values["passes_alone"] == np.mean([use.n_passes for use in own])
    shares = [v.n_accepted / len(v.tokens) for v in read]
    assert values["accepted_all"] == np.mean([share == 1.0 for share in shares])
    assert values["accepted_none"] == np.mean([share == 0.0 for share in shares])
    assert values["accepted_to_25"] == np.mean([0.0 < share < 0.25 for share in shares])
    assert values["accepted_to_100"] == np.mean([0.75 <= share < 1.0 for share in shares])
    assert sum(
        values[name] for name in values if name.startswith("accepted_") and name != "accepted_tokens"
    ) == (pytest.approx(1.0))


def test_single_stages_gain_nothing_over_mixing_single_stages(session: Session):
    """The hull of the single stages is reached by mixing them; the adaptive policy is measured beyond it."""
    fixed = [session.replay("tiny-text", f"always-{stage}") for stage in SKILL]
    gains = [frontier_cell(replay, fixed).metrics[0].value for replay in fixed]
    assert max(gains) == pytest.approx(0.0)


def test_a_ladder_that_knows_nothing_has_no_relative_quality(
    session: Session, monkeypatch: pytest.MonkeyPatch
):
    """Nothing is relative to zero; speed and cost are told all the same."""
    original = Session.replay

    def nothing_right(self: Session, *where: object) -> Replay:
        replay = original(self, *where)
        return Replay(replay.outcomes, replay.contender, replay.completions, np.zeros(N_ITEMS))

    monkeypatch.setattr(Session, "replay", nothing_right)
    for found in headlines(session).values():
        assert [m.name for m in headline_cell(found).metrics] == ["speedup", "cost", "agreement"]


@pytest.mark.slow
def test_further_passes_join_the_cells_made_of_them(matrix: Matrix, tmp_path: Path):
    """Asked for one cell, every cell of the same passes is made anew, up to as many passes as allowed."""
    clock, measured = FakeClock(), Measurements()
    fresh = Session(matrix, tmp_path / "t.jsonl", lambda _: scripted(clock, all_queries()), clock=clock)
    for dataset in DATASETS:
        live, replay = fresh.live(dataset), fresh.replay(dataset, "optimal", 5.0)
        make = partial(timed_cell, replay, live)
        measured.add(make, live.turns)
    measured.add(lambda: headline_cell(headline(fresh, "oracle")), *live_turns(fresh))
    measured.add(quality_cell(replay))

    def passes() -> dict[str, int]:
        return {c.id: len(m.samples) for c in measured.cells if (m := c.metric("speedup")) is not None}

    text, other = (f"latency[{dataset}-optimal-lam=5]" for dataset in reversed(DATASETS))
    assert passes() == {text: 3, other: 3, "frontier[oracle]": 3}
    assert measured.walk_on([text], n_passes=3, at_most=9)
    assert passes() == {text: 6, other: 3, "frontier[oracle]": 3}
    assert measured.walk_on(["frontier[oracle]"], n_passes=3, at_most=7)
    assert passes() == {text: 7, other: 6, "frontier[oracle]": 6}
    assert not measured.walk_on([text, "quality[tiny-text-optimal-lam=5]"], n_passes=3, at_most=7)
    assert len(measured.cells) == 4


H100 = {"eager": 0.8e-3, "graph": 0.127e-3}
"""Seconds of a layer in one decode step on an H100: launched one by one, and captured."""

N_TOKENS = 30
"""Of a typical answer of the embedded ladder."""


class Clocked(ScriptedEngine):
    """A stage whose calls take as many steps as a typical call does, each a layer's time for every layer."""

    step_s: float
    clock: FakeClock

    def _take(self, n_steps: int) -> None:
        self.clock.advance(n_steps * self.step_s)

    def generate(self, queries: Sequence[Query], sampling: Sampling = GREEDY) -> list[Draft]:
        self._take(queries[0].max_new_tokens if queries[0].max_new_tokens == 1 else N_TOKENS)
        return super().generate(queries, sampling)

    def verify(self, *args: Any) -> list[Verification]:
        self._take(1)
        return super().verify(*args)

    def continue_(self, *args: Any) -> list[Draft]:
        self._take(N_TOKENS // 2)
        return super().continue_(*args)


def on_an_h100(matrix: Matrix, folder: Path, step: str) -> Session:
    """A session whose stages take what the embedded ladder's layers take there."""
    clock = FakeClock()

    def opened(_: Matrix) -> dict[str, Engine]:
        engines: dict[str, Engine] = {}
        for stage, layers in {"S": 2, "M": 8, "L": 36}.items():
            engine = Clocked(stage, {query.prompt: answer(stage, query) for query in all_queries()})
            engine.step_s, engine.clock = layers * H100[step], clock
            engines[stage] = engine
        return engines

    return Session(matrix, folder / "t.jsonl", opened, clock=clock, passes=RENTED)


def seconds_of_a_run(session: Session) -> tuple[float, float]:
    """Collecting, and everything that is timed, by the fake clock: warm-ups included."""
    clock = session.clock
    assert session.outcomes
    collecting = clock()
    assert footprints(session)
    return collecting, clock() - collecting


@pytest.mark.slow
def test_a_run_on_a_gpu_ends_in_six_minutes(matrix: Matrix, tmp_path: Path) -> None:
    """Four data sets of 200 items: twice what two take, collecting five times what 40 items do.

    By the step that is captured, with all three passes; where steps are launched one by one a pass is long,
    and two are made.
    """
    for step, n_passes, most_s in (("graph", 3, 360), ("eager", 2, 600)):
        (tmp_path / step).mkdir()
        session = on_an_h100(matrix, tmp_path / step, step)
        collecting, timing = seconds_of_a_run(session)
        assert {len(found.seconds) for found in footprints(session).values()} == {n_passes}
        assert 2 * (5 * collecting + timing) < most_s


def timed_cell(replay: Replay, live: Live) -> Cell:
    return latency_cell(replay, live.timed["optimal", 5.0], "cpu")


@pytest.mark.slow
def test_outcomes_on_file_are_taken_up(session: Session, matrix: Matrix, tmp_path: Path):
    """With --traces a run goes on from recorded outcomes and asks no stage again."""
    data, clock = tmp_path / "kept.jsonl", FakeClock()
    for expected in (ONCE, dict.fromkeys(SKILL, 0)):
        again = Session(matrix, data, lambda _: scripted(clock, all_queries()), clock=clock)
        assert len(again.outcomes) == 2
        assert calls(again) == expected


def test_what_a_contender_takes_of_the_hardware(session: Session):
    """Seconds a query from the live passes, weights of the stages it asks, the wait as its calls add up."""
    found = footprints(session)
    always, lossless, adaptive = (found[name] for name in ("always-L", "lossless", "optimal@0.95"))
    assert always.device_s == pytest.approx(SECONDS["L"])
    assert always.ttft_s == pytest.approx(np.full(40, SECONDS["L"]))  # of a call for one token
    assert always.memory_mib == pytest.approx(0.25 * LAYERS["L"])  # float32 on a CPU
    assert adaptive.device_s == pytest.approx(adaptive.seconds.sum(axis=1).mean() / 40)
    assert adaptive.ttft_s.mean() == pytest.approx(adaptive.device_s)  # shows nothing before it stops
    assert lossless.ttft_s.mean() < lossless.device_s  # streams while the largest stage goes on
    asked = {d.stage for n in DATASETS for c in session.replay(n, "lossless").completions for d in c.drafts}
    assert lossless.memory_mib == pytest.approx(0.25 * sum(LAYERS[stage] for stage in asked))


def test_the_largest_stage_gets_the_memory_of_the_others(session: Session):
    """What the weights of S and M take holds the caches of so many more queries a call."""
    traces = [t for d in DATASETS for t in session.outcomes[d].traces[:20]]
    usages = [trace.outcomes["L"].draft.usage for trace in traces]
    longest = max(usage.n_prompt + usage.n_decoded for usage in usages)
    cache_kib = 2 * LAYERS["L"] * 128 * 4 * longest / 1024
    extra = int(0.25 * 1024 * (LAYERS["S"] + LAYERS["M"]) / cache_kib)
    assert larger_call(session) == 1 + extra
    found = footprint(session, ALL_MEMORY)
    assert (found.name, found.batch) == (ALL_MEMORY, 1 + extra)
    waiting = [4 * (1 + extra), 20 - 4 * (1 + extra)] * len(DATASETS)
    n_calls = [-(-n // (1 + extra)) for n in waiting]
    assert found.seconds == pytest.approx(np.array([n_calls] * 3) * SECONDS["L"])
    assert found.largest == pytest.approx(np.array([waiting] * 3) * SECONDS["L"])


def test_all_the_memory_is_for_the_largest_stage_without_its_drafter(
    session: Session, monkeypatch: pytest.MonkeyPatch
):
    """The reference is the stage alone, whatever drafts for it while it serves."""

    class WithDrafter(ScriptedEngine):
        alone = session.engines["L"]

    answers = {query.prompt: answer("L", query) for query in all_queries()}
    monkeypatch.setitem(session.engines, "L", WithDrafter("L", answers, seconds_per_call=0.0))
    monkeypatch.setattr(session, "_turns", {})
    assert (footprint(session, ALL_MEMORY).seconds >= SECONDS["L"]).all()


@pytest.mark.slow
def test_a_run_at_a_batch_size_is_priced_and_solved_for_it(session: Session, matrix: Matrix, tmp_path: Path):
    """Costs are a query's share of its calls; queries wait together, so that calls are full."""
    clock = FakeClock()
    at_four = Session(
        dataclasses.replace(matrix, batch=BATCH),
        tmp_path / "test.jsonl",
        lambda _: scripted(clock, all_queries()),
        clock=clock,
    )
    alone = session.replay("tiny-text", "always-L")
    replay = at_four.replay("tiny-text", "always-L")
    assert replay.cost == pytest.approx(alone.cost)  # in units of the largest stage's run at that size
    assert replay.outcomes.prices["L"].per_decoded_token == SECONDS["L"] * 25
    assert at_four.matrix.n_timed == 32
    timed = at_four.live("tiny-text").timed
    assert timed["always-L", None].seconds == pytest.approx(np.full((3, 2), 4 * SECONDS["L"]))
    assert timed["lossless", None].agreement == 1.0
    assert set(headlines(at_four)) == set(at_four.settings)


def test_the_record_says_how_stages_step(matrix: Matrix, tmp_path: Path) -> None:
    """As the engines say once they are open, none where none was opened or one does not say; and which stages
    the ladder wants eager, whatever runs them."""

    class Stepping(ScriptedEngine):
        step_mode = "graph"

    def opened(_: Matrix) -> dict[str, Engine]:
        return {"S": Stepping("S", {}), "M": ScriptedEngine("M", {})}

    asked = ({"transformers": {"graphs": "off"}}, {"vllm": {"enforce_eager": True}}, {"vllm": {}})
    stages = zip(matrix.ladder.stages, asked, strict=True)
    ladder = dataclasses.replace(
        matrix.ladder, stages=tuple(dataclasses.replace(stage, options=options) for stage, options in stages)
    )
    session = Session(dataclasses.replace(matrix, ladder=ladder), tmp_path / "t.jsonl", opened)
    assert session.header().step_modes == {}
    assert session.engines
    assert session.header().step_modes == {"S": "graph"}
    assert session.header().asked_eager == ("S", "M")


def test_engines_are_closed_once(matrix: Matrix, tmp_path: Path) -> None:
    """Those that were opened; a session that opened none opens none to close it."""
    closed: list[str] = []

    class Closed(ScriptedEngine):
        def unload(self) -> None:
            closed.append(self.stage_name)

    def opened(_: Matrix) -> dict[str, Engine]:
        return {name: Closed(name, {}) for name in ("S", "L")}

    session = Session(matrix, tmp_path / "t.jsonl", opened)
    session.close()
    assert not closed
    assert session.engines
    session.close()
    session.close()
    assert closed in (["L", "S"], ["S", "L"])
