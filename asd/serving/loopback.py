"""Admission without keys and without books: who reaches this machine's own address is served."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from asd.serving.admission import Call, RequestCharge, RequestFacts
from asd.serving.keys import LOCAL

__all__ = ["Loopback", "is_loopback"]


@dataclass(frozen=True, slots=True)
class _Free:
    """A ticket that holds nothing."""

    id: str
    shadow: tuple[str, ...] = ()
    held: int = 0

    async def settle(self, calls: Sequence[Call], uncounted: Sequence[str] = ()) -> RequestCharge:  # noqa: ARG002
        """Nothing is booked."""
        return RequestCharge(self.id, 0, 0, 0)

    async def release(self) -> RequestCharge:
        """Nothing was held."""
        return RequestCharge(self.id, 0, 0, 0)


class Loopback:
    """Admits everything; a key that a client sends is not looked at."""

    def authenticate(self, secret: str | None) -> str:  # noqa: ARG002
        """The one alias."""
        return LOCAL

    def is_operator(self, alias: str) -> bool:  # noqa: ARG002
        """There is one user."""
        return True

    async def admit(self, facts: RequestFacts) -> _Free:
        """Always."""
        return _Free(facts.id, facts.shadow)


def is_loopback(host: str) -> bool:
    """Whether a name or an address is this machine's own."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
