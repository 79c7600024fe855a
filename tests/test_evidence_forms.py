"""Agreement is of answers: what replies state is compared, in fitting, deciding and replay alike."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from asd.cascade import Cascade
from asd.collection import collect, header_for, read_collected
from asd.engines.replay import ReplayEngine
from asd.errors import ConfigError
from asd.evidence.features import (
    PAIR_FEATURES,
    STATES_ANSWER,
    answer_features,
    state_feature_names,
    state_features,
)
from asd.policies import FixedStage
from asd.policy.artifact import PolicyArtifact
from asd.policy.artifact import load as load_policy
from asd.policy.fit import fit
from asd.quality.answers import answer_of
from asd.research.recordings.outcomes import from_traces
from asd.testing import Script, ScriptedEngine
from asd.traces import encode_trace, read_traces
from asd.traces.log import TraceLog
from asd.types import TEXT, Action, AnswerForm, Query, Trace
from asd.workloads import Split, score_of
from tests import worlds

NUMBER = AnswerForm("number")
SHAPES: dict[str, Callable[[str], str]] = {
    "S": "<think>Maybe 7? Or 8?</think>It is {}.".format,
    "L": "Step by step: 3 and 4 are 7.\n#### {}".format,
}
"""Two stages that never write the same text."""


def told(trace: Trace, form: AnswerForm, *, bare: bool = False) -> Trace:
    """The same outcomes in words: 7 where the answer is right, else a number of the stage's own."""
    outcomes = {}
    for stage, outcome in trace.outcomes.items():
        number = "7" if outcome.score else {"S": "8", "L": "9"}[stage]
        text = number if bare else SHAPES[stage](number)
        outcomes[stage] = replace(outcome, draft=replace(outcome.draft, text=text))
    return replace(trace, query=replace(trace.query, form=form), outcomes=outcomes)


@functools.cache
def rows(*, form: AnswerForm = NUMBER, bare: bool = False) -> tuple[Trace, ...]:
    sampled = worlds.verified(worlds.sample(300, np.random.default_rng(5))[0], np.random.default_rng(6))
    return tuple(told(trace, form, bare=bare) for trace in sampled)


@functools.cache
def fitted(*, form: AnswerForm = NUMBER, bare: bool = False) -> PolicyArtifact:
    return fit(rows(form=form, bare=bare), worlds.ladder(), fitted_at="2026-01-01")


@pytest.mark.slow
def test_words_around_an_answer_change_no_number() -> None:
    """A policy fitted on worked solutions is the one fitted on their numbers alone, to the last digit."""
    assert fitted() == fitted(bare=True)
    assert fitted().model.forms == ("number",)


@pytest.mark.slow
def test_what_texts_hide_answers_show() -> None:
    """By texts these two stages never agree; by answers agreement makes a right answer nearly certain."""
    by_text, by_answer = fitted(form=TEXT), fitted()
    assert by_text.model.forms == ("text",)
    reliability = (found.fit.reliability["S+L"]["S"].auroc for found in (by_text, by_answer))
    assert next(reliability) < 0.9 < next(reliability)


@pytest.mark.slow
def test_deciding_sees_what_fitting_saw() -> None:
    """Live, from a file, and in the fit: the same features, so the same probabilities."""
    policy, evidence = fitted(), fitted().evidence()
    p: dict[bool, list[float]] = {True: [], False: []}
    for trace in rows()[:80]:
        drafts = worlds.drafts_of(trace)
        said = {stage: answer_of(NUMBER, draft.text) for stage, draft in drafts.items()}
        answers = {stage: answer_features(draft) for stage, draft in drafts.items()}
        logits = evidence._prompt_logits(trace.query.prompt)
        heads = policy.model.nodes["S+L"].heads
        want = {
            stage: head.p(state_features(stage, said, answers, logits, forms=True))
            for stage, head in heads.items()
        }
        assert evidence.judge(trace.query, drafts).p_good == want
        p[said["S"] == said["L"]].append(want["S"])
    assert np.mean(p[True]) > 0.9
    assert np.mean(p[False]) < 0.5


