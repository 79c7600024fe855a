"""A certified floor in a file: read back it is the same tables, and for anything else it is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asd.errors import ConfigError, DataError
from asd.measurement.files import read_record, write_record
from asd.operations.control.bearing import bearing_of
from asd.operations.control.contenders import Contenders
from asd.operations.control.floor import Certificate, Floored
from asd.operations.control.floor_record import FloorRecord
from asd.operations.control.steering import steering_of
from asd.operations.population import row_name
from asd.schema import msgspec
from tests.test_operations_backlog import TIMED, busy, contenders, state  # noqa: F401  (a fixture)
from tests.test_operations_floor import LAM, certified

changed = msgspec.structs.replace
LOAD = 0.7


def record(place: Contenders, found: Certificate) -> FloorRecord:
    bearing = bearing_of(place.population, place.evidence, found.certified[-1].solved, place.servers)
    return place.steering.floor_of(found, place.population, bearing, LAM, LOAD)


@pytest.fixture(scope="module")
def kept(contenders: Contenders) -> FloorRecord:  # noqa: F811
    return record(contenders, certified(contenders))


def steered(place: Contenders, floor: FloorRecord, text: str = f"{LAM}:0.2") -> Floored:
    made = replace(place, floor=floor).of(f"floored:{text}")
    assert isinstance(made, Floored)
    return made


def test_what_is_read_back_decides_as_what_was_certified(
    contenders: Contenders,  # noqa: F811
    kept: FloorRecord,
    tmp_path: Path,
) -> None:
    """Table by table and action by action, live too, where calls are expected to take something else."""
    write_record(tmp_path / "floor.json", kept)
    floor = read_record(tmp_path / "floor.json", FloorRecord)
    assert floor == kept
    found = certified(contenders).certified
    live = steering_of(contenders.fitted, TIMED, contenders.servers, floor=floor)
    assert live.call_s != contenders.steering.call_s
    for made in (steered(contenders, floor), live.makers["floored"](str(LAM), "0.2")):
        assert [s.mu for s in made.settings] == [s.mu for s in found]
        assert [s.solved.actions for s in made.settings] == [s.solved.actions for s in found]
        assert [(s.worst, s.p_value) for s in made.settings] == [(s.worst, s.p_value) for s in found]
        assert made.bearing == floor.bearing
        assert made.name == "floored(lam=50,p95=0.2)"


def test_the_record_says_what_was_promised(contenders: Contenders, kept: FloorRecord) -> None:  # noqa: F811
    found = certified(contenders)
    assert (kept.keep, kept.delta, kept.lam, kept.load) == (0.9, 0.1, LAM, LOAD)
    assert kept.mus == tuple(setting.mu for setting in found.settings)
    assert len(kept.tables) == found.n_passed
    assert kept.floor == found.floor
    assert kept.provenance == "replayed"
    assert kept.rows == tuple(row_name(one.trace.query) for one in contenders.population.queries)
    assert kept.bears == pytest.approx(kept.bearing.rate({"S": 1, "L": 2}, [("S",), ("L",)]))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.one_of(st.none(), st.floats(0.0, 1e6)), min_size=1, max_size=20), st.floats(0.0, 1e6))
def test_control_by_a_file_never_leaves_what_it_certifies(
    contenders: Contenders,  # noqa: F811
    kept: FloorRecord,
    p95s: list[float | None],
    rate: float,
) -> None:
    made, digests = steered(contenders, kept), {table.digest for table in kept.tables}
    seen = state(S=busy(0.9, call_s=0.011), L=busy(0.95, 2, call_s=0.055))
    for p95_s in p95s:
        policy = made.policy(replace(seen, p95_s=p95_s, request_rate=rate))
        assert policy.table.solved.digest in digests
        assert made.mu in [table.mu for table in kept.tables]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda floor: changed(floor, ladder="0" * 16), "ladder with fingerprint 0{16}, not for 'made-up'"),
        (lambda floor: changed(floor, policy="0" * 16), "policy with digest 0{16}, .* give that --policy"),
        (lambda floor: changed(floor, lam=20.0), "for lam 20, not for 50: write floored:20:P95, .* --lam 50"),
        (
            lambda floor: changed(floor, servers=floor.servers | {"L": (3, 1)}),
            "stage 'L' with replicas 3 and batch 1, not with 2 and 1: .* --replicas L=2 --batch 1",
        ),
        (
            lambda floor: changed(floor, servers=floor.servers | {"S": (1, 16)}),
            "stage 'S' with replicas 1 and batch 16, not with 1 and 1",
        ),
        (lambda floor: changed(floor, load=0.1), "the table of mu .* was certified: .* certify again"),
        (lambda floor: changed(floor, call_s={"S": 0.011, "L": 0.5}), "the table of mu .* was certified"),
    ],
)
def test_a_floor_of_something_else_is_refused(
    contenders: Contenders,  # noqa: F811
    kept: FloorRecord,
    change: Callable[[FloorRecord], FloorRecord],
    said: str,
) -> None:
    """With what it was certified for, and what to do."""
    with pytest.raises(ConfigError, match=said):
        steered(contenders, change(kept))


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_table_that_was_changed_is_refused(
    contenders: Contenders,  # noqa: F811
    kept: FloorRecord,
    data: st.DataObject,
) -> None:
    """Another digest, or a setting that did not pass, whichever."""
    i = data.draw(st.integers(0, len(kept.tables) - 1))
    digit = data.draw(st.integers(0, 15))
    old = kept.tables[i].digest
    new = old[:digit] + format((int(old[digit], 16) + 1) % 16, "x") + old[digit + 1 :]
    tables = [*kept.tables[:i], changed(kept.tables[i], digest=new), *kept.tables[i + 1 :]]
    with pytest.raises(ConfigError, match=f"{old} here, {new} was certified"):
        steered(contenders, changed(kept, tables=tuple(tables)))


def test_a_setting_that_did_not_pass_cannot_be_added(contenders: Contenders, kept: FloorRecord) -> None:  # noqa: F811
    """Not under its own mu without its digest, and under no other mu at all."""
    n = len(kept.tables)
    more = changed(kept.tables[-1], mu=kept.mus[n])
    with pytest.raises(ConfigError, match=f"the table of mu {more.mu:g} has digest"):
        steered(contenders, changed(kept, tables=(*kept.tables, more)))
    with pytest.raises(DataError, match="not the first of the grid"):
        changed(kept, tables=(*kept.tables, changed(more, mu=more.mu + 1.0)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tables": ()}, "not the first of the grid"),
        ({"servers": {}}, "not those of 0 stages"),
        ({"demands": ()}, "not those of 2 stages"),
        ({"full_call_s": (0.1,)}, "not those of 2 stages"),
    ],
)
def test_a_file_that_does_not_fit_itself_is_refused(
    kept: FloorRecord, change: dict[str, object], said: str, tmp_path: Path
) -> None:
    content = msgspec.to_builtins(kept) | change
    path = tmp_path / "floor.json"
    path.write_bytes(msgspec.json.encode(content))
    with pytest.raises(DataError, match=said):
        read_record(path, FloorRecord)


def test_a_file_that_is_cut_off_is_refused(kept: FloorRecord, tmp_path: Path) -> None:
    path = tmp_path / "floor.json"
    write_record(path, kept)
    whole = path.read_bytes()
    rng = np.random.default_rng(1)
    for n in (0, 1, len(whole) - 2, *rng.integers(2, len(whole) - 2, 20)):
        path.write_bytes(whole[:n])
        with pytest.raises(DataError, match=r"floor\.json cannot be read"):
            read_record(path, FloorRecord)


def test_without_a_file_no_floor_is_kept(contenders: Contenders) -> None:  # noqa: F811
    with pytest.raises(ConfigError, match="name their file with --certified-floor"):
        contenders.of("floored:50:0.2")


def test_tables_have_one_digest_where_they_decide_alike(contenders: Contenders) -> None:  # noqa: F811
    """Solved twice it is the same one; every other worth of a second or of an answer has its own."""

    def digest(lam: float, mu: float) -> str:
        return contenders.steering.tables(lam, LOAD)(mu).digest

    assert digest(LAM, 1.0) == digest(LAM, 1.0)
    assert len({digest(LAM, 1.0), digest(LAM, 5.0), digest(5.0, 1.0)}) == 3
