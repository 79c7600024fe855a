"""The endpoint: OpenAI's forms, what a request may decide, what a stream may show, and how it all ends."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai._streaming import SSEDecoder

from asd.errors import ConfigError, RefusedError, UnavailableError
from asd.policies import FixedStage, Lossless
from asd.serving.endpoint.application import Application
from asd.serving.endpoint.service import Capacity
from asd.types import STOP, Action, Decision
from tests.endpoint import (
    LADDER,
    STAGES,
    OnePolicy,
    Reply,
    Slow,
    chat,
    events,
    get,
    post,
    scripted,
    serve,
    text_of,
)


class Climb:
    """Asks every stage of a list, one after the other, and returns the last one's answer."""

    name = "climb"

    def __init__(self, *stages: str) -> None:
        self.stages = stages

    def decide(self, query: Any, drafts: Any, verification: Any = None) -> Decision:  # noqa: ARG002
        best = next(reversed([None, *drafts]))
        left = [stage for stage in self.stages if stage not in drafts]
        return Decision(Action.draft(left[0]) if left else STOP, best, dict.fromkeys(drafts, 0.5))

    def without(self, stages: Any) -> Climb:
        left = [stage for stage in self.stages if stage not in stages]
        if not left:
            raise ConfigError("no stage is left")
        return Climb(*left)


def asked(
    body: dict[str, Any], path: str = "/v1/chat/completions", *, policy: Any = None, **texts: str
) -> Reply:
    """One request to scripted stages."""
    return serve(scripted(**texts), OnePolicy(policy or FixedStage("S")), lambda app: post(app, body, path))


