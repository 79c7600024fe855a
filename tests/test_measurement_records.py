"""Records: ids, strictness, and what they refuse to hold."""

import msgspec
import numpy as np
import pytest

from asd.errors import DataError
from asd.measurement.records import Cell, DatasetRecord, Metric
from asd.messages import Message
from asd.types import Query
from tests.fabricated import KEY, fabricate, header, quality_metric


def metric(**changes: object) -> Metric:
    return msgspec.structs.replace(quality_metric(np.array([1.0, 0.0])), **changes)


def test_cell_id_names_suite_dataset_policy_and_lambda():
    """Ids are what a baseline is matched by, so their form is pinned."""
    cell = Cell(suite="quality", dataset="tiny-text", policy="optimal", lam=0.5, metrics=())
    assert cell.id == "quality[tiny-text-optimal-lam=0.5]"
    assert Cell(suite="overhead", policy="optimal", metrics=()).id == "overhead[optimal]"


def test_slug_holds_every_part_of_the_key():
    """Runs that differ in any part of the key must not share a folder."""
    changed = {"device": "h100", "count": 8, "dtype": "bfloat16", "batch": 4, "engine": "vllm"}
    slugs = {msgspec.structs.replace(KEY, **{name: value}).slug for name, value in changed.items()}
    assert len(slugs | {KEY.slug}) == 6


def test_counts_compare_across_batch_and_device_count():
    """Tokens are a matter of arithmetic: device kind, dtype and engine, not of batch or device count."""
    assert KEY.computes_like(msgspec.structs.replace(KEY, batch=16, count=8))
    assert not KEY.computes_like(msgspec.structs.replace(KEY, dtype="bfloat16"))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("field", ["value", "tolerance", "items"])
def test_metric_refuses_numbers_that_are_not_finite(field: str, number: float):
    """NaN must be caught where it arises, not found in a file."""
    with pytest.raises(DataError, match="not a finite number"):
        metric(**{field: (number, 1.0) if field == "items" else number})


@pytest.mark.parametrize(
    "changes",
    [
        {"tolerance": -0.1},
        {"kind": "time", "value": 0.0},
        {"samples": ((0.0, 1.0),)},
        {"samples": ()},
        {"samples": ((),)},
        {"samples": ((1.0, 1.0), (1.0,))},
        {"samples": ((1.0, 1.0),), "reference": ((1.0,),)},
        {"reference": ((1.0,),)},
    ],
)
def test_metric_refuses_impossible_values(changes: dict[str, object]):
    """Negative tolerances, times of zero, and references of other units are mistakes of the caller."""
    with pytest.raises(DataError):
        metric(**changes)


def test_run_refuses_a_cell_recorded_twice():
    """Two cells of one id would make the comparison pick one at random."""
    run = fabricate(np.random.default_rng(0))
    with pytest.raises(DataError, match="recorded twice"):
        msgspec.structs.replace(run, cells=(*run.cells, run.cells[0]))


def test_run_refuses_values_that_do_not_match_its_items():
    """Per-item values are paired by position, so their number must be right."""
    run = fabricate(np.random.default_rng(0))
    short = msgspec.structs.replace(run.cells[0], metrics=(metric(),))
    with pytest.raises(DataError, match="has 2 values"):
        msgspec.structs.replace(run, cells=(short,))
    elsewhere = msgspec.structs.replace(run.cells[0], dataset="elsewhere")
    with pytest.raises(DataError, match="elsewhere"):
        msgspec.structs.replace(run, cells=(elsewhere,))


def test_cell_refuses_two_metrics_of_one_name():
    """A metric is found by its name."""
    with pytest.raises(DataError, match="share a name"):
        Cell(suite="quality", policy="L", metrics=(metric(), metric()))


def test_header_refuses_another_schema_version():
    """A record of another layout is not half understood."""
    with pytest.raises(DataError, match="schema version 0"):
        msgspec.structs.replace(header(), schema_version=0)


def test_dataset_digest_tells_a_changed_question():
    """The same id asking something else changes its digest, and with it the fingerprint."""
    before = DatasetRecord.of("d", [Query("q", "d", "1+1=", "2")])
    for changed in (
        Query("q", "d", "1+2=", "2"),
        Query("q", "d", "1+1=", "3"),
        Query("q", "d", "1+1=", "2", 8),
        Query.chat("q", "d", [Message("system", "Be brief."), Message("user", "1+1=")], reference="2"),
    ):
        after = DatasetRecord.of("d", [changed])
        assert after.items == before.items
        assert after.fingerprint != before.fingerprint
    assert before.digests == ("9826ff32",)  # stored baselines hold digests of plain queries


def test_dataset_refuses_repeated_items():
    """Pairing by id needs ids that are unique."""
    with pytest.raises(DataError, match="unique"):
        DatasetRecord(name="d", items=("a", "a"), digests=("x", "y"))
