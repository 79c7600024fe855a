"""A server on loopback that speaks the OpenAI protocol (and vLLM's additions) and breaks on demand.

Its model knows its answers by prompt, writes one character a token (the id is the code point) and ends with
token 3, which text spells "</s>". Scripted tokens have log-probability -0.1 (the end: -0.2), others -5.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

END = 3
SPELT = "</s>"
KNOWN, ENDING, STRANGE = -0.1, -0.2, -5.0

Fault = Callable[["_Handler"], None] | None
"""Done instead of an answer; None: nothing is wrong with this request."""


class FakeServer(ThreadingHTTPServer):
    """Serves `answers`; the next requests for a completion meet the `faults`, one each.

    Attributes:
        asked: Bodies of all requests for a completion, in the order of arrival.
        tokenized: Bodies of all requests to tokenize or to put tokens together.
        models: What `/models` lists.
        connections: How many were opened.
        most_in_flight: Most completions asked for at one time.
        delay: Seconds a completion takes.
        caches: Tell of every prompt but its last token that it was cached.
        logprobs: Give them.
        tied: Any token is as probable as the scripted one.
        ends: The token that ends the answer to a prompt, where it is not token 3.
        melting: The last character of a prompt and the first of what follows are one token.
        context: Number of positions; None: not told.
        dead: Drops every connection.
        gauges: What `/metrics` says; None: what every other path does.
        drip_s: Seconds before each of its bytes; 0: it says all at once.
    """

    daemon_threads = True

    def __init__(self, answers: Mapping[str, str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers = dict(answers)
        self.lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Back to the beginning, running on."""
        self.faults: deque[Fault] = deque()
        self.asked: list[dict[str, Any]] = []
        self.tokenized: list[dict[str, Any]] = []
        self.models: list[dict[str, Any]] | None = [{"id": "tiny", "root": "/models/tiny"}]
        self.headers: list[Mapping[str, str]] = []
        self.connections = 0
        self.in_flight = self.most_in_flight = 0
        self.delay = 0.0
        self.caches = False
        self.logprobs = True
        self.tied = self.melting = False
        self.ends: dict[str, int] = {}
        self.context: int | None = None
        self.dead = False
        self.gauges: str | None = None
        self.drip_s = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def get_request(self) -> tuple[socket.socket, Any]:
        self.connections += 1
        return super().get_request()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


@contextmanager
def serving(answers: Mapping[str, str]) -> Iterator[FakeServer]:
    server = FakeServer(answers)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def refusing(status: int, words: str = "no", **headers: str) -> Fault:
    return lambda handler: handler.reply(status, words.encode(), **headers)


def saying(body: str | bytes) -> Fault:
    return lambda handler: handler.reply(200, body.encode() if isinstance(body, str) else body)


def hanging(seconds: float) -> Fault:
    return lambda _: time.sleep(seconds)


