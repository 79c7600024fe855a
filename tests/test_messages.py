"""Conversations: what a query may be asked with, how stages read it, and that no two are confused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from transformers import AutoTokenizer

from asd.engines.cache import ResponseStore, with_cache
from asd.engines.hf.engine import TransformersEngine
from asd.engines.http.vllm import VllmServerEngine
from asd.engines.prompts import as_read, chat_of, check
from asd.errors import ConfigError, RefusedError
from asd.ladder import Ladder, Stage
from asd.messages import Message
from asd.prices import Prices
from asd.testing import ScriptedEngine
from asd.types import Query
from tests.fakeserver import serving
from tests.served import ANSWERS, opened
from tests.served import stage as served

SMALL = Ladder.load("tiny").stages[0]
CHATML = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    + CHATML
)
ALTERNATING = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}{% endfor %}" + CHATML
)
BRIEF = Message("system", "Be brief.")
ASK = Message("user", "add 2+3")
TURNS = [ASK, Message("assistant", "5"), Message("user", "add 4+4")]


def tokenizer(template: str) -> Any:
    loaded = AutoTokenizer.from_pretrained(SMALL.model)
    loaded.chat_template = template
    return loaded


def stage_with(template: str, to: Path) -> Stage:
    own = copytree(SMALL.model, to / "S")
    (own / "chat_template.jinja").write_text(template)
    return replace(SMALL, model=str(own), chat_template=True)


def test_a_conversation_is_a_query() -> None:
    """The prompt is the last message's text; dicts and `Message`s are the same; other fields go by name."""
    query = Query.chat("q", "d", [BRIEF, *TURNS], reference="8", max_new_tokens=9)
    assert (query.prompt, query.reference, query.max_new_tokens) == ("add 4+4", "8", 9)
    assert query.messages == query.conversation == (BRIEF, *TURNS)
    assert query.n_characters == sum(len(m.content) for m in query.messages)
    assert query == Query.chat("q", "d", chat_of(query), reference="8", max_new_tokens=9)
    check(query)


def test_one_message_of_a_user_is_a_plain_query() -> None:
    """Whoever speaks in messages only gets what a prompt gets: traces, caches and digests agree."""
    assert Query.chat("q", "d", [ASK]) == Query("q", "d", "add 2+3")
    assert chat_of(Query("q", "d", "add 2+3")) == [{"role": "user", "content": "add 2+3"}]


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "has no messages; its last message must be the user's"),
        ([BRIEF], "ends with a message of role 'system'"),
        (TURNS[:2], "ends with a message of role 'assistant'"),
        ([{"role": "robot", "content": "x"}, ASK], "message 1 .* has role 'robot'; known roles are system"),
        ([BRIEF, {"role": "user", "content": " \n"}], "message 2 .* has content ' .n'; give text"),
        ([{"role": "user", "content": None}], "has content None; give text"),
        ([{"role": "user", "content": [{"type": "text"}]}], "has content .*; give text"),
        ([{"role": "user"}], r"has the keys \['role'\]; give role and content"),
        ([{"role": "user", "content": "x", "name": "Al"}], "give role and content, nothing else"),
        (["add 2+3"], "message 1 .* is 'add 2.3'; give asd.Message"),
        ("add 2+3", "give a list of them"),
        ({"role": "user", "content": "x"}, "give a list of them"),
    ],
)
def test_what_is_no_conversation(messages: Any, message: str) -> None:
    """The message says which one is wrong and what to give instead."""
    with pytest.raises(ConfigError, match=message):
        Query.chat("q", "d", messages)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (Query("q", "d", "other", messages=(BRIEF, ASK)), "another prompt than its last message"),
        (Query("q", "d", "add 2+3", messages=(ASK, BRIEF)), "ends with a message of role 'system'"),
        (Query("q", "d", "x", messages=(Message("system", "\udce9"), Message("user", "x"))), "not UTF-8"),
    ],
)
def test_a_query_put_together_by_hand_is_checked(query: Query, message: str) -> None:
    """An engine refuses messages that `Query.chat` would not have made."""
    with pytest.raises(ConfigError, match=message):
        check(query)


def test_a_template_gets_every_message() -> None:
    """Roles and contents in their order, then the turn of the model."""
    query = Query.chat("q", "d", [BRIEF, *TURNS])
    assert as_read(query, replace(SMALL, chat_template=True), tokenizer(CHATML)) == (
        "<|system|>Be brief.\n<|user|>add 2+3\n<|assistant|>5\n<|user|>add 4+4\n<|assistant|>"
    )