def test_a_policy_and_traces_keep_it(tmp_path: Path) -> None:
    """The artifact says what it was fitted on and decides alike when read again; traces say it of queries."""
    fitted().save(tmp_path / "policy.json")
    again = load_policy(tmp_path / "policy.json")
    assert again.model.forms == ("number",)
    header = header_for(worlds.ladder(), {"S": "r", "L": "r"}, [], "fit")
    with TraceLog(tmp_path / "traces.jsonl", header) as log:
        log.append(rows()[:120])
    read = read_traces(tmp_path / "traces.jsonl")
    assert {trace.query.form for trace in read} == {NUMBER}
    engines = {stage: ReplayEngine(stage, read) for stage in "SL"}
    prices = {stage.name: stage.prices for stage in worlds.ladder().stages}
    queries = [trace.query for trace in read]
    runs = [Cascade(engines, policy.policy(20.0), prices).run(queries) for policy in (fitted(), again)]
    assert [c.decisions for c in runs[0]] == [c.decisions for c in runs[1]]
    assert any(len(c.drafts) == 2 for c in runs[0])


@pytest.mark.slow
def test_a_query_of_another_kind_is_refused() -> None:
    """By name of both kinds, with what to do; a policy fitted on texts goes by texts whatever is asked."""
    trace = rows()[0]
    with pytest.raises(
        ConfigError, match=r"kind 'text', the evidence was fitted on 'number': say what.*--answers"
    ):
        fitted().evidence().judge(replace(trace.query, form=TEXT), worlds.drafts_of(trace))
    by_text = fitted(form=TEXT).evidence()
    other = replace(trace.query, form=TEXT)
    assert by_text.judge(trace.query, worlds.drafts_of(trace)) == by_text.judge(
        other, worlds.drafts_of(trace)
    )


@pytest.mark.parametrize(
    ("said", "pair", "states"),
    [
        ({"S": "7", "L": "7"}, [1.0, "confidence", 0.0], 1.0),
        ({"S": "7", "L": "8"}, [0.0, 0.0, "confidence"], 1.0),
        ({"S": "7", "L": None}, [0.0, 0.0, 0.0], 0.0),
        ({"S": None, "L": "7"}, [0.0, 0.0, 0.0], 1.0),
        ({"S": None, "L": None}, [0.0, 0.0, 0.0], 0.0),
    ],
)
def test_two_replies_without_an_answer_do_not_agree(
    said: dict[str, str | None], pair: list[float | str], states: float
) -> None:
    """Nor do they differ: agreement, difference and silence are three things."""
    drafts = worlds.drafts_of(rows()[0])
    answers = {stage: answer_features(draft) for stage, draft in drafts.items()}
    names = state_feature_names("L", ("S", "L"), ("S", "L"), forms=True)
    got = dict(zip(names, state_features("L", said, answers, [0.0, 0.0], forms=True), strict=True))
    confidence = answers["S"][1]
    assert [got[f"S_{name}"] for name in PAIR_FEATURES] == [
        confidence if x == "confidence" else x for x in pair
    ]
    assert got[STATES_ANSWER] == states


@pytest.mark.parametrize(
    ("form", "same", "other", "none"),
    [
        (AnswerForm("choice", ("Paris", "Rome")), ["B", "(b)", "It is Rome."], "A", "A or B"),
        (AnswerForm("choice"), ["B", "The answer is B."], "C", "I cannot say."),
        (NUMBER, ["1,234.50", "#### 1234.5", "The answer is $1 234.50."], "1234", "5 or 6"),
        (
            AnswerForm("words"),
            ["The Seine", "**Seine**", "The answer is the Seine."],
            "Rhine",
            "<think>Seine",
        ),
        (
            AnswerForm("code", name="f"),
            ["def f(x):\n    return x", "Sure:\n```python\ndef f(x):  # easy\n\n  return x\n```"],
            "def f(x):\n    return 1",
            "I cannot do this.",
        ),
        (AnswerForm(until="\nQ:"), ["Rom", "<think>Rome?</think>Rom", "Rom\nQ: And?"], "rom", "<think>Rom"),
        (TEXT, ["Rome ", "Rome "], "Rome", "<think>Rome"),
    ],
)
def test_replies_that_answer_the_same_are_equal(
    form: AnswerForm, same: list[str], other: str, none: str
) -> None:
    """In every form: one answer however it is put, another one, and none."""
    answers = {answer_of(form, text) for text in same}
    assert len(answers) == 1
    assert answers.isdisjoint({None, answer_of(form, other)})
    assert answer_of(form, none) is None


