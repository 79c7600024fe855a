"""What every engine owes for an answer: that it is counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest

from asd.cascade import Cascade
from asd.collection import collect, header_for
from asd.engines import GREEDY, LOSSLESS, Acceptance, Engine, Sampling
from asd.errors import ConfigError
from asd.ladder import Ladder, Stage
from asd.policies import FixedStage
from asd.prices import Prices
from asd.resilience import Health
from asd.testing import Script, ScriptedEngine
from asd.traces.log import TraceLog
from asd.types import NO_CALL, Draft, Query, Usage, Verification
from asd.workloads import Split
from tests.test_cascade import Itinerary

PRICES = {"S": Prices(1, 0, 1), "L": Prices(4, 0, 2)}
LADDER = Ladder("two", tuple(Stage(name, name, PRICES[name]) for name in PRICES), "declared", "made up")


class Counting(ScriptedEngine):
    """A stage that counts as it is told."""

    def __init__(self, stage: str, usage: Usage, text: str = "4", *, reading: Usage | None = None) -> None:
        super().__init__(stage, {"2+2=": (text, (-0.1,))})
        self.usage, self.reading = usage, reading

    def generate(self, queries: Sequence[Query], sampling: Sampling = GREEDY) -> list[Draft]:
        return [replace(draft, usage=self.usage) for draft in super().generate(queries, sampling)]

    def verify(
        self, queries: Sequence[Query], drafts: Sequence[Draft], acceptance: Acceptance = LOSSLESS
    ) -> list[Verification]:
        found = super().verify(queries, drafts, acceptance)
        return [replace(read, usage=self.reading or read.usage) for read in found]


@dataclass(frozen=True)
class One:
    """A workload of one question."""

    name: str = "one"

    def queries(self, split: Split, limit: int) -> list[Query]:  # noqa: ARG002
        return [Query("q", "one", "2+2=", "4")]

    def score(self, query: Query, text: str) -> float:
        return float(text == query.reference)


def engines(small: ScriptedEngine, large: ScriptedEngine | None = None) -> dict[str, Engine]:
    return {"S": small, "L": large or Counting("L", Usage(1, 1, 1))}


@pytest.mark.parametrize("usage", [NO_CALL, Usage(3, 0, 0), Usage(3, 1, 0), Usage(3, 0, 1), Usage(3, -1, -1)])
@pytest.mark.parametrize("health", [None, Health()])
def test_an_answer_that_is_not_counted_is_refused(
    tmp_path: Path, usage: Usage, health: Health | None
) -> None:
    """A text for nothing ends a run and a collection at the first answer, by the name of its stage."""
    wrong = engines(Counting("S", usage))
    with pytest.raises(ConfigError, match=r"stage 'S' answered '4' and counts Usage\(.*seem free"):
        Cascade(wrong, FixedStage("S"), PRICES, health).run(One().queries("fit", 1))
    log = TraceLog(tmp_path / "t.jsonl", header_for(LADDER, {"S": "1", "L": "1"}, [One()], "fit"))
    with log, pytest.raises(ConfigError, match="stage 'S' answered"):
        collect([One()], wrong, log, limit=1)


def test_an_empty_answer_needs_no_count() -> None:
    """What has no text was not sold for nothing."""
    cascade = Cascade(engines(Counting("S", Usage(3, 0, 0), text="")), FixedStage("S"), PRICES)
    assert cascade.run(One().queries("fit", 1))[0].text == ""


def test_a_reading_that_is_not_counted_is_refused(tmp_path: Path) -> None:
    """The same of a verification."""
    wrong = engines(Counting("S", Usage(1, 1, 1)), Counting("L", Usage(1, 1, 1), reading=NO_CALL))
    with pytest.raises(ConfigError, match=r"stage 'L' read a draft of 'S' and counts Usage\("):
        Cascade(wrong, Itinerary({"q": (("S", ">L"), "S")}), PRICES).run(One().queries("fit", 1))
    log = TraceLog(tmp_path / "t.jsonl", header_for(LADDER, {"S": "1", "L": "1"}, [One()], "fit"))
    with log, pytest.raises(ConfigError, match="stage 'L' read a draft"):
        collect([One()], wrong, log, limit=1)


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("CUDA error: out of memory"), OSError(12, "Cannot allocate memory")],
)
@pytest.mark.parametrize("health", [None, Health()])
def test_any_engine_that_is_short_of_memory_gets_smaller_batches(
    error: Exception, health: Health | None
) -> None:
    """Whatever error of whatever library says so, one's own engine included."""

    class Small(ScriptedEngine):
        sizes: ClassVar[list[int]] = []

        def generate(self, queries: Sequence[Query], sampling: Sampling = GREEDY) -> list[Draft]:
            self.sizes.append(len(queries))
            if len(queries) > 2:
                raise error
            return super().generate(queries, sampling)

    asked = [Query(str(n), "d", "p") for n in range(8)]
    Small.sizes.clear()
    engine = Small("S", {"p": Script("four", (-0.1,))})
    done = Cascade({"S": engine}, FixedStage("S"), {"S": Prices(1, 0, 0)}, health).run(asked, 8)
    assert [completion.text for completion in done] == ["four"] * 8
    assert Small.sizes == [8, 4, 2, 2, 2, 2]
