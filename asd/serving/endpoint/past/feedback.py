"""Scores that people give to answers, by the id of the request: `POST /v1/asd/feedback`.

    {"id": "chatcmpl-...", "score": 1}                    of the answer that was returned
    {"id": "chatcmpl-...", "score": 0.2, "stage": "L"}    of the answer of a stage, as in the shadow
    {"id": "chatcmpl-...", "reference": "42"}             the right answer: every stage's answer is scored

With the right answer, an answer scores 1 where it says the same (`asd.quality.answers`), else 0; the live
page shows how like its reference a text is, by the metrics of the field, where `asd[quality]` is installed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from asd.quality.answers import answer_of
from asd.schema.explained import explained
from asd.serving.endpoint.bodies import MOST_CHARACTERS
from asd.serving.endpoint.past.history import History, PastRequest
from asd.serving.endpoint.refusals import RequestError
from asd.serving.monitoring.monitor import Monitor
from asd.types import Trace

__all__ = ["Feedback", "catch_up", "take"]


class Feedback(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body.

    Attributes:
        id: Of the request, as in its reply.
        score: In [0, 1].
        stage: Whose answer is scored; None: that of the stage that answered.
        reference: Instead of a score, the right answer.
    """

    id: str
    score: Annotated[float, Meta(ge=0, le=1)] | None = None
    stage: str | None = None
    reference: Annotated[str, Meta(max_length=MOST_CHARACTERS)] | None = None


def take(history: History, monitor: Monitor, key: str, body: bytes) -> dict[str, Any]:
    """Book scores; the same one may come again.

    Raises:
        RequestError: The body is wrong, there is no such request of this key, or it was scored otherwise.
    """
    try:
        given = msgspec.json.decode(body, type=Feedback)
    except msgspec.DecodeError as error:
        raise RequestError(400, f"feedback: {explained(error, Feedback)}") from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise RequestError(400, f"feedback: {error}") from error
    kept = history.find(given.id, key)
    if kept is None:
        raise RequestError(404, "no such request is remembered", code="request_not_found", param="id")
    scores = _scores(given, kept)
    for stage, score in scores.items():
        if kept.scores.get(stage, score) != score:
            raise RequestError(
                409, f"the answer of {stage} was scored {kept.scores[stage]:g} before", code="already_scored"
            )
    kept.reference = given.reference or kept.reference
    new = _book_new(monitor, kept, scores)
    if given.reference is not None and kept.form.kind == "text" and kept.stage in new:
        answer, loop = kept.drafts[kept.stage].text, asyncio.get_running_loop()
        loop.run_in_executor(None, monitor.evaluation.liken, answer, given.reference)
    return {"id": given.id, "object": "asd.feedback", "scores": dict(kept.scores)}


def catch_up(monitor: Monitor, kept: PastRequest) -> None:
    """Book what was said of a request before it was settled: its line and the shadow came later."""
    for stage, score in kept.scores.items():
        _note(monitor, kept, stage, score)
    if kept.reference is not None:
        _book_new(monitor, kept, _by_reference(kept.reference, kept))


def _book_new(monitor: Monitor, kept: PastRequest, scores: Mapping[str, float]) -> dict[str, float]:
    """Those that were not known yet."""
    new = {stage: score for stage, score in scores.items() if stage not in kept.scores}
    kept.scores |= new
    for stage, score in new.items():
        _book(monitor, kept, stage, score)
    return new


def _scores(given: Feedback, kept: PastRequest) -> dict[str, float]:
    if (given.score is None) == (given.reference is None):
        raise RequestError(400, "give a score or a reference", param="score")
    if given.reference is not None:
        return _by_reference(given.reference, kept)
    stage = kept.stage if given.stage is None else given.stage
    if stage not in kept.drafts:
        answered = ", ".join(kept.drafts)
        raise RequestError(400, f"{stage!r} did not answer this request; {answered} did", param="stage")
    assert given.score is not None
    return {stage: given.score}


def _by_reference(reference: str, kept: PastRequest) -> dict[str, float]:
    if kept.form.kind == "code":
        raise RequestError(400, "programs are not run here; give a score", param="reference")
    right = answer_of(kept.form, reference)
    if right is None:
        raise RequestError(400, f"the reference states no {kept.form.kind}", param="reference")
    return {stage: float(answer_of(kept.form, draft.text) == right) for stage, draft in kept.drafts.items()}


def _book(monitor: Monitor, kept: PastRequest, stage: str, score: float) -> None:
    monitor.metrics.scored(score)
    is_returned = stage == kept.stage
    if is_returned and kept.p_good is not None:
        monitor.evaluation.score(score, kept.p_good)
    _note(monitor, kept, stage, score)


def _note(monitor: Monitor, kept: PastRequest, stage: str, score: float) -> None:
    """In the comparison with the reference stage and in the log, as far as there is one yet."""
    is_returned = stage == kept.stage
    if kept.compared is not None:
        kept.compared.take(score, returned=is_returned, reference=stage == monitor.reference)
    if kept.logged is not None and stage in kept.logged.outcomes:
        scored = replace(kept.logged.outcomes[stage], score=score)
        monitor.write(Trace(kept.logged.query, {stage: scored}))
