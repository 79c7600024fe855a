"""The tolerant verifier's table, on the embedded ladder: its rows are recomputed one question a time."""

from pathlib import Path

import pytest

from asd.engines import Acceptance, alone
from asd.engines.registry import open_engines
from asd.engines.revisions import revisions
from asd.engines.runtimes import runtimes
from asd.ladder import PRESETS, Ladder
from asd.policy import artifact
from asd.research.study.material import Material, gather
from asd.research.study.record import StudyTable
from asd.research.theory.lenient import TOLERANCES, lenient_tables
from asd.traces import read_header
from asd.workloads.catalogue import find_workloads
from tests.conducted import material as played_back

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
N = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lenient")


@pytest.fixture(scope="module")
def material(folder: Path) -> Material:
    ladder = Ladder.load("tiny")
    return gather(
        ladder,
        find_workloads(["tiny-arithmetic", "tiny-lookup"]),
        open_engines(ladder, "cpu"),
        revisions(ladder),
        runtimes(ladder, device="cpu"),
        folder,
        policy=artifact.load(PRESETS.parent / "tiny" / "policy.json"),
        limit=N,
        seed=0,
        runs_on="cpu",
    )


def test_traces_say_what_ran(material: Material, folder: Path) -> None:
    """Engine and dtype of every stage, so that traces of another engine are not taken up."""
    for split in ("calibrate", "test"):
        stages = read_header(folder / f"{split}.jsonl").stages
        assert {name: stage.runtime for name, stage in stages.items()} == dict.fromkeys(
            material.stages, "transformers float32"
        )


@pytest.fixture(scope="module")
def table(material: Material) -> StudyTable:
    [found] = lenient_tables(material, n_asked=N)
    return found


def test_lossless_is_what_the_largest_stage_writes_alone(table: StudyTable, material: Material) -> None:
    """Its quality is the recorded one, and it loses nothing by definition."""
    traces = [trace for outcomes in material.test for trace in outcomes.traces]
    scores = [trace.outcomes["L"].score for trace in traces]
    lossless = [row for row in table.rows if row[1] is None]
    assert [row[0] for row in lossless] == ["S>L", "M>L"]
    for row in lossless:
        assert row[2] == pytest.approx(sum(scores) / len(scores))
        assert row[3] == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("tolerance", [0.5, 0.0001])
def test_rows_are_means_over_questions(table: StudyTable, material: Material, tolerance: float) -> None:
    """Quality, accepted share and passes of every question, read by itself."""
    workloads = {workload.name: workload for workload in material.workloads}
    verifier, acceptance = alone(material.engines["L"]), Acceptance(tolerance=tolerance)
    expected = []
    for trace in (trace for outcomes in material.test for trace in outcomes.traces):
        [read] = verifier.verify([trace.query], [trace.outcomes["S"].draft], acceptance)
        [answer] = verifier.continue_([trace.query], [read], acceptance)
        score = workloads[trace.query.dataset].score(trace.query, answer.text)
        expected.append((score, read.n_accepted / len(read.tokens), 1 + answer.usage.n_passes))
    [row] = [row for row in table.rows if row[:2] == ("S>L", tolerance)]
    assert (row[2], *row[6:]) == pytest.approx(
        [sum(column) / len(expected) for column in zip(*expected, strict=True)]
    )


def test_the_more_is_tolerated_the_more_is_accepted(table: StudyTable) -> None:
    """Accepted prefixes only grow as the tolerance falls, and the verifier writes no more than before."""
    for pair in ("S>L", "M>L"):
        accepted = [row[6] for row in table.rows if row[0] == pair]
        assert len(accepted) == len(TOLERANCES)
        assert accepted == sorted(accepted)


def test_recorded_answers_have_no_such_table() -> None:
    """What was only played back cannot be read anew, and there is nobody to score it."""
    assert lenient_tables(played_back()) == []
