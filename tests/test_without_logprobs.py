"""A stage that gives no log-probabilities, from the server to the fitted policy and back."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from asd.cascade import Cascade
from asd.engines.http.stages import open_stage
from asd.engines.replay import ReplayEngine
from asd.errors import DataError
from asd.evidence.features import ANSWER_FEATURES, answer_features
from asd.explanation import explain
from asd.ladder import Stage
from asd.policy.artifact import PolicyArtifact, load
from asd.policy.fit import fit
from asd.prices import Prices
from asd.traces import encode_trace, read_traces
from asd.types import Draft, Outcome, Query, Trace, Usage
from tests import worlds
from tests.fakeserver import serving

SILENT = Draft("S", "right", (), (), True, Usage(10, 4, 4), 0.1)


def silenced(traces: Sequence[Trace], stages: Collection[str]) -> list[Trace]:
    """The same answers from a server that tells neither ids nor log-probabilities."""
    return [
        replace(
            trace,
            outcomes={
                stage: Outcome(replace(outcome.draft, tokens=(), logprobs=()), outcome.score)
                if stage in stages
                else outcome
                for stage, outcome in trace.outcomes.items()
            },
        )
        for trace in traces
    ]


@functools.cache
def fitted() -> PolicyArtifact:
    """Fitted on 400 queries whose small stage is silent."""
    traces, _ = worlds.sample(400, np.random.default_rng(7))
    return fit(silenced(traces, "S"), worlds.ladder(), fitted_at="2026-01-01")


def test_a_silent_answer_tells_its_length_and_its_end() -> None:
    """Everything that log-probabilities would say is 0, whatever the text."""
    features = dict(zip(ANSWER_FEATURES, answer_features(SILENT), strict=True))
    assert features.pop("log_n_tokens") == pytest.approx(np.log(5))
    assert features.pop("finished") == 1.0
    assert set(features.values()) == {0.0}


def test_log_probabilities_without_ids_are_enough() -> None:
    """A server that gives log-probabilities and no ids says as much as one that gives both."""
    told = replace(SILENT, logprobs=(-0.1, -0.2, -0.3, -0.4))
    assert answer_features(told) == answer_features(replace(told, tokens=(1, 2, 3, 4)))


@pytest.mark.slow
def test_the_artifact_says_who_is_silent(tmp_path: Path) -> None:
    """It is in the file, and comes back from it."""
    fitted().save(tmp_path / "policy.json")
    assert load(tmp_path / "policy.json").model.silent == ("S",)
    assert worlds.fitted().model.silent == ()


@pytest.mark.slow
def test_agreement_and_prompt_do_the_rest() -> None:
    """The silent stage's answer is likelier right on the easy kind of prompt, and surest when L agrees."""
    evidence = fitted().evidence()
    drafts = {"S": SILENT, "L": worlds.draft("L", "right", 0.97, 4, np.random.default_rng(0))}
    other = drafts | {"L": replace(drafts["L"], text="wrong L")}
    hard, easy = (Query("q", "d", kind.format(a=11, b=12)) for kind in worlds.KINDS)
    p = [evidence.judge(query, {"S": SILENT}).p_good["S"] for query in (hard, easy)]
    truth = worlds.S_GIVEN_KIND @ worlds.P_S
    assert p == pytest.approx(truth, abs=0.12)
    assert evidence.judge(easy, drafts).p_good["S"] > 0.9 > evidence.judge(easy, other).p_good["S"]


def test_the_policy_works_with_the_rest() -> None:
    """On new rows it is worth more than either stage alone, and the explanation shows what is missing."""
    traces, _ = worlds.sample(400, np.random.default_rng(8))
    rows, lam = silenced(traces, "S"), 5.0
    prices = {stage.name: stage.prices for stage in worlds.ladder().stages}
    engines = {stage: ReplayEngine(stage, rows) for stage in "SL"}
    unit = fitted().ladder.unit()
    score = {(t.query.id, s): t.outcomes[s].score or 0.0 for t in rows for s in "SL"}
    completions = Cascade(engines, fitted().policy(lam), prices).run([t.query for t in rows])
    realised = np.mean([lam * score[c.query.id, c.stage] - c.cost / unit for c in completions])
    alone = [
        np.mean([lam * score[t.query.id, s] - prices[s].cost(t.outcomes[s].draft.usage) / unit for t in rows])
        for s in "SL"
    ]
    assert realised > max(alone) - 0.1
    small = next(completion for completion in completions if completion.drafts[0].stage == "S")
    row = next(line for line in explain(small).splitlines() if line.startswith("S "))
    assert " -  " in row


@pytest.mark.parametrize(("model", "told"), [(fitted, False), (worlds.fitted, True)])
def test_evidence_of_another_kind_is_refused(model: Callable[[], PolicyArtifact], told: bool) -> None:
    """A stage that speaks where it was silent, or is silent where it spoke, is no basis for a judgement."""
    draft = SILENT if told else replace(SILENT, logprobs=(-0.1,) * 4)
    with pytest.raises(DataError, match=f"comes {'without' if told else 'with'} them"):
        model().evidence().judge(Query("q", "d", "walk from 11 to 12"), {"S": draft})


@pytest.mark.slow
def test_a_stage_that_is_silent_now_and_then() -> None:
    """Some drafts with and some without cannot be fitted together."""
    traces, _ = worlds.sample(120, np.random.default_rng(7))
    mixed = [*silenced(traces[:50], "S"), *traces[50:]]
    with pytest.raises(DataError, match="50 of 120 drafts of stage 'S' have no log-probabilities"):
        fit(mixed, worlds.ladder(), fitted_at="2026-01-01")


def test_silent_traces_are_kept(tmp_path: Path) -> None:
    """A trace file holds such answers, and gives them back as they were."""
    traces = silenced(worlds.sample(3, np.random.default_rng(7))[0], "S")
    header = (
        b'{"format": "asd-traces", "version": 1, "ladder": "l", "stages": {}, "datasets": ["made-up"], '
        b'"split": "fit"}\n'
    )
    path = tmp_path / "traces.jsonl"
    path.write_bytes(header + b"".join(map(encode_trace, traces)))
    assert read_traces(path) == traces


def test_a_silent_server_in_a_cascade() -> None:
    """Answers of a server that gives no log-probabilities are judged by the policy fitted on such."""
    queries = [Query(f"q{i}", "d", kind.format(a=11, b=12)) for i, kind in enumerate(worlds.KINDS)]
    answers = {query.prompt: "right" for query in queries}
    with serving(answers) as server:
        server.logprobs = False
        options = {"openai": {"base_url": server.url}}
        engines = {s: open_stage(Stage(s, "tiny", Prices(1, 0, 0), options=options)) for s in "SL"}
        draft = engines["S"].generate(queries)[1]
        for engine in engines.values():
            engine.unload()
    assert fitted().evidence().judge(queries[1], {"S": draft}).answer == "S"
