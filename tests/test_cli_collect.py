"""`asd collect` on a server that refuses, hiccups and comes back: what is kept, printed and asked again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from asd.cli import main
from asd.traces import answered, read_traces
from asd.types import Failure
from tests.fakeserver import FakeServer, Fault, refusing, saying, serving

ANSWERS = {f"{n}+1=": str(n + 1) for n in range(6)}
FILTERED = json.dumps({"error": {"message": "The prompt was filtered", "code": "content_filter"}})
WORKLOAD = """
import asd

class Sums:
    name = "sums"

    def queries(self, split, limit):
        return [asd.Query(f"q{n}", self.name, f"{n}+1=", str(n + 1), 8) for n in range(6)][:limit]

    def score(self, query, text):
        return text == query.reference

workload = Sums()
"""


@pytest.fixture(scope="module")
def running() -> Iterator[FakeServer]:
    with serving(ANSWERS) as server:
        yield server


@pytest.fixture
def server(running: FakeServer) -> FakeServer:
    running.reset()
    return running


@pytest.fixture
def collect(server: FakeServer, tmp_path: Path) -> Callable[..., Result]:
    """The command on a ladder of two stages on that server, into one file."""
    stage = f"""
        [[stages]]
        name = "{{name}}"
        model = "tiny"
        engine = "openai"
        prices = {{{{ per_call = {{price}}, per_prompt_token = 0, per_decoded_token = 0 }}}}
        options.openai = {{{{ base_url = "{server.url}", attempts = 1, concurrency = 1 }}}}
    """
    stages = stage.format(name="S", price=1) + stage.format(name="L", price=5)
    (tmp_path / "pair.toml").write_text(
        f'name = "pair"\nprice_unit = "declared"\nprices_measured = "made up"\n{stages}'
    )
    (tmp_path / "sums.py").write_text(WORKLOAD)

    def run(*arguments: str) -> Result:
        given = ("--ladder", "pair.toml", "--datasets", "sums.py", "--out", "t.jsonl")
        paths = [str(tmp_path / word) if "." in word else word for word in given]
        return CliRunner().invoke(main, ["collect", *paths, *arguments])

    return run


def faulty(server: FakeServer, prompt: str, fault: Fault, times: int = 99) -> None:
    """Meets every request with this prompt, so many times; others are answered."""
    left = [times]

    def meet(handler: object) -> None:
        asked = server.asked[-1]["prompt"]
        if asked == prompt and left[0] > 0:
            left[0] -= 1
            assert fault is not None
            fault(handler)  # type: ignore[arg-type]
        else:
            handler.reply(200, json.dumps(handler._complete(server.asked[-1])).encode())  # type: ignore[attr-defined]

    server.faults.extend([meet] * 200)


def asked(server: FakeServer) -> Sequence[str]:
    return [body["prompt"] for body in server.asked]


def test_one_refused_query_costs_no_other(
    server: FakeServer, collect: Callable[..., Result], tmp_path: Path
) -> None:
    """The others are kept with one request each; the refusal is recorded in the server's words, without a
    score, counted and named, and the exit code is 3."""
    faulty(server, "3+1=", refusing(400, FILTERED))
    done = collect()
    assert done.exit_code == 3, done.output
    assert done.stdout == f"{tmp_path / 't.jsonl'}: 5 of 6 queries answered by S, L; refused: S 1, L 1\n"
    assert "query 'q3' of 'sums', refused by S: " in done.stderr
    assert "The prompt was filtered" in done.stderr
    assert sorted(asked(server)) == sorted([*ANSWERS] * 2)
    traces = read_traces(tmp_path / "t.jsonl")
    assert [t.query.id for t in answered(traces)] == ["q0", "q1", "q2", "q4", "q5"]
    assert {o.score for t in answered(traces) for o in t.outcomes.values()} == {1.0}
    [refused] = [t for t in traces if t.refusals]
    assert (refused.query.id, refused.outcomes) == ("q3", {})
    failure = refused.refusals["L"]
    assert isinstance(failure, Failure)
    assert (failure.stage, failure.kind) == ("L", "RefusedError")
    assert "The prompt was filtered" in failure.message


@pytest.mark.slow
def test_a_refusal_is_not_asked_again_unless_told_to(
    server: FakeServer, collect: Callable[..., Result], tmp_path: Path
) -> None:
    """Going on asks nothing and ends alike; `--retry-refused` asks what was refused, and an answer counts."""
    faulty(server, "3+1=", refusing(400, FILTERED), times=3)
    assert collect().exit_code == 3
    before = (tmp_path / "t.jsonl").read_bytes()
    server.asked.clear()
    again = collect()
    assert (again.exit_code, asked(server)) == (3, [])
    assert "5 of 6 queries" in again.stdout
    assert (tmp_path / "t.jsonl").read_bytes() == before
    once_more = collect("--retry-refused")
    assert asked(server) == ["3+1=", "3+1="]
    assert (once_more.exit_code, "refused: S 1\n" in once_more.stdout) == (3, True)
    last = collect("--retry-refused")
    assert (last.exit_code, asked(server)) == (0, ["3+1="] * 3)
    assert last.stdout.endswith("6 queries answered by S, L\n")
    assert not any(trace.refusals for trace in read_traces(tmp_path / "t.jsonl"))


@pytest.mark.parametrize("batch", ["1", "16"])
@pytest.mark.parametrize("fault", [saying("<html>"), refusing(502, "upstream")])
def test_one_hiccup_costs_one_request(
    server: FakeServer, collect: Callable[..., Result], tmp_path: Path, batch: str, fault: Fault
) -> None:
    """A reply that makes no sense, or a server in trouble for a moment, in the midst of others: the run goes
    on, asks that query again at the end, and every query is answered."""
    faulty(server, "3+1=", fault, times=1)
    done = collect("--batch", batch, "--limit", "5")
    assert done.exit_code == 0, done.output
    assert asked(server).count("3+1=") == 3
    assert all(trace.outcomes.keys() == {"S", "L"} for trace in read_traces(tmp_path / "t.jsonl"))
    answered_twice = [prompt for prompt in ANSWERS if asked(server).count(prompt) > 3]
    assert answered_twice == []


def test_a_query_that_always_fails_is_named_and_the_others_are_kept(
    server: FakeServer, collect: Callable[..., Result], tmp_path: Path
) -> None:
    """No refusal: the server makes no sense there. The error names the query; the next run asks it alone."""
    faulty(server, "3+1=", saying("<html>"))
    done = collect()
    assert done.exit_code == 2
    assert "query 'q3' of 'sums'" in done.stderr
    assert [t.query.id for t in read_traces(tmp_path / "t.jsonl")] == ["q0", "q1", "q2", "q4", "q5"]
    server.reset()
    assert collect().exit_code == 0
    assert asked(server) == ["3+1=", *ANSWERS]


@pytest.mark.slow
def test_a_server_that_is_gone_ends_the_run_at_once(
    server: FakeServer, collect: Callable[..., Result], tmp_path: Path
) -> None:
    """What came before is kept, and nothing is asked query by query of a server that does not answer."""
    assert collect("--limit", "2").exit_code == 0
    server.asked.clear()
    server.dead = True
    done = collect("--batch", "1")
    assert done.exit_code == 2
    assert len(server.asked) == 1
    assert len(read_traces(tmp_path / "t.jsonl")) == 2


def test_many_refusals_are_summed_up(server: FakeServer, collect: Callable[..., Result]) -> None:
    """Where every query is refused the first five are printed and the rest counted."""
    server.faults.extend([refusing(400, FILTERED)] * 99)
    done = collect()
    assert done.exit_code == 3
    assert "0 of 6 queries answered by S, L; refused: S 6, L 6" in done.stdout
    assert done.stderr.count("refused by") == 5
    assert "and 7 more, all in the file" in done.stderr
