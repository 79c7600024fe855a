"""What the named settings take: device-seconds, memory, the wait for a first word; the fair references.

`bench/metrics/hardware.py` says how each is counted and what the largest stage alone makes of all the memory.
"""

import pytest

from bench.metrics.cells import hardware_cell
from bench.metrics.hardware import contenders, footprint, turns
from bench.metrics.measurements import Record
from bench.run.session import Session


@pytest.mark.live
def test_hardware(session: Session, record: Record) -> None:
    device, names = session.matrix.device, contenders(session)
    for name in names:
        record(lambda name=name: hardware_cell(footprint(session, name), device), *turns(session, name))
    assert names
