"""The server with writing stages: in a thread of this process, or as a process that may be killed.

python -m bench.promises.server LEDGER        # prints its port
python -m bench.promises.server --faults 3    # stages that fail, by that seed; prints what was met at its end
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import click

from asd.policies import FixedStage
from asd.resilience import Health
from asd.serving.admission import Admission
from asd.serving.cashier import Cashier
from asd.serving.endpoint.application import Application
from asd.serving.endpoint.controls import Controls
from asd.serving.endpoint.server import Server, listening
from asd.serving.endpoint.service import Capacity, Service, tariff_of
from asd.serving.endpoint.settings import RequestSettings
from asd.serving.loopback import Loopback
from bench.promises.stages import FAULTS, LADDER, Climb, WritingStage

__all__ = ["Climbing", "serving"]

STAGES = ("S", "L")


class Climbing:
    """Settings that give every request the same policy: from S to L."""

    def __init__(self) -> None:
        self.setting = RequestSettings(Climb(STAGES), STAGES)
        self.hurried = RequestSettings(FixedStage("S"), ("S",), "busy")

    async def of(self, asked: Controls, temperature: float = 0.0, *, verify: bool = True) -> RequestSettings:  # noqa: ARG002
        """The one setting."""
        return self.setting


def _service(engines: Mapping[str, WritingStage], admission: Admission) -> Service:
    capacity = Capacity(open=2000, batch=64)
    service = Service(engines, LADDER, Climbing(), ("text",), admission, capacity)  # type: ignore[arg-type]
    service.health = Health(trip_after=3, cool_down_s=0.2)
    return service


@contextmanager
def serving(
    engines: Mapping[str, WritingStage], admission: Admission | None = None
) -> Iterator[tuple[Server, int]]:
    """The server in a thread of its own, and its port."""
    server = Server(Application(lambda: _service(engines, admission or Loopback()), loopback_only=True))
    with listening("127.0.0.1", 0) as at:
        thread = Thread(target=server.run, args=([at],))
        thread.start()
        try:
            while not server.started:
                time.sleep(0.005)
            yield server, at.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


@click.command()
@click.argument("ledger", required=False, type=click.Path(path_type=Path))
@click.option(
    "--faults", "seed", type=int, help="Every fourth call of a stage meets one; there is no ledger."
)
def main(ledger: Path | None, seed: int | None) -> None:
    """Serve until SIGTERM."""
    logging.disable(logging.CRITICAL)
    if seed is not None:
        stages = {
            name: WritingStage(name, list(FAULTS), 0.25, seed=seed + i) for i, name in enumerate(STAGES)
        }
        _serve(stages, Loopback())
        print(json.dumps(sum((Counter(stage.met) for stage in stages.values()), Counter())))
        return
    assert ledger is not None
    engines = {name: WritingStage(name) for name in STAGES}
    with Cashier(ledger, tariff_of(LADDER, engines), keyless=True) as cashier:
        _serve(engines, cashier)


def _serve(engines: Mapping[str, WritingStage], admission: Admission) -> None:
    with listening("127.0.0.1", 0) as at:
        server = Server(Application(lambda: _service(engines, admission), loopback_only=True))
        print(at.getsockname()[1], flush=True)
        server.run([at])


if __name__ == "__main__":
    main()
