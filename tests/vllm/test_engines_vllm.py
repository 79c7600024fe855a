"""`asd.engines.vllm.engine` on real vLLM: equal to the transformers engine, lossless, honest counts, clear
errors.

Runs in an environment and a process of its own: vLLM changes the process it runs in.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import AutoModelForCausalLM, AutoTokenizer
from vllm import EngineArgs
from vllm.config.compilation import CompilationMode, CUDAGraphMode

from asd.cancellation import CancelToken, cancellable
from asd.engines import Acceptance, Sampling, Verifier
from asd.engines.batches import in_batches
from asd.engines.hf.engine import TransformersEngine
from asd.engines.vllm import loader
from asd.engines.vllm.engine import VllmEngine
from asd.errors import (
    ConfigError,
    EngineError,
    OutOfMemoryError,
    PromptTooLongError,
    StageTooLargeError,
    UnavailableError,
)
from asd.ladder import Ladder, Stage
from asd.types import NO_CALL, Draft, Query, Usage
from asd.workloads.catalogue import find_workloads, workload_names
from tests.models import CONTEXT, save_random_model
from tests.models import stage as stage_of

TINY = {stage.name: stage for stage in Ladder.load("tiny").stages}
EMBEDDED_DATASETS = [name for name in workload_names() if name.startswith("tiny-")]
N_ITEMS = 24
NEAR_TIE = 1e-4
BLOCK = 32
"""Tokens of a block of vLLM's cache on a CPU."""
CACHE = 1 << 26
"""Bytes of it: enough here, and soon filled with zeros."""


def stage(path: Path, *, chat_template: bool = False, **options: object) -> Stage:
    """The stage that runs the model saved at `path`, with vLLM's options."""
    vllm = {"kv_cache_memory_bytes": CACHE} | options
    return stage_of(path, chat_template=chat_template, options={"vllm": vllm})


@pytest.fixture(scope="session")
def tiny() -> dict[str, VllmEngine]:
    """The embedded ladder in vLLM."""
    return {name: VllmEngine(stage, "cpu") for name, stage in TINY.items()}


@pytest.fixture(scope="session")
def reference() -> dict[str, TransformersEngine]:
    """The embedded ladder in transformers."""
    return {name: TransformersEngine(stage, "cpu") for name, stage in TINY.items()}


