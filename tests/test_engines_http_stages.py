"""The engine against a server on loopback that speaks the protocol and breaks on demand."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

import numpy as np
import pytest
import stamina

from asd.engines import Sampling, Verifier
from asd.engines.http.client import OpenAISettings
from asd.engines.http.engine import OpenAIEngine, fan_out
from asd.engines.http.stages import open_stage
from asd.engines.registry import open_engines
from asd.engines.revisions import revisions
from asd.errors import (
    ConfigError,
    EngineError,
    PartialBatchError,
    PromptTooLongError,
    UnavailableError,
)
from asd.ladder import Ladder, Stage
from asd.prices import Prices
from asd.types import Query, Usage
from tests.fakeserver import (
    ENDING,
    KNOWN,
    FakeServer,
    Fault,
    cutting,
    dropping,
    hanging,
    refusing,
    saying,
    serving,
)
from tests.served import ANSWERS, query, stage

KEY = "sk-very-secret-0123456789"
COUNTS = '{"prompt_tokens": 4, "completion_tokens": 1}'


def reply(logprobs: str = "-0.1", usage: str = COUNTS, choices: str | None = None) -> str:
    """The text of a reply, its parts as given, whether they make sense or not."""
    one = '{"text": "4", "finish_reason": "stop", "logprobs": {"token_logprobs": [' + logprobs + "]}}"
    return '{"choices": [' + (one if choices is None else choices) + '], "usage": ' + usage + "}"


@pytest.fixture(scope="module")
def running() -> Iterator[FakeServer]:
    with serving(ANSWERS) as server:
        yield server


@pytest.fixture
def server(running: FakeServer) -> FakeServer:
    running.reset()
    return running


@pytest.fixture(autouse=True)
def no_pause() -> Iterator[None]:
    """Retries follow at once, as often as the engine wants."""
    with stamina.set_testing(True, attempts=4, cap=True):
        yield


@pytest.fixture(scope="module")
def engine(running: FakeServer) -> Iterator[OpenAIEngine]:
    opened = OpenAIEngine(stage(running.url))
    yield opened
    opened.unload()


def test_an_answer(engine: OpenAIEngine) -> None:
    """Text, log-probabilities, end and counts are the server's; ids it does not tell."""
    [draft] = engine.generate([query()])
    assert (draft.stage, draft.text, draft.tokens, draft.finished) == ("S", "4", (), True)
    assert draft.logprobs == (KNOWN, ENDING)
    assert draft.usage == Usage(n_prompt=4, n_decoded=2, n_passes=2)
    assert draft.seconds > 0


def test_greedy_is_asked_for(engine: OpenAIEngine, server: FakeServer) -> None:
    """The request names model, room and greedy decoding, and nothing that other servers do not know."""
    engine.generate([query(room=7)])
    assert server.asked == [
        {"model": "tiny", "prompt": "2+2=", "max_tokens": 7, "temperature": 0.0, "top_p": 1.0, "logprobs": 1}
    ]


def test_an_answer_cut_at_its_room(engine: OpenAIEngine) -> None:
    """An answer that ran out of room is not finished."""
    [draft] = engine.generate([query("say abc ", room=2)])
    assert (draft.text, draft.finished, len(draft.logprobs)) == ("ab", False, 2)


def test_a_batch_keeps_its_order(engine: OpenAIEngine) -> None:
    """Drafts come in the order of the queries, whichever request is done first."""
    prompts = list(ANSWERS) * 5
    assert [d.text for d in engine.generate([query(p) for p in prompts])] == [ANSWERS[p] for p in prompts]
    assert engine.generate([]) == []


def test_a_chat_template_is_a_chat(server: FakeServer) -> None:
    """A stage with a chat template asks for a chat completion; text, end and counts are read from it."""
    opened = OpenAIEngine(stage(server.url, chat=True))
    [draft] = opened.generate([query()])
    opened.unload()
    assert (draft.text, draft.logprobs, draft.finished) == ("4", (KNOWN, ENDING), True)
    assert draft.usage.n_decoded == 2
    assert server.asked[0]["messages"] == [{"role": "user", "content": "2+2="}]


def test_without_log_probabilities_the_draft_says_so(server: FakeServer, engine: OpenAIEngine) -> None:
    """A server that gives none leaves the field empty; the counts are there all the same."""
    server.logprobs = False
    [draft] = engine.generate([query()])
    assert draft.logprobs == ()
    assert draft.usage.n_decoded == 2


def test_log_probabilities_need_not_be_asked_for(server: FakeServer) -> None:
    """With logprobs = false the request does not mention them."""
    opened = OpenAIEngine(stage(server.url, logprobs=False))
    [draft] = opened.generate([query()])
    opened.unload()
    assert draft.logprobs == ()
    assert "logprobs" not in server.asked[0]


