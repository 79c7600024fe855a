"""What servers leave out, add, or write their own way, and what is made of it."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from asd.engines.http.settings import OpenAISettings
from asd.errors import ConfigError, EngineError, RefusedError
from asd.ladder import Ladder
from asd.prices import Prices
from asd.types import Query, Usage
from tests.fakeserver import FakeServer, saying, serving
from tests.served import ANSWERS, chat, drafted, opened, query, reply, stage

PRICED = Prices(1.0, 0.5, 1.0)
TINY = Ladder.load("tiny").stages[0].model
"""Its tokenizer has one token a character."""


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with serving(ANSWERS) as running:
        yield running


CONTENT = [{"token": "4", "logprob": -0.25, "bytes": [52], "top_logprobs": []}, {"token": "", "logprob": -1}]


@pytest.mark.parametrize("is_chat", [False, True])
@pytest.mark.parametrize(
    "logprobs",
    [
        {"tokens": ["4", ""], "token_logprobs": [-0.25, -1], "top_logprobs": [{}, {}], "text_offset": [0, 1]},
        {"content": CONTENT, "refusal": None},
        CONTENT,
        [-0.25, -1],
    ],
)
def test_log_probabilities_in_every_form(server: FakeServer, logprobs: object, *, is_chat: bool) -> None:
    """OpenAI's two forms, llama.cpp's completion with the form of a chat, and bare lists read alike."""
    answer = {"message": {"content": "4"}} if is_chat else {"text": "4"}
    draft = drafted(server, reply({**answer, "finish_reason": "stop", "logprobs": logprobs}), chat=is_chat)
    assert (draft.text, draft.logprobs) == ("4", (-0.25, -1.0))


@pytest.mark.parametrize(
    "logprobs",
    [
        None,
        {},
        {"content": None},
        {"token_logprobs": None},
        {"token_logprobs": []},
        {"tokens": ["4"], "top_logprobs": [{"4": -0.1}]},
        {"token_logprobs": [None, -0.1]},
        {"token_logprobs": [-0.1, None]},
        {"content": [{"token": "4"}, {"token": "", "logprob": -0.1}]},
        {"content": [{"token": "4", "prob": 0.9}]},
        {"content": [None, {"token": "4", "logprob": -0.1}]},
    ],
)
def test_log_probabilities_that_are_not_there(server: FakeServer, logprobs: object) -> None:
    """Missing ones, and lists with holes, leave the draft without any: half of them would be misread."""
    draft = drafted(server, reply({"text": "4", "finish_reason": "stop", "logprobs": logprobs}))
    assert (draft.text, draft.logprobs) == ("4", ())


@pytest.mark.parametrize(("written", "read"), [("-Infinity", -9999.0), ("-9999.0", -9999.0), ("1e-9", 0.0)])
def test_log_probabilities_at_their_ends(server: FakeServer, written: str, read: float) -> None:
    """Probability 0 is -Infinity, which is no JSON, or OpenAI's -9999; 1 may come with a rounding error."""
    choice = {"text": "4", "finish_reason": "stop", "logprobs": {"token_logprobs": ["X", -0.5]}}
    assert drafted(server, reply(choice).replace('"X"', written)).logprobs == (read, -0.5)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("4", "4"),
        ([{"type": "text", "text": "4"}], "4"),
        ([{"type": "text", "text": "4"}, {"type": "text", "text": "2"}], "42"),
        (["4", {"type": "text", "text": "2"}], "42"),
        (
            [
                {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                {"type": "text", "text": "4"},
            ],
            "4",
        ),
        ([{"type": "reasoning", "text": "hm"}, {"type": "text", "text": "4"}], "4"),
        ([{"type": "reasoning", "reasoning": "hm"}, "4"], "4"),
        ([{"type": "output_text", "text": {"value": "4", "annotations": []}}], "4"),
        ({"type": "text", "text": "4"}, "4"),
        ([{"type": "image_url", "image_url": {}}], ""),
        ([None, {"type": "text", "text": "4"}], "4"),
        (None, ""),
        ([], ""),
    ],
)
def test_content_as_text_or_parts(server: FakeServer, content: object, text: str) -> None:
    """The text is what the text parts hold together."""
    draft = drafted(server, chat({"role": "assistant", "content": content}), chat=True)
    assert (draft.text, draft.finished) == (text, True)