@pytest.fixture(scope="session")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights in the shape of Qwen2."""
    return save_random_model(tmp_path_factory.mktemp("qwen2"), "qwen2")


@pytest.fixture(scope="session")
def engine(path: Path) -> VllmEngine:
    return VllmEngine(stage(path), "cpu", clock=map(float, count()).__next__)


def questions(dataset: str, n: int = N_ITEMS) -> list[Query]:
    [workload] = find_workloads([dataset])
    return list(workload.queries("test", n))


def prompts(n: int, seed: int = 0, longest: int = 24, room: int = 20) -> list[Query]:
    """Prompts of mixed lengths with different room for their answers."""
    rng, letters = np.random.default_rng(seed), list("abcdefghijklmnopqrstuvwxyz 0123456789+.")
    return [
        Query(
            str(i),
            "d",
            "".join(rng.choice(letters, rng.integers(1, longest))),
            None,
            int(rng.integers(1, room)),
        )
        for i in range(n)
    ]


def assert_same_answers(ours: Sequence[Draft], theirs: Sequence[Draft], most_ties: int) -> None:
    """Token for token, but for near-ties: both engines hold both tokens for equally probable there."""
    n_ties = 0
    for a, b in zip(ours, theirs, strict=True):
        same = [x == y for x, y in zip(a.tokens, b.tokens, strict=False)]
        n = same.index(False) if False in same else len(same)
        np.testing.assert_allclose(a.logprobs[:n], b.logprobs[:n], atol=NEAR_TIE)
        if a.tokens == b.tokens:
            assert (a.text, a.finished) == (b.text, b.finished)
        else:
            assert abs(a.logprobs[n] - b.logprobs[n]) < NEAR_TIE
            n_ties += 1
    assert n_ties <= most_ties


@pytest.mark.parametrize("dataset", EMBEDDED_DATASETS)
@pytest.mark.parametrize("name", TINY)
def test_answers_equal_the_transformers_engines(
    tiny: dict[str, VllmEngine], reference: dict[str, TransformersEngine], name: str, dataset: str
) -> None:
    """Text, tokens and log-probabilities of the embedded ladder, greedy, in float32, on every dataset."""
    asked = questions(dataset)
    assert_same_answers(tiny[name].generate(asked), reference[name].generate(asked), most_ties=1)


def test_usage_equals_the_transformers_engines(
    tiny: dict[str, VllmEngine], reference: dict[str, TransformersEngine]
) -> None:
    """Prompt tokens, decoded tokens and passes are counted alike, so prices mean the same."""
    asked = questions("tiny-text")
    ours, theirs = tiny["S"].generate(asked), reference["S"].generate(asked)
    pairs = [(a.usage, b.usage) for a, b in zip(ours, theirs, strict=True) if a.tokens == b.tokens]
    assert len(pairs) >= N_ITEMS - 1
    assert all(a == b for a, b in pairs)


@pytest.mark.parametrize("dataset", EMBEDDED_DATASETS)
def test_continuing_a_verified_draft_is_lossless(tiny: dict[str, VllmEngine], dataset: str) -> None:
    """L's answer after reading S's draft is the answer that L writes alone, on every dataset."""
    asked = questions(dataset)
    drafts, alone = tiny["S"].generate(asked), tiny["L"].generate(asked)
    verifications = tiny["L"].verify(asked, drafts)
    assert_same_answers(tiny["L"].continue_(asked, verifications), alone, most_ties=1)


def test_verifications_equal_the_transformers_engines(
    tiny: dict[str, VllmEngine], reference: dict[str, TransformersEngine]
) -> None:
    """Tokens, log-probabilities, accepted prefixes and counts of L reading S, on two datasets."""
    asked = questions("tiny-arithmetic") + questions("tiny-reasoning")
    drafts = tiny["S"].generate(asked)
    assert isinstance(reference["L"], Verifier)
    n_differ = 0
    for ours, theirs in zip(
        tiny["L"].verify(asked, drafts), reference["L"].verify(asked, drafts), strict=True
    ):
        assert (ours.stage, ours.drafter, ours.tokens) == (theirs.stage, theirs.drafter, theirs.tokens)
        np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=1e-3)
        assert ours.usage == theirs.usage
        n_differ += ours.n_accepted != theirs.n_accepted
    assert n_differ <= 1


def test_accepted_prefixes_end_where_the_answers_part(tiny: dict[str, VllmEngine]) -> None:
    """A prefix is as long as what the draft has in common with L's own answer; all kinds occur."""
    asked = [q for dataset in EMBEDDED_DATASETS for q in questions(dataset)]
    drafts, alone = tiny["S"].generate(asked), tiny["L"].generate(asked)
    n_off = 0
    for verification, draft, own in zip(tiny["L"].verify(asked, drafts), drafts, alone, strict=True):
        same = [a == b for a, b in zip(draft.tokens, own.tokens, strict=False)]
        n_off += verification.n_accepted != (same.index(False) if False in same else len(same))
        assert verification.usage.n_verified == len(draft.tokens) == len(verification.tokens)
    assert n_off <= 1
    kinds = {(v.n_accepted == 0, v.accepted) for v in tiny["L"].verify(asked, drafts)}
    assert len(kinds) >= 2


def test_a_draft_accepted_whole_costs_no_call(engine: VllmEngine) -> None:
    """Verifying a stage's own answers accepts them all, and continuing them is free."""
    asked = prompts(16)
    own = engine.generate(asked)
    verifications = engine.verify(asked, own)
    assert all(v.accepted for v in verifications)
    for a, b in zip(engine.continue_(asked, verifications), own, strict=True):
        assert (a.tokens, a.text, a.finished, a.usage) == (b.tokens, b.text, b.finished, NO_CALL)


