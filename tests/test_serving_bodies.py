"""What is read from the body of a request: what counts, what passes, and what is refused by its name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from asd.serving.endpoint.bodies import MOST_CHARACTERS, MOST_ROOM, ROOM, Endpoint, ParsedRequest, read
from asd.serving.endpoint.controls import Controls
from asd.serving.endpoint.refusals import RequestError
from asd.stops import MOST

ASKS: dict[Endpoint, dict[str, Any]] = {
    "chat": {"messages": [{"role": "user", "content": "add 1+2"}]},
    "text": {"prompt": "add 1+2"},
}


def reads(endpoint: Endpoint = "chat", headers: dict[str, str] | None = None, **fields: Any) -> ParsedRequest:
    body = {"model": "asd"} | ASKS[endpoint] | fields
    return read(endpoint, json.dumps(body).encode(), (headers or {}).items(), "r1")


def message(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "add 1+2"} | fields]}


@pytest.mark.parametrize("endpoint", ["chat", "text"])
def test_what_is_not_said_has_a_default(endpoint: Endpoint) -> None:
    """Greedy, some room, no stream, no controls."""
    asked = reads(endpoint)
    assert (asked.query.id, asked.query.prompt, asked.query.max_new_tokens) == ("r1", "add 1+2", ROOM)
    assert (asked.sampling.temperature, asked.query.stop, asked.controls) == (0.0, (), Controls())
    assert (asked.stream, asked.include_usage, asked.logprobs) == (False, False, False)


def test_a_seed_makes_draws_repeatable_and_a_temperature_turns_them_on() -> None:
    """The same numbers from the same seed, also from a negative one; `top_p` is kept."""
    one, again, other = (reads(temperature=0.7, top_p=0.9, seed=seed).sampling for seed in (-3, -3, 4))
    assert (one.temperature, one.top_p) == (0.7, 0.9)
    assert reads(temperature=0.7).sampling.top_p == 1.0
    assert reads(temperature=0.7).sampling.rng is None
    assert one.rng is not None
    assert again.rng is not None
    assert other.rng is not None
    first = one.rng.random()
    assert first == again.rng.random() != other.rng.random()


@pytest.mark.parametrize(
    ("endpoint", "fields", "expected"),
    [
        ("chat", {"logprobs": True}, True),
        ("chat", {"logprobs": False}, False),
        ("text", {"logprobs": 0}, True),
        ("text", {"logprobs": None}, False),
    ],
)
def test_no_other_candidates_than_the_tokens_themselves_are_log_probabilities_too(
    endpoint: Endpoint, fields: dict[str, Any], expected: bool
) -> None:
    """`/v1/completions` counts candidates, so that 0 asks for those of the answer's own tokens."""
    assert reads(endpoint, **fields).logprobs is expected


@pytest.mark.parametrize(
    ("endpoint", "fields"),
    [
        ("chat", {"n": 1, "presence_penalty": 0, "tools": [], "tool_choice": "none", "top_logprobs": 0}),
        ("chat", {"response_format": {"type": "text"}, "modalities": ["text"], "user": "u", "store": True}),
        ("text", {"best_of": 1, "suffix": "", "echo": False, "logit_bias": {}}),
    ],
)
def test_neutral_values_of_refused_fields_pass(endpoint: Endpoint, fields: dict[str, Any]) -> None:
    """Many clients always send them."""
    assert reads(endpoint, **fields).query == reads(endpoint).query


def test_texts_in_parts_and_lists_of_one_prompt_are_texts() -> None:
    parts = [{"type": "text", "text": "add "}, {"type": "text", "text": "1+2"}]
    assert reads(**message(content=parts)).query == reads().query
    assert reads("text", prompt=["add 1+2"]).query == reads("text").query
    assert reads(stop="ab").query.stop == ("ab",)
    assert len(reads(stop=["ab"] * MOST).query.stop) == MOST


def test_the_counts_of_a_stream_are_asked_for_by_an_option() -> None:
    assert reads(stream=True, stream_options={"include_usage": True}).include_usage
    assert not reads(stream=True, stream_options={}).include_usage


def test_room_is_named_by_either_field() -> None:
    assert reads(max_tokens=7).query.max_new_tokens == 7
    assert reads(max_completion_tokens=7).query.max_new_tokens == 7
    assert reads(max_completion_tokens=7, max_tokens=7).query.max_new_tokens == 7
    assert reads(max_tokens=MOST_ROOM).query.max_new_tokens == MOST_ROOM
    assert reads("text", max_tokens=7).query.max_new_tokens == 7


IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}


