"""`asd.engines.runtimes`: what runs a stage is part of what answered, as far as it is known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from asd.collection import header_for, read_collected
from asd.engines.runtimes import runtimes, same_runtime
from asd.errors import ConfigError, EngineError
from asd.ladder import Ladder, Stage
from asd.prices import Prices
from asd.traces.log import TraceLog
from asd.types import Draft, Outcome, Query, Trace, Usage


def checkpoint(path: Path, **config: object) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    (path / "model.safetensors").write_bytes(b"")
    return path


def ladder(path: Path, **settings: object) -> Ladder:
    stage = Stage("S", str(path), Prices(1, 0, 0), **settings)  # type: ignore[arg-type]
    return Ladder("one", (stage,), "declared", "by hand")


@pytest.mark.parametrize(
    ("config", "settings", "found"),
    [
        ({"dtype": "bfloat16"}, {}, "transformers float32"),
        ({"dtype": "bfloat16"}, {"dtype": "bfloat16"}, "transformers bfloat16"),
        ({"torch_dtype": "float16", "quantization_config": {}}, {}, "transformers float16"),
        ({"text_config": {"dtype": "bfloat16"}, "quantization_config": {}}, {}, "transformers bfloat16"),
        ({"dtype": "bfloat16"}, {"engine": "mine:Engine"}, "mine:Engine auto"),
        ({"dtype": "bfloat16"}, {"engine": "openai"}, "openai auto"),
        ({}, {"engine": "vllm", "dtype": "float16"}, "vllm float16"),
    ],
)
def test_engine_and_dtype(tmp_path: Path, config: dict[str, object], settings: object, found: str) -> None:
    """On a CPU "auto" is float32, unless weights are quantised; an engine of one's own knows its dtype."""
    steps = ladder(checkpoint(tmp_path / "m", **config), **settings)  # type: ignore[arg-type]
    assert runtimes(steps, device="cpu") == {"S": found}


def test_options_of_vllm(tmp_path: Path) -> None:
    """All of them count, but for those that only give memory; in any order."""

    def of(**options: object) -> str:
        steps = ladder(tmp_path, dtype="float16", engine="vllm", options={"vllm": options})
        return runtimes(steps)["S"]

    plain, quantised = of(), of(quantization="fp8", kv_cache_dtype="fp8")
    assert plain == "vllm float16" == of(gpu_memory_utilization=0.5)
    assert quantised.startswith("vllm float16 ")
    assert quantised == of(kv_cache_dtype="fp8", quantization="fp8", kv_cache_memory_bytes=7)
    assert len({plain, quantised, of(quantization="fp8"), of(quantization="awq")}) == 4


def test_a_checkpoint_without_a_configuration(tmp_path: Path) -> None:
    """It is named, with the stage."""
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(EngineError, match=r"stage 'S': cannot read config\.json"):
        runtimes(ladder(tmp_path), device="cpu")


def test_what_is_unknown_may_be_any() -> None:
    """Of two that are known, only equal ones are the same."""
    assert same_runtime("unknown", "vllm float16")
    assert same_runtime("vllm float16", "unknown")
    assert not same_runtime("vllm float16", "transformers float16")


def record(path: Path, steps: Ladder, query_id: str, runtime: str | None) -> None:
    header = header_for(steps, {"S": "r1"}, [], "fit", runtime and {"S": runtime})
    draft = Draft("S", "4", (), (), True, Usage(1, 1, 1), 0.1)
    with TraceLog(path, header) as log:
        log.append([Trace(Query(query_id, "d", "2+2?"), {"S": Outcome(draft, 1.0)})])


def test_runs_of_different_runtimes_are_kept_apart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Not continued and not fitted together; a file that does not say is both, and that is told."""
    steps = ladder(tmp_path)
    one, other, old = (tmp_path / f"{name}.jsonl" for name in ("one", "other", "old"))
    record(one, steps, "1", "transformers float32")
    record(other, steps, "2", "vllm bfloat16 12345678")
    record(old, steps, "3", None)
    assert '"runtime"' not in old.read_text()
    before = other.read_bytes()
    for runtime in (
        "transformers float32",
        "vllm float16 12345678",
        "vllm bfloat16",
        "vllm bfloat16 87654321",
    ):
        with pytest.raises(ConfigError, match="collected with stages"):
            record(other, steps, "4", runtime)
    assert other.read_bytes() == before
    for paths in ([one, other], [other, one], [old, one, other], [one, old, other]):
        with pytest.raises(ConfigError, match=r"was collected with S .*, by (vllm|transformers)"):
            read_collected(paths, steps, "fit")
    for paths in ([one, old], [old, one], [old, other]):
        assert len(read_collected(paths, steps, "fit")) == 2
    assert not caplog.records
    record(old, steps, "4", "vllm bfloat16 12345678")
    assert "begun by an earlier version" in caplog.text
    record(one, steps, "5", None)
    assert len(caplog.records) == 1
    assert [len(read_collected(path, replace(steps, name="same"), "fit")) for path in (old, one)] == [2, 2]