@pytest.mark.parametrize("text", ["", "zebra crossing 123", "the quick brown fox é☃"])
@pytest.mark.parametrize("finished", [True, False])
def test_any_text_is_a_draft(engine: VllmEngine, text: str, finished: bool) -> None:
    """Drafts of strangers, with another tokenizer's tokens or none, change nothing but the cost."""
    asked = prompts(6, seed=1)
    strange = [Draft("other", text, (10**6, 7), (-1.0, -1.0), finished, Usage(1, 2, 2), 0.0)] * len(asked)
    verifications = engine.verify(asked, strange)
    for query, verification in zip(asked, verifications, strict=True):
        assert len(verification.tokens) <= query.max_new_tokens
    for a, b in zip(engine.continue_(asked, verifications), engine.generate(asked), strict=True):
        assert (a.tokens, a.text, a.finished) == (b.tokens, b.text, b.finished)
        np.testing.assert_allclose(a.logprobs, b.logprobs, atol=NEAR_TIE)


def cut_wrong(draft: Draft, n: int) -> Draft:
    """The first n tokens of a draft and then one that it does not have."""
    return replace(draft, tokens=(*draft.tokens[:n], (draft.tokens[n] + 1) % 300), finished=False, text="?")


def test_cached_tokens_are_counted_and_only_whole_blocks_are_saved(engine: VllmEngine, path: Path) -> None:
    """A continuation pays for its prompt and prefix, less the blocks that verifying left in the cache."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    for n_chars in (3, 150):
        query = Query("q", "d", "7" * n_chars, max_new_tokens=8)
        [own] = engine.generate([query])
        [verification] = engine.verify([query], [own])
        assert verification.usage == Usage(own.usage.n_prompt, 0, 1, len(own.tokens))
        n_kept = 2
        [rest] = engine.continue_([query], [replace(verification, n_accepted=n_kept)])
        n_read = len(tokenizer(query.prompt)["input_ids"]) + n_kept
        assert rest.tokens == own.tokens
        n_new = len(own.tokens) - n_kept
        assert rest.usage == Usage(n_read - (n_read - 1) // BLOCK * BLOCK, n_new, n_new)


def test_answers_never_come_out_of_the_cache(engine: VllmEngine) -> None:
    """The same long prompt is paid for each time: usage does not depend on what was asked before."""
    query = Query("q", "d", "8" * 150, max_new_tokens=3)
    first, again = engine.generate([query])[0], engine.generate([query])[0]
    assert first.usage == again.usage
    assert first.usage.n_prompt > 4 * BLOCK
    assert engine.verify([query], [first])[0].usage == engine.verify([query], [first])[0].usage


def test_lenient_acceptance_takes_near_favourites(engine: VllmEngine) -> None:
    """A tolerance accepts tokens down to that share of the favourite's probability, so prefixes only grow."""
    asked = prompts(24, seed=2, room=12)
    drafts = engine.generate(asked, Sampling(1.0, np.random.default_rng(0)))
    strict = engine.verify(asked, drafts)
    prefixes = [
        [v.n_accepted for v in engine.verify(asked, drafts, Acceptance(tolerance=tolerance))]
        for tolerance in (1.0, 0.3, 1e-9)
    ]
    assert prefixes[0] == [v.n_accepted for v in strict]
    assert prefixes[2] == [len(v.tokens) for v in strict]
    assert sum(prefixes[0]) < sum(prefixes[1]) < sum(prefixes[2])
    assert all(a <= b <= c for a, b, c in zip(*prefixes, strict=True))


def test_samples_follow_the_softmax(engine: VllmEngine, path: Path) -> None:
    """First tokens at temperature 1.5 follow softmax(logits / 1.5); log-probabilities are at 1."""
    n, prompt = 1024, "sort pear apple"
    drafts = engine.generate(
        [Query(str(i), "d", prompt, max_new_tokens=1) for i in range(n)], Sampling(1.5, rng())
    )
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    with torch.no_grad():
        logits = model(AutoTokenizer.from_pretrained(path)(prompt, return_tensors="pt")["input_ids"]).logits[
            0, -1
        ]
    p, logprobs = (logits / 1.5).softmax(-1).double().numpy(), logits.log_softmax(-1).numpy()
    observed = np.bincount([draft.tokens[0] for draft in drafts], minlength=len(p))
    common = p * n >= 5
    assert common.sum() >= 10
    groups = [np.append(x[common], x[~common].sum()) for x in (observed, p * n)]
    assert stats.chisquare(groups[0], groups[1] * n / groups[1].sum()).pvalue > 0.01
    np.testing.assert_allclose(
        [d.logprobs[0] for d in drafts], [logprobs[d.tokens[0]] for d in drafts], atol=1e-4
    )


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_same_seed_same_sample(engine: VllmEngine) -> None:
    """A generator fixes the sample, whatever else is in the batch; another one gives another."""
    asked = [replace(query, max_new_tokens=12) for query in prompts(8)]
    first, again, other = (
        [d.tokens for d in engine.generate(asked, Sampling(1.0, rng(s)))] for s in (1, 1, 2)
    )
    assert first == again
    assert first != other
    assert engine.generate(asked[:1], Sampling(1.0, rng(1)))[0].tokens == first[0]


