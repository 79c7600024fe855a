"""What a server tells of its own load."""

from __future__ import annotations

import pytest

from asd.engines import Gauged
from asd.engines.http.gauges import read_gauges
from tests.fakeserver import serving
from tests.served import ANSWERS, opened

TOLD = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 2.0
vllm:num_requests_waiting{engine="0",model_name="m"} 7.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 1.5e-01
vllm:prompt_tokens_total{engine="0"} 99.0
"""


def test_requests_of_all_engines_and_the_fullest_cache_are_told() -> None:
    """As vLLM writes them."""
    with serving(ANSWERS) as server, opened(server) as engine:
        server.gauges = TOLD
        assert isinstance(engine, Gauged)
        assert engine.gauges() == {"running": 5.0, "waiting": 7.0, "kv cache in use": 0.25}


@pytest.mark.parametrize("words", ["", "vllm:num_requests_running NaN\n", '{"object": "list"}'])
def test_a_server_that_tells_none_is_no_error(words: str) -> None:
    with serving(ANSWERS) as server:
        server.gauges = words
        assert read_gauges(server.url) == {}


def test_neither_is_one_that_is_not_there() -> None:
    with serving(ANSWERS) as server:
        url = server.url
    assert read_gauges(url) == {}
