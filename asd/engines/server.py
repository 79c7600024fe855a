"""One OpenAI-compatible server over HTTP: a request in, a checked reply out.

Connections are kept and reused (httpx2); what passes by itself is retried (stamina): 429 and 503 after as
long as the server asks for, 500, 502, 504 and broken connections after a growing pause. A request that timed
out is not repeated: the server may still be at it. Whatever remains is an `EngineError` that names stage and
server.

The API key comes from an environment variable and goes into one header of the connection; it is in no
message, record or repr. The border: bytes and JSON; what the fields mean is `asd.engines.openai`'s business.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Literal, TypeVar

import httpx2
import msgspec
import stamina

from asd.errors import ConfigError, EngineError, PromptTooLongError, UnavailableError
from asd.ladder import Stage

__all__ = ["Server", "Settings"]

T = TypeVar("T")

BUSY = (429, 503)
PASSING = (500, 502, 504)
CONNECT_TIMEOUT_S = 10.0
EXCERPT = 300
"""Characters of a server's own words that go into a message."""
TOO_LONG = ("context_length_exceeded", "context length", "max_model_len")
"""How servers say that a prompt does not fit."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The keys of `options.openai` of a stage.

    Attributes:
        base_url: Such as "http://gpu-3:8000/v1"; without credentials.
        dialect: "vllm" where the server is vLLM's: then it also verifies drafts.
        model: Name the server knows the model by; None: the stage's `model`.
        api_key_env: Environment variable that holds the key; None: the server wants none.
        logprobs: Ask for log-probabilities; false for a server that refuses requests that do.
        timeout_s: Longest wait for one reply.
        attempts: Most requests made for one reply.
        patience_s: No further attempt is begun after this long.
        concurrency: Most requests in flight.
    """

    base_url: str
    dialect: Literal["openai", "vllm"] = "openai"
    model: str | None = None
    api_key_env: str | None = None
    logprobs: bool = True
    timeout_s: float = 120.0
    attempts: int = 4
    patience_s: float = 60.0
    concurrency: int = 16

    def __post_init__(self) -> None:
        url = httpx2.URL(self.base_url)
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError(f"base_url must begin with http:// or https://, got {self.base_url!r}")
        if url.userinfo:
            raise ValueError("base_url holds credentials; put the key into the variable of api_key_env")
        for name in ("timeout_s", "patience_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be a positive number, got {getattr(self, name)}")
        for name in ("attempts", "concurrency"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    @classmethod
    def of(cls, stage: Stage) -> Settings:
        """What a stage's `options.openai` say.

        Raises:
            ConfigError: They are missing, unknown or out of range.
        """
        try:
            return msgspec.convert(dict(stage.options.get("openai", {})), cls)
        except (msgspec.ValidationError, httpx2.InvalidURL) as error:
            raise ConfigError(
                f"stage {stage.name!r}: {error}; give it options.openai = {{ base_url = ... }} in the ladder"
            ) from error


class Server:
    """A connection pool to the server of one stage; safe to use from several threads.

    Args:
        stage_name: For messages.
        settings: Where the server is and how patient to be.

    Raises:
        ConfigError: The variable that should hold the key is not set.
    """

    def __init__(self, stage_name: str, settings: Settings) -> None:
        self.where = f"stage {stage_name!r} at {settings.base_url}"
        self._settings = settings
        self._key = _api_key(stage_name, settings.api_key_env)
        self._retry = stamina.RetryingCaller(attempts=settings.attempts, timeout=settings.patience_s)
        self._url = httpx2.URL(settings.base_url.rstrip("/") + "/")
        self._opening = threading.Lock()
        self._client: httpx2.Client | None = None

    def close(self) -> None:
        """Give the connections back; the next request opens new ones."""
        with self._opening:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _open(self) -> httpx2.Client:
        with self._opening:
            if self._client is None:
                self._client = httpx2.Client(
                    headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
                    timeout=httpx2.Timeout(self._settings.timeout_s, connect=CONNECT_TIMEOUT_S, pool=None),
                    limits=httpx2.Limits(max_connections=self._settings.concurrency),
                )
            return self._client

    def get(self, path: str, reply: type[T]) -> T:
        """The reply to a GET of `path`, relative to the base URL; raises as `post` does."""
        return self._ask(self._open().build_request("GET", self._url.join(path)), reply)

    def post(self, path: str, body: Mapping[str, Any], reply: type[T]) -> T:
        """The reply to a POST of `body` as JSON.

        Raises:
            PromptTooLongError: The server says that the prompt does not fit its context.
            UnavailableError: No reply in time, no connection, or a server in trouble, after all attempts.
            EngineError: Refused, or a reply that is not what it should be.
        """
        content = msgspec.json.encode(body)
        headers = {"Content-Type": "application/json"}
        request = self._open().build_request("POST", self._url.join(path), content=content, headers=headers)
        return self._ask(request, reply)

    def _ask(self, request: httpx2.Request, reply: type[T]) -> T:
        def send() -> bytes:  # without arguments, so that no log of a retry shows any
            return self._open().send(request).raise_for_status().content

        try:
            return msgspec.json.decode(self._retry(self._when_again, send), type=reply)
        except httpx2.HTTPStatusError as error:
            raise self._refused(error.response) from error
        except httpx2.TimeoutException as error:
            raise UnavailableError(f"{self.where} did not answer in time ({type(error).__name__})") from error
        except httpx2.HTTPError as error:
            raise UnavailableError(
                f"{self.where} cannot be reached: {error or type(error).__name__}"
            ) from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise EngineError(f"{self.where} returned malformed data: {error}") from error

    def _when_again(self, error: Exception) -> bool | float:
        """Whether to try again, or after how many seconds."""
        if isinstance(error, httpx2.HTTPStatusError):
            status = error.response.status_code
            wait = _retry_after(error.response) if status in BUSY else None
            return status in BUSY + PASSING if wait is None else wait <= self._settings.patience_s and wait
        patient = isinstance(error, httpx2.ConnectTimeout) or not isinstance(error, httpx2.TimeoutException)
        return isinstance(error, httpx2.TransportError) and patient

    def _refused(self, response: httpx2.Response) -> EngineError:
        words = response.text
        if self._key:
            words = words.replace(self._key, "***")
        message = f"{self.where} answered {response.status_code}: {words[:EXCERPT]}"
        if response.status_code == httpx2.codes.BAD_REQUEST and any(sign in words for sign in TOO_LONG):
            return PromptTooLongError(f"{message}; shorten the prompt or lower max_new_tokens")
        return (UnavailableError if response.status_code in BUSY + PASSING else EngineError)(message)


def _api_key(stage_name: str, variable: str | None) -> str | None:
    if variable is None:
        return None
    if not os.environ.get(variable):
        raise ConfigError(
            f"stage {stage_name!r} wants its API key in the environment variable {variable}, which is not set"
        )
    return os.environ[variable]


def _retry_after(response: httpx2.Response) -> float | None:
    """Seconds to wait, from a header that holds seconds or a date; None where it holds neither."""
    value = response.headers.get("Retry-After", "")
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
