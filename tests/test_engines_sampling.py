"""How tokens are chosen: one check for all engines, and draws from the nucleus that is asked for."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from asd.engines import Acceptance, Sampling
from asd.engines.cache import ResponseStore, with_cache
from asd.engines.hf.engine import TransformersEngine
from asd.engines.hf.sampler import TokenSampler, probabilities
from asd.engines.hf.speculation import SpeculativeEngine
from asd.engines.hf.verifier import first_tokens
from asd.engines.sampling import check_sampling, choices
from asd.errors import ConfigError
from asd.ladder import Ladder
from asd.stopping.acceptance import draw, point_mass
from asd.testing import ScriptedEngine
from asd.types import Query
from tests.fakeserver import serving
from tests.models import save_random_model, save_shaken, stage
from tests.served import ANSWERS, opened, query

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        (Sampling(-1.0, RNG), "temperature must be a number of at least 0, not -1"),
        (Sampling(float("nan"), RNG), "not nan"),
        (Sampling(float("inf"), RNG), "not inf"),
        (Sampling(0.5), "needs a random generator"),
        (Sampling(0.5, RNG, top_p=0.0), r"top_p must be in \(0, 1\], not 0.0; 1 draws from all tokens"),
        (Sampling(0.5, RNG, top_p=1.1), r"top_p must be in \(0, 1\], not 1.1"),
        (Sampling(0.5, RNG, top_p=float("nan")), "not nan"),
        (Sampling(0.0, top_p=-1.0), "not -1"),
    ],
)
def test_what_cannot_be_followed(sampling: Sampling, message: str) -> None:
    """Every engine refuses it in the same words."""
    asked = [query()]
    with pytest.raises(ConfigError, match=message):
        check_sampling(sampling)
    with serving(ANSWERS) as server, opened(server) as engine, pytest.raises(ConfigError, match=message):
        engine.generate(asked, sampling)
    small = TransformersEngine(Ladder.load("tiny").stages[0], "cpu")
    with pytest.raises(ConfigError, match=message):
        small.generate(asked, sampling)
    with pytest.raises(ConfigError, match=message):
        small.verify(asked, small.generate(asked), Acceptance(sampling))


def by_hand(p: np.ndarray, top_p: float) -> np.ndarray:
    """The oracle: take the most probable tokens one by one until they have the probability together."""
    kept, mass = np.zeros_like(p), 0.0
    for token in sorted(range(len(p)), key=lambda i: -p[i]):
        if mass >= top_p:
            break
        kept[token] = p[token]
        mass += p[token]
    return kept / kept.sum()


@given(
    st.lists(st.integers(0, 1000), min_size=1, max_size=12, unique=True),
    st.floats(0.01, 1),
    st.floats(0.3, 3),
)
def test_the_nucleus(weights: list[int], top_p: float, temperature: float) -> None:
    """The fewest most probable tokens with this probability, in their proportions; one at least."""
    logits = torch.tensor([weights], dtype=torch.float32) / 200
    full = (logits[0].double() / temperature).softmax(-1).numpy()
    mass = np.cumsum(np.sort(full)[::-1])
    if np.abs(mass - top_p).min() < 1e-5:  # float32 may take one more or one fewer there
        return
    found = probabilities(logits, Sampling(temperature, RNG, top_p), torch.float64)[0].numpy()
    np.testing.assert_allclose(found, by_hand(full, top_p), atol=1e-6)


def test_equally_probable_tokens_are_taken_by_their_ids() -> None:
    """So that which of them is in the nucleus never depends on the batch."""
    found = probabilities(torch.zeros(2, 4), Sampling(1.0, RNG, 0.5))
    assert found.tolist() == [[0.5, 0.5, 0.0, 0.0]] * 2


def test_no_draw_is_outside_of_the_nucleus() -> None:
    """Not even for the largest uniform number there is, which may round up to the whole."""
    logits, sampling = torch.tensor([[1.0, 5.0, 5.0, 1.0]]), Sampling(1.0, RNG, 0.9)
    largest = torch.tensor([[np.nextafter(np.float32(1), np.float32(0))]])
    for uniforms in (largest, torch.ones(1, 1), torch.zeros(1, 1)):
        assert TokenSampler(sampling, uniforms)(logits, torch.tensor([0]), 0).item() in {1, 2}
    assert draw(np.array([0.0, 0.5, 0.5, 0.0]), 1.0) == 2


@pytest.mark.parametrize("drafted", [0, 1, 3])
def test_any_draft_leaves_the_truncated_distribution(drafted: int) -> None:
    """Accepted with its probability in the nucleus, else another one is drawn from there: chi-square."""
    logits, n = torch.tensor([2.0, 1.5, 1.0, 0.0]), 4000
    rng = np.random.default_rng(drafted)
    sampling = Sampling(1.0, rng, 0.8)
    p = by_hand(logits.double().softmax(-1).numpy(), 0.8)
    assert (p > 0).tolist() == [True, True, True, False]
    n_accepted = int((rng.random(n) < probabilities(logits, sampling)[drafted].item()).sum())
    rest = first_tokens(
        logits.expand(n - n_accepted, -1), [point_mass(drafted, 4)] * (n - n_accepted), sampling, rng
    )
    counts = np.bincount(rest.numpy(), minlength=4)
    counts[drafted] += n_accepted
    assert counts[3] == 0
    assert stats.chisquare(counts[:3], p[:3] * n).pvalue > 0.01


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[TransformersEngine, TransformersEngine]:
    large = save_random_model(tmp_path_factory.mktemp("large"))
    small = save_shaken(large, tmp_path_factory.mktemp("small"))
    return TransformersEngine(stage(small, "S"), "cpu"), TransformersEngine(stage(large, "L"), "cpu")


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("way", ["alone", "after a draft", "in blocks"])
def test_answers_follow_the_truncated_distribution(
    pair: tuple[TransformersEngine, TransformersEngine], way: str
) -> None:
    """First tokens are draws from the verifier's own nucleus, however they came about: chi-square."""
    small, large = pair
    n, temperature, top_p = 1200, 1.3, 0.7
    asked = [Query(str(i), "d", "sort pear", max_new_tokens=2) for i in range(n)]
    sampling = Sampling(temperature, np.random.default_rng(3), top_p)
    if way == "alone":
        drafts = large.generate(asked, sampling)
    elif way == "in blocks":
        drafts = SpeculativeEngine(small, large, 2).generate(asked, sampling)
    else:
        acceptance = Acceptance(sampling)
        read = large.verify(asked, small.generate(asked, sampling), acceptance)
        assert {0, 1} <= {v.n_accepted for v in read}
        drafts = large.continue_(asked, read, acceptance)
    loaded = large.loaded
    with torch.no_grad():
        ids = loaded.tokenizer("sort pear", return_tensors="pt")["input_ids"]
        full = (loaded.model(ids).logits[0, -1].double() / temperature).softmax(-1).numpy()
    p = by_hand(full, top_p)
    counts = np.bincount([draft.tokens[0] for draft in drafts], minlength=len(p))
    assert 3 < (p > 0).sum() < len(p) / 2
    assert counts[p == 0].sum() == 0
    common = p * n >= 8
    observed = np.append(counts[common], counts[~common].sum())
    expected = np.append(p[common], p[~common].sum()) * n
    kept = expected > 0
    assert stats.chisquare(observed[kept], expected[kept]).pvalue > 0.01


