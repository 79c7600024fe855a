"""A user's own workload is one small file: the documented example, as it stands there, runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from asd.collection import collect, header_for
from asd.engines.registry import open_engines
from asd.engines.revisions import revisions
from asd.errors import ConfigError
from asd.ladder import Ladder
from asd.traces.log import TraceLog
from asd.workloads import Split
from asd.workloads.catalogue import find_workloads

README = Path(__file__).parent.parent / "asd/workloads/README.md"
SPLITS: tuple[Split, ...] = ("fit", "calibrate", "test")


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The block of the page that begins with the name of the file."""
    blocks = re.findall(r"```python\n(# my_workload\.py\n.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) == 1, "the page has one example of a user's own workload"
    path = tmp_path_factory.mktemp("own") / "my_workload.py"
    path.write_text(blocks[0])
    return path


def test_the_example_is_small(example: Path) -> None:
    """Twenty lines, give or take: name, questions, score."""
    lines = [line for line in example.read_text().splitlines() if line.strip()]
    assert len(lines) <= 20


def test_the_example_is_a_workload(example: Path) -> None:
    """Its questions are its own in every split, apart, and their references score one."""
    [workload] = find_workloads([str(example)])
    parts = [{query.id for query in workload.queries(split, 99)} for split in SPLITS]
    assert all(parts)
    assert len(set().union(*parts)) == sum(map(len, parts))
    for query in workload.queries("test", 99):
        assert query.dataset == workload.name
        assert workload.score(query, str(query.reference)) == 1.0
        assert workload.score(query, "nowhere") == 0.0


@pytest.mark.slow
def test_the_embedded_ladder_answers_the_example(example: Path, tmp_path: Path) -> None:
    """The file's name is all that `--datasets` needs: every stage answers and is scored."""
    ladder, workloads = Ladder.load("tiny"), find_workloads([str(example)])
    header = header_for(ladder, revisions(ladder), workloads, "test")
    with TraceLog(tmp_path / "traces.jsonl", header) as log:
        traces = collect(workloads, open_engines(ladder, "cpu"), log, limit=1)
    assert [set(trace.outcomes) for trace in traces] == [{"S", "M", "L"}]


@pytest.mark.parametrize("content", ["", "workload = 3", "class workload: name = 'x'"])
def test_a_file_without_a_workload_is_refused(content: str, tmp_path: Path) -> None:
    """A file that defines none, or something else under its name, is an error that says what is missing."""
    path = tmp_path / "empty.py"
    path.write_text(content)
    with pytest.raises(ConfigError, match="defines no `workload`"):
        find_workloads([str(path)])


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """A path that is no file is named."""
    with pytest.raises(ConfigError, match=r"no file .*gone.py"):
        find_workloads([str(tmp_path / "gone.py")])
