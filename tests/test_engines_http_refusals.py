"""What a server says instead of an answer: its words, whether it is asked again, and which error it is."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from asd.errors import (
    EngineError,
    PartialBatchError,
    PromptTooLongError,
    RefusedError,
    UnavailableError,
)
from tests.fakeserver import FakeServer, Fault, refusing, saying, serving
from tests.served import ANSWERS, chat, opened, query, reply

STREAM = 'data: {"choices": [{"text": "4"}]}\n\ndata: [DONE]\n\n'
PAGE = "<!DOCTYPE html><html><head><title>Log in</title><style>b {}</style></head><body>Welcome</body></html>"


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with serving(ANSWERS) as running:
        yield running


def failure(server: FakeServer, fault: Fault, **options: object) -> EngineError:
    """The error that comes of a fault, which lasts."""
    server.faults.clear()
    server.faults.extend([fault] * 9)
    with opened(server, **options) as engine, pytest.raises(EngineError) as caught:
        engine.generate([query()])
    return caught.value


def error(**fields: object) -> str:
    return json.dumps({"error": fields})


@pytest.mark.parametrize(
    "body",
    [
        error(message="free-models-per-day limit reached", code=429),
        error(message="slow down", code="429"),
        error(message="slow down", type="rate_limit_error"),
        error(message="slow down", code="rate_limit_exceeded", type="requests"),
        error(message="busy", type="overloaded_error"),
        error(message="oops", code=502),
        error(message="oops", type="InternalServerError", code=500, param=None),
        json.dumps({"object": "error", "message": "oops", "code": 503}),
        json.dumps([{"error": {"code": 429, "message": "no", "status": "RESOURCE_EXHAUSTED"}}]),
        '{"error": "Model is overloaded", "error_type": "overloaded"}',
        '{"error": {"error": {"message": "slow down", "code": 429.0}}}',
        '{"Message": "slow down", "code": "ThrottlingException"}',
        '{"error": "the model is overloaded"}',
        error(message="Rate limit reached for this key", code=None),
        '{"detail": "Upstream timed out"}',
        '{"error": "We are temporarily over capacity, try again in 20 s"}',
        '{"type": "about:blank", "title": "Too Many Requests", "status": 429}',
        error(message="busy", code="engine_overloaded"),
        reply({"text": "", "finish_reason": "error", "error": {"code": 502, "message": "provider"}}),
        reply({"text": "an", "finish_reason": "abort"}),
    ],
)
def test_an_error_in_a_reply_of_200_is_retried_as_its_code_would_be(server: FakeServer, body: str) -> None:
    """What passes by itself is asked for again, whether the status says so or the body."""
    server.faults.extend([saying(body), saying(body)])
    with opened(server) as engine:
        assert engine.generate([query()])[0].text == "4"
    assert len(server.asked) == 3


def test_an_error_in_a_reply_of_200_that_lasts_has_its_words(server: FakeServer) -> None:
    """After all attempts the stage is unavailable, in the server's own words."""
    found = failure(server, saying(error(message="free-models-per-day limit reached", code=429)))
    assert type(found) is UnavailableError
    assert "stage 'S'" in str(found)
    assert "free-models-per-day limit reached" in str(found)
    assert len(server.asked) == 4


def test_an_error_in_a_reply_of_200_asks_for_a_pause(server: FakeServer) -> None:
    """A pause that the reply asks for and that exceeds our patience is not begun."""
    body = error(message="tomorrow", code=429).encode()
    found = failure(server, lambda handler: handler.reply(200, body, Retry_After="3600"))
    assert type(found) is UnavailableError
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('{"error": "no such thing"}', "no such thing"),
        ('{"error": true, "message": "no such thing"}', "no such thing"),
        (error(message="wrong key", code=401), "wrong key"),
        (error(message="wrong key", code="invalid_api_key"), r"wrong key \(invalid_api_key\)"),
        (error(reason="moon"), ".*moon"),
        ('{"errors": [{"message": "one"}, {"message": "two"}]}', "one; two"),
        ('{"detail": "Not Found"}', "Not Found"),
        ('{"detail": [{"loc": ["body", "model"], "msg": "field required"}]}', "field required"),
        ('{"fault": {"faultstring": "Invalid key", "detail": {"errorcode": "oauth"}}}', "Invalid key|oauth"),
        ('{"success": false, "result": null, "errors": [{"code": 7003, "message": "gone"}]}', "gone"),
        ('{"code": 50013, "msg": "quota used up"}', "quota used up"),
    ],
)
def test_other_errors_in_a_reply_of_200_are_final(server: FakeServer, body: str, words: str) -> None:
    """An error that does not pass is raised at once, in the server's words."""
    with pytest.raises(EngineError, match=f"stage 'S' at {server.url} answered with an error: {words}"):
        raise failure(server, saying(body))
    assert len(server.asked) == 1


