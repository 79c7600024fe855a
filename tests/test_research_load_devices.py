"""What devices hold and carry: calls counted by hand, memory by the files of the embedded ladder."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from asd.ladder import Ladder
from asd.operations.stations import Request
from asd.research.load.devices import CallMeter, StageMemory, memories, metered_run
from asd.research.load.shop import Shop
from asd.traces import StageHeader, TraceHeader
from asd.types import Action, Decision
from tests.test_cli_simulate import place  # noqa: F401  (a fixture)
from tests.test_research_load_control import shop  # noqa: F401  (a fixture)
from tests.test_research_load_tables import stage

MIB = 2**20


def header(runtime: str) -> TraceHeader:
    told = StageHeader(model="m", revision="1", dtype="auto", chat_template=False, runtime=runtime)
    return TraceHeader(ladder="tiny", stages=dict.fromkeys("SML", told), datasets=("d",), split="test")


def test_a_call_is_counted_from_its_beginning_to_its_end(shop: Shop) -> None:  # noqa: F811
    """S answers two queries, L reads one of the answers: tokens, bytes of text both ways, delays."""
    population, meter = shop.scenario.population, CallMeter()
    first, second = population.queries[:2]
    drafts = [population.step(q, Decision(Action("draft", "S"), None)) for q in (first, second)]
    calls = [Request(0.0, q, step) for q, step in zip((first, second), drafts, strict=True)]
    own = [q.trace.outcomes["S"].draft for q in (first, second)]
    tokens = sum(d.usage.n_prompt + d.usage.n_decoded for d in own)
    sent = sum(len(q.trace.query.prompt.encode()) for q in (first, second))
    meter.begun(calls, 0.05)
    assert (meter.most_tokens, meter.n_bytes, meter.delays_s) == (tokens, sent, 0.05)
    meter.ended(calls, 3.0)
    back = sum(len(d.text.encode()) for d in own)
    assert (meter.n_bytes, meter.mean_tokens, meter.calls_s) == (sent + back, tokens, 3.0)

    after = drafts[0].after
    assert after is not None
    reading = Request(0.0, after, population.step(after, Decision(Action("verify", "L"), "S")))
    alone, read = CallMeter(), first.trace.verifications["S>L"]
    alone.begun([reading], 0.0)
    alone.ended([reading], 1.0)
    assert alone.most_tokens == first.trace.outcomes["L"].draft.usage.n_prompt + read.usage.n_verified
    assert alone.n_bytes == len((first.trace.query.prompt + own[0].text).encode())


def test_the_busiest_window_is_the_peak() -> None:
    meter = CallMeter()
    for more, seconds in ((50, 10.0), (90, 10.0), (40, 5.0), (0, 10.0)):
        meter.n_bytes += more
        meter.close(seconds)
    assert meter.peak_bytes_per_s == 9.0


def test_counting_changes_no_run(shop: Shop) -> None:  # noqa: F811
    """The same run as without; calls that were counted are those of the books; a delay is added to each."""
    asked = shop.short(arrivals="poisson:20", faults=("delay:S:100:100:0.5",))
    scenario = replace(shop.scenario, asked=asked)
    done = metered_run(scenario, shop.controller(asked, shop.ours), shop.seed, shop.progress)
    plain = shop.play(asked, shop.ours)
    assert (done.run.total, done.run.windows) == (plain.total, plain.windows)
    for name, whole in plain.total.stages.items():
        meter = done.meters[name]
        assert meter.calls_s == pytest.approx(whole.utilisation * plain.total.seconds, rel=0.02)
        assert 0 < meter.mean_tokens < meter.most_tokens
        assert meter.peak_bytes_per_s >= meter.n_bytes / plain.total.seconds
    assert done.meters["L"].delays_s == 0.0
    delayed = done.meters["S"].delays_s / 0.5  # calls in a hundred seconds that take half a second and more
    assert delayed == round(delayed)
    assert 150 < delayed < 200


def test_memory_is_weights_and_what_calls_hold() -> None:
    """Two tokens of 3 MiB in the mean call, 5 in the largest; half of the time nothing is called."""
    memory, meter = StageMemory(1, 10.0, 3.0, ""), CallMeter(most_tokens=5, tokens_s=8.0, calls_s=4.0)
    assert memory.mean_mib(meter, stage(utilisation=0.5)) == 13.0
    assert memory.peak_mib(meter) == 25.0
    assert memory._replace(token_mib=None).peak_mib(meter) is None
    assert memory._replace(weights_mib=None).mean_mib(meter, stage()) is None
    assert memory.mean_mib(CallMeter(), stage(utilisation=0.0)) == 10.0


@pytest.mark.parametrize(("runtime", "n_bytes"), [("transformers float32", 4), ("vllm bfloat16 3f8a90c2", 2)])
def test_memory_of_the_embedded_ladder(runtime: str, n_bytes: int) -> None:
    """By its files and the dtype that answered; S drafts for M and L, so it lies beside them."""
    ladder = Ladder.load("tiny")
    found, sizes = memories(ladder, [header(runtime)]), {}
    for one in ladder.stages:
        config = json.loads((Path(one.model) / "config.json").read_text())
        with safe_open(Path(one.model) / "model.safetensors", "np") as file:
            names = list(file.keys())
            n = sum(math.prod(file.get_slice(name).get_shape()) for name in names)
        width = config["num_key_value_heads"] * config["head_dim"]
        sizes[one.name] = n * n_bytes / MIB, 2 * config["num_hidden_layers"] * width * n_bytes / MIB
    for name, memory in found.items():
        models = [sizes[name]] if name == "S" else [sizes[name], sizes["S"]]
        assert memory.weights_mib == pytest.approx(sum(w for w, _ in models))
        assert memory.token_mib == pytest.approx(sum(t for _, t in models))
        assert (memory.devices, memory.unknown) == (1, "")


def of(folder: Path, config: dict[str, Any] | None = None, **given: Any) -> StageMemory:
    """Of a copy of the embedded S, changed; without its config: of a model that is not here."""
    tiny = Ladder.load("tiny")
    small = replace(tiny.stages[0], model="nobody/there")
    if config is not None:
        whole = json.loads((Path(tiny.stages[0].model) / "config.json").read_text()) | config
        (folder / "config.json").write_text(json.dumps(whole))
        (folder / "model.safetensors").write_bytes(
            (Path(tiny.stages[0].model) / "model.safetensors").read_bytes()
        )
        small = replace(small, model=str(folder))
    ladder = replace(tiny, stages=(replace(small, **given),))
    return memories(ladder, [header("transformers float32")])["S"]


def test_what_cannot_be_known_has_no_number(tmp_path: Path) -> None:
    """And the reason is told: no files, no dtype, another kind of cache."""
    plain = of(tmp_path, {})
    assert plain.weights_mib is not None
    assert plain.token_mib is not None
    gone = of(tmp_path)
    assert gone[1:] == (None, None, "its model has no files here and the ladder gives no memory_gib")
    told = of(tmp_path, memory_gib=2.0, tensor_parallel=4)
    assert told[:3] == (4, 2048.0, None)
    assert "no files of its model here have the shape" in told.unknown
    for other in (
        {"sliding_window": 16},
        {"kv_lora_rank": 8},
        {"layer_types": ["full_attention", "linear_attention"]},
        {"num_hidden_layers": None},
    ):
        assert of(tmp_path, other)[1:3] == (plain.weights_mib, None)
    known = of(
        tmp_path, {"sliding_window": 16, "use_sliding_window": False, "layer_types": ["full_attention"]}
    )
    assert known == plain
    own = of(tmp_path, {}, options={"vllm": {"kv_cache_dtype": "fp8"}})
    assert (own.token_mib, "kv_cache_dtype" in own.unknown) == (None, True)
    tiny = Ladder.load("tiny")
    sized = replace(tiny, stages=(replace(tiny.stages[0], memory_gib=2.0),))
    assert memories(sized, [])["S"][:3] == (1, 2048.0, None)
    two = [header("transformers float32"), header("vllm bfloat16")]
    for recorded in ([header("unknown")], two, []):
        assert "dtype" in memories(tiny, recorded)["L"].unknown
    assert memories(tiny, two[:1] * 2) == memories(tiny, two[:1])
    asked = memories(replace(tiny, stages=(replace(tiny.stages[0], dtype="float16"),)), [header("unknown")])[
        "S"
    ]
    assert asked.weights_mib == pytest.approx(plain.weights_mib / 2)


def test_quantised_weights_take_what_their_files_take(tmp_path: Path) -> None:
    """Those of the embedded ladder are stored in bfloat16, whatever they are said to run in."""
    plain, quantised = of(tmp_path, {}), of(tmp_path, {"quantization_config": {"bits": 4}})
    assert plain.weights_mib is not None
    assert quantised.weights_mib == pytest.approx(plain.weights_mib / 2)
    assert quantised.token_mib is None
