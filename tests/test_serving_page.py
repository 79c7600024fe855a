"""The live page: who may see it, what it says, and how it looks in a real browser."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from playwright.sync_api import Browser, Page
from starlette.requests import Request

from asd.guarantee.record import EVERYTHING, Grant, Guarantee
from asd.policies import FixedStage
from asd.serving.cashier import Cashier
from asd.serving.endpoint.application import Application
from asd.serving.endpoint.pages import COOKIE, Pages
from asd.serving.endpoint.server import Server
from asd.serving.keys import KeyLimits, Keyring
from asd.serving.ledger import Caps
from asd.serving.monitoring.anomalies import Anomaly
from asd.serving.monitoring.monitor import MonitorSettings
from asd.serving.monitoring.page import devices
from asd.serving.monitoring.page.charts import lines
from asd.serving.monitoring.page.view import Facts, _amount, _steering
from asd.serving.monitoring.timeline import Bin
from asd.serving.spending import read_spending
from asd.serving.tariff import MICRO, Tariff
from tests.browser import browser, layout_faults  # noqa: F401  (a fixture)
from tests.endpoint import (
    LADDER,
    STAGES,
    OnePolicy,
    Reply,
    Slow,
    chat,
    client,
    get,
    post,
    request,
    running,
    scripted,
    serve,
)
from tests.test_serving_endpoint import Climb
from tests.test_serving_openai import MESSAGES

GRANT = Grant(
    stage="L", n=400, lam=5.0, p_value=0.01, n_needed=None, quality=0.9, stage_quality=0.92, cost=0.5,
    stage_cost=1.0, watched={"cost": (1.0, 2.0)},
)  # fmt: skip
GUARANTEE = Guarantee(
    keep=0.95, cap_cost=None, cost_bound=3.0, delta=0.1, n_lams=5, grants={EVERYTHING: GRANT}
)
SECTIONS = (
    "latency", "throughput", "quality", "mix", "spend", "stages", "devices", "plan", "guarantee", "anomalies",
    "steering", "network",
)  # fmt: skip
CONTRAST = """() => {
    const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(v => v / 255).map(
        v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
        return .2126 * r + .7152 * g + .0722 * b; };
    const below = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
        if (!c.endsWith(', 0)')) return c; } return 'rgb(255, 255, 255)'; };
    return Math.min(...[...document.querySelectorAll('h1, h2, p, td, th, b, span')].filter(
        e => e.textContent.trim()).map(e => {
        const [a, b] = [light(getComputedStyle(e).color), light(below(e))].sort((x, y) => y - x);
        return (a + .05) / (b + .05); })); }"""
"""The least contrast of any text, as WCAG reckons it."""


async def form(app: Application, path: str, body: str = "", **headers: str) -> Reply:
    method = "POST" if body else "GET"
    return await request(app, method, path, body.encode(), headers, None)


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def with_keys(path: Path, test: Any, **others: Any) -> Any:
    with Keyring(path) as keyring:
        secret = keyring.add("alice", KeyLimits(cap_day=1000 * MICRO)).secret
    with Cashier(path, Tariff(LADDER), Caps(day=10**9)) as cashier:
        return serve(scripted(), OnePolicy(Climb("S", "L")), lambda app: test(app, secret), admission=cashier)


def test_without_keys_the_page_is_there_at_once_and_loads_nothing_from_elsewhere() -> None:
    reply = serve(scripted(), OnePolicy(FixedStage("S")), lambda app: get(app, "/"))
    assert reply.status == 200
    text = reply.body.decode()
    assert {name for name in SECTIONS if f'<section id="{name}">' in text} == set(SECTIONS)
    assert not re.search(r"(src|href)=", text)
    assert "http" not in re.sub(r"http://www.w3.org/\S+", "", text)
    nonce = re.search(r"script-src 'nonce-([^']+)'", reply.headers["content-security-policy"])
    assert nonce is not None
    assert text.count(f'nonce="{nonce[1]}"') == 2
    assert reply.headers["cache-control"] == "no-store"


def test_where_keys_are_needed_nothing_is_seen_without_one(ledger: Path) -> None:
    """Neither the page nor its events; a wrong key opens nothing, a right one does until it is revoked."""

    async def test(app: Application, secret: str) -> None:
        for path in ("/", "/live"):
            closed = await form(app, path)
            assert closed.status == 401
            assert b"alice" not in closed.body
            assert b"section" not in closed.body
        wrong = await form(app, "/login", "key=asd-nonsense")
        assert wrong.status == 401
        assert "set-cookie" not in wrong.headers
        opened = await form(app, "/login", f"key={secret}")
        assert opened.status == 303
        cookie = opened.headers["set-cookie"]
        assert secret not in cookie
        assert {"httponly", "samesite=strict"} <= {part.strip().lower() for part in cookie.split(";")}
        session = cookie.partition(";")[0]
        page = await form(app, "/", cookie=session)
        assert page.status == 200
        assert b"alice, today" in page.body
        assert (await form(app, "/", authorization=f"Bearer {secret}")).status == 200
        assert (await form(app, "/", cookie=f"{COOKIE}=guessed")).status == 401
        with Keyring(ledger) as keyring:
            keyring.revoke("alice")
        assert (await form(app, "/", cookie=session)).status == 401

    with_keys(ledger, test)


def test_a_key_sees_its_own_account_and_the_total_and_no_other(ledger: Path) -> None:
    """On the page and in its events, whoever else looked in that second; operators see all of them."""
    limits = KeyLimits(cap_day=1000 * MICRO)
    with Keyring(ledger) as keyring:
        secrets = {alias: keyring.add(alias, limits).secret for alias in ("bob", "carol")}
        ops = keyring.add("ops", limits, operator=True).secret

    def seen(page: str) -> set[str]:
        return set(re.findall(r"<td>([a-z ]+), today", page))

    async def of_keys(app: Application) -> None:
        pages = Pages(lambda: app.service)
        for alias, secret in secrets.items():
            bearer = f"Bearer {secret}"
            page = await form(app, "/", authorization=bearer)
            assert seen(page.body.decode()) == {"all keys", alias}
            watches = Request({"type": "http", "headers": [(b"authorization", bearer.encode())]})
            async with aclosing(pages._events(watches)) as events:
                assert seen(json.loads((await anext(events)).decode().removeprefix("data: "))) == {
                    "all keys",
                    alias,
                }
        page = await form(app, "/", authorization=f"Bearer {ops}")
        assert seen(page.body.decode()) == {"all keys", "ops", *secrets}

    async def of_all(app: Application) -> None:
        assert seen((await form(app, "/")).body.decode()) == {"all keys", "ops", *secrets}

    for keyless, test in ((False, of_keys), (True, of_all)):
        with Cashier(ledger, Tariff(LADDER), Caps(day=10**9), keyless=keyless) as cashier:
            serve(scripted(), OnePolicy(FixedStage("S")), test, admission=cashier)


def test_a_page_in_another_name_for_this_machine_is_refused() -> None:
    """As every request to a server without keys (DNS rebinding)."""
    reply = serve(scripted(), OnePolicy(FixedStage("S")), lambda app: get(app, "/", host="evil.example"))
    assert reply.status == 403


def test_a_form_that_is_too_large_is_refused(ledger: Path) -> None:
    async def test(app: Application, secret: str) -> Reply:
        return await form(app, "/login", "key=" + "x" * 10_000)

    assert with_keys(ledger, test).status == 413


def test_what_the_page_says_of_spend_is_what_the_ledger_says(ledger: Path) -> None:
    """To the last digit that is shown."""

    async def test(app: Application, secret: str) -> str:
        bearer = {"authorization": f"Bearer {secret}"}
        for _ in range(3):
            assert (await post(app, chat(), **bearer)).status == 200
        while app.service.n_open:
            await asyncio.sleep(0.001)
        return (await form(app, "/", **bearer)).body.decode()

    page = with_keys(ledger, test)
    spent = read_spending(ledger).micros / MICRO
    assert f"<td>{spent:,.6g} {LADDER.price_unit}</td>" in page
    assert re.search(rf'alice, today.*?value="{spent / 1000:.4}', page, re.DOTALL)


@pytest.mark.parametrize(
    ("units", "shown"), [(0.25, "0.25 ms"), (1234.5678, "1,234.57 ms"), (1_618_180.4, "1,618,180 ms")]
)
def test_an_amount_is_written_out(units: float, shown: str) -> None:
    """Never as a power of ten."""
    assert _amount(int(units * MICRO), Facts("tiny", "ms", None, "lam")) == shown


def test_settings_are_shown_in_a_second_in_which_nobody_has_looked_yet() -> None:
    """A bin of the timeline that has only just begun."""
    looked = Bin(0.0, looks={"set lam": 10.0, "waiting S": 3.0}, n_looks=2)
    assert _steering([Bin(-5.0), looked, Bin(5.0)]) == [("lam", "5")]
    assert _steering([Bin(0.0)]) == []


def test_names_that_clients_choose_are_text_and_not_markup(ledger: Path) -> None:
    """An alias is what somebody typed."""
    found = lines({"<script>x</script>": [1.0, 2.0]})
    assert "<script>" not in found
    assert "&lt;script&gt;" in found


def test_a_chart_has_gaps_and_a_round_top() -> None:
    found = str(lines({"a": [None, 1.0, 2.0, None, 3.5], "b": []}))
    assert found.count("<polyline") == 2
    assert ">5</text>" in found
    assert ">2.5</text>" in found


def test_the_events_follow_what_happens_within_two_seconds() -> None:
    """And end with the server."""
    with running(scripted(), OnePolicy(FixedStage("S"))) as server, client(server) as ask:
        import httpx2  # noqa: PLC0415

        url = server.url.removesuffix("/v1")
        with httpx2.stream("GET", f"{url}/live", timeout=10) as live:
            assert live.headers["content-type"].startswith("text/event-stream")
            events = (json.loads(line[6:]) for line in live.iter_lines() if line.startswith("data: "))
            assert "answered" not in _section(next(events), "throughput")
            ask.chat.completions.create(model="asd", messages=MESSAGES)
            asked = time.monotonic()
            while "answered" not in _section(next(events), "throughput"):
                pass
            assert time.monotonic() - asked < 2


def _section(page: str, name: str) -> str:
    found = re.search(rf'<section id="{name}">.*?</section>', page, re.DOTALL)
    assert found is not None
    return found[0]


def test_gpus_are_shown_where_the_library_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that tells nothing is left out; without the library there is this process alone."""
    assert [one.name for one in devices.devices()] == ["this process"]

    class NVMLError(Exception):
        pass

    def use(handle: int) -> Any:
        if handle == 1:
            raise NVMLError
        return SimpleNamespace(gpu=37)

    library = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda i: i,
        nvmlDeviceGetUtilizationRates=use,
        nvmlDeviceGetMemoryInfo=lambda _: SimpleNamespace(used=2**30, total=4 * 2**30),
        nvmlDeviceGetPowerUsage=lambda _: 70_000,
        nvmlDeviceGetName=lambda _: "H100",
    )
    monkeypatch.setattr(devices, "_nvml", lambda: library)
    _, gpu = devices.devices()
    assert (gpu.name, gpu.busy, gpu.memory, gpu.detail) == ("0: H100", 0.37, 0.25, "1.0 of 4 GiB, 70 W")


