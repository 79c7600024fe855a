"""The policy of a request, on the embedded ladder's own: what is asked for, what is refused, what is kept."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from asd.api import policy_of
from asd.errors import ConfigError
from asd.guarantee.record import EVERYTHING, Grant, Guarantee
from asd.ladder import Ladder
from asd.policies import FixedStage
from asd.policy.choice import choose
from asd.serving.endpoint.controls import Controls
from asd.serving.endpoint.refusals import RequestError
from asd.serving.endpoint.settings import Certified, RequestSettings, SettingCache

LADDER = Ladder.load("tiny")
FITTED = policy_of(LADDER)
GRANT = Grant(
    stage="L", n=500, lam=5.0, p_value=0.01, n_needed=None, quality=0.97, stage_quality=0.98, cost=0.3,
    stage_cost=1.0, watched={},
)  # fmt: skip
GUARANTEE = Guarantee(
    keep=0.95, cap_cost=None, cost_bound=3.0, delta=0.1, n_lams=1, grants={EVERYTHING: GRANT}
)
PROMISED = msgspec.structs.replace(FITTED, guarantee=GUARANTEE)


def setting_of(settings: SettingCache, **controls: Any) -> RequestSettings:
    return asyncio.run(settings.of(Controls(**controls)))


@pytest.mark.parametrize("own", [{}, {"lam": 2.0}, {"quality": 0.9}])
def test_a_request_that_names_nothing_gets_the_servers_setting(own: dict[str, float]) -> None:
    """What `asd.load` would choose, too."""
    settings = SettingCache(FITTED, LADDER, **own)
    assert setting_of(settings) is settings.default
    assert settings.default.policy.name == choose(FITTED, LADDER, **own).policy.name


def test_a_lam_is_solved_once_and_the_latest_are_kept() -> None:
    settings = SettingCache(FITTED, LADDER, most=2)

    async def of(*lams: float) -> list[RequestSettings]:
        return await asyncio.gather(*(settings.of(Controls(lam=lam)) for lam in lams))

    first, again, other, third = asyncio.run(of(1, 1, 2, 3))
    assert first is again
    assert [s.policy.name for s in (first, other, third)] == [
        "optimal(lam=1)",
        "optimal(lam=2)",
        "optimal(lam=3)",
    ]
    assert len(settings) == 2
    assert setting_of(settings, lam=1.0) is not first


def test_an_estimated_quality_says_so_and_is_refused_where_certificates_are_wanted() -> None:
    """No guarantee comes with the embedded policy."""
    assert FITTED.guarantee is None
    found = setting_of(SettingCache(FITTED, LADDER), quality=0.95)
    assert "guarantees no quality" in found.note
    with pytest.raises(RequestError, match=r"guarantees no quality, not 0\.95") as caught:
        setting_of(SettingCache(FITTED, LADDER, certified="refuse"), quality=0.95)
    assert (caught.value.status, caught.value.param) == (400, "quality")
    with pytest.raises(RequestError, match="guarantees no quality"):
        SettingCache(FITTED, LADDER, certified="refuse", quality=0.95)


def test_a_quality_that_the_guarantee_covers_is_promised() -> None:
    """Up to the share that is guaranteed, and at the batch size of the guarantee alone."""
    settings = SettingCache(PROMISED, LADDER, certified="refuse")
    assert setting_of(settings, quality=0.95).note == ""
    with pytest.raises(RequestError, match=r"the policy guarantees quality up to 0\.95"):
        setting_of(settings, quality=0.96)
    elsewhere = msgspec.structs.replace(FITTED, guarantee=msgspec.structs.replace(GUARANTEE, batch=4))
    with pytest.raises(RequestError, match="guarantees no quality"):
        setting_of(SettingCache(elsewhere, LADDER, lam=5.0, certified="refuse"), quality=0.9)


def test_the_reference_answers_where_a_certificate_does_not_reach() -> None:
    """Alone, where the server is set so: the guarantee's, else the largest stage; what is covered is kept."""
    certified: Certified = "reference"
    found = setting_of(SettingCache(FITTED, LADDER, certified=certified), quality=0.9)
    assert (found.policy.name, found.stages) == ("always(L)", ("L",))
    assert found.note == "the reference, L, alone answered: the policy guarantees no quality, not 0.9"
    of_m = msgspec.structs.replace(GUARANTEE, grants={EVERYTHING: msgspec.structs.replace(GRANT, stage="M")})
    settings = SettingCache(msgspec.structs.replace(FITTED, guarantee=of_m), LADDER, certified=certified)
    assert setting_of(settings, quality=0.96).stages == ("M",)
    assert setting_of(settings, quality=0.95).note == ""
    drawn = asyncio.run(settings.of(Controls(quality=0.95), 0.7))
    assert (drawn.policy.name, drawn.guaranteed) == ("always(M)", False)
    assert SettingCache(FITTED, LADDER, quality=0.9, certified=certified).default.stages == ("L",)


