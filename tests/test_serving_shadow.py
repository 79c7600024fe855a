"""Requests that are answered in the shadow too: paid for, compared, scored, logged, and learned from."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from asd.cli import main
from asd.collection import read_collected
from asd.errors import ConfigError, DataError, UnavailableError
from asd.ladder import Ladder
from asd.policies import FixedStage, Lossless
from asd.policy.fit import fit
from asd.serving.cashier import Cashier
from asd.serving.endpoint.application import Application
from asd.serving.endpoint.service import Capacity
from asd.serving.keys import LOCAL
from asd.serving.ledger import Caps
from asd.serving.monitoring.decisions import DecisionLog
from asd.serving.monitoring.evaluation import Evaluation
from asd.serving.monitoring.monitor import MonitorSettings
from asd.serving.spending import read_spending
from asd.serving.tariff import MICRO, Tariff
from asd.traces import StageHeader, TraceHeader, read_traces
from asd.traces.log import TraceLog
from asd.traces.served import DRAWN, SERVED
from asd.types import Trace
from tests import worlds
from tests.endpoint import LADDER, STAGES, OnePolicy, Reply, Slow, chat, get, post, scripted, serve
from tests.test_serving_endpoint import Climb
from tests.test_serving_metrics import scraped

ALL = MonitorSettings(share=1.0)
S_ALONE, L_ALONE = 1 + 0.02 + 0.2, 1 + 0.02 + 0.8
"""Costs of the scripted answers: two prompt tokens, two passes."""


def header(ladder: Ladder = LADDER) -> TraceHeader:
    stages = {
        one.name: StageHeader(model=one.model, revision="r", dtype=one.dtype, chat_template=one.chat_template)
        for one in ladder.stages
    }
    return TraceHeader(ladder=ladder.name, stages=stages, datasets=(SERVED,), split="fit")


def watched(
    test: Callable[[Application], Awaitable[Any]],
    watching: MonitorSettings = ALL,
    *,
    policy: Any = None,
    engines: Any = None,
    **others: Any,
) -> Any:
    """Run a test against a watched server; whatever was taken on has been settled when it returns."""

    async def settled(app: Application) -> Any:
        result = await test(app)
        while app.service.n_open:
            await asyncio.sleep(0.001)
        return result, app.service

    settings = OnePolicy(policy or FixedStage("S"))
    return serve(engines or scripted(), settings, settled, watching=watching, **others)


async def one(app: Application) -> Reply:
    reply = await post(app, chat())
    while app.service.n_open:
        await asyncio.sleep(0.001)
    return reply


async def feedback(app: Application, **body: Any) -> Reply:
    return await post(app, body, "/v1/asd/feedback")


@pytest.mark.parametrize(("text", "share"), [("3", 1.0), ("4", 0.0)])
def test_the_largest_stage_answers_too_and_tells_whether_it_agrees(text: str, share: float) -> None:
    """The client gets the answer of the small stage, and hears nothing of it."""
    reply, service = watched(one, engines=scripted(L=text))
    assert reply.json["asd"]["stage"] == "S"
    assert reply.json["asd"]["calls"] == 1
    found = service.monitor.evaluation.delivered()
    assert (found.n, found.share) == (1, share)


def test_an_answer_that_is_the_references_own_is_not_bought_twice() -> None:
    _, service = watched(one, policy=FixedStage("L"))
    metrics = scraped(service.monitor.metrics.text())
    assert metrics["asd_calls_total", (("stage", "L"),)] == 1
    assert service.monitor.evaluation.delivered().share == 1.0


@pytest.mark.parametrize(
    "body",
    [chat(temperature=0.7), chat(asd={"lam": 2}), chat(asd={"quality": 0.9}), chat(asd={"stages": ["S"]})],
)
def test_requests_at_other_settings_are_not_drawn(body: dict[str, Any]) -> None:
    """They say nothing of what the server promises."""
    _, service = watched(lambda app: post(app, body))
    assert service.monitor.evaluation.delivered().n == 0


def test_about_as_many_are_drawn_as_were_asked_for() -> None:
    async def many(app: Application) -> None:
        app.service.shadow._rng = np.random.default_rng(0)
        for _ in range(200):
            await post(app, chat())

    _, service = watched(many, MonitorSettings(share=0.25))
    assert 30 <= service.monitor.evaluation.delivered().n <= 70


def test_a_crowded_server_draws_none() -> None:
    engines = {name: Slow(name, "x", 0.02) for name in STAGES}

    async def crowd(app: Application) -> None:
        await asyncio.gather(*(post(app, chat()) for _ in range(4)))

    _, service = watched(crowd, engines=engines, capacity=Capacity(open=4))
    assert service.monitor.evaluation.delivered().n == 2


def test_a_reference_that_fails_in_the_shadow_breaks_nothing() -> None:
    engines = scripted() | {"L": Slow("L", UnavailableError("gone"))}
    reply, service = watched(one, engines=engines)
    assert reply.status == 200
    assert service.monitor.evaluation.delivered().n == 0


def test_the_ledger_shows_what_ran_in_the_shadow_and_the_hold_covers_it(tmp_path: Path) -> None:
    """To the micro-unit; the metrics say the same."""
    path = tmp_path / "ledger.db"
    with Cashier(path, Tariff(LADDER), keyless=True) as cashier:
        _, service = watched(one, admission=cashier)
    [row] = read_spending(path).rows
    assert row.shadow_micros == round(L_ALONE * MICRO)
    assert row.micros == round((S_ALONE + L_ALONE) * MICRO)
    metrics = scraped(service.monitor.metrics.text())
    key = (("key", LOCAL),)
    assert metrics["asd_spend_total", key] == pytest.approx(S_ALONE + L_ALONE)
    assert metrics["asd_shadow_spend_total", key] == pytest.approx(L_ALONE)


def test_under_a_cap_that_has_no_room_for_the_shadow_the_request_is_served_without(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    body = chat(max_tokens=2, asd={"budget": 6.0})
    with Cashier(path, Tariff(LADDER), Caps(day=int(6.5 * MICRO)), keyless=True) as cashier:
        reply, service = watched(lambda app: post(app, body), admission=cashier)
    assert reply.status == 200
    assert service.monitor.evaluation.delivered().n == 0
    assert read_spending(path).rows[0].shadow_micros == 0


def test_a_score_says_how_well_p_good_is_calibrated_and_counts_in_the_estimate() -> None:
    async def scored(app: Application) -> Reply:
        name = (await one(app)).json["asd"]["id"]
        assert (await feedback(app, id=name, score=0.5)).status == 200
        assert (await feedback(app, id=name, score=0.5)).status == 200
        return await feedback(app, id=name, score=1)

    again, service = watched(scored, policy=Climb("S"), engines=scripted(L="4"))
    assert again.status == 409
    assert service.monitor.evaluation.delivered().share == 0.5
    assert list(service.monitor.evaluation._scored) == [(0.5, 0.5)]
    assert scraped(service.monitor.metrics.text())["asd_feedback_score_count", ()] == 1


def test_the_right_answer_scores_every_stage_that_answered() -> None:
    async def scored(app: Application) -> Reply:
        name = (await one(app)).json["asd"]["id"]
        return await feedback(app, id=name, reference="4")

    reply, service = watched(scored, engines=scripted(L="4"))
    assert reply.json["scores"] == {"S": 0.0, "L": 1.0}
    assert service.monitor.evaluation.delivered().share == 0.0


def test_a_text_is_likened_to_its_reference_by_every_metric_once() -> None:
    """The delivered one alone; the page shows the means, however often the same reference is sent."""

    async def likened(app: Application) -> str:
        name = (await one(app)).json["asd"]["id"]
        for _ in range(2):
            assert (await feedback(app, id=name, reference="the cat sat on the mat")).status == 200
        while not app.service.monitor.evaluation.likeness()[0]:
            await asyncio.sleep(0.01)
        return (await get(app, "/")).body.decode()

    page, service = watched(likened, engines=scripted(S="the cat sat on a mat", L="no"))
    n, found = service.monitor.evaluation.likeness()
    assert n == 1
    assert found["rouge1"] == pytest.approx(5 / 6)
    assert found["rougeL"] == pytest.approx(5 / 6)
    assert 0 < found["bleu"] < found["quality"] < 1
    assert re.search(r"like their references, 1 texts: .*rougeL 0\.833.*</td><td>0\.", page)


def test_a_long_text_is_not_likened_nor_one_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take the product of both lengths."""
    found = Evaluation()
    found.liken("a " * 2000, "a")
    assert found.likeness() == (0, {})

    def missing() -> None:
        raise ConfigError("BLEU needs sacrebleu")

    monkeypatch.setattr("asd.quality.overlap._bleu", missing)
    found.liken("a b", "a b")
    assert found.likeness() == (0, {})


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        ({"score": 2}, 400, "score"),
        ({"score": "good"}, 400, "score"),
        ({}, 400, "score"),
        ({"score": 1, "reference": "3"}, 400, "score"),
        ({"score": 1, "stage": "M"}, 400, "M"),
        ({"score": 1, "sort": 1}, 400, "`sort`; the known fields are id, score, stage, reference"),
        ({"id": "nobody", "score": 1}, 404, "remembered"),
    ],
)
def test_feedback_that_is_wrong_is_refused_by_name(body: dict[str, Any], status: int, named: str) -> None:
    async def scored(app: Application) -> Reply:
        name = (await one(app)).json["asd"]["id"]
        return await feedback(app, **({"id": name} | body))

    reply, service = watched(scored)
    assert reply.status == status
    assert named in reply.error["message"]
    assert scraped(service.monitor.metrics.text())["asd_feedback_score_count", ()] == 0


