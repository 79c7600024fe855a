"""Fit on some files, play others: the report, the certificate and the comparison."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import beta

from asd.errors import ConfigError, DataError
from asd.measurement.files import read_record, write_record
from asd.research.offline import replay as replay_module
from asd.research.offline.certificate import CertificateReport, certify, clopper_pearson
from asd.research.offline.comparison import ComparisonCell, FrontierReport, compare
from asd.research.offline.curves import SWEEP, cost_shares, cross_validate
from asd.research.offline.replay import ReplayReport, ours, replay
from asd.research.recordings.recording import Recording
from tests.recordings import COST, STAGES, recording, records

pytestmark = pytest.mark.slow

LAMS = (0.5, 2.0, 20.0)


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return recording(tmp_path_factory.mktemp("replay") / "train.jsonl", records(200, seed=1))


@pytest.fixture(scope="module")
def test(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return recording(tmp_path_factory.mktemp("replay") / "test.jsonl", records(300, seed=2))


@pytest.fixture(scope="module")
def report(train: Recording, test: Recording) -> ReplayReport:
    return replay(train, test, LAMS)


def test_points_are_means_over_test_rows(report: ReplayReport, test: Recording) -> None:
    """Single models equal their recorded means; shares are of the best; mixes sum to one."""
    assert report.best_single == "large"
    for k, point in enumerate(report.singles):
        assert (point.name, point.lam, point.n) == (STAGES[k], None, 300)
        assert point.quality == pytest.approx(test.scores[:, k].mean())
        assert point.cost_share == pytest.approx(test.costs[:, k].mean() / test.costs[:, 2].mean())
    for point in (*report.points, *report.oracle):
        assert sum(point.answered.values()) == pytest.approx(1.0)
        assert point.quality_interval.low <= point.quality <= point.quality_interval.high
        assert point.cost >= min(COST) * 0.1
    assert [point.lam for point in report.points] == list(LAMS)


def test_a_bootstrap_interval_is_as_wide_as_the_normal_one(report: ReplayReport, test: Recording) -> None:
    """1.96 standard errors either side, on hundreds of rows."""
    interval = report.singles[1].quality_interval
    error = test.scores[:, 1].std() / np.sqrt(300)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * error, rel=0.15)


@pytest.mark.slow
def test_intervals_of_many_rows_are_normal_ones(
    report: ReplayReport, train: Recording, test: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where resampling would take long it is not needed: the bounds lie where it would put them."""
    monkeypatch.setattr(replay_module, "_MOST_RESAMPLED", 299)
    for here, there in zip(replay(train, test, LAMS).points, report.points, strict=True):
        spread = there.quality_interval.high - there.quality_interval.low
        assert here.quality_interval.low == pytest.approx(there.quality_interval.low, abs=0.1 * spread)
        assert here.quality_interval.high == pytest.approx(there.quality_interval.high, abs=0.1 * spread)
        assert here.quality_interval.high + here.quality_interval.low == pytest.approx(2 * here.quality)


def test_the_cascade_pays_on_held_out_rows(report: ReplayReport) -> None:
    """Cheaper than mixing single models, dearer than foresight, never dearer than the best model."""
    for loss, share in report.cost_share_at.items():
        assert share is not None
        oracle = report.oracle_cost_share_at[loss]
        assert oracle is not None
        assert oracle < share <= 1.0
    assert report.aiq is not None
    assert report.aiq_singles is not None
    assert report.aiq > report.aiq_singles + 0.01


@pytest.mark.slow
def test_nothing_of_the_test_rows_is_fitted(train: Recording, test: Recording, report: ReplayReport) -> None:
    """With other scores on the test rows the same calls are made at the same cost."""
    other = replay(train, replace(test, scores=1.0 - test.scores), LAMS)
    assert [p.called for p in other.points] == [p.called for p in report.points]
    assert [a.settings for a in other.asked] == [a.settings for a in report.asked]


def test_what_is_delivered_is_near_what_is_asked(report: ReplayReport) -> None:
    """On rows of the same kind nothing asked is missed beyond the noise of 300 rows."""
    for asked in report.asked:
        assert asked.shortfall == pytest.approx(asked.delivered - asked.asked)
        assert asked.delivered_interval.low <= asked.asked
        assert asked.delivered > -0.05


@pytest.mark.slow
def test_a_dataset_with_train_rows_of_its_own_is_fitted_on_them(tmp_path: Path) -> None:
    """Another dataset is fitted on all train rows; the rows played are those of the test files."""
    both = [*records(80, 1, dataset="a"), *records(70, 2, dataset="b")]
    other = [*records(40, 3, dataset="a"), *records(30, 4, dataset="c")]
    found = replay(
        recording(tmp_path / "train.jsonl", both), recording(tmp_path / "test.jsonl", other), (2.0,)
    )
    assert found.fitted_for.keys() == {"a", "all"}
    assert found.points[0].n == 70


