"""A real run: a served cascade, and a client that asks it in an open loop; the replay is in `replayed`.

The server is a process of its own, with its engines; the client is this one. Prices are measured before and
after, in a process of their own, of calls of queries as they come (`asd price --mixed`).

Machines that are shared with others are faster in one minute than in the next. So a load is run in short
blocks, all loads in turns, with a probe of the same requests between any two blocks: what the probes before
and after a block took says how fast the machine was in it; where the two disagree it was not steady.

A stage whose server is killed is asked again once it listens and has rested (`asd.resilience`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from asd.errors import ConfigError
from asd.measurement.files import read_record, write_record
from asd.research.load.client import ask_all, ask_in_turn
from asd.research.load.measured import CASCADE, Block, Reality, RealityHeader, ServedLadder
from asd.research.load.processes import StageServers, served
from asd.research.load.replayed import busy_s
from asd.schema import msgspec

__all__ = ["run_reality"]

_PROBE = 30
"""Requests of a probe, the same in each."""
_WARM = 5
"""More of them, which come first in the first probe and are not counted."""


def run_reality(
    place: ServedLadder,
    asked: RealityHeader,
    path: str | Path | None,
    tell: Callable[[str], object],
    limit: int,
) -> Reality:
    """Measure what is not in the file yet.

    Args:
        place: What is served.
        asked: Loads, and how long.
        path: Where every part is kept as soon as it is there; None: nowhere.
        tell: Called before every part.
        limit: Queries that prices are measured on, of each data set.

    Raises:
        ConfigError: The file holds another comparison, or a run would have too few requests.
        EngineError: The server did not start, or refused a request.
    """
    for model in asked.models:  # refuses what is none, before anything is measured
        place.policy_of(model, asked.lam)
    found = _begun(path, asked)

    def keep(now: Reality) -> Reality:
        if path is not None:
            write_record(path, now)
        return now

    if not found.before:
        tell("prices before")
        found = keep(msgspec.structs.replace(found, before=place.measured(limit)))
    if len(found.blocks) < len(asked.blocks):
        with (
            StageServers(place.ladder, place.commands) as stages,
            served(place.name, place.policy, asked.batch) as url,
        ):
            for now in _runs(place, found, url, stages, tell):
                found = keep(now)
    if not found.after:
        tell("prices after")
        found = keep(msgspec.structs.replace(found, after=place.measured(limit)))
    return found


def _begun(path: str | Path | None, asked: RealityHeader) -> Reality:
    """What the file holds; nothing yet where there is none."""
    if path is None or not Path(path).exists():
        return Reality(asked=asked)
    found = read_record(path, Reality)
    if found.asked != asked:
        raise ConfigError(f"{path} holds another comparison ({found.asked}); choose another file")
    return found


def _runs(
    place: ServedLadder, found: Reality, url: str, stages: StageServers, tell: Callable[[str], object]
) -> Iterator[Reality]:
    queries, asked = [trace.query for trace in place.traces], found.asked
    drawn = np.random.default_rng(1).integers(len(queries), size=_PROBE + _WARM).tolist()
    if not found.probe:
        tell("the idle server")
        warmed = tuple(ask_in_turn(url, asked.fields_of(CASCADE), queries, drawn[-_WARM:] + drawn[:_PROBE]))
        found = msgspec.structs.replace(found, probe=warmed[_WARM:])
        yield found
    each_s = busy_s(place, found)
    for number in range(len(found.blocks), len(asked.blocks)):
        rho, seconds, model, outage = asked.blocks[number]
        killed = "" if outage is None else f", {outage.stage} killed and started again"
        tell(f"block {number + 1} of {len(asked.blocks)}: load {rho:g}, {model}{killed}")
        rng = np.random.default_rng([2, number // len(asked.models)])  # the same requests to each model
        due = asked.due(rng, rho / each_s, seconds)
        with ThreadPoolExecutor(1) as aside:
            gone = None if outage is None else aside.submit(stages.interrupt, outage)
            sent = tuple(ask_all(url, asked.fields_of(model), queries, due))
            down = None if gone is None else gone.result()
        if down is not None:  # the probe asks all stages
            time.sleep(max(0.0, down.start_s + down.away_s - seconds))
        after = tuple(ask_in_turn(url, asked.fields_of(CASCADE), queries, drawn[:_PROBE]))
        rate = rho / each_s
        block = Block(rho=rho, rate=rate, seconds=seconds, sent=sent, after=after, down=down, model=model)
        found = msgspec.structs.replace(found, blocks=(*found.blocks, block))
        yield found
