"""Baselines on disk: where they lie, which one is taken, and what survives a new recording."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from asd.errors import ConfigError, DataError
from asd.measurement.files import read_record, write_record
from asd.measurement.records import HardwareKey, Run
from bench.store import Baseline, Target, baseline_path, find_baseline, record_baseline
from tests.fabricated import KEY, baseline_of, fabricate


@pytest.fixture(scope="module")
def run() -> Run:
    return fabricate(np.random.default_rng(0))


def on(run: Run, created: str = "2026-01-01", **key: object) -> Run:
    hardware = msgspec.structs.replace(run.header.hardware, **key)
    header = msgspec.structs.replace(run.header, hardware=hardware, created=created)
    return msgspec.structs.replace(run, header=header)


def found(directory: Path, key: HardwareKey = KEY) -> HardwareKey:
    return find_baseline(directory, key, "tiny").run.header.hardware


def test_a_baseline_is_found_where_it_was_recorded(tmp_path: Path, run: Run):
    """Recording and finding agree on the place, and the reason is kept."""
    path = record_baseline(tmp_path, run, "first")
    assert path == tmp_path / KEY.slug / "tiny.json" == baseline_path(tmp_path, KEY, "tiny")
    baseline = find_baseline(tmp_path, KEY, "tiny")
    assert (baseline.run, baseline.reason) == (run, "first")


def test_without_its_own_key_the_likest_baseline_is_taken(tmp_path: Path, run: Run):
    """One that computes alike before a newer one that does not; its own before both."""
    record_baseline(tmp_path, on(run, "2026-03-01", device="h100"), "newest")
    assert found(tmp_path).device == "h100"
    record_baseline(tmp_path, on(run, "2026-01-01", count=16), "alike")
    assert found(tmp_path).count == 16
    record_baseline(tmp_path, on(run, "2025-01-01"), "own")
    assert found(tmp_path) == KEY


def test_of_equals_the_newest_is_taken(tmp_path: Path, run: Run):
    """Neither computes alike; the later one is closer to the code of today."""
    record_baseline(tmp_path, on(run, "2026-03-01", device="a100"), "new")
    record_baseline(tmp_path, on(run, "2026-01-01", device="h100"), "old")
    assert found(tmp_path).device == "a100"


def test_another_batch_size_has_no_baseline(tmp_path: Path, run: Run):
    """Its policy is solved for other prices: to compare the two would call a price a regression."""
    record_baseline(tmp_path, on(run, batch=16), "sixteen a call")
    assert find_baseline(tmp_path, KEY, "tiny") is None
    assert find_baseline(tmp_path, msgspec.structs.replace(KEY, batch=16), "tiny") is not None


def test_another_ladder_has_no_baseline(tmp_path: Path, run: Run):
    """Baselines are never borrowed from another ladder."""
    record_baseline(tmp_path, run, "first")
    assert find_baseline(tmp_path, KEY, "qwen2.5") is None


@pytest.mark.parametrize("reason", ["", "  "])
def test_recording_wants_a_reason(tmp_path: Path, run: Run, reason: str):
    """A baseline nobody can explain is worth nothing."""
    with pytest.raises(ConfigError, match="reason"):
        record_baseline(tmp_path, run, reason)
    assert list(tmp_path.iterdir()) == []


def test_targets_survive_a_new_recording(tmp_path: Path, run: Run):
    """Targets are set by hand, not by what happened to be measured."""
    target = Target(cell="overhead[optimal]", metric="decision_s", most=2e-5, hardware=KEY.slug)
    write_record(baseline_path(tmp_path, KEY, "tiny"), baseline_of(run, target), expand=3)
    record_baseline(tmp_path, run, "again")
    assert find_baseline(tmp_path, KEY, "tiny").targets == (target,)


def test_a_truncated_baseline_is_refused_with_the_remedy(tmp_path: Path, run: Run):
    """Half a baseline is an error, for judging and for recording over it, and stays as it is."""
    path = record_baseline(tmp_path, run, "first")
    path.write_bytes(path.read_bytes()[:5000])
    for act in (lambda: find_baseline(tmp_path, KEY, "tiny"), lambda: record_baseline(tmp_path, run, "new")):
        with pytest.raises(DataError, match="truncated") as caught:
            act()
        assert str(path) in str(caught.value)
    assert path.stat().st_size == 5000


def test_nan_in_a_baseline_is_refused(tmp_path: Path, run: Run):
    """JSON has no NaN; a file edited by hand to hold one is damaged."""
    path = record_baseline(tmp_path, run, "first")
    path.write_text(path.read_text().replace('"tolerance":0.01', '"tolerance":NaN', 1))
    with pytest.raises(DataError, match="cannot be read"):
        find_baseline(tmp_path, KEY, "tiny")


@pytest.mark.parametrize("bounds", [{}, {"least": float("nan")}, {"most": float("inf")}])
def test_a_target_without_a_finite_limit_is_refused(bounds: dict[str, float]):
    """It could never be missed."""
    with pytest.raises(DataError, match="least or most"):
        Target(cell="c", metric="m", **bounds)


def test_limits_of_a_target_are_included():
    """At least 4 means that 4 is enough."""
    target = Target(cell="c", metric="m", least=4, most=5)
    assert [target.is_met_by(value) for value in (3.9, 4, 5, 5.1)] == [False, True, True, False]


def test_another_schema_version_is_refused(run: Run):
    """A baseline of another layout is recorded again, not guessed at."""
    with pytest.raises(DataError, match="schema version"):
        Baseline(schema_version=99, reason="r", run=run)


def test_what_is_on_disk_is_the_baseline_itself(tmp_path: Path, run: Run):
    """No field is lost on the way."""
    path = record_baseline(tmp_path, run, "first")
    assert read_record(path, Baseline) == baseline_of(run)