class Telling(Slow):
    """A stage behind a server that others ask too."""

    def gauges(self) -> dict[str, float]:
        return {"waiting": 7.0, "running": 3.0, "kv cache in use": 0.25}


async def told(app: Application, path: str) -> str:
    """A page once engines have told of themselves."""
    meter = app.service.monitor.meter
    meter.sample()
    while not meter.loads.latest:
        await asyncio.sleep(0.005)
    return (await get(app, path)).body.decode()


def test_what_engines_tell_of_themselves_is_shown() -> None:
    """Behind servers: their queue and their cache, and requests of others; a dash where nothing is known."""
    engines = scripted() | {"L": Telling("L", "3")}
    page = serve(engines, OnePolicy(FixedStage("S")), lambda app: told(app, "/"))
    assert re.search(r"engine of L.*25%.*waiting 7", _section(page, "devices"))
    assert "engine of S" not in page
    rows = re.findall(r"<td>([SL])</td>" + "<td>([^<]*)</td>" * 5, _section(page, "stages"))
    assert rows == [("S", "0", "0", "-", "-", "-"), ("L", "0", "0", "10", "-", "25%")]


def test_what_engines_tell_of_themselves_is_for_prometheus() -> None:
    """No series where nothing is known."""
    engines = scripted() | {"L": Telling("L", "3")}
    text = serve(engines, OnePolicy(FixedStage("S")), lambda app: told(app, "/metrics"))
    assert re.findall(r"^asd_stage_(?:memory|other)\S+ .*", text, re.MULTILINE) == [
        'asd_stage_memory_ratio{stage="L"} 0.25',
        'asd_stage_other_requests{stage="L"} 10.0',
    ]


