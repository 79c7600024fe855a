"""Cells of the page: rounding, and an estimate with its interval in one."""

from __future__ import annotations

import pytest

from asd.research.report.cells import DASH, sheet, spread, worded
from asd.research.study.record import Value
from tests.studies import table


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.8125, "0.812"),
        (99.97, "100"),
        (11353.2, "11,353"),
        (100000, "100,000"),
        (3.2e-9, "3.2e-09"),
        (-62.44, "-62.4"),
        (7, "7"),
        (True, "True"),
        (None, DASH),
        ("", DASH),
        ("S>M", "S>M"),
    ],
)
def test_a_value_is_worded(value: Value, shown: str) -> None:
    """Three significant digits; a dash where nothing is defined."""
    assert worded(value) == shown


def test_an_interval_needs_both_ends() -> None:
    """A number without an interval stands alone."""
    assert spread(0.5, 0.4, 0.6) == "0.5 [0.4, 0.6]"
    assert spread(0.5, None, None) == "0.5"


def test_low_and_high_share_the_cell_of_what_they_are_about() -> None:
    """Wherever the two words stand in the names of the next two columns."""
    columns = ("method", "cost", "cost_low", "cost_high", "percent", "low_percent", "high_percent", "low")
    shown = sheet(table("t", columns, [("optimal", 1.0, 0.5, 1.5, -5.0, -6.0, -4.0, 3.0)]))
    assert [column.heading for column in shown.columns] == ["method", "cost [95 %]", "percent [95 %]", "low"]
    assert shown.rows == (("optimal", "1 [0.5, 1.5]", "-5 [-6, -4]", "3"),)


def test_columns_are_set_by_what_they_hold() -> None:
    """Numbers flush right even where some are missing; long texts may break."""
    rows = [("S", "a text of more than twenty-eight letters", None), ("M", "short", 1.0)]
    assert [column.kind for column in sheet(table("t", "abc", rows)).columns] == ["word", "prose", "number"]
