"""The engine of a vLLM server against a scripted one: any draft is verified, and nothing is lossy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from asd.engines import Acceptance, Sampling
from asd.engines.http.vllm import VllmServerEngine
from asd.errors import ConfigError, EngineError, PromptTooLongError
from asd.types import NO_CALL, Draft, Usage
from tests.fakeserver import END, ENDING, KNOWN, STRANGE, FakeServer, refusing, saying, serving
from tests.served import ANSWERS, opened, query, stage

COUNTS = '{"prompt_tokens": 4, "completion_tokens": 1}'


def reply(logprobs: str) -> str:
    one = '{"text": "4", "finish_reason": "stop", "logprobs": {"token_logprobs": [' + logprobs + "]}}"
    return '{"choices": [' + one + '], "usage": ' + COUNTS + "}"


@pytest.fixture(scope="module")
def running() -> Iterator[FakeServer]:
    with serving(ANSWERS) as server:
        yield server


@pytest.fixture
def server(running: FakeServer) -> FakeServer:
    running.reset()
    return running


@pytest.fixture(scope="module")
def verifier(running: FakeServer) -> Iterator[VllmServerEngine]:
    opened = VllmServerEngine(stage(running.url, dialect="vllm"))
    yield opened
    opened.unload()


def test_vllm_tells_ids(verifier: VllmServerEngine, server: FakeServer) -> None:
    """In vLLM's dialect a draft has its ids, and the checkpoint's sampling habits are switched off."""
    [draft] = verifier.generate([query()])
    assert draft.tokens == (ord("4"), END)
    assert draft.logprobs == (KNOWN, ENDING)
    assert server.asked[0]["repetition_penalty"] == 1.0


def test_vllm_chats_in_tokens(server: FakeServer) -> None:
    """With a chat template the server tokenizes the chat, and the completion is asked for in ids."""
    opened = VllmServerEngine(stage(server.url, chat=True, dialect="vllm"))
    [draft] = opened.generate([query()])
    opened.unload()
    assert draft.text == "4"
    assert server.asked[0]["prompt"] == [ord(c) for c in "2+2="]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (reply("-0.1"), "told 0 ids of 1 tokens"),
        (reply("-0.1, -0.2").replace('"text"', '"token_ids": [52], "text"'), "gave 2 log-prob"),
    ],
)
def test_a_server_that_is_not_vllm(
    verifier: VllmServerEngine, server: FakeServer, body: str, message: str
) -> None:
    """Ids or log-probabilities that do not match the count are an error."""
    server.faults.append(saying(body))
    with pytest.raises(EngineError, match=message):
        verifier.generate([query()])


def draft(text: str, *, finished: bool = True) -> Draft:
    return Draft("XS", text, (1, 2), (-1.0, -1.0), finished, Usage(1, 2, 2), 0.1)


@pytest.mark.parametrize(
    ("text", "finished", "room", "tokens", "n_accepted"),
    [
        ("abc", True, 20, "abc\3", 4),
        ("abd", True, 20, "abd", 2),
        ("ab", True, 20, "ab", 2),
        ("ab", False, 20, "ab", 2),
        ("abcd", True, 20, "abcd", 3),
        ("xyz", True, 20, "xyz", 0),
        ("", True, 20, "", 0),
        ("", False, 20, "", 0),
        ("abcd", True, 2, "ab", 2),
        ("abc", True, 3, "abc", 3),
    ],
)
def test_verify_and_continue(
    verifier: VllmServerEngine, text: str, finished: bool, room: int, tokens: str, n_accepted: int
) -> None:
    """Any draft: the accepted prefix is the common one, and going on from it gives the stage's own answer."""
    asked = query("say abc ", room)
    [alone] = verifier.generate([asked])
    [seen] = verifier.verify([asked], [draft(text, finished=finished)])
    assert seen.tokens == tuple(map(ord, tokens))
    assert (seen.stage, seen.drafter, seen.n_accepted) == ("S", "XS", n_accepted)
    assert seen.usage == Usage(n_prompt=8, n_decoded=0, n_passes=1, n_verified=len(tokens))
    expected = [ENDING if token == END else KNOWN for token in seen.tokens[:n_accepted]]
    assert list(seen.logprobs[:n_accepted]) == expected
    assert set(seen.logprobs[n_accepted:]) <= {STRANGE}
    [whole] = verifier.continue_([asked], [seen])
    assert (whole.text, whole.tokens, whole.logprobs, whole.finished) == (
        alone.text,
        alone.tokens,
        alone.logprobs,
        alone.finished,
    )
    n_left = len(alone.tokens) - n_accepted
    assert whole.usage == (Usage(8 + n_accepted, n_left, n_left) if n_left else NO_CALL)


