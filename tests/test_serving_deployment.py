"""A deployment behind the endpoint: answers that were given before, stages that take turns in memory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from asd.engines.deployment import Deployed, deploy
from asd.ladder import Deployment
from asd.policies import FixedStage
from tests.endpoint import LADDER, STAGES, OnePolicy, Slow, client, events, post, running, serve
from tests.endpoint import chat as body
from tests.endpoint import text_of as said
from tests.test_serving_endpoint import Climb

ASKS: Any = {"model": "asd", "messages": [{"role": "user", "content": "add 1+2"}]}


def deployed(engines: Any, **options: Any) -> Deployed:
    ladder = replace(
        LADDER,
        stages=tuple(replace(stage, memory_gib=1.0) for stage in LADDER.stages),
        deployment=Deployment(**options),
    )
    return deploy(ladder, engines, lambda: {name: name for name in STAGES})


def test_an_answer_that_was_given_before_costs_nothing_and_is_the_same(tmp_path: Path) -> None:
    """Streamed too; every stage is asked once."""
    stages = {name: Slow(name, "three") for name in STAGES}
    engines = deployed(stages, response_cache=str(tmp_path / "answers.db")).engines

    async def test(app: Any) -> list[Any]:
        return [await post(app, body(stream=stream)) for stream in (False, False, True)]

    first, again, streamed = serve(engines, OnePolicy(Climb("S", "L")), test)
    assert [one.json["asd"]["calls"] for one in (first, again)] == [2, 0]
    assert first.json["asd"]["cost"] > 0
    assert again.json["asd"]["cost"] == 0
    assert again.json["choices"] == first.json["choices"]
    assert said(streamed.body) == "three"
    assert events(streamed.body)[-1]["asd"]["cost"] == 0
    assert [len(stages[name].calls) for name in STAGES] == [1, 0, 1]


def test_stages_that_take_turns_answer_a_crowd_within_their_memory() -> None:
    """Two of three fit; whoever asks whichever stage is answered by it."""
    inside: set[str] = set()
    most = 0

    class Loaded(Slow):
        def load(self) -> None:
            nonlocal most
            inside.add(self.stage_name)
            most = max(most, len(inside))

        def unload(self) -> None:
            inside.discard(self.stage_name)

        def generate(self, *asked: Any) -> Any:
            assert self.stage_name in inside
            return super().generate(*asked)

    found = deployed({name: Loaded(name, name, 0.002) for name in STAGES}, memory_gib=2.0)

    class Named(OnePolicy):
        async def of(self, asked: Any, *_: Any, **__: Any) -> Any:
            [stage] = asked.stages
            return replace(self.default, policy=FixedStage(stage), stages=(stage,))

    with running(found.engines, Named(FixedStage("S"))) as server, client(server) as asks:
        ask = asks.chat.completions.create

        def answered(i: int) -> bool:
            reply = ask(**ASKS, extra_body={"stages": [STAGES[i % 3]]})
            return reply.choices[0].message.content == STAGES[i % 3]

        with ThreadPoolExecutor(6) as threads:
            assert all(threads.map(answered, range(30)))
    assert most == 2
