"""`asd.engines.hf.speculation`: the verifier's answers in fewer of its passes, and where that pays."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import AutoModelForCausalLM, AutoTokenizer

from asd.engines import Acceptance, Drafted, Sampling, Verifier
from asd.engines.hf.engine import TransformersEngine
from asd.engines.hf.speculation import SpeculativeEngine
from asd.errors import ConfigError, EngineError, PromptTooLongError
from asd.types import Query
from bench.metrics.rivals import ASSISTED, OWN, PLAIN, SPECULATIVE, rival_turns
from tests.models import save_pair, stage

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A random model, and one like it whose weights were shaken: they agree on most tokens."""
    return save_pair(tmp_path_factory.mktemp("pair"))


def pair(paths: tuple[Path, Path]) -> tuple[TransformersEngine, TransformersEngine]:
    small, large = paths
    return TransformersEngine(stage(small, "S"), "cpu"), TransformersEngine(stage(large, "L"), "cpu")


def questions(n: int, seed: int = 0) -> list[Query]:
    rng = np.random.default_rng(seed)
    letters = list("abcdefghijklmnopqrstuvwxyz 0123456789+.")
    prompts = ["".join(rng.choice(letters, size=rng.integers(2, 20))) for _ in range(n)]
    return [Query(str(i), "d", p, None, int(rng.integers(1, 24))) for i, p in enumerate(prompts)]


@pytest.mark.slow
@pytest.mark.parametrize(("size", "block"), [(1, 1), (1, 4), (7, 3), (16, 12)])
def test_speculation_is_lossless(paths: tuple[Path, Path], size: int, block: int) -> None:
    """Greedy answers are those of the verifier alone, at any block length and batch size."""
    drafter, verifier = pair(paths)
    engine: Drafted = SpeculativeEngine(drafter, verifier, block)
    assert engine.alone is verifier
    asked = questions(32)
    for start in range(0, 32, size):
        batch = asked[start : start + size]
        own, fast = verifier.generate(batch), engine.generate(batch)
        assert [(d.tokens, d.text, d.finished, d.stage) for d in fast] == [
            (d.tokens, d.text, d.finished, "L") for d in own
        ]
        for a, b in zip(fast, own, strict=True):
            np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("size", [1, 4, 16])
def test_going_on_in_blocks_is_lossless(paths: tuple[Path, Path], size: int, kept: bool) -> None:
    """After any accepted prefix, with the cache or without, the answer is the verifier's own."""
    drafter, verifier = pair(paths)
    engine = SpeculativeEngine(drafter, verifier, 4)
    asked = questions(32)
    n_saved = 0
    for start in range(0, 32, size):
        batch = asked[start : start + size]
        own, drafts = verifier.generate(batch), drafter.generate(batch)
        read = engine.verify(batch, drafts)
        if not kept:
            verifier._keeper.clear()
        found = engine.continue_(batch, read)
        assert [(d.tokens, d.text, d.finished, d.stage) for d in found] == [
            (d.tokens, d.text, d.finished, "L") for d in own
        ]
        for a, b in zip(found, own, strict=True):
            np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-3)
        n_saved += sum(d.usage.n_saved for d in found)
    assert n_saved > 24


@pytest.mark.slow
def test_going_on_counts_as_without_the_drafter(paths: tuple[Path, Path]) -> None:
    """Passes made and saved are the passes of going on alone; both models' own passes are what is counted."""
    drafter, verifier = pair(paths)
    engine = SpeculativeEngine(drafter, verifier, 3)
    engine.load()
    passes = {"S": 0, "L": 0}
    for name, loaded in (("S", drafter.loaded), ("L", verifier.loaded)):
        loaded.model.register_forward_pre_hook(lambda *_, name=name: passes.update({name: passes[name] + 1}))
    for query in questions(24):
        drafts = drafter.generate([query])
        [alone] = verifier.continue_([query], verifier.verify([query], drafts))
        read = engine.verify([query], drafts)
        passes.update(S=0, L=0)
        usage = engine.continue_([query], read)[0].usage
        assert (usage.n_passes, usage.n_drafted) == (passes["L"], passes["S"])
        assert usage.n_passes + usage.n_saved == alone.usage.n_passes
        assert usage.n_prompt == alone.usage.n_prompt == 0