def test_a_chat_is_answered_in_openais_form() -> None:
    """Text, end, counts; and what was delivered, in the reply and in headers."""
    reply = asked(chat(logprobs=True), policy=Climb("S", "L"), L="three")
    assert reply.status == 200
    [choice] = reply.json["choices"]
    assert choice["message"] == {"role": "assistant", "content": "three", "refusal": None}
    assert choice["finish_reason"] == "stop"
    assert [row["logprob"] for row in choice["logprobs"]["content"]] == [-0.1, -0.2]
    assert reply.json["usage"] == {"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4}
    assert reply.json["object"] == "chat.completion"
    told = reply.json["asd"]
    assert (told["stage"], told["p_good"], told["calls"], told["policy"]) == ("L", 0.5, 2, "climb")
    assert told["cost"] == pytest.approx(1 + 0.02 + 0.2 + 1 + 0.02 + 0.8)
    assert reply.headers["x-asd-stage"] == "L"
    assert float(reply.headers["x-asd-cost"]) == told["cost"]
    assert reply.headers["x-asd-calls"] == "2"


def test_a_prompt_is_answered_in_its_form() -> None:
    """`/v1/completions`, at once and as a stream."""
    body = {"model": "asd", "prompt": ["add 1+2"], "logprobs": 0}
    reply = asked(body, "/v1/completions")
    assert reply.json["object"] == "text_completion"
    assert reply.json["choices"][0]["text"] == "3"
    assert reply.json["choices"][0]["logprobs"]["token_logprobs"] == [-0.1, -0.2]
    streamed = asked(body | {"stream": True}, "/v1/completions")
    assert text_of(streamed.body) == "3"
    assert streamed.body.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("counts", [True, False])
def test_counts_come_in_one_chunk_of_their_own_before_the_end_if_they_are_asked_for(counts: bool) -> None:
    """And nowhere else."""
    options = {"stream_options": {"include_usage": True}} if counts else {}
    reply = asked(chat(stream=True, **options))
    with_usage = [event for event in events(reply.body) if event.get("usage")]
    assert len(with_usage) == counts
    assert all(event["choices"] == [] for event in with_usage)
    if counts:
        assert events(reply.body)[-1] in with_usage
    else:
        assert all("usage" not in event for event in events(reply.body))


def test_a_stream_ends_with_what_was_delivered() -> None:
    """In the chunk that has the reason of the end."""
    reply = asked(chat(stream=True))
    last = events(reply.body)[-1]
    assert last["choices"][0]["finish_reason"] == "stop"
    assert last["asd"]["stage"] == "S"
    assert reply.headers["content-type"].startswith("text/event-stream")


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.parametrize("show", ["hold", "verified", "draft"])
@given(data=st.data())
def test_the_deltas_are_the_unstreamed_text_wherever_the_bytes_are_split(
    show: str, data: st.DataObject
) -> None:
    """Read by the decoder of OpenAI's library from pieces that end at any byte; drafts after replacement."""
    texts = {stage: data.draw(TEXTS, stage) for stage in STAGES}
    climb = Climb(*data.draw(st.sampled_from([("S",), ("S", "L"), ("S", "M", "L")])))
    whole = asked(chat(show=show), policy=climb, **texts).json["choices"][0]["message"]["content"]
    body = asked(chat(show=show, stream=True), policy=climb, **texts).body
    for size in (1, data.draw(st.integers(2, 7))):
        pieces = iter([body[i : i + size] for i in range(0, len(body), size)])
        read = [event.data for event in SSEDecoder().iter_bytes(pieces)]
        assert read[-1] == "[DONE]"
        again = b"".join(b"data: " + line.encode() + b"\n\n" for line in read)
        assert text_of(again) == whole


def test_line_breaks_in_the_text_end_no_event() -> None:
    """Nor those of Unicode, at which readers split that go by `str.splitlines`."""
    text = "one\u2028two\x85three\u2029four\r\nfive"
    body = asked(chat(stream=True), S=text).body
    assert all(line.startswith(("data: ", ": ")) for line in body.decode().splitlines() if line)
    assert text_of(body) == text


@pytest.mark.parametrize("show", ["hold", "verified"])
def test_nothing_that_was_shown_is_taken_back(show: str) -> None:
    """Nor is anything shown that no stage has settled on."""
    reply = asked(chat(stream=True, show=show), policy=Climb("S", "M", "L"), S="a", M="b", L="c")
    assert all("replace" not in (event.get("asd") or {}) for event in events(reply.body))
    assert text_of(reply.body) == "c"


def test_a_draft_is_shown_at_once_and_replaced() -> None:
    """Long before the answer is there."""
    engines = {"S": Slow("S", "a draft"), "L": Slow("L", "an answer", 0.5)}
    reply = serve(
        engines,
        OnePolicy(Climb("S", "L"), ("S", "L")),
        lambda app: post(app, chat(stream=True, show="draft")),
        ladder=_ladder("S", "L"),
    )
    [early] = [at for at, piece in reply.pieces if b"a draft" in piece]
    [late] = [at for at, piece in reply.pieces if b"an answer" in piece]
    assert early < 0.4 < late
    assert text_of(reply.body) == "an answer"


def test_what_the_largest_stage_has_accepted_is_shown_before_the_cascade_stops() -> None:
    """The walk goes on after the verification; what is shown is what is returned."""
    engines = {"S": Slow("S", "three"), "L": Slow("L", "never asked")}
    policy = Lossless(("S", "L"))
    reply = serve(
        engines,
        OnePolicy(policy, ("S", "L")),
        lambda app: post(app, chat(stream=True, show="verified")),
        ladder=_ladder("S", "L"),
    )
    assert text_of(reply.body) == "three"
    assert events(reply.body)[-1]["asd"]["stage"] == "L"


def test_silence_is_broken_long_before_the_answer() -> None:
    """By a comment, which is no text."""
    engines = {"S": Slow("S", "at last", 0.8)}
    reply = serve(
        engines,
        OnePolicy(FixedStage("S"), ("S",)),
        lambda app: post(app, chat(stream=True)),
        ladder=_ladder("S"),
    )
    at, first = reply.pieces[0]
    assert first.startswith(b": ")
    assert at < 0.4
    assert text_of(reply.body) == "at last"


def _ladder(*stages: str) -> Any:
    return replace(LADDER, stages=tuple(stage for stage in LADDER.stages if stage.name in stages))


def test_a_deadline_returns_the_best_answer_in_hand() -> None:
    """At once, and says so; the call that runs on is paid for when it ends."""
    engines = {"S": Slow("S", "fast"), "L": Slow("L", "slow", 1.2)}
    settings = OnePolicy(Climb("S", "L"), ("S", "L"))
    reply = serve(engines, settings, lambda app: post(app, chat(deadline_s=0.2)), ladder=_ladder("S", "L"))
    assert reply.json["choices"][0]["message"]["content"] == "fast"
    assert reply.json["choices"][0]["finish_reason"] == "deadline"
    assert 0.2 <= reply.pieces[0][0] < 0.8
    assert reply.json["asd"]["in_time"] is False
    assert len(engines["L"].calls) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_deadline_without_an_answer_is_an_error(stream: bool) -> None:
    """With its own status, or, in a stream that has begun, an event without an end."""
    engines = {"S": Slow("S", "slow", 1.0)}
    body = chat(deadline_s=0.15, stream=stream)
    reply = serve(
        engines, OnePolicy(FixedStage("S"), ("S",)), lambda app: post(app, body), ladder=_ladder("S")
    )
    assert reply.pieces[-1][0] < 0.7
    if stream:
        assert events(reply.body)[-1]["error"]["code"] == "deadline_exceeded"
        assert b"[DONE]" not in reply.body
    else:
        assert (reply.status, reply.error["code"]) == (504, "deadline_exceeded")


def test_a_client_that_leaves_takes_its_waiting_query_along() -> None:
    """The stage is never asked for it; the one that it was busy with is answered."""
    engines = {"S": Slow("S", "slow", 0.3)}

    async def test(app: Application) -> tuple[Reply, Reply]:
        first = asyncio.create_task(post(app, chat()))
        await asyncio.sleep(0.05)
        left = await post(app, chat(), leave_after=0.05)
        return await first, left

    first, left = serve(engines, OnePolicy(FixedStage("S"), ("S",)), test, ladder=_ladder("S"))
    assert first.status == 200
    assert left.status == 0
    assert len(engines["S"].calls) == 1


def test_more_requests_than_there_is_room_for_are_told_when_to_come_again() -> None:
    """429 with Retry-After, decided before the first byte."""
    engines = {"S": Slow("S", "slow", 0.2)}

    async def test(app: Application) -> list[Reply]:
        return await asyncio.gather(*(post(app, chat(stream=True)) for _ in range(5)))

    replies = serve(
        engines, OnePolicy(FixedStage("S"), ("S",)), test, ladder=_ladder("S"), capacity=Capacity(open=3)
    )
    refused = [reply for reply in replies if reply.status == 429]
    assert len(refused) == 2
    assert all(
        reply.headers["retry-after"] == "1" and reply.error["code"] == "overloaded" for reply in refused
    )
    assert all(text_of(reply.body) == "slow" for reply in replies if reply.status == 200)


def test_a_stage_that_fails_is_done_without_and_if_none_is_left_the_client_hears_of_it() -> None:
    """503, to be tried again; what the stage said stays here."""
    broken = UnavailableError("connection to http://10.0.0.7 refused")
    settings = OnePolicy(Climb("S", "L"), ("S", "L"))
    engines = {"S": Slow("S", broken), "L": Slow("L", "fine")}
    assert (
        serve(engines, settings, lambda app: post(app, chat()), ladder=_ladder("S", "L")).json["asd"]["stage"]
        == "L"
    )
    engines = {"S": Slow("S", broken), "L": Slow("L", broken)}
    reply = serve(engines, settings, lambda app: post(app, chat()), ladder=_ladder("S", "L"))
    assert (reply.status, reply.error["code"]) == (503, "no_stage_left")
    assert b"10.0.0.7" not in reply.body
    assert reply.headers["retry-after"]


def test_what_stages_refuse_is_told_without_where_they_are() -> None:
    """In the words of each, which are about the client's own request."""
    said = "stage '{}' at http://10.0.0.7:8000/v1 answered 400: no poems; at http://poems.example they do"
    engines = {name: Slow(name, RefusedError(said.format(name))) for name in ("S", "L")}
    settings = OnePolicy(Climb("S", "L"), ("S", "L"))
    reply = serve(engines, settings, lambda app: post(app, chat()), ladder=_ladder("S", "L"))
    assert (reply.status, reply.error["code"]) == (400, "prompt_refused")
    words = "answered 400: no poems; at http://poems.example they do"
    assert reply.error["message"] == f"stage 'S' {words}; stage 'L' {words}"


def test_a_failure_within_a_stream_is_an_event_and_no_end() -> None:
    """The stream had begun with a comment."""
    engines = {"S": Slow("S", UnavailableError("gone"), 0.15)}
    reply = serve(
        engines,
        OnePolicy(FixedStage("S"), ("S",)),
        lambda app: post(app, chat(stream=True)),
        ladder=_ladder("S"),
    )
    assert reply.status == 200
    assert events(reply.body)[-1]["error"]["code"] == "no_stage_left"
    assert b"[DONE]" not in reply.body


def test_a_budget_is_never_passed() -> None:
    """Stages that could pass it are not asked; one too small for any is refused with what is needed."""
    settings = OnePolicy(Climb("S", "L"))
    body = chat(max_tokens=2, asd={"budget": 5.0})
    within = serve(scripted(), settings, lambda app: post(app, body)).json["asd"]
    assert within["stage"] == "S"
    assert within["cost"] <= 5.0
    assert (
        serve(scripted(), settings, lambda app: post(app, chat(max_tokens=2, budget=100))).json["asd"][
            "stage"
        ]
        == "L"
    )
    reply = serve(scripted(), settings, lambda app: post(app, chat(budget=0.5)))
    assert (reply.status, reply.error["code"]) == (400, "budget_too_small")


def test_a_request_can_be_explained_by_its_id_and_its_prompt_is_not_kept() -> None:
    """Decisions, calls, and the table for people."""

    async def test(app: Application) -> tuple[Reply, Reply, Reply]:
        answered = await post(app, chat())
        return (
            answered,
            await get(app, f"/v1/asd/requests/{answered.json['id']}"),
            await get(app, "/v1/asd/requests/no"),
        )

    answered, told, unknown = serve(scripted(), OnePolicy(Climb("S", "L")), test)
    assert told.json["stage"] == "L"
    assert [call["stage"] for call in told.json["calls"]] == ["S", "L"]
    assert "run L" in told.json["explanation"][1] + told.json["explanation"][2]
    assert b"add 1+2" not in told.body
    assert answered.headers["x-asd-id"] == answered.json["id"]
    assert (unknown.status, unknown.error["code"]) == (404, "request_not_found")


def test_request_ids_are_echoed_unless_they_cannot_be() -> None:
    """In refusals too."""

    async def test(app: Application) -> list[str]:
        replies = [
            await post(app, chat(), x_request_id="mine-7"),
            await post(app, b"{", x_request_id="mine-8"),
            await post(app, chat(), x_request_id="two words"),
            await get(app, "/nowhere"),
        ]
        return [reply.headers["x-request-id"] for reply in replies]

    *echoed, replaced, own = serve(scripted(), OnePolicy(FixedStage("S")), test)
    assert echoed == ["mine-7", "mine-8"]
    assert replaced.startswith("req-")
    assert own.startswith("req-")


def test_other_hosts_and_origins_get_nothing() -> None:
    """A page in a browser can neither ask in its own name nor read."""

    async def test(app: Application) -> list[Reply]:
        return [
            await post(app, chat(), host="evil.example:8000"),
            await post(app, chat(), content_type="text/plain"),
            await post(app, chat(), origin="https://evil.example"),
        ]

    foreign, typed, crossed = serve(scripted(), OnePolicy(FixedStage("S")), test)
    assert foreign.status == 403
    assert typed.status == 415
    assert not any(name.startswith("access-control") for name in crossed.headers)


def test_models_are_the_cascade_and_every_stage() -> None:
    """Each can be looked up by name."""

    async def test(app: Application) -> tuple[Reply, Reply, Reply]:
        return (
            await get(app, "/v1/models"),
            await get(app, "/v1/models/asd/always-L"),
            await get(app, "/v1/models/gpt-5"),
        )

    listed, one, none = serve(scripted(), OnePolicy(FixedStage("S")), test)
    assert [model["id"] for model in listed.json["data"]] == [
        "asd",
        "asd/always-S",
        "asd/always-M",
        "asd/always-L",
    ]
    assert one.json["id"] == "asd/always-L"
    assert (none.status, none.error["code"]) == (404, "model_not_found")


def test_a_server_that_drains_is_not_ready_and_says_when_to_come_again() -> None:
    """It is alive all the same; what it took on before ends."""
    engines = {"S": Slow("S", "accepted", 0.2)}

    async def test(app: Application) -> None:
        assert (await get(app, "/ready")).status == 200
        accepted = asyncio.create_task(post(app, chat(stream=True)))
        await asyncio.sleep(0.05)
        app.service.draining = True
        assert (await get(app, "/ready")).status == 503
        refused = await post(app, chat())
        assert (refused.status, refused.headers["retry-after"]) == (503, "5")
        assert (await get(app, "/health")).status == 200
        assert text_of((await accepted).body) == "accepted"

    serve(engines, OnePolicy(FixedStage("S"), ("S",)), test, ladder=_ladder("S"))


@pytest.mark.parametrize(
    ("priority", "stages"), [("low", "LSff"), ("normal", "LLSS"), ("high", "LLLS"), (None, "LLSS")]
)
def test_a_busy_server_answers_cheaply_before_it_refuses(priority: str | None, stages: str) -> None:
    """With 0, 1, 2 and 3 requests open of 4 that may be; sooner at a low priority."""
    engines = {name: Slow(name, name, 0.1) for name in STAGES}
    body = chat() if priority is None else chat(priority=priority)

    async def test(app: Application) -> str:
        found = ""
        for n_open in range(4):
            others = [asyncio.create_task(post(app, chat(lam=1, priority="high"))) for _ in range(n_open)]
            while app.service.n_open < n_open:
                await asyncio.sleep(0.001)
            reply = await post(app, body)
            found += "f" if reply.status == 429 else reply.json["asd"]["stage"]
            assert {other.json["asd"]["stage"] for other in await asyncio.gather(*others)} <= {"L"}
            while app.service.n_open:
                await asyncio.sleep(0.001)
        return found

    assert serve(engines, OnePolicy(Climb("L")), test, capacity=Capacity(open=4)) == stages