def cutting(handler: _Handler) -> None:
    """Half of a reply, then the connection is gone."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.close_connection = True


def dropping(handler: _Handler) -> None:
    """The connection is gone before a word is said."""
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def dying(handler: _Handler) -> None:
    """This connection is gone, and with it the server."""
    handler.server.dead = True
    dropping(handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet a reply: two would wait for each other
    server: FakeServer

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def reply(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        if self.path == "/metrics" and self.server.gauges is not None:
            if self.server.drip_s:
                self._drip(self.server.gauges.encode())
            else:
                self.reply(200, self.server.gauges.encode())
            return
        self.reply(200, json.dumps({"object": "list", "data": self.server.models}).encode())

    def _drip(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.close_connection = True
        with suppress(OSError):  # who asked has gone
            for byte in body:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(self.server.drip_s)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path in ("/tokenize", "/detokenize"):
            self.server.tokenized.append(body)
            self.reply(200, json.dumps(self._tokenizer(body)).encode())
            return
        server = self.server
        with server.lock:
            server.asked.append(body)
            server.headers.append(dict(self.headers))
            fault = server.faults.popleft() if server.faults else None
            fault = dropping if server.dead else fault
            server.in_flight += 1
            server.most_in_flight = max(server.most_in_flight, server.in_flight)
        time.sleep(server.delay)
        try:
            if fault is not None:
                fault(self)
            else:
                self.reply(200, json.dumps(self._complete(body)).encode())
        finally:
            with server.lock:
                server.in_flight -= 1

    def _tokenizer(self, body: dict[str, Any]) -> dict[str, Any]:
        if "tokens" in body:
            return {"prompt": "".join(map(chr, body["tokens"])).replace(chr(END), SPELT)}
        text = body["messages"][0]["content"] if "messages" in body else body["prompt"]
        tokens = [ord(c) for c in text.replace(SPELT, chr(END))]
        prompt = next((p for p in self.server.answers if text.startswith(p) and text != p), "")
        if self.server.melting and prompt:
            tokens[len(prompt) - 1 : len(prompt) + 1] = [0x1F600]
        names = [SPELT if token == END else chr(token) for token in tokens]
        return {"tokens": tokens, "token_strs": names, "max_model_len": self.server.context}

    def _complete(self, body: dict[str, Any]) -> dict[str, Any]:
        given = body["messages"][0]["content"] if "messages" in body else body["prompt"]
        ids = given if isinstance(given, list) else [ord(c) for c in given]
        if body.get("echo"):
            return self._echo(ids)
        prompt, script = self._find(ids)
        tokens = script[len(ids) - len(prompt) :][: body["max_tokens"]]
        ends = tokens[-1:] == script[-1:]
        logprobs = [ENDING if token == script[-1] else KNOWN for token in tokens]
        choice: dict[str, Any] = {"finish_reason": "stop" if ends else "length"}
        text = "".join(map(chr, tokens[: len(tokens) - ends]))
        stops = [(n, s) for n in range(len(text) + 1) for s in body.get("stop", ()) if text[:n].endswith(s)]
        if stops:  # the one that is whole first
            n, stopped = stops[0]
            tokens, logprobs, text = tokens[:n], logprobs[:n], text[: n - len(stopped)]
            choice |= {"finish_reason": "stop", "stop_reason": stopped}
        choice["token_ids" if body.get("return_token_ids") else "index"] = tokens
        wanted = self.server.logprobs and body.get("logprobs")
        if "messages" in body:
            choice["message"] = {"role": "assistant", "content": text}
            choice["logprobs"] = (
                {"content": [{"token": "?", "logprob": p} for p in logprobs]} if wanted else None
            )
        else:
            choice["text"] = text
            choice["logprobs"] = {"token_logprobs": logprobs} if wanted else None
        usage: dict[str, Any] = {"prompt_tokens": len(ids), "completion_tokens": len(tokens)}
        if self.server.caches:
            usage["prompt_tokens_details"] = {"cached_tokens": len(ids) - 1}
        return {"choices": [choice], "usage": usage}

    def _echo(self, ids: list[int]) -> dict[str, Any]:
        """The first token has no log-probability, as none comes before it; one more token is written.

        Behind what is not scripted that is the end where it ends in "!".
        """
        prompt, script = self._find(ids)
        draft = ids[len(prompt) :]
        is_scripted = draft == script[: len(draft)] and len(draft) < len(script)
        following = script[len(draft)] if is_scripted else script[-1] if draft[-1:] == [ord("!")] else 0
        token_logprobs: list[float | None] = [None] + [KNOWN] * (len(prompt) - 1)
        top_logprobs: list[dict[str, float] | None] = [None] + [{"token_id:0": KNOWN}] * (len(prompt) - 1)
        for i, token in enumerate([*draft, following]):
            best = script[i] if draft[:i] == script[:i] and i < len(script) else 0
            own = (ENDING if token == script[-1] else KNOWN) if token == best or self.server.tied else STRANGE
            token_logprobs.append(own)
            top_logprobs.append(
                {f"token_id:{token}": own, f"token_id:{best}": own if token == best else KNOWN}
                | {"token_id:1": STRANGE}
            )
        choice = {
            "text": "",
            "token_ids": [following],
            "finish_reason": "stop" if following == script[-1] else "length",
            "logprobs": {"token_logprobs": token_logprobs, "top_logprobs": top_logprobs},
        }
        return {"choices": [choice], "usage": {"prompt_tokens": len(ids), "completion_tokens": 1}}

    def _find(self, ids: list[int]) -> tuple[str, list[int]]:
        """The prompt that these ids begin with, and the ids of its answer."""
        text = "".join(map(chr, ids))
        prompt = max((p for p in self.server.answers if text.startswith(p)), key=len)
        return prompt, [*map(ord, self.server.answers[prompt]), self.server.ends.get(prompt, END)]
