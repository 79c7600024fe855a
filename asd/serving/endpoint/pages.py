"""The live page at `/`, its events at `/live`, and a form that asks for a key where one is needed.

A browser sends no API key by itself, so `/login` takes one and gives a cookie that no script can read and no
other site can send. The session ends after `SESSION_S`, with the server, or as soon as its key is revoked.

Of spend, a key sees its own and that of all keys together; an operator's key, and whoever asks a server that
needs no key, sees every account.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from asd.errors import UnknownKeyError
from asd.serving.admission import Accounts
from asd.serving.database import EVERYBODY
from asd.serving.endpoint.completions import bearer_of
from asd.serving.endpoint.http import EVENTS, headers_of
from asd.serving.endpoint.refusals import RequestError
from asd.serving.endpoint.replies import event
from asd.serving.endpoint.service import Service
from asd.serving.monitoring.page.page import LivePage, login, policy_of_content
from asd.serving.monitoring.page.view import Facts

__all__ = ["Pages"]

COOKIE = "asd_session"
SESSION_S = 12 * 3600.0
MOST_SESSIONS = 1000
MOST_FORM = 4096
EVERY_S = 1.0


class Pages:
    """The pages of one server.

    Args:
        service: Gives what is shown.

    Attributes:
        routes: Where they are.
    """

    def __init__(self, service: Callable[[], Service]) -> None:
        self._service = service
        self._page: LivePage | None = None
        self._sessions: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self.routes = [
            Route("/", self._whole),
            Route("/live", self._live),
            Route("/login", self._login, methods=["POST"]),
        ]

    async def _whole(self, request: Request) -> Response:
        nonce = secrets.token_urlsafe(16)
        headers = _headers(nonce)
        if (alias := self._viewer(request)) is None:
            return HTMLResponse(login(wrong=False), 401, headers)
        return HTMLResponse(self._of().whole(await self._facts(alias), nonce), headers=headers)

    async def _live(self, request: Request) -> Response:
        if self._viewer(request) is None:
            raise RequestError(401, "this server wants an API key", code="invalid_api_key")
        return StreamingResponse(self._events(request), headers=dict(EVENTS))

    async def _login(self, request: Request) -> Response:
        secret = await _key_of(request)
        if self._alias_of(secret) is None:
            return HTMLResponse(login(wrong=True), 401, _headers(secrets.token_urlsafe(16)))
        session = secrets.token_urlsafe(32)
        self._sessions[session] = secret, time.monotonic() + SESSION_S
        if len(self._sessions) > MOST_SESSIONS:
            self._sessions.popitem(last=False)
        answer = RedirectResponse(".", 303)
        secure = request.url.scheme == "https"
        answer.set_cookie(COOKIE, session, int(SESSION_S), httponly=True, samesite="strict", secure=secure)
        return answer

    async def _events(self, request: Request) -> AsyncIterator[bytes]:
        """The page again and again, while the server takes requests and the session lasts."""
        while not self._service().draining and (alias := self._viewer(request)) is not None:
            yield event(self._of().live(await self._facts(alias), alias))
            await asyncio.sleep(EVERY_S)

    def _viewer(self, request: Request) -> str | None:
        """The alias of the key that the session or the request itself has; None: it may see nothing."""
        secret, until = self._sessions.get(request.cookies.get(COOKIE, ""), (None, 0.0))
        return self._alias_of(secret if time.monotonic() < until else bearer_of(headers_of(request.scope)))

    def _alias_of(self, secret: str | None) -> str | None:
        try:
            return self._service().admission.authenticate(secret)
        except UnknownKeyError:
            return None

    def _of(self) -> LivePage:
        if self._page is None:
            self._page = LivePage(self._service().monitor)
        return self._page

    async def _facts(self, alias: str) -> Facts:
        service = self._service()
        books = service.admission
        every = await books.accounts() if isinstance(books, Accounts) else ()
        accounts = [one for one in every if books.is_operator(alias) or one.key in {EVERYBODY, alias}]
        ladder = service.ladder
        setting, engines = service.setting.policy.name, service.gauges()
        return Facts(ladder.name, ladder.price_unit, ladder.money, setting, accounts, engines)


def _headers(nonce: str) -> dict[str, str]:
    return {
        "content-security-policy": policy_of_content(nonce),
        "cache-control": "no-store",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }


async def _key_of(request: Request) -> str:
    """What the form was sent with."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MOST_FORM:
            raise RequestError(413, "the form is too large", code="request_too_large")
    return "".join(parse_qs(body.decode("latin-1")).get("key", []))
