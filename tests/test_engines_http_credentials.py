"""An API key is used and never shown, whatever it is made of and wherever it was put."""

from __future__ import annotations

import html
import json
import logging
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asd.engines.http.credentials import Key, read_key, without_credentials
from asd.engines.http.engine import OpenAIEngine
from asd.engines.http.settings import OpenAISettings
from asd.errors import AsdError, ConfigError, EngineError, UnavailableError
from tests.fakeserver import FakeServer, refusing, serving
from tests.served import ANSWERS, chat, opened, query, reply, stage

KEY = 'sk-very"secret<&/\\0123456789é'
VARIABLE = "A_KEY"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    monkeypatch.setenv(VARIABLE, KEY)
    with serving(ANSWERS) as running:
        yield running


def shown(error: BaseException) -> str:
    """Everything that a person may see of an error."""
    chain: BaseException | None = error
    parts = ["".join(traceback.format_exception(error))]
    while chain is not None:
        parts += [str(chain), repr(chain)]
        chain = chain.__cause__
    return "\n".join(parts)


@pytest.mark.parametrize("around", ["{}\n", "{}\r\n", "  {}\t", "\n{}", "{}"])
def test_white_space_around_a_key_is_taken_off(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, around: str
) -> None:
    """A key that was read from a file with its line end is that key."""
    monkeypatch.setenv(VARIABLE, around.format(KEY))
    with opened(server, api_key_env=VARIABLE) as engine:
        engine.generate([query()])
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("", "which is empty"),
        (" \t\n", "which is empty"),
        ("sk-very\nsecret", "no HTTP header can carry"),
        ("sk-very\x00secret", "no HTTP header can carry"),
        ("sk-very\x1bsecret", "no HTTP header can carry"),
        ("sk-very\x7fsecret", "no HTTP header can carry"),
        ("sk-very\x85secret", "no HTTP header can carry"),
        ("\ufeffsk-very-secret", "no HTTP header can carry"),
        ("sk-very\u200bsecret", "no HTTP header can carry"),
        ("sk-very-\u2026secret", "no HTTP header can carry"),
        ("sk-very\udce9secret", "no HTTP header can carry"),
    ],
)
def test_a_value_that_is_no_key(monkeypatch: pytest.MonkeyPatch, value: str, why: str) -> None:
    """What no header can carry is refused when the stage is opened, by the name of its variable."""
    # as an environment may hold what os.environ of this platform would not take
    monkeypatch.setattr("asd.engines.http.credentials.os.environ", {VARIABLE: value})
    with pytest.raises(
        ConfigError, match=rf"stage 'S' .* environment variable {VARIABLE}, .*{why}"
    ) as caught:
        OpenAIEngine(stage("http://127.0.0.1:1/v1", api_key_env=VARIABLE))
    assert "secret" not in shown(caught.value)


@pytest.mark.parametrize("name", ["sk-very-secret-0123", "gsk_verysecret0123", "a key"])
def test_a_key_given_as_the_name_of_its_variable(name: str) -> None:
    """A ladder that holds the key itself is told so, without the key."""
    with pytest.raises(ConfigError, match="api_key_env") as caught:
        OpenAIEngine(stage("http://127.0.0.1:1/v1", api_key_env=name))
    assert name not in shown(caught.value)


@given(value=st.text(st.characters(exclude_characters="\x00"), min_size=8))
def test_any_value_is_a_key_or_refused(value: str) -> None:
    """A header can carry it and no text shows it, or it is refused by its variable's name alone."""
    message = ""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("asd.engines.http.credentials.os.environ", {VARIABLE: value})
        try:
            key = read_key("S", VARIABLE)
        except ConfigError as error:
            message = str(error)
    if message:
        assert VARIABLE in message
        assert not value.strip() or value.strip() not in message
        return
    [header] = key.headers.values()
    sent = header.decode("latin-1").removeprefix("Bearer ")
    assert sent == value.strip()
    assert sent not in repr(key)
    read_otherwise = sent.encode("latin-1").decode("utf-8", "replace"), sent.encode().decode("latin-1")
    in_addresses = quote(sent, safe=""), quote(sent, safe="").lower(), quote(sent), quote_plus(sent)
    for form in (sent, json.dumps(sent), html.escape(sent), repr(sent), *read_otherwise, *in_addresses):
        assert form not in key.scrubbed(f"so you said {form} did you") or form in '"***"'


ECHOES: list[Callable[[str], tuple[int, str, dict[str, str]]]] = [
    lambda key: (401, f"wrong key {key}", {}),
    lambda key: (401, json.dumps({"error": {"message": f"Incorrect API key provided: {key}."}}), {}),
    lambda key: (500, f"<html><body>Bearer {html.escape(key)}</body></html>", {}),
    lambda key: (400, "x" * 390 + key, {}),
    lambda key: (200, json.dumps({"error": {"message": f"{key} has no credit", "code": 429}}), {}),
    lambda key: (200, json.dumps({"error": {key: "?"}}), {}),
    lambda key: (200, f"data: {key}", {}),
    lambda key: (200, f"<html>{html.escape(key)}</html>", {}),
    lambda key: (200, chat({"refusal": f"not with {key}"}), {}),
    lambda key: (200, reply(usage={"prompt_tokens": 1, "completion_tokens": key}), {}),
]