def test_a_broken_promise_is_seen_in_the_metrics() -> None:
    async def many(app: Application) -> bytes:
        for _ in range(60):
            await one(app)
        return (await get(app, "/metrics")).body

    text, _ = watched(many, replace(ALL, promised=0.9), engines=scripted(L="4"))
    found = scraped(text)
    assert found["asd_promise_at_risk", ()] == 1
    assert found["asd_delivered_quality_ratio", ()] == 0
    assert found["asd_promised_quality_ratio", ()] == 0.9


@pytest.mark.parametrize("prompts", [True, False])
def test_the_log_holds_decisions_as_traces_and_words_only_if_asked(tmp_path: Path, prompts: bool) -> None:
    """A score that comes later is in it too; another server goes on with the file."""
    path = tmp_path / "served.jsonl"

    async def scored(app: Application) -> None:
        name = (await one(app)).json["asd"]["id"]
        await feedback(app, id=name, reference="4")

    for _ in range(2):
        with DecisionLog(path, header(), prompts=prompts) as log:
            watched(scored, MonitorSettings(1.0, every_stage=True, log=log), engines=scripted(L="4"))
    first, second = read_traces(path)
    assert first.query.id != second.query.id
    scores = {stage: outcome.score for stage, outcome in first.outcomes.items()}
    assert scores == {"S": 0.0, "M": 0.0, "L": 1.0}
    assert first.query.tags[DRAWN]
    assert first.query.tags["answered_by"] == "S"
    assert first.outcomes["L"].draft.logprobs == (-0.1, -0.2)
    assert ("add 1+2" in path.read_text()) is prompts
    assert (first.outcomes["L"].draft.text == "4") is prompts
    assert bool(first.outcomes["L"].draft.tokens) is prompts


