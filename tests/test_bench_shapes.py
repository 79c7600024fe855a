"""`python -m bench.shapes`: shapes against the library that runs them, prices against a law, resuming."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch
from click.testing import CliRunner, Result
from transformers import AutoModelForCausalLM

import bench.shapes.__main__ as command
from asd.errors import ConfigError, OutOfMemoryError
from asd.ladder import Ladder
from asd.prices import Prices, read_prices
from asd.types import Usage
from bench.shapes import clocked
from bench.shapes.clocked import TimingPlan, bandwidth
from bench.shapes.families import family_of
from bench.shapes.models import model_config, open_random, prompts
from bench.shapes.readings import ALL, FIRST, GENERATE, Asked, Bandwidth, Log, ShapeReading, verifying
from bench.shapes.table import Sizes

PLAN = TimingPlan(batches=(1, 4), lengths=(128, 512), widths=(16,), n_new=8, n_passes=1, rivals=False)
RATES = Bandwidth(copy=2e12, from_host=2e10)
ASKED = Asked(ladder="qwen2.5", card="H100", dtype="bfloat16", steps="auto", n_new=8)


@pytest.mark.parametrize(("ladder", "size"), [("qwen2.5", "0.5B"), ("llama3", "1B"), ("tiny", "M")])
def test_bytes_are_those_of_the_model_that_is_built(ladder: str, size: str) -> None:
    """Weights as transformers counts them on no device, tied embeddings once, biases where they are."""
    family = family_of(ladder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(model_config(family, size), dtype=torch.bfloat16)
    n = sum(parameter.numel() for parameter in model.parameters())
    assert family.weight_bytes(size, "bfloat16") == 2 * n
    assert family.weight_bytes(size, "float32") == 4 * n


@pytest.mark.parametrize("preset", ["qwen2.5", "qwen2.5-3", "llama2", "llama2-b"])
def test_shapes_have_the_parameters_that_the_presets_state(preset: str) -> None:
    """Every stage has a shape, whose bytes are the stage's memory to a hundredth."""
    family = family_of(preset)
    for stage in Ladder.load(preset).stages:
        gib = family.weight_bytes(stage.name, "bfloat16") / 2**30
        assert gib == pytest.approx(stage.memory_gib, rel=0.01)


def test_the_embedded_shapes_are_those_of_the_embedded_weights() -> None:
    """Layers and widths as their configuration has them."""
    family = family_of("tiny")
    for stage in Ladder.load("tiny").stages:
        config, shape = json.loads((Path(stage.model) / "config.json").read_text()), family.shape(stage.name)
        stated = [
            config[name] for name in ("num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size")
        ]
        assert stated == [shape.layers, shape.width, shape.inner, shape.vocabulary]


def test_a_token_leaves_keys_and_values_in_every_layer() -> None:
    """Qwen2.5 7B: 28 layers x 4 heads x 128 numbers, of keys and of values, two bytes each."""
    assert family_of("qwen2.5").cache_bytes("7B", "bfloat16", 1) == 2 * 28 * 4 * 128 * 2


def _seconds(prices: Prices, batch: int, length: int) -> dict[str, float]:
    """A clock that obeys these prices."""
    calls = {FIRST: Usage(length, 1, 1), ALL: Usage(length, 9, 9), verifying(16): Usage(length, 0, 1, 16)}
    return {name: batch * prices.cost(usage) / 1e3 for name, usage in calls.items()}


LAWS = {"7B": Prices(1.0, 0.03, 8.0, 0.02), "14B": Prices(1.5, 0.06, 16.0, 0.05)}


def _log(tmp_path: Path, laws: dict[str, Prices], batches: tuple[int, ...] = (1,)) -> Log:
    log = Log.open(tmp_path / "x.readings.json", ASKED, "2026-01-31", RATES)
    for size, law in laws.items():
        for batch in batches:
            for length in PLAN.lengths:
                seconds = _seconds(law, batch, length)
                log.put(
                    ShapeReading(size=size, batch=batch, length=length, step_mode="graph", seconds=seconds)
                )
    return log