@pytest.mark.parametrize(
    ("reason", "finished"),
    [
        ("stop", True),
        ("eos_token", True),
        ("end_turn", True),
        ("STOP", True),
        ("COMPLETE", True),
        ({"type": "stop", "matched": 2}, True),
        ({"type": "length", "length": 20}, False),
        ("max_new_tokens", False),
        ("length", False),
        (7, False),
        (None, False),
    ],
)
def test_why_an_answer_ended(server: FakeServer, reason: object, *, finished: bool) -> None:
    """Servers have several words for an end; what is unknown is no end."""
    assert drafted(server, reply({"text": "4", "finish_reason": reason})).finished == finished


@pytest.mark.parametrize(
    "choice",
    [
        {"text": "", "message": {"content": "4"}},
        {"text": None, "message": {"content": "4"}},
        {"text": "4", "message": {"content": None}},
    ],
)
def test_text_in_either_place(server: FakeServer, choice: dict[str, object]) -> None:
    """A choice with places for both kinds of answer has it where there is text."""
    assert drafted(server, reply(choice | {"finish_reason": "stop"})).text == "4"


def test_an_answer_that_is_null(server: FakeServer) -> None:
    """One that ended has no text; a choice that has not even a reason is no answer."""
    assert drafted(server, reply({"text": None, "finish_reason": "stop"})).text == ""
    with pytest.raises(EngineError, match="neither text nor message"):
        drafted(server, reply({"delta": {"content": "4"}}))


@pytest.mark.parametrize(("written", "text"), [(r"4\ud83d", "4\ufffd"), (r"\ud83d\ude00", "\U0001f600")])
def test_half_characters(server: FakeServer, written: str, text: str) -> None:
    """Half of a pair of surrogates is a replacement character, which files can hold; a whole pair is one."""
    assert drafted(server, reply({"text": "X"}).replace("X", written)).text == text


@pytest.mark.parametrize("message", [{"content": None}, {"content": ""}, {"content": "\n\n"}, {}])
@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "reasoning_text", "thoughts", "thinking"])
def test_reasoning_without_an_answer_is_named_once(
    server: FakeServer, caplog: pytest.LogCaptureFixture, message: dict[str, object], name: str
) -> None:
    """Text in the field for reasoning alone is no answer; the cause and the options are told once."""
    server.faults.extend([saying(chat(message | {name: "2 and 2 make 4."}))] * 2)
    with opened(server, chat=True) as engine:
        for _ in range(2):
            with pytest.raises(
                RefusedError, match=rf"wrote no answer: {name} holds what .*chat_template_kwargs"
            ):
                engine.generate([query()])
    [record] = caplog.records
    assert (record.levelname, f"{name} holds" in record.getMessage()) == ("WARNING", True)


@pytest.mark.parametrize("message", [{"content": None, "reasoning_content": "First, "}, {"content": ""}])
def test_no_room_for_an_answer_is_named_once(
    server: FakeServer, caplog: pytest.LogCaptureFixture, message: dict[str, object]
) -> None:
    """An answer cut before its first word is unfinished and empty, and what to raise is told once."""
    server.faults.extend([saying(chat(message, "length"))] * 2)
    with opened(server, chat=True) as engine:
        drafts = engine.generate([query(), query()])
    assert [(draft.text, draft.finished) for draft in drafts] == [("", False)] * 2
    [record] = caplog.records
    assert "raise the max_new_tokens" in record.getMessage()
    assert "stage 'S'" in record.getMessage()


@pytest.mark.parametrize(
    "body",
    [
        reply({"text": "", "reasoning": "2 and 2 make 4.", "finish_reason": "stop"}),
        chat({"content": None, "tool_calls": [{"function": {"name": "add"}}]}, "tool_calls"),
        chat({"content": [{"type": "thinking", "thinking": "2 and 2"}]}),
    ],
)
def test_words_in_other_fields(server: FakeServer, body: str) -> None:
    """The same of other fields that hold words in place of the text."""
    with pytest.raises(RefusedError, match=r"(reasoning|tool_calls|thinking) holds what the model said"):
        drafted(server, body, chat=True)


