"""Verifying and continuing with the `transformers` engine: lossless, counted, in any company."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from tokenizers import AddedToken
from transformers import AutoModelForCausalLM, AutoTokenizer

from asd.cascade import Cascade
from asd.engines import Acceptance, Sampling, continuation_usage
from asd.engines.hf.engine import TransformersEngine
from asd.errors import ConfigError
from asd.ladder import Ladder
from asd.policies import FixedStage, Lossless
from asd.prices import Prices
from asd.testing import Script, ScriptedEngine
from asd.types import NO_CALL, Query, Usage
from asd.workloads.catalogue import find_workloads, workload_names
from tests.models import save_random_model, stage
from tests.pairs import random_pair, random_queries
from tests.written import (
    assert_same_answers,
    continue_all,
    questions,
    spoiled,
    texts_only,
    verify_all,
    with_texts,
)

pytestmark = pytest.mark.usefixtures("one_thread")

PAIRS = [("S", "M"), ("S", "L"), ("M", "L")]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_model(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def engine(path: Path) -> TransformersEngine:
    return TransformersEngine(stage(path, "L"), "cpu")


@pytest.fixture(scope="module")
def ladder() -> dict[str, TransformersEngine]:
    return {stage.name: TransformersEngine(stage, "cpu") for stage in Ladder.load("tiny").stages}


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 4, 16])
def test_the_embedded_ladder_is_lossless(ladder: dict[str, TransformersEngine], size: int) -> None:
    """On every dataset and every pair of stages, verified and continued is what the stage writes alone."""
    asked = [q for w in find_workloads(workload_names()) for q in w.queries("test", 15)[::5]]
    own = {
        name: [d for i in range(0, len(asked), size) for d in engine.generate(asked[i : i + size])]
        for name, engine in ladder.items()
    }
    for drafter, verifier in PAIRS:
        verifications = verify_all(ladder[verifier], asked, own[drafter], size)
        continued = continue_all(ladder[verifier], asked, verifications, size)
        assert_same_answers(continued, own[verifier])
        assert 0 < sum(v.accepted for v in verifications) < len(asked)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 12])
def test_any_draft_is_continued_losslessly(engine: TransformersEngine, size: int) -> None:
    """Drafts right, wrong at the start or later, cut, empty or too long, mixed in a batch: same answer."""
    asked = questions(24)
    own = [d for i in range(0, 24, size) for d in engine.generate(asked[i : i + size])]
    drafts = with_texts(engine, spoiled(own))
    verifications = verify_all(engine, asked, drafts, size)
    assert {v.n_accepted == 0 for v in verifications} == {v.accepted for v in verifications} == {True, False}
    assert sum(0 < v.n_accepted < len(v.tokens) for v in verifications) >= 2
    continued = continue_all(engine, asked, verifications, size)
    assert_same_answers(continued, own)


def test_a_verification_says_what_a_full_pass_says(path: Path, engine: TransformersEngine) -> None:
    """Log-probabilities are those of one pass without a cache; the prefix ends at the first other argmax."""
    asked = questions(12)
    drafts = with_texts(engine, spoiled(engine.generate(asked)))
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    for query, draft, v in zip(asked, drafts, engine.verify(asked, drafts), strict=True):
        prompt = engine.loaded.tokenizer(query.prompt)["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([prompt + list(v.tokens)])).logits[0, len(prompt) - 1 : -1]
        expected = logits.log_softmax(-1)[range(len(v.tokens)), v.tokens]
        np.testing.assert_allclose(v.logprobs, expected.numpy(), atol=1e-4)
        agrees = [*(logits.argmax(-1) == torch.tensor(v.tokens, dtype=torch.long)).tolist(), False]
        assert v.n_accepted == agrees.index(False)
        assert (v.stage, v.drafter) == ("L", "S")
        assert v.usage == Usage(len(prompt), 0, 1, n_verified=len(v.tokens))
        ends = v.tokens[-1:] and v.tokens[-1] in engine.loaded.stop_ids
        n_text = len(v.tokens) - bool(ends)
        assert v.tokens[:n_text] == draft.tokens[:n_text]
        if ends:  # in L's most probable stop token
            assert v.tokens[-1] == max(engine.loaded.stop_ids, key=lambda stop: float(logits[-1, stop]))
        assert len(v.tokens) <= query.max_new_tokens


@pytest.mark.parametrize("chats", [False, True])
def test_a_draft_with_another_leading_space_is_accepted(tmp_path: Path, chats: bool) -> None:
    """As a chat model's draft is by a base model, and the other way round: nearly all of it, in two passes at
    most, which are counted; what follows is the stage's own."""
    pair = random_pair(np.random.default_rng(4), tmp_path, ["llama"], ["byte level"])
    engine = TransformersEngine(replace(pair.verifier, chat_template=chats), "cpu")
    drawn = random_queries(np.random.default_rng(5), pair, engine.loaded.tokenizer, 24)
    asked = [replace(query, max_new_tokens=12) for query in drawn]
    own = engine.generate(asked)
    spaces = [(" ", "", "\n")[(i + (d.text[:1] == " ")) % 3] for i, d in enumerate(own)]
    drafts = [
        replace(d, stage="S", tokens=(), text=space + d.text.lstrip())
        for d, space in zip(own, spaces, strict=True)
    ]
    reads: list[int] = []

    def count(*_: object) -> None:
        reads.append(1)

    hook = engine.loaded.model.register_forward_pre_hook(count)
    verifications = engine.verify(asked, drafts)
    hook.remove()
    assert len(reads) == 2 == max(v.usage.n_passes for v in verifications)
    twice = [v for v in verifications if v.usage.n_passes == 2]
    assert 0 < len(twice) < len(asked)
    assert sum(v.usage.n_verified for v in twice) > 1.5 * sum(len(v.tokens) for v in twice)
    assert sum(v.n_accepted for v in verifications) >= 0.8 * sum(len(v.tokens) for v in verifications)
    assert_same_answers(engine.continue_(asked, verifications), own)
    alone = [engine.verify([query], [draft])[0] for query, draft in zip(asked, drafts, strict=True)]
    assert [(v.tokens, v.n_accepted, v.usage) for v in alone] == [
        (v.tokens, v.n_accepted, v.usage) for v in verifications
    ]


