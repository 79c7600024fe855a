"""`asd.engines.hf.caches`: caches of a fixed size, and steps that are recorded once and replayed.

Replays are those of `tests.replaying`, which do on a CPU what CUDA graphs do; `test_gpu.py` has the graphs.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from transformers import AutoModelForCausalLM

from asd.engines import Acceptance, Sampling
from asd.engines.hf.caches import memory
from asd.engines.hf.caches.arena import Arena, Shape
from asd.engines.hf.caches.fixed import FixedBatch, open_fixed
from asd.engines.hf.caches.growing import GrowingBatch, open_growing
from asd.engines.hf.caches.launching import PlainLauncher, launcher_for
from asd.engines.hf.caches.pool import NoRoomError, Pool
from asd.engines.hf.caches.slots import bucket, obstacle
from asd.engines.hf.engine import TransformersEngine
from asd.engines.hf.model import Loaded, load
from asd.engines.hf.speculation import SpeculativeEngine
from asd.errors import ConfigError, StageTooLargeError
from asd.types import Query
from tests.models import config_of, save_pair, save_random_model, save_shaken, stage
from tests.replaying import ReplayingLauncher
from tests.written import (
    assert_same_answers,
    assert_written_as_by_generate,
    continue_all,
    in_batches,
    questions,
    spoiled,
    verify_all,
    with_texts,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

CPU = torch.device("cpu")
FOUR_GIB = {"transformers": {"kv_cache_gib": 4}}


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A random model, and one that agrees with it on most tokens."""
    return save_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def growing(paths: tuple[Path, Path]) -> TransformersEngine:
    """The larger model over caches that grow."""
    return TransformersEngine(stage(paths[1], "L"), "cpu")


def fixed(
    path: Path, name: str = "L", launching: Callable[..., Any] = ReplayingLauncher, **options: object
) -> TransformersEngine:
    """A stage over caches of a fixed size."""
    of_stage = stage(path, name, options={"transformers": {"graphs": "on"} | options})
    return TransformersEngine(of_stage, "cpu", launching=launching)


class Launchers:
    """Makes launchers that replay, and remembers them."""

    def __init__(self) -> None:
        self.made: list[ReplayingLauncher] = []

    def __call__(self, device: torch.device, compiled: bool) -> ReplayingLauncher:
        self.made.append(ReplayingLauncher(device, compiled))
        return self.made[-1]


SIZES = [pytest.param(1, marks=pytest.mark.slow), 4, pytest.param(16, marks=pytest.mark.slow)]


@pytest.mark.parametrize("size", SIZES)
def test_replayed_steps_write_what_generate_writes(paths: tuple[Path, Path], size: int) -> None:
    """Greedy, token for token, prompts of mixed lengths; and so with a drafter."""
    engine, asked = fixed(paths[1]), questions(max(8, size))
    written = in_batches(engine, asked, size)
    assert_written_as_by_generate(paths[1], asked, written, size)
    drafted = SpeculativeEngine(fixed(paths[0], "S"), engine, 4)
    assert_written_as_by_generate(paths[1], asked, in_batches(drafted, asked, size), size)
    assert drafted.step_mode == "graph"


@pytest.mark.parametrize("size", SIZES)
def test_replayed_steps_verify_and_go_on_as_launched_ones(
    paths: tuple[Path, Path], growing: TransformersEngine, size: int
) -> None:
    """Whatever the draft, with and without a drafter; what verifying has read is not read again."""
    asked, engine = questions(max(8, size)), fixed(paths[1])
    own = in_batches(growing, asked, size)
    drafts = with_texts(growing, spoiled(own))
    for stage_ in (engine, SpeculativeEngine(fixed(paths[0], "S"), engine, 4)):
        read, launched = (verify_all(each, asked, drafts, size) for each in (stage_, growing))
        assert [(v.tokens, v.n_accepted, v.text, v.usage) for v in read] == [
            (v.tokens, v.n_accepted, v.text, v.usage) for v in launched
        ]
        continued = continue_all(stage_, asked, read, size)
        assert_same_answers(continued, own)
        assert not any(draft.usage.n_prompt for draft in continued)