def test_tokens_without_text(server: FakeServer, caplog: pytest.LogCaptureFixture) -> None:
    """An answer of several tokens and no text is kept and told; one of an end alone is an empty answer."""
    usage = {"prompt_tokens": 4, "completion_tokens": 50}
    assert drafted(server, reply({"text": "", "finish_reason": "stop"}, usage)).text == ""
    assert "wrote 50 tokens and no text" in caplog.text
    caplog.clear()
    assert drafted(server, reply({"text": "", "finish_reason": "stop"})).text == ""
    assert not caplog.records


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 4.0, "completion_tokens": 1.0, "total_tokens": 5.0},
        {"input_tokens": 4, "output_tokens": 1},
        {"prompt_tokens": 4, "total_tokens": 5},
        {"prompt_tokens": 4, "completion_tokens": None, "total_tokens": 5},
        {"prompt_tokens": 4, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 2.0}},
        {"prompt_tokens": "4", "completion_tokens": "1"},
    ],
)
def test_counts_in_other_forms(server: FakeServer, usage: object) -> None:
    """Whole numbers with a point or as text, and the other names that are in use, are counts too."""
    assert drafted(server, reply(None, usage)).usage == Usage(4, 1, 1)


def test_reasoning_beside_an_answer_is_left_out(server: FakeServer, caplog: pytest.LogCaptureFixture) -> None:
    """The answer is the content, and nothing is wrong."""
    message = {"content": "4", "reasoning_content": "2 and 2 make 4."}
    assert drafted(server, chat(message), chat=True).text == "4"
    assert not caplog.records


@pytest.mark.parametrize(
    "usage", [..., None, {}, [], "", False, {"completion_tokens": 0, "prompt_tokens": 0}]
)
def test_counting_by_log_probabilities(
    server: FakeServer, caplog: pytest.LogCaptureFixture, usage: object
) -> None:
    """A server without usage: its log-probabilities count the answer; prompts that cost nothing are not."""
    choice = {"text": "4", "finish_reason": "stop", "logprobs": {"token_logprobs": [-0.1, -0.2]}}
    for _ in range(2):
        draft = drafted(server, reply(choice, usage))
        assert draft.usage == Usage(n_prompt=0, n_decoded=2, n_passes=2)
    assert "options.openai.tokenizer" in caplog.records[0].getMessage()
    assert len(caplog.records) == 2


@pytest.mark.parametrize(
    ("choice", "prices", "what"),
    [
        ({"text": "4", "logprobs": [-0.1]}, PRICED, "prompt tokens, which have a price"),
        ({"text": "4"}, Prices(1.0, 0.0, 1.0), "the tokens of its answers"),
    ],
)
def test_what_cannot_be_counted_names_the_option(
    server: FakeServer, choice: object, prices: Prices, what: str
) -> None:
    """Without log-probabilities, or where prompts have a price, a tokenizer must be named."""
    with pytest.raises(EngineError, match=rf"stage 'S' does not count {what}.*tokenizer = "):
        drafted(server, reply(choice, ...), prices=prices)


@pytest.mark.parametrize(
    ("choice", "n_decoded"),
    [
        ({"text": "42", "finish_reason": "stop"}, 3),
        ({"text": "42", "finish_reason": "length"}, 2),
        ({"text": "42", "finish_reason": "stop", "logprobs": [-0.1, -0.1]}, 2),
        ({"text": "", "finish_reason": "stop"}, 1),
        ({"text": "", "finish_reason": "length"}, 20),
    ],
)
def test_counting_with_a_named_tokenizer(server: FakeServer, choice: object, n_decoded: int) -> None:
    """Prompt and answer are counted in the tokens of the tokenizer, an end as one."""
    draft = drafted(server, reply(choice, ...), prices=PRICED, tokenizer=TINY)
    n_prompt = len(_tiny()("2+2=")["input_ids"])
    assert draft.usage == Usage(n_prompt=n_prompt, n_decoded=n_decoded, n_passes=n_decoded)


def test_counting_a_chat_counts_its_template(server: FakeServer) -> None:
    """What a chat template adds is read as well."""
    body = chat({"content": "4"}).replace('"usage"', '"unused"')
    draft = drafted(server, body, chat=True, prices=PRICED, tokenizer=TINY)
    chatted = [{"role": "user", "content": "2+2="}]
    text = _tiny().apply_chat_template(chatted, add_generation_prompt=True, tokenize=False)
    assert draft.usage.n_prompt == len(_tiny()(text, add_special_tokens=False)["input_ids"])


def test_a_tokenizer_that_cannot_be_loaded(server: FakeServer, tmp_path: Path) -> None:
    """It is named with its option."""
    with pytest.raises(ConfigError, match=r"stage 'S': options.openai.tokenizer = .* cannot be loaded"):
        drafted(server, reply(None, ...), prices=PRICED, tokenizer=str(tmp_path))


