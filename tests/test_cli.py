"""The command line on small random models: what it prints, what it writes, how it fails."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from shutil import rmtree

import click
import msgspec
import numpy as np
import pytest
from click.testing import CliRunner, Result

import asd
from asd.cli import _blocks, main
from asd.collection import header_for
from asd.engines.registry import open_engines
from asd.engines.revisions import revisions
from asd.errors import ConfigError
from asd.evaluation.pricing import plan_block
from asd.ladder import Ladder
from asd.prices import Prices, read_prices
from asd.traces import read_traces
from asd.traces.log import TraceLog
from asd.types import Query
from tests import conducted, worlds
from tests.models import save_random_model
from tests.worlds import sample

ROOT = Path(asd.__file__).parent.parent
PROMPT = "walk from 11 to 12"
STAGE = """
[[stages]]
name = "{name}"
model = "./{name}"
prices = {{ per_call = 0, per_prompt_token = 0, per_decoded_token = {price} }}
"""


@dataclass(frozen=True)
class Place:
    """A ladder of two random models, traces of a made-up world, and the policy fitted on them."""

    ladder: Path
    traces: Path
    policy: Path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("cli")
    place = Place(write_ladder(folder), folder / "traces.jsonl", folder / "policy.json")
    for n_layers, name in enumerate(("S", "L"), start=1):
        save_random_model(folder / name, n_layers=n_layers, seed=n_layers)
    ladder = Ladder.load(place.ladder)
    header = msgspec.structs.replace(header_for(ladder, revisions(ladder), [], "fit"), datasets=("made-up",))
    with TraceLog(place.traces, header) as log:
        log.append(sample(300, np.random.default_rng(0))[0])
    done = run("fit", place.traces, "--ladder", place.ladder, "--out", place.policy)
    assert done.exit_code == 0, done.output
    return place


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the commands set in the environment does not outlive the test."""
    with monkeypatch.context() as context:
        context.setattr(os, "environ", os.environ.copy())
        yield


def write_ladder(folder: Path, large_price: float = 5.0) -> Path:
    stages = STAGE.format(name="S", price=1.0) + STAGE.format(name="L", price=large_price)
    path = folder / "pair.toml"
    path.write_text(f'name = "pair"\nprice_unit = "declared"\nprices_measured = "made up"\n{stages}')
    return path


def run(*arguments: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], input=stdin)


def generate(place: Place, *arguments: object, prompt: str = PROMPT, stdin: str | None = None) -> Result:
    given = ("--ladder", place.ladder, "--policy", place.policy, "--max-new-tokens", 12, "--device", "cpu")
    return run("generate", prompt, *given, *arguments, stdin=stdin)


def test_generate_prints_the_answer_of_the_stage_it_stopped_at(place: Place) -> None:
    """With lam 0 nothing is worth its cost but the cheapest stage: its own answer and nothing else."""
    done = generate(place, "--lam", 0)
    engine = open_engines(Ladder.load(place.ladder), "cpu")["S"]
    [draft] = engine.generate([Query("q", "d", PROMPT, max_new_tokens=12)])
    assert (done.exit_code, done.stdout) == (0, f"{draft.text}\n")


def test_generate_reads_standard_input(place: Place) -> None:
    """A dash reads the prompt from standard input; the end of its line is not part of it."""
    assert generate(place, prompt="-", stdin=f"{PROMPT}\n").stdout == generate(place).stdout


@pytest.mark.slow
def test_generate_takes_the_kind_of_answer_that_was_fitted(place: Place, tmp_path: Path) -> None:
    """By default the policy's only one; where it has several, or another is named, the message says so."""
    rows = read_traces(place.traces)
    numbers = [replace(row, query=replace(row.query, form=asd.AnswerForm("number"))) for row in rows]
    for name, traces in (("one", numbers), ("two", [*rows[::2], *numbers[1::2]])):
        fitted = asd.fit_policy(traces, Ladder.load(place.ladder), fitted_at="2026-01-01")
        fitted.save(tmp_path / f"{name}.json")
    one, two = (replace(place, policy=tmp_path / f"{name}.json") for name in ("one", "two"))
    assert json.loads(generate(one, "--json").stdout)["query"]["form"]["kind"] == "number"
    refused = generate(one, "--answers", "text").output
    assert "kind 'text', the evidence was fitted on 'number'" in " ".join(refused.split())
    assert "kind number, text; say with --answers" in generate(two).output
    assert generate(two, "--answers", "text").exit_code == 0


