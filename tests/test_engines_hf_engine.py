"""`asd.engines.hf.engine`: the decode loop against `generate()` and a full forward pass; its errors."""

from __future__ import annotations

import itertools
import shutil
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy import stats
from transformers import AutoModelForCausalLM, AutoTokenizer

from asd.engines import Sampling
from asd.engines.hf.engine import TransformersEngine
from asd.engines.revisions import revision
from asd.errors import ConfigError, EngineError, PromptTooLongError
from asd.ladder import Ladder, Stage
from asd.types import Query, Usage
from asd.workloads.tiny import tiny_workloads
from tests.models import CONTEXT, save_random_model, stage
from tests.written import by_generate, in_batches

pytestmark = pytest.mark.usefixtures("one_thread")

# generate() is given the prompts as they stand, so the template that ends a line is left out on both sides
EMBEDDED = [replace(stage, chat_template=False) for stage in Ladder.load("tiny").stages]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_model(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def engine(path: Path) -> TransformersEngine:
    return TransformersEngine(stage(path), "cpu")


def queries(n: int, seed: int = 0, longest: int = 24) -> list[Query]:
    """Prompts of mixed lengths with different room for their answers."""
    rng = np.random.default_rng(seed)
    letters = list("abcdefghijklmnopqrstuvwxyz 0123456789+.")
    return [
        Query(
            id=str(i),
            dataset="d",
            prompt="".join(rng.choice(letters, size=rng.integers(1, longest))),
            max_new_tokens=int(rng.integers(1, 20)),
        )
        for i in range(n)
    ]


def assert_greedy_equals_generate(stage: Stage, asked: Sequence[Query]) -> None:
    """Batch 1 and batch 16 write what `generate()` writes at 1 and 16."""
    model = AutoModelForCausalLM.from_pretrained(stage.model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(stage.model)
    engine = TransformersEngine(stage, "cpu")
    alone = [by_generate(model, tokenizer, [query])[0] for query in asked]
    assert [draft.tokens for draft in in_batches(engine, asked, 1)] == alone
    together = [
        row for i in range(0, len(asked), 16) for row in by_generate(model, tokenizer, asked[i : i + 16])
    ]
    assert [draft.tokens for draft in in_batches(engine, asked, 16)] == together


@pytest.mark.slow
def test_greedy_equals_generate(path: Path) -> None:
    """Greedy answers equal those of `generate()` token for token, at batch 1 and 16."""
    assert_greedy_equals_generate(stage(path), queries(208))


@pytest.mark.slow
@pytest.mark.parametrize("stage", EMBEDDED, ids=lambda stage: stage.name)
def test_embedded_ladder_equals_generate(stage: Stage) -> None:
    """The same holds for the stages that ship with the package, on questions with short answers."""
    held_out = [query for workload in tiny_workloads().values() for query in workload.queries("test", 60)]
    short = [query for query in held_out if len(query.reference or "") <= 8][::3]
    asked = [replace(query, prompt=f"{query.prompt}\n", max_new_tokens=12) for query in short]
    assert len(asked) > 32
    assert_greedy_equals_generate(stage, asked)


def test_random_answers_are_worth_comparing(engine: TransformersEngine) -> None:
    """The random model writes many different tokens; some answers stop, some run out of room."""
    drafts = in_batches(engine, queries(64), 16)
    assert len({token for draft in drafts for token in draft.tokens}) > 60
    assert 10 < sum(draft.finished for draft in drafts) < 54


def test_logprobs_equal_a_full_forward_pass(path: Path, engine: TransformersEngine) -> None:
    """Log-probabilities, greedy and sampled, are those of one pass over prompt and answer without a cache."""
    asked = queries(32)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(path)
    sampled = engine.generate(asked, Sampling(1.3, np.random.default_rng(0)))
    for query, draft in zip(asked * 2, in_batches(engine, asked, 16) + sampled, strict=True):
        prompt = tokenizer(query.prompt)["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([prompt + list(draft.tokens)])).logits[0, len(prompt) - 1 : -1]
        expected = logits.log_softmax(-1)[range(len(draft.tokens)), draft.tokens]
        np.testing.assert_allclose(draft.logprobs, expected.numpy(), atol=1e-4)


def test_samples_follow_the_softmax(path: Path, engine: TransformersEngine) -> None:
    """First tokens sampled at temperature 1.5 are distributed as softmax(logits / 1.5): chi-square."""
    n, prompt = 2048, "sort pear apple"
    asked = [Query(str(i), "d", prompt, max_new_tokens=1) for i in range(n)]
    drafts = engine.generate(asked, Sampling(1.5, np.random.default_rng(7)))
    counts = np.bincount([draft.tokens[0] for draft in drafts], minlength=engine_vocabulary(path))
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    with torch.no_grad():
        ids = AutoTokenizer.from_pretrained(path)(prompt, return_tensors="pt")["input_ids"]
        p = (model(ids).logits[0, -1] / 1.5).softmax(-1).double().numpy()
    common = p * n >= 10
    observed = np.append(counts[common], counts[~common].sum())
    expected = np.append(p[common], p[~common].sum()) * n
    assert common.sum() >= 10
    assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 0.01


def engine_vocabulary(path: Path) -> int:
    return int(AutoModelForCausalLM.from_pretrained(path).config.vocab_size)


def test_same_seed_same_sample(engine: TransformersEngine) -> None:
    """A seed fixes the sample; another seed gives another one."""
    asked = queries(16)
    first, again, other = (
        [d.tokens for d in engine.generate(asked, Sampling(1.0, np.random.default_rng(seed)))]
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_a_sample_does_not_depend_on_when_others_stop(engine: TransformersEngine) -> None:
    """A row's sample stays the same when the rest of its batch runs out of room sooner."""
    asked = [replace(query, max_new_tokens=12) for query in queries(16)]
    hurried = [replace(query, max_new_tokens=1) for query in asked[:15]] + asked[15:]
    full = engine.generate(asked, Sampling(1.0, np.random.default_rng(3)))
    short = engine.generate(hurried, Sampling(1.0, np.random.default_rng(3)))
    assert full[15].tokens == short[15].tokens


def test_answers_end_at_any_stop_token_or_at_their_limit(path: Path, engine: TransformersEngine) -> None:
    """`finished` rows end in one of several stop tokens and hold no other; the rest fill their room."""
    stops = set(AutoModelForCausalLM.from_pretrained(path).generation_config.eos_token_id)
    assert len(stops) == 2
    asked = queries(64)
    drafts = in_batches(engine, asked, 16)
    for query, draft in zip(asked, drafts, strict=True):
        assert stops.isdisjoint(draft.tokens[:-1])
        assert (draft.tokens[-1] in stops) == draft.finished
        assert len(draft.tokens) <= query.max_new_tokens
        assert draft.finished or len(draft.tokens) == query.max_new_tokens
    assert {draft.tokens[-1] for draft in drafts if draft.finished} == stops


def test_the_tokenizer_names_the_stop_token_where_the_checkpoint_does_not(tmp_path: Path) -> None:
    """Without stop tokens in the generation settings the tokenizer's end-of-text token stops."""
    path = save_random_model(tmp_path, n_stops=0)
    tokenizer = AutoTokenizer.from_pretrained(path)
    first = TransformersEngine(stage(path), "cpu").generate([Query("q", "d", "sort", max_new_tokens=6)])[0]
    assert not first.finished
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(first.tokens[2])
    tokenizer.save_pretrained(path)
    draft = TransformersEngine(stage(path), "cpu").generate([Query("q", "d", "sort", max_new_tokens=6)])[0]
    assert draft.finished
    assert draft.tokens == first.tokens[: first.tokens.index(first.tokens[2]) + 1]


def test_drafts_are_complete(path: Path) -> None:
    """Text, counts, stage and seconds of a draft; the order is that of the queries; empty in, empty out."""
    engine = TransformersEngine(stage(path, "tiny"), "cpu", clock=map(float, itertools.count()).__next__)
    tokenizer = AutoTokenizer.from_pretrained(path)
    asked = queries(5)
    drafts = engine.generate(asked)
    for query, draft in zip(asked, drafts, strict=True):
        n = len(draft.tokens)
        assert draft.stage == engine.stage_name == "tiny"
        assert draft.text == tokenizer.decode(draft.tokens, skip_special_tokens=True)
        assert draft.usage == Usage(len(tokenizer(query.prompt)["input_ids"]), n, n)
        assert draft.seconds == 1.0
        assert len(draft.logprobs) == n
    assert engine.generate([]) == []


def test_passes_are_counted_and_ended_rows_leave_the_batch(path: Path) -> None:
    """As many forward passes as the longest answer has tokens; rows that ended are not carried along."""
    engine = TransformersEngine(stage(path), "cpu")
    engine.load()
    assert engine._loaded is not None
    shapes: list[tuple[int, ...]] = []
    engine._loaded.model.register_forward_pre_hook(
        lambda _, __, given: shapes.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    lone = engine.generate([Query("q", "d", "reverse", max_new_tokens=9)])[0]
    assert lone.usage.n_passes == len(shapes)
    shapes.clear()
    drafts = engine.generate(queries(16, seed=1))
    assert max(draft.usage.n_passes for draft in drafts) == len(shapes)
    assert [n for n, _ in shapes] == sorted((n for n, _ in shapes), reverse=True)
    assert shapes[-1][0] <= 4
    assert sum(n for n, _ in shapes) < 16 * len(shapes) * 0.8


def test_a_prompt_may_fill_the_context_exactly(tmp_path: Path) -> None:
    """Prompt and room may take all positions, beside rows of any length; one more is refused with both
    numbers."""
    engine = TransformersEngine(stage(save_random_model(tmp_path, "gpt2", n_stops=0)), "cpu")
    full = Query("full", "d", "1" * (CONTEXT - 1 - 4), max_new_tokens=4)
    longer = Query("short", "d", "1", max_new_tokens=40)
    drafts = engine.generate([full, longer, replace(longer, prompt="2")])  # the first ends, but stays in
    assert [draft.usage.n_prompt + draft.usage.n_decoded for draft in drafts] == [CONTEXT, 42, 42]
    with pytest.raises(
        PromptTooLongError, match=rf"{CONTEXT - 4} prompt tokens .* 5 new .* {CONTEXT} tokens"
    ):
        engine.generate([longer, replace(full, max_new_tokens=5)])


def test_chat_template_wraps_the_prompt(path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With `chat_template` the prompt goes in as one user message; a model without a template is refused.

    To leave out a template that is there is logged.
    """
    with pytest.raises(EngineError, match="chat_template = true, but the tokenizer"):
        TransformersEngine(stage(path, chat_template=True), "cpu").load()
    TransformersEngine(stage(path), "cpu").load()
    assert not caplog.records
    shutil.copytree(path, tmp_path, dirs_exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.chat_template = "{% for m in messages %}<s>{{ m.role }}:{{ m.content }}{% endfor %}"
    tokenizer.save_pretrained(tmp_path)
    wrapped = TransformersEngine(stage(tmp_path, chat_template=True), "cpu").generate(queries(3))
    by_hand = [replace(query, prompt=f"user:{query.prompt}") for query in queries(3)]
    expected = TransformersEngine(stage(path), "cpu").generate(by_hand)
    assert [(d.tokens, d.usage) for d in wrapped] == [(d.tokens, d.usage) for d in expected]
    caplog.clear()
    TransformersEngine(stage(tmp_path), "cpu").load()
    assert "chat_template = true in the ladder uses it" in caplog.text


def test_unload_gives_the_memory_back_and_generate_loads_again(path: Path) -> None:
    """After `unload` the model is gone; the next call answers as before."""
    engine = TransformersEngine(stage(path), "cpu")
    before = engine.generate(queries(3))
    assert engine._loaded is not None
    model = weakref.ref(engine._loaded.model)
    engine.load()
    assert engine._loaded.model is model()
    engine.unload()
    assert model() is None
    engine.synchronise()
    assert [draft.tokens for draft in engine.generate(queries(3))] == [draft.tokens for draft in before]


def test_bfloat16_weights_run_as_float32_on_a_cpu(path: Path, tmp_path: Path) -> None:
    """dtype "auto" is float32 on a CPU whatever was saved; a named dtype is honoured."""
    shutil.copytree(path, tmp_path, dirs_exist_ok=True)
    AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).save_pretrained(tmp_path)
    for dtype, expected in (("auto", torch.float32), ("bfloat16", torch.bfloat16)):
        engine = TransformersEngine(stage(tmp_path, dtype=dtype), "cpu")
        assert len(engine.generate(queries(2))) == 2
        assert engine._loaded is not None
        assert engine._loaded.model.dtype == expected


def test_revision_of_a_directory_follows_its_files(path: Path, tmp_path: Path) -> None:
    """A local model is identified by the hash of its files, wherever they lie."""
    shutil.copytree(path, tmp_path, dirs_exist_ok=True)
    first, copied = (TransformersEngine(stage(place), "cpu").revision for place in (path, tmp_path))
    assert first == copied
    assert first.startswith("sha256:")
    weights = load_file(tmp_path / "model.safetensors")
    weights["lm_head.weight"][0, 0] += 1
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert TransformersEngine(stage(tmp_path), "cpu").revision != first


def test_revision_of_a_hub_model_is_its_commit(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repository in the hub's cache loads by its name and is identified by its commit."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--org--small"
    shutil.copytree(path, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    engine = TransformersEngine(replace(stage(path), model="org/small"), "cpu")
    assert engine.revision == commit
    assert len(engine.generate(queries(2))) == 2
    assert revision(engine.stage) == commit
    with pytest.raises(EngineError, match=r"'S': cannot look up org/other on the hub"):
        revision(replace(engine.stage, model="org/other"))


def _truncate(path: Path) -> None:
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def _garble(path: Path) -> None:
    (path / "model.safetensors").write_bytes(b"\xff" * 1000)


def _drop_tensor(path: Path) -> None:
    weights = load_file(path / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})


def _drop_tokenizer(path: Path) -> None:
    for file in path.glob("tokenizer*"):
        file.unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "is not a directory"),
        (lambda path: (path / "model.safetensors").unlink(), "no weights"),
        (lambda path: (path / "config.json").unlink(), "has no config.json; put"),
        (lambda path: (path / "config.json").write_text("{"), "cannot load the configuration.*; restore"),
        (_truncate, "cannot load the weights.*; restore"),
        (_garble, "cannot load the weights.*; restore"),
        (_drop_tensor, r"tensors missing: \['model.layers.1.mlp.up_proj.weight'\]"),
        (_drop_tokenizer, "cannot load the tokenizer.*there is none; put its files"),
    ],
    ids=["no directory", "no weights", "no config", "bad config", "cut", "garbage", "tensor", "tokenizer"],
)
def test_damaged_models_are_refused(path: Path, tmp_path: Path, damage: Any, message: str) -> None:
    """Missing, cut, garbled or incomplete files raise, naming stage and path: no half model runs."""
    copy = tmp_path / "copy"
    shutil.copytree(path, copy)
    damage(copy)
    with pytest.raises(EngineError, match=message) as raised:
        TransformersEngine(stage(copy), "cpu").generate(queries(1))
    assert str(copy) in str(raised.value)
    assert "'S'" in str(raised.value)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (Query("q7", "d", ""), "'q7' of 'd' has an empty prompt"),
        (Query("q7", "d", "x", max_new_tokens=0), "'q7' of 'd': max_new_tokens must be at least 1, not 0"),
    ],
)
def test_impossible_queries_are_refused(engine: TransformersEngine, query: Query, message: str) -> None:
    """An empty prompt and no room for an answer raise, naming the query."""
    with pytest.raises(ConfigError, match=message):
        engine.generate([query])


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        (Sampling(-1.0, np.random.default_rng(0)), "not -1"),
        (Sampling(float("nan"), np.random.default_rng(0)), "not nan"),
        (Sampling(0.5), "needs a random generator"),
    ],
)
def test_impossible_sampling_is_refused(engine: TransformersEngine, sampling: Sampling, message: str) -> None:
    """A negative or undefined temperature, and sampling without a generator, raise."""
    with pytest.raises(ConfigError, match=message):
        engine.generate(queries(1), sampling)


def test_impossible_engines_are_refused(path: Path) -> None:
    """Unknown devices and options, and a model over several devices, raise."""
    with pytest.raises(ConfigError, match="unknown device 'abacus'"):
        TransformersEngine(stage(path), "abacus")
    for options, message in [
        ({"kv_cache_gib": -1}, "'S': options.transformers: kv_cache_gib must be .* at least 0, got -1"),
        ({"kv_cache_gib": "8"}, r"Expected `float \| null`, got `str`.*kv_cache_gib"),
        ({"kv_cache": 8}, "unknown field `kv_cache`; the known fields are device, kv_cache_gib,"),
        ({"device": "abacus"}, "stage 'S': unknown device 'abacus'"),
        ({"device": 1}, "Expected `str | null`, got `int`.*device"),
        ({"device": "meta"}, "stage 'S': device 'meta' is not here"),
    ]:
        with pytest.raises(ConfigError, match=message):
            TransformersEngine(stage(path, options={"transformers": options}), "cpu")
    with pytest.raises(EngineError, match="tensor_parallel = 2"):
        TransformersEngine(stage(path, tensor_parallel=2), "cpu").load()


def test_a_stage_s_own_device_goes_before_the_run_s(path: Path) -> None:
    """`options.transformers.device` is where the stage runs, whatever the run says of the others."""
    own = stage(path, options={"transformers": {"device": "cpu"}})
    assert TransformersEngine(own, "abacus").device.type == "cpu"


def test_the_default_device_is_one_that_is_there(path: Path) -> None:
    """Without a device the engine takes a CUDA device if there is one, else the CPU."""
    assert TransformersEngine(stage(path)).device.type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_a_device_is_the_same_with_and_without_its_number(path: Path) -> None:
    """So stages that are asked for by either name share it, as a drafter and its verifier must."""
    assert TransformersEngine(stage(path), "cpu:0").device == TransformersEngine(stage(path), "cpu").device
