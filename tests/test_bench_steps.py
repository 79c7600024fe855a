"""`bench.shapes.steps`: stages timed by how their steps are made."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from asd.engines.hf.engine import TransformersEngine
from bench.shapes.steps import WAYS, compare, main
from tests.models import save_random_model, stage
from tests.written import questions

pytestmark = pytest.mark.usefixtures("one_thread")


def engines(path: Path, other: Path | None = None) -> dict[str, TransformersEngine]:
    return {
        name: TransformersEngine(stage(where, options={"transformers": options}), "cpu")
        for (name, options), where in zip(WAYS.items(), (path, other or path), strict=True)
    }


def test_ways_take_turns_on_the_same_batches(tmp_path: Path) -> None:
    """Every pass times every batch each way; the answers are the same, or nothing is compared."""
    path = save_random_model(tmp_path / "a")
    ways = engines(path)
    timings = compare(ways, questions(3), 2, 2)
    assert {name: seconds.shape for name, seconds in timings.seconds.items()} == dict.fromkeys(WAYS, (2, 2))
    assert [engine.step_mode for engine in ways.values()] == ["eager", "static"]
    with pytest.raises(RuntimeError, match="answers depend on how steps are made"):
        compare(engines(path, save_random_model(tmp_path / "b", seed=1)), questions(3), 2, 1)


@pytest.mark.slow
def test_a_ladder_is_timed_stage_by_stage() -> None:
    """One line a stage, batch size and way."""
    done = CliRunner().invoke(main, ["--batch", "2", "--limit", "2", "--passes", "1", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    rows = [line.split() for line in done.stdout.splitlines()[2:]]
    assert [row[:4] for row in rows] == [
        [name, "2", *way] for name in "SML" for way in (("off", "eager"), ("on", "static"))
    ]
    assert all(float(row[4]) > 0 for row in rows)


def test_nonsense_is_refused() -> None:
    """A batch of nothing, a ladder that is not there."""
    for arguments, why in ((["--batch", "0"], "0 is not in the range"), (["--ladder", "none"], "none")):
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code != 0
        assert why in done.output + str(done.exception)