def test_prices_are_the_law_that_the_clock_obeyed(tmp_path: Path) -> None:
    """Per call, token read, token decoded and token verified; a load is the weights over the host's rate."""
    found = Sizes(_log(tmp_path, LAWS, (1, 4)), family_of("qwen2.5"), ("7B", "14B"), PLAN).prices()
    for batch in (1, 4):
        for size, law in LAWS.items():
            load = 1e3 * family_of("qwen2.5").weight_bytes(size, "bfloat16") / RATES.from_host
            got = found[batch][size].known()
            assert got == pytest.approx(msgspec.structs.replace(law, per_load=load).known(), rel=1e-3)


def test_a_size_that_was_not_measured_is_scaled_from_the_largest_and_labelled(tmp_path: Path) -> None:
    """Its step takes its bytes over the bandwidth, at the efficiency of 14B; table and file name it."""
    family = family_of("qwen2.5")
    found = Sizes(_log(tmp_path, LAWS), family, ("7B", "14B", "72B"), PLAN)
    large, modelled = found.prices()[1]["14B"], found.prices()[1]["72B"]
    floors = [family.decode_bytes(size, "bfloat16", 1, 128) / RATES.copy for size in ("14B", "72B")]
    efficiency = floors[0] / large.per_decoded_token
    assert modelled.per_decoded_token == pytest.approx(floors[1] / efficiency, rel=1e-3)
    assert modelled.per_prompt_token > large.per_prompt_token
    assert found.timing().modelled == {1: ("72B",)}
    assert "modelled, not measured: 72B" in str(found.timing())
    (row,) = [line.split() for line in found.shown().splitlines() if line.startswith("72B")]
    assert row[3] == "modelled"
    assert float(row[4]) == pytest.approx(1e3 * floors[1] / (floors[0] / 0.016), rel=1e-2)
    assert found.ratios() == ["a step at batch 1: 7B : 14B = 1 : 2"]


def test_a_row_says_what_a_step_is_a_share_of(tmp_path: Path) -> None:
    """Of the floor by bytes, of what generate() takes for the same step, and a draft in steps."""
    log = _log(tmp_path, {"7B": LAWS["7B"]})
    seconds = _seconds(LAWS["7B"], 1, 128) | {GENERATE + FIRST: 0.02, GENERATE + ALL: 0.02 + 8 * 0.032}
    log.put(ShapeReading(size="7B", batch=1, length=128, step_mode="graph", seconds=seconds))
    header, _, row, _ = Sizes(log, family_of("qwen2.5"), ("7B",), PLAN).shown().splitlines()
    found = dict(zip(re.split(r"\s{2,}", header), re.split(r"\s{2,}", row), strict=True))
    floor = family_of("qwen2.5").decode_bytes("7B", "bfloat16", 1, 128) / RATES.copy
    assert (found["decode"], found["generate()"], found["of generate()"]) == ("8", "32", "25%")
    assert (found["static"], found["of floor"]) == ("-", f"{floor / 0.008:.0%}")
    assert found["verify 16"] == "13.2 (1.6 steps)"


def test_a_step_lost_in_noise_is_not_shown(tmp_path: Path) -> None:
    """A whole answer that took less than its first token: no time below zero, and no share of it."""
    log = _log(tmp_path, {"7B": LAWS["7B"]})
    seconds = _seconds(LAWS["7B"], 1, 128) | {GENERATE + FIRST: 0.02, GENERATE + ALL: 0.01}
    log.put(ShapeReading(size="7B", batch=1, length=128, step_mode="graph", seconds=seconds))
    header, _, row, _ = Sizes(log, family_of("qwen2.5"), ("7B",), PLAN).shown().splitlines()
    found = dict(zip(re.split(r"\s{2,}", header), re.split(r"\s{2,}", row), strict=True))
    assert (found["generate()"], found["of generate()"]) == ("-", "-")