@pytest.mark.parametrize(
    ("endpoint", "fields", "param", "said"),
    [
        ("chat", {"max_tokens": MOST_ROOM + 1}, "max_tokens", f"writes {MOST_ROOM} at most"),
        ("chat", {"max_tokens": 7, "max_completion_tokens": 8}, "max_tokens", "differ"),
        ("chat", {"stream_options": {"include_usage": True}}, "stream_options", "stream = true"),
        ("chat", {"stream": True, "stream_options": {"usage": True}}, "usage", "unknown field"),
        ("chat", {"stop": ["a"] * (MOST + 1)}, "stop", f"at most {MOST}"),
        ("chat", {"stop": ["a", ""]}, "stop", "none of them empty"),
        ("chat", {"messages": []}, "messages", ""),
        ("chat", message(content=[{"type": "text", "text": "what is this?"}, IMAGE]), "messages[0]", "image"),
        ("chat", message(content=[{"type": "text"}]), "messages[0]", "'text'"),
        ("chat", message(content=[{"type": "refusal", "text": "no"}]), "messages[0]", "'refusal'"),
        ("chat", message(content=None), "messages", ""),
        ("chat", message(name="bob"), "messages[0]", "messages[0].name"),
        ("chat", message(tool_calls=[{}]), "messages[0]", "messages[0].tool_calls"),
        ("chat", {"asd": 5}, "asd", "an object of controls"),
        ("chat", {"lam": 5, "asd": {"lam": 6}}, "lam", "given twice: 5.0 and 6.0"),
        ("chat", {"asd": {"lam": "5"}}, "asd", "lam"),
        ("chat", {"stages": []}, "asd", "stages is empty"),
        ("chat", {"stages": "S,,L"}, "stages", "'S,,L' has a stage without a name"),
        ("chat", {"stages": ["S", ""]}, "stages", "without a name"),
        ("chat", {"headers": {"x-asd-stages": "S, ,L"}}, "stages", "'S, ,L' has"),
        ("chat", {"headers": {"x-asd-stages": ""}}, "stages", "without a name"),
        ("chat", {"stages": ","}, "stages", "without a name"),
        ("text", {"prompt": [1, 2]}, "prompt", "not tokens"),
        ("text", {"prompt": ["a", "b"]}, "prompt", "one text"),
        ("text", {"prompt": " "}, "prompt", "not empty"),
        ("text", {"best_of": 2}, "best_of", "one answer"),
        ("text", {"echo": True}, "echo", "repeat"),
        ("text", {"messages": []}, "messages", "unknown field `messages`; the known fields are model, "),
        ("chat", {"seed": "7"}, "seed", "int"),
    ],
)
def test_what_cannot_be_done_is_refused_by_its_name(
    endpoint: Endpoint, fields: dict[str, Any], param: str, said: str
) -> None:
    with pytest.raises(RequestError) as caught:
        reads(endpoint, **fields)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert said in str(caught.value)


def test_a_prompt_of_more_characters_than_are_taken_is_too_long() -> None:
    """In OpenAI's words, which clients look for."""
    assert reads("text", prompt="a" * MOST_CHARACTERS).query.n_characters == MOST_CHARACTERS
    with pytest.raises(RequestError, match=f"takes {MOST_CHARACTERS} at most") as caught:
        reads("text", prompt="a" * (MOST_CHARACTERS + 1))
    assert (caught.value.status, caught.value.code) == (400, "context_length_exceeded")


@pytest.mark.parametrize("body", [b"{", b"\xff", b"[" * 100_000, b"[]"])
def test_what_is_no_object_of_json_is_refused(body: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        read("chat", body, (), "r1")
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"model": "asd/quality-0.95"}, Controls(quality=0.95)),
        ({"model": "asd/always-a-b"}, Controls(stages=("a-b",))),
        ({"stages": "S,L"}, Controls(stages=("S", "L"))),
        ({"lam": 0}, Controls(lam=0.0)),
        ({"headers": {"x-asd-stages": "S, L", "x-asd-deadline-s": " 2 "}},
         Controls(stages=("S", "L"), deadline_s=2.0)),
        ({"headers": {"x-asd-show": "draft", "x-asd-priority": "low", "x-other": "1"}},
         Controls(show="draft", priority="low")),
        ({"headers": {"x-asd-lam": "5"}, "asd": {"lam": 5, "budget": None}}, Controls(lam=5.0)),
        ({"lam": None, "asd": {"answers": "text"}}, Controls(answers="text")),
    ],
)  # fmt: skip
def test_controls_are_read_from_wherever_they_stand(given: dict[str, Any], expected: Controls) -> None:
    assert reads(**given).controls == expected


@pytest.mark.parametrize(
    "model", ["gpt-5", "asd/", "asd/lam", "asd/lam-", "asd/slow-5", "other/lam-5", "asd-5"]
)
def test_there_is_no_other_model(model: str) -> None:
    with pytest.raises(RequestError, match="there is no model") as caught:
        reads(model=model)
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")


def test_a_header_that_comes_twice_is_refused() -> None:
    body = json.dumps({"model": "asd"} | ASKS["chat"]).encode()
    with pytest.raises(RequestError, match="given twice") as caught:
        read("chat", body, [("x-asd-lam", "1"), ("x-asd-lam", "1")], "r1")
    assert (caught.value.status, caught.value.param) == (400, "x-asd-lam")
