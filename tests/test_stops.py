"""Stop strings: every answer ends before the first of them, in text and tokens, whoever wrote it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asd.cascade import Cascade
from asd.engines import LOSSLESS, Acceptance, Engine, Sampling, Verifier
from asd.engines.batches import answers
from asd.engines.cache import ResponseStore, with_cache
from asd.engines.hf.engine import TransformersEngine
from asd.engines.hf.speculation import SpeculativeEngine
from asd.engines.http.vllm import VllmServerEngine
from asd.engines.prompts import check
from asd.engines.stops import Watch, first_end, shortest
from asd.errors import ConfigError
from asd.measurement.records import DatasetRecord
from asd.policies import FixedStage, Lossless
from asd.prices import Prices
from asd.stops import cut, position, sent
from asd.testing import Script, ScriptedEngine
from asd.traces import encode_trace
from asd.traces.records import decode_trace
from asd.types import NO_CALL, Draft, Query, Trace, Verification
from tests.fakeserver import serving
from tests.models import save_random_model, save_shaken, stage
from tests.served import opened
from tests.served import stage as served
from tests.tokenizers import random_tokenizer
from tests.written import texts_only

texts = st.text("abc", max_size=12)
stops = st.lists(st.text("abc", min_size=1, max_size=4), max_size=4)
PRICE = Prices(1, 0, 0)


def by_hand(text: str, stop: Sequence[str]) -> str:
    """The oracle: what is before the leftmost place where any stop string stands."""
    places = [i for i in range(len(text)) if any(text[i : i + len(s)] == s for s in stop)]
    return text[: places[0]] if places else text


@given(texts, stops)
def test_the_text_is_cut_before_the_first_stop_string(text: str, stop: list[str]) -> None:
    """Whatever the strings: overlapping, one within another, repeated."""
    assert cut(text, stop) == by_hand(text, stop)


@given(texts, texts, stops)
def test_a_place_is_told_only_when_nothing_that_follows_changes_it(
    text: str, more: str, stop: list[str]
) -> None:
    """And it is told as soon as that is so: with any other following text the place is the same."""
    told = position(text, stop, more=True)
    if told is None:
        endings = [text + s[n:] for s in stop for n in range(len(s)) if text.endswith(s[:n])]
        places = {position(ended, stop) for ended in [text + "#", *endings]}
        assert position(text, stop) is None or len(places) > 1
    else:
        assert told == position(text + more, stop)


@given(texts, stops)
def test_a_server_is_sent_only_what_it_cuts_right(text: str, stop: list[str]) -> None:
    """It ends with the string that is whole first; what it returns is the text before the first."""
    strings = sent(stop)
    if strings is None:
        return
    whole = [(n, s) for n in range(len(text) + 1) for s in strings if text[:n].endswith(s)]
    returned = (
        text[: whole[0][0] - len(max((s for n, s in whole if n == whole[0][0]), key=len))] if whole else text
    )
    assert returned == by_hand(text, stop)


def test_common_stop_strings_are_sent() -> None:
    """Without those that come after one of the others in any case."""
    assert sent(["\n\n", "\nQ:", "\n"]) == ["\n"]
    assert sent(["User:", "Assistant:"]) == ["User:", "Assistant:"]
    assert sent(["\nQ: x", "Q:"]) is None


@pytest.mark.parametrize("seed", range(8))
def test_the_rule_in_tokens(seed: int) -> None:
    """Over random tokenizers: the shortest prefix whose text is cut for good, and no text is lost."""
    rng = np.random.default_rng(seed)
    tokenizer: Any = random_tokenizer(rng)
    n_ended = 0
    for _ in range(40):
        tokens = [int(t) for t in rng.integers(len(tokenizer), size=rng.integers(1, 40))]
        text = tokenizer.decode(tokens, skip_special_tokens=True)
        if len(text) < 3:
            continue
        query = Query("q", "d", "p", stop=tuple(pieces(rng, text)))
        n = first_end(tokens, query, tokenizer)
        ended = tokenizer.decode(tokens[:n], skip_special_tokens=True)
        assert cut(ended, query.stop) == by_hand(text, query.stop)
        n_ended += n is not None
        if n is not None:
            assert n == shortest(tokens, query.stop, lambda ids: decoded(tokenizer, ids))
            assert Watch(query.stop, tokenizer, tokens[: n - 1]).ends(tokens[n - 1])
            before = decoded(tokenizer, tokens[: n - 1])
            assert position(before, query.stop, more=True) is None
    assert n_ended > 5


def decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=True)).rstrip("\ufffd")


def pieces(rng: np.random.Generator, text: str) -> list[str]:
    """Stop strings, most of them from within the text, of one to five characters."""
    found = []
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(len(text)))
        found.append(text[at : at + int(rng.integers(1, 6))])
    return [piece for piece in found if "\ufffd" not in piece] or ["no such string"]


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> tuple[TransformersEngine, TransformersEngine]:
    """A random model, and one like it: they agree on most tokens."""
    large = save_random_model(tmp_path_factory.mktemp("large"))
    small = save_shaken(large, tmp_path_factory.mktemp("small"), noise=0.05)
    return TransformersEngine(stage(small, "S"), "cpu"), TransformersEngine(stage(large, "L"), "cpu")


def asked_of(engine: Engine, n: int = 14, seed: int = 3) -> list[tuple[Query, Draft]]:
    """Questions with stop strings from the engine's own answers, and these answers without them."""
    rng = np.random.default_rng(seed)
    letters = list("abcdefghijklmnopqrstuvwxyz 0123456789+.")
    plain = [
        Query(
            str(i),
            "d",
            "".join(rng.choice(letters, size=rng.integers(2, 12))),
            None,
            int(rng.integers(4, 24)),
        )
        for i in range(n)
    ]
    uncut = engine.generate(plain)
    found = [
        (replace(query, stop=tuple(pieces(rng, draft.text))), draft)
        for query, draft in zip(plain, uncut, strict=True)
        if len(draft.text) > 2
    ]
    assert len(found) > n // 2
    return found


