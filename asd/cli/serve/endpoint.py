"""What `asd serve` lets listen: opened stages and the policy that chooses among them. Needs `asd[serve]`."""

from __future__ import annotations

import gc
import socket
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import click

from asd.engines.deployment import Deployed
from asd.ladder import Ladder
from asd.policy.artifact import PolicyArtifact
from asd.serving.admission import Admission
from asd.serving.endpoint import server
from asd.serving.endpoint.application import Application
from asd.serving.endpoint.server import listening
from asd.serving.endpoint.service import Capacity, Service, Steers, load, tariff_of
from asd.serving.endpoint.settings import SettingCache
from asd.serving.monitoring.monitor import MonitorSettings
from asd.serving.tariff import Tariff

if TYPE_CHECKING:
    from asd.serving.endpoint.past.tracing import Tracing

__all__ = ["Capacity", "Endpoint", "MonitorSettings", "SettingCache", "listening"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A cascade that requests can be put to.

    Attributes:
        ladder: Its stages.
        deployed: Their engines.
        fitted: The policy.
        settings: How requests of a kind are answered.
        capacity: What is taken on at a time.
        steering: Makes the controller that chooses for requests that name nothing; None: the settings do.
    """

    ladder: Ladder
    deployed: Deployed
    fitted: PolicyArtifact
    settings: SettingCache
    capacity: Capacity
    steering: Steers | None

    @property
    def tariff(self) -> Tariff:
        """What calls cost."""
        return tariff_of(self.ladder, self.deployed.engines)

    def run(
        self,
        at: socket.socket,
        admission: Admission,
        watching: MonitorSettings,
        tracing: Tracing | None = None,
        *,
        loopback_only: bool,
    ) -> None:
        """Load the stages that stay in memory, and answer until a signal ends it."""
        server.set_up_logs()
        if self.deployed.residency is None:
            load(self.deployed.engines)
        opened = partial(self.service, admission, self.promised(watching), tracing)
        gc.collect()
        gc.freeze()  # looking through all that was loaded stops every request for a quarter of a second
        at.listen(socket.SOMAXCONN)  # whoever reads the address can connect from now on, and waits a moment
        click.echo(f"{self.ladder.name} at {server.url_of(at)}", err=True)
        server.Server(Application(opened, loopback_only=loopback_only)).run([at])

    def promised(self, watching: MonitorSettings) -> MonitorSettings:
        """With the policy's guarantee where requests that name nothing are answered under it."""
        guarantee = self.fitted.guarantee
        if guarantee is None or self.steering is not None or not self.settings.default.guaranteed:
            return watching
        return replace(watching, promised=guarantee.keep, guarantee=guarantee)

    def service(
        self, admission: Admission, watching: MonitorSettings, tracing: Tracing | None = None
    ) -> Service:
        """What every request shares, on the event loop that is to run it."""
        found = Service(
            self.deployed.engines,
            self.ladder,
            self.settings,
            self.fitted.model.forms,
            admission,
            self.capacity,
            watching,
        )
        found.tracing = tracing
        if self.steering is not None:
            found.steer_by(self.steering)
        return found