def test_generate_json_tells_everything(place: Place) -> None:
    """One line: the completion with all drafts and decisions, policy, ladder, unit and provenance."""
    done = generate(place, "--json", "--lam", 50)
    assert done.stdout.count("\n") == 1
    told = json.loads(done.stdout)
    about = {key: told[key] for key in ("ladder", "policy", "price_unit", "provenance")}
    assert about == {
        "ladder": "pair",
        "policy": "optimal(lam=50)",
        "price_unit": "declared",
        "provenance": "measured",
    }
    assert told["text"] == next(d["text"] for d in told["drafts"] if d["stage"] == told["stage"])
    assert [d["action"] for d in told["decisions"]] == [*(d["stage"] for d in told["drafts"]), "stop"]
    prices = {"S": 1.0, "L": 5.0}
    assert told["cost"] == sum(prices[d["stage"]] * d["usage"]["n_decoded"] for d in told["drafts"])


def test_generate_explains(place: Place) -> None:
    """`--explain` adds one row a state, with the decision, and the cost."""
    told = json.loads(generate(place, "--json").stdout)
    answer, empty, columns, *rows, _, cost = generate(place, "--explain").stdout.splitlines()
    assert (answer, empty) == (told["text"], "")
    assert columns.split()[-1] == "decision"
    assert [row.split()[-1] for row in rows] == [*(d["stage"] for d in told["drafts"]), told["stage"]]
    assert cost == f"priced cost {told['cost']:.3g} declared"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lam", -1], "lam must be a finite number, zero or more, got -1.0"),
        (["--lam", "nan"], "--lam must be a finite number, as 0.5, not nan"),
        (["--ladder", "tinny"], "no ladder named 'tinny'"),
        (["--ladder", "none.toml"], "cannot read the ladder file none.toml"),
        (["--policy", "none.json"], "none.json does not exist; make it with"),
        (["--policy", "."], ". cannot be read: Is a directory"),
        (["--device", "abacus"], "unknown device 'abacus'"),
        (["--device", "cuda:99"], "device 'cuda:99' is not here"),
        (["--max-new-tokens", 1000], "exceed the context of stage 'S', 256 tokens"),
    ],
)
def test_generate_refuses(place: Place, arguments: list[object], message: str) -> None:
    """A wrong value ends with exit code 2 and one line that names it, nothing on standard output."""
    assert_refused(generate(place, *arguments), message)


def assert_refused(done: Result, message: str) -> None:
    assert done.exit_code == 2
    assert done.stdout == ""
    error = done.stderr.splitlines()[-1]
    assert error.startswith("Error: ")
    assert message in error
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("prompt", "message"),
    [("", "the prompt is empty"), (" \n", "the prompt is empty"), ("word " * 500, "exceed the context")],
)
def test_generate_refuses_prompts(place: Place, prompt: str, message: str) -> None:
    """An empty prompt and one that does not fit are errors."""
    assert_refused(generate(place, prompt=prompt), message)


@pytest.mark.slow
def test_an_empty_answer_is_told(place: Place) -> None:
    """Beside the answer, not in it: the embedded ladder has nothing to say of France, but of a sum."""
    silent, sum_ = (
        run("generate", p, "--device", "cpu") for p in ("what is the capital of France?", "add 12+30")
    )
    assert (silent.exit_code, silent.stdout) == (0, "\n")
    assert "answered with nothing" in silent.stderr
    assert sum_.stdout.endswith("42\n")
    assert "nothing" not in sum_.stderr


def test_fit_tells_the_block_that_pays_most() -> None:
    """One line a stage with a drafter, by prices and acceptance; none where nothing was verified."""
    ladder, rows = worlds.drafting_ladder(), conducted.traces("fields", 30, seed=1)
    prices = {stage.name: stage.prices for stage in ladder.stages}
    best = plan_block(prices["S"], prices["L"], [row.verifications["S>L"] for row in rows])
    [line] = _blocks(ladder, rows)
    assert line.startswith("stage L: S drafts ")
    assert line.endswith(f"block = {best} pays most")
    assert not list(_blocks(ladder, [replace(row, verifications={}) for row in rows]))


def test_a_policy_of_another_ladder_is_refused(place: Place, tmp_path: Path) -> None:
    """The same stages at other prices are another ladder."""
    other = write_ladder(tmp_path, large_price=7.0)
    assert_refused(generate(place, "--ladder", other), "the policy was fitted on ladder 'pair'")