def test_everything_that_alarms_stands_on_top() -> None:
    async def test(app: Application) -> str:
        monitor = app.service.monitor
        monitor.anomalies.active["latency"] = Anomaly("latency", True, 0.0, 60.0, 1.62, 1.0)
        for _ in range(60):
            monitor.evaluation.compare(same=False)
        return (await get(app, "/")).body.decode()

    watching = MonitorSettings(promised=0.95, guarantee=GUARANTEE)
    page = serve(scripted(), OnePolicy(FixedStage("S")), test, watching=watching)
    alarms = re.findall(r'role="alert">(.*?)<', page)
    assert any("latency 1.62 times what the load explains" in one for one in alarms)
    assert any("95.0%" in one for one in alarms)
    assert "at least 0.95 of the reference" in _section(page, "guarantee")
    assert "have changed: 1 after 0 (alarm at 100)" in _section(page, "guarantee")


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str]]:
    """A server with keys, traffic, comparisons and an anomaly; and a key for it."""
    path = tmp_path_factory.mktemp("page") / "ledger.db"
    with Keyring(path) as keyring:
        secret = keyring.add("a-rather-long-alias-of-a-key", KeyLimits(cap_day=1000 * MICRO)).secret
    engines = {name: Slow(name, "3", 0.001) for name in STAGES}
    watching = MonitorSettings(share=0.5, promised=0.95, guarantee=GUARANTEE)
    with Cashier(path, Tariff(LADDER), Caps(day=10**9)) as cashier:
        parts = {"admission": cashier, "watching": watching}
        with running(engines, OnePolicy(Climb("S", "L")), **parts) as server:
            with client(server).with_options(api_key=secret) as ask:
                for _ in range(80):
                    ask.chat.completions.create(
                        model="asd", messages=[{"role": "user", "content": "add 1+2"}]
                    )
            monitor = server.application.service.monitor
            found = Anomaly("mix L", True, time.monotonic(), time.monotonic(), 0.4, 0.3)
            monitor.anomalies.active["mix L"] = found
            monitor.anomalies.latest.append(found)
            yield server, secret


def complaints(page: Page, width: int) -> list[str]:
    found = layout_faults(page, width)
    if (contrast := page.evaluate(CONTRAST)) < 4.5:
        found.append(f"contrast is {contrast:.2f}")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_readable_and_alive(
    browser: Browser,  # noqa: F811
    busy: tuple[Server, str],
    width: int,
    scheme: Any,
) -> None:
    """After a key was given; narrow and wide, light and dark; and it changes by itself."""
    server, secret = busy
    said: list[str] = []
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.on("console", lambda one: said.append(one.text) if one.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(server.url.removesuffix("/v1"))
    assert page.locator("section").count() == 0
    said.clear()  # the browser says itself that a key is needed
    page.fill("input", secret)
    page.click("button")
    page.wait_for_selector("#latency")
    assert complaints(page, width) == []
    before = page.text_content("#at")
    page.wait_for_function("old => document.getElementById('at').textContent !== old", arg=before)
    assert complaints(page, width) == []
    assert said == []
    assert "80" in (page.text_content("#throughput") or "")
    assert "mix L above its forecast" in (page.text_content("[role=alert]") or "")
    context.close()
