"""One OpenAI-compatible server over HTTP: a request in, a checked reply out.

Connections are kept and reused (httpx2). What passes by itself is retried (stamina): 429 and 5xx, as a status
or as the code of an error within a reply of status 200, after as long as the server asks for; broken
connections after a growing pause. A request that timed out is not repeated: the server may still be working
on it. Whatever remains is an `EngineError` that names stage and server (`asd.engines.http.refusals` says
which).

Requests run on an event loop in a thread of its own, so that one that is cancelled (`asd.cancellation`) ends
wherever it waits: its connection is closed, by which servers know that nobody wants the answer.

The API key goes into one header of the connection; it is in no message, record or repr
(`asd.engines.http.credentials`). Bytes and JSON only; what the fields mean is `asd.engines.http.schema`'
business.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import CancelledError
from contextlib import ExitStack
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple, TypeVar

import httpx2
import msgspec
import stamina
from anyio.from_thread import BlockingPortal, start_blocking_portal

from asd.cancellation import token_of_call
from asd.engines.http.credentials import read_key
from asd.engines.http.refusals import Trouble, not_json, trouble_in, words_of
from asd.engines.http.settings import ASKED, OpenAISettings
from asd.errors import CallCancelledError, ConfigError, EngineError, UnavailableError

__all__ = ["OpenAISettings", "ServerClient"]

T = TypeVar("T")

CONNECT_TIMEOUT_S = 10.0
EXCERPT = 400
"""Characters of a server's own words that go into a message."""


class _Connections(NamedTuple):
    """The connections, and the thread that they live in."""

    client: httpx2.AsyncClient
    portal: BlockingPortal
    ending: ExitStack


