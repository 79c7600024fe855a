"""`asd.engines.hf.retokenizer`: a draft in another stage's tokens, cut where that stage would have to
stop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from asd.engines.hf.retokenizer import Carried, at_seam, carry_behind, carry_over
from asd.types import Draft, Usage
from tests.models import save_random_model

TEXT = "sort pear apple"
STOPS = (2, 19)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path: Path = save_random_model(tmp_path_factory.mktemp("llama"))
    return AutoTokenizer.from_pretrained(path)


@pytest.fixture(scope="module")
def words(tokenizer: Any) -> list[int]:
    """The tokens of TEXT."""
    return list(tokenizer(TEXT, add_special_tokens=False)["input_ids"])


def draft(tokens: list[int], text: str = TEXT, *, finished: bool = True) -> Draft:
    return Draft("S", text, tuple(tokens), (-0.1,) * len(tokens), finished, Usage(1, len(tokens), 1), 0.1)


def carried(tokenizer: Any, given: Draft, room: int = 40, stops: tuple[int, ...] = STOPS) -> Carried:
    prompt = tokenizer("which? ")["input_ids"]
    return carry_over(given, prompt, room, tokenizer=tokenizer, stop_ids=stops, n_vocab=len(tokenizer))


def ended(tokens: list[int], *, complete: bool = True) -> Carried:
    """A draft that ends in a stop token."""
    return Carried(tokens, closed=True, complete=complete, any_stop=True)


def test_tokens_that_read_the_same_are_kept(tokenizer: Any, words: list[int]) -> None:
    """However they split the text; a written stop token stands for all of them, if it is one here."""
    letters = [t for letter in TEXT for t in tokenizer(letter, add_special_tokens=False)["input_ids"]]
    assert letters != words
    with_stop = TEXT + tokenizer.decode([19])  # a stop token that is a character like others
    for tokens in (words, letters):
        assert carried(tokenizer, draft([*tokens, 2])) == ended([*tokens, 2])
        assert carried(tokenizer, draft([*tokens, 19], with_stop)) == ended([*tokens, 19])
        assert carried(tokenizer, draft(tokens, finished=False)) == Carried(tokens, closed=False)


@pytest.mark.parametrize("foreign", [[7, 8, 9, 3], [9_999, 2], []])
def test_other_tokens_are_split_anew(tokenizer: Any, words: list[int], foreign: list[int]) -> None:
    """Ids that mean something else here, or nothing, count as the text they stand for."""
    assert carried(tokenizer, draft(foreign)) == ended([*words, 2])


def test_a_text_is_split_as_it_continues_the_prompt(tokenizer: Any) -> None:
    """Where prompt and text melt together in one token, the text is split by itself."""

    def split(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    def after(prompt: str, text: str) -> list[int]:
        given = draft([], text, finished=False)
        return carry_over(given, split(prompt), 40, tokenizer=tokenizer, stop_ids=STOPS, n_vocab=320).tokens

    assert after("which:", " pear") == split(" pear")
    assert split("which: pear")[:-1] != split("which: ")
    assert after("which: ", "pear") == split("pear")


@pytest.mark.parametrize(
    ("before", "text", "expected"),
    [
        ("Answer:", "Paris", " Paris"),
        ("Answer:", " Paris", " Paris"),
        ("The capital is", "Paris.", " Paris."),
        ("[/INST]", "Sure", " Sure"),
        ("3 + 4 =", "7", " 7"),
        ("3+4=", "7", "7"),
        ("The answer is", "42", " 42"),
        ("The capital of Fra", "nce", "nce"),
        ("The capital of Fra", " nce", " nce"),
        ("14 + 28 = 4", "2", "2"),
        ("**Answer:**", "(B)", " (B)"),
        ("Answer: ", " Paris", "Paris"),
        ("<|im_start|>assistant\n", " Paris", "Paris"),
        ("<|assistant|>", " Paris", "Paris"),
        ("The answer is (", "B", "B"),
        ("", " Paris", "Paris"),
        ("def f():\n", "    return 1", "    return 1"),
        ("Answer:", "\nParis", "\nParis"),
        ("Answer:", "  two spaces", "  two spaces"),
        ("The end", ", he said", ", he said"),
        ("答え:", "パリ", "パリ"),
        ("Answer:", "", ""),
        ("Answer:", " ", " "),
    ],
)
def test_a_leading_space_is_chosen_by_what_the_prompt_ends_in(before: str, text: str, expected: str) -> None:
    """Behind words and signs there is one; behind white space, brackets and control tokens there is none."""
    assert at_seam(before, text) == expected


def behind(tokenizer: Any, prompt: str, text: str, first: str, *, finished: bool = True) -> Carried | None:
    """What `text` continues the first token of `first` with."""
    [token, *_] = tokenizer(first, add_special_tokens=False)["input_ids"]
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    given = draft([], text, finished=finished)
    return carry_behind(given, ids, token, 40, tokenizer=tokenizer, stop_ids=STOPS, n_vocab=320)


def test_a_draft_goes_on_behind_the_verifier_s_own_first_token(tokenizer: Any) -> None:
    """Where only white space before the first word differs; what follows it is the rest of the draft."""
    for prompt, text, first in [
        ("which?\n", "pear apple", " pear"),  # the place suggests no space, the verifier writes one
        ("which:", "pear apple", "pear"),
        ("which:", " pear apple", "\n"),
        ("which:", "\npear apple", " pear"),
    ]:
        found = behind(tokenizer, prompt, text, first)
        assert found is not None, (prompt, text, first)
        [token, *_] = tokenizer(first, add_special_tokens=False)["input_ids"]
        whole = tokenizer.decode([token, *found.tokens], skip_special_tokens=True)
        assert whole.split() == text.split()
        assert whole.startswith(tokenizer.decode([token]))
        assert (found.tokens[-1], found.closed, found.complete) == (2, True, True)


def test_a_draft_that_begins_otherwise_is_not_tried_again(tokenizer: Any) -> None:
    """Other words, white space as it is already, the end of an answer, or nothing left to be read."""
    assert behind(tokenizer, "which:", "pear", " apple") is None
    assert behind(tokenizer, "which:", "pear", " pear") is None
    assert behind(tokenizer, "which:", "", "\n") is None
    assert behind(tokenizer, "which:", "pear", tokenizer.decode([19])) is None
    letter = tokenizer.decode(tokenizer("p", add_special_tokens=False)["input_ids"])
    assert behind(tokenizer, "which:", letter, letter, finished=False) is None


def test_a_foreign_stop_becomes_an_own_one(tokenizer: Any, words: list[int]) -> None:
    """A finished draft ends in this stage's stop token; without one its end cannot be read; nothing follows
    a stop."""
    assert carried(tokenizer, draft([*words, 7])) == ended([*words, 2])
    no_end = carried(tokenizer, draft([*words, 7]), stops=())
    assert no_end == Carried(words, closed=False, complete=False)
    in_between = carried(tokenizer, draft([*words, 7]), stops=(words[1],))
    assert in_between == ended(words[:2], complete=False)


def test_what_exceeds_the_room_is_left_out(tokenizer: Any, words: list[int]) -> None:
    """A draft as long as the room is closed, stop or not; a longer one is cut, and says so."""
    n = len(words)
    assert carried(tokenizer, draft([*words, 2]), n + 1) == ended([*words, 2])
    assert carried(tokenizer, draft([*words, 2]), n) == Carried(words, closed=True, complete=False)
    assert carried(tokenizer, draft(words, finished=False), n) == Carried(words, closed=True)
    assert carried(tokenizer, draft(words, finished=False), n - 1) == Carried(
        words[:-1], closed=True, complete=False
    )


def test_what_follows_a_token_that_the_model_cannot_write_is_left_out(
    tokenizer: Any, words: list[int]
) -> None:
    """A tokenizer may name more tokens than the model has logits for, its stop token included."""
    named = tokenizer.__class__.from_pretrained(tokenizer.name_or_path)
    named.add_tokens(["zebra"])
    n = len(tokenizer)
    given = draft([], f"{TEXT} zebra {TEXT}")
    prompt = tokenizer("which? ", add_special_tokens=False)["input_ids"]
    found = carry_over(given, prompt, 40, tokenizer=named, stop_ids=(2,), n_vocab=n)
    assert found.tokens[: len(words)] == words
    assert max(found.tokens) < n
    assert (found.closed, found.complete, found.any_stop) == (False, False, False)
    assert len(named(given.text)["input_ids"]) > len(found.tokens) + len(words)


def test_a_closed_draft_s_last_token_is_not_read() -> None:
    """It is judged from the logits before it, and nothing comes after."""
    assert Carried([4, 5, 2], closed=True).fed == [4, 5]
    assert Carried([4, 5], closed=False).fed == [4, 5]