def test_answers_that_are_drawn_are_outside_of_the_guarantee() -> None:
    """Which the note says, or, where certificates are wanted, the refusal."""
    said = "the guarantee is for temperature 0; at 0.7 it does not hold"
    for asked in (Controls(), Controls(quality=0.95)):
        settings = SettingCache(PROMISED, LADDER)
        greedy, drawn = asyncio.run(settings.of(asked)), asyncio.run(settings.of(asked, 0.7))
        assert (greedy.note, drawn.note, drawn.policy) == ("", said, greedy.policy)
        with pytest.raises(RequestError, match=said) as caught:
            asyncio.run(SettingCache(PROMISED, LADDER, certified="refuse").of(asked, 0.7))
        assert (caught.value.status, caught.value.param) == (400, "temperature")
    estimated = asyncio.run(SettingCache(PROMISED, LADDER).of(Controls(quality=0.99), 0.7))
    assert "is estimated" in estimated.note
    assert (
        asyncio.run(SettingCache(PROMISED, LADDER, certified="refuse").of(Controls(lam=5.0), 0.7)).note == ""
    )


def test_stages_that_are_not_named_are_never_asked() -> None:
    """One stage needs no policy; the order of the names does not matter."""
    settings = SettingCache(FITTED, LADDER)
    one = setting_of(settings, stages=("L",))
    assert (one.stages, one.policy.name) == (("L",), FixedStage("L").name)
    two = setting_of(settings, stages=("L", "S"))
    assert two.stages == ("S", "L")
    assert two is setting_of(settings, stages=("S", "L"))


@pytest.mark.parametrize(
    ("controls", "status", "param"),
    [
        ({"stages": ("S", "XL")}, 404, "stages"),
        ({"stages": ("S", "L"), "quality": 0.9}, 400, "quality"),
    ],
)
def test_what_no_policy_can_do_is_refused(controls: dict[str, Any], status: int, param: str) -> None:
    with pytest.raises(RequestError) as caught:
        setting_of(SettingCache(FITTED, LADDER), **controls)
    assert (caught.value.status, caught.value.param) == (status, param)


def test_the_servers_own_setting_is_checked_at_the_start() -> None:
    with pytest.raises(ConfigError, match="lam"):
        SettingCache(FITTED, LADDER, lam=-1.0)
    with pytest.raises(ConfigError, match="both"):
        SettingCache(FITTED, LADDER, lam=1.0, quality=0.9)


def test_a_hurried_answer_is_the_smallest_stages_unless_quality_is_promised() -> None:
    hurried = SettingCache(FITTED, LADDER).hurried
    assert hurried.stages == ("S",)
    assert "busy" in hurried.note
    for promising in (SettingCache(FITTED, LADDER, quality=0.95), SettingCache(PROMISED, LADDER)):
        assert promising.hurried is promising.default
    assert SettingCache(PROMISED, LADDER, lam=5.0).hurried.stages == ("S",)