def test_lenient_acceptance(verifier: VllmServerEngine) -> None:
    """With a tolerance a token is taken while it is probable enough beside the most probable one."""
    asked = [query("say abc ")]
    verifier.generate(asked)
    given = [draft("abx", finished=False)]
    n_accepted = []
    for ratio in (0.99, 1.01):
        tolerance = float(np.exp(STRANGE - KNOWN)) * ratio
        [seen] = verifier.verify(asked, given, Acceptance(tolerance=tolerance))
        n_accepted.append(seen.n_accepted)
    assert n_accepted == [3, 2]


def test_what_cannot_be_verified_here(verifier: VllmServerEngine) -> None:
    """Sampling and another stage's verification are refused."""
    asked, sampled = [query("say abc ")], Acceptance(Sampling(1.0, np.random.default_rng(0)))
    [seen] = verifier.verify(asked, [draft("ab", finished=False)])
    with pytest.raises(ConfigError, match="verifies greedily, not at temperature 1"):
        verifier.verify(asked, [draft("ab")], sampled)
    with pytest.raises(ConfigError, match="verifies greedily"):
        verifier.continue_(asked, [seen], sampled)
    with pytest.raises(ConfigError, match="'M' verified, so 'S' cannot continue"):
        verifier.continue_(asked, [replace(seen, stage="M")])


def test_only_counted_savings_are_claimed(verifier: VllmServerEngine, server: FakeServer) -> None:
    """Prompt tokens that the server found in its cache are not counted in a continuation."""
    server.caches = True
    asked = query("say abc ")
    verifier.generate([asked])
    [seen] = verifier.verify([asked], [draft("abx")])
    [whole] = verifier.continue_([asked], [seen])
    assert whole.usage == Usage(n_prompt=1, n_decoded=2, n_passes=2)


def test_a_verification_takes_one_request_for_a_completion(server: FakeServer) -> None:
    """Whatever has been seen before, the end of a draft is judged by what the server writes behind it."""
    opened = VllmServerEngine(stage(server.url, dialect="vllm"))
    [seen] = opened.verify([query("say abc ")], [draft("abc")])
    opened.unload()
    assert (seen.tokens[-1], seen.n_accepted, seen.text) == (END, 4, "abc")
    assert [(body["max_tokens"], body["echo"]) for body in server.asked] == [(1, True)]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"token_logprobs": [None], "top_logprobs": [None]}, "1 echoed and written tokens instead of 11"),
        ({"token_logprobs": [None] * 11, "top_logprobs": [None] * 11}, "has no log-probability"),
        ({"token_logprobs": [-1.0] * 11, "top_logprobs": [{}] * 11}, "has no log-probability"),
        ({"token_logprobs": [7.0] * 11, "top_logprobs": [{"a": -1.0}] * 11}, "log-probability 7.0"),
    ],
)
def test_a_senseless_echo(
    verifier: VllmServerEngine, server: FakeServer, body: dict[str, object], message: str
) -> None:
    """An echo that does not cover what was sent is an error."""
    choice = {"logprobs": body, "token_ids": [0], "finish_reason": "length"}
    server.faults.append(saying(json.dumps({"choices": [choice]})))
    with pytest.raises(EngineError, match=f"makes no sense: .*{message}"):
        verifier.verify([query("say abc ")], [draft("ab", finished=False)])


def test_an_end_behind_a_wrong_draft(verifier: VllmServerEngine) -> None:
    """Where the server would end behind a draft that it does not accept, the end is read, and no answer."""
    asked = query("say abc ")
    [seen] = verifier.verify([asked], [draft("ax!")])
    assert (seen.tokens[-1], seen.n_accepted, seen.complete, seen.text) == (END, 1, True, None)
    assert verifier.continue_([asked], [seen])[0].text == "abc"


