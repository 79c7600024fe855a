"""What `pytest bench/ --plan` says of memory: the parts of the stages, and what does not fit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import pytest

from asd.ladder import Ladder, Stage
from asd.measurement import environment
from asd.measurement.environment import device_gib
from asd.prices import Prices
from bench.run import split
from bench.run.matrix import Matrix, build_matrix

CARD = 80.0


def _stage(name: str, gib: float | None, n: int = 1, engine: str | None = None, **options: object) -> Stage:
    prices = Prices(0.0, 0.0, 1.0)
    by_engine: Mapping[str, Mapping[str, object]] = {engine or "vllm": options}
    return Stage(
        name, f"org/{name}", prices, tensor_parallel=n, memory_gib=gib, engine=engine, options=by_engine
    )


def _split(
    monkeypatch: pytest.MonkeyPatch,
    *stages: Stage,
    n_gpus: int = 2,
    engine: str = "vllm",
    device: str = "cuda:0",
) -> str:
    cards = {"cpu": 32.0} | {f"cuda:{i}": CARD for i in range(n_gpus)}
    monkeypatch.setattr(split, "device_gib", cards.get)
    ladder = Ladder("x", stages, "declared", "never")
    matrix: Matrix = replace(build_matrix(device="cpu"), ladder=ladder, engine=engine, device=device)
    return "\n".join(split.describe_split(matrix))


def test_shares_of_one_gpu_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """.2 and .6 of 80 GiB: weights beside all that is taken; the second GPU holds half of the larger one."""
    shown = _split(
        monkeypatch,
        _stage("7B", 14.2, gpu_memory_utilization=0.2),
        _stage("32B", 61.0, 2, gpu_memory_utilization=0.6),
    )
    row = next(line.split() for line in shown.splitlines() if line.startswith("32B "))
    assert row[-9:] == ["one", "process", "2", "x", "cuda:0", "30.5", "GiB", "48", "GiB"]
    assert "cuda:0: 7B, 32B take 64 GiB of 80 GiB" in shown
    assert "cuda:1: 32B take 48 GiB of 80 GiB" in shown
    assert "does not fit" not in shown


def test_shares_above_the_whole_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """What vLLM takes unasked is .92 of a GPU: two stages want twice that; the remedy is said."""
    shown = _split(monkeypatch, _stage("a", 10.0), _stage("b", 10.0))
    assert "does not fit: cuda:0: a, b take 147 GiB of 80 GiB; lower gpu_memory_utilization" in shown
    assert 'give each a server of its own (engine = "openai")' in shown


@pytest.mark.parametrize(
    ("stage", "says"),
    [
        (
            _stage("72B", 135.4, 2, gpu_memory_utilization=0.5),
            "72B has 67.7 GiB of weights .* share of 40 GiB",
        ),
        (_stage("72B", 135.4, 4, gpu_memory_utilization=0.5), "72B want cuda:3, which is not here"),
    ],
)
def test_a_stage_that_does_not_fit_is_named(monkeypatch: pytest.MonkeyPatch, stage: Stage, says: str) -> None:
    """Weights larger than the share, GPUs that are not there."""
    shown = _split(monkeypatch, stage)
    assert re.search(f"does not fit: {says}", shown), shown


def test_a_cache_in_bytes_takes_the_place_of_a_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights and cache, whatever the GPU has; 1 GiB on a CPU where nothing is said."""
    small = _stage("a", 10.0, kv_cache_memory_bytes=4 << 30)
    assert "cuda:0: a take 14 GiB of 80 GiB" in _split(monkeypatch, small)
    assert "cpu: a take 11 GiB of 32 GiB" in _split(monkeypatch, _stage("a", 10.0), device="cpu")


def test_stages_of_transformers_lie_where_their_options_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights and caches, by device; 4 GiB of caches on a GPU where nothing is said."""
    stages = [
        _stage("a", 20.0, engine="transformers"),
        _stage("b", 70.0, engine="transformers", kv_cache_gib=12),
    ]
    assert "does not fit: cuda:0: a, b take 106 GiB of 80 GiB" in _split(monkeypatch, *stages)
    apart = replace(stages[1], options={"transformers": {"device": "cuda:1", "kv_cache_gib": 4}})
    shown = _split(monkeypatch, stages[0], apart)
    assert "cuda:0: a take 24 GiB of 80 GiB" in shown
    assert "cuda:1: b take 74 GiB of 80 GiB" in shown


def test_a_server_a_stage_needs_its_weights_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it lies in this process."""
    shown = _split(monkeypatch, _stage("72B", 135.4, 4, engine="openai"), n_gpus=0)
    assert "72B: a server of its own needs 33.9 GiB for the weights on each of 4 devices" in shown
    assert "does not fit" not in shown


def test_what_is_not_known_is_not_made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model on the hub whose size the ladder does not say."""
    unknown = _stage("a", None, engine="transformers")
    assert "cuda:0: what a take together is not known" in _split(monkeypatch, unknown)


def test_memory_of_devices_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's from nvidia-smi, which prints MiB; this machine's own; none of a device that is not there."""
    answers = {"name": "NVIDIA H100\nNVIDIA L4", "memory.total": "81559\n23034"}
    monkeypatch.setattr(environment, "_nvidia_smi", answers.__getitem__)
    assert device_gib("cuda") == device_gib("cuda:0") == 81559 / 1024
    assert device_gib("cuda:1") == 23034 / 1024
    assert device_gib("cuda:2") is device_gib("mps") is None
    assert 0.5 < device_gib("cpu") < 1e5
    monkeypatch.setattr(environment, "_nvidia_smi", lambda _fields: None)
    assert device_gib("cuda:0") is None