@pytest.mark.parametrize("empty", [None, {}, "", []])
def test_an_error_field_that_holds_nothing_is_no_error(server: FakeServer, empty: object) -> None:
    """Some servers always send the field."""
    server.faults.append(saying(reply(error=empty)))
    with opened(server) as engine:
        assert engine.generate([query()])[0].text == "4"


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 520, 524, 529])
def test_statuses_that_pass(server: FakeServer, status: int) -> None:
    """Busy, overloaded and troubled servers are asked again, and in the end are unavailable."""
    assert type(failure(server, refusing(status))) is UnavailableError
    assert len(server.asked) == 4


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (401, "correct the key"),
        (402, ""),
        (403, ""),
        (404, "usually ends in /v1"),
        (405, "base_url"),
        (501, ""),
    ],
)
def test_statuses_that_every_query_would_meet(server: FakeServer, status: int, remedy: str) -> None:
    """A wrong key or address is no query's fault, and asking again does not help."""
    found = failure(server, refusing(status))
    assert type(found) is EngineError
    assert remedy in str(found)
    assert len(server.asked) == 1


REFUSALS = [
    (400, error(message="The prompt was filtered", code="content_filter")),
    (
        400,
        error(message="Invalid prompt: flagged as a violation of our usage policies", code="invalid_prompt"),
    ),
    (400, error(message="Input data may be inappropriate", code="data_inspection_failed")),
    (400, error(message="bad token in prompt", type="invalid_request_error", param="prompt")),
    (400, "no"),
    (403, error(message="Your input was flagged", code=403, metadata={"reasons": ["violence"]})),
    (422, '{"error": "`inputs` cannot be empty", "error_type": "validation"}'),
    (200, error(message="prompt violates our content policy", code=400)),
    (200, error(message="blocked by moderation")),
    (200, error(message="cannot read this", code=422)),
]


@pytest.mark.parametrize(("status", "body"), REFUSALS)
def test_a_query_that_is_refused_for_good(server: FakeServer, status: int, body: str) -> None:
    """A query that the server will never answer is told apart from a stage that does not work."""
    assert type(failure(server, refusing(status, body))) is RefusedError
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, error(message="too long", code="context_length_exceeded")),
        (400, "This model's maximum context length is 512 tokens. However, you requested 600 tokens"),
        (
            400,
            error(message="the request exceeds the available context size", type="exceed_context_size_error"),
        ),
        (500, "the request exceeds the available context size. try increasing the context size"),
        (400, "The input (600 tokens) is longer than the model's context length (512 tokens)."),
        (400, "prompt is too long: 210000 tokens > 200000 maximum"),
        (400, "The input token count (1200000) exceeds the maximum number of tokens allowed (1048575)."),
        (413, "<html><body>Request Entity Too Large</body></html>"),
        (
            422,
            '{"error": "`inputs` tokens + `max_new_tokens` must be <= 4096", "error_type": "validation"}',
        ),
        (200, error(message="This model's maximum context length is 512 tokens", code=400)),
    ],
)
def test_a_prompt_that_is_too_long(server: FakeServer, status: int, words: str) -> None:
    """What servers say of a prompt that does not fit is that error, and is not asked for again."""
    found = failure(server, refusing(status, words))
    assert type(found) is PromptTooLongError
    assert "shorten the prompt" in str(found)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "body",
    [
        error(message="Unsupported parameter: 'max_tokens' is not supported", code="unsupported_parameter"),
        error(message="bad value", type="invalid_request_error", param="temperature"),
        error(message="`logprobs` must be between 0 and 0"),
        "logprobs are not supported",
        '{"detail": [{"loc": ["body", "max_tokens"], "msg": "must be less than 10"}]}',
        error(message="The model `tiny` does not exist"),
    ],
)
def test_a_request_of_a_form_that_the_server_does_not_support(server: FakeServer, body: str) -> None:
    """What every query would meet is no refusal of one; the options that change the form are named."""
    found = failure(server, refusing(400, body))
    assert type(found) is EngineError
    assert "options.openai has logprobs, omit, extra_body and max_tokens_field" in str(found)


