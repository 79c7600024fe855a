"""What models really write, by the table: hundreds of replies beside what a person reads in them."""

from __future__ import annotations

import re
import time
import warnings
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from asd.quality.choice import choice_of
from asd.quality.code import complete, program_of
from asd.quality.number import number_of
from asd.quality.replies import plain, reply_of, written
from asd.quality.thinking import without_thinking

TABLES = Path(__file__).with_name("replies")
PROMPT = (
    'from math import sqrt\n\n\ndef root(x: float) -> float:\n    """The root.\n    >>> root(4.0)\n    """\n'
)


def rows(name: str) -> list[tuple[str, str | None, tuple[str, ...], str]]:
    """Where the row stands, what is read, the options, the reply."""
    found, options = [], ()
    for number, line in enumerate((TABLES / name).read_text("utf8").splitlines(), 1):
        if line.startswith("= "):
            options = ("",) * line.count("*") or tuple(line[2:].split(" | "))
        elif line and not line.startswith("# "):
            wanted, _, reply = line.partition("\t")
            read = None if wanted == "-" else wanted
            found.append((f"{name}:{number}", read, options, reply.replace("⏎", "\n")))
    return found


def programs() -> list[tuple[str, bool, str]]:
    """What is tried, whether it works, the reply."""
    parts = re.split(r"^=== ", (TABLES / "code.txt").read_text("utf8"), flags=re.MULTILINE)[1:]
    heads = (part.partition("\n") for part in parts)
    return [(head, head.startswith("right"), reply.removesuffix("\n")) for head, _, reply in heads]


def works(program: str) -> bool:
    names: dict[str, object] = {}
    try:
        exec(program, names)
        return bool(names["root"](4.0) == 2.0)  # type: ignore[operator]
    except Exception:
        return False


def test_letters_are_read_as_a_person_reads_them() -> None:
    """The letter of every row, and none where a person reads none."""
    wrong = [
        (where, text, choice_of(text, options))
        for where, read, options, text in rows("choice.txt")
        if choice_of(text, options) != read
    ]
    assert wrong == []
    assert len(rows("choice.txt")) > 600


def test_numbers_are_read_as_a_person_reads_them() -> None:
    """The number of every row, and none where a person reads none."""
    wrong = [
        (where, text, number_of(text))
        for where, read, _, text in rows("number.txt")
        if number_of(text) != (None if read is None else Fraction(read))
    ]
    assert wrong == []
    assert len(rows("number.txt")) > 250


@pytest.mark.parametrize(("title", "right", "reply"), programs(), ids=[title for title, *_ in programs()])
def test_programs_are_found(title: str, right: bool, reply: str) -> None:
    """The function that a reply ends up with is the one that runs; a body needs the beginning of one."""
    assert works(complete(PROMPT, reply, "root")) == right
    if "body" not in title:
        assert works(f"from math import sqrt\n{program_of(reply, 'root')}") == right


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("no tags ", "no tags "),
        ("<think>a</think>B", "B"),
        ("<think>\na\n</think>\n\nB\n", "B"),
        ("a</think>B", "B"),
        ("<think>a</think>B<think>c</think>D", "BD"),
        ("<think>a<think>b</think>c</think>B", "B"),
        ("<think>a<think>b</think>B", "B"),
        ("<think>a</think>b</think>B", "B"),
        ("<think>a</think>B<think>c", "B"),
        ("<think>a", ""),
        ("<think></think>", ""),
        ("Sure <think>x", "Sure"),
        ("<THINKING>x</Thinking>\n\nB", "B"),
        ('<think time="3">x</think>B', "B"),
        ("<reasoning>x</reasoning><answer>B</answer>", "<answer>B</answer>"),
        ("<seed:think>x</seed:think>B", "B"),
        ("[THINK]x[/THINK]B", "B"),
        ("<|START_THINKING|>x<|END_THINKING|>B", "B"),
        ("<|begin_of_thought|>x<|end_of_thought|>B", "B"),
        ("\u25c1think\u25b7x\u25c1/think\u25b7B", "B"),
        ("<|channel>thought\nx<channel|>B", "B"),
        (
            "<|channel|>analysis<|message|>A<|end|><|start|>assistant<|channel|>final<|message|>B<|return|>",
            "B",
        ),
        ("<|channel|>final <|constrain|>json<|message|>{}<|return|>", "{}"),
        ("<|channel|>analysis<|message|>A is", ""),
        ("analysisWe need A.assistantfinalB", "B"),
        ("analysisWe need A.assistantcommentaryXassistantfinalB", "B"),
        ("analysisWe need A", ""),
        ("analysis 2+2 is 4.assistantfinal4", "4"),
        ("analysis of it: B", "analysis of it: B"),
        ("a <thinker> B", "a <thinker> B"),
    ],
)
def test_thoughts_are_left_out(text: str, rest: str) -> None:
    """Whatever family the tags are of, once, several or nested; an endless thought hides what follows."""
    assert without_thinking(text) == rest
    assert without_thinking(rest) == rest


