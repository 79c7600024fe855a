"""Requests made from the OpenAPI document by schemathesis, right and wrong ones: they end as it says."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from asd.policies import FixedStage
from asd.serving.endpoint.openapi import document
from tests.endpoint import OnePolicy, Server, Slow, running

CASES = int(os.environ.get("ASD_SCHEMA_CASES", "8"))
"""Of every operation and mode of generation; the proof `openapi` makes 5,000 in all."""
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
VARIED = {
    "POST /v1/chat/completions": ["positive", "negative"],
    "POST /v1/completions": ["positive", "negative"],
    "POST /v1/asd/feedback": ["positive", "negative"],
    "GET /v1/models/{model}": ["positive"],
    "GET /v1/asd/requests/{request}": ["positive"],
}
"""Operations whose requests differ; negative: the schema forbids them."""
FIXED = ["GET /v1/models", "GET /metrics", "GET /health", "GET /ready", "GET /openapi.json"]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running({name: Slow(name, "three") for name in "SML"}, OnePolicy(FixedStage("S"))) as found:
        yield found


def test_every_operation_of_the_document_is_tried() -> None:
    labels = {f"{method.upper()} {path}" for path, of in document()["paths"].items() for method in of}
    assert labels == {*VARIED, *FIXED}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("label", "mode"),
    [
        *((label, mode) for label, modes in VARIED.items() for mode in modes),
        *((one, "positive") for one in FIXED),
    ],
)
def test_requests_end_as_the_document_says(
    server: Server, label: str, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    """In a status and a form that it names, and without a traceback in the log."""
    root = server.url.removesuffix("/v1")
    operation = schemathesis.openapi.from_url(f"{root}/openapi.json").find_operation_by_label(label)
    assert operation is not None
    seen: Counter[int] = Counter()

    @settings(
        max_examples=CASES if label in VARIED else 1,
        phases=[Phase.generate],
        database=None,
        derandomize=True,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=GenerationMode(mode)))
    def check(case: Case) -> None:
        response = case.call(timeout=30)
        seen[response.status_code] += 1
        case.validate_response(response, checks=CHECKS)

    with caplog.at_level(logging.WARNING):
        check()
    assert not [record for record in caplog.records if record.exc_info]
    assert sum(seen.values()) >= (CASES if label in VARIED else 1)
    assert mode == "positive" or not seen[200]
