"""Collecting with scripted stages; kills are real: another process, SIGKILL."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from asd.collection import collect, header_for, read_collected
from asd.engines import GREEDY, LOSSLESS, Acceptance, Sampling
from asd.errors import ConfigError, DataError, EngineError
from asd.ladder import Ladder, Stage
from asd.prices import Prices
from asd.testing import ScriptedEngine
from asd.traces import TraceHeader, read_traces
from asd.traces.log import TraceLog
from asd.types import Draft, Query, Usage, Verification
from asd.workloads import Split, Workload

LADDER = Ladder(
    "two",
    (Stage("S", "org/small", Prices(1, 0, 0)), Stage("L", "org/large", Prices(4, 0, 0))),
    "declared",
    "made up",
)
REVISIONS = {"S": "r1", "L": "r1"}
LIMIT = 10
BATCH = 4


@dataclass(frozen=True)
class Asked:
    """A workload of given queries."""

    rows: Sequence[Query]
    name: str = "asked"

    def queries(self, split: Split, limit: int) -> list[Query]:  # noqa: ARG002
        return list(self.rows[:limit])

    def score(self, query: Query, text: str) -> float:
        return float(text == query.reference)


def sums(name: str) -> Asked:
    """Twelve additions, the longer the later."""
    return Asked([Query(f"{n}", name, f"{n}+{10**n}=", reference=str(n + 10**n)) for n in range(12)], name)


WORKLOADS: list[Workload] = [sums("first"), sums("second")]


class Killed(ScriptedEngine):
    """A stage whose process is killed by the `fatal`-th call."""

    fatal = 0

    def generate(self, queries: Sequence[Query], sampling: Sampling = GREEDY) -> list[Draft]:
        if len(self.calls) + 1 == self.fatal:
            signal.raise_signal(signal.SIGKILL)
        return super().generate(queries, sampling)


class Assisted(ScriptedEngine):
    """A stage with a drafter: going on takes one pass, whatever is left."""

    @property
    def alone(self) -> ScriptedEngine:
        return self

    def continue_(
        self,
        queries: Sequence[Query],
        verifications: Sequence[Verification],
        acceptance: Acceptance = LOSSLESS,
    ) -> list[Draft]:
        usage = Usage(0, 1, n_passes=1, n_drafted=3, n_saved=2)
        return [
            replace(draft, usage=usage) for draft in super().continue_(queries, verifications, acceptance)
        ]


def header(workloads: Sequence[Workload] = WORKLOADS, split: Split = "fit") -> TraceHeader:
    return header_for(LADDER, REVISIONS, workloads, split)


def fleet(kind: type[ScriptedEngine] = ScriptedEngine, limit: int = LIMIT) -> dict[str, ScriptedEngine]:
    """S knows the right answer to prompts of even length, L to all."""
    queries = [query for workload in WORKLOADS for query in workload.queries("fit", limit)]
    return {
        stage.name: kind(
            stage.name,
            {
                q.prompt: (
                    str(q.reference) if stage.name == "L" or len(q.prompt) % 2 == 0 else "?",
                    (-0.1, -0.2),
                )
                for q in queries
            },
        )
        for stage in LADDER.stages
    }


def run(path: Path, engines: dict[str, ScriptedEngine], limit: int = LIMIT) -> bytes:
    with TraceLog(path, header()) as log:
        collect(WORKLOADS, engines, log, limit=limit, batch_size=BATCH)
    return path.read_bytes()


def test_every_query_on_every_stage_scored(tmp_path: Path) -> None:
    """Each query has one outcome of each stage, with the workload's score, in the workloads' order."""
    path = tmp_path / "t.jsonl"
    with TraceLog(path, header()) as log:
        traces = collect(WORKLOADS, fleet(), log, limit=LIMIT, batch_size=BATCH)
    assert [t.query for t in traces] == [q for w in WORKLOADS for q in w.queries("fit", LIMIT)]
    for trace in traces:
        assert {stage: outcome.score for stage, outcome in trace.outcomes.items()} == {
            "S": float(len(trace.query.prompt) % 2 == 0),
            "L": 1.0,
        }
    assert {t.query.prompt: t for t in read_traces(path)} == {t.query.prompt: t for t in traces}


def test_later_stages_read_every_earlier_draft(tmp_path: Path) -> None:
    """Each pair of stages once a query, as the verifier says it; the smallest stage verifies nothing."""
    path, engines = tmp_path / "t.jsonl", fleet()
    run(path, engines)
    for trace in read_traces(path):
        [verification] = engines["L"].verify([trace.query], [trace.outcomes["S"].draft])
        assert trace.verifications == {"S>L": replace(verification, text=None)}  # it is in L's outcome
        assert verification.accepted == (len(trace.query.prompt) % 2 == 0)


def test_a_stage_with_a_drafter_goes_on_from_what_it_read(tmp_path: Path) -> None:
    """What going on took is recorded beside the verification; for a stage alone it is not."""
    engines = fleet() | {"L": fleet(Assisted)["L"]}
    run(tmp_path / "drafted.jsonl", engines)
    run(tmp_path / "alone.jsonl", fleet())
    drafted, alone = (read_traces(tmp_path / f"{name}.jsonl") for name in ("drafted", "alone"))
    assert all(trace.continuations == {"S>L": Usage(0, 1, 1, 0, 3, 2)} for trace in drafted)
    assert not any(trace.continuations for trace in alone)
    assert [trace.verifications for trace in drafted] == [trace.verifications for trace in alone]


def test_outcomes_recorded_before_verification_are_verified_later(tmp_path: Path) -> None:
    """A file whose stages could not verify is taken up: drafts are read, nothing is answered again."""

    class Generator:
        """The part of a scripted stage that every engine has."""

        def __init__(self, stage: ScriptedEngine) -> None:
            for name in ("stage_name", "load", "unload", "synchronise", "generate"):
                setattr(self, name, getattr(stage, name))

    path = tmp_path / "t.jsonl"
    run(path, {name: Generator(engine) for name, engine in fleet().items()})
    assert {len(trace.verifications) for trace in read_traces(path)} == {0}
    engines = fleet()
    run(path, engines)
    assert {tuple(trace.verifications) for trace in read_traces(path)} == {("S>L",)}
    assert (len(engines["S"].calls), len(engines["L"].calls)) == (0, 6)


def test_one_stage_at_a_time_in_batches(tmp_path: Path) -> None:
    """A stage is given back before the next is asked; batches are full and of one dataset."""
    asked: list[tuple[str, list[str], bool]] = []

    class Watched(ScriptedEngine):
        def generate(self, queries: Sequence[Query], sampling: Sampling = GREEDY) -> list[Draft]:
            others_loaded = any(e.loaded for name, e in engines.items() if name != self.stage_name)
            asked.append((self.stage_name, [q.dataset for q in queries], others_loaded))
            return super().generate(queries, sampling)

    engines = fleet(Watched)
    run(tmp_path / "t.jsonl", engines)
    sizes = [4, 4, 2]
    assert asked == [
        (stage, [workload.name] * n, False) for stage in ("S", "L") for workload in WORKLOADS for n in sizes
    ]
    assert not any(engine.loaded for engine in engines.values())


def test_a_finished_run_has_nothing_left_to_do(tmp_path: Path) -> None:
    """Collecting again asks no stage anything and leaves the file as it is."""
    path = tmp_path / "t.jsonl"
    before = run(path, fleet())
    engines = fleet()
    assert run(path, engines) == before
    assert all(engine.calls == [] for engine in engines.values())


def test_a_larger_limit_runs_the_new_queries_only(tmp_path: Path) -> None:
    """What was recorded under a smaller limit is kept and not asked again."""
    path = tmp_path / "t.jsonl"
    run(path, fleet(), limit=4)
    engines = fleet()
    run(path, engines)
    asked = {stage: sum(map(len, engine.calls)) for stage, engine in engines.items()}
    n_new = (LIMIT - 4) * len(WORKLOADS)
    assert asked == {"S": n_new, "L": 2 * n_new}  # L reads what S wrote as well
    run(tmp_path / "at_once.jsonl", fleet())
    assert read_traces(path) == read_traces(tmp_path / "at_once.jsonl")


@pytest.mark.parametrize("fatal", [1, 2, 6])
def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, fatal: int) -> None:
    """SIGKILL loses the batch in flight and no other; the resumed file equals an uninterrupted one, byte for
    byte."""
    path = tmp_path / "t.jsonl"
    code = (
        "import sys; from pathlib import Path; from tests.test_collection import Killed, fleet, run\n"
        f"Killed.fatal = {fatal}; run(Path(sys.argv[1]), fleet(Killed))"
    )
    root = Path(__file__).parent.parent
    killed = subprocess.run([sys.executable, "-c", code, str(path)], cwd=root, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_bytes().count(b"\n") == 1 + [0, 4, 8, 10, 14, 18][fatal - 1]
    assert run(path, fleet()) == run(tmp_path / "whole.jsonl", fleet())


def test_a_failing_stage_keeps_what_came_before(tmp_path: Path) -> None:
    """When a later stage cannot answer, the outcomes of the earlier stages are on disk and are not redone."""
    path = tmp_path / "t.jsonl"
    broken = fleet() | {"L": ScriptedEngine("L", {})}
    with pytest.raises(EngineError, match="stage 'L' has no answer"):
        run(path, broken)
    engines = fleet()
    run(path, engines)
    assert engines["S"].calls == []
    assert {tuple(t.outcomes) for t in read_traces(path)} == {("S", "L")}


@pytest.mark.parametrize("limit", [0, -3])
def test_an_empty_limit_is_refused(tmp_path: Path, limit: int) -> None:
    """Asking for no queries is an error."""
    with pytest.raises(ConfigError, match=f"limit must be at least 1, not {limit}"):
        run(tmp_path / "t.jsonl", fleet(), limit=limit)


def test_an_empty_workload_is_refused(tmp_path: Path) -> None:
    """A workload without rows is an error that names it, before any stage is asked."""
    workloads: list[Workload] = [*WORKLOADS, Asked([])]
    engines = fleet()
    with (
        TraceLog(tmp_path / "t.jsonl", header(workloads)) as log,
        pytest.raises(DataError, match="workload 'asked' has no queries in split 'fit'"),
    ):
        collect(workloads, engines, log, limit=1)
    assert engines["S"].calls == []


def test_repeated_ids_are_refused(tmp_path: Path) -> None:
    """Two queries under one id could not be told apart in the traces."""
    workload = Asked([Query("1", "asked", "a"), Query("1", "asked", "b")])
    with (
        TraceLog(tmp_path / "t.jsonl", header([workload])) as log,
        pytest.raises(DataError, match="repeats a query id"),
    ):
        collect([workload], fleet(), log, limit=2)


def test_a_score_outside_of_0_to_1_is_refused(tmp_path: Path) -> None:
    """A workload that scores in percent is found out at the first batch."""

    class Percent(Asked):
        def score(self, query: Query, text: str) -> float:  # noqa: ARG002
            return 100.0

    workload = Percent([replace(WORKLOADS[0].queries("fit", 1)[0], dataset="asked")])
    with (
        TraceLog(tmp_path / "t.jsonl", header([workload])) as log,
        pytest.raises(DataError, match=r"score 100\.0 is not within \[0, 1\]"),
    ):
        collect([workload], fleet(), log, limit=1)


def test_what_runs_must_be_what_the_log_says(tmp_path: Path) -> None:
    """Other workloads or stages than those of the header are refused."""
    with TraceLog(tmp_path / "t.jsonl", header()) as log:
        with pytest.raises(ConfigError, match=r"workloads \['second'\] are not those of the log"):
            collect(WORKLOADS[1:], fleet(), log, limit=1)
        with pytest.raises(ConfigError, match=r"engines \['S'\] are not the log's stages"):
            collect(WORKLOADS, {"S": fleet()["S"]}, log, limit=1)


def test_collected_files_are_read_together(tmp_path: Path) -> None:
    """Files of the same stages and split are merged; where their directory lay does not matter."""
    for workload in WORKLOADS:
        with TraceLog(tmp_path / workload.name, header([workload])) as log:
            collect([workload], fleet(), log, limit=3)
    paths = [tmp_path / workload.name for workload in reversed(WORKLOADS)]
    traces = read_collected(paths, LADDER, "fit")
    assert [t.query.dataset for t in traces] == ["first"] * 3 + ["second"] * 3
    with pytest.raises(DataError, match="two outcomes"):
        read_collected([*paths, paths[0]], LADDER, "fit")


def test_files_of_another_run_are_refused(tmp_path: Path) -> None:
    """Traces of other stages, other weights or another split do not enter a fit."""
    path, other = tmp_path / "t.jsonl", tmp_path / "other.jsonl"
    run(path, fleet())
    with pytest.raises(ConfigError, match="rows of split 'fit'; needed are rows of 'test'"):
        read_collected([path], LADDER, "test")
    with pytest.raises(ConfigError, match="was collected with"):
        read_collected([path], Ladder("one", LADDER.stages[:1], "declared", "made up"), "fit")
    TraceLog(other, header_for(LADDER, {"S": "r1", "L": "r2"}, WORKLOADS, "fit")).__exit__()
    with pytest.raises(ConfigError, match=r"other\.jsonl was collected with"):
        read_collected([path, other], LADDER, "fit")


def test_template_variables_are_part_of_a_stage() -> None:
    """Answers of a stage whose chat template gets other variables are another run's."""
    chatting = replace(LADDER.stages[0], chat_template=True)
    headers = [
        header_for(replace(LADDER, stages=(stage, LADDER.stages[1])), REVISIONS, WORKLOADS, "fit")
        for stage in (chatting, replace(chatting, chat_template_kwargs={"enable_thinking": False}))
    ]
    assert headers[0] != headers[1]