@pytest.mark.parametrize("echo", ECHOES)
def test_a_server_that_repeats_the_key(
    server: FakeServer,
    caplog: pytest.LogCaptureFixture,
    echo: Callable[[str], tuple[int, str, dict[str, str]]],
) -> None:
    """Errors, their causes, reprs and logs do not hold the key, however the server writes it."""
    caplog.set_level(logging.DEBUG)
    status, body, headers = echo(KEY)
    server.faults.extend([refusing(status, body, **headers)] * 4)
    with opened(server, chat=True, api_key_env=VARIABLE) as engine:
        with pytest.raises(EngineError) as caught:
            engine.generate([query()])
        seen = [shown(caught.value), repr(engine), repr(engine.settings), repr(vars(engine))]
    seen += [str(vars(record)) for record in caplog.records]
    assert caplog.records
    forms = (KEY, json.dumps(KEY)[1:-1], html.escape(KEY), quote(KEY, safe=""), repr(KEY)[1:-1], KEY[:8])
    assert not [form for form in forms for text in seen if form in text]


def test_a_list_of_models_that_repeats_the_key(server: FakeServer) -> None:
    """In what the server says it serves, which goes into messages and records."""
    with opened(server, api_key_env=VARIABLE) as engine:
        server.models = [{"id": KEY}]
        with pytest.raises(EngineError, match=r"serves? 'tiny' but .*\*\*\*") as caught:
            engine.load()
        server.models = [{"id": "tiny", "root": f"/models/{KEY}"}]
        assert engine.revision == "served:/models/***"
    assert KEY not in shown(caught.value)


def test_a_redirect_that_repeats_the_key(server: FakeServer) -> None:
    """Neither in the path nor in the query of where it leads to."""
    server.faults.append(refusing(307, "", Location=f"https://h/{quote(KEY, safe='')}/v1?key={quote(KEY)}"))
    with opened(server, api_key_env=VARIABLE) as engine, pytest.raises(EngineError) as caught:
        engine.generate([query()])
    assert "redirected to https://h/***/v1" in str(caught.value)
    assert "secret" not in shown(caught.value)


def test_a_listener_that_is_no_server_repeats_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Something that sends back what it gets is no server, which is said without the key."""
    monkeypatch.setenv(VARIABLE, "sk-very-secret")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def parrot() -> None:
            for _ in range(2):
                connection, _ = listener.accept()
                with connection:
                    connection.sendall(connection.recv(65536).split(b"\r\n", 1)[1])

        thread = threading.Thread(target=parrot)
        thread.start()
        engine = OpenAIEngine(
            stage(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", api_key_env=VARIABLE, attempts=2)
        )
        with pytest.raises(UnavailableError, match="cannot be reached") as caught:
            engine.generate([query()])
        engine.unload()
        thread.join()
    assert "secret" not in shown(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://me:secret@gpu-3/v1",
        "http://secret@gpu-3/v1",
        "http://me:sec/secret@gpu-3/v1",
        "http://me:secret@[::1/v1",
        "me:secret@gpu-3/v1",
        "ftp://me:secret@gpu-3/v1",
        "http://gpu-3/v1?key=secret",
        "http://gpu-3/v1#secret",
        "http://gpu-3:99999/v1?secret",
        "http://me:secret@gpu-3:port/v1",
    ],
)
def test_credentials_in_an_address(url: str) -> None:
    """They are refused, and in no part of the message."""
    with pytest.raises(ConfigError, match=r"stage 'S': .*base_url") as caught:
        OpenAISettings.of(stage(url))
    assert "secret" not in shown(caught.value)


@pytest.mark.parametrize("options", [{"api_key": "secret"}, {"headers": {"x-key": "secret"}}])
def test_credentials_in_unknown_options(options: dict[str, object]) -> None:
    """An option that does not exist is named without its value."""
    with pytest.raises(ConfigError, match="unknown field") as caught:
        OpenAISettings.of(stage("http://h/v1", **options))
    assert "secret" not in shown(caught.value)


@pytest.mark.parametrize(
    "proxy", ["http://me:sec/secret@h:1", "ftp://me:secret@h", "http://me:secret@h:port"]
)
def test_credentials_of_a_proxy(server: FakeServer, monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    """A proxy that cannot be used is an error about the environment, without the proxy's password."""
    monkeypatch.setenv("HTTP_PROXY", proxy)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with opened(server) as engine, pytest.raises(AsdError, match="HTTP_PROXY") as caught:
        engine.generate([query()])
    assert "secret" not in shown(caught.value)


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("http://h/v1", "http://h/v1"),
        ("http://me:pw@h/v1?a=b#c", "http://***@h/v1"),
        ("me:p@w@h", "***@h"),
        ("http://h/v1?a@b", "http://h/v1"),
    ],
)
def test_an_address_to_be_shown(url: str, seen: str) -> None:
    """User, password, query and fragment are left out."""
    assert without_credentials(url) == seen


def test_no_key() -> None:
    """A stage without a key sends no header, and hides nothing."""
    assert Key().headers == {}
    assert Key().scrubbed("as it is") == "as it is"
    assert read_key("S", None).headers == {}
