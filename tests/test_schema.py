"""msgspec's stand-in against msgspec: the same values, bytes and refusals, on all that the harness reads.

The stand-in runs in a process that cannot import msgspec: `tests/without_msgspec.py`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asd.measurement.records import SCHEMA_VERSION
from asd.schema import msgspec, plain
from tests.fabricated import fabricate
from tests.without_msgspec import answer

ROOT = Path(__file__).parent.parent
Ask = Callable[[str, str], list[str]]
TRACE = (
    '{"id":"q1","dataset":"d","prompt":"2+2=","reference":"4","max_new_tokens":8,"tags":{"kind":"sum"},'
    '"outputs":{"S":{"score":1.0,"response":"4","tokens_in":5,"tokens_out":2,"n_passes":2,"seconds":0.01,'
    '"finished":true,"tokens":[9,2],"token_logprobs":[-0.1,-0.00002]}},"verifications":{"S>M":{"n_accepted":2,'
    '"tokens_in":5,"tokens_out":0,"n_passes":1,"seconds":1e-7,"tokens":[9,2],"token_logprobs":[-0.3,-1],'
    '"continued":{"tokens_in":1,"tokens_out":0,"n_passes":1,"n_drafted":0,"n_saved":0},"complete":false}},'
    '"refusals":{"L":{"kind":"RefusedError","message":"\\u00e9"}},"form":{"kind":"number"}}'
)
HEADER = (
    '{"format":"asd-traces","version":1,"ladder":"tiny","stages":{"S":{"model":"m","revision":"r","dtype":"auto",'
    '"chat_template":true,"chat_template_kwargs":{"a":[1,null]}}},"datasets":["d"],"split":"test"}'
)
CODE = '{"tests":"assert f(1) == 2","names":["f"]}'


def small(kind: str) -> str:
    """A record of each kind, small enough to be broken at every place."""
    if kind == "baseline":
        run = fabricate(np.random.default_rng(0))
        few = [cell for cell in run.cells if cell.dataset is None]
        run = msgspec.structs.replace(run, datasets=run.datasets[:0], cells=tuple(few))
        target = {"cell": "c", "metric": "m", "least": 1, "hardware": None}
        about = {"schema_version": SCHEMA_VERSION, "reason": "r", "targets": [target]}
        return json.dumps({**about, "run": msgspec.to_builtins(run)})
    if kind == "policy":
        return (ROOT / "asd" / "tiny" / "policy.json").read_text("utf8")
    if kind == "prices":
        return (ROOT / "asd" / "presets" / "tiny-prices.json").read_text("utf8")
    return {"trace": TRACE, "header": HEADER, "code": CODE}[kind]


@pytest.fixture(scope="module")
def plainly() -> Iterator[Ask]:
    """Asks the process without msgspec what `answer` says there."""
    command = [sys.executable, "-m", "tests.without_msgspec"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def ask(kind: str, text: str) -> list[str]:
            process.stdin.write(json.dumps([kind, text]) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield ask
        process.stdin.close()


SHIPPED = [
    *(("baseline", path) for path in sorted(ROOT.glob("baselines/*/*.json"))),
    ("policy", ROOT / "asd" / "tiny" / "policy.json"),
    ("prices", ROOT / "asd" / "presets" / "tiny-prices.json"),
    *(("ladder", path) for path in sorted(ROOT.glob("asd/presets/*.toml"))),
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "path"), SHIPPED, ids=lambda value: getattr(value, "stem", value))
def test_shipped_files_are_read_and_written_alike(plainly: Ask, kind: str, path: Path):
    """Every baseline, policy, ladder and price file: the same values, and the same bytes again."""
    text = path.read_text("utf8")
    known = answer(kind, text)
    assert known[0] == "read" or (kind, known[0]) == ("baseline", "refused")  # of an older schema
    assert plainly(kind, text) == known


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**62), 2**62), st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5), st.sampled_from(["platt", "isotonic", "measured", "", "1", "tiny"]),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(value=VALUES | st.floats())
def test_any_value_is_written_alike(plainly: Ask, value: Any):
    """Numbers with their shortest digits, text with its escapes, keys in their order."""
    written = msgspec.json.encode(value)
    assert plain.json.encode(value) == written
    assert plain.json.decode(written) == msgspec.json.decode(written)


@given(value=st.floats(1e-9, 1e-2) | st.floats(1e14, 1e23))
def test_numbers_around_the_borders_of_exponents_are_written_alike(value: float):
    """Where Python writes 1e-05 and msgspec 0.00001, 1e+16 and 1e16."""
    for number in (value, -value, float(f"{value:.0e}")):
        assert plain.json.encode(number) == msgspec.json.encode(number)


@st.composite
def broken(draw: st.DrawFn, kind: str) -> str:
    """A record with something changed at one place: a value, a name, a field too many or too few."""
    content = json.loads(small(kind))
    at: Any = content
    while True:
        steps = list(at) if isinstance(at, dict) else range(len(at))
        if not steps:
            break
        step = draw(st.sampled_from(steps))
        if isinstance(at[step], dict | list) and draw(st.integers(0, 3)):
            at = at[step]
            continue
        change = draw(st.sampled_from(["replace", "remove", "type"]))
        if change == "remove":
            del at[step]
        else:
            at[step] = draw(VALUES) if change == "replace" else _other_type(at[step])
        break
    if isinstance(at, dict) and draw(st.booleans()):
        at[draw(st.sampled_from(["more", "type", "lam", "value"]))] = draw(VALUES)
    return json.dumps(content)


def _other_type(value: Any) -> Any:
    """What a careless writer makes of it."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int):
        return float(value)
    if isinstance(value, float):
        return int(value)
    return str(value) if not isinstance(value, str) else [value]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["baseline", "policy", "prices", "trace", "header", "code"])
