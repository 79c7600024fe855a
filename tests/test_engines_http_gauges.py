"""What a server tells of its own load."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from asd.engines import Gauged
from asd.engines.http import gauges
from asd.engines.http.credentials import Key
from asd.engines.http.gauges import ServerGauges
from tests.fakeserver import FakeServer, serving
from tests.served import ANSWERS, opened

TOLD = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 2.0
vllm:num_requests_waiting{engine="0",model_name="m"} 7.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 70.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 1.5e-01
vllm:prompt_tokens_total{engine="0"} 99.0
"""
RECORDED = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="small"} 8.0
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="small"} 4.0
# HELP vllm:num_requests_waiting_by_reason Number of waiting requests by reason. Reason labels: 'capacity' = \
waiting for scheduling capacity; 'deferred' = deferred by transient constraints.
# TYPE vllm:num_requests_waiting_by_reason gauge
vllm:num_requests_waiting_by_reason{engine="0",model_name="small",reason="capacity"} 4.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="small",reason="deferred"} 0.0
# HELP vllm:kv_cache_usage_perc KV-cache usage. 1 means 100 percent usage.
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="small"} 0.0058651026392961825
"""
"""What vLLM 0.32 said of twelve requests where eight may run, in part."""
OLDER = """vllm:num_requests_running{model_name="a}b \\"c\\""} 1.0
vllm:gpu_cache_usage_perc{model_name="m"} 0.5
"""
OWN = """asd_queue_requests{stage="S"} 4.0
asd_queue_requests{stage="L"} 1.0
asd_in_flight_requests{stage="S"} 2.0
"""


@contextmanager
def telling(words: str) -> Iterator[tuple[FakeServer, ServerGauges]]:
    with serving(ANSWERS) as server:
        server.gauges = words
        reader = ServerGauges("stage 'S'", server.url, Key())
        try:
            yield server, reader
        finally:
            reader.close()


def test_requests_of_all_engines_and_the_fullest_cache_are_told() -> None:
    """As vLLM writes them."""
    with serving(ANSWERS) as server, opened(server) as engine:
        server.gauges = TOLD
        assert isinstance(engine, Gauged)
        assert engine.gauges() == {"running": 5.0, "waiting": 7.0, "kv cache in use": 0.25}
        engine.unload()
        assert engine.gauges() == {"running": 5.0, "waiting": 7.0, "kv cache in use": 0.25}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (RECORDED, {"running": 8.0, "waiting": 4.0, "kv cache in use": 0.0058651026392961825}),
        (OLDER, {"running": 1.0, "kv cache in use": 0.5}),
        (OWN, {"waiting": 5.0, "running": 2.0}),
    ],
)
def test_servers_of_now_older_ones_and_our_own_are_understood(words: str, told: dict[str, float]) -> None:
    with telling(words) as (_, reader):
        assert reader.read() == told


def test_readings_share_a_connection_and_fill_no_log(caplog: pytest.LogCaptureFixture) -> None:
    """Other requests are logged as they were."""
    caplog.set_level(logging.INFO)
    with telling(TOLD) as (server, reader):
        for _ in range(3):
            reader.read()
        assert server.connections == 1
        assert not caplog.records
        httpx2.get(f"{server.url}/models")
        assert [record.name for record in caplog.records] == ["httpx2"]


@pytest.mark.parametrize(
    "words",
    [
        "",
        "vllm:num_requests_running NaN\n",
        "vllm:num_requests_running -1\n",
        "vllm:num_requests_running +Inf\n",
        "vllm:num_requests_running e\n",
        'vllm:num_requests_running{engine="0\n',
        '{"object": "list"}',
        "vllm:num_requests_running 3.0\n" + "#" * gauges.MOST_BYTES,
    ],
)
def test_a_server_that_tells_none_is_no_error(words: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is said once."""
    caplog.set_level(logging.INFO, "asd")
    with telling(words) as (_, reader):
        assert [reader.read(), reader.read()] == [{}, {}]
    assert [record.getMessage() for record in caplog.records] == [
        "stage 'S' reports no load at /metrics: its queue and its memory are not known"
    ]


def test_neither_is_one_that_is_not_there() -> None:
    with telling(TOLD) as (_, reader):
        pass
    assert reader.read() == {}


def test_a_server_that_does_not_answer_is_waited_for_so_long_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor one that answers in drops."""
    monkeypatch.setattr(gauges, "PATIENCE_S", 0.2)
    with telling(TOLD) as (server, reader):
        for server.drip_s in (5.0, 0.05):
            began = time.monotonic()
            assert reader.read() == {}
            assert time.monotonic() - began < 2.0
        server.drip_s = 0.0
        assert reader.read()["waiting"] == 7.0


def test_the_text_is_read_as_prometheus_reads_it() -> None:
    """Another way: all that its own parser finds, by name."""
    found: dict[str, list[float]] = {}
    for family in text_string_to_metric_families(TOLD):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.value)
    with telling(TOLD) as (_, reader):
        told = reader.read()
    assert told["running"] == sum(found["vllm:num_requests_running"])
    assert told["kv cache in use"] == max(found["vllm:kv_cache_usage_perc"])