@pytest.mark.slow
def test_two_stages_are_measured_as_routellm_does(train: Recording, test: Recording) -> None:
    """More of the gap is recovered than a coin does, with fewer calls."""
    found = replay(train.only([0, 2]), test.only([0, 2]), LAMS).routellm
    assert found is not None
    assert (found.weak, found.strong) == ("small", "large")
    assert found.apgr is not None
    assert found.cpt_50 is not None
    assert found.cpt_80 is not None
    assert 0.55 < found.apgr < 1.0
    assert found.cpt_50 < 0.45
    assert found.cpt_50 < found.cpt_80 < 0.8


def test_wrong_requests_are_refused(train: Recording, test: Recording) -> None:
    """No lam, a lam twice, too few rows, rows that are in both files."""
    for lams in ((), (0.0,), (float("nan"),), (1.0, 1.0)):
        with pytest.raises(ConfigError, match="positive numbers"):
            replay(train, test, lams)
    with pytest.raises(DataError, match="50 are needed"):
        replay(train.take(np.arange(49)), test, LAMS)
    with pytest.raises(DataError, match="1 queries are in train and test"):
        replay(train, train.take(np.array([3])), LAMS)


@pytest.mark.slow
@pytest.mark.parametrize("n_stages", [2, 11])
def test_any_number_of_stages_without_confidence_or_text(tmp_path: Path, n_stages: int) -> None:
    """Equal costs, graded scores, no confidence, no answers and no prompts: the report is still whole."""
    names = [f"s{k}" for k in range(n_stages)]
    spread = {"stages": names, "quality": np.linspace(0.4, 0.9, n_stages), "cost": [1.0] * n_stages}
    files = []
    for seed in (1, 2):
        rows = records(60, seed, **spread)  # type: ignore[arg-type]
        for row in rows:
            row["prompt"] = ""
            for output in row["outputs"].values():
                output["score"] = 0.25 + output["score"] / 2
                del output["confidence"], output["response"]
        files.append(recording(tmp_path / f"{seed}.jsonl", rows, names))
    found = replay(files[0], files[1], (1.0, 10.0))
    assert len(found.points) == 2
    assert len(found.singles) == n_stages
    write_record(tmp_path / "report.json", found)
    assert read_record(tmp_path / "report.json", ReplayReport) == found


def test_certificate_by_hand(tmp_path: Path) -> None:
    """Ceiling, hopeless share, dominated rungs and AUROC on rows whose scores are set."""
    rows = records(100, 7)
    for i, row in enumerate(rows):
        for k, stage in enumerate(STAGES):
            right = i % 10 < (4, 3, 8)[k]
            row["outputs"][stage].update(score=int(right), cost=COST[k], confidence=-1.0 if right else -2.0)
    found = certify(recording(tmp_path / "rows.jsonl", rows))
    assert [rung.stage for rung in found.rungs] == list(STAGES)
    assert [rung.dominated_by for rung in found.rungs] == [(), ("small",), ()]
    assert [rung.auroc for rung in found.rungs] == [1.0, 1.0, 1.0]
    assert found.ceiling == pytest.approx(0.8)
    assert found.all_fail == pytest.approx(0.2)
    assert found.best_pair == ("small", "large")
    assert found.best_pair_share == pytest.approx((0.6 * 1 + 0.4 * 10) / 10)
    # A perfect confidence cannot tell what the dear stage would miss too: 60 % of the queries pay for both.
    assert found.savings[0].saving == pytest.approx(1 - (1 + 0.6 * 10 * (0.39 / 0.4)) / 10, abs=0.02)
    assert found.savings[0].interval.low <= found.savings[0].saving <= found.savings[0].interval.high
    write_record(tmp_path / "certificate.json", found)
    assert read_record(tmp_path / "certificate.json", CertificateReport) == found


def test_exact_interval_is_the_textbook_one() -> None:
    """Beta quantiles; none seen in 59 leaves 5 % one-sided."""
    interval = clopper_pearson(3, 50)
    assert interval.low == pytest.approx(beta.ppf(0.025, 3, 48))
    assert interval.high == pytest.approx(beta.ppf(0.975, 4, 47))
    assert clopper_pearson(0, 59, 0.9).high == pytest.approx(0.0495, abs=1e-3)


@pytest.mark.slow
def test_methods_are_compared_on_the_same_folds(tmp_path: Path, train: Recording) -> None:
    """Every method has a share at every loss, ours no dearer than blind mixing, foresight cheapest."""
    found = compare([ComparisonCell("made-up", train)])
    shares = {row.method: row.shares["0.02"] for row in found.rows}
    assert shares["oracle"] == min(shares.values())
    assert shares["oracle"] < shares["best by cross-validation"] < shares["single stages"] <= 1.0
    assert {"lists of two", "binned induction", "prompt router (ridge)"} < shares.keys()
    alone = cost_shares(train, [cross_validate(ours(3), train, SWEEP, 5, seed=0)])[0][0]
    assert list(found.rows[-1].shares.values()) == pytest.approx(alone.tolist())
    for row in found.rows:
        assert row.cells["made-up"] == pytest.approx(row.shares)
        assert row.intervals["0.02"].low <= row.shares["0.02"] + 0.05
    assert [asked.n_cells for asked in found.asked] == [1, 1, 1]
    write_record(tmp_path / "comparison.json", found)
    assert read_record(tmp_path / "comparison.json", FrontierReport) == found