def test_samples_go_on_without_the_drafter(paths: tuple[Path, Path]) -> None:
    """A sampled continuation is the verifier's own, draw for draw."""
    drafter, verifier = pair(paths)
    asked = questions(6)
    drafts = drafter.generate(asked)

    def go_on(engine: Verifier) -> list[tuple[int, ...]]:
        acceptance = Acceptance(Sampling(1.0, np.random.default_rng(2)))
        return [
            d.tokens for d in engine.continue_(asked, engine.verify(asked, drafts, acceptance), acceptance)
        ]

    assert go_on(SpeculativeEngine(drafter, verifier, 3)) == go_on(verifier)


@pytest.mark.slow
@pytest.mark.parametrize("block", [1, 5])
def test_passes_and_tokens_add_up(paths: tuple[Path, Path], block: int) -> None:
    """One verifying pass a round; an answer is what was accepted and an own token a round, its end aside."""
    drafter, verifier = pair(paths)
    engine = SpeculativeEngine(drafter, verifier, block)
    engine.load()
    passes = {"S": 0, "L": 0}
    for name, loaded in (("S", drafter.loaded), ("L", verifier.loaded)):
        loaded.model.register_forward_pre_hook(lambda *_, name=name: passes.update({name: passes[name] + 1}))
    n_saved = 0
    for query in questions(24):
        passes.update(S=0, L=0)
        [result] = engine.speculate([query])
        usage, n = result.draft.usage, len(result.draft.tokens)
        assert usage.n_passes == passes["L"] == len(result.accepted)
        assert usage.n_drafted == passes["S"]
        assert usage.n_decoded == n == usage.n_passes + usage.n_saved
        assert usage.n_drafted >= sum(result.accepted)
        assert max(result.accepted) <= block
        assert usage.n_prompt == len(verifier.loaded.tokenizer(query.prompt)["input_ids"])
        n_saved += n - usage.n_passes
    assert n_saved > 24


def test_nothing_is_read_twice(paths: tuple[Path, Path]) -> None:
    """Either model reads prompt, drafts and own tokens once; only what was rejected was read in vain."""
    drafter, verifier = pair(paths)
    engine = SpeculativeEngine(drafter, verifier, 4)
    engine.load()
    n_read = {"S": 0, "L": 0}

    def count(name: str, n: int) -> None:
        n_read[name] += n

    for name, loaded in (("S", drafter.loaded), ("L", verifier.loaded)):
        loaded.model.register_forward_pre_hook(
            lambda _, __, given, name=name: count(name, given["input_ids"].shape[1]), with_kwargs=True
        )
    for query in questions(12):
        n_read.update(S=0, L=0)
        [result] = engine.speculate([query])
        usage = result.draft.usage
        n_rounds = len(result.accepted)
        assert n_read["L"] <= usage.n_prompt + usage.n_drafted + n_rounds - 1
        assert n_read["S"] <= usage.n_prompt + usage.n_drafted + n_rounds


@pytest.mark.slow
def test_samples_follow_the_verifier(paths: tuple[Path, Path]) -> None:
    """First and second tokens sampled by speculation are distributed as the verifier's own: chi-square."""
    drafter, verifier = pair(paths)
    n = 3000
    asked = [Query(str(i), "d", "sort pear", max_new_tokens=3) for i in range(n)]
    rng = np.random.default_rng(5)
    results = SpeculativeEngine(drafter, verifier, 2).speculate(asked, Sampling(1.2, rng))
    assert len({result.accepted[0] for result in results}) == 3
    own = verifier.generate(asked, Sampling(1.2, rng))
    for place in (0, 1):
        written = _counts([r.draft.tokens[place] for r in results if len(r.draft.tokens) > place])
        expected = _counts([d.tokens[place] for d in own if len(d.tokens) > place])
        common = (written + expected) >= 20
        table = np.array([np.append(c[common], c[~common].sum()) for c in (written, expected)])
        assert table.shape[1] > 10
        assert stats.chi2_contingency(table).pvalue > 0.01


def _counts(tokens: list[int]) -> np.ndarray:
    return np.bincount(tokens, minlength=400)


def test_a_seed_fixes_the_sample(paths: tuple[Path, Path]) -> None:
    """The same seed gives the same answers, another one others."""
    engine = SpeculativeEngine(*pair(paths), 3)
    first, again, other = (
        [d.tokens for d in engine.generate(questions(8), Sampling(1.0, np.random.default_rng(seed)))]
        for seed in (1, 1, 2)
    )
    assert first == again != other