def test_a_tokenizer_without_the_chat_template(server: FakeServer, tmp_path: Path) -> None:
    """A chat cannot be counted with a tokenizer that has no template, which is said."""
    _tiny().save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    body = chat({"content": "4"}).replace('"usage"', '"unused"')
    with pytest.raises(EngineError, match=r"the tokenizer of .* has none"):
        drafted(server, body, chat=True, prices=PRICED, tokenizer=str(tmp_path))


def test_what_the_server_counts_is_believed(server: FakeServer) -> None:
    """Where there are counts, a named tokenizer is not even loaded."""
    assert drafted(server, reply(), prices=PRICED, tokenizer="/nowhere").usage == Usage(4, 1, 1)


def test_requests_of_another_form(server: FakeServer) -> None:
    """Fields are renamed, left out and added as the stage says; its own choice of a field wins."""
    extra = {"reasoning_effort": "low", "top_p": 0.5}
    with opened(
        server, max_tokens_field="max_completion_tokens", omit=["temperature", "logprobs"], extra_body=extra
    ) as engine:
        server.faults.append(saying(reply()))
        engine.generate([query(room=7)])
    assert server.asked == [{"model": "tiny", "prompt": "2+2=", "max_completion_tokens": 7, **extra}]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"extra_body": {"prompt": "x"}}, r"extra_body must not hold \['prompt'\]"),
        ({"extra_body": {"max_tokens": 3}}, r"extra_body must not hold \['max_tokens'\]"),
        ({"omit": ["model"]}, r"omit must not hold \['model'\]"),
        ({"omit": "temperature"}, "omit"),
        ({"max_tokens_field": "n", "omit": ["n"]}, r"omit must not hold \['n'\]"),
        ({"max_tokens_field": "prompt"}, "max_tokens_field"),
        ({"max_tokens_field": ""}, "max_tokens_field"),
        ({"dialect": "vllm", "extra_body": {"top_k": 2}}, "could make verifying lossy"),
        ({"dialect": "vllm", "omit": ["top_p"]}, "could make verifying lossy"),
        ({"dialect": "vllm", "max_tokens_field": "room"}, "could make verifying lossy"),
    ],
)
def test_forms_that_would_change_what_is_asked(options: dict[str, object], message: str) -> None:
    """What is asked, and how much room there is, stays the query's; a verifier's requests stay exact."""
    with pytest.raises(ConfigError, match=message):
        OpenAISettings.of(stage("http://h/v1", **options))


def test_another_form_is_another_revision(server: FakeServer) -> None:
    """Answers to other requests are another stage's; what does not change them is not in the revision."""
    revisions = set()
    for options in (
        {},
        {"omit": ["top_p"]},
        {"extra_body": {"think": False}},
        {"extra_body": {"think": True}},
    ):
        with opened(server, **options) as engine:
            revisions.add(engine.revision)
    with opened(server, timeout_s=1.0) as engine:
        assert engine.revision == "served:/models/tiny"
    assert len(revisions) == 4


@pytest.mark.parametrize("dialect", ["openai", "vllm"])
def test_template_variables_are_sent(server: FakeServer, dialect: str) -> None:
    """A chat carries the stage's template variables: to the chat endpoint, or where vLLM tokenizes."""
    kwargs = {"enable_thinking": False}
    with opened(server, chat=True, dialect=dialect, kwargs=kwargs) as engine:
        engine.generate([query()])
    [body] = [body for body in (*server.asked, *server.tokenized) if "messages" in body]
    assert body["chat_template_kwargs"] == kwargs


def test_a_prompt_that_is_no_utf_8(server: FakeServer) -> None:
    """Such a prompt is refused before anything is sent."""
    with opened(server) as engine, pytest.raises(ConfigError, match="not UTF-8"):
        engine.generate([Query("q", "d", "add 1\udce9")])
    assert server.asked == []


def test_a_server_without_models(server: FakeServer) -> None:
    """A list of models that is null is an empty one."""
    server.models = None
    with opened(server) as engine, pytest.raises(EngineError, match=r"does not serve 'tiny' but \[\]"):
        engine.load()


@functools.cache
def _tiny() -> Any:
    return AutoTokenizer.from_pretrained(TINY)
