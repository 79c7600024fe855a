"""The process: a socket, uvicorn, logs without prompts, and an end that breaks nothing.

On SIGTERM or SIGINT the server says at once that it is not ready, refuses what comes and lets what it took on
end; then it closes. A second signal ends it there and then.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from types import FrameType

import uvicorn

from asd.errors import ConfigError
from asd.serving.endpoint.application import Application

__all__ = ["Server", "listening", "set_up_logs", "url_of"]

GRACE_S = 0.3
"""For so long after the last answer, connections that the kernel has taken are still told that it ends."""


class Server(uvicorn.Server):
    """Serves an application until a signal ends it; drains before it closes."""

    def __init__(self, application: Application) -> None:
        super().__init__(
            uvicorn.Config(
                application, lifespan="on", log_config=None, server_header=False, timeout_keep_alive=75
            )
        )
        self.application = application
        self._draining: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's; the loop that is to drain is known from here on."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        """Called by the signal."""
        if self._loop is None or self._draining is not None or not self.started:
            self.should_exit = self.force_exit = True
            return
        self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        async def drained() -> None:
            await self.application.service.drained()
            await asyncio.sleep(GRACE_S)
            self.should_exit = True

        self._draining = self._draining or asyncio.create_task(drained())


def listening(host: str, port: int) -> socket.socket:
    """A socket with an address; the server accepts connections once it is ready.

    Raises:
        ConfigError: The address is not to be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
    except OSError as error:
        found.close()
        no_such_host = isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL
        other = "--host" if no_such_host else "--port"
        raise ConfigError(
            f"cannot listen on {host}:{port} ({error.strerror}); choose another {other}"
        ) from error
    return found


def url_of(at: socket.socket) -> str:
    """What OpenAI's clients take as `base_url`."""
    host, port = at.getsockname()[:2]
    return f"http://[{host}]:{port}/v1" if ":" in host else f"http://{host}:{port}/v1"


class _WithoutWords(logging.Filter):
    """Errors are logged by kind: what an engine says may quote the prompt."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(
                type(argument).__name__ if isinstance(argument, BaseException) else argument
                for argument in record.args
            )
        if record.exc_info and (error := record.exc_info[1]) is not None:
            where = error.__traceback__
            while where is not None and where.tb_next is not None:
                where = where.tb_next
            at = "" if where is None else f" at {where.tb_frame.f_code.co_filename}:{where.tb_lineno}"
            record.msg, record.args = f"{record.getMessage()} ({type(error).__name__}{at})", ()
            record.exc_info = record.exc_text = None
        return True


def set_up_logs() -> None:
    """To standard error, a line an event, without what clients and engines said."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.addFilter(_WithoutWords())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
