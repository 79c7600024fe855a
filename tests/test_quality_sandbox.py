"""The sandbox: right answers pass, hostile ones fail, nothing gets out, the run goes on."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asd.errors import ConfigError
from asd.quality import sandbox
from asd.quality.sandbox import SPARE_UIDS, CodeTests, Limits, Sandbox, testbench
from tests.hostile import NAMES, hostile_programs

SECRET = "pearls before swine"
TIGHT = Limits(cpu_s=1, wall_s=1.5, memory_mib=256)
SQUARE = CodeTests(tests=f"assert f(2) in (4, {SECRET!r})", names=("f",))


@pytest.fixture(scope="module")
def box() -> Sandbox:
    return Sandbox.open()


@pytest.fixture(scope="module")
def tight() -> Sandbox:
    return Sandbox.open(TIGHT)


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, object]]:
    """What hostile programs are aimed at: a secret file, a file to overwrite, a listening socket."""
    folder = tmp_path_factory.mktemp("outside")
    folder.chmod(0o777)
    secret, target = folder / "secret", folder / "target"
    secret.write_text(SECRET)
    target.write_text("intact")
    for path in (secret, target):
        path.chmod(0o666)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield {
            "secret": str(secret),
            "target": str(target),
            "port": server.getsockname()[1],
            "server": server,
        }


def survivors() -> list[str]:
    """Processes that a sandbox has left behind."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                command = (folder / "cmdline").read_bytes()
                strange = folder.stat().st_uid in SPARE_UIDS
            except OSError:
                continue
            if strange or b"testbench.py" in command:
                found.append(f"{folder.name} {command!r}")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_program_fails_and_does_nothing(
    name: str, tight: Sandbox, outside: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends as a failed answer in time; nothing outside was read, written, reached or left running."""
    monkeypatch.setenv("ASD_SECRET", SECRET)
    server = outside["server"]
    aims = {key: value for key, value in outside.items() if key != "server"}
    started = time.monotonic()
    verdict = tight.run(hostile_programs(**aims)[name], SQUARE)  # type: ignore[arg-type]
    assert not verdict.passed
    assert verdict.reason
    assert time.monotonic() - started < 30  # a machine that is busy takes its time, but not for ever
    assert Path(str(outside["target"])).read_text() == "intact"
    with pytest.raises(BlockingIOError):
        server.accept()  # type: ignore[attr-defined]
    deadline = time.monotonic() + 10
    while (left := survivors()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left


def test_the_bait_is_real(outside: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a jail the same programs do get the secret: the tests above can fail."""
    monkeypatch.setattr(sandbox, "_why_no_jail", lambda: "no jail today")
    unsafe = Sandbox.open(unsafe=True)
    aims = {key: value for key, value in outside.items() if key != "server"}
    programs = hostile_programs(**aims)  # type: ignore[arg-type]
    assert unsafe.run(programs["reads a file of the user"], SQUARE).passed
    assert unsafe.run(programs["connects to the machine"], SQUARE).passed
    connection, _ = outside["server"].accept()  # type: ignore[attr-defined]
    connection.close()


@pytest.mark.parametrize("unsafe", [False, True])
def test_the_run_goes_on(unsafe: bool) -> None:
    """After an answer that dies, right and wrong ones are told apart as before, in a jail or without."""
    box = Sandbox.open(unsafe=unsafe)
    assert not box.run("import os\nos._exit(0)", SQUARE).passed
    assert box.run("f = lambda x: x * x", SQUARE).passed
    wrong = box.run("f = lambda x: x + 1", SQUARE)
    assert not wrong.passed
    assert wrong.reason.startswith("AssertionError")


def test_limits_hold_without_a_jail() -> None:
    """Time and memory are limited even where nothing else is."""
    box = Sandbox.open(TIGHT, unsafe=True)
    assert not box.run("while True: pass", SQUARE).passed
    assert "MemoryError" in box.run("f = lambda x: len(bytearray(1 << 29))", SQUARE).reason


@pytest.mark.slow
def test_a_sleeper_is_told_apart_from_a_crash(tight: Sandbox) -> None:
    """The reason says that time ran out, and which."""
    assert tight.run("import time\ntime.sleep(1e6)", SQUARE).reason == "took longer than 1.5 s"


def test_an_answer_that_lacks_the_function_fails(box: Sandbox) -> None:
    """Empty text, broken code and another name are failed answers, each with its reason."""
    assert "KeyError: 'f'" in box.run("", SQUARE).reason
    assert "SyntaxError" in box.run("def f(x:", SQUARE).reason
    assert "SyntaxError" in box.run("f = '\0'", SQUARE).reason
    assert "KeyError: 'f'" in box.run("def g(x): return x * x", SQUARE).reason


def test_values_come_back_as_they_are(box: Sandbox) -> None:
    """Everything plain crosses unchanged, in both directions, with its type."""
    values = [
        None,
        True,
        2**80,
        -0.5,
        float("inf"),
        3 + 4j,
        "\ud800é\n",
        b"\0x",
        (1, [2]),
        {1: {2}},
        frozenset({3}),
    ]
    tests = CodeTests(
        tests=f"import math\nfrom math import inf\nfor v in {values!r}:\n"
        "    w = same(v)\n    assert w == v and type(w) is type(v), v\n"
        "assert math.isnan(same(math.nan))\nassert list(count(3)) == [0, 1, 2]",
        names=("same", "count"),
    )
    program = "def same(x):\n    return x\ndef count(n):\n    yield from range(n)"
    assert box.run(program, tests).reason == ""


def test_tests_may_build_what_the_answer_defines(box: Sandbox) -> None:
    """Objects of the answer's classes are made, changed, read and handed back by the tests."""
    tests = CodeTests(
        tests="a = Node(1)\na.next = Node(2)\nassert a.next.value == 2\n"
        "assert total(a) == 3\nassert a.twice() == 2",
        names=("Node", "total"),
    )
    program = (
        "class Node:\n    def __init__(self, value):\n        self.value, self.next = value, None\n"
        "    def twice(self):\n        return 2 * self.value\n"
        "def total(node):\n    return node.value + total(node.next) if node else 0\n"
    )
    assert box.run(program, tests).reason == ""


def test_the_prelude_is_the_tests_own(box: Sandbox) -> None:
    """What the tests define themselves is theirs, whatever the answer calls by the same name."""
    tests = CodeTests(tests="assert helper(f(2)) == 5", names=("f",), prelude="helper = lambda x: x + 1")
    assert box.run("f = lambda x: x * x\nhelper = None", tests).passed
    assert not box.run("f = lambda x: x\nhelper = lambda x: 5", tests).passed


def test_no_sandbox_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without bubblewrap, or with one that cannot make a jail, opening refuses and names the way out."""
    sandbox._why_no_jail.cache_clear()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "which", lambda _: None)
            with pytest.raises(ConfigError, match=r"bwrap is not installed.*--unsafe-code"):
                Sandbox.open()
        sandbox._why_no_jail.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "which", lambda _: "/bin/false")
            with pytest.raises(ConfigError, match=r"cannot make one.*--unsafe-code"):
                Sandbox.open()
    finally:
        sandbox._why_no_jail.cache_clear()
    assert Sandbox.open().unsafe is False


def test_no_descriptor_is_left_open(box: Sandbox) -> None:
    """A thousand answers must not exhaust the descriptors of this process: one leaves none."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    box.run("f = lambda x: x * x", SQUARE)
    Sandbox.open(TIGHT).run("while True: pass", SQUARE)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.integers() | st.text() | st.tuples(st.integers()), inner)
        | st.sets(st.integers() | st.text())
        | st.frozensets(st.floats(allow_nan=False))
    ),
    max_leaves=20,
)


@pytest.mark.slow
@given(plain)
def test_encoding_loses_nothing(value: object) -> None:
    """Plain data is the same after encoding, JSON and decoding, container types included."""

    def refuse(_: object) -> int:
        raise AssertionError("plain data needs no handle")

    line = testbench.json.dumps(testbench.encode(value, refuse))
    again = testbench.decode(testbench.json.loads(line), refuse)
    assert again == value
    assert repr(again) == repr(value) or isinstance(value, list | tuple | dict | set | frozenset)