def test_sampling_has_a_seed_a_query(engine: OpenAIEngine, server: FakeServer) -> None:
    """Seeds come from the generator, one a query, so that a run can be repeated."""
    for _ in range(2):
        engine.generate([query(), query()], Sampling(0.7, np.random.default_rng(3)))
    seeds = [(body["temperature"], body["seed"]) for body in server.asked]
    assert sorted(seeds[:2]) == sorted(seeds[2:])
    assert len(set(seeds)) == 2


@pytest.mark.parametrize(
    ("asked", "sampling", "message"),
    [
        (query(""), Sampling(), "empty prompt"),
        (query(room=0), Sampling(), "max_new_tokens must be at least 1"),
        (query(), Sampling(-1.0), "temperature must be"),
        (query(), Sampling(1.0), "needs a random generator"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_sent(
    engine: OpenAIEngine, server: FakeServer, asked: Query, sampling: Sampling, message: str
) -> None:
    """Empty prompts, no room and impossible sampling raise without a request."""
    with pytest.raises(ConfigError, match=message):
        engine.generate([asked], sampling)
    assert server.asked == []


def test_connections_are_reused_and_limited(server: FakeServer) -> None:
    """Twelve queries, three at a time: never more in flight, and no more connections than that."""
    opened = OpenAIEngine(stage(server.url, concurrency=3))
    server.delay = 0.02
    opened.generate([query()] * 12)
    opened.unload()
    assert server.most_in_flight == 3
    assert server.connections <= 3


def test_an_unloaded_engine_answers_again(engine: OpenAIEngine, server: FakeServer) -> None:
    """Unloading gives the connections back; the next batch opens new ones."""
    engine.unload()
    engine.generate([query()])
    engine.unload()
    engine.unload()
    assert engine.generate([query()])[0].text == "4"
    assert server.connections == 2


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_what_passes_is_retried(engine: OpenAIEngine, server: FakeServer, status: int) -> None:
    """Two refusals of the passing kind, then an answer."""
    server.faults.extend([refusing(status), refusing(status)])
    assert engine.generate([query()])[0].text == "4"
    assert len(server.asked) == 3


@pytest.mark.parametrize("fault", [dropping, cutting])
def test_broken_connections_are_retried(engine: OpenAIEngine, server: FakeServer, fault: Fault) -> None:
    """A connection that breaks before or within the reply is opened again."""
    server.faults.append(fault)
    assert engine.generate([query()])[0].text == "4"
    assert len(server.asked) == 2


def test_retries_end(engine: OpenAIEngine, server: FakeServer) -> None:
    """A server that keeps failing is given up after the attempts allowed, by name."""
    server.faults.extend([refusing(500, "boom")] * 9)
    with pytest.raises(UnavailableError, match=rf"stage 'S' at {server.url} answered 500: boom"):
        engine.generate([query()])
    assert len(server.asked) == 4


def test_a_retry_is_told_in_words(
    engine: OpenAIEngine, server: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    """What the server said and when it is asked again, once a retry; other programs' logs stay."""
    server.faults.extend([refusing(500, "boom")] * 2)
    engine.generate([query()])
    said = [record.getMessage() for record in caplog.records if record.name == "stamina"]
    assert said == [f"stage 'S' at {server.url} answered 500: boom; next attempt in 0.0 s"] * 2
    caplog.clear()
    with pytest.raises(OSError, match="own"), stamina.set_testing(True, attempts=2):
        stamina.retry(on=OSError)(_fails)()
    assert [record.getMessage() for record in caplog.records] == ["stamina.retry_scheduled"]


def _fails() -> None:
    raise OSError("own")


def test_as_long_as_the_server_asks_for(server: FakeServer, engine: OpenAIEngine) -> None:
    """Retry-After in seconds is waited for."""
    server.faults.append(refusing(429, Retry_After="1"))
    start = time.monotonic()
    with stamina.set_testing(False):
        assert engine.generate([query()])[0].text == "4"
    assert time.monotonic() - start >= 1.0


@pytest.mark.parametrize("after", ["3600", format_datetime(datetime(2100, 1, 1, tzinfo=UTC), usegmt=True)])
def test_not_longer_than_patience(server: FakeServer, engine: OpenAIEngine, after: str) -> None:
    """A wait longer than our patience, in seconds or as a date, is not begun."""
    server.faults.append(refusing(503, Retry_After=after))
    with pytest.raises(UnavailableError, match="answered 503"):
        engine.generate([query()])
    assert len(server.asked) == 1


def test_a_hanging_server_is_given_up(server: FakeServer) -> None:
    """No reply within the time limit is an error, and the request is not repeated."""
    server.faults.append(hanging(1.0))
    opened = OpenAIEngine(stage(server.url, timeout_s=0.2))
    with pytest.raises(UnavailableError, match=r"stage 'S' at .* did not answer in time"):
        opened.generate([query()])
    opened.unload()
    assert len(server.asked) == 1


def test_a_server_that_is_not_there() -> None:
    """A refused connection names stage and server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    opened = OpenAIEngine(stage(f"http://127.0.0.1:{port}/v1"))
    with pytest.raises(UnavailableError, match=f"stage 'S' at http://127.0.0.1:{port}/v1 cannot be reached"):
        opened.generate([query()])
    opened.unload()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("{not json", "malformed"),
        ('{"choices": [', "malformed"),
        (b"\xff\xfe\x00", "malformed"),
        ("[1, 2]", "malformed"),
        (reply("NaN"), "makes no sense: log-probability nan"),
        (reply('"-0.1"'), "malformed"),
        (reply("1e999"), "makes no sense: log-probability inf"),
        (reply("0.5"), "makes no sense: log-probability 0.5"),
        (reply(usage='{"prompt_tokens": 4, "completion_tokens": -1}'), "a count of -1 tokens"),
        (reply(usage='{"prompt_tokens": 4, "completion_tokens": 1.5}'), "a count of 1.5 tokens"),
        (reply(choices=""), "0 choices instead of 1"),
        ('{"choices": null}', "0 choices instead of 1"),
        ('{"object": "text_completion"}', "0 choices instead of 1"),
        ('{"choices": {"text": "4"}}', "malformed"),
        (reply(choices='{"finish_reason": "stop"}'), "neither text nor message"),
        (reply(choices='{"text": "a"}, {"text": "b"}'), "2 choices instead of 1"),
    ],
)
def test_nonsense_is_an_error(
    engine: OpenAIEngine, server: FakeServer, body: str | bytes, message: str
) -> None:
    """Malformed, cut or senseless replies raise, naming stage and server, and are not asked for again."""
    server.faults.append(saying(body))
    with pytest.raises(EngineError, match=rf"(?s)stage 'S' at {server.url} returned.*({message})"):
        engine.generate([query()])
    assert len(server.asked) == 1


def test_a_refusal_is_final(engine: OpenAIEngine, server: FakeServer) -> None:
    """A request that the server will never accept is not repeated."""
    server.faults.append(refusing(400, "logprobs are not supported"))
    with pytest.raises(EngineError, match="answered 400: logprobs are not supported"):
        engine.generate([query()])
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "words",
    [
        '{"error": {"message": "too long", "code": "context_length_exceeded"}}',
        "This model's maximum context length is 512 tokens. However, you requested 600 tokens",
    ],
)
def test_a_prompt_too_long(engine: OpenAIEngine, server: FakeServer, words: str) -> None:
    """What servers say of a prompt that does not fit is that error and no other."""
    server.faults.append(refusing(400, words))
    with pytest.raises(PromptTooLongError, match="shorten the prompt"):
        engine.generate([query()])


def test_what_is_done_is_kept(engine: OpenAIEngine, server: FakeServer) -> None:
    """Where some queries of a batch fail, the error holds the drafts of the others and what was wrong."""
    server.faults.append(saying("{"))
    with pytest.raises(PartialBatchError, match=r"1 of 3 queries: .*malformed") as caught:
        engine.generate([query(prompt) for prompt in ANSWERS])
    [failed] = caught.value.failed
    texts = list(ANSWERS.values())
    assert {i: draft.text for i, draft in caught.value.done.items()} == {
        i: texts[i] for i in range(3) if i != failed
    }


def test_a_server_that_is_gone_is_not_asked_to_the_end() -> None:
    """Once the server is not there, what has not begun never begins, and fails for the same reason."""
    tried = []

    def call(i: int) -> int:
        tried.append(i)
        time.sleep(0.01)
        raise UnavailableError("gone")

    with pytest.raises(UnavailableError, match="gone"):
        fan_out(call, [query()] * 50, concurrency=2)
    assert len(tried) < 10


def test_one_bad_reply_stops_nobody() -> None:
    """A query that fails by itself leaves the others to be asked."""

    def call(i: int) -> int:
        if i == 0:
            raise EngineError("nonsense")
        return i

    with pytest.raises(PartialBatchError, match="1 of 20") as caught:
        fan_out(call, [query()] * 20, concurrency=1)
    assert caught.value.done == {i: i for i in range(1, 20)}


def test_the_key_is_sent_and_never_shown(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The key goes into the header; errors, reprs and logs do not hold it, even if the server repeats it."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("A_KEY", KEY)
    opened = OpenAIEngine(stage(server.url, api_key_env="A_KEY"))
    server.faults.extend([refusing(500), refusing(401, f"wrong key {KEY}")])
    with pytest.raises(EngineError, match=r"answered 401: wrong key \*\*\*") as caught:
        opened.generate([query()])
    opened.unload()
    assert server.headers[-1]["Authorization"] == f"Bearer {KEY}"
    shown = [
        str(caught.value),
        repr(caught.value),
        repr(caught.value.__cause__),
        repr(opened),
        repr(opened.settings),
    ]
    shown += [str(vars(record)) for record in caplog.records]
    assert caplog.records
    assert not [text for text in shown if KEY in text]


def test_a_key_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is not set, or empty, is an error before anything is sent."""
    for value in (None, ""):
        monkeypatch.delenv("A_KEY", raising=False)
        if value is not None:
            monkeypatch.setenv("A_KEY", value)
        with pytest.raises(ConfigError, match="'S' wants its API key in the environment variable A_KEY"):
            OpenAIEngine(stage("http://127.0.0.1:1/v1", api_key_env="A_KEY"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "base_url"),
        ({"base_url": "gpu-3:8000"}, "must begin with http"),
        ({"base_url": "http://me:secret@gpu-3/v1"}, "credentials"),
        ({"base_url": "http://h:65536/v1"}, "must begin with http"),
        ({"base_url": "http://h/v1", "time": 3}, "`time`; the known fields are base_url, dialect, model,"),
        ({"base_url": "http://h/v1", "dialect": "tgi"}, "dialect"),
        ({"base_url": "http://h/v1", "timeout_s": 0.0}, "timeout_s must be a positive"),
        ({"base_url": "http://h/v1", "patience_s": float("nan")}, "patience_s must be a positive"),
        ({"base_url": "http://h/v1", "attempts": 0}, "attempts must be at least 1"),
        ({"base_url": "http://h/v1", "concurrency": 0}, "concurrency must be at least 1"),
    ],
)
def test_wrong_options(options: dict[str, object], message: str) -> None:
    """Missing, unknown and impossible options name the stage and themselves; a password is not repeated."""
    wrong = Stage("S", "tiny", Prices(1, 0, 0), options={"openai": options})
    with pytest.raises(ConfigError, match=rf"(?s)stage 'S': .*{message}") as caught:
        OpenAISettings.of(wrong)
    assert "secret" not in str(caught.value)


def test_loading_makes_sure_of_the_model(server: FakeServer, engine: OpenAIEngine) -> None:
    """Loading asks what the server serves; the revision is what it says; another model is an error."""
    engine.load()
    engine.synchronise()
    assert engine.revision == "served:/models/tiny"
    other = OpenAIEngine(stage(server.url, model="huge"))
    with pytest.raises(EngineError, match=r"does not serve 'huge' but \['tiny'\]"):
        other.load()
    other.unload()


def test_the_dialect_chooses_the_engine() -> None:
    """A stage opens as one that answers, or with vLLM's dialect as one that verifies too."""
    for dialect, verifies in (("openai", False), ("vllm", True)):
        opened = open_stage(stage("http://127.0.0.1:1/v1", dialect=dialect), "cuda:7")
        assert isinstance(opened, Verifier) == verifies
        opened.unload()


def test_the_revision_of_a_served_stage_is_what_the_server_says(server: FakeServer) -> None:
    """Whether the stage or the run names the engine, the server is asked and not the disk or the hub."""
    own = replace(stage(server.url), engine="openai")
    assert revisions(Ladder("one", (own,), "declared", "made up")) == {"S": "served:/models/tiny"}
    other = Ladder("one", (stage(server.url),), "declared", "made up")
    assert revisions(other, "openai") == {"S": "served:/models/tiny"}


def test_a_ladder_file_names_engine_and_server(server: FakeServer, tmp_path: Path) -> None:
    """From TOML to an answer: the stage's engine and its base_url are all it takes."""
    file = tmp_path / "ladder.toml"
    file.write_text(
        'name = "served"\nprice_unit = "declared"\nprices_measured = "made up"\n'
        '[[stages]]\nname = "S"\nmodel = "tiny"\nengine = "openai"\n'
        f'options.openai = {{ base_url = "{server.url}", dialect = "vllm" }}\n'
        "prices = { per_call = 1.0, per_prompt_token = 0.0, per_decoded_token = 0.0 }\n"
    )
    opened = open_engines(Ladder.load(file))["S"]
    assert opened.generate([query()])[0].text == "4"
    opened.unload()
    opened.unload()