@pytest.mark.parametrize(
    ("template", "messages", "message"),
    [
        (
            NO_SYSTEM,
            [BRIEF, ASK],
            "fails on its messages .roles system, user.: .*System role not supported; put",
        ),
        (ALTERNATING, [ASK, *TURNS], "roles must alternate user/assistant; change the messages"),
        ("{{ messages[-1]['content'] }}", [BRIEF, ASK], "leaves out its message of role 'system'; put the"),
        ("{{ messages[-1]['content'] }}", TURNS, "leaves out its message of role 'user'; change"),
    ],
)
def test_a_template_that_does_not_take_a_conversation(
    template: str, messages: list[Message], message: str
) -> None:
    """It may raise or drop a message without a word: the query is refused, with what to do instead."""
    query = Query.chat("q", "d", messages)
    with pytest.raises(RefusedError, match=message):
        as_read(query, replace(SMALL, chat_template=True), tokenizer(template))


def test_thoughts_may_be_left_out_of_earlier_answers() -> None:
    """Reasoning models' templates take them off on purpose."""
    template = "{% for m in messages %}{{ m['content'].split('</think>')[-1] }}\n{% endfor %}"
    query = Query.chat("q", "d", [ASK, Message("assistant", "<think>2+3</think>5"), ASK])
    assert as_read(query, replace(SMALL, chat_template=True), tokenizer(template)) == "add 2+3\n5\nadd 2+3\n"


def test_a_stage_without_a_template_refuses_a_conversation() -> None:
    """In process and at a server; plain queries are answered as before."""
    query = Query.chat("q", "d", [BRIEF, Message("user", "2+2=")], max_new_tokens=4)
    with pytest.raises(RefusedError, match=r"conversation of 2 messages.*chat_template = true"):
        TransformersEngine(replace(SMALL, chat_template=False), "cpu").generate([query])
    with serving(ANSWERS) as server:
        for dialect in ("openai", "vllm"):
            refused = pytest.raises(RefusedError, match=r"conversation of 2 messages.*chat_template = true")
            with opened(server, dialect=dialect) as engine, refused:
                engine.generate([query])
        assert not server.asked


def test_a_server_gets_every_message() -> None:
    """As the request's messages, and where the server tokenizes, in that one; prompts are not confused."""
    one, two = (
        Query.chat("q", "d", [Message("system", words), Message("user", "2+2=")], max_new_tokens=4)
        for words in ("2+2=", "say abc ")
    )
    with serving(ANSWERS) as server:
        with opened(server, chat=True) as engine:
            engine.generate([one])
        assert server.asked[0]["messages"] == chat_of(one)
        verifier = VllmServerEngine(served(server.url, chat=True, dialect="vllm"))
        verifier.generate([one])
        verifier.generate([two])
        verifier.close()
        asked = [body["messages"] for body in server.tokenized if "messages" in body]
    assert asked == [chat_of(one), chat_of(two)]


def test_a_stage_answers_what_the_whole_conversation_asks(tmp_path: Path) -> None:
    """Two conversations of one last message are two questions, alone, in a batch and after verification."""
    engine = TransformersEngine(stage_with(CHATML, tmp_path), "cpu")
    asked = [Query.chat("q", "d", [*before, ASK], max_new_tokens=6) for before in ([BRIEF], TURNS[:2], TURNS)]
    own = [engine.generate([query])[0] for query in asked]
    assert len({draft.usage.n_prompt for draft in own}) == 3
    assert [draft.tokens for draft in engine.generate(asked)] == [draft.tokens for draft in own]
    wrong = replace(own[0], stage="XS", text="9", tokens=(), logprobs=())
    read = engine.verify(asked, [wrong] * 3)
    for query, verification, draft in reversed(list(zip(asked, read, own, strict=True))):
        [continued] = engine.continue_([query], [verification])
        assert continued.tokens == draft.tokens
        assert continued.usage.n_prompt == 0  # from the cache of this very conversation


def test_a_cache_keeps_conversations_apart(tmp_path: Path) -> None:
    """Greedy answers and sampled batches are known by all messages, plain ones by the prompt as before."""
    stage = Stage("S", "made-up/S", Prices(1.0, 0.0, 1.0))
    inner = ScriptedEngine("S", {"add 2+3": ("5", (-0.1,))})
    plain, brief = Query("q", "d", "add 2+3"), Query.chat("q", "d", [BRIEF, ASK])
    with ResponseStore(tmp_path / "store") as store:
        engine = with_cache(inner, store, stage, "r1")
        assert [engine.generate([query])[0].cached for query in (plain, brief, plain, brief)] == [
            False,
            False,
            True,
            True,
        ]
    assert inner.generate([brief])[0].usage.n_prompt == 4
