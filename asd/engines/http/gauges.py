"""What a server reports of its own load at `/metrics`, for Prometheus: gauges of vLLM or of `asd serve`."""

from __future__ import annotations

import logging
import math
import time

import httpx2

from asd.engines.http.credentials import Key

__all__ = ["ServerGauges"]

_LOG = logging.getLogger(__name__)

NAMES = {
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:kv_cache_usage_perc": "kv cache in use",
    "vllm:gpu_cache_usage_perc": "kv cache in use",  # of older versions
    "asd_in_flight_requests": "running",
    "asd_queue_requests": "waiting",
}
"""By the server's name, what they are called here; caches are shares in [0, 1]."""
PATIENCE_S = 2.0
MOST_BYTES = 4 * 2**20


class ServerGauges:
    """Reads them, over a connection that is kept.

    Args:
        where: Whose they are, for the log.
        base_url: Of the server's API.
        key: Of the server.
    """

    def __init__(self, where: str, base_url: str, key: Key) -> None:
        self._where = where
        self._url = httpx2.URL(base_url).join("/metrics")
        self._key = key
        self._client: httpx2.Client | None = None
        self._is_told = False

    def read(self) -> dict[str, float]:
        """The gauges now; empty where the server cannot be reached or reports none, which is logged once.

        Requests are sums over the engines and stages of a server, the cache is that of the fullest. Takes
        some seconds at most.
        """
        try:
            found = _known(self._text())
        except (httpx2.HTTPError, ValueError, OSError, ImportError, RuntimeError):  # no server, or an odd one
            found = {}
        if not found and not self._is_told:
            self._is_told = True
            _LOG.info("%s reports no load at /metrics: its queue and its memory are not known", self._where)
        return found

    def close(self) -> None:
        """Give the connection back; the next reading opens a new one."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _text(self) -> str:
        """What the server says; `ValueError` where it says too much, or too slowly."""
        if self._client is None:
            self._client = httpx2.Client(headers=self._key.headers, timeout=PATIENCE_S)
        body, until = bytearray(), time.monotonic() + PATIENCE_S
        with self._client.stream("GET", self._url) as reply:
            reply.raise_for_status()
            for piece in reply.iter_bytes():
                body += piece
                if len(body) > MOST_BYTES or time.monotonic() > until:
                    raise ValueError("no page of metrics")
        return body.decode()


def _is_no_reading(record: logging.LogRecord) -> bool:
    """Requests are logged, but not one every second."""
    told = record.args if isinstance(record.args, tuple) else ()
    return not any(str(one).endswith("/metrics") for one in told)


logging.getLogger("httpx2").addFilter(_is_no_reading)


def _known(text: str) -> dict[str, float]:
    """The gauges that have a name here, whatever engine of the server they are of."""
    from prometheus_client.parser import (  # noqa: PLC0415  (of asd[serve], where gauges are read)
        text_string_to_metric_families,
    )

    # few of a server's hundreds of lines are parsed: that is slow, and decisions are made in this process
    lines = [line for line in text.splitlines() if line.startswith(tuple(NAMES))]
    found: dict[str, float] = {}
    for family in text_string_to_metric_families("\n".join([*lines, ""])):
        for name, _, value, *_ in family.samples:
            known = NAMES.get(name)
            if known is not None and 0.0 <= value < math.inf:
                is_share = known == "kv cache in use"
                before = found.get(known, 0.0)
                found[known] = max(before, value) if is_share else before + value
    return found