def test_a_ladder_without_a_policy_says_how_to_make_one(place: Place) -> None:
    """Only the embedded ladder ships with a policy."""
    assert_refused(run("generate", PROMPT, "--ladder", place.ladder), "ladder 'pair' comes without a policy")


def test_missing_weights_are_refused(place: Place, tmp_path: Path) -> None:
    """A ladder whose directories hold no weights: the error names stage and directory."""
    ladder = write_ladder(tmp_path)
    assert_refused(generate(place, "--ladder", ladder), f"stage 'S': {tmp_path / 'S'} is not a directory")
    collected = run("collect", "--ladder", ladder, "--out", tmp_path / "t.jsonl")
    assert_refused(collected, f"stage 'S': {tmp_path / 'S'} is not a directory")
    assert not (tmp_path / "t.jsonl").exists()


def collect(place: Place, out: Path, *arguments: object) -> Result:
    given = (
        "--ladder",
        place.ladder,
        "--datasets",
        "tiny-text",
        "--device",
        "cpu",
        "--limit",
        5,
        "--batch",
        2,
    )
    return run("collect", "--out", out, *given, *arguments)


def test_collect_writes_traces_and_goes_on(place: Place, tmp_path: Path) -> None:
    """Every stage answers every query; a second run changes nothing; a cut line is redone and reported."""
    out = tmp_path / "t.jsonl"
    done = collect(place, out)
    assert (done.exit_code, done.stdout) == (0, f"{out}: 5 queries answered by S, L\n")
    whole = out.read_bytes()
    assert [set(t.outcomes) for t in read_traces(out)] == [{"S", "L"}] * 5
    assert collect(place, out).exit_code == 0
    assert out.read_bytes() == whole
    out.write_bytes(whole[:-100])
    cut = collect(place, out)
    assert "dropped a line that was cut off" in cut.stderr
    redone = read_traces(out)
    out.write_bytes(whole)
    assert [t.query for t in redone] == [t.query for t in read_traces(out)]
    assert [t.outcomes["L"].draft.tokens for t in redone] == [
        t.outcomes["L"].draft.tokens for t in read_traces(out)
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--datasets", "tiny-text,tiny-sums"], "unknown dataset 'tiny-sums'"),
        (["--datasets", "tiny-text,tiny-text"], "dataset 'tiny-text' is given twice"),
        (["--datasets", ""], "unknown dataset ''"),
        (["--limit", 0], "limit must be at least 1, not 0"),
        (["--batch", 0], "batch_size must be at least 1, not 0"),
    ],
)
def test_collect_refuses(place: Place, tmp_path: Path, arguments: list[object], message: str) -> None:
    """Wrong options end with exit code 2 and one line."""
    assert_refused(collect(place, tmp_path / "t.jsonl", *arguments), message)


def test_collect_refuses_to_continue_with_other_weights(place: Place, tmp_path: Path) -> None:
    """Traces of a model that was retrained since are not continued."""
    ladder = write_ladder(tmp_path)
    for name in ("S", "L"):
        save_random_model(tmp_path / name, n_layers=1)
    out = tmp_path / "t.jsonl"
    assert collect(place, out, "--ladder", ladder).exit_code == 0
    before = out.read_bytes()
    rmtree(tmp_path / "L")
    save_random_model(tmp_path / "L", n_layers=1, seed=5)
    assert_refused(collect(place, out, "--ladder", ladder), "was collected with stages")
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    "command",
    [
        ("collect", "--out"),
        ("price", "--out"),
        ("fit", "no-traces.jsonl", "--out"),
        ("replay", "--train", "no-traces.jsonl", "--test", "no-traces.jsonl", "--json"),
        ("frontier", "no-traces.jsonl", "--stages", "s,l", "--json"),
        ("certify", "no-traces.jsonl", "--json"),
        ("evidence", "fit", "no-traces.jsonl", "--out"),
    ],
)
def test_where_nothing_can_be_written_nothing_is_begun(command: tuple[str, ...], tmp_path: Path) -> None:
    """A folder that is missing, or one in the file's place, is an error before anything is read or run."""
    assert_refused(run(*command, tmp_path / "none" / "t.json"), "is no folder; make it first")
    assert_refused(run(*command, tmp_path), "is a directory")