def test_a_size_of_which_one_length_fits_is_not_measured(tmp_path: Path) -> None:
    """A prompt token's price cannot be told by it: it is modelled, and nothing of the others is lost."""
    log = _log(tmp_path, LAWS)
    seconds = _seconds(LAWS["14B"], 1, 128)
    log.put(ShapeReading(size="32B", batch=1, length=128, step_mode="eager", seconds=seconds))
    found = Sizes(log, family_of("qwen2.5"), ("7B", "14B", "32B"), PLAN)
    assert found.timing().modelled == {1: ("32B",)}
    assert found.prices()[1]["32B"].per_decoded_token > LAWS["14B"].per_decoded_token
    assert found.timing().step_modes == {"7B": "graph", "14B": "graph"}


def test_cells_of_lengths_that_are_not_asked_for_are_left_out(tmp_path: Path) -> None:
    """A log that holds more decides nothing; two modes of one size are both told."""
    log = _log(tmp_path, {"7B": LAWS["7B"]})
    stale = {name: 9 * s for name, s in _seconds(LAWS["7B"], 1, 64).items()}
    log.put(ShapeReading(size="7B", batch=1, length=64, step_mode="eager", seconds=stale))
    found = Sizes(log, family_of("qwen2.5"), ("7B",), PLAN)
    assert found.prices()[1]["7B"].per_decoded_token == pytest.approx(8.0, rel=1e-3)
    assert found.timing().step_modes == {"7B": "graph"}
    log.put(
        ShapeReading(size="7B", batch=1, length=512, step_mode="eager", seconds=_seconds(LAWS["7B"], 1, 512))
    )
    assert found.timing().step_modes == {"7B": "eager/graph"}


def test_a_batch_size_at_which_nothing_was_measured_has_no_prices(tmp_path: Path) -> None:
    """Nothing is scaled from nothing."""
    assert list(Sizes(_log(tmp_path, LAWS), family_of("qwen2.5"), ("7B",), PLAN).prices()) == [1]


def test_no_token_is_free(tmp_path: Path) -> None:
    """Where reading hides behind the weights a token costs what its keys and values take to write."""
    free = {"7B": Prices(1.0, 0.0, 8.0, 0.0)}
    got = Sizes(_log(tmp_path, free), family_of("qwen2.5"), ("7B",), PLAN).prices()[1]["7B"]
    least = 1e3 * family_of("qwen2.5").cache_bytes("7B", "bfloat16", 1) / RATES.copy
    assert got.per_prompt_token == got.per_verified == pytest.approx(least, rel=1e-3)


def test_the_bandwidth_of_a_copy_counts_reading_and_writing() -> None:
    """At one second between two readings of the clock."""
    ticks = iter(range(10_000))
    rates = bandwidth("cpu", lambda: float(next(ticks)), n_passes=2)
    assert rates.copy == 2 * rates.from_host == 2 * (1 << 26)


def test_readings_of_another_card_are_not_mixed(tmp_path: Path) -> None:
    """The file says what it is of, and where to go instead."""
    log = _log(tmp_path, LAWS)
    assert Log.open(log.path, ASKED, "2026-02-01", RATES).cells == log.cells
    other = Asked(ladder="qwen2.5", card="H200", dtype="bfloat16", steps="auto", n_new=8)
    with pytest.raises(ConfigError, match="readings of card H100, not H200; choose another --out"):
        Log.open(log.path, other, "2026-02-01", RATES)