def test_drafts_are_complete(engine: VllmEngine, path: Path) -> None:
    """Stage, text, seconds of the batch and the order of the queries; empty in, empty out."""
    asked, tokenizer = prompts(5), AutoTokenizer.from_pretrained(path)
    drafts = engine.generate(asked)
    for query, draft in zip(asked, drafts, strict=True):
        assert (draft.stage, draft.seconds) == ("S", 1.0)
        assert draft.text == tokenizer.decode(draft.tokens, skip_special_tokens=True)
        assert draft.usage == Usage(
            len(tokenizer(query.prompt)["input_ids"]), len(draft.tokens), len(draft.tokens)
        )
        assert draft.finished or len(draft.tokens) == query.max_new_tokens
    assert {draft.finished for draft in engine.generate(prompts(32))} == {True, False}
    assert engine.generate([]) == engine.verify([], []) == engine.continue_([], []) == []


def test_stop_tokens_and_context_equal_the_transformers_engines(engine: VllmEngine, path: Path) -> None:
    """Several stop tokens, prompts that fill the context exactly, and one token more."""
    theirs = TransformersEngine(stage(path), "cpu")
    full = Query("full", "d", "1" * (CONTEXT - 1 - 6), max_new_tokens=6)
    asked = [*prompts(32, seed=5), full]
    drafts = engine.generate(asked)
    assert_same_answers(drafts, theirs.generate(asked), most_ties=1)
    assert len({draft.tokens[-1] for draft in drafts if draft.finished}) == 2
    verifications = engine.verify([full], [replace(drafts[-1], finished=False)])
    assert engine.continue_([full], verifications)[0].tokens == drafts[-1].tokens
    with pytest.raises(
        PromptTooLongError, match=rf"{CONTEXT - 6} prompt tokens .* 7 new .* {CONTEXT} tokens"
    ):
        engine.generate([replace(full, max_new_tokens=7)])


def test_its_own_speculation_changes_passes_and_nothing_else(path: Path, engine: VllmEngine) -> None:
    """A draft model or n-grams inside vLLM: the same tokens in fewer passes, and passes are what is counted.

    n-grams bring numba, beside which vLLM by itself would start no further stage.
    """
    asked = [replace(query, max_new_tokens=40) for query in prompts(6, seed=3)]
    plain = engine.generate(asked)
    for speculation in (
        {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3},
        {"method": "draft_model", "model": str(path), "num_speculative_tokens": 3},
    ):
        faster = VllmEngine(stage(path, speculative_config=speculation), "cpu")
        drafts = faster.generate(asked)
        assert [d.tokens for d in drafts] == [d.tokens for d in plain]
        assert all(d.usage.n_decoded == len(d.tokens) for d in drafts)
        assert all(d.usage.n_passes <= len(d.tokens) for d in drafts)
        faster.unload()
    assert sum(d.usage.n_passes for d in drafts) < 0.6 * sum(len(d.tokens) for d in drafts)


def test_unloading_one_stage_leaves_the_others(path: Path, tiny: dict[str, VllmEngine]) -> None:
    """After `unload` the others answer as before, and so does the stage itself when it is asked again."""
    asked = prompts(3)
    own, other = VllmEngine(stage(path), "cpu"), tiny["S"].generate(questions("tiny-text", 3))
    before = [d.tokens for d in own.generate(asked)]
    own.unload()
    own.unload()
    own.synchronise()
    assert [d.tokens for d in tiny["S"].generate(questions("tiny-text", 3))] == [d.tokens for d in other]
    assert [d.tokens for d in own.generate(asked)] == before


