"""What the named settings take: device-seconds, memory, the wait for a first word; the fair references.

How each is counted, and what the largest stage alone makes of all the memory, is told in `bench/hardware.py`.
"""

from collections.abc import Callable

import pytest

from asd.measurement.records import Cell
from bench.cells import hardware_cell
from bench.hardware import footprints
from bench.session import Session

Record = Callable[[Cell], None]


@pytest.mark.live
def test_hardware(session: Session, record: Record) -> None:
    found = footprints(session)
    for footprint in found:
        record(hardware_cell(footprint, session.matrix.device))
    assert found[0].device_s > 0
