"""The policy of a request: solved once for every setting that is asked for, and kept.

Nothing is fitted here; `asd.policy.choice` says which policy is meant.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from asd.api import with_loads
from asd.engines.residency import Residency
from asd.errors import ConfigError
from asd.guarantee.record import EVERYTHING
from asd.ladder import Ladder
from asd.policies import FixedStage, Policy
from asd.policy.artifact import PolicyArtifact
from asd.policy.choice import DEFAULT_LAM, choose
from asd.serving.endpoint.controls import Controls
from asd.serving.endpoint.refusals import RequestError

__all__ = ["Certified", "RequestSettings", "SettingCache"]

Certified = Literal["refuse", "reference"]
"""What becomes of a quality that no guarantee covers, where an estimate will not do."""

UNFITTED = "the policy was fitted on answers that are text: of tools and formats p_good is an estimate"


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class RequestSettings:
    """How requests of one kind are answered.

    Attributes:
        policy: Decides.
        stages: Those that it may ask, in ladder order.
        note: What whoever asked should know of it; "": nothing.
        guaranteed: The policy's guarantee covers greedy answers at this setting.
    """

    policy: Policy
    stages: tuple[str, ...]
    note: str = ""
    guaranteed: bool = False


class SettingCache:
    """The settings of a server, on the event loop that is running.

    Args:
        fitted: Holds a policy for every lam.
        ladder: What it steers.
        lam: Of requests that name neither a lam nor a quality; None: what is guaranteed, else the default.
        quality: Instead, the share of quality that they get.
        certified: Of a quality that no guarantee of the policy covers: refuse it, or let the reference stage
            alone answer; None: go by an estimate.
        residency: Keeps the stages within their memory; None: all stay there.
        most: Settings that are kept; the one that was used longest ago goes first.

    Attributes:
        default: The setting of requests that name none.
        hurried: Theirs while the server is busy: the smallest stage alone, unless the default promises
            quality.

    Raises:
        ConfigError, RequestError: The server's own setting is out of range or not covered.
        PolicyMismatchError: The policy was fitted on another ladder.
    """

    def __init__(
        self,
        fitted: PolicyArtifact,
        ladder: Ladder,
        *,
        lam: float | None = None,
        quality: float | None = None,
        certified: Certified | None = None,
        residency: Residency | None = None,
        most: int = 64,
    ) -> None:
        fitted.check(ladder)
        self._fitted = fitted
        self._ladder = ladder
        self._stages = tuple(stage.name for stage in ladder.stages)
        self._lam = lam
        self._quality = quality
        self._certified = certified
        self._residency = residency
        self._most = most
        self._kept: OrderedDict[tuple[object, ...], asyncio.Future[RequestSettings]] = OrderedDict()
        self.default = self._of_all(Controls())
        promises = quality is not None or (lam is None and fitted.guarantee is not None)
        self.hurried = self.default if promises else _alone(self.default.stages[0])

    def __len__(self) -> int:
        """Settings that are kept now."""
        return len(self._kept)

    def steer(self, policy: Policy) -> None:
        """Requests that name nothing get this policy from now on, also while the server is busy."""
        if policy is not self.default.policy:
            self.default = self.hurried = RequestSettings(policy, self._stages)

    async def of(self, asked: Controls, temperature: float = 0.0, *, verify: bool = True) -> RequestSettings:
        """The setting of a request, solved in a thread where it is a new one.

        Without `verify` no stage reads another's draft, and no quality is promised.

        Raises:
            RequestError: There is no such stage, or what is asked for cannot be promised.
        """
        found = await self._of(asked, verify)
        if not found.guaranteed or temperature == 0:
            return found
        note = f"the guarantee is for temperature 0; at {temperature:g} it does not hold"
        if self._certified is not None:
            return self._uncertified(note, "temperature")
        return replace(found, note=note)

    async def _of(self, asked: Controls, verify: bool) -> RequestSettings:
        if verify and asked.is_own:
            return self.default
        key = (asked.lam, asked.quality, None if asked.stages is None else frozenset(asked.stages), verify)
        if key not in self._kept:
            self._kept[key] = asyncio.ensure_future(asyncio.to_thread(self._solved, asked, verify))
        solving = self._kept[key]
        self._kept.move_to_end(key)
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return await asyncio.shield(solving)

    def _solved(self, asked: Controls, verify: bool) -> RequestSettings:
        stages = self._stages if asked.stages is None else self._allowed(asked.stages)
        try:
            if verify and len(stages) == len(self._stages):
                return self._of_all(asked)
            return self._among(asked, stages, verify)
        except ConfigError as error:
            raise RequestError(400, str(error), param="asd") from error

    def _allowed(self, named: Sequence[str]) -> tuple[str, ...]:
        if unknown := sorted(set(named) - set(self._stages)):
            raise RequestError(
                404,
                f"there is no stage {', '.join(map(repr, unknown))}; there are {', '.join(self._stages)}",
                code="model_not_found",
                param="stages",
            )
        return tuple(stage for stage in self._stages if stage in named)

    def _of_all(self, asked: Controls) -> RequestSettings:
        own = asked.lam is None and asked.quality is None
        lam, quality = (self._lam, self._quality) if own else (asked.lam, asked.quality)
        why = "" if quality is None else self._uncovered(quality)
        if self._certified is not None and why:
            return self._uncertified(f"{why}, not {quality:g}", "quality")
        note = f"quality {quality:g} is estimated from held-out rows: {why}" if why else ""
        chosen = choose(self._fitted, self._ladder, lam=lam, quality=quality)
        stages = (chosen.policy.stage,) if isinstance(chosen.policy, FixedStage) else self._stages
        guaranteed = lam is None and self._fitted.guarantee is not None and not note
        return RequestSettings(self._adapted(chosen.policy), stages, chosen.note or note, guaranteed)

    def _uncovered(self, share: float) -> str:
        """Why a share of quality is an estimate only; "": the guarantee of the policy covers it."""
        given = self._fitted.guarantee
        kept = None if given is None or given.batch != 1 else given.keep
        if kept is not None and kept >= share:
            return ""
        covered = "no quality" if kept is None else f"quality up to {kept:g}"
        return f"the policy guarantees {covered}"

    def _uncertified(self, why: str, param: str) -> RequestSettings:
        """What answers in the place of an estimate: the reference stage, whose quality it is, or nobody."""
        if self._certified == "refuse":
            raise RequestError(400, why, param=param)
        given = self._fitted.guarantee
        grants = {} if given is None else given.grants
        stage = grants[EVERYTHING].stage if EVERYTHING in grants else self._stages[-1]
        return RequestSettings(FixedStage(stage), (stage,), f"the reference, {stage}, alone answered: {why}")

    def _among(self, asked: Controls, stages: tuple[str, ...], verify: bool) -> RequestSettings:
        """A policy for part of the ladder: what is promised of quality holds for the whole alone."""
        if asked.quality is not None:
            raise RequestError(
                400,
                "a quality is kept by the whole ladder, for answers that are text; with stages, tools or a "
                "response_format give a lam instead",
                param="quality",
            )
        if len(stages) == 1:
            return RequestSettings(FixedStage(stages[0]), stages)
        lam = next(lam for lam in (asked.lam, self._lam, DEFAULT_LAM) if lam is not None)
        policy = self._fitted.policy(lam, ladder=self._ladder, verify=verify)
        left = policy.without(set(self._stages) - set(stages))
        return RequestSettings(self._adapted(left), stages, "" if verify else UNFITTED)

    def _adapted(self, policy: Policy) -> Policy:
        """The policy that reckons with loads, where stages take turns in memory."""
        prices, unit = self._ladder.prices_at(1), self._fitted.ladder.unit(1)
        return with_loads(policy, self._residency, prices, 1, unit)


def _alone(stage: str) -> RequestSettings:
    note = f"{stage} alone answered: the server is busy, and the request names no lam, quality or stages"
    return RequestSettings(FixedStage(stage), (stage,), note)
