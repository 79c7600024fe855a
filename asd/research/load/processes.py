"""What a real run is made of besides its client: the server, the servers of its stages, and the pricing.

Each is a process of its own. A stage that answers behind a server (`engine = "openai"`) can be started here
from a command, killed in the middle of a run, and started again (`StageServers.interrupt`).
"""

from __future__ import annotations

import math
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Self

import httpx2

from asd.engines.http.settings import OpenAISettings
from asd.errors import ConfigError, EngineError
from asd.ladder import Ladder
from asd.measurement.records import Record
from asd.prices import PriceFile, Prices
from asd.resilience import COOL_DOWN_S
from asd.schema import msgspec

__all__ = ["Outage", "PriceTables", "StageServers", "is_server", "measured_prices", "served"]

PriceTables = dict[int, dict[str, Prices]]
"""By batch size and stage."""

_BATCHES = "1,2,4,8"
_STARTS_WITHIN_S = 120.0


class Outage(Record, frozen=True, kw_only=True):
    """A stage whose server is gone for a while.

    Attributes:
        stage: Its name.
        start_s: When it is killed, from the beginning of the run.
        seconds: How long until it is started again; as measured, until it listens again.
    """

    stage: str
    start_s: float
    seconds: float

    @property
    def away_s(self) -> float:
        """How long a cascade goes round the stage: one that failed rests, and is then asked again."""
        return COOL_DOWN_S * math.ceil(self.seconds / COOL_DOWN_S)

    @classmethod
    def parse(cls, text: str) -> Self:
        """`L:60:30`: L is killed after a minute, and started again after 30 s.

        Raises:
            ConfigError: It says nothing of the kind.
        """
        stage, *numbers = text.split(":")
        try:
            start, seconds = map(float, numbers)
        except ValueError:
            start = seconds = math.nan
        if not (0.0 <= start < math.inf and 0.0 < seconds < math.inf):
            raise ConfigError(f"{text!r} is no outage; write STAGE:START:SECONDS as in L:60:30")
        return cls(stage=stage, start_s=start, seconds=seconds)


class StageServers(AbstractContextManager["StageServers"]):
    """The servers of stages, started from commands; they end with the context.

    Args:
        ladder: Says where each stage is reached (`options.openai`).
        commands: By stage; a stage without one is started by somebody else.

    Raises:
        ConfigError: A stage does not exist, or is not behind a server.
    """

    def __init__(self, ladder: Ladder, commands: Mapping[str, str]) -> None:
        stages = {stage.name: stage for stage in ladder.stages}
        for name in commands:
            if name not in stages or not is_server(ladder, name):
                behind = [one for one in stages if is_server(ladder, one)]
                raise ConfigError(
                    f"stage {name!r} is not behind a server; stages of ladder {ladder.name!r} that are: "
                    f'{", ".join(behind) or "none"} (engine = "openai")'
                )
        self._commands = {name: shlex.split(command) for name, command in commands.items()}
        self._urls = {name: OpenAISettings.of(stages[name]).base_url for name in commands}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        """All of them, and they listen."""
        try:
            for name in self._commands:
                self._start(name)
            for name in self._commands:
                self._wait(name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """None of them is left."""
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            process.wait()

    def interrupt(self, outage: Outage) -> Outage:
        """Wait, kill the stage's server, wait, and start it again; returns when and how long it was gone."""
        began = time.perf_counter()
        time.sleep(outage.start_s)
        self._running[outage.stage].kill()
        killed = time.perf_counter()
        self._running[outage.stage].wait()
        time.sleep(outage.seconds)
        self._start(outage.stage)
        self._wait(outage.stage)
        return Outage(stage=outage.stage, start_s=killed - began, seconds=time.perf_counter() - killed)

    def _start(self, name: str) -> None:
        try:
            self._running[name] = subprocess.Popen(  # noqa: S603  (the user's own command)
                self._commands[name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        except OSError as error:
            raise EngineError(f"the server of stage {name!r} did not start: {error}") from error

    def _wait(self, name: str) -> None:
        """Until it answers, whatever it says."""
        late = time.monotonic() + _STARTS_WITHIN_S
        while self._running[name].poll() is None and time.monotonic() < late:
            try:
                httpx2.get(f"{self._urls[name]}/models", timeout=1.0)
            except httpx2.HTTPError:
                time.sleep(0.05)
            else:
                return
        raise EngineError(
            f"the server of stage {name!r} does not answer at {self._urls[name]}; run "
            f"{shlex.join(self._commands[name])!r} to see what it says"
        )


def is_server(ladder: Ladder, stage: str) -> bool:
    """Whether a stage answers behind a server, on hardware of its own."""
    return any(one.name == stage and one.engine == "openai" for one in ladder.stages)


@contextmanager
def served(ladder: str, policy: str | Path | None, batch: int) -> Iterator[str]:
    """The cascade behind its endpoint, whose URL this is.

    Args:
        ladder: As `asd serve --ladder` takes it.
        policy: As `asd serve --policy` takes it; None: the ladder's own.
        batch: Most queries in a call.

    Raises:
        EngineError: It did not start.
    """
    asked = ["serve", "--ladder", ladder, "--port", "0", "--batch", str(batch), "--max-open", "100000"]
    asked += [] if policy is None else ["--policy", str(policy)]
    command = [sys.executable, "-m", "asd", *asked]
    with (
        tempfile.NamedTemporaryFile("w+", suffix=".log") as log,  # a pipe that nobody reads stops the server
        subprocess.Popen(command, stderr=log) as process,  # noqa: S603  (our own interpreter and module)
    ):
        try:
            yield _address(Path(log.name), process)
        finally:
            process.terminate()


def _address(log: Path, process: subprocess.Popen[bytes]) -> str:
    """Where the server says it listens."""
    while process.poll() is None:
        if url := re.search(r"(https?://\S+)\n", log.read_text("utf8")):
            return url[1].rstrip("/")
        time.sleep(0.05)
    raise EngineError(f"the server did not start: {log.read_text('utf8')[-300:]}")


def measured_prices(ladder: str, limit: int) -> PriceTables:
    """What `asd price` measures now, of calls of queries as they come.

    Args:
        ladder: As `asd price --ladder` takes it.
        limit: Queries of each data set.

    Raises:
        EngineError: They could not be measured.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "prices.json"
        asked = ["price", "--ladder", ladder, "--mixed", "--out", str(out)]
        asked += ["--batch", _BATCHES, "--limit", str(limit)]
        done = subprocess.run(  # noqa: S603  (our own interpreter and module)
            [sys.executable, "-m", "asd", *asked], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise EngineError(f"prices could not be measured: {done.stderr.strip()[-300:]}")
        file = msgspec.json.decode(out.read_bytes(), type=PriceFile)
    return {1: file.stages, **file.batched}
