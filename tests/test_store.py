"""Baselines on disk: where they lie, which one is taken, and what survives a new recording."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from asd.errors import ConfigError, DataError
from asd.measurement.files import read_record, write_record
from asd.measurement.records import HardwareKey, Metric, Run
from bench.gate.judge import judge
from bench.gate.store import Baseline, Target, baseline_path, find_baseline, read_baseline, record_baseline
from bench.gate.verdicts import Verdict
from tests.fabricated import KEY, OPTIONS, baseline_of, change, fabricate, with_items


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
    path = record_baseline(tmp_path, run, "first").path
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
    path = record_baseline(tmp_path, run, "first").path
    path.write_bytes(path.read_bytes()[:5000])
    for act in (lambda: find_baseline(tmp_path, KEY, "tiny"), lambda: record_baseline(tmp_path, run, "new")):
        with pytest.raises(DataError, match="truncated") as caught:
            act()
        assert str(path) in str(caught.value)
    assert path.stat().st_size == 5000


def test_nan_in_a_baseline_is_refused(tmp_path: Path, run: Run):
    """JSON has no NaN; a file edited by hand to hold one is damaged."""
    path = record_baseline(tmp_path, run, "first").path
    path.write_text(path.read_text().replace('"tolerance":0.01', '"tolerance":NaN', 1))
    with pytest.raises(DataError, match="cannot be read"):
        find_baseline(tmp_path, KEY, "tiny")


@pytest.mark.parametrize("bounds", [{}, {"least": float("nan")}, {"most": float("inf")}])
def test_a_target_without_a_finite_limit_is_refused(bounds: dict[str, float]):
    """It could never be missed."""
    with pytest.raises(DataError, match="least or most"):
        Target(cell="c", metric="m", **bounds)


def metric(value: float, interval: tuple[float, float] | None = None) -> Metric:
    return Metric(
        name="m", unit="x", kind="summary", direction="higher", provenance="measured", value=value,
        tolerance=0.0, interval=interval,
    )  # fmt: skip


def test_limits_of_a_target_are_included():
    """At least 4 means that 4 is enough."""
    target = Target(cell="c", metric="m", least=4, most=5)
    below, met = Verdict.BELOW_TARGET, Verdict.PASS
    assert [target.verdict(metric(v)) for v in (3.9, 4, 5, 5.1)] == [below, met, met, below]


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        ((4.0, 6.0), Verdict.PASS),
        ((3.9, 6.0), Verdict.INCONCLUSIVE),
        ((3.0, 4.0), Verdict.INCONCLUSIVE),
        ((3.0, 3.9), Verdict.BELOW_TARGET),
    ],
)
def test_a_target_is_judged_by_the_whole_interval(interval: tuple[float, float], expected: Verdict):
    """Met when all of the interval meets it, missed when none of it does, open in between."""
    target = Target(cell="c", metric="m", least=4)
    assert target.verdict(metric(sum(interval) / 2, interval)) is expected


@pytest.mark.parametrize(
    ("least", "interval", "moved"),
    [(2.0, (4.0, 6.0), 2.0), (4.5, (4.0, 6.0), 3.0), (5.0, None, 5.0), (7.0, (4.996, 5.004), 4.99)],
)
def test_a_recorded_target_stands_two_half_widths_clear(
    least: float, interval: tuple[float, float] | None, moved: float
):
    """One that is nearer is moved, away from the value, and its reason tells from where."""
    target = Target(cell="c", metric="m", least=least, reason="an aim")
    found = target.clear_of(metric(5.0, interval))
    assert found.least == moved
    assert found.clear_of(metric(5.0, interval)) == found
    assert found.reason == ("an aim" if moved == least else f"an aim; moved from at least {least:g} to "
                            "stand clear of 5 when that was recorded")  # fmt: skip


def test_a_most_moves_up():
    """Away from the value, to three digits."""
    target = Target(cell="c", metric="m", most=0.123)
    assert target.clear_of(metric(0.12344, (0.12, 0.127))).most == 0.131


def test_recording_moves_what_is_too_near_and_drops_what_is_retired(tmp_path: Path, run: Run):
    """Which targets were moved is told; what nobody measures any more has no target."""
    [overhead] = [cell.metrics[0] for cell in run.cells if cell.suite == "overhead"]
    wide = change(
        run, "overhead", "decision_s",
        lambda _, m: msgspec.structs.replace(m, interval=(m.value / 2, m.value * 1.5)),
    )  # fmt: skip
    kept = Target(cell="overhead[optimal]", metric="decision_s", most=overhead.value)
    retired = Target(cell="latency[tiny-text-optimal-lam=1]", metric="p95_s", most=1.0)
    write_record(baseline_path(tmp_path, KEY, "tiny"), baseline_of(run, kept, retired), expand=3)
    recorded = record_baseline(tmp_path, wide, "again")
    [target] = find_baseline(tmp_path, KEY, "tiny").targets
    assert target.most == pytest.approx(2 * overhead.value, rel=0.01)
    assert target.verdict(wide.cells[-1].metrics[0]) is Verdict.PASS
    assert [line.split(":")[0] for line in recorded.moved] == ["overhead[optimal] decision_s"]


def as_version_1(path: Path) -> None:
    """Rewrite a baseline as the first version did: the fastest seconds by item, ratios by pass."""
    content = json.loads(path.read_text())
    content["schema_version"] = content["run"]["header"]["schema_version"] = 1
    for metric in (metric for cell in content["run"]["cells"] for metric in cell["metrics"]):
        if samples := metric.pop("samples", None):
            metric["seconds"] = [min(of_unit) for of_unit in zip(*samples, strict=True)]
            metric["passes"] = [1.0] * len(samples)
        if reference := metric.pop("reference", None):
            metric["yardstick"] = [min(of_unit) for of_unit in zip(*reference, strict=True)]
        metric.pop("interval", None)
    path.write_text(json.dumps(content))


def test_a_baseline_of_the_first_version_is_read_without_its_times(tmp_path: Path, run: Run):
    """Quality and cost to every digit; times cannot be judged until they are recorded anew."""
    path = record_baseline(tmp_path, run, "first").path
    as_version_1(path)
    baseline = read_baseline(path)
    report = judge(run, baseline, OPTIONS)
    times = {f.note for f in report.findings if f.verdict is Verdict.CANNOT_JUDGE}
    assert times == {"the baseline's times were recorded with other statistics; record it again"}
    assert {f.verdict for f in report.findings} == {Verdict.PASS, Verdict.CANNOT_JUDGE}
    assert {f.metric for f in report.findings if f.verdict is Verdict.CANNOT_JUDGE} == {
        "speedup", "decision_s"
    }  # fmt: skip
    assert report.exit_code == 0
    worse = change(run, "cost", "cost", lambda _, m: with_items(m, np.array(m.items) * 1.05))
    assert judge(worse, baseline, OPTIONS).verdict is Verdict.REGRESSED
    record_baseline(tmp_path, run, "anew")
    assert judge(run, read_baseline(path), OPTIONS).verdict is Verdict.PASS


def test_another_schema_version_is_refused(run: Run):
    """A baseline of another layout is recorded again, not guessed at."""
    with pytest.raises(DataError, match="schema version"):
        Baseline(schema_version=99, reason="r", run=run)


def test_what_is_on_disk_is_the_baseline_itself(tmp_path: Path, run: Run):
    """No field is lost on the way."""
    path = record_baseline(tmp_path, run, "first").path
    assert read_record(path, Baseline) == baseline_of(run)