def said(drafts: Sequence[Draft]) -> list[tuple[str, tuple[int, ...], bool]]:
    return [(draft.text, draft.tokens, draft.finished) for draft in drafts]


@pytest.mark.usefixtures("one_thread")
def test_answers_are_the_uncut_ones_cut(engines: tuple[TransformersEngine, TransformersEngine]) -> None:
    """Alone, in a batch and with a drafter; tokens and log-probabilities are a prefix, and work is saved."""
    small, large = engines
    asked = asked_of(large)
    queries, uncut = [query for query, _ in asked], [draft for _, draft in asked]
    own = large.generate(queries)
    assert [draft.text for draft in own] == [by_hand(d.text, q.stop) for q, d in asked]
    for draft, whole in zip(own, uncut, strict=True):
        assert draft.tokens == whole.tokens[: len(draft.tokens)]
        assert len(draft.logprobs) == len(draft.tokens) == draft.usage.n_decoded == draft.usage.n_passes
        assert draft.finished or draft.text == whole.text
    assert sum(len(d.tokens) for d in own) < 0.9 * sum(len(d.tokens) for d in uncut)
    assert said([large.generate([query])[0] for query in queries]) == said(own)
    fast = SpeculativeEngine(small, large, 4).generate(queries)
    assert said(fast) == said(own)
    for draft in fast:
        assert draft.usage.n_decoded == draft.usage.n_passes + draft.usage.n_saved == len(draft.tokens)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("with_drafter", [False, True])
@pytest.mark.parametrize("size", [1, 8])
def test_verifying_and_going_on_is_lossless(
    engines: tuple[TransformersEngine, TransformersEngine], size: int, with_drafter: bool
) -> None:
    """Tokens are the verifier's own after any draft: its own, another's, a text, one that was not cut."""
    small, large = engines
    verifier: Verifier = SpeculativeEngine(small, large, 3) if with_drafter else large
    asked = asked_of(large, seed=4)
    queries = [query for query, _ in asked]
    own = large.generate(queries)
    kinds = (small.generate(queries), own, [draft for _, draft in asked], texts_only(own))
    n_whole = 0
    for drafts in ([replace(draft, stage="S") for draft in kind] for kind in kinds):
        for start in range(0, len(queries), size):
            batch, given = queries[start : start + size], drafts[start : start + size]
            read = verifier.verify(batch, given)
            found = verifier.continue_(batch, read)
            assert said(found) == said(own[start : start + size])
            for verification, draft in zip(read, found, strict=True):
                assert verification.text in (None, draft.text)
                assert (draft.usage == NO_CALL) or verification.text is None
                n_whole += verification.text is not None
    assert n_whole > 2 * sum(draft.finished for draft in own)  # nobody asks again for what was accepted


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("with_drafter", [False, True])
def test_a_stop_string_may_begin_in_the_accepted_prefix(
    engines: tuple[TransformersEngine, TransformersEngine], with_drafter: bool
) -> None:
    """Its first character was drafted, its second one is the first that the verifier writes."""
    small, large = engines
    verifier: Verifier = SpeculativeEngine(small, large, 3) if with_drafter else large
    tokenizer = large.loaded.tokenizer
    n_across = 0
    for query, draft in asked_of(large, n=8):
        k = len(draft.tokens) // 2
        before, after = (decoded(tokenizer, draft.tokens[:n]) for n in (k, k + 1))
        if not before or len(after) == len(before):
            continue
        ending = replace(query, stop=(after[len(before) - 1 : len(before) + 1],))
        [own] = large.generate([ending])
        wrong = (*draft.tokens[:k], (draft.tokens[k] + 1) % 90 + 3)
        given = replace(draft, stage="S", text=decoded(tokenizer, wrong), tokens=wrong, finished=False)
        read = verifier.verify([ending], [given])
        assert said(verifier.continue_([ending], read)) == said([own])
        n_across += read[0].n_accepted == k == len(own.tokens) - 1
    assert n_across > 1


