"""The settings of a stage behind a server (`options.openai`), checked when the stage is opened."""

from __future__ import annotations

from typing import Any, Literal

import httpx2
import msgspec

from asd.engines.http.credentials import without_credentials
from asd.errors import ConfigError
from asd.ladder import Stage
from asd.schema.explained import explained

__all__ = ["ASKED", "OpenAISettings"]

LONGEST_S = 1e6
"""Most that a wait may be set to; operating systems count milliseconds in 32 bits."""
ASKED = ("model", "prompt", "messages")
"""Fields of a request that hold what is asked."""
ROOM = "max_tokens"
"""Field for the room for an answer, unless a stage calls it otherwise."""


class OpenAISettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The keys of `options.openai` of a stage.

    Attributes:
        base_url: Such as "http://gpu-3:8000/v1"; without credentials and query.
        dialect: "vllm" where the server is vLLM's: then it also verifies drafts.
        model: Name the server knows the model by; None: the stage's `model`.
        api_key_env: Environment variable that holds the key; None: the server wants none.
        logprobs: Ask for log-probabilities; false for a server that refuses requests that do.
        extra_body: Further fields of every request for an answer; they win over the engine's own.
        omit: Fields that the engine sends and the server does not take, such as "temperature".
        max_tokens_field: What the server calls the room for an answer, such as "max_completion_tokens".
        tokenizer: Directory or hub repository of the tokenizer that counts tokens where the server does not.
        timeout_s: Longest wait for one reply.
        attempts: Most requests made for one reply.
        patience_s: No further attempt is begun after this long.
        concurrency: Most requests in flight.
        accepts: What the server follows beyond text, of a stage with a chat template: "tools" (and the choice
            of them), "response_format".
    """

    base_url: str
    dialect: Literal["openai", "vllm"] = "openai"
    model: str | None = None
    api_key_env: str | None = None
    logprobs: bool = True
    extra_body: dict[str, Any] = {}
    omit: tuple[str, ...] = ()
    max_tokens_field: str = ROOM
    tokenizer: str | None = None
    timeout_s: float = 120.0
    attempts: int = 4
    patience_s: float = 60.0
    concurrency: int = 16
    accepts: frozenset[Literal["tools", "response_format"]] = frozenset()

    def __post_init__(self) -> None:
        _check_url(self.base_url)
        _check_form(self)
        for name in ("timeout_s", "patience_s"):
            if not 0 < getattr(self, name) <= LONGEST_S:
                raise ValueError(
                    f"{name} must be a positive number of at most {LONGEST_S:g}, got {getattr(self, name)}"
                )
        for name in ("attempts", "concurrency"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    @classmethod
    def of(cls, stage: Stage) -> OpenAISettings:
        """What a stage's `options.openai` say.

        Raises:
            ConfigError: They are missing, unknown or out of range.
        """
        try:
            found = msgspec.convert(dict(stage.options.get("openai", {})), cls)
        except msgspec.ValidationError as error:
            raise ConfigError(
                f"stage {stage.name!r}: options.openai: {explained(error, cls)}; give it "
                "options.openai = { base_url = ... } in the ladder"
            ) from error
        if found.accepts and not stage.chat_template:
            raise ConfigError(
                f"stage {stage.name!r} accepts {', '.join(sorted(found.accepts))}, which are for chats; set "
                "chat_template = true"
            )
        return found


def _check_url(base_url: str) -> None:
    shown = without_credentials(base_url)
    try:
        url = httpx2.URL(base_url)
    except httpx2.InvalidURL:
        raise ValueError(f"base_url is not a URL: {shown!r}") from None  # the reason may quote a password
    if url.userinfo:
        raise ValueError("base_url holds credentials; put the key into the variable of api_key_env")
    if url.scheme not in ("http", "https") or not url.host or not 0 < (url.port or 80) < 1 << 16:
        raise ValueError(f"base_url must begin with http:// or https:// and a host, got {shown!r}")
    if url.query or url.fragment:
        raise ValueError(
            f"base_url {shown!r} has a query or fragment; end it with the path, and put a key into "
            "the variable of api_key_env"
        )


def _check_form(settings: OpenAISettings) -> None:
    """Refuse what would change what is asked, or what a verification means."""
    room = settings.max_tokens_field
    if not room or room in ASKED:
        raise ValueError(f"max_tokens_field must be the name of a field for the room, not {room!r}")
    if settings.dialect == "vllm" and (settings.extra_body or settings.omit or room != ROOM):
        raise ValueError(
            'extra_body, omit and max_tokens_field are for dialect = "openai"; with "vllm" they could make '
            "verifying lossy"
        )
    for option, names in (("extra_body", settings.extra_body), ("omit", settings.omit)):
        taken = [name for name in names if name in (*ASKED, ROOM, room)]
        if taken:
            raise ValueError(f"{option} must not hold {taken}: the stage and the query decide these")