def test_another_template_is_another_stage(tmp_path: Path) -> None:
    """A run is not continued with another chat template, and two such files are not fitted together."""
    path, other = tmp_path / "t.jsonl", tmp_path / "other.jsonl"
    for to, template in ((path, "1"), (other, "2")):
        revisions = {"S": f"sha256:aa+{template}", "L": "r1"}
        with TraceLog(to, header_for(LADDER, revisions, WORKLOADS, "fit")) as log:
            collect(WORKLOADS, fleet(), log, limit=2)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="collected with stages"):
        TraceLog(path, header_for(LADDER, {"S": "sha256:aa+2", "L": "r1"}, WORKLOADS, "fit"))
    assert path.read_bytes() == before
    with pytest.raises(ConfigError, match="was collected with"):
        read_collected([path, other], LADDER, "fit")


def test_a_file_of_an_earlier_version_is_read_and_continued(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its revisions know nothing of templates: it goes on with the same weights, which is said, and no other;
    files of both kinds are fitted together."""
    old, new = tmp_path / "old.jsonl", tmp_path / "new.jsonl"
    first, second = [WORKLOADS[0]], [WORKLOADS[1]]
    with TraceLog(old, header_for(LADDER, {"S": "sha256:aa", "L": "r1"}, first, "fit")) as log:
        collect(first, fleet(), log, limit=2)
    with TraceLog(old, header_for(LADDER, {"S": "sha256:aa+1", "L": "r1"}, first, "fit")) as log:
        assert "begun by an earlier version" in caplog.text
        assert len(collect(first, fleet(), log, limit=3)) == 3
    with TraceLog(new, header_for(LADDER, {"S": "sha256:aa+1", "L": "r1"}, second, "fit")) as log:
        collect(second, fleet(), log, limit=2)
    for paths in ([old, new], [new, old]):
        assert len(read_collected(paths, LADDER, "fit")) == 5
    with pytest.raises(ConfigError, match="collected with stages"):
        TraceLog(old, header_for(LADDER, {"S": "sha256:bb+1", "L": "r1"}, first, "fit"))