def test_without_a_block_the_verifier_writes_alone(paths: tuple[Path, Path]) -> None:
    """Block 0 is plain decoding: the verifier's own call, the drafter not even loaded."""
    drafter, verifier = pair(paths)
    asked = questions(4)
    drafts = SpeculativeEngine(drafter, verifier, 0).generate(asked)
    assert [d.usage for d in drafts] == [d.usage for d in verifier.generate(asked)]
    assert drafter._loaded is None


def test_a_drafter_that_cannot_help_is_done_without(paths: tuple[Path, Path], tmp_path: Path) -> None:
    """Weights that are not there, or a context that is too short, cost the larger stage nothing but time."""
    drafter, verifier = pair(paths)
    [own], asked = verifier.generate(questions(1)), questions(1)
    short = tmp_path / "short"
    shutil.copytree(paths[0], short)
    config = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 4}))
    for broken in (tmp_path / "none", short):
        engine = SpeculativeEngine(TransformersEngine(stage(broken, "S"), "cpu"), verifier, 3)
        [alone] = engine.generate(asked)
        assert (alone.tokens, alone.usage) == (own.tokens, own.usage)
        read = engine.verify(asked, drafter.generate(asked))
        [on] = engine.continue_(asked, read)
        assert on.tokens == own.tokens


def short_context(source: Path, to: Path, context: int) -> Path:
    """The same model with fewer positions."""
    shutil.copytree(source, to)
    config = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps(config | {"max_position_embeddings": context}))
    return to


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        r.getMessage() for r in caplog.records if r.levelname == "WARNING" and "drafter" in r.getMessage()
    ]


