"""The matrix: defaults, what options change, the plan's estimate."""

from dataclasses import replace
from pathlib import Path

import pytest

from asd.ladder import Ladder, Stage
from asd.prices import Prices
from bench.run.matrix import LAMS, N_ITEMS, N_TIMED, build_matrix, parse_lams
from bench.run.plan import describe_plan, estimate_minutes


def test_defaults_are_the_whole_matrix():
    """Eight lambdas, the four solvable embedded datasets, the policy that ships."""
    matrix = build_matrix(device="cpu")
    assert matrix.lams == LAMS
    assert len(matrix.datasets) == 4
    assert "tiny-unsolvable" not in matrix.datasets
    assert (matrix.n_items, matrix.n_timed, matrix.limited) == (N_ITEMS, N_TIMED, False)
    assert matrix.policy.name == "policy.json"
    assert len(matrix.cells) == 32


def test_limit_cuts_items_and_timed_items():
    """A limit below the number of timed items cuts these too; one above the default changes nothing."""
    matrix = build_matrix(device="cpu", limit=5)
    assert (matrix.n_items, matrix.n_timed, matrix.limited) == (5, 5, True)
    assert not build_matrix(device="cpu", limit=10 * N_ITEMS).limited


def test_the_unsolvable_dataset_is_measured_when_named():
    """Left out by default, not out of reach."""
    assert build_matrix(device="cpu", datasets="tiny-unsolvable").datasets == ("tiny-unsolvable",)


def test_lams_are_sorted_and_zero_is_honoured():
    """Any order will do; an explicit zero is a lambda."""
    assert parse_lams("2,0,0.5") == (0.0, 0.5, 2.0)


def test_hardware_key_counts_threads_on_a_cpu(monkeypatch: pytest.MonkeyPatch):
    """Threads are what a CPU run is fast or slow by."""
    matrix = build_matrix(device="cpu", batch=4)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert (matrix.hardware.count, matrix.hardware.batch, matrix.hardware.dtype) == (3, 4, "float32")


@pytest.mark.parametrize("value", ["", "1.0", "many", "0"])
def test_a_number_of_threads_that_is_none_is_as_if_unset(monkeypatch: pytest.MonkeyPatch, value: str):
    """Schedulers of clusters export all kinds of things."""
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert build_matrix(device="cpu").hardware.count == 1


def two_stages(unit: str) -> Ladder:
    stages = (
        Stage("S", "org/small", Prices(0.0, 0.0, 1.0), memory_gib=15.2),
        Stage("L", "org/large", Prices(0.0, 0.0, 10.0), memory_gib=145, tensor_parallel=4),
    )
    return Ladder("mine", stages, unit, "never")


def test_estimate_by_hand():
    """One dataset of 60 items, 16 tokens: 60 x 176 ms to collect, 20 x 3 x (1 + 9/2) x 160 ms live."""
    matrix = replace(build_matrix(device="cpu", datasets="tiny-text", limit=60), ladder=two_stages("ms"))
    assert estimate_minutes(matrix) == pytest.approx((60 * 176 + 60 * 5.5 * 160) / 60_000)
    assert estimate_minutes(replace(matrix, ladder=two_stages("usd"))) is None


def test_plan_tells_memory_and_placement(tmp_path: Path):
    """Declared memory, devices of a sharded stage, and that the time is unknown where prices are no times."""
    matrix = replace(build_matrix(device="cpu"), ladder=two_stages("usd"))
    plan = describe_plan(matrix, ["bench/test_x.py::test_y"])
    for words in ("15.2 GiB", "36.2 GiB", "4 x cpu", "time: unknown", "bench/test_x.py::test_y"):
        assert words in plan


@pytest.mark.parametrize(
    ("device", "times"),
    [("cpu", "timed 3 times\n"), ("mps", "timed 3 times, 2 where that would take more than 60 s\n")],
)
def test_plan_tells_the_passes_that_are_made(device: str, times: str):
    """All of them on a CPU; elsewhere as many as fit into a minute."""
    matrix = replace(build_matrix(device="cpu"), device=device, ladder=two_stages("usd"))
    assert times in describe_plan(matrix, [])