def test_fit_refuses(place: Place, tmp_path: Path) -> None:
    """Cut and missing traces, and traces of another ladder, make no policy."""
    out = tmp_path / "policy.json"
    cut = tmp_path / "cut.jsonl"
    cut.write_bytes(place.traces.read_bytes()[:-10])
    for traces, ladder, message in [
        (cut, place.ladder, "the last line of"),
        (tmp_path / "none.jsonl", place.ladder, "No such file or directory"),
        (place.traces, "qwen2.5-3", "was collected with"),
    ]:
        assert_refused(run("fit", traces, "--ladder", ladder, "--out", out), message)
    assert not out.exists()


@pytest.mark.slow
def test_control_c_leaves_a_file_to_go_on_with(place: Place, tmp_path: Path) -> None:
    """SIGINT in the middle: exit code 130, how to go on, no traceback, and the traces so far are whole."""
    out = tmp_path / "t.jsonl"
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "asd",
        "collect",
        "--out",
        out,
        "--ladder",
        place.ladder,
    ]
    options = ["--datasets", "tiny-text", "--limit", "400", "--batch", "1", "--device", "cpu"]
    with (
        _hearing_control_c(),
        subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True, cwd=ROOT) as process,
    ):
        deadline = time.monotonic() + 120
        while (not out.exists() or out.read_bytes().count(b"\n") < 3) and time.monotonic() < deadline:
            time.sleep(0.05)
        errors = _interrupt(process)
    assert process.returncode == 130
    assert f"{out} is intact; give the same command again to continue" in errors
    assert "Traceback" not in errors
    assert len(read_traces(out)) >= 1


@contextlib.contextmanager
def _hearing_control_c() -> Iterator[None]:
    """What a shell runs in the background is started deaf to it, and so is what that starts: tests, too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupt(process: subprocess.Popen[str]) -> str:
    """Press Ctrl-C as a person would: again, where Python lost the first in a destructor."""
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=60)[1]
    process.kill()
    return process.communicate()[1]


@pytest.mark.parametrize(
    ("before", "options", "after"),
    [(None, [], "1"), ("3", [], "3"), (None, ["--threads", 2], "2"), ("3", ["--threads", 2], "2")],
)
def test_threads(place: Place, before: str | None, options: list[object], after: str) -> None:
    """One thread unless the environment says otherwise; the option beats both."""
    os.environ.pop("OMP_NUM_THREADS", None)
    if before is not None:
        os.environ["OMP_NUM_THREADS"] = before
    generate(place, *options)
    assert os.environ["OMP_NUM_THREADS"] == after


@pytest.mark.slow
def test_torch_obeys_the_threads() -> None:
    """The variable is set before torch is imported, so torch has as many threads."""
    code = (
        "from asd.cli import main; main(['generate', 'x', '--ladder', 'none.toml', '--threads', '2'], "
        "standalone_mode=False)"
    )
    script = f"try:\n    {code}\nexcept Exception: pass\nimport torch; print(torch.get_num_threads())"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout == "2\n"


def commands(group: click.Group, *path: str) -> Iterator[tuple[str, ...]]:
    yield path
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        yield from commands(command, *path, name) if isinstance(command, click.Group) else [(*path, name)]


@pytest.mark.parametrize("path", list(commands(main)), ids=" ".join)
def test_help_suffices(path: tuple[str, ...]) -> None:
    """Help of every command ends with examples of it that can be typed; -h is --help."""
    done = run(*path, "--help")
    assert done.exit_code == 0
    assert "\n    ".join(["  Examples:", " ".join(("asd", *path))]) in done.stdout
    assert run(*path, "-h").stdout == done.stdout


@pytest.mark.parametrize("path", [path for path in commands(main) if path], ids=" ".join)
def test_no_option_takes_nan_or_infinity(path: tuple[str, ...]) -> None:
    """Which pass every comparison that checks a range; it is told in one line which option it was."""
    command: click.Command = main
    for name in path:
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), name) or command
    numbers = [option for option in command.params if isinstance(option.type, click.types.FloatParamType)]
    for option, text in product(numbers, ("nan", "inf", "-inf")):
        with pytest.raises((ConfigError, click.BadParameter), match=rf"{option.opts[0]}|{text} is not in"):
            option.type.convert(text, option, None)


def test_every_command_is_listed() -> None:
    """The commands are these, and each says in one line what it does."""
    listed = run("--help").stdout.partition("Commands:")[2].partition("Examples:")[0]
    lines = [line.split(maxsplit=1) for line in listed.splitlines() if line.strip()]
    first = "agreement assess certify collect contest control convert day evidence fit forecast"
    rest = "plan price reality replay routes serve simulate study tiny"
    assert [line[0] for line in lines] == f"{first} frontier generate {rest}".split()
    assert all(len(line) == 2 for line in lines)


@pytest.mark.slow
def test_local_weights_are_loaded_quietly(place: Place) -> None:
    """In a fresh process nothing but the answer is printed, on either stream."""
    command: list[str | Path] = [sys.executable, "-m", "asd", "generate", PROMPT, "--device", "cpu"]
    options: list[str | Path] = ["--ladder", place.ladder, "--policy", place.policy, "--max-new-tokens", "12"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=True, cwd=ROOT)
    assert (done.stdout, done.stderr) == (generate(place).stdout, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["collect", "--out", "/dev/full"], "not a regular file"),
        (["tiny", "train", "--out", "/dev/full"], "File exists: '/dev/full"),
        (["study", "--out", "/dev/full", "--limit", 2], "/dev/full"),
        (["collect", "--out", "t.jsonl", "--datasets", "own.py"], "own.py cannot be run: ValueError: bad"),
        (["collect", "--out", "t.jsonl", "--datasets", "half.py"], "half.py cannot be run: SyntaxError"),
    ],
)
def test_wrong_paths_and_files_are_refused(
    arguments: list[object], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Devices, folders under a file, and a workload that breaks: one line, nothing written."""
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text("raise ValueError('bad')")
    Path("half.py").write_text("def (")
    done = run(*arguments)
    assert done.exit_code == 2
    error = done.stderr.splitlines()[-1]
    assert error.startswith("Error: ")
    assert message in error
    assert not Path("t.jsonl").exists()