def test_of_equally_probable_tokens_none_is_accepted(verifier: VllmServerEngine, server: FakeServer) -> None:
    """In a tie the server's own choice is not known, so that the answer goes on from before it."""
    server.tied = True
    asked = query("say abc ")
    [seen] = verifier.verify([asked], [draft("abd", finished=False)])
    assert seen.logprobs == (KNOWN, KNOWN, KNOWN)
    assert seen.n_accepted == 2
    assert verifier.continue_([asked], [seen])[0].text == "abc"


def test_a_prompt_is_tokenized_once(server: FakeServer) -> None:
    """Verifying, continuing and verifying another draft share the tokens of the prompt."""
    with opened(server, dialect="vllm") as verifier:
        for text in ("abx", "aby"):
            [seen] = verifier.verify([query("say abc ")], [draft(text)])
            verifier.continue_([query("say abc ")], [seen])
    asked = [body["prompt"] for body in server.tokenized if "prompt" in body]
    assert asked == ["say abc ", "say abc abx", "say abc aby"]
    assert len([body for body in server.tokenized if "tokens" in body]) == 3  # the prompt, and two answers


@pytest.mark.parametrize("text", ["abc</s>", "abc</s>abc", "</s>", "ab</s>c"])
@pytest.mark.parametrize("finished", [False, True])
def test_a_draft_that_spells_a_control_token(
    verifier: VllmServerEngine, text: str, *, finished: bool
) -> None:
    """What the server would read as an end is left out, so that the answer neither ends nor goes on there."""
    asked = query("say abc ")
    [alone] = verifier.generate([asked])
    [seen] = verifier.verify([asked], [draft(text, finished=finished)])
    assert END not in seen.tokens
    assert (seen.complete, seen.accepted, seen.text) == (False, False, None)
    [whole] = verifier.continue_([asked], [seen])
    assert (whole.text, whole.tokens, whole.finished) == (alone.text, alone.tokens, True)


@pytest.mark.parametrize(("context", "n_read"), [(100, 4), (13, 4), (12, 3), (10, 1), (9, 0), (8, 0)])
def test_a_draft_is_cut_where_the_context_ends(server: FakeServer, context: int, n_read: int) -> None:
    """The server needs room for the token that it writes; a draft with less is not complete."""
    server.context = context
    with opened(server, dialect="vllm") as verifier:
        [seen] = verifier.verify([query("say abc ")], [draft("abc")])
    assert (len(seen.tokens), seen.n_accepted) == (n_read, n_read)
    assert seen.accepted == (seen.text is not None) == (n_read == 4)
    assert len(server.asked[0]["prompt"]) == 8 + min(n_read, 3)


def test_a_seam_where_tokens_melt_together(server: FakeServer) -> None:
    """Where prompt and draft share a token, the draft is tokenized on its own."""
    server.melting = True
    with opened(server, dialect="vllm") as verifier:
        [seen] = verifier.verify([query("say abc ")], [draft("abc")])
    assert seen.tokens == (*map(ord, "abc"), END)
    assert [body["prompt"] for body in server.tokenized if "prompt" in body][-1] == "abc"


@pytest.mark.slow
def test_several_stop_tokens_at_once(server: FakeServer) -> None:
    """Queries whose answers end differently, in any order and many at a time: every answer as alone."""
    server.answers = {f"ask {i} ": "abcdefgh"[: i % 9] for i in range(40)}
    server.ends = {prompt: END + i % 3 for i, prompt in enumerate(server.answers)}
    try:
        asked = [query(prompt) for prompt in server.answers]
        with opened(server, dialect="vllm", concurrency=8) as verifier:
            alone = verifier.generate(asked)
            for cut in (0, 2, 9):
                seen = verifier.verify(asked, [draft(d.text[:cut]) for d in alone])
                assert [v.accepted for v in seen] == [len(d.text) <= cut for d in alone]
                whole = verifier.continue_(asked, seen)
                assert [(d.text, d.tokens, d.finished) for d in whole] == [
                    (d.text, d.tokens, d.finished) for d in alone
                ]
    finally:
        server.answers = dict(ANSWERS)


def test_a_prompt_that_fills_the_context(verifier: VllmServerEngine, server: FakeServer) -> None:
    """vLLM then speaks of max_tokens; it is the prompt that is too long."""
    words = "max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)"
    server.faults.append(refusing(400, json.dumps({"error": {"message": words, "param": "max_tokens"}})))
    with pytest.raises(PromptTooLongError):
        verifier.generate([query()])
