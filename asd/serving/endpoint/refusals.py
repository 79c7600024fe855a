"""Requests that are not answered: the HTTP status, and the body that OpenAI's clients read.

    {"error": {"message": ..., "type": ..., "param": ..., "code": ...}}

What a stage said reaches the client only where it is about the client's own request (`RefusedError`); other
failures are named by their kind, because messages of engines may hold addresses and paths.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import msgspec

from asd.errors import (
    AdmissionError,
    AsdError,
    CapReachedError,
    ConfigError,
    NoStageLeftError,
    PolicyError,
    PromptTooLongError,
    RefusedError,
    UnknownKeyError,
)

__all__ = ["RequestError", "refusal_of"]

TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
"""OpenAI's names; other statuses below 500 are "invalid_request_error", those above "server_error"."""
RETRY_AFTER_S = 1.0
"""Where nobody knows better."""
TOO_LONG = "context_length_exceeded"
_ADDRESS = re.compile(r"(?<=') at https?://\S+")
"""Of a stage's server: "stage 'L' at http://10.0.0.3:8000/v1"."""
REFUSED = {RefusedError.__name__, PromptTooLongError.__name__}


class RequestError(AsdError):
    """A request that is not answered.

    Args:
        status: Of HTTP.
        message: For whoever sent the request.
        code: For programs, as "context_length_exceeded".
        param: The field that is wrong.
        retry_after_s: Seconds after which the same request may be answered; None: it will not be.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s

    @property
    def error(self) -> Mapping[str, object]:
        """The body, also that of an event within a stream."""
        kind = TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {
            "error": {"message": str(self), "type": kind, "param": self.param, "code": self.code},
        }

    @property
    def body(self) -> bytes:
        """The same as JSON."""
        return msgspec.json.encode(self.error)

    @property
    def headers(self) -> dict[str, str]:
        """Whether and when to try again, for the clients that OpenAI's library and others are."""
        if self.retry_after_s is None:
            return {"x-should-retry": "false"} if self.status >= 500 else {}
        return {"retry-after": str(max(1, math.ceil(self.retry_after_s)))}


def refusal_of(error: BaseException) -> RequestError:
    """What is replied where an error ended a request."""
    match error:
        case RequestError():
            return error
        case NoStageLeftError():
            return _unanswered(error)
        case AdmissionError():
            return _not_admitted(error)
        case PolicyError():
            return RequestError(500, f"the policy failed: {type(error).__name__}", code="policy_failed")
        case ConfigError():
            return RequestError(400, str(error))
    return RequestError(500, f"the server failed: {type(error).__name__}", code="internal_error")


def _not_admitted(error: AdmissionError) -> RequestError:
    if isinstance(error, UnknownKeyError):
        return RequestError(401, str(error), code="invalid_api_key")
    code = "insufficient_quota" if isinstance(error, CapReachedError) else "rate_limit_exceeded"
    return RequestError(429, str(error), code=code, retry_after_s=error.retry_after_s)


def _unanswered(error: NoStageLeftError) -> RequestError:
    """No stage answered: because of the request, where every one refused it, else because of the stages."""
    [(query, failures)] = error.unanswered
    if failures and all(failure.kind in REFUSED for failure in failures):
        internal = f"query {query.id!r} of {query.dataset!r}: "
        said = (_ADDRESS.sub("", failure.message.replace(internal, "")) for failure in failures)
        messages = "; ".join(dict.fromkeys(said))
        is_long = any(failure.kind == PromptTooLongError.__name__ for failure in failures)
        return RequestError(400, messages, code=TOO_LONG if is_long else "prompt_refused")
    kinds = ", ".join(f"{failure.stage} ({failure.kind})" for failure in failures)
    why = f"these failed: {kinds}" if kinds else "all of them rest after failures"
    return RequestError(
        503, f"no stage could answer: {why}", code="no_stage_left", retry_after_s=RETRY_AFTER_S
    )