def test_outcomes_of_traces_agree_by_answers() -> None:
    """What a comparison of predictors is told of agreement is the same thing."""
    agreed = from_traces(rows(), worlds.ladder()).answers[:, 1, -1]
    right = [all(outcome.score for outcome in trace.outcomes.values()) for trace in rows()]
    assert agreed.tolist() == [float(both) for both in right]
    silent = [told(trace, AnswerForm("choice"), bare=True) for trace in rows()]
    assert not from_traces(silent, worlds.ladder()).answers[:, :, -1].any()


@dataclass(frozen=True)
class Capital:
    """A workload of one question, scored by equality."""

    form: AnswerForm = TEXT
    name: str = "capital"

    def queries(self, split: Split, limit: int) -> list[Query]:  # noqa: ARG002
        return [Query("q", self.name, "capital of Italy?", "Rome", 16, form=self.form)]

    def score(self, query: Query, text: str) -> float:
        return float(text == query.reference)


def test_thoughts_are_not_scored(tmp_path: Path) -> None:
    """A workload of the user's own gets the reply without them; the trace keeps what was written."""
    workload, written = Capital(), "<think>Paris?</think>\n\nRome"
    assert score_of(workload, workload.queries("fit", 1)[0], written) == 1.0
    header = header_for(worlds.ladder(), {"S": "r", "L": "r"}, [workload], "fit")
    engines = {
        stage: ScriptedEngine(stage, {"capital of Italy?": Script(written, (-0.1,))}) for stage in "SL"
    }
    with TraceLog(tmp_path / "traces.jsonl", header) as log:
        [trace] = collect([workload], engines, log, limit=1)
    assert {(outcome.score, outcome.draft.text) for outcome in trace.outcomes.values()} == {(1.0, written)}


def test_an_older_file_learns_what_its_answers_are(tmp_path: Path) -> None:
    """The same collect, given again, records it without asking anything; read back, it is there."""
    engines = {stage: ScriptedEngine(stage, {"capital of Italy?": Script("Rome", (-0.1,))}) for stage in "SL"}
    path = tmp_path / "traces.jsonl"
    for form in (TEXT, AnswerForm("words"), AnswerForm("words")):
        workload = Capital(form)
        header = header_for(worlds.ladder(), {"S": "r", "L": "r"}, [workload], "fit")
        with TraceLog(path, header) as log:
            [trace] = collect([workload], engines, log, limit=1)
        assert trace.query.form == form
        assert [len(engine.calls) for engine in engines.values()] == [
            1,
            2,
        ]  # the second of L reads S's answer
    [read] = read_collected([path], worlds.ladder(), "fit")
    assert read.query.form == AnswerForm("words")
    assert len(path.read_bytes().splitlines()) == 5  # the header, two answers, what L read, and the form


def test_a_form_that_is_not_told_is_not_written() -> None:
    """Files of texts are as they were, byte for byte; all others say what they hold."""
    trace = rows()[0]
    plain = encode_trace(replace(trace, query=replace(trace.query, form=AnswerForm())))
    assert b"form" not in plain
    assert b'"form":{"kind":"number"' in encode_trace(trace)


def test_a_fixed_stage_needs_no_form() -> None:
    """Only evidence reads it: policies that look at nothing take any query."""
    trace = rows()[0]
    decision = FixedStage("L").decide(replace(trace.query, form=TEXT), {})
    assert decision.action == Action.draft("L")