@pytest.mark.parametrize(("graphs", "mode"), [("off", "eager"), ("on", "static")])
def test_a_random_stage_reads_and_writes_as_many_tokens_as_asked(graphs: str, mode: str) -> None:
    """A prompt of n words is n tokens, and no token ends an answer; a draft of its own is read whole."""
    engine = open_random(family_of("tiny"), "S", "float32", "cpu", {"graphs": graphs})
    asked = prompts(2, 7, 5, 512)
    drafts = engine.generate(asked)
    assert [draft.usage for draft in drafts] == [Usage(7, 5, 5)] * 2
    read = engine.verify(prompts(2, 7, 6, 512), drafts)
    assert [(found.usage.n_prompt, found.usage.n_verified) for found in read] == [(7, 5)] * 2
    assert engine.step_mode == mode


SMALL = ["--ladder", "tiny", "--batch", "1,2", "--lengths", "4,8", "--widths", "3", "--new-tokens", "2"]


def _run(out: Path, *more: str, sizes: str = "S,M") -> Result:
    return CliRunner().invoke(
        command.shapes,
        [*SMALL, "--sizes", sizes, "--passes", "1", "--device", "cpu", "--out", str(out), *more],
    )


@pytest.mark.slow
def test_a_small_run_makes_a_table_that_a_ladder_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU: rows with rivals and floor, prices at both batch sizes, no word on quality; a second run
    measures nothing again."""
    out = tmp_path / "tiny.json"
    done = _run(out, "--memory-gib", "1")
    assert done.exit_code == 0, done.output
    assert {"generate()", "static", "floor", "prefill", "verify"} <= set(done.stdout.splitlines()[0].split())
    assert "random weights (timing-only); nothing here says how good an answer is" in done.stdout
    table = read_prices(out)
    assert table.timing is not None
    assert (table.timing.provenance, table.timing.modelled) == ("timing-only", {})
    text = 'name = "x"\nprices = "tiny.json"\n[[stages]]\nname = "M"\nmodel = "org/m"\n'
    (tmp_path / "x.toml").write_text(text)
    ladder = Ladder.load(tmp_path / "x.toml")
    assert ladder.batches == (1, 2)
    assert ladder.stages[0].prices == table.stages["M"]
    assert "timing-only" in ladder.prices_measured

    def refuse(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(command, "clocked", refuse)
    assert _run(out).exit_code == 0


def test_a_run_that_was_broken_off_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the third cell: exit code 130, two cells kept, the next run measures the other two."""
    asked: list[tuple[int, int]] = []

    def timed(_engine: object, _plan: TimingPlan, batch: int, length: int, _clock: object) -> ShapeReading:
        asked.append((batch, length))
        if len(asked) == 3:
            raise KeyboardInterrupt
        seconds = _seconds(LAWS["7B"], batch, length) | {verifying(3): 1.0}
        return ShapeReading(size="S", batch=batch, length=length, step_mode="eager", seconds=seconds)

    monkeypatch.setattr(command, "clocked", timed)
    out = tmp_path / "t.json"
    first = _run(out, "--no-rivals", sizes="S")
    assert (first.exit_code, out.exists()) == (130, False)
    assert "the same command continues" in first.output
    second = _run(out, "--no-rivals", sizes="S")
    assert second.exit_code == 0, second.output
    assert asked == [(1, 4), (1, 8), (2, 4), (2, 4), (2, 8)]
    assert list(read_prices(out).batched) == [2]


def test_a_cell_that_runs_out_of_memory_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its size is modelled at that batch size from one that fitted, and the file says so."""

    def timed(engine: object, _plan: TimingPlan, batch: int, length: int, _clock: object) -> ShapeReading:
        size = engine.stage_name
        if (size, batch) == ("M", 2):
            raise OutOfMemoryError("too much")
        seconds = _seconds(LAWS["7B"], batch, length) | {verifying(3): 1.0}
        return ShapeReading(size=size, batch=batch, length=length, step_mode="graph", seconds=seconds)

    monkeypatch.setattr(command, "clocked", timed)
    done = _run(tmp_path / "t.json", "--no-rivals")
    assert done.exit_code == 0, done.output
    assert "M, batch 2, prompt 4: left out: too much" in done.output
    timing = read_prices(tmp_path / "t.json").timing
    assert timing is not None
    assert timing.modelled == {2: ("M",)}


def _short(*_: object, **__: object) -> None:
    raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_memory_that_is_short_in_the_library_is_told_as_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """generate() raises torch's error: the cell is left out like any other that does not fit."""
    monkeypatch.setattr(clocked, "_generate", _short)
    engine = open_random(family_of("tiny"), "S", "float32", "cpu", {})
    plan = replace(PLAN, batches=(1,), lengths=(4, 8), widths=(3,), n_new=2, rivals=True)
    with pytest.raises(OutOfMemoryError, match="stage 'S' has not enough memory"):
        clocked.clocked(engine, plan, 1, 4, time.perf_counter)