@pytest.mark.parametrize(
    "family", ["qwen2", "qwen3", "phi3", "mistral", "gemma2", "gemma3_text", "gpt_oss", "qwen3_moe"]
)
def test_families_are_served_from_slots_as_from_caches_that_grow(family: str, tmp_path: Path) -> None:
    """Written, verified, gone on with and drafted for; some prompts are longer than a sliding window."""
    path = save_random_model(tmp_path / "large", family)
    launched, replayed = TransformersEngine(stage(path, "L"), "cpu"), fixed(path)
    drafter = fixed(save_shaken(path, tmp_path / "small"), "S")
    asked = questions(6)
    own = launched.generate(asked)
    for engine in (replayed, SpeculativeEngine(drafter, replayed, 4)):
        assert_same_answers(engine.generate(asked), own)
        read = engine.verify(asked, with_texts(launched, spoiled(own)))
        assert_same_answers(engine.continue_(asked, read), own)
    assert replayed.step_mode == drafter.step_mode == "graph"


@pytest.mark.parametrize("top_p", [1.0, 0.7])
def test_draws_are_those_of_launched_steps(
    paths: tuple[Path, Path], growing: TransformersEngine, top_p: float
) -> None:
    """The same seed draws the same tokens, alone, after a verification and in blocks."""
    asked = questions(8)
    drafts = with_texts(growing, spoiled(growing.generate(asked)))

    def drawn(engine: TransformersEngine, drafter: TransformersEngine) -> list[tuple[int, ...]]:
        sampling = Sampling(1.1, np.random.default_rng(3), top_p)
        acceptance = Acceptance(sampling)
        written = engine.generate(asked, sampling)
        written += engine.continue_(asked, engine.verify(asked, drafts, acceptance), acceptance)
        written += SpeculativeEngine(drafter, engine, 3).generate(asked, sampling)
        return [draft.tokens for draft in written]

    small = TransformersEngine(stage(paths[0], "S"), "cpu")
    assert drawn(fixed(paths[1]), fixed(paths[0], "S")) == drawn(growing, small)


def test_a_step_is_recorded_once_and_touches_nothing_that_moves(paths: tuple[Path, Path]) -> None:
    """One record a shape, whatever was kept in between; what it reads are weights and the arena's tensors."""
    launchers, asked = Launchers(), questions(12)
    engine = fixed(paths[1], launching=launchers)
    own = in_batches(engine, asked, 4)
    for _ in range(2):  # the second time nothing is new but what is read by then for the second time
        read = verify_all(engine, asked, with_texts(engine, spoiled(own)), 4)
        in_batches(engine, asked, 4)
        assert_same_answers(continue_all(engine, asked, read, 4), own)
    [launcher] = launchers.made
    replays = launcher.replays
    assert {len(of_name) for of_name in replays.values()} == {1}
    assert replays["the decode step over 4 x 64 slots"][0].n_calls > 60
    pool = engine._caches._pool
    assert pool is not None
    arenas = [*pool._waiting, *(lease.arena for lease in pool._leases)]
    places = {tensor.untyped_storage().data_ptr() for tensor in engine.loaded.model.state_dict().values()}
    places |= {buffer.untyped_storage().data_ptr() for buffer in engine.loaded.model.buffers()}
    for arena in arenas:
        places |= {
            t.untyped_storage().data_ptr() for t in vars(arena).values() if isinstance(t, torch.Tensor)
        }
        places |= {
            t.untyped_storage().data_ptr() for layer in arena.cache.layers for t in (layer.keys, layer.values)
        }
    for name, [replay] in replays.items():
        own_tensors = 2 * name.startswith("reading")  # what is given to it, and what it leaves
        assert len(replay.outside - places) <= own_tensors, name


