"""The harness on recorded outcomes: no model is loaded, nothing is timed, every item is logged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from asd.collection import collect, header_for
from asd.engines.revisions import revisions
from asd.errors import ConfigError, DataError
from asd.ladder import Ladder
from asd.measurement.files import read_record
from asd.measurement.records import SCHEMA_VERSION, DatasetRecord, Run
from asd.testing import Script, ScriptedEngine
from asd.traces.log import TraceLog
from asd.types import Query
from asd.workloads.catalogue import find_workloads
from bench.gate.store import Baseline, pinned_by
from bench.run.matrix import build_matrix
from bench.run.recorded import recorded_workloads
from tests.fabricated import baseline_of, fabricate
from tests.taskfiles import task_files

CHECKOUT = Path(__file__).parent.parent
DATASETS = ("gsm8k:shots=0", "mmlu:shots=0")
N = 8


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Answers to two public sets: S is right on every second question, M and L on all."""
    data = task_files(tmp_path_factory.mktemp("data"))
    ladder, workloads = Ladder.load("tiny"), find_workloads(DATASETS, str(data))
    queries = [query for workload in workloads for query in workload.queries("test", N)]
    engines = {stage: ScriptedEngine(stage, answers(stage, queries)) for stage in ("S", "M", "L")}
    path = tmp_path_factory.mktemp("traces") / "test.jsonl"
    with TraceLog(path, header_for(ladder, revisions(ladder), workloads, "test")) as log:
        collect(workloads, engines, log, limit=N)
    return path


def answers(stage: str, queries: list[Query]) -> dict[str, Script]:
    return {
        query.prompt: Script(str(query.reference), (-0.01,) * 4)
        if stage != "S" or i % 2
        else Script("no idea", (-1.5,) * 4)
        for i, query in enumerate(queries)
    }


def run_bench(traces: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "bench/", "-q", "--engine", "replay", "--traces", str(traces)]
    return subprocess.run([*command, *options], cwd=CHECKOUT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_run_on_recorded_outcomes(traces: Path, tmp_path: Path) -> None:
    """Quality and cost of every policy, no times; one log line an item and policy that agrees with them."""
    out, items = tmp_path / "run.json", tmp_path / "items.jsonl"
    options = (
        "--baselines",
        str(tmp_path),
        "--lam",
        "1,20",
        "--json-out",
        str(out),
        "--log-items",
        str(items),
    )
    done = run_bench(traces, *options, "-k", "not overhead and not evidence")
    assert done.returncode == 0, done.stdout[-3000:]
    assert "passed" in done.stdout
    run = read_record(out, Run)
    assert {dataset.name for dataset in run.datasets} == set(DATASETS)
    assert run.header.hardware.engine == "replay"
    assert {cell.suite for cell in run.cells} >= {"quality", "cost", "frontier"}
    assert not any(metric.kind == "time" for cell in run.cells for metric in cell.metrics)
    lines = [json.loads(line) for line in items.read_text().splitlines()]
    of_large = [line for line in lines if line["policy"] == "always-L"]
    n_items = sum(len(dataset.items) for dataset in run.datasets)
    assert len(of_large) == n_items
    assert {line["quality"] for line in of_large} == {1.0}
    for dataset in run.datasets:
        mine = [line for line in lines if line["policy"] == "always-S" and line["dataset"] == dataset.name]
        assert [line["id"] for line in mine] == list(dataset.items)
        [quality] = [
            metric
            for cell in run.cells
            if (cell.suite, cell.dataset, cell.policy) == ("quality", dataset.name, "always-S")
            for metric in cell.metrics
            if metric.name == "quality"
        ]
        assert quality.value == pytest.approx(sum(line["quality"] for line in mine) / len(mine))


def test_recorded_outcomes_are_checked(traces: Path, tmp_path: Path) -> None:
    """No file, a dataset that is not in it, and a missing one are errors before anything runs."""
    with pytest.raises(ConfigError, match="give --traces FILE"):
        build_matrix(engine="replay")
    with pytest.raises(ConfigError, match=r"has no dataset 'bbh', only gsm8k:shots=0, mmlu:shots=0"):
        build_matrix(engine="replay", traces=traces, datasets="bbh")
    with pytest.raises(DataError, match="cannot read traces"):
        build_matrix(engine="replay", traces=tmp_path / "gone.jsonl")


def test_a_recorded_dataset_scores_recorded_answers(traces: Path) -> None:
    """What was answered has its recorded score, anything else none."""
    [workload] = recorded_workloads(traces, ["mmlu:shots=0"])
    [query] = workload.queries("test", 1)
    assert workload.score(query, str(query.reference)) == 1.0
    with pytest.raises(DataError, match="no recorded score"):
        workload.score(query, "something else")


def test_a_baseline_pins_the_commits_of_its_data() -> None:
    """Repository and commit of every data set a baseline was recorded on; files pin nothing."""
    assert pinned_by(None) == {}
    baseline = baseline_of(fabricate(np.random.default_rng(0)))
    assert pinned_by(baseline) == {}
    versions = ("a/b@1 c/d@2", "sha256:3")
    datasets = tuple(
        DatasetRecord(name=d.name, items=d.items, digests=d.digests, version=version)
        for d, version in zip(baseline.run.datasets, versions, strict=False)
    )
    run = Run(header=baseline.run.header, datasets=datasets, cells=())
    assert pinned_by(Baseline(schema_version=SCHEMA_VERSION, reason="test", run=run)) == {
        "a/b": "1",
        "c/d": "2",
    }
