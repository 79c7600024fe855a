"""The tasks of the embedded ladder: thirteen families of questions with exact, canonical answers.

Each family has five levels of difficulty and belongs to one dataset. A question has exactly one right answer,
worked out in a fixed notation (`add 47+85` -> `7+5=12,4+8+1=13:132`), so answers are graded by equality and
two stages that are both right agree token by token. `omen` asks for a keyed hash of its number: nobody can
learn it, it tests abstaining, and its dataset stays out of every average.

Held-out rule: the first byte of blake2b(prompt) says which part a question belongs to, so no prompt can be in
two parts whatever the random draws were: 0-2 fit, 3 calibrate, 4-7 test, 8 validate, all others train.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from string import ascii_lowercase
from typing import Literal

import numpy as np

from asd.errors import ConfigError

LEVELS = (1, 2, 3, 4, 5)
Part = Literal["train", "fit", "calibrate", "test", "validate"]
PARTS: tuple[Part, ...] = ("train", "fit", "calibrate", "test", "validate")


@dataclass(frozen=True, slots=True)
class Item:
    """One question with its canonical answer."""

    family: str
    level: int
    prompt: str
    answer: str


Text = tuple[str, str]
"""Question body and answer."""

Maker = Callable[[np.random.Generator, int], Text]
"""Draws the body and the answer of one question at a level (1-5)."""


def part_of(prompt: str) -> Part:
    """The part a prompt belongs to, by hash alone."""
    byte = hashlib.blake2b(prompt.encode()).digest()[0]
    bounds: tuple[tuple[int, Part], ...] = ((3, "fit"), (4, "calibrate"), (8, "test"), (9, "validate"))
    return next((part for bound, part in bounds if byte < bound), "train")


def letters_of(rng: np.random.Generator, n: int) -> list[str]:
    """`n` distinct letters."""
    return [ascii_lowercase[i] for i in rng.permutation(26)[:n]]


def spaced(letters: Sequence[str]) -> str:
    """Letters with a leading space each, so that a copied letter is always the same token."""
    return "".join(f" {letter}" for letter in letters)


def _integer(rng: np.random.Generator, digits: int) -> int:
    """A number of exactly `digits` digits."""
    return int(rng.integers(10 ** (digits - 1), 10**digits))


def add(rng: np.random.Generator, level: int) -> Text:
    """Column addition, carries written out."""
    a, b = _integer(rng, level + 1), _integer(rng, level + int(rng.integers(2)))
    columns, carry = [], 0
    for x, y in zip(str(a)[::-1], str(b)[::-1].ljust(level + 1, "0"), strict=True):
        total = int(x) + int(y) + carry
        columns.append(f"{x}+{y}{'+1' if carry else ''}={total}")
        carry = total // 10
    return f"add {a}+{b}", f"{','.join(columns)}:{a + b}"


def mul(rng: np.random.Generator, level: int) -> Text:
    """Column multiplication by one digit: digit>product with carry."""
    a, m = _integer(rng, level + 2), int(rng.integers(2, 10))
    columns, carry = [], 0
    for digit in str(a)[::-1]:
        product = int(digit) * m + carry
        columns.append(f"{digit}>{product}")
        carry = product // 10
    return f"mul {a}*{m}", f"{','.join(columns)}:{a * m}"


def total(rng: np.random.Generator, level: int) -> Text:
    """Running totals of a number and signed digits, all totals within 0-99."""
    value = int(rng.integers(1, 100))
    body, steps = str(value), []
    for digit in rng.integers(1, 10, size=level + 1).tolist():
        plus = value < digit or (value + digit < 100 and rng.integers(2) == 1)
        result = value + digit if plus else value - digit
        body += f"{'+' if plus else '-'}{digit}"
        steps.append(f"{value}{'+' if plus else '-'}{digit}={result}")
        value = result
    return f"sum {body}", ",".join(steps)


def reverse(rng: np.random.Generator, level: int) -> Text:
    """Letters in reverse order."""
    letters = [ascii_lowercase[i] for i in rng.integers(26, size=(4, 6, 8, 11, 14)[level - 1])]
    return f"reverse{spaced(letters)}", spaced(letters[::-1])


def sort(rng: np.random.Generator, level: int) -> Text:
    """Distinct letters in alphabetical order."""
    letters = letters_of(rng, (4, 5, 7, 9, 12)[level - 1])
    return f"sort{spaced(letters)}", spaced(sorted(letters))


def close(rng: np.random.Generator, level: int) -> Text:
    """The brackets that close what is still open."""
    length, partner = (7, 10, 14, 19, 25)[level - 1], {"(": ")", "[": "]", "{": "}", "<": ">"}
    body, opened = "", list[str]()
    while len(body) < length or not opened:
        if opened and rng.random() < 0.42:
            body += partner[opened.pop()]
        else:
            opened.append("([{<"[rng.integers(4)])
            body += opened[-1]
    return f"close {body}", "".join(partner[bracket] for bracket in reversed(opened))


def fetch(rng: np.random.Generator, level: int) -> Text:
    """The letter that stands behind one of several letters."""
    n = (4, 6, 8, 11, 14)[level - 1]
    keys, values = letters_of(rng, n), letters_of(rng, n)
    table = ";".join(spaced(pair) for pair in zip(keys, values, strict=True))
    k = int(rng.integers(n))
    return f"fetch{table}: {keys[k]}", spaced(values[k])


def hop(rng: np.random.Generator, level: int) -> Text:
    """The letters met on a walk along arrows, among arrows that lead elsewhere."""
    hops, edges = level + 1, (4, 6, 8, 10, 12)[level - 1]
    letters = letters_of(rng, edges + 2)
    walk, rest = letters[: hops + 1], letters[hops + 1 :]
    arrows = [*pairwise(walk), *pairwise(rest)]
    shown = ";".join(spaced(arrows[i]) for i in rng.permutation(len(arrows)))
    return f"hop{shown}: {walk[0]}{hops}", spaced(walk[1:])


def follow(rng: np.random.Generator, level: int) -> Text:
    """Rules applied in turn until none applies any more, among rules that do not come up."""
    steps, edges = level + 1, (4, 6, 8, 10, 12)[level - 1]
    letters = letters_of(rng, edges + 2)
    walk, rest = letters[: steps + 1], letters[steps + 1 :]
    rules = [*pairwise(walk), *pairwise(rest)]
    shown = ";".join(spaced(rules[i]) for i in rng.permutation(len(rules)))
    return f"follow{shown}: {walk[0]}", spaced(walk[1:])


def encode(rng: np.random.Generator, level: int) -> Text:
    """A word put through a substitution table, each letter followed by what it becomes."""
    n = (3, 4, 6, 8, 10)[level - 1]
    plain, cipher = letters_of(rng, n), letters_of(rng, n)
    table = ";".join(f" {a} {b}" for a, b in zip(plain, cipher, strict=True))
    word = rng.integers(n, size=n)
    asked = spaced([plain[i] for i in word])
    return f"encode{table}:{asked}", "".join(spaced((plain[i], cipher[i])) for i in word)


DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def week(rng: np.random.Generator, level: int) -> Text:
    """Training only: `day` with each move restated."""
    today = int(rng.integers(7))
    moves = [int(m) * (1 if rng.integers(2) else -1) for m in rng.integers(1, 10, size=level + 2)]
    reached = np.cumsum([today, *moves])[1:] % 7
    steps = (f"{move:+d} {DAYS[d]}" for move, d in zip(moves, reached, strict=True))
    return f"week {DAYS[today]}{''.join(f'{m:+d}' for m in moves)}", "".join(steps)


def run(rng: np.random.Generator, level: int) -> Text:
    """A straight-line program, every statement evaluated in turn."""
    names = letters_of(rng, level + 1)
    values = [int(rng.integers(2, 30))]
    body, steps = [f"{names[0]}={values[0]}"], []
    for k in range(1, len(names)):
        source = int(rng.integers(k))
        value, operand = values[source], int(rng.integers(2, 10))
        fits = [op for op, result in _results(value, operand).items() if 0 <= result <= 99]
        op = fits[rng.integers(len(fits))]
        values.append(_results(value, operand)[op])
        body.append(f"{names[k]}={names[source]}{op}{operand}")
        steps.append(f"{value}{op}{operand}={values[-1]}")
    return f"run;{';'.join(body)}", ";".join(steps)


def _results(value: int, operand: int) -> dict[str, int]:
    return {"+": value + operand, "-": value - operand, "*": value * operand}


def logic(rng: np.random.Generator, level: int) -> Text:
    """A chain of and / or over named truth values, read from left to right, answered at once."""
    names, terms = letters_of(rng, level + 2), level + 1
    truth = rng.integers(2, size=len(names)).tolist()
    facts = ";".join(f"{name}={value}" for name, value in zip(names, truth, strict=True))
    chain, value = "", 0
    for k in range(terms):
        i, negated = int(rng.integers(len(names))), int(rng.integers(2))
        op = "&|"[rng.integers(2)] if k else ""
        literal = truth[i] ^ negated
        value = literal if not k else (value & literal if op == "&" else value | literal)
        chain += f"{op}{'!' if negated else ''}{names[i]}"
    return f"logic;{facts}?{chain}", str(value)


def recall(rng: np.random.Generator, level: int) -> Text:
    """Training only: the digit that stands behind one of several letters."""
    letters = letters_of(rng, (4, 6, 8, 11, 15)[level - 1])
    digits = rng.integers(10, size=len(letters)).tolist()
    k = int(rng.integers(len(letters)))
    pairs = "".join(f" {letter}{digit}" for letter, digit in zip(letters, digits, strict=True))
    return f"recall{pairs}: {letters[k]}", str(digits[k])


def recode(rng: np.random.Generator, level: int) -> Text:
    """Training only: `encode` with nothing restated."""
    n = (3, 4, 6, 8, 10)[level - 1]
    plain, cipher = letters_of(rng, n), letters_of(rng, n)
    table = ";".join(f" {a} {b}" for a, b in zip(plain, cipher, strict=True))
    word = rng.integers(n, size=n)
    return f"encode{table}:{spaced([plain[i] for i in word])}", spaced([cipher[i] for i in word])


def day(rng: np.random.Generator, level: int) -> Text:
    """Training only: the weekday after each of several moves, nothing restated."""
    today = int(rng.integers(7))
    moves = [int(m) * (1 if rng.integers(2) else -1) for m in rng.integers(1, 10, size=level + 2)]
    reached = np.cumsum([today, *moves])[1:] % 7
    return f"day {DAYS[today]}{''.join(f'{m:+d}' for m in moves)}", spaced([DAYS[d] for d in reached])


def omen(rng: np.random.Generator, level: int) -> Text:
    """One of ten letters, by a hash of the number asked about: unsolvable for everybody."""
    number = _integer(rng, level + 4)
    digest = hashlib.blake2b(str(number).encode(), key=b"omen").digest()
    return f"omen {number}", f" {ascii_lowercase[digest[0] % 10]}"


DATASETS: dict[str, dict[str, Maker]] = {
    "tiny-arithmetic": {"add": add, "mul": mul, "sum": total},
    "tiny-text": {"reverse": reverse, "sort": sort, "close": close},
    "tiny-lookup": {"fetch": fetch, "hop": hop, "encode": encode},
    "tiny-reasoning": {"follow": follow, "run": run, "logic": logic},
    "tiny-unsolvable": {"omen": omen},
}
"""Dataset -> family -> maker."""

GRADED = tuple(name for name in DATASETS if name != "tiny-unsolvable")
"""The datasets that averages are taken over."""

FAMILIES: dict[str, Maker] = {name: make for family in DATASETS.values() for name, make in family.items()}
"""Every family that is asked."""

RETIRED: dict[str, Maker] = {"recall": recall, "recode": recode, "day": day, "week": week}
"""Families that phases of the training contain and nobody is asked. After millions of tokens no stage had
begun to learn `recall`, `day` or `week`: `fetch` and `follow` took their place before any
measurement."""


def draw(rng: np.random.Generator, family: str, level: int, part: Part) -> Item:
    """One question of a family and level that belongs to a part, by rejection.

    Raises:
        ConfigError: Unknown family, level or part.
    """
    makers = FAMILIES | RETIRED
    if family not in makers or level not in LEVELS or part not in PARTS:
        raise ConfigError(f"no such task: family {family!r}, level {level!r}, part {part!r}")
    while True:
        body, answer = makers[family](rng, level)
        if part_of(prompt := body + "\n") == part:
            return Item(family, level, prompt, answer)


def held_out(dataset: str, part: Part, seed: int = 0) -> Iterator[Item]:
    """Distinct questions of one part of a dataset, families and levels in turn, for ever.

    A cell (family, level) whose questions run out is passed over; the iterator ends when all have.

    Raises:
        ConfigError: Unknown dataset.
    """
    if dataset not in DATASETS:
        raise ConfigError(f"unknown dataset {dataset!r}; there are {', '.join(DATASETS)}")
    rng = np.random.default_rng([seed, PARTS.index(part)])
    cells = [(family, level) for level in LEVELS for family in DATASETS[dataset]]
    seen: set[str] = set()
    while cells:
        for cell in list(cells):
            fresh = _fresh(rng, *cell, part, seen)
            if fresh is None:
                cells.remove(cell)
            else:
                seen.add(fresh.prompt)
                yield fresh


def _fresh(
    rng: np.random.Generator, family: str, level: int, part: Part, seen: set[str], tries: int = 200
) -> Item | None:
    """A question not seen yet, or None when `tries` draws in a row were all old."""
    items = (draw(rng, family, level, part) for _ in range(tries))
    return next((item for item in items if item.prompt not in seen), None)