@pytest.mark.slow
def test_a_full_disk_under_standard_output_is_an_error(place: Place) -> None:
    """Exit code 2 and one line, as for any other file."""
    command = [sys.executable, "-m", "asd", "evidence", "features"]
    for buffered in ({"PYTHONUNBUFFERED": "1"}, {"PYTHONUNBUFFERED": ""}):
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False,
                env=os.environ | buffered,
            )  # fmt: skip
        assert done.returncode == 2
        assert (
            done.stderr == "Error: [Errno 28] No space left on device; choose another path, or free space\n"
        )


def test_version() -> None:
    """`asd --version` and `python -m asd --version` print the package's version."""
    done = subprocess.run(
        [sys.executable, "-m", "asd", "--version"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout == run("--version").stdout == f"asd {asd.__version__}\n"


def test_unknown_commands_and_options_are_refused() -> None:
    """A typing mistake ends with exit code 2."""
    assert run("genrate", "x").exit_code == 2
    assert run("generate", "x", "--lambda", "2").exit_code == 2


@pytest.mark.parametrize(
    ("sizes", "why"),
    [
        ("4,16", "batch 1 is needed too"),
        ("1,1", "different sizes"),
        ("1,0", "different sizes"),
        ("x", "1,4,16"),
    ],
)
def test_price_asks_for_batch_sizes_that_can_be_priced(sizes: str, why: str, tmp_path: Path) -> None:
    """Wrong ones end the command before a model is loaded."""
    result = run("price", "--batch", sizes, "--out", tmp_path / "p.json")
    assert result.exit_code == 2
    assert why in result.output
    assert not (tmp_path / "p.json").exists()


@pytest.mark.parametrize("asked", [(), ("--mixed",)])
def test_price_says_how_its_calls_were_made_up(
    asked: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of like prompts, or mixed where that is asked for; the file says which."""
    seen: list[bool] = []

    def measured(
        engines: Mapping[str, object], queries: Mapping[int, object], *, mixed: bool, **_: object
    ) -> dict[int, dict[str, Prices]]:
        assert list(queries) == [1]
        seen.append(mixed)
        return {1: {name: Prices(1.0, 0.1, 1.0) for name in engines}}

    monkeypatch.setattr("asd.evaluation.pricing.measure_batches", measured)
    result = run("price", "--out", tmp_path / "p.json", *asked)
    assert result.exit_code == 0, result.output
    assert seen == [bool(asked)]
    how = "in mixed calls" if asked else "in calls of like prompts"
    assert read_prices(tmp_path / "p.json").prices_measured.endswith(how)
