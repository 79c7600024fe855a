"""Arrivals: rates, bursts, recorded instants and clients."""

from __future__ import annotations

import gzip
from itertools import islice, takewhile
from pathlib import Path

import numpy as np
import pytest

from asd.errors import ConfigError, DataError
from asd.operations.arrivals import (
    Client,
    Pattern,
    clients,
    merged,
    poisson,
    read_clients,
    read_instants,
    surge,
)


def until(stream: object, end: float) -> np.ndarray:
    return np.array(list(takewhile(lambda t: t < end, stream)))  # type: ignore[arg-type]


def dispersion(instants: np.ndarray, window: float) -> float:
    """Variance of the counts of windows over their mean; 1 for a Poisson stream."""
    counts = np.bincount((instants // window).astype(int))[:-1]
    return float(counts.var() / counts.mean())


def test_poisson() -> None:
    """Mean gap and spread of counts."""
    found = until(poisson(5.0, np.random.default_rng(0)), 8000.0)
    assert len(found) / 8000.0 == pytest.approx(5.0, rel=0.02)
    assert dispersion(found, 10.0) == pytest.approx(1.0, abs=0.15)
    assert (np.diff(found) >= 0).all()


def test_a_rate_is_positive() -> None:
    for rate in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="positive number of requests"):
            next(poisson(rate, np.random.default_rng(0)))


def test_the_published_day() -> None:
    """Rates at its hours, on the lines between them and over midnight; the mean and total of the day."""
    pattern = Pattern()
    hours = np.array([8, 8.5, 12, 13, 18, 22, 3, 0])
    expected = [12, 13.5, 25, 22.5, 12, 4, 8, 5.6]
    assert pattern.rate(hours * 3600) == pytest.approx(expected)
    day = pattern.rate(np.arange(86400) + 0.5)
    assert day.mean() == pytest.approx(12.27, abs=0.005)
    assert day.sum() == pytest.approx(1.06e6, rel=0.001)


def test_a_day_is_drawn_at_its_rate() -> None:
    """Counts of hours follow the lines; without bursts they are Poisson."""
    found = until(Pattern(scale=0.2).draw(np.random.default_rng(1)), 86400.0)
    counts = np.bincount((found // 3600).astype(int))
    expected = Pattern(scale=0.2).rate((np.arange(24) + 0.5) * 3600) * 3600
    assert (np.abs(counts - expected) < 4.5 * np.sqrt(expected)).all()


def test_bursts_last_a_minute() -> None:
    """A share of the minutes has the surge of its hour, and only whole minutes do."""
    flat = Pattern(hours=(0, 12), rates=(20, 20), surges=(3.0, 3.0), p_burst=0.2)
    found = until(flat.draw(np.random.default_rng(2)), 40000.0)
    counts = np.bincount((found // 60).astype(int))[:-1]
    bursts = counts > 2400
    assert bursts.mean() == pytest.approx(0.2, abs=0.06)
    assert counts[bursts].mean() == pytest.approx(3600, rel=0.02)
    assert counts[~bursts].mean() == pytest.approx(1200, rel=0.02)


def write(path: Path, text: str) -> Path:
    with gzip.open(path, "wt") as file:
        file.write(text)
    return path


def test_instants_begin_at_0_and_come_faster(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv.gz", "t_s,tokens_in\n5,1\n7,1\n13,1\n")
    assert read_instants(path) == [0, 2, 8]
    assert read_instants(path, speed=2.0) == [0, 1, 4]
    (tmp_path / "b.csv").write_text("t_ms,x\n1000,1\n4000,1\n")
    assert read_instants(tmp_path / "b.csv") == [0, 3]


def test_files_without_arrivals_are_refused(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("time\n1\n")
    with pytest.raises(DataError, match="no rows with a column t_s"):
        read_instants(tmp_path / "c.csv")
    with pytest.raises(DataError, match="cannot read arrivals"):
        read_instants(tmp_path / "absent.csv")
    with pytest.raises(DataError, match="no file of clients"):
        read_clients(tmp_path / "c.csv")


@pytest.mark.parametrize("columns", ["pool,t_s,rate_rps", "client,t_ms,rate", "x,t_s,requests"])
def test_windows_are_not_taken_for_instants(tmp_path: Path, columns: str) -> None:
    """What came in a window is no request, whatever the window is called."""
    (tmp_path / "w.csv").write_text(f"{columns}\na,0,5\na,600,7\n")
    with pytest.raises(DataError, match=rf"window of time \(column {columns.rpartition(',')[2]}\)"):
        read_instants(tmp_path / "w.csv")


@pytest.mark.parametrize(
    ("starts", "apart"),
    [((0, 300, 600), 300), ((0, 650), 650), ((0, 3600, 10800), 3600), ((600, 1800), 1200)],
)
def test_windows_of_clients_follow_each_other(tmp_path: Path, starts: tuple[int, ...], apart: int) -> None:
    """Shorter ones would lie on top of each other, after longer ones nobody would ask."""
    rows = "".join(f"a,{start},1,G,1\n" for start in starts)
    (tmp_path / "c.csv").write_text(f"client,t_s,rate_rps,family,shape\n{rows}")
    with pytest.raises(DataError, match=f"begin {apart} s after each other, those of clients last 600 s"):
        read_clients(tmp_path / "c.csv")
    silent = "".join(f"a,{start},0,G,1\n" for start in range(0, 12000, 600))
    (tmp_path / "c.csv").write_text(f"client,t_s,rate_rps,family,shape\nb,1200,1,G,1\n{silent}")
    assert len(read_clients(tmp_path / "c.csv")) == 21
    (tmp_path / "c.csv").write_text("client,t_s,rate_rps,family,shape\n")
    with pytest.raises(DataError, match="holds no client"):
        read_clients(tmp_path / "c.csv")


@pytest.mark.parametrize("value", ["x", "nan", "-1", "inf", ""])
def test_what_is_no_number_is_refused(tmp_path: Path, value: str) -> None:
    (tmp_path / "a.csv").write_text(f"t_s\n0\n{value or None}\n")
    with pytest.raises(DataError, match="in column t_s is not a number of at least 0"):
        read_instants(tmp_path / "a.csv")
    (tmp_path / "c.csv").write_text(f"client,t_s,rate_rps,family,shape\na,0,{value},G,1\n")
    with pytest.raises(DataError, match="in column rate_rps is not a number of at least 0"):
        read_clients(tmp_path / "c.csv")


@pytest.mark.parametrize("gaps", ["X,1", "G,0", "W,0"])
def test_gaps_need_a_family_and_a_shape(tmp_path: Path, gaps: str) -> None:
    (tmp_path / "c.csv").write_text(f"client,t_s,rate_rps,family,shape\na,0,1,{gaps}\n")
    with pytest.raises(DataError, match="gaps of client 'a' have family"):
        read_clients(tmp_path / "c.csv")


def test_clients_keep_their_rates_and_bursts(tmp_path: Path) -> None:
    """Two clients of one stretch: rates as recorded, gaps that come in clusters, the silence after them."""
    text = "client,t_s,rate_rps,cv,family,shape,scale\na,0,4,3,G,0.1,1\nb,0,1,1,W,1.0,1\na,600,0,1,G,1,1\n"
    recorded = read_clients(write(tmp_path / "c.csv.gz", text))
    counts = [len(list(clients(recorded, np.random.default_rng(seed)))) for seed in range(60)]
    assert np.mean(counts) == pytest.approx(3000, rel=0.03)
    found = np.array(list(clients(recorded, np.random.default_rng(1))))
    assert found.max() < 600
    assert dispersion(found, 10.0) > 3.0


@pytest.mark.parametrize(("family", "shape"), [("G", 0.1), ("G", 4.0), ("W", 0.5), ("W", 2.0)])
def test_clients_that_seldom_ask_keep_their_rate(family: str, shape: float) -> None:
    """Six requests a stretch on average, however bursty, and as many at its beginning as at its end."""
    recorded = [Client(str(i), 0.0, 0.01, family, shape) for i in range(5000)]
    found = np.array(list(clients(recorded, np.random.default_rng(4))))
    counts = np.histogram(found, bins=6, range=(0, 600))[0] / 5000
    assert counts == pytest.approx(np.ones(6), rel=0.15)
    assert len(found) / 5000 == pytest.approx(6.0, rel=0.06)


def test_whole_clients_are_left_out() -> None:
    """A lighter stream is fewer clients, each at its own rate; a start later in the recording is time 0."""
    recorded = [Client(str(i), 600.0 * k, 1.0, "W", 1.0) for i in range(50) for k in range(3)]
    found = np.array(list(clients(recorded, np.random.default_rng(3), rate=10.0, start_s=600.0)))
    assert len(found) / 1200 == pytest.approx(10.0, rel=0.05)
    assert 0 <= found.min() < 5
    assert 1195 < found.max() < 1200
    with pytest.raises(DataError, match="no client is recorded from 9000"):
        next(clients(recorded, np.random.default_rng(0), start_s=9000.0))


def test_a_surge_adds_requests() -> None:
    extra = list(surge(100.0, 50.0, 4.0, np.random.default_rng(0)))
    assert len(extra) == pytest.approx(200, abs=50)
    assert 100 <= min(extra) <= max(extra) <= 150
    together = list(islice(merged([1.0, 3.0], [2.0]), 3))
    assert together == [1.0, 2.0, 3.0]