def test_a_failed_call_leaves_nothing_behind(engine: VllmEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests of a call that failed are gone; a dead process is started anew."""
    asked = prompts(4)
    before = [d.tokens for d in engine.generate(asked)]
    vllm = engine._ready().engine

    def fail(error: BaseException) -> None:
        def step() -> None:
            raise error

        monkeypatch.setattr(vllm, "step", step)

    fail(RuntimeError("out of memory"))
    with pytest.raises(EngineError, match="'S': vLLM cannot answer: out of memory"):
        engine.generate(asked)
    fail(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        engine.generate(asked)
    monkeypatch.undo()
    assert not vllm.has_unfinished_requests()
    assert [d.tokens for d in engine.generate(asked)] == before
    from vllm.v1.engine.exceptions import EngineDeadError  # noqa: PLC0415

    fail(EngineDeadError())
    with pytest.raises(UnavailableError, match="'S': vLLM's process died"):
        engine.generate(asked)
    assert [d.tokens for d in engine.generate(asked)] == before


def test_revision_is_recorded(engine: VllmEngine, path: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """The hash of a local model's files, or the commit that the hub's cache has; as the other engine says."""
    assert engine.revision == TransformersEngine(stage(path), "cpu").revision
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--org--small"
    shutil.copytree(path, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    from_hub = VllmEngine(replace(stage(path), model="org/small"), "cpu")
    assert from_hub.revision == commit
    assert from_hub.generate(prompts(2))[1].tokens == engine.generate(prompts(2))[1].tokens


def test_chat_template_wraps_the_prompt(path: Path, tmp_path: Path) -> None:
    """With `chat_template` the prompt goes in as one user message; a model without a template is refused."""
    with pytest.raises(EngineError, match="chat_template = true, but the tokenizer"):
        VllmEngine(stage(path, chat_template=True), "cpu").load()
    shutil.copytree(path, tmp_path, dirs_exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.chat_template = "{% for m in messages %}<s>{{ m.role }}:{{ m.content }}{% endfor %}"
    tokenizer.save_pretrained(tmp_path)
    chat = stage(tmp_path, chat_template=True)
    ours, theirs = (kind(chat, "cpu").generate(prompts(3)) for kind in (VllmEngine, TransformersEngine))
    assert [(d.tokens, d.usage) for d in ours] == [(d.tokens, d.usage) for d in theirs]


def test_template_variables_reach_the_template(tmp_path: Path) -> None:
    """The stage's variables change what it reads; one that the template does not have is refused."""
    own = shutil.copytree(TINY["S"].model, tmp_path / "S")
    with (own / "chat_template.jinja").open("a") as template:
        template.write("{% if enable_thinking is defined and not enable_thinking %}=={% endif %}")
    asked = Query("q", "d", "add 2+3", max_new_tokens=4)

    def opened(**kwargs: object) -> VllmEngine:
        return VllmEngine(replace(stage(own, chat_template=True), chat_template_kwargs=kwargs), "cpu")

    counts = [
        engine.generate([asked])[0].usage.n_prompt for engine in (opened(), opened(enable_thinking=False))
    ]
    assert counts == [7, 9]
    with pytest.raises(ConfigError, match="no variable 'thinking'"):
        opened(thinking=False).load()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_model_length": 64}, "no argument 'max_model_length'; close to it: max_model_len"),
        ({"model": "other"}, "must not set 'model'"),
        ({"trust_remote_code": True}, "must not set 'trust_remote_code'"),
    ],
)
def test_wrong_options_are_refused(path: Path, options: dict[str, object], message: str) -> None:
    """What vLLM does not know, and what the stage itself decides, cannot be set."""
    with pytest.raises(ConfigError, match=message):
        VllmEngine(stage(path, **options), "cpu").load()


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM as it is built for GPUs, as far as settings go."""
    monkeypatch.setattr(loader, "is_cpu_build", lambda: False)


def test_a_gpu_captures_its_steps_and_caches_prefixes(on_a_gpu: None, path: Path) -> None:
    """CUDA graphs on, prefix caching on, no cache of a CPU's size, the checkpoint's dtype; every name is one
    that vLLM knows, and what the ladder says goes before."""
    speculation = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3}
    options = {"gpu_memory_utilization": 0.2, "speculative_config": speculation}
    plain = stage_of(path, options={"vllm": options})
    settings = loader._settings(plain, None, None, EngineArgs)
    args = EngineArgs(**settings)
    assert (args.enforce_eager, args.enable_prefix_caching, args.dtype) == (False, True, "auto")
    assert (args.kv_cache_memory_bytes, args.gpu_memory_utilization) == (None, 0.2)
    assert args.speculative_config == speculation
    asked = stage_of(path, options={"vllm": {"enforce_eager": True, "enable_prefix_caching": False}})
    args = EngineArgs(**loader._settings(asked, None, None, EngineArgs))
    assert (args.enforce_eager, args.enable_prefix_caching) == (True, False)
    assert [loader.asked_steps(stage) for stage in (plain, asked)] == ["compiled", "eager"]


@pytest.mark.parametrize(
    ("graphs", "compilation", "mode"),
    [
        (CUDAGraphMode.NONE, CompilationMode.VLLM_COMPILE, "eager"),
        (CUDAGraphMode.FULL, CompilationMode.NONE, "graph"),
        (CUDAGraphMode.FULL_AND_PIECEWISE, CompilationMode.VLLM_COMPILE, "compiled"),
    ],
)
def test_steps_are_what_came_of_the_configuration(
    engine: VllmEngine,
    monkeypatch: pytest.MonkeyPatch,
    graphs: CUDAGraphMode,
    compilation: CompilationMode,
    mode: str,
) -> None:
    """Not what was asked for: a platform that cannot capture says so in vLLM's own settings."""
    engine.load()
    settings = engine._ready().engine.vllm_config.compilation_config
    assert engine.step_mode == "eager"
    monkeypatch.setattr(settings, "cudagraph_mode", graphs)
    monkeypatch.setattr(settings, "mode", compilation)
    assert engine.step_mode == mode


