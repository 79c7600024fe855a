"""What a query has come to on its way through a cascade."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from asd.journey import Journey
from asd.types import Query

BOUGHT: dict[type, Any] = {dict: {"S": "bought"}, list: ["bought"], set: {"S"}}


def test_a_copy_keeps_what_there_was() -> None:
    """Whatever is added to a journey, or taken from it, its copy does not see."""
    journey = Journey(Query("q", "d", "add 1+2", None, 4))
    held = {field.name: type(getattr(journey, field.name)) for field in fields(journey)}
    containers = {name: kind for name, kind in held.items() if kind in BOUGHT}
    for name, kind in containers.items():
        setattr(journey, name, kind(BOUGHT[kind]))
    before = journey.copy()
    for name in containers:
        getattr(journey, name).clear()
    assert len(containers) > 5
    assert {name: getattr(before, name) for name in containers} == {
        n: BOUGHT[k] for n, k in containers.items()
    }
    assert before.query is journey.query