def test_a_refused_query_leaves_the_others_their_answers(server: FakeServer) -> None:
    """Of three queries one is filtered: two drafts are kept, the third is refused."""
    server.faults.append(refusing(400, REFUSALS[0][1]))
    with opened(server) as engine, pytest.raises(PartialBatchError) as caught:
        engine.generate([query(prompt) for prompt in ANSWERS])
    assert len(caught.value.done) == 2
    assert [type(why) for why in caught.value.failed.values()] == [RefusedError]


def test_where_all_are_refused_none_is_asked_again(server: FakeServer) -> None:
    """A batch of refused queries says so of each, as each would otherwise be asked alone."""
    server.faults.extend([refusing(400, REFUSALS[0][1])] * 3)
    with opened(server) as engine, pytest.raises(PartialBatchError) as caught:
        engine.generate([query(prompt) for prompt in ANSWERS])
    assert sorted(caught.value.failed) == [0, 1, 2]
    assert caught.value.done == {}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (chat({"content": None}, "content_filter"), "content_filter"),
        (chat({"content": "Once upon"}, "content_filter"), "content_filter"),
        (chat({"content": None}, "SAFETY"), "SAFETY"),
        (chat({"content": None, "refusal": "I cannot help with that."}), "I cannot help with that"),
        (chat({"content": [{"type": "refusal", "refusal": "I will not."}]}), "I will not"),
    ],
)
def test_an_answer_that_is_withheld(server: FakeServer, body: str, words: str) -> None:
    """A filter's or the model's refusal is a refusal and no wrong answer."""
    found = failure(server, saying(body), chat=True)
    assert type(found) is RefusedError
    assert "withholds the answer: " in str(found)
    assert words in str(found)
    assert len(server.asked) == 1


def test_a_filtered_completion_without_chat(server: FakeServer) -> None:
    """The same for a stage without a chat template."""
    assert (
        type(failure(server, saying(reply({"text": "", "finish_reason": "content_filter"})))) is RefusedError
    )


def test_a_redirect_says_where_to(server: FakeServer) -> None:
    """The address that the server points to, as a base_url, without what may be secret in it."""
    target = "https://me:secret@other.example:8443/v1/completions?token=secret"
    found = str(failure(server, refusing(307, "", Location=target)))
    assert "redirected to https://other.example:8443/v1/completions" in found
    assert "set base_url to https://other.example:8443/v1" in found
    assert "secret" not in found
    assert "/elsewhere/completions" in str(
        failure(server, refusing(308, "", Location="/elsewhere/completions"))
    )
    assert "correct base_url" in str(failure(server, refusing(302, "", Location="http://me:secret@h:x/")))


@pytest.mark.parametrize("status", [200, 404, 502])
def test_a_page_is_reduced_to_its_words(server: FakeServer, status: int) -> None:
    """Of HTML what people would read is shown, not the marks."""
    found = str(failure(server, refusing(status, PAGE)))
    assert "Log in Welcome" in found
    assert "<" not in found
    assert "{}" not in found


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (STREAM, r"event stream, which was not requested.*extra_body = { stream = false }"),
        ('{"response": "4", "done": false}\n{"response": "", "done": true}\n', "event stream"),
        (": keep-alive\n\n" + STREAM, "event stream"),
        ("", "empty body; correct base_url"),
        ("OK", "malformed data"),
    ],
)
def test_a_body_that_is_no_json(server: FakeServer, body: str, words: str) -> None:
    """A stream, an empty body and plain text are named."""
    with pytest.raises(EngineError, match=f"(?s){words}"):
        raise failure(server, saying(body))
    assert len(server.asked) == 1


def test_long_words_are_cut(server: FakeServer) -> None:
    """A server's own words have their place in a message, and no more."""
    assert len(str(failure(server, refusing(400, "x" * 10_000)))) < 600
