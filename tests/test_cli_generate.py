"""`asd generate`: how tokens are chosen, where the answer ends, what comes before the prompt."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from asd.api import load
from asd.cli import main

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as context:
        context.setattr(os, "environ", os.environ.copy())
        yield


def generate(*arguments: str) -> str:
    done = CliRunner().invoke(main, ["generate", "add 12+30", "--lam", "0", "--device", "cpu", *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout.removesuffix("\n")


def refused(*arguments: str) -> str:
    done = CliRunner().invoke(main, ["generate", "add 12+30", "--device", "cpu", *arguments])
    assert done.exit_code == 2
    # a library may have its say when a model is first loaded in this process
    [line] = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    return line


@pytest.mark.slow
def test_draws_are_from_the_nucleus_and_repeat() -> None:
    """Hot draws differ from the greedy answer and repeat with the seed; a nucleus of one token is greedy."""
    hot = ("--temperature", "8", "--seed", "1")
    greedy, drawn = generate(), generate(*hot)
    assert greedy != drawn == generate(*hot)
    assert generate("--temperature", "8", "--seed", "2") != drawn
    assert generate(*hot, "--top-p", "1") == drawn
    assert generate(*hot, "--top-p", "1e-6") == greedy


def test_the_answer_ends_before_the_first_stop_string() -> None:
    """Whichever of them is given first."""
    greedy = generate()
    first, second = greedy[1], greedy[3]
    assert first not in greedy[:1]
    assert generate("--stop", second, "--stop", first) == greedy[: greedy.index(first)]


def test_the_asked_quality_chooses_the_lam() -> None:
    """As in Python; more quality is worth more."""
    names = set()
    for quality in (0.95, 0.99):
        arguments = ["generate", "add 12+30", "--device", "cpu", "--json", "--quality", str(quality)]
        done = CliRunner().invoke(main, arguments)
        with load("tiny", quality=quality, device="cpu") as cascade:
            assert json.loads(done.stdout)["policy"] == cascade.policy.name
        names.add(cascade.policy.name)
    assert len(names) == 2


def test_a_system_prompt_is_the_first_message() -> None:
    """The templates of the embedded stages would drop it, so each refuses the conversation."""
    assert "leaves out its message of role 'system'" in refused("--system", "Answer with a number.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--top-p", "0.9"), "--top-p has no effect at temperature 0; give --temperature too"),
        (("--seed", "0"), "--seed has no effect at temperature 0"),
        (("--temperature", "-1"), "temperature must be a number of at least 0, not -1"),
        (("--temperature", "nan"), "not nan"),
        (("--temperature", "1", "--top-p", "1.5"), r"top_p must be in (0, 1], not 1.5"),
        (("--stop", ""), "give texts that are not empty"),
        (("--stop", "\udcff"), "bytes that are not UTF-8"),
        (("--system", " "), "the system prompt is empty"),
        (("--system", "\udcff"), "the system prompt is not UTF-8: byte 0xff at position 0"),
    ],
)
def test_refused(arguments: tuple[str, ...], message: str) -> None:
    """In one line, before an answer is paid for."""
    assert message in refused(*arguments)