def test_servers_are_told() -> None:
    """Temperature, nucleus and a seed for every request; greedy requests are as they were."""
    with serving(ANSWERS) as server, opened(server) as engine:
        engine.generate([query()], Sampling(0.7, np.random.default_rng(1), 0.9))
        engine.generate([query()], Sampling(0.0, top_p=0.9))
        drawn, greedy = ({k: body.get(k) for k in ("temperature", "top_p", "seed")} for body in server.asked)
    assert (drawn["temperature"], drawn["top_p"]) == (0.7, 0.9)
    assert isinstance(drawn["seed"], int)
    assert greedy == {"temperature": 0.0, "top_p": 1.0, "seed": None}


def test_every_request_has_a_seed_of_its_own() -> None:
    """Drawn from the caller's generator, so that a run repeats."""
    first, again = (choices(Sampling(1.0, np.random.default_rng(4), 0.5), 3) for _ in range(2))
    assert first == again
    assert len({json.dumps(choice) for choice in first}) == 3


def test_a_cache_keeps_nuclei_apart(tmp_path: Any) -> None:
    """The same seed with another `top_p` is another draw."""
    inner = ScriptedEngine("S", {"p": ("x", (-0.1,))})
    with ResponseStore(tmp_path / "store") as store:
        engine = with_cache(inner, store, stage(tmp_path), "r1")
        found = [
            engine.generate([Query("q", "d", "p")], Sampling(1.0, np.random.default_rng(1), top_p))[0].cached
            for top_p in (1.0, 0.9, 1.0, 0.9)
        ]
    assert found == [False, False, True, True]