def test_options_reach_vllm(path: Path) -> None:
    """A shorter context shows in what is refused; values that vLLM refuses are an error that says why."""
    short = VllmEngine(stage(path, max_model_len=64), "cpu")
    with pytest.raises(PromptTooLongError, match="64 tokens"):
        short.generate([Query("q", "d", "1" * 60, max_new_tokens=20)])
    with pytest.raises(EngineError, match=r"(?s)stage 'S': vLLM cannot load .*max_model_len"):
        VllmEngine(stage(path, max_model_len=10**6), "cpu").load()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "is not a directory"),
        (lambda path: (path / "config.json").write_text("{"), "cannot load"),
        (lambda path: (path / "model.safetensors").write_bytes(b"\xff" * 1000), "cannot load"),
        (lambda path: [file.unlink() for file in path.glob("tokenizer*")], "cannot load"),
    ],
    ids=["no directory", "bad config", "garbage", "tokenizer"],
)
def test_damaged_models_are_refused(path: Path, tmp_path: Path, damage: Any, message: str) -> None:
    """Missing or broken files raise, naming stage and path."""
    copy = tmp_path / "copy"
    shutil.copytree(path, copy)
    damage(copy)
    with pytest.raises(EngineError, match=message) as raised:
        VllmEngine(stage(copy), "cpu").generate(prompts(1))
    assert str(copy) in str(raised.value)
    assert "'S'" in str(raised.value)