def test_a_prompt_leaves_the_logits_of_its_last_token_only(paths: tuple[Path, Path]) -> None:
    """Those of all its tokens would stay in the graphs' memory; a draft's are all kept."""
    loaded = load(stage(paths[1], "L"), CPU)
    arena = Arena(loaded, Shape.holding(2, 40), ReplayingLauncher(CPU, compiled=False))
    with torch.inference_mode():
        for n, kept in ((1, 1), (4, 8)):
            launched, *replayed = (
                arena.read([0, 1], [0, 0], [[5] * 7, [6] * 5], n).clone() for _ in range(3)
            )
            assert [logits.shape[1] for logits in replayed] == [kept, kept]
            for logits in replayed:
                torch.testing.assert_close(logits[:, -1], launched[:, -1])


def _forwards(engine: TransformersEngine) -> list[int]:
    """A list that gets the width of every forward pass that is launched."""
    widths: list[int] = []

    def note(_: object, __: object, given: dict[str, Any]) -> None:
        widths.append(given["input_ids"].shape[1])

    engine.loaded.model.register_forward_pre_hook(note, with_kwargs=True)
    return widths


def test_one_pass_at_most_is_made_in_vain(paths: tuple[Path, Path]) -> None:
    """An end is seen one step late, and at the limit not even that is lost."""
    engine = fixed(paths[1], launching=PlainLauncher)
    engine.generate([Query("q", "d", "sort", max_new_tokens=2)])  # finds out what keys and values take
    widths = _forwards(engine)
    kinds = set()
    for query in questions(24):
        widths.clear()
        [draft] = engine.generate([query])
        kinds.add(draft.finished)
        in_vain = int(draft.finished and len(draft.tokens) < query.max_new_tokens)
        assert len(widths) == draft.usage.n_passes + in_vain
    assert kinds == {True, False}


def test_a_block_is_written_without_a_wait(paths: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the drafter's first pass and its last, nothing is copied to the host."""
    drafter, verifier = fixed(paths[0], "S"), fixed(paths[1])
    events: list[str] = []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: (events.append("wait"), tolist(tensor))[1])
    decode = Arena.decode
    monkeypatch.setattr(Arena, "decode", lambda arena, way: (events.append("step"), decode(arena, way))[1])
    SpeculativeEngine(drafter, verifier, 5).generate(questions(4))
    blocks = "".join("s" if event == "step" else "w" for event in events).split("w")
    assert max(map(len, blocks)) == 4  # the first token of a block is chosen after its read
    assert set(map(len, blocks)) <= {0, 1, 2, 3, 4}
    assert sum(len(block) == 4 for block in blocks) > 5


