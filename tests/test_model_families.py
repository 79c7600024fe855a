"""Families of models as the library builds them, tiny and random: each is served as the library would.

Checked token for token in float32, with prompts longer than a sliding window and drafts that are rejected in
the middle: against `generate()`, in a batch, verified and gone on with, and with a drafter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from asd.engines.hf.engine import TransformersEngine
from asd.engines.hf.speculation import SpeculativeEngine
from asd.types import Draft, Query
from tests.models import FAMILIES, WINDOW, save_random_model, save_shaken, stage
from tests.written import (
    assert_same_answers,
    by_generate,
    continue_all,
    in_batches,
    questions,
    spoiled,
    verify_all,
    with_texts,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

HYBRID = {"lfm2", "qwen3_next", "bamba", "nemotron_h"}
"""Families with layers that cannot take tokens back."""

CORE = {"llama", "gpt2", "mistral", "gemma3_text", "lfm2"}


@dataclass(frozen=True)
class Family:
    name: str
    engine: TransformersEngine
    drafter: TransformersEngine
    asked: list[Query]
    own: list[Draft]


def _by_weight(name: str) -> object:
    return pytest.param(name, marks=() if name in CORE else pytest.mark.slow)


@pytest.fixture(scope="module", params=map(_by_weight, FAMILIES))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Family]:
    """A stage of the family, what it writes alone, and a smaller stage that agrees with it often."""
    path = save_random_model(tmp_path_factory.mktemp("large"), request.param)
    engine = TransformersEngine(stage(path, "L"), "cpu")
    drafter = TransformersEngine(stage(save_shaken(path, tmp_path_factory.mktemp("small")), "S"), "cpu")
    asked = questions(9)
    yield Family(request.param, engine, drafter, asked, in_batches(engine, asked, 1))
    engine.unload()
    drafter.unload()


def test_answers_are_those_of_generate(family: Family) -> None:
    """Greedy, one by one, token for token; some prompts are longer than the window."""
    path = family.engine.stage.model
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(path)
    library = [by_generate(model, tokenizer, [query])[0] for query in family.asked]
    assert [draft.tokens for draft in family.own] == library
    assert len(set(library)) > 6
    assert sum(draft.usage.n_prompt > WINDOW for draft in family.own) >= 3


def test_a_batch_writes_what_each_writes_alone(family: Family) -> None:
    """Prompts of different lengths in one call."""
    assert_same_answers(in_batches(family.engine, family.asked, 9), family.own)


@pytest.mark.parametrize("size", [1, 9])
def test_verified_and_gone_on_with_is_what_each_writes_alone(family: Family, size: int) -> None:
    """Whatever the draft: right, wrong somewhere, cut, empty, too long; what can be kept is read once."""
    drafts = with_texts(family.engine, spoiled(family.own))
    read = verify_all(family.engine, family.asked, drafts, size)
    assert any(0 < v.n_accepted < len(v.tokens) for v in read)
    continued = continue_all(family.engine, family.asked, read, size)
    assert_same_answers(continued, family.own)
    assert any(draft.usage.n_prompt for draft in continued) == (family.name in HYBRID)


@pytest.mark.parametrize("size", [1, 9])
def test_a_drafter_changes_no_answer(family: Family, size: int) -> None:
    """Written in blocks, and gone on with in blocks; what cannot take tokens back is written alone."""
    drafted = SpeculativeEngine(family.drafter, family.engine, 4)
    written = in_batches(drafted, family.asked, size)
    assert_same_answers(written, family.own)
    read = verify_all(drafted, family.asked, with_texts(family.engine, spoiled(family.own)), size)
    continued = continue_all(drafted, family.asked, read, size)
    assert_same_answers(continued, family.own)
    n_drafted = sum(draft.usage.n_drafted for draft in written)
    n_saved = sum(draft.usage.n_saved for draft in written)
    assert (0 < n_saved < n_drafted) if family.name not in HYBRID else (n_drafted == 0)