class ServerClient:
    """A connection pool to the server of one stage; safe to use from several threads.

    Args:
        stage_name: For messages.
        settings: Where the server is and how patient to be.

    Raises:
        ConfigError: The variable that should hold the key is not set, or holds no key.
    """

    def __init__(self, stage_name: str, settings: OpenAISettings) -> None:
        self.where = f"stage {stage_name!r} at {settings.base_url}"
        self._settings = settings
        self._key = read_key(stage_name, settings.api_key_env)
        self._retried = stamina.retry(
            on=_when_again(settings.patience_s), attempts=settings.attempts, timeout=settings.patience_s
        )
        self._url = httpx2.URL(settings.base_url.rstrip("/") + "/")
        self._opening = threading.Lock()
        self._opened: _Connections | None = None

    def close(self) -> None:
        """Give the connections back; the next request opens new ones."""
        with self._opening:
            opened, self._opened = self._opened, None
        if opened is not None:
            opened.portal.call(opened.client.aclose)
            opened.portal.call(opened.portal.stop, True)
            opened.ending.close()

    def excerpt(self, words: str) -> str:
        """The beginning of what a server said, as far as it may be shown."""
        return self._key.scrubbed(words)[:EXCERPT]

    def get(self, path: str, reply: type[T]) -> T:
        """The reply to a GET of `path`, relative to the base URL; raises as `post` does."""
        return self._ask("GET", path, None, reply, ())

    def post(self, path: str, body: Mapping[str, Any], reply: type[T], *, extended: bool = False) -> T:
        """The reply to a POST of `body` as JSON.

        `extended`: the query itself has put fields there; what the server objects to is then the query's.

        Raises:
            RefusedError: The server will never answer this query.
            PromptTooLongError: The server says that the prompt does not fit its context.
            UnavailableError: No reply in time, no connection, or a server in trouble, after all attempts.
            EngineError: A request that the server does not take, or a reply that is not what it should be.
        """
        content = msgspec.json.encode(body)
        return self._ask("POST", path, content, reply, None if extended else body.keys() - set(ASKED))

    def _open(self) -> _Connections:
        with self._opening:
            if self._opened is None:
                client, ending = self._new_client(), ExitStack()
                portal = ending.enter_context(start_blocking_portal(name="asd-http"))
                self._opened = _Connections(client, portal, ending)
            return self._opened

    def _new_client(self) -> httpx2.AsyncClient:
        try:
            return httpx2.AsyncClient(
                headers=self._key.headers,
                timeout=httpx2.Timeout(self._settings.timeout_s, connect=CONNECT_TIMEOUT_S, pool=None),
                limits=httpx2.Limits(max_connections=self._settings.concurrency),
            )
        except (ValueError, OSError, ImportError, httpx2.InvalidURL) as error:
            raise ConfigError(
                f"{self.where}: no connection can be made with the proxy or certificates that the "
                f"environment names (HTTP_PROXY, SSL_CERT_FILE, ...): {type(error).__name__}"
            ) from None  # the reason may quote a password

    def _ask(
        self, method: str, path: str, content: bytes | None, reply: type[T], fields: Collection[str] | None
    ) -> T:
        client, portal, _ = self._open()
        headers = {} if content is None else {"Content-Type": "application/json"}
        request = client.build_request(method, self._url.join(path), content=content, headers=headers)

        async def send() -> T:  # without arguments, so that no log of a retry shows any
            return self._read(await self._sent(client, request), reply, fields)

        asked = portal.start_task_soon(self._retried(send))
        try:
            with token_of_call().calling(asked.cancel):
                return asked.result()
        except _PassingError as passing:
            raise passing.error from None
        except CancelledError:
            raise CallCancelledError(f"{self.where}: the request was cancelled") from None
        finally:
            asked.cancel()  # whoever is interrupted here leaves nothing behind

    async def _sent(self, client: httpx2.AsyncClient, request: httpx2.Request) -> httpx2.Response:
        # no exception of httpx2 is chained: it may quote what was sent
        try:
            return await client.send(request)
        except httpx2.TimeoutException as error:
            late = UnavailableError(f"{self.where} did not answer in time ({type(error).__name__})")
            raise (_PassingError(late) if isinstance(error, httpx2.ConnectTimeout) else late) from None
        except httpx2.TransportError as error:
            words = self.excerpt(str(error)) or type(error).__name__
            raise _PassingError(UnavailableError(f"{self.where} cannot be reached: {words}")) from None
        except httpx2.HTTPError as error:
            words = self.excerpt(str(error)) or type(error).__name__
            raise EngineError(f"{self.where} returned malformed data: {words}") from None

    def _read(self, response: httpx2.Response, reply: type[T], fields: Collection[str] | None) -> T:
        """What a response says, in the shape asked for."""
        if response.has_redirect_location:
            raise EngineError(f"{self.where} answered {response.status_code}: {self._elsewhere(response)}")
        if not response.is_success:
            refused = Trouble(words_of(response.content, response.text), response.status_code)
            raise self._failure(response, refused, str(response.status_code), fields)
        found = self._decoded(response)
        trouble = trouble_in(found)
        if trouble is not None:
            raise self._failure(response, trouble, "with an error", fields)
        try:
            return msgspec.convert(found, type=reply)
        except msgspec.ValidationError as error:
            raise EngineError(f"{self.where} returned malformed data: {error}") from error

    def _elsewhere(self, response: httpx2.Response) -> str:
        """Where a redirect leads, as far as it may be shown, and what to do."""
        try:
            url = response.url.join(response.headers["Location"])
        except httpx2.InvalidURL:
            return "redirected to no valid address; correct base_url"
        target = self._key.scrubbed(str(url.copy_with(userinfo=b"", query=None, fragment=None)))
        base = target.removesuffix(str(response.url).removeprefix(str(self._url))).rstrip("/")
        return f"redirected to {target}; if that is the server, set base_url to {base}"

    def _failure(
        self, response: httpx2.Response, trouble: Trouble, how: str, fields: Collection[str] | None
    ) -> Exception:
        words = self.excerpt(trouble.words)
        error = trouble.error(f"{self.where} answered {how}: {words}", fields)
        return _PassingError(error, _retry_after(response)) if trouble.passes else error

    def _decoded(self, response: httpx2.Response) -> Any:
        try:
            return _json(response.content)
        except (ValueError, RecursionError) as error:
            why = not_json(response.text) or f"returned malformed data: {error}"
            raise EngineError(f"{self.where} {self.excerpt(why)}") from None


def _when_again(patience_s: float) -> Callable[[Exception], bool | float]:
    """Whether to try again after an error, or after how many seconds."""

    def decide(error: Exception) -> bool | float:
        if not isinstance(error, _PassingError):
            return False
        return error.after is None or (error.after <= patience_s and error.after)

    return decide


class _RetryInWords(logging.Filter):
    """Puts into words what stamina logs of our retries: by itself it says "stamina.retry_scheduled"."""

    def filter(self, record: logging.LogRecord) -> bool:
        said = vars(record)
        if str(said.get("stamina.callable")).startswith(__name__):
            record.msg, record.args = (
                "%s; next attempt in %.1f s",
                (
                    said["stamina.caused_by"],
                    said["stamina.wait_for"],
                ),
            )
        return True


logging.getLogger("stamina").addFilter(_RetryInWords())


class _PassingError(Exception):
    """An error that may be gone when asked again, after so many seconds if the server says."""

    def __init__(self, error: EngineError, after: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.after = after

    def __repr__(self) -> str:
        return str(self)


def _json(content: bytes) -> Any:
    """What JSON says; of numbers also what it cannot write: some servers give NaN and -Infinity as such."""
    try:
        return msgspec.json.decode(content)
    except msgspec.DecodeError as error:
        try:
            return json.loads(content)
        except ValueError:
            raise error from None


def _retry_after(response: httpx2.Response) -> float | None:
    """Seconds to wait, from a header that holds seconds or a date; None where it holds neither."""
    value = response.headers.get("Retry-After", "")
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
