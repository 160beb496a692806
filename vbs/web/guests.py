"""Who is connected: so many at once from one address, and so many in all."""

from ipaddress import IPv6Address, ip_address
from typing import Any

from vbs.web.limits import Bounds
from vbs.web.refusal import Refusal, later


def neighbourhood(host: str) -> str:
    """What counts as one address: of IPv6 the first 64 bits, which is what one customer is given at least."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:  # a Unix socket's
        return host
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped:
            return str(address.ipv4_mapped)
        return f"{IPv6Address(int(address) >> 64 << 64)}/64"
    return str(address)


class Guests:
    """The transports of connections, by address. One that has become a WebSocket is handed on and tells nobody when it
    ends, so the ended ones are looked for when it gets crowded."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.by_address: dict[str, set[Any]] = {}

    def enter(self, address: str, transport: Any) -> Refusal | None:
        """Let a connection in, or say why not."""
        here = self.by_address.get(address, set())
        most, in_all = self.bounds.connections_per_address, self.bounds.connections
        if len(here) >= most:
            self._forget_the_gone()
        if len(self.by_address.get(address, ())) >= most:
            words = f"There are {most} connections from {address} (VBS_MAX_CONNECTIONS_PER_ADDRESS)."
            return later(429, "too_many_connections", f"{words} Close some, or use them for several requests.")
        if len(self) >= in_all:
            self._forget_the_gone()
        if len(self) >= in_all:
            words = f"There are {in_all} connections already (VBS_MAX_CONNECTIONS)."
            return later(503, "too_many_connections", f"{words} Try again in a few seconds.")
        self.by_address.setdefault(address, set()).add(transport)
        return None

    def leave(self, address: str, transport: Any) -> None:
        if here := self.by_address.get(address):
            here.discard(transport)
            if not here:
                del self.by_address[address]

    def _forget_the_gone(self) -> None:
        for address, transports in list(self.by_address.items()):
            for transport in [one for one in transports if not one.connected]:
                self.leave(address, transport)

    def __len__(self) -> int:
        return sum(map(len, self.by_address.values()))
