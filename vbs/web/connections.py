"""Counts the open connections, by address and in all, and refuses those beyond the limits."""

from ipaddress import IPv6Address, ip_address
from typing import Any

from vbs.web.limits import Bounds
from vbs.web.refusal import Refusal, try_later


def network_of(host: str) -> str:
    """What counts as one address: of IPv6 the first 64 bits, which is the least that a customer gets."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:  # the peer is on a Unix socket
        return host
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped:
            return str(address.ipv4_mapped)
        return f"{IPv6Address(int(address) >> 64 << 64)}/64"
    return str(address)


class OpenConnections:
    """The transports of the open connections, by address.

    A connection that became a WebSocket is handed to Daphne, which does not report its end. So when a limit is reached,
    the closed ones are looked for and forgotten.
    """

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.by_address: dict[str, set[Any]] = {}

    def enter(self, address: str, transport: Any) -> Refusal | None:
        """Count a new connection, or return the answer that refuses it."""
        here = self.by_address.get(address, set())
        most, in_all = self.bounds.connections_per_address, self.bounds.connections
        if len(here) >= most:
            self._forget_closed()
        if len(self.by_address.get(address, ())) >= most:
            words = f"There are {most} connections from {address}, which is the most (VBS_MAX_CONNECTIONS_PER_ADDRESS)."
            return try_later(429, "too_many_connections", f"{words} Close some, or use each for several requests.")
        if len(self) >= in_all:
            self._forget_closed()
        if len(self) >= in_all:
            words = f"The server has {in_all} connections, which is the most (VBS_MAX_CONNECTIONS)."
            return try_later(503, "too_many_connections", f"{words} Try again in a few seconds.")
        self.by_address.setdefault(address, set()).add(transport)
        return None

    def leave(self, address: str, transport: Any) -> None:
        if here := self.by_address.get(address):
            here.discard(transport)
            if not here:
                del self.by_address[address]

    def _forget_closed(self) -> None:
        for address, transports in list(self.by_address.items()):
            for transport in [one for one in transports if not one.connected]:
                self.leave(address, transport)

    def __len__(self) -> int:
        return sum(map(len, self.by_address.values()))
