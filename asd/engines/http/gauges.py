"""What a server reports of its own load: some of the gauges that vLLM exposes to Prometheus at `/metrics`."""

from __future__ import annotations

import re

import httpx2

__all__ = ["read_gauges"]

NAMES = {
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:kv_cache_usage_perc": "kv cache in use",
}
"""By the server's name, what they are called here; the last is a share in [0, 1]."""
SAMPLE = re.compile(r"^([a-z_:]+)(?:\{[^}]*\})? (\S+)$", re.MULTILINE)
PATIENCE_S = 2.0
MOST_BYTES = 4 * 2**20


def read_gauges(base_url: str) -> dict[str, float]:
    """The gauges of the server with this API; empty where it cannot be reached or reports none.

    Requests are sums over the engines of a server, the cache is that of the fullest.
    """
    url = httpx2.URL(base_url).join("/metrics")
    try:
        reply = httpx2.get(url, timeout=PATIENCE_S)
    except httpx2.HTTPError:
        return {}
    found: dict[str, float] = {}
    if reply.status_code != 200 or len(reply.content) > MOST_BYTES:
        return found
    for name, value in SAMPLE.findall(reply.text):
        if (known := NAMES.get(name)) is not None and re.fullmatch(r"[\d.e+-]+", value):
            before = found.get(known, 0.0)
            is_share = known == "kv cache in use"
            found[known] = max(before, float(value)) if is_share else before + float(value)
    return found