PIECES = st.one_of(
    st.sampled_from("ABI \n.,()-=$}"),
    st.sampled_from(
        ["**", "12", "1,234", "####", "answer is ", "or ", "Answer: ", "not ", "<think>", "</think>"]
    ),
    st.sampled_from(
        ["```", "```python\n", "def root(x):\n", "    ", "return x", '"answer": "', "Question: "]
    ),
    st.sampled_from(
        ["\\boxed{", "Rome", "\u2212", "\uff22", "because ", "it is ", "\\frac{3}{4}", "a) ", "b) "]
    ),
)


@given(st.lists(PIECES, max_size=30).map("".join))
def test_any_text_is_read(text: str) -> None:
    """No reply, however broken, stops a run, and a letter that is read is that of an option."""
    assert choice_of(text, ("Paris", "Rome")) in {None, "A", "B"}
    assert number_of(text) == number_of(text)
    assert isinstance(program_of(text, "root"), str)
    assert isinstance(complete(PROMPT, text, "root"), str)


@given(st.lists(PIECES, max_size=20).map("".join), st.sampled_from(["<think>", "<thinking>", "<reasoning>"]))
def test_a_closed_thought_changes_nothing(thought: str, opening: str) -> None:
    """Whatever stands in a thought before it, a reply is read as it is without one."""
    closing = f"</{opening[1:]}"
    assume(closing not in thought)  # what stands behind that is in no thought
    for reply, read in (("The answer is B.", choice_of), ("(B)", choice_of)):
        assert read(f"{opening}{thought}{closing}\n\n{reply}", ("Paris", "Rome")) == "B"
    assert number_of(f"{opening}{thought}{closing}It is 18.") == 18


@pytest.mark.slow
@given(st.text(max_size=40))
def test_plain_text_stays(text: str) -> None:
    """What is plain already is not changed, and made plain it is."""
    ascii_only = text.encode("ascii", "ignore").decode()
    assert plain(ascii_only) == ascii_only
    assert plain(plain(text)) == plain(text)


LOOPS = (
    *("A. ", "A: ", "(A) ", "a ", "if ", "the answer is ", "the answer would be ", "B is correct ", "\n"),
    *("<answer>", "<think>", "</think>", "```\n", "import x\n", "def f(:\n"),
    *("1 ", "1, ", "#### ", "\\boxed{", '"answer": "'),
)


@pytest.mark.parametrize("piece", LOOPS)
def test_a_long_loop_is_read_in_time(piece: str) -> None:
    """A model that repeats itself to the end of its room costs no more than a moment."""
    text = piece * (8_000 // len(piece))
    began = time.process_time()
    choice_of(text, ("Paris", "Rome", "a large dog"))
    number_of(text)
    complete(PROMPT, text, "root")
    assert time.process_time() - began < 3.0


def test_bad_style_is_no_bad_code() -> None:
    """What Python only warns of is taken all the same, where warnings are errors too."""
    first, second = "def root(x):\n    return -1", 'def root(x):\n    "\\d"\n    return 1if x else 2'
    reply = f"```python\n{first}\n```\n```python\n{second}\n```"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "1if x" in program_of(reply, "root")


def test_a_reply_ends_where_the_model_asks_itself_more() -> None:
    """The next question and the end of a turn are no part of it; a question that is repeated first is."""
    assert reply_of("B\n\nQuestion: Which?\nAnswer: C") == "B"
    assert reply_of("Question: Which?\nAnswer: B\nQuestion: And?\nAnswer: C") == "Question: Which?\nAnswer: B"
    assert reply_of("Question 1: B\nQuestion 2: C") == "Question 1: B\nQuestion 2: C"
    assert written("def f(): pass<|im_end|>\n<|im_start|>user") == "def f(): pass"
