"""The embedded tasks: answers against an independent solution, parts disjoint by hash."""

import re
from itertools import islice

import numpy as np
import pytest

from asd.errors import ConfigError
from asd.tiny.tasks import DATASETS, FAMILIES, LEVELS, PARTS, draw, held_out, part_of


def _solve_close(body: str) -> str:
    """Cancel matched pairs until none is left; mirror the rest."""
    while (shorter := re.sub(r"\(\)|\[\]|\{\}|<>", "", body)) != body:
        body = shorter
    return body[::-1].translate(str.maketrans("([{<", ")]}>"))


def _solve_hop(body: str) -> str:
    arrows, question = body.split(":")
    table = dict(arrow.split() for arrow in arrows.split(";"))
    letter, hops = question.strip()[0], int(question.strip()[1:])
    walk = []
    for _ in range(hops):
        letter = table[letter]
        walk.append(letter)
    return " ".join(walk)


def _solve_encode(body: str) -> str:
    table, word = body.split(":")
    pairs = dict(pair.split() for pair in table.split(";"))
    return " ".join(f"{letter} {pairs[letter]}" for letter in word.split())


def _solve_follow(body: str) -> str:
    rules, start = body.split(":")
    table, letter, walk = dict(rule.split() for rule in rules.split(";")), start.strip(), []
    while letter in table:
        letter = table[letter]
        walk.append(letter)
    return " ".join(walk)


def _solve_run(body: str) -> str:
    names: dict[str, int] = {}
    for statement in body.strip(";").split(";"):
        name, expression = statement.split("=")
        names[name] = eval(expression, {}, dict(names))
    return str(list(names.values())[-1])


def _solve_logic(body: str) -> str:
    facts, chain = body.strip(";").split("?")
    truth = dict(fact.split("=") for fact in facts.split(";"))
    value = None
    for op, negated, name in re.findall(r"([&|]?)(!?)([a-z])", chain):
        literal = (truth[name] == "1") != bool(negated)
        value = literal if value is None else (value and literal if op == "&" else value or literal)
    return str(int(bool(value)))


SOLUTIONS = {
    "add": lambda body: str(eval(body)),
    "mul": lambda body: str(eval(body)),
    "sum": lambda body: str(eval(body)),
    "reverse": lambda body: " ".join(body.split()[::-1]),
    "sort": lambda body: " ".join(sorted(body.split())),
    "close": _solve_close,
    "fetch": lambda body: dict(pair.split() for pair in body.split(":")[0].split(";"))[body.split(": ")[1]],
    "hop": _solve_hop,
    "encode": _solve_encode,
    "follow": _solve_follow,
    "run": _solve_run,
    "logic": _solve_logic,
}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("family", SOLUTIONS)
def test_the_final_result_equals_an_independent_solution(family, level):
    """What stands last in an answer is what another way of working it out gives."""
    rng = np.random.default_rng(level)
    for _ in range(40):
        item = draw(rng, family, level, "train")
        body = re.sub(f"^{family}[ ;]", "", item.prompt.rstrip("\n")).strip()
        final = re.split(r"[:=]", item.answer)[-1].strip()
        if family in {"add", "mul", "sum", "run"}:
            assert int(final) == int(SOLUTIONS[family](body))
        else:
            assert item.answer.strip() == SOLUTIONS[family](body)


@pytest.mark.parametrize("family", ["sum", "run"])
def test_every_written_step_is_true(family):
    """Each `a+b=c` of a worked answer holds."""
    rng = np.random.default_rng(0)
    for _ in range(100):
        for step in re.split(r"[,;]", draw(rng, family, 5, "train").answer):
            left, right = step.split("=")
            assert eval(left) == int(right)


@pytest.mark.slow
def test_parts_are_disjoint_and_cover():
    """A prompt is in exactly one part, whoever draws it; held-out parts are about 9/256 of all."""
    rng = np.random.default_rng(0)
    by_part = {part: {draw(rng, "hop", 5, part).prompt for _ in range(50)} for part in PARTS}
    assert all(part_of(prompt) == part for part, prompts in by_part.items() for prompt in prompts)
    assert sum(map(len, by_part.values())) == len(set().union(*by_part.values()))
    shares = [part_of(f"sort {k}\n") != "train" for k in range(20_000)]
    assert abs(np.mean(shares) - 9 / 256) < 0.006


@pytest.mark.slow
@pytest.mark.parametrize("dataset", DATASETS)
def test_held_out_items_are_distinct_stable_and_balanced(dataset):
    """The same items in the same order every time, no prompt twice, all cells equally often."""
    items = list(islice(held_out(dataset, "test"), 300))
    assert items == list(islice(held_out(dataset, "test"), 300))
    assert len({item.prompt for item in items}) == 300
    counts = [sum((i.family, i.level) == (f, v) for i in items) for f in DATASETS[dataset] for v in LEVELS]
    assert max(counts) - min(counts) <= 1


def test_a_small_cell_runs_dry_and_the_others_go_on(monkeypatch):
    """Questions that are used up are passed over instead of being drawn for ever."""
    monkeypatch.setitem(DATASETS["tiny-unsolvable"], "omen", FAMILIES["omen"])
    monkeypatch.setitem(FAMILIES, "omen", lambda rng, _: (f"omen {rng.integers(300)}", "x"))
    items = list(held_out("tiny-unsolvable", "test"))
    assert 0 < len(items) < 300


def test_unknown_names_are_refused():
    """An unknown dataset, family or level is an error that names it."""
    with pytest.raises(ConfigError, match="tiny-nothing"):
        next(held_out("tiny-nothing", "test"))
    with pytest.raises(ConfigError, match="riddle"):
        draw(np.random.default_rng(0), "riddle", 1, "test")
    with pytest.raises(ConfigError, match="level 6"):
        draw(np.random.default_rng(0), "add", 6, "test")