def test_passes_are_saved_and_counted(engine: TransformersEngine) -> None:
    """Verifying is one pass; continuing one fewer than tokens are missing, none where all was accepted."""
    asked = questions(12)
    own = engine.generate(asked)
    drafts = with_texts(engine, spoiled(own))
    n_passes = 0

    def count(*_: object) -> None:
        nonlocal n_passes
        n_passes += 1

    hook = engine.loaded.model.register_forward_pre_hook(count)
    try:
        for query, draft, alone in zip(asked, drafts, own, strict=True):
            [v] = engine.verify([query], [draft])
            assert n_passes == v.usage.n_passes == 1
            [continued] = engine.continue_([query], [v])
            assert n_passes == v.usage.n_passes + continued.usage.n_passes
            assert continued.usage == continuation_usage(alone, v)
            n_passes = 0
    finally:
        hook.remove()


def test_a_draft_accepted_to_its_end_costs_nothing(engine: TransformersEngine) -> None:
    """The stage's own answers, finished or out of room, come back without a pass."""
    asked = questions(12)
    own = engine.generate(asked)
    assert {draft.finished for draft in own} == {True, False}
    verifications = engine.verify(asked, own)
    assert all(v.accepted for v in verifications)
    continued = engine.continue_(asked, verifications)
    assert_same_answers(continued, own)
    assert {draft.usage for draft in continued} == {NO_CALL}


def test_any_rows_can_be_continued_in_any_company(engine: TransformersEngine) -> None:
    """Rows of several batches, some of each, in another order, are continued from their caches."""
    asked = questions(18)
    own = engine.generate(asked)
    drafts = with_texts(engine, spoiled(own))
    verifications = verify_all(engine, asked, drafts, 6)
    order = np.random.default_rng(3).permutation(18)
    for part in (order[:7], order[7:8], order[8:]):
        continued = engine.continue_([asked[i] for i in part], [verifications[i] for i in part])
        assert_same_answers(continued, [own[i] for i in part])
        assert [d.usage for d in continued] == [continuation_usage(own[i], verifications[i]) for i in part]


def test_what_was_dropped_is_read_again_and_counted(path: Path) -> None:
    """Without a cache, prompt and accepted prefix are read once more: same answer, more prompt tokens."""
    forgetful = TransformersEngine(stage(path, "L", options={"transformers": {"kv_cache_gib": 0}}), "cpu")
    asked = questions(12)
    own = forgetful.generate(asked)
    drafts = with_texts(forgetful, spoiled(own))
    verifications = forgetful.verify(asked, drafts)
    continued = forgetful.continue_(asked, verifications)
    assert_same_answers(continued, own)
    for draft, v in zip(continued, verifications, strict=True):
        n = len(draft.tokens) - v.n_accepted
        assert draft.usage == (Usage(v.usage.n_prompt + v.n_accepted, n, n) if n else NO_CALL)


