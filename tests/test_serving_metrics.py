"""What Prometheus reads: names and units by convention, bounded labels, and a dashboard of nothing else."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

import asd.serving.monitoring
from asd.errors import UnavailableError
from asd.policies import FixedStage
from asd.serving.cashier import Cashier
from asd.serving.endpoint.application import Application
from asd.serving.keys import Keyring
from asd.serving.tariff import Tariff
from tests.endpoint import LADDER, STAGES, OnePolicy, Slow, chat, get, post, scripted, serve
from tests.test_serving_endpoint import Climb

GRAFANA = Path(asd.serving.monitoring.__file__).parent / "grafana.json"


def scraped(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample by name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def asked_by_grafana() -> set[str]:
    """Names of metrics in all expressions."""
    panels = json.loads(GRAFANA.read_text("utf8"))["panels"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    return {name for text in expressions for name in re.findall(r"asd_\w+", text)}


def metrics_after(test: Any, engines: Any = None, policy: Any = None) -> bytes:
    """What a server says of itself after some requests."""

    async def ask(app: Application) -> bytes:
        await test(app)
        while app.service.n_open:
            await asyncio.sleep(0.001)
        return (await get(app, "/metrics")).body

    return serve(engines or scripted(L="three"), OnePolicy(policy or Climb("S", "L")), ask)


def test_a_key_sees_its_own_series_and_those_of_others_as_one(tmp_path: Path) -> None:
    """Sums are those of all keys, whoever looks; an operator sees every alias."""
    ledger, seen = tmp_path / "ledger.db", {}
    with Keyring(ledger) as keyring:
        secrets = {alias: keyring.add(alias).secret for alias in ("bob", "carol", "dora")}
        secrets["ops"] = keyring.add("ops", operator=True).secret

    async def ask(app: Application) -> None:
        for alias, n in (("bob", 1), ("carol", 2), ("dora", 3)):
            for _ in range(n):
                await post(app, chat(), authorization=f"Bearer {secrets[alias]}")
        while app.service.n_open:
            await asyncio.sleep(0.001)
        for alias, secret in secrets.items():
            seen[alias] = scraped((await get(app, "/metrics", authorization=f"Bearer {secret}")).body)

    with Cashier(ledger, Tariff(LADDER)) as cashier:
        serve(scripted(L="three"), OnePolicy(Climb("S", "L")), ask, admission=cashier)
    n = {
        alias: {dict(of)["key"]: count for (name, of), count in rows.items() if name == "asd_requests_total"}
        for alias, rows in seen.items()
    }
    assert n["ops"] == {"bob": 1, "carol": 2, "dora": 3}
    assert n["bob"] == {"bob": 1, "*": 5}
    assert n["dora"] == {"dora": 3, "*": 3}
    began = {of: since for (name, of), since in seen["ops"].items() if name == "asd_spend_created"}
    assert seen["dora"]["asd_spend_created", (("key", "*"),)] == min(
        began[("key", k),] for k in ("bob", "carol")
    )
    assert not any("bob" in str(at) for at in seen["carol"])
    for rows in seen.values():
        spent = sum(value for (name, _), value in rows.items() if name == "asd_spend_total")
        assert spent == pytest.approx(6 * (1 + 0.02 + 0.2 + 1 + 0.02 + 0.8))


async def one(app: Application) -> None:
    assert (await post(app, chat())).status == 200


def test_an_answer_is_counted_by_stage_key_and_tokens() -> None:
    """Every call of the cascade, and the stage that answered."""
    found = scraped(metrics_after(one))
    stage = lambda name: (("stage", name),)  # noqa: E731
    assert found["asd_answers_total", stage("L")] == 1
    assert found["asd_calls_total", stage("S")] == found["asd_calls_total", stage("L")] == 1
    assert found["asd_request_seconds_count", stage("L")] == 1
    assert found["asd_time_to_first_token_seconds_count", stage("L")] == 1
    assert found["asd_tokens_total", (("kind", "prompt"), ("stage", "L"))] == 2
    assert found["asd_tokens_total", (("kind", "decoded"), ("stage", "L"))] == 2
    assert found["asd_requests_total", (("key", "local"), ("outcome", "answered"))] == 1
    assert found["asd_spend_total", (("key", "local"),)] == pytest.approx(1 + 0.02 + 0.2 + 1 + 0.02 + 0.8)
    assert found["asd_answer_p_good_sum", ()] == 0.5
    assert found["asd_network_bytes_total", (("direction", "received"),)] > 0
    assert found["asd_network_bytes_total", (("direction", "sent"),)] > 0


def test_the_first_text_of_a_stream_may_come_long_before_its_end() -> None:
    """Time to first token is that of the text, not of the comments before it."""
    engines = {name: Slow(name, name, 0.05) for name in STAGES}

    async def draft(app: Application) -> None:
        await post(app, chat(stream=True, asd={"show": "draft"}))

    found = scraped(metrics_after(draft, engines, Climb("S", "M", "L")))
    first = found["asd_time_to_first_token_seconds_sum", (("stage", "L"),)]
    assert 0.05 <= first < 0.1
    assert found["asd_request_seconds_sum", (("stage", "L"),)] >= 0.15


def test_queues_and_calls_are_seen_while_they_last() -> None:
    """And a stage that fails is seen to rest."""
    engines = {name: Slow(name, "x", 0.1) for name in STAGES}
    seen: list[dict[Any, float]] = []

    async def crowd(app: Application) -> None:
        asking = [asyncio.create_task(post(app, chat())) for _ in range(20)]
        await asyncio.sleep(0.05)
        seen.append(scraped((await get(app, "/metrics")).body))
        await asyncio.gather(*asking)

    after = scraped(metrics_after(crowd, engines, FixedStage("S")))
    during = seen[0]
    assert during["asd_open_requests", ()] == 20
    at = (("stage", "S"),)
    assert during["asd_in_flight_requests", at] + during["asd_queue_requests", at] == 20
    assert during["asd_queue_requests", at] > 0
    assert during["asd_stage_utilisation_ratio", at] == 1
    assert after["asd_open_requests", ()] == after["asd_queue_requests", at] == 0


def test_a_stage_that_rests_after_failures_is_seen() -> None:
    """By its breaker, and by what it failed with."""
    engines = {name: Slow(name, UnavailableError("gone") if name == "S" else "x") for name in STAGES}

    async def twice(app: Application) -> None:
        for _ in range(2):
            await post(app, chat())

    found = scraped(metrics_after(twice, engines, Climb("S", "L")))
    assert found["asd_breaker_open", (("stage", "S"),)] == 1
    assert found["asd_breaker_open", (("stage", "L"),)] == 0
    assert found["asd_stage_failures_total", (("kind", "UnavailableError"), ("stage", "S"))] == 2


def test_names_are_by_convention_and_labels_are_few() -> None:
    """Base units; counters end in _total; no label can grow with the number of requests."""

    async def several(app: Application) -> None:
        for i in range(5):
            await post(app, chat(user=f"u{i}", asd={"lam": i}), x_request_id=f"mine-{i}")

    text = metrics_after(several)
    for family in text_string_to_metric_families(text.decode()):
        assert family.name.startswith("asd_")
        assert family.documentation
        assert not re.search(r"_(ms|millis|percent|minutes)$", family.name)
    labels = {label for _, labels in scraped(text) for label, _ in labels}
    assert labels <= {"stage", "outcome", "key", "kind", "direction", "signal", "le", "window"}
    once = metrics_after(one)
    assert len(text.splitlines()) == len(once.splitlines())


def test_every_metric_that_the_grafana_dashboard_names_is_exported() -> None:
    """Under that very name."""
    exported = {name for name, _ in scraped(metrics_after(one))}
    families = {
        line.split()[2] for line in metrics_after(one).decode().splitlines() if line.startswith("# TYPE")
    }
    missing = {name for name in asked_by_grafana() if name not in exported | families}
    assert not missing


def test_the_grafana_dashboard_is_one_that_grafana_imports() -> None:
    """Panels do not overlap, have titles and units, and take the data source that the user chooses."""
    found = json.loads(GRAFANA.read_text("utf8"))
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in found["panels"]]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in found["panels"]}) == len(places)
    for panel in found["panels"]:
        assert panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"]["uid"] == "${datasource}"
    assert [one["name"] for one in found["templating"]["list"]] == ["datasource"]