@pytest.mark.usefixtures("one_thread")
def test_an_own_draft_is_accepted_to_its_stop_string(
    engines: tuple[TransformersEngine, TransformersEngine],
) -> None:
    """Also with the tokens that the stop string took, so that nothing is written again."""
    _, large = engines
    queries = [query for query, _ in asked_of(large)]
    own = large.generate(queries)
    read = large.verify(queries, [replace(draft, stage="S") for draft in own])
    assert [v.text for v in read] == [draft.text if draft.finished else None for draft in own]
    assert all(v.accepted for v in read)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("batch_size", [1, 16])
def test_a_lossless_cascade_is_the_verifier_alone(
    engines: tuple[TransformersEngine, TransformersEngine], batch_size: int
) -> None:
    """Text and tokens of what it returns, for every query."""
    small, large = engines
    queries = [query for query, _ in asked_of(large)]
    prices = {"S": Prices(1, 0, 0), "L": Prices(2, 0, 0)}
    cascade = Cascade({"S": small, "L": large}, Lossless(("S", "L")), prices)
    found = cascade.run(queries, batch_size)
    own = large.generate(queries)
    assert said([completion.drafts[-1] for completion in found]) == said(own)
    assert [completion.text for completion in found] == [draft.text for draft in own]


@pytest.mark.usefixtures("one_thread")
def test_samples_end_at_stop_strings_too(engines: tuple[TransformersEngine, TransformersEngine]) -> None:
    """The same draws, cut."""
    _, large = engines
    queries = [replace(query, stop=("a", "3", " ")) for query, _ in asked_of(large)]
    plain = [replace(query, stop=()) for query in queries]
    ended, uncut = (
        large.generate(each, Sampling(1.0, np.random.default_rng(5))) for each in (queries, plain)
    )
    assert [draft.text for draft in ended] == [by_hand(draft.text, ("a", "3", " ")) for draft in uncut]
    assert all(e.tokens == u.tokens[: len(e.tokens)] for e, u in zip(ended, uncut, strict=True))


SPOKEN = {"p1 ": "one two three one", "p2 ": "abcabcd and so on", "p3 ": "no end in sight"}


@cache
def spoken(stop: tuple[str, ...], room: int = 40) -> list[Query]:
    return [Query(prompt, "d", prompt, max_new_tokens=room, stop=stop) for prompt in SPOKEN]


@pytest.mark.parametrize("dialect", ["openai", "vllm"])
@pytest.mark.parametrize(
    "stop",
    [("two",), (" t", "cab", "end"), ("abcd", "bc"), ("ne two", "o"), tuple("xyzvw"), (" ",), ("n", "no")],
)
@pytest.mark.parametrize("room", [40, 6])
def test_servers_answers_are_cut(dialect: str, stop: tuple[str, ...], room: int) -> None:
    """Whether the server ends at these strings or cannot be trusted to: one within another, five at once."""
    with serving(SPOKEN) as server, opened(server, dialect=dialect) as engine:
        drafts = engine.generate(spoken(stop, room))
    texts = {query.prompt: SPOKEN[query.prompt][:room] for query in spoken(stop, room)}
    assert [draft.text for draft in drafts] == [by_hand(text, stop) for text in texts.values()]
    for draft, text in zip(drafts, texts.values(), strict=True):
        assert draft.finished == (draft.text != text or room > len(text))
        if dialect == "vllm":
            assert len(draft.tokens) == len(draft.logprobs) <= draft.usage.n_decoded


def test_a_server_writes_no_more_than_is_asked_for() -> None:
    """Where it is trusted with the strings, tokens behind them are neither written nor counted."""
    with serving(SPOKEN) as server, opened(server) as engine:
        [draft, *_] = engine.generate(spoken(("two", "three")))
        assert server.asked[0]["stop"] == ["two", "three"]
        assert (draft.text, draft.usage.n_decoded, len(draft.logprobs)) == ("one ", 7, 7)
        [plain, *_] = engine.generate(spoken(()))
        assert "stop" not in server.asked[-1]
        assert plain.text == SPOKEN["p1 "]