def test_evictions_are_counted_and_told_when_they_cost_something(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A cache of the size of one verified batch: what left it is read again, and told once."""
    asked = questions(12)
    own = TransformersEngine(stage(path, "L"), "cpu").generate(asked)
    tight = TransformersEngine(stage(path, "L", options={"transformers": {"kv_cache_gib": 2e-4}}), "cpu")
    drafts, n_evicted = with_texts(tight, spoiled(own)), [0]
    for _ in range(2):
        read = verify_all(tight, asked, drafts, 4)
        n_evicted.append(tight.n_evicted)
        continued = continue_all(tight, asked[8:], read[8:], 4)
        assert_same_answers(continued, own[8:])
        assert not any(draft.usage.n_prompt for draft in continued)
        assert len(caplog.records) <= 1
        continued = continue_all(tight, asked[:8], read[:8], 4)
        assert_same_answers(continued, own[:8])
        assert any(draft.usage.n_prompt for draft in continued)
        [record] = caplog.records
    assert "raise options.transformers.kv_cache_gib" in record.message
    assert n_evicted[0] < n_evicted[1] < n_evicted[2]


def test_a_cache_serves_once_and_ends_with_unload(engine: TransformersEngine) -> None:
    """Continuing a second time, or after `unload`, reads again; the answers stay the same."""
    asked = questions(6)
    own = engine.generate(asked)
    verifications = engine.verify(asked, with_texts(engine, spoiled(own)))
    first, second = engine.continue_(asked, verifications), engine.continue_(asked, verifications)
    assert_same_answers(second, first)
    assert sum(d.usage.n_prompt for d in first) == 0 < sum(d.usage.n_prompt for d in second)
    again = engine.verify(asked, with_texts(engine, spoiled(own)))
    engine.unload()
    assert sum(d.usage.n_prompt for d in engine.continue_(asked, again)) > 0


def test_a_template_is_part_of_what_is_read(path: Path, tmp_path: Path) -> None:
    """A stage with a chat template verifies and continues within it."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    AutoModelForCausalLM.from_pretrained(path).save_pretrained(tmp_path)
    tokenizer.chat_template = "{% for m in messages %}<s>{{ m.role }}:{{ m.content }}{% endfor %}"
    tokenizer.save_pretrained(tmp_path)
    engine = TransformersEngine(stage(tmp_path, "L", chat_template=True), "cpu")
    asked = questions(12)
    own = engine.generate(asked)
    verifications = engine.verify(asked, with_texts(engine, spoiled(own)))
    assert sum(v.n_accepted for v in verifications) > 20
    assert_same_answers(engine.continue_(asked, verifications), own)


def test_another_tokenizer_s_draft_is_carried_over_as_text(path: Path, tmp_path: Path) -> None:
    """The same words under other token ids are accepted where the verifier would have split them so."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.add_tokens([AddedToken("ap"), AddedToken("pl")])
    AutoModelForCausalLM.from_pretrained(path).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    engine = TransformersEngine(stage(path, "L"), "cpu")
    asked = questions(16)
    own = engine.generate(asked)
    foreign = [replace(d, stage="S", tokens=tuple(range(300, 300 + len(d.tokens)))) for d in own]
    verifications = engine.verify(asked, foreign)
    assert sum(v.accepted for v in verifications) > 0
    assert all(v.drafter == "S" for v in verifications)
    assert_same_answers(engine.continue_(asked, verifications), own)


@pytest.mark.slow
def test_samples_are_the_verifier_s_own_however_they_were_escalated(
    ladder: dict[str, TransformersEngine],
) -> None:
    """Given that L was asked because of what S drafted, the first two tokens follow L: chi-square."""
    n, temperature = 2000, 4.0
    asked = [Query(str(i), "d", "sort h l u k", max_new_tokens=2) for i in range(n)]
    rng = np.random.default_rng(11)
    drafts = ladder["S"].generate(asked, Sampling(temperature, rng))
    unsure = [i for i, draft in enumerate(drafts) if draft.logprobs[0] < -0.5 and draft.tokens[0] % 2]
    assert 200 < len(unsure) < n
    asked, drafts = [asked[i] for i in unsure], [drafts[i] for i in unsure]
    acceptance = Acceptance(Sampling(temperature, rng))
    verifications = ladder["L"].verify(asked, drafts, acceptance)
    assert len({v.n_accepted for v in verifications}) == 3
    written = ladder["L"].continue_(asked, verifications, acceptance)
    first = _next_distribution(ladder["L"], asked[0], (), temperature)
    tokens = np.array([draft.tokens[0] for draft in written])
    assert _follows(tokens, first)
    top = int(np.bincount(tokens).argmax())
    second = _next_distribution(ladder["L"], asked[0], (top,), temperature)
    assert _follows(
        np.array([d.tokens[1] for d in written if d.tokens[0] == top and len(d.tokens) > 1]), second
    )


def _next_distribution(
    engine: TransformersEngine, query: Query, after: tuple[int, ...], temperature: float
) -> np.ndarray:
    loaded = engine.loaded
    text = loaded.tokenizer.bos_token + query.prompt + "\n"
    ids = [*loaded.tokenizer(text, add_special_tokens=False)["input_ids"], *after]
    with torch.no_grad():
        return (loaded.model(torch.tensor([ids])).logits[0, -1] / temperature).softmax(-1).double().numpy()


def _follows(tokens: np.ndarray, p: np.ndarray) -> bool:
    """Whether a chi-square test lets these tokens be draws from p."""
    counts = np.bincount(tokens, minlength=len(p))
    common = p * len(tokens) >= 5
    assert common.sum() >= 4
    observed = np.append(counts[common], counts[~common].sum())
    expected = np.append(p[common], p[~common].sum()) * len(tokens)
    return bool(stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 0.01)


def test_lenient_acceptance_takes_more_and_goes_on_greedily(engine: TransformersEngine) -> None:
    """With a tolerance more is accepted than without, up to the first token below it; then the argmax."""
    asked = questions(24)
    drafts = with_texts(engine, spoiled(engine.generate(asked), seed=5))
    strict = engine.verify(asked, drafts, Acceptance(tolerance=1.0))
    lenient = engine.verify(asked, drafts, Acceptance(tolerance=1e-3))
    lossless = engine.verify(asked, drafts)
    assert [v.n_accepted for v in strict] == [v.n_accepted for v in lossless]
    gained = [a.n_accepted - b.n_accepted for a, b in zip(lenient, strict, strict=True)]
    assert min(gained) == 0 < max(gained)
    continued = engine.continue_(asked, lenient, Acceptance(tolerance=1e-3))
    for v, draft in zip(lenient, continued, strict=True):
        assert draft.tokens[: v.n_accepted] == v.tokens[: v.n_accepted]
        if v.n_accepted < min(len(v.tokens), len(draft.tokens)):
            assert draft.logprobs[v.n_accepted] - v.logprobs[v.n_accepted] > np.log(1e3) - 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("tolerance", [None, 1e-9])
def test_a_cascade_verifies_as_it_was_told(
    ladder: dict[str, TransformersEngine], tolerance: float | None
) -> None:
    """S drafts, L reads with that tolerance and goes on: the texts of doing so by hand, no others."""
    asked = [
        query for w in find_workloads(["tiny-text", "tiny-arithmetic"]) for query in w.queries("test", 8)
    ]
    small, large = ladder["S"], ladder["L"]
    acceptance = Acceptance(tolerance=tolerance)
    read = large.verify(asked, small.generate(asked), acceptance)
    by_hand = [draft.text for draft in large.continue_(asked, read, acceptance)]
    prices = {name: Prices(0.0, 0.0, 1.0) for name in ("S", "L")}
    cascade = Cascade({"S": small, "L": large}, Lossless(("S", "L")), prices, acceptance=acceptance)
    assert [done.text for done in cascade.run(asked)] == by_hand
    alone = [draft.text for draft in large.generate(asked)]
    assert (by_hand == alone) == (tolerance is None)


def test_a_cascade_samples_as_it_was_told(ladder: dict[str, TransformersEngine]) -> None:
    """The generator's draws, the same ones again from the same seed, and other texts than the greedy ones."""
    asked = find_workloads(["tiny-arithmetic"])[0].queries("test", 12)
    prices = {"S": Prices(0.0, 0.0, 1.0)}

    def texts(sampling: Sampling) -> list[str]:
        cascade = Cascade({"S": ladder["S"]}, FixedStage("S"), prices, acceptance=Acceptance(sampling))
        return [done.text for done in cascade.run(asked)]

    first, again, other = (texts(Sampling(2.0, np.random.default_rng(seed))) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert first != [draft.text for draft in ladder["S"].generate(asked)]


def test_impossible_verifications_are_refused(engine: TransformersEngine) -> None:
    """A tolerance with a temperature, sampling without a generator, another stage's verification raise."""
    asked = questions(2)
    own = engine.generate(asked)
    with pytest.raises(ConfigError, match="tolerance or a temperature"):
        engine.verify(asked, own, Acceptance(Sampling(1.0, np.random.default_rng(0)), tolerance=0.5))
    with pytest.raises(ConfigError, match="needs a random generator"):
        engine.verify(asked, own, Acceptance(Sampling(1.0)))
    foreign = [replace(v, stage="XL") for v in engine.verify(asked, own)]
    with pytest.raises(ConfigError, match="'XL' verified, so 'L' cannot continue"):
        engine.continue_(asked, foreign)
    assert engine.verify([], []) == engine.continue_([], []) == []


@pytest.mark.slow
def test_a_draft_cut_by_the_room_is_not_adopted(ladder: dict[str, TransformersEngine]) -> None:
    """S writes on where L's answer is full: all that L read stands, and the answer is still L's, not S's."""
    [workload] = find_workloads(["tiny-arithmetic"])
    [query] = workload.queries("test", 1)
    engine = ladder["L"]
    [longer] = engine.generate([query])
    n_text = len(longer.tokens) - 1
    assert longer.finished
    for room in (1, 2, n_text - 1, n_text):
        short = replace(query, max_new_tokens=room)
        [own] = engine.generate([short])
        [read] = engine.verify([short], texts_only([longer]))
        assert (read.n_accepted, len(read.tokens), read.text) == (room, room, None)
        assert not read.complete
        assert not read.accepted
        assert_same_answers(engine.continue_([short], [read]), [own])
        prices = {name: Prices(0.0, 0.0, 1.0) for name in ("S", "L")}
        fleet = {"S": ScriptedEngine("S", {query.prompt: Script(longer.text, longer.logprobs)}), "L": engine}
        [done] = Cascade(fleet, Lossless(("S", "L")), prices).run([short])
        assert (done.stage, done.text) == ("L", own.text)


@pytest.mark.parametrize("n_stops", [0, 1, 2])
def test_a_draft_ends_in_whatever_token_the_verifier_stops_with(tmp_path: Path, n_stops: int) -> None:
    """Text drafts of the stage's own answers are accepted to their ends, whichever stop token it writes.

    Without a stop token there is no end to be accepted, and the stage writes on until its room is full.
    """
    engine = TransformersEngine(stage(save_random_model(tmp_path, n_stops=n_stops), "L"), "cpu")
    asked = questions(40)
    own = engine.generate(asked)
    drafts = [replace(d, finished=True) for d in texts_only(own)] if n_stops == 0 else texts_only(own)
    read = engine.verify(asked, drafts)
    whole = [(v, d) for v, d in zip(read, own, strict=True) if v.text is not None]
    assert all((v.tokens, v.text, v.accepted) == (d.tokens, d.text, True) for v, d in whole)
    stops = {d.tokens[-1] for _, d in whole}
    assert len(stops) == n_stops
    assert all(d.finished for _, d in whole)
    assert_same_answers(engine.continue_(asked, read), own)


def test_a_stop_token_that_the_model_has_no_logit_for_ends_nothing(path: Path, tmp_path: Path) -> None:
    """Checkpoints may name such: neither answers nor drafts end in it, and nothing fails."""
    model = AutoModelForCausalLM.from_pretrained(path)
    model.generation_config.eos_token_id = [9_999, *model.generation_config.eos_token_id]
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(path).save_pretrained(tmp_path)
    engine = TransformersEngine(stage(tmp_path, "L"), "cpu")
    asked = questions(6)
    own = engine.generate(asked)
    read = engine.verify(asked, texts_only(own))
    assert any(v.text is not None for v in read)
    assert_same_answers(engine.continue_(asked, read), own)


def test_the_first_of_several_stop_tokens_need_not_be_the_one_written(path: Path, tmp_path: Path) -> None:
    """Chat models name an end of text before the end of turn that they write; drafts end in either."""
    model = AutoModelForCausalLM.from_pretrained(path)
    model.generation_config.eos_token_id = [0, 2]
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(path).save_pretrained(tmp_path)
    engine = TransformersEngine(stage(tmp_path, "L"), "cpu")
    asked = questions(12)
    own = engine.generate(asked)
    finished = [draft.tokens[-1] for draft in own if draft.finished]
    assert set(finished) == {2}
    read = engine.verify(asked, texts_only(own))
    assert sum(v.text is not None for v in read) >= len(finished) // 2 > 0
    assert all(v.tokens[-1] == 2 for v in read if v.text is not None)