@pytest.mark.parametrize(
    ("family", "why"),
    [("gpt2", "not rotary"), ("bloom", "not rotary"), ("lfm2", "keep a state instead of keys and values")],
)
def test_models_that_cannot_be_captured_are_served_as_before(
    family: str, why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Over caches that grow, which is told once and shown by the mode."""
    path = save_random_model(tmp_path, family)
    engine, asked = fixed(path), questions(3)
    before = TransformersEngine(stage(path, "L"), "cpu").generate(asked)
    caplog.clear()
    assert engine.step_mode == "graph"
    for _ in range(2):
        assert_same_answers(engine.generate(asked), before)
    assert engine.step_mode == "eager"
    [told] = [r.getMessage() for r in caplog.records if r.name.startswith("asd")]
    assert "stage 'L' launches its decode steps one by one, which takes longer" in told
    assert why in told
    engine.unload()
    assert engine.step_mode == "graph"


ROPE = {"rope_type": "default", "rope_theta": 1e4}
OTHERS = {
    "change with the length": {"rope_parameters": ROPE | {"rope_type": "dynamic", "factor": 2.0}},
    "takes no mask for every row": {"attn_implementation": "flex_attention"},
}


@pytest.mark.parametrize("why", OTHERS)
def test_what_a_mask_and_slots_cannot_express_is_an_obstacle(why: str) -> None:
    """Positions that depend on the longest row, attention of another kind."""
    options = dict(OTHERS[why])
    attention = options.pop("attn_implementation", "sdpa")
    config = config_of("llama", 2, 300, **options)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    assert why in obstacle(model)
    plain = AutoModelForCausalLM.from_config(config_of("llama", 2, 300), attn_implementation="eager")
    assert obstacle(plain) == ""


def test_a_step_that_cannot_be_captured_is_launched_and_told_once(
    paths: tuple[Path, Path], growing: TransformersEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """A model that waits for the device: the call that finds out goes on, later ones use caches that grow."""
    engine, asked = fixed(paths[1]), questions(4)
    engine.loaded.model.register_forward_hook(lambda _, __, output: output.logits.sum().item() and None)
    caplog.clear()
    for _ in range(3):
        assert_same_answers(engine.generate(asked), growing.generate(asked))
        assert engine.step_mode == "eager"
    [told] = [r.getMessage() for r in caplog.records if r.name.startswith("asd")]
    assert "not permitted when stream is capturing: item" in told


def test_calls_that_do_not_fit_the_budget_are_served_as_before(
    paths: tuple[Path, Path], growing: TransformersEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """Told once with what they take; smaller calls keep theirs, and the mode is the slowest there was."""
    bytes_a_row = 2 * 3 * 32 * 4 * 2 * 64
    engine = fixed(paths[1], kv_cache_gib=2.5 * bytes_a_row / 2**30)
    asked = questions(8)
    assert_same_answers(in_batches(engine, asked, 2), growing.generate(asked))
    assert engine.step_mode == "graph"
    caplog.clear()
    for _ in range(2):
        assert_same_answers(in_batches(engine, asked, 4), growing.generate(asked))
    [told] = [r.getMessage() for r in caplog.records if r.name.startswith("asd")]
    assert "take 0.000366 GiB of keys and values, and there are 0.000228" in told
    assert "raise options.transformers.kv_cache_gib" in told
    assert engine.step_mode == "eager"


@pytest.mark.parametrize("room", [2, 3, 6, 50])
def test_what_is_kept_is_copied_aside_for_others_within_the_budget(
    paths: tuple[Path, Path], growing: TransformersEngine, room: int
) -> None:
    """Verified rows go on after other calls over the same arena; what does not fit is read again."""
    row = 2 * 3 * 32 * 4 * 2 * 64
    engine, asked = fixed(paths[1], kv_cache_gib=room * row / 2**30), questions(8)
    own = growing.generate(asked)
    drafts = with_texts(growing, spoiled(own))
    read = verify_all(engine, asked, drafts, 1)
    pool = engine._caches._pool
    assert pool is not None
    assert_same_answers(in_batches(engine, asked, 1), own)
    assert pool.n_bytes <= room * row
    continued = [engine.continue_([q], [v])[0] for q, v in zip(asked, read, strict=True)]
    assert_same_answers(continued, own)
    assert pool.n_bytes <= room * row
    n_again = sum(draft.usage.n_prompt > 0 for draft in continued)
    assert (n_again > 0) == (room < 6)
    assert engine.step_mode == "graph"


def test_rows_of_several_arenas_go_on_together(paths: tuple[Path, Path], growing: TransformersEngine) -> None:
    """Kept by calls of one row and of three, in any order, without reading anything again."""
    engine, asked = fixed(paths[1]), questions(9)
    own = growing.generate(asked)
    drafts = with_texts(growing, spoiled(own))
    read = [*verify_all(engine, asked[:3], drafts[:3], 1), *verify_all(engine, asked[3:], drafts[3:], 3)]
    order = np.random.default_rng(0).permutation(9)
    continued = engine.continue_([asked[i] for i in order], [read[i] for i in order])
    assert_same_answers(continued, [own[i] for i in order])
    assert not any(draft.usage.n_prompt for draft in continued)


def test_a_verified_draft_may_go_on_further_than_was_planned(tmp_path: Path) -> None:
    """With more room than verifying made, the answer is the longer one."""
    path, asked = save_random_model(tmp_path, n_stops=0), questions(3)
    launched, engine = TransformersEngine(stage(path, "L"), "cpu"), fixed(path, launching=PlainLauncher)
    longer = [replace(query, max_new_tokens=80) for query in asked]
    read = engine.verify(asked, with_texts(launched, spoiled(launched.generate(asked))))
    own = launched.generate(longer)
    continued = [engine.continue_([query], [v])[0] for query, v in zip(longer, read, strict=True)]
    assert_same_answers(continued, own)
    assert {len(draft.tokens) for draft in own} == {80}


def test_rows_kept_over_caches_of_both_kinds_go_on_together(
    paths: tuple[Path, Path], growing: TransformersEngine
) -> None:
    """One was verified in a call that did not fit a cache of a fixed size: it is read again."""
    row = 2 * 3 * 32 * 4 * 2 * 64
    engine, asked = fixed(paths[1], kv_cache_gib=3.5 * row / 2**30), questions(9)
    own = growing.generate(asked)
    drafts = with_texts(growing, spoiled(own))
    read = [*engine.verify(asked[:4], drafts[:4]), *engine.verify(asked[4:5], drafts[4:5])]
    assert_same_answers(engine.continue_(asked[:5], read), own[:5])


def test_unloading_gives_arenas_and_records_back(paths: tuple[Path, Path]) -> None:
    """Nothing holds them once the engine is unloaded, kept rows included."""
    engine, asked = fixed(paths[1]), questions(3)
    own = engine.generate(asked)
    engine.verify(asked, with_texts(engine, spoiled(own)))
    pool = engine._caches._pool
    assert pool is not None
    held = [weakref.ref(lease.arena.cache) for lease in pool._leases]
    assert held
    del pool
    engine.unload()
    gc.collect()
    assert [ref() for ref in held] == [None] * len(held)
    assert_same_answers(engine.generate(asked), own)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"graphs": "always"}, "Invalid enum value 'always'.*graphs"),
        (
            {"graphs": "off", "compile": True},
            'compile = true needs caches of a fixed size: leave graphs = "off"',
        ),
        ({"compile": "yes"}, "Expected `bool`, got `str`.*compile"),
        ({"attention": 1}, r"Expected `str \| null`, got `int`.*attention"),
    ],
)
def test_options_that_say_nothing_sensible_are_refused(options: dict[str, object], why: str) -> None:
    """With the stage's name and what is wrong."""
    with pytest.raises(ConfigError, match=f"stage 'S': options.transformers: .*{why}"):
        TransformersEngine(stage(Path("/none"), options={"transformers": options}), "cpu")


def test_a_cpu_launches_its_steps_over_caches_that_grow(paths: tuple[Path, Path]) -> None:
    """Unless it is told otherwise; the mode says what is done."""
    asked = {"auto": "eager", "off": "eager", "on": "static"}
    for graphs, mode in asked.items():
        engine = TransformersEngine(stage(paths[1], options={"transformers": {"graphs": graphs}}), "cpu")
        engine.generate(questions(1))
        assert engine.step_mode == mode
    compiled = TransformersEngine(stage(paths[1], options={"transformers": {"compile": True}}), "cpu")
    assert compiled.step_mode == "compiled"


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_is_the_one_that_is_asked_for(
    paths: tuple[Path, Path], growing: TransformersEngine, attention: str
) -> None:
    """And masks are as it takes them."""
    engine = fixed(paths[1], attention=attention)
    assert_same_answers(engine.generate(questions(4)), growing.generate(questions(4)))
    assert engine.loaded.model.config._attn_implementation == attention
    assert engine.step_mode == "graph"


def test_compiled_steps_write_the_same(
    paths: tuple[Path, Path], growing: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every step is traced as a whole, without a break, for every shape; no code is generated here."""
    asked = questions(2)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    engine = fixed(paths[1], launching=launcher_for, compile=True)
    own = growing.generate(asked)
    assert_same_answers(in_batches(engine, asked, 1), own)
    assert engine.step_mode == "compiled"


def test_after_a_step_that_cannot_be_compiled_no_other_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each try may take half a minute; what is told is why the first one failed."""
    monkeypatch.setattr(torch, "compile", lambda step, **_: partial(_fail, step))
    launcher, asked = PlainLauncher(CPU, True), [lambda: None, lambda: None]
    assert [launcher.prepare(step, "a step", often=True) for step in asked] == asked
    assert launcher.trouble == f"no compiler for {asked[0]}"


def _fail(step: object) -> None:
    raise RuntimeError(f"no compiler for {step}\nand more")


def test_sizes_are_at_most_half_as_large_again(paths: tuple[Path, Path]) -> None:
    """The least of 1, 2, 3, 4, 6, 8, 12, ... that holds it; a slot more than there are tokens."""
    assert [bucket(n) for n in range(1, 14)] == [1, 2, 3, 4, 6, 6, 8, 8, 12, 12, 12, 12, 16]
    assert [bucket(n, 64) for n in (1, 64, 65, 97)] == [64, 64, 96, 128]
    assert Shape.holding(5, 63) == Shape(6, 64)
    assert Shape.holding(5, 64) == Shape(6, 96)


@pytest.fixture(scope="module", params=["llama", "gemma3_text"])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """With and without a sliding window."""
    return load(stage(save_random_model(tmp_path_factory.mktemp("any"), request.param)), CPU)


@settings(max_examples=10)
@given(data=st.data())
def test_both_caches_know_the_same_whatever_is_done(loaded: Loaded, data: st.DataObject) -> None:
    """Logits after any sequence of reading, taking back, dropping rows, parting and joining are the same."""
    numbers = st.integers(0, 2**32 - 1)
    rng = np.random.default_rng(data.draw(numbers))
    with torch.inference_mode():
        pool = Pool(loaded, ReplayingLauncher(CPU, False), 10**9, lambda: False)
        n = int(rng.integers(1, 5))
        pair = (open_growing(loaded, n, rewinds=True), open_fixed(pool, loaded, [20] * n))
        lengths = _read_both(pair, [0] * n, rng)
        for what in data.draw(st.lists(st.sampled_from(["read", "rewind", "keep", "part"]), max_size=6)):
            if what == "rewind":
                drop = [int(rng.integers(0, length)) for length in lengths]
                for batch in pair:
                    batch.rewind(drop)
                lengths = [length - k for length, k in zip(lengths, drop, strict=True)]
            elif what == "keep":
                kept = sorted(rng.choice(len(lengths), int(rng.integers(1, len(lengths) + 1)), replace=False))
                for batch in pair:
                    batch.keep([int(i) for i in kept])
                lengths = [lengths[i] for i in kept]
            elif what == "part" and len(lengths) > 1:
                pair, lengths = _parted(pair, lengths, pool)
            lengths = _read_both(pair, lengths, rng)


Pair = tuple[GrowingBatch, FixedBatch]


def _read_both(pair: Pair, lengths: Sequence[int], rng: np.random.Generator) -> list[int]:
    pieces = [[int(t) for t in rng.integers(5, 200, rng.integers(1, 5))] for _ in lengths]
    n_last = [int(rng.integers(1, len(piece) + 1)) for piece in pieces]
    logits = [batch.read(pieces, n_last) for batch in pair]
    torch.testing.assert_close(logits[1], logits[0], atol=1e-4, rtol=1e-4)
    last = torch.tensor(n_last).cumsum(0) - 1
    for batch, of_batch in zip(pair, logits, strict=True):
        batch.logits = of_batch[last]
    return [length + len(piece) for length, piece in zip(lengths, pieces, strict=True)]


def _parted(pair: Pair, lengths: Sequence[int], pool: Pool) -> tuple[Pair, list[int]]:
    """The first row in a batch of its own, another call in between, and both joined, the first row last."""
    rest = list(range(1, len(lengths)))
    parts = [(batch.select([0]), batch.select(rest)) for batch in pair]
    open_fixed(pool, pair[0].loaded, [20] * len(lengths)).read([[7]] * len(lengths), [1] * len(lengths))
    places = [len(rest), *range(len(rest))]
    grown, fixed_ = (first.join([others], places) for first, others in parts)  # type: ignore[list-item]
    assert isinstance(grown, GrowingBatch)
    assert isinstance(fixed_, FixedBatch)
    return (grown, fixed_), [*lengths[1:], lengths[0]]


def test_rows_that_outgrow_their_slots_move(loaded: Loaded) -> None:
    """Into a larger arena, with all that they have read; or it is an error that names the remedy."""
    with torch.inference_mode():
        one = open_growing(loaded, 1)
        one.read([[7]], [1])
        pool = Pool(loaded, PlainLauncher(CPU, False), 2 * (64 + 96) * one.bytes_for(1), lambda: False)
        batch, whole = open_fixed(pool, loaded, [10, 10]), open_growing(loaded, 2, rewinds=True)
        for pieces in ([[9] * 40, [8] * 30], [[7] * 20, [6] * 30]):
            read, grown = batch.read(pieces, [1, 1]), whole.read(pieces, [1, 1])
            torch.testing.assert_close(read, grown, atol=1e-4, rtol=1e-4)
            batch.logits = read
        assert batch.lengths == [60, 60]
        assert batch.lease.shape == Shape(2, 64)
        batch.logits = batch.read([[5] * 20] * 2, [1, 1])
        assert batch.lease.shape == Shape(2, 96)
        torch.testing.assert_close(batch.logits, whole.read([[5] * 20] * 2, [1, 1]), atol=1e-4, rtol=1e-4)
        with pytest.raises(NoRoomError, match=r"GiB of keys and values do not fit .*kv_cache_gib"):
            batch.read([[7] * 20] * 2, [1, 1])


@pytest.mark.parametrize(
    ("used", "told"), [(1, {"memory": 0.25}), (5, {"memory": 1.0}), (ModuleNotFoundError("pynvml"), {})]
)
def test_a_stage_tells_how_full_its_gpu_is(
    used: int | Exception, told: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As NVML says it, whoever uses it; nothing where it cannot be asked, and of a CPU."""

    def nvml(_: torch.device) -> int:
        if isinstance(used, Exception):
            raise used
        return used

    monkeypatch.setattr(torch.cuda, "device_memory_used", nvml)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=4))
    engine = TransformersEngine(stage(Path("nowhere")), "cpu")
    assert engine.gauges() == {}
    engine.device = torch.device("cuda:0")
    assert engine.gauges() == told
    assert SpeculativeEngine(engine, engine, 4).gauges() == told


def test_stages_that_do_not_fit_beside_what_others_were_promised_are_refused_before_loading(
    paths: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the bytes of weights and caches; unloading another stage makes room again."""
    free = 3 * 2**30
    monkeypatch.setattr(memory, "free_bytes", lambda _: free)
    small, large = (fixed(path, name, kv_cache_gib=2) for path, name in zip(paths, "SL", strict=True))
    small.load()
    with pytest.raises(
        StageTooLargeError, match=r"'L' does not fit cpu, where 3 GiB are free: .*2 GiB are promised"
    ):
        large.load()
    assert large._loaded is None
    small.unload()
    large.load()
    n_bytes = sum(parameter.nbytes for parameter in large.loaded.model.parameters())
    assert memory.weight_bytes(large.loaded.model.config, "float32") == n_bytes
    assert memory.weight_bytes(large.loaded.model.config, "bfloat16") == n_bytes // 2
    with pytest.raises(StageTooLargeError, match="its weights are quantised and not counted, its caches 4 "):
        memory.check_room(stage(paths[1], options=FOUR_GIB), None, CPU, is_quantised=True)