def test_broken_records_are_refused_alike(plainly: Ask, kind: str):
    """With the same words and the same path to the place; what is still a record is read alike."""
    seen = set()

    @settings(max_examples=20 if kind == "policy" else 40)
    @given(text=broken(kind))
    def refused_alike(text: str) -> None:
        known = answer(kind, text)
        seen.add(known[0])
        assert plainly(kind, text) == known

    refused_alike()
    assert seen >= {"refused"}


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ("prices", []),
        ("prices", ["stages", "S"]),
        ("prices", ["batched", "16", "L"]),
        ("policy", []),
        ("policy", ["ladder"]),
        ("policy", ["model", "nodes", "S"]),
        ("trace", ["outputs", "S"]),
        ("trace", ["verifications", "S>M", "continued"]),
        ("header", ["stages", "S"]),
        ("baseline", ["targets", 0]),
        ("code", []),
    ],
)
def test_of_an_unknown_field_the_known_ones_are_named(kind: str, place: list[Any]):
    """Those of the object that it stands in, whatever lists and mappings lie around it, and no others."""
    content = json.loads(small(kind))
    there: Any = reduce(getitem, place, content)
    written = set(there)
    there["comment"] = 1
    said = answer(kind, json.dumps(content))[1]
    named = said.partition("; the known fields are ")[2].split(", ")
    assert "unknown field `comment`" in said
    assert written <= set(named)
    assert "comment" not in named
    assert len(named) == len(set(named)) < len(written) + 12


def classes(module: Any) -> list[Any]:
    """A struct, one that derives from it with a configuration of its own, and one that derives from that."""

    class Base(module.Struct, frozen=True, omit_defaults=True):
        x: int
        y: tuple[int, ...] = ()

    class Derived(Base, kw_only=True, forbid_unknown_fields=True):
        z: int = 2
        w: dict[str, int] = {}

    class Last(Derived, kw_only=True):
        v: float = 0.5

    return [Base, Derived, Last]


@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("text", ['{"x": 1}', '{"x": 1, "w": {"a": 1}}', '{"x": 1, "more": 2}', '{"y": [1]}'])
def test_configuration_is_inherited_alike(which: int, text: str):
    """Order of fields, defaults left out, unknown fields refused."""
    fates = [fate(m.json.decode, text, type=classes(m)[which]) for m in (plain, msgspec)]
    assert fates[0] == fates[1]
    values = [classes(m)[which](1, (2,)) for m in (plain, msgspec)]
    assert plain.json.encode(values[0]) == msgspec.json.encode(values[1])
    assert str(plain.structs.asdict(values[0])) == str(msgspec.structs.asdict(values[1]))


def test_structs_are_values():
    """Equal by content, never changed, and no default is shared."""
    base, derived, _ = classes(plain)
    assert base(1) == base(1) != base(2) == plain.structs.replace(base(1), x=2)
    assert hash(base(1)) == hash(base(1))
    assert derived(1).w is not derived(1).w
    with pytest.raises(AttributeError):
        base(1).x = 3


@pytest.mark.parametrize("text", [b'{"x": 1}\n\n{"x": 2, "y": [3]}\n', b'{"x": 1}\n{"x": "a"}'])
def test_lines_are_read_alike(text: bytes):
    """An error counts the values; empty lines are none."""
    fates = [fate(m.json.Decoder(classes(m)[0]).decode_lines, text) for m in (plain, msgspec)]
    assert fates[0] == fates[1]


@pytest.mark.parametrize("text", ["{", "NaN", "1e400", "[1] 2", "", "-Infinity", "\ufeff1"])
def test_what_is_not_json_is_refused_by_both(text: str):
    """In words of the parser's own."""
    for module in (plain, msgspec):
        with pytest.raises(module.DecodeError):
            module.json.decode(text.encode())


def fate(read: Callable[..., Any], *given: Any, **more: Any) -> str:
    """What comes of reading: a value or a refusal."""
    try:
        return repr(read(*given, **more)).replace("classes.<locals>.", "")
    except ValueError as error:
        return str(error)


def test_what_is_not_there_names_msgspec():
    """No AttributeError of a module nobody has heard of."""
    with pytest.raises(ImportError, match="pip install msgspec"):
        _ = plain.msgpack
    with pytest.raises(TypeError, match="not supported"):
        plain.convert({}, set[int])


@pytest.mark.parametrize("value", [object(), {1: {2}}, {(1,): 2}, np.float64(1.0), {None: 1}])
def test_what_json_does_not_have_is_refused_by_both(value: object):
    """Unless somebody says how to write it."""
    for module in (plain, msgspec):
        if value != {1: {2}}:
            with pytest.raises(TypeError):
                module.json.encode(value)
    assert plain.json.encode([np.float64(1.5)], enc_hook=float) == b"[1.5]"


def test_half_a_character_is_refused_by_both():
    """Neither read nor written."""
    for module in (plain, msgspec):
        with pytest.raises(module.DecodeError):
            module.json.decode(b'"\\ud800"')
        with pytest.raises(UnicodeEncodeError):
            module.json.encode("\ud800")


@pytest.mark.slow
def test_nothing_that_the_harness_imports_needs_msgspec():
    """Suites and engine included."""
    code = (
        "import sys, importlib, pathlib; sys.modules['msgspec'] = None\n"
        "import bench.run.harness, asd.engines.hf.settings, asd.engines.hf.engine\n"
        "for path in pathlib.Path('bench').glob('test_*.py'): importlib.import_module('bench.' + path.stem)\n"
        "print(bench.run.harness.Run.__mro__[2].__module__)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("asd.schema.struct", "")