def test_a_drafter_that_cannot_be_loaded_is_told_once(
    paths: tuple[Path, Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its queries are counted by cause, one warning says why, and no call tries again until `unload`."""
    caplog.set_level("DEBUG", "asd")
    _, verifier = pair(paths)
    drafter = TransformersEngine(stage(tmp_path / "none", "S"), "cpu")
    tried: list[int] = []
    load = drafter.load
    monkeypatch.setattr(drafter, "load", lambda: (tried.append(1), load()))
    engine, asked = SpeculativeEngine(drafter, verifier, 3), questions(3)
    for _ in range(3):
        engine.generate(asked)
    assert (len(tried), engine.undrafted) == (1, {"EngineError": 9})
    [told] = warnings(caplog)
    assert "stage 'L' writes 3 queries without its drafter, which takes longer: stage 'S'" in told
    traced = [record.exc_info for record in caplog.records if record.exc_info]
    assert traced
    assert all(info[0] is EngineError for info in traced)
    engine.unload()
    engine.generate(asked)
    assert (len(tried), engine.undrafted) == (2, {"EngineError": 12})
    assert len(warnings(caplog)) == 1
    with pytest.raises(EngineError, match="stage 'S'"):
        engine.load()


def test_prompts_too_long_for_the_drafter_are_written_apart(
    paths: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They alone are written without it, from the caches that verifying left; one warning says so."""
    drafter, verifier = pair(paths)
    short = TransformersEngine(stage(short_context(paths[0], tmp_path / "short", 48), "S"), "cpu")
    engine = SpeculativeEngine(short, verifier, 3)
    asked = [Query(str(i), "d", f"sort pear {i} " * (1 + 9 * (i % 2)), max_new_tokens=12) for i in range(6)]
    own = verifier.generate(asked)
    for drafts in (
        engine.generate(asked),
        engine.continue_(asked, engine.verify(asked, drafter.generate(asked))),
    ):
        assert [(d.tokens, d.text) for d in drafts] == [(d.tokens, d.text) for d in own]
        assert {i for i, d in enumerate(drafts) if d.usage.n_drafted} <= {0, 2, 4}
        assert any(d.usage.n_drafted for d in drafts)
    assert [d.usage.n_prompt for d in drafts] == [0] * 6
    assert engine.undrafted == {"PromptTooLongError": 6}
    assert len(warnings(caplog)) == 1


def test_prompts_that_the_drafter_s_template_refuses_are_written_without_it(
    paths: tuple[Path, Path], tmp_path: Path
) -> None:
    """As those that are too long for it: the stage that is served can read them."""
    picky = shutil.copytree(paths[0], tmp_path / "picky")
    tokenizer = AutoTokenizer.from_pretrained(picky)
    refusal = "{% if 'odd' in messages[0].content %}{{ raise_exception('odd') }}{% endif %}"
    tokenizer.chat_template = refusal + "{{ messages[0].content }}"
    tokenizer.save_pretrained(picky)
    _, verifier = pair(paths)
    drafter = TransformersEngine(stage(picky, "S", chat_template=True), "cpu")
    engine = SpeculativeEngine(drafter, verifier, 3)
    asked = [Query(str(i), "d", f"{kind} pear", max_new_tokens=8) for i, kind in enumerate(("odd", "even"))]
    own = verifier.generate(asked)
    for drafts in (engine.generate(asked), engine.continue_(asked, engine.verify(asked, own))):
        assert [(d.tokens, d.text) for d in drafts] == [(d.tokens, d.text) for d in own]
    assert set(engine.undrafted) == {"RefusedError"}


def test_a_drafter_need_not_know_all_tokens_that_the_verifier_writes(
    paths: tuple[Path, Path], tmp_path: Path
) -> None:
    """Models of one tokenizer may have logits for different numbers of tokens beyond it."""
    small, large = paths
    model = AutoModelForCausalLM.from_pretrained(large)
    n_known = model.config.vocab_size
    model.resize_token_embeddings(n_known + 40, mean_resizing=False)
    with torch.no_grad():
        model.lm_head.weight[n_known:] = 2 * model.lm_head.weight[20:60]
    wide = shutil.copytree(large, tmp_path / "wide")
    model.save_pretrained(wide)
    drafter, verifier = pair((small, wide))
    engine, asked = SpeculativeEngine(drafter, verifier, 3), questions(8)
    own = verifier.generate(asked)
    assert max(token for draft in own for token in draft.tokens) >= n_known
    assert [d.tokens for d in engine.generate(asked)] == [d.tokens for d in own]
    drafts = drafter.generate(asked)
    assert [d.tokens for d in engine.continue_(asked, engine.verify(asked, drafts))] == [
        d.tokens for d in own
    ]
    read = drafter.verify(asked, own)  # and the other way round: no unknown token is given to a model
    assert max(token for v in read for token in v.tokens) < n_known
    assert [d.tokens for d in drafter.continue_(asked, read)] == [d.tokens for d in drafts]


def test_a_prompt_too_long_for_both_is_refused_before_anything_is_written(
    paths: tuple[Path, Path], tmp_path: Path
) -> None:
    """The error is the larger stage's own, and no forward pass has been made for the others."""
    _, verifier = pair(paths)
    short = TransformersEngine(stage(short_context(paths[0], tmp_path / "short", 48), "S"), "cpu")
    engine = SpeculativeEngine(short, verifier, 3)
    passes: list[int] = []
    for loaded in (short.loaded, verifier.loaded):
        loaded.model.register_forward_pre_hook(lambda *_: passes.append(1))
    with pytest.raises(PromptTooLongError, match="context of stage 'L'"):
        engine.generate([*questions(2), Query("long", "d", "a b " * 200, max_new_tokens=4)])
    assert not passes
    assert not engine.undrafted


def test_impossible_pairs_are_refused(paths: tuple[Path, Path], tmp_path: Path) -> None:
    """A negative block, two devices and two vocabularies raise; no query is no answer."""
    drafter, verifier = pair(paths)
    with pytest.raises(ConfigError, match="not -1"):
        SpeculativeEngine(drafter, verifier, -1)
    elsewhere = TransformersEngine(verifier.stage, "cpu")
    elsewhere.device = torch.device("meta")
    with pytest.raises(ConfigError, match="cpu and meta"):
        SpeculativeEngine(drafter, elsewhere, 3)
    AutoModelForCausalLM.from_pretrained(paths[0]).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(paths[0])
    tokenizer.add_tokens(["zebra"])
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="different vocabularies"):
        SpeculativeEngine(TransformersEngine(stage(tmp_path, "S"), "cpu"), verifier, 3).generate(questions(1))
    assert SpeculativeEngine(drafter, verifier, 3).generate([]) == []


@pytest.mark.slow
def test_rivals_write_the_same_and_take_turns(paths: tuple[Path, Path]) -> None:
    """`generate()`, assisted or not, and our loop, speculating or not, write the same texts."""
    asked = questions(4, seed=3)
    turns = rival_turns(SpeculativeEngine(*pair(paths), 3), asked)
    turns.walk(2)
    timings = turns.timings
    assert set(timings.results) == {OWN, SPECULATIVE, PLAIN, ASSISTED}
    assert all(texts == timings.results[OWN] for texts in timings.results.values())
    assert {seconds.shape for seconds in timings.seconds.values()} == {(2, 4)}