def test_a_size_that_runs_out_of_memory_while_it_is_built_is_modelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are measured all the same."""
    real = command.open_random

    def opened(family: object, name: str, *args: object) -> object:
        engine = real(family, name, *args)
        if name == "M":
            monkeypatch.setattr(engine, "_loader", _short)
        return engine

    def timed(engine: object, _plan: TimingPlan, batch: int, length: int, _clock: object) -> ShapeReading:
        seconds = _seconds(LAWS["7B"], batch, length) | {verifying(3): 1.0}
        return ShapeReading(
            size=engine.stage_name, batch=batch, length=length, step_mode="graph", seconds=seconds
        )

    monkeypatch.setattr(command, "open_random", opened)
    monkeypatch.setattr(command, "clocked", timed)
    done = _run(tmp_path / "t.json", "--no-rivals")
    assert done.exit_code == 0, done.output
    assert "M: does not fit (stage 'M' has not enough memory" in done.output
    assert read_prices(tmp_path / "t.json").timing.modelled == {1: ("M",), 2: ("M",)}


def test_a_size_that_does_not_fit_is_not_built(tmp_path: Path) -> None:
    """Nothing fits 0 GiB: said for every size, and no table comes of it."""
    done = _run(tmp_path / "t.json", "--memory-gib", "0")
    assert done.exit_code == 1
    assert "S: does not fit (0.0 GiB of weights and a tenth more, of 0.0 GiB): modelled" in done.output
    assert "none of S, M fits at batch 1" in done.output
    assert not (tmp_path / "t.json").exists()


@pytest.mark.slow
def test_a_table_without_a_name_has_that_of_its_ladder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the folder where the command was given; what has been read is kept beside it."""
    monkeypatch.chdir(tmp_path)
    asked = [*SMALL, "--sizes", "S", "--passes", "1", "--device", "cpu", "--no-rivals"]
    done = CliRunner().invoke(command.shapes, asked)
    assert done.exit_code == 0, done.output
    assert {path.name for path in tmp_path.iterdir()} == {"shapes-tiny.json", "shapes-tiny.readings.json"}


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--sizes", "S,8B"], "no shape of size '8B'; there are S, M, L"),
        (["--ladder", "llama3", "--sizes", ""], "llama3 is no preset: name its sizes, as in --sizes 1B,3B"),
        (["--ladder", "gpt"], "no shapes of ladder 'gpt'; there are those of qwen2.5, .*tiny"),
        (["--lengths", "8"], "give 2 or more different numbers"),
        (["--lengths", "8,x"], "give 2 or more different numbers"),
        (["--batch", "2,4"], "needs batch 1"),
        (["--lengths", "8,511"], "exceed the context of 512"),
        (["--out", "/dev/null/x.json"], "could not be written"),
        (["--device", "cuda:99"], "device 'cuda:99' is not here"),
    ],
)
def test_wrong_requests_end_with_one_line(tmp_path: Path, more: list[str], says: str) -> None:
    """Before anything is built, naming the value and what there is."""
    done = _run(tmp_path / "t.json", *more)
    assert done.exit_code in (1, 2)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert re.search(says, done.output), done.output