def test_heads_that_a_cpu_cannot_run_are_refused_at_loading(path: Path, tmp_path: Path) -> None:
    """vLLM would fail at the first request."""
    config = AutoModelForCausalLM.from_pretrained(path).config
    config.num_attention_heads, config.num_key_value_heads = 6, 6
    config.head_dim = 16
    shutil.copytree(path, tmp_path, dirs_exist_ok=True)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(EngineError, match="have 16; use the transformers engine"):
        VllmEngine(stage(tmp_path), "cpu").load()


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps"])
def test_other_devices_are_refused(path: Path, device: str) -> None:
    """What is installed here runs on a CPU."""
    with pytest.raises(ConfigError, match=f"device {device}: the vLLM that is installed runs on cpu"):
        VllmEngine(stage(path), device)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e: e.generate([Query("q", "d", "")]), "'q' of 'd' has an empty prompt"),
        (lambda e: e.generate([Query("q", "d", "x", max_new_tokens=0)]), "at least 1, not 0"),
        (lambda e: e.generate(prompts(1), Sampling(-1.0)), "not -1"),
        (lambda e: e.generate(prompts(1), Sampling(float("nan"))), "not nan"),
        (lambda e: e.generate(prompts(1), Sampling(0.5)), "needs a random generator"),
        (
            lambda e: e.verify(prompts(1), e.generate(prompts(1)), Acceptance(Sampling(1.0, rng()))),
            "temperature 0",
        ),
        (
            lambda e: e.verify(prompts(1), e.generate(prompts(1)), Acceptance(tolerance=0.0)),
            "tolerance must be",
        ),
    ],
)
def test_impossible_calls_are_refused(engine: VllmEngine, call: Any, message: str) -> None:
    """Wrong prompts, sampling and acceptance raise, naming the value."""
    with pytest.raises(ConfigError, match=message):
        call(engine)


def test_only_the_stage_that_verified_goes_on(engine: VllmEngine, tiny: dict[str, VllmEngine]) -> None:
    """A verification of another stage says nothing about this one."""
    asked = questions("tiny-text", 1)
    verifications = tiny["M"].verify(asked, tiny["S"].generate(asked))
    with pytest.raises(ConfigError, match="'M' verified, so 'S' cannot continue"):
        engine.continue_(asked, verifications)


def test_a_stage_is_a_verifier(path: Path) -> None:
    """The engine follows the protocol that the cascade asks for."""
    assert isinstance(VllmEngine(stage(path), None), Verifier)


def test_short_of_memory(engine: VllmEngine, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that this machine cannot hold is named so at load; a batch that does not fit can be halved."""
    huge = VllmEngine(stage(path, kv_cache_memory_bytes=1 << 50), "cpu")
    with pytest.raises(StageTooLargeError, match="does not fit into the memory that vLLM may use"):
        huge.load()
    asked = prompts(4)
    before = [draft.tokens for draft in engine.generate(asked)]
    vllm = engine._ready().engine
    step = vllm.step

    def short() -> object:
        if vllm.get_num_unfinished_requests() > 2:
            torch.empty(1 << 50)
        return step()

    monkeypatch.setattr(vllm, "step", short)
    with pytest.raises(OutOfMemoryError, match="can't allocate memory"):
        engine.generate(asked)
    found = [draft for batch in in_batches(engine, asked, 4) for draft in batch.items()]
    assert [draft.tokens for _, draft in sorted(found)] == before


def test_a_stage_is_a_context_manager(path: Path) -> None:
    """Its end closes vLLM's engine; closing again does nothing, and asking starts it again."""
    with VllmEngine(stage(path), "cpu") as engine:
        before = [draft.tokens for draft in engine.generate(prompts(2))]
    assert engine._running is None
    engine.close()
    assert [draft.tokens for draft in engine.generate(prompts(2))] == before
    engine.close()


def test_a_cancelled_request_is_taken_out_of_vllm_and_the_others_go_on(path: Path) -> None:
    """After the pass that runs; its draft is the beginning of its answer and counts what was computed."""
    asked = [Query(str(i), "d", f"row {i}", max_new_tokens=24) for i in range(6)]
    with VllmEngine(stage(path), "cpu") as engine:
        whole = engine.generate(asked)
        at = max(range(len(asked)), key=lambda i: len(whole[i].tokens))
        tokens = [CancelToken() for _ in asked]
        tokens[at].cancel()
        with cancellable(asked, tokens):
            cut = engine.generate(asked)
        again = engine.generate(asked)
    others = [i for i in range(len(asked)) if i != at]
    assert [cut[i].tokens for i in others] == [whole[i].tokens for i in others]
    n = len(cut[at].tokens)
    assert 0 < n < len(whole[at].tokens)
    assert cut[at].tokens == whole[at].tokens[:n]
    assert cut[at].usage.n_decoded == n
    assert not cut[at].finished
    assert [draft.tokens for draft in again] == [draft.tokens for draft in whole]