@pytest.mark.parametrize("given", [{"score": 0.0}, {"reference": "4"}])
def test_what_is_said_before_the_shadow_has_answered_is_booked_once_it_has(
    given: dict[str, Any], tmp_path: Path
) -> None:
    """In the log, in the comparison, and for the stages that answer later."""
    path = tmp_path / "served.jsonl"

    async def at_once(app: Application) -> None:
        name = (await post(app, chat())).json["asd"]["id"]
        assert (await feedback(app, id=name, **given)).json["scores"] == {"S": 0.0}

    with DecisionLog(path, header(), prompts=True) as log:
        engines = scripted() | {"L": Slow("L", "4", 0.2)}
        _, service = watched(at_once, MonitorSettings(1.0, log=log), engines=engines)
    [trace] = read_traces(path)
    later = 1.0 if "reference" in given else None
    assert {stage: outcome.score for stage, outcome in trace.outcomes.items()} == {"S": 0.0, "L": later}
    [compared] = service.monitor.evaluation._compared
    assert (compared.score, compared.reference) == (0.0, 1.0)


def test_an_answer_that_goes_on_from_a_verified_draft_is_missing_and_not_cheap(tmp_path: Path) -> None:
    """Alone it would have taken more: the shadow asks for that."""
    path = tmp_path / "served.jsonl"
    engines = {name: Slow(name, "3") for name in STAGES}
    for share in (0.0, 1.0):
        with DecisionLog(path, header(), prompts=True) as log:
            watched(one, MonitorSettings(share, log=log), policy=Lossless(("S", "L")), engines=engines)
    found = {DRAWN in trace.query.tags: trace for trace in read_traces(path)}
    assert set(found[False].outcomes) == {"S"}
    assert set(found[False].verifications) == {"S>L"}
    assert found[True].outcomes["L"].draft.usage.n_decoded == 2