@pytest.mark.slow
@pytest.mark.parametrize("stop", [("two",), ("ne two", "o"), ("abcd", "bc"), ("cab", "si"), ("in", "so on")])
@pytest.mark.parametrize("draft", ["one t", "one two", "", "abcab", "abcx", "no end!", "one"])
def test_a_vllm_server_goes_on_to_the_same_end(stop: tuple[str, ...], draft: str) -> None:
    """Also where the accepted prefix ends within a stop string, which the server then sees half of."""
    with serving(SPOKEN) as server:
        engine = VllmServerEngine(served(server.url, dialect="vllm"))
        queries = spoken(stop)
        own = engine.generate(queries)
        for finished in (True, False):
            given = [
                replace(each, stage="XS", text=cut(draft, stop), tokens=(), finished=finished) for each in own
            ]
            found = engine.continue_(queries, engine.verify(queries, given))
            assert said(found) == said(own)
        engine.close()


class _Heedless(ScriptedEngine):
    """An engine that knows nothing of stop strings."""

    def generate(self, queries: Sequence[Query], sampling: Sampling = LOSSLESS.sampling) -> list[Draft]:
        return super().generate([replace(query, stop=()) for query in queries], sampling)


def test_an_engine_that_knows_no_stop_strings_is_cut() -> None:
    """Its answers end where they should in a cascade and in what is recorded."""
    script = {"p": Script("one two three", (-0.1,) * 3, finished=False)}
    query = Query("q", "d", "p", stop=("two", "thr"))
    [draft] = answers(_Heedless("S", script), [query])
    assert (draft.text, draft.finished) == ("one ", True)
    cascade = Cascade({"S": _Heedless("S", script)}, FixedStage("S"), {"S": Prices(1, 0, 0)})
    assert cascade.run([query])[0].text == "one "
    assert ScriptedEngine("S", script).generate([query])[0].text == "one "


class Unaware(ScriptedEngine):
    """A verifier that knows no stop strings when it goes on."""

    def continue_(
        self,
        queries: Sequence[Query],
        verifications: Sequence[Verification],
        acceptance: Acceptance = LOSSLESS,
    ) -> list[Draft]:
        return super().continue_([replace(query, stop=()) for query in queries], verifications, acceptance)


def test_what_a_verifier_without_stop_strings_goes_on_to_write_is_cut() -> None:
    """Its continuation as well as its own answers."""
    small = ScriptedEngine("S", {"p": Script("one or", (-0.1,) * 2)})
    large = Unaware("L", {"p": Script("one two three", (-0.1,) * 3)})
    cascade = Cascade({"S": small, "L": large}, Lossless(("S", "L")), {"S": PRICE, "L": PRICE})
    [completion] = cascade.run([Query("q", "d", "p", stop=("two",))])
    assert [len(engine.calls) for engine in (small, large)] == [1, 2]
    assert (completion.stage, completion.text) == ("L", "one ")


def test_stop_strings_make_another_question(tmp_path: Path) -> None:
    """In a cache, a digest and a trace, where plain queries stay as they were."""
    plain = Query("q", "d", "p")
    ending = replace(plain, stop=("two",))
    inner = ScriptedEngine("S", {"p": Script("one two", (-0.1,))})
    with ResponseStore(tmp_path / "store") as store:
        engine = with_cache(inner, store, stage(tmp_path), "r1")
        assert [engine.generate([q])[0].text for q in (plain, ending, plain, ending)] == [
            "one two",
            "one ",
        ] * 2
        assert engine.generate([ending])[0].cached
    assert DatasetRecord.of("d", [plain]).digests != DatasetRecord.of("d", [ending]).digests
    assert decode_trace(encode_trace(Trace(ending, {}))).query == ending
    assert b"stop" not in encode_trace(Trace(plain, {}))


@pytest.mark.parametrize(
    ("stop", "message"),
    [
        (("a", ""), r"'d' has stop strings \('a', ''\); give texts that are not empty"),
        ((3,), "give texts that are not empty"),
        (tuple(map(str, range(17))), "give at most 16"),
    ],
)
def test_stop_strings_that_are_none(stop: Any, message: str) -> None:
    """The message says what to give; 16 are taken."""
    with pytest.raises(ConfigError, match=message):
        check(Query("q", "d", "p", stop=stop))
    check(Query("q", "d", "p", stop=tuple(map(str, range(16)))))


def test_a_single_stop_string_may_be_given_as_it_is() -> None:
    """A text is one stop string, not one a character."""
    assert Query("q", "d", "p", stop="END") == Query("q", "d", "p", stop=("END",))  # type: ignore[arg-type]
