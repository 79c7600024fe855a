"""From names to workloads."""

from __future__ import annotations

import pytest

from asd.errors import ConfigError
from asd.workloads.catalogue import find_workloads, workload_names


def test_every_name_finds_its_workload() -> None:
    """Every known name gives a workload of that name, in the order asked for, whose queries carry it."""
    names = workload_names()[::-1]
    workloads = find_workloads(names)
    assert [workload.name for workload in workloads] == names
    assert [workload.queries("fit", 1)[0].dataset for workload in workloads] == names


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no dataset given"),
        (["tiny-text", "tiny-sums"], "unknown dataset 'tiny-sums'; known are .*tiny-text, .*mmlu"),
        (["tiny-text", "tiny-text"], "dataset 'tiny-text' is given twice"),
    ],
)
def test_wrong_names_are_refused(names: list[str], message: str) -> None:
    """No name, an unknown and a repeated one are errors."""
    with pytest.raises(ConfigError, match=message):
        find_workloads(names)