def logged(path: Path, traces: list[Trace], drawn: Callable[[int], bool], hard: set[str]) -> list[Trace]:
    """What a server would have written: L runs for hard queries, and for those that are drawn."""
    rows = []
    for i, trace in enumerate(traces):
        tags = {"key": LOCAL} | ({DRAWN: "by lot"} if drawn(i) else {})
        kept = trace.outcomes if drawn(i) or trace.query.id in hard else {"S": trace.outcomes["S"]}
        query = replace(trace.query, dataset=SERVED, reference=None, tags=tags)
        rows.append(Trace(query, kept))
    with TraceLog(path, header(worlds.ladder())) as log:
        log.append(rows)
    return rows


@pytest.mark.slow
def test_a_fit_on_the_log_is_that_on_the_drawn_rows_and_stages_not_run_are_not_wrong(tmp_path: Path) -> None:
    """Requests for which the policy happened to ask every stage are harder: they do not count either."""
    traces = worlds.sample(360, np.random.default_rng(3))[0]
    hard = {trace.query.id for trace in traces if trace.outcomes["S"].score == 0}
    path = tmp_path / "served.jsonl"
    rows = logged(path, traces, lambda i: i % 3 == 0, hard)
    found = read_collected(path, worlds.ladder(), "fit")
    assert [t.query.id for t in found] == sorted(t.query.id for t in rows if DRAWN in t.query.tags)
    learned = fit(found, worlds.ladder(), fitted_at="now")
    fair = [
        replace(t, query=replace(t.query, dataset=SERVED, reference=None), verifications={}) for t in traces
    ]
    right = fit([t for i, t in enumerate(fair) if i % 3 == 0], worlds.ladder(), fitted_at="now")
    assert learned.problem == right.problem
    everything = sum(t.outcomes["L"].score or 0 for t in traces) / len(traces)
    assert learned.fit.largest_quality == pytest.approx(everything, abs=0.08)


def test_a_log_without_drawn_requests_cannot_be_fitted_and_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "served.jsonl"
    logged(path, worlds.sample(20, np.random.default_rng(3))[0], lambda _: False, set())
    with pytest.raises(DataError, match="--shadow-all"):
        read_collected(path, worlds.ladder(), "fit")


def test_the_shadow_is_offered_on_the_command_line(tmp_path: Path) -> None:
    """And what goes together is checked before anything is loaded."""
    for wrong in (["--shadow-all"], ["--log-prompts"], ["--shadow", "1.5"]):
        done = CliRunner().invoke(main, ["serve", *wrong])
        assert done.exit_code != 0
        assert wrong[0] in done.output
