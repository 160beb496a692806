"""Every HTTP request that leaves this server goes through here: to the public internet, unless the caller allows more.

Each connection goes to the very address that was checked (`vbs.outgoing.addresses` has the rule). A redirect is not
followed, or only hop by hop under the same rule. The environment's proxies are used only where the caller asks for
them, because a proxy connects wherever it is told. This module does not depend on Django: the caller says what is
allowed, and how much.

There is a connector for aiohttp, which is used for engines, a transport for httpx, which is used for all else, and
`send` for a single request.
"""

import asyncio
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpcore2
import httpx2

from vbs.outgoing.addresses import (
    PORTS,
    AddressError,
    UnknownHost,
    check_address,
    check_url,
    origin,
    parse_address,
    resolve_host,
    split_url,
)

__all__ = [
    "PORTS",
    "AddressError",
    "AsyncTransport",
    "OutgoingReply",
    "Rule",
    "SendError",
    "Transport",
    "UnknownHost",
    "check_url",
    "connector",
    "origin",
    "read",
    "send",
    "split_url",
]


# Asked after a minute of silence, and given up after another: a long answer may have neither bytes nor end until then.
KEEPALIVE = {
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE): 1,
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE): 60,
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL): 15,
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT): 4,
}


def connector(private: bool = False, limit: int = 100) -> aiohttp.TCPConnector:
    """For a session of aiohttp. Connecting to an address that is not allowed raises AddressError."""

    def opened(info: Any) -> socket.socket:
        family, kind, protocol, _, address = info
        check_address(str(address[0]), private)
        made = socket.socket(family=family, type=kind, proto=protocol)
        for option, value in KEEPALIVE.items():  # a machine that is gone does not say so
            made.setsockopt(*option, value)
        return made

    # No happy eyeballs: a race for the fastest address would hide which of them was refused.
    return aiohttp.TCPConnector(limit=limit, socket_factory=opened, happy_eyeballs_delay=None)


@dataclass(frozen=True)
class Rule:
    """Where a client of httpx may connect to.

    own: a host and port that the operator has set; they may be anywhere. proxies: use those of the environment; a proxy
    resolves names itself, so then only a host that is an address can be checked.
    """

    private: bool = False
    own: tuple[str, int] | None = None
    proxies: bool = False

    def addresses(self, host: str, port: int) -> list[str]:
        return resolve_host(host, port, self._any(host, port))

    def proxy(self, url: httpx2.URL) -> str | None:
        """The environment's proxy for this URL, if there is one. Raises AddressError."""
        if not self.proxies or proxy_bypass(url.host):
            return None
        found = getproxies()
        chosen = found.get(url.scheme) or found.get("all")
        if chosen and parse_address(url.host) is not None:
            check_address(url.host, self._any(url.host, url.port or PORTS[url.scheme]))
        return f"http://{chosen}" if chosen and "://" not in chosen else chosen

    def _any(self, host: str, port: int) -> bool:
        return self.private or (host, port) == self.own


class Transport(httpx2.HTTPTransport):
    """For a client of httpx that lives for so many seconds: then its connections break, even busy ones."""

    def __init__(self, rule: Rule, seconds: float) -> None:
        trusted = httpx2.create_ssl_context()
        super().__init__(verify=trusted)
        self._rule, self._proxied = rule, dict[str, httpx2.HTTPTransport]()
        guard = _Guard(rule, time.monotonic() + seconds)
        self._pool = httpcore2.ConnectionPool(ssl_context=trusted, network_backend=guard)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        if proxy := self._rule.proxy(request.url):
            return self._proxied.setdefault(proxy, httpx2.HTTPTransport(proxy=proxy)).handle_request(request)
        return super().handle_request(request)

    def close(self) -> None:
        for transport in self._proxied.values():
            transport.close()
        super().close()


class AsyncTransport(httpx2.AsyncHTTPTransport):
    """The same for long downloads, without a limit of time."""

    def __init__(self, rule: Rule) -> None:
        trusted = httpx2.create_ssl_context()
        super().__init__(verify=trusted)
        self._rule, self._proxied = rule, dict[str, httpx2.AsyncHTTPTransport]()
        self._pool = httpcore2.AsyncConnectionPool(ssl_context=trusted, network_backend=_AsyncGuard(rule))

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if proxy := self._rule.proxy(request.url):
            transport = self._proxied.setdefault(proxy, httpx2.AsyncHTTPTransport(proxy=proxy))
            return await transport.handle_async_request(request)
        return await super().handle_async_request(request)

    async def aclose(self) -> None:
        for transport in self._proxied.values():
            await transport.aclose()
        await super().aclose()


class _Guard(httpcore2.NetworkBackend):
    """until: a time on the monotonic clock, at which an open connection breaks, even a busy one."""

    def __init__(self, rule: Rule, until: float) -> None:
        self.rule, self.until = rule, until
        self.backend = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        found = self.rule.addresses(host, port)
        for number in found:
            try:
                stream = self.backend.connect_tcp(number, port, timeout, local_address, socket_options)
                return _Timed(stream, self.until)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                if number == found[-1]:
                    raise
        raise httpcore2.ConnectError(f"{host} has no address")

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class _Timed(httpcore2.NetworkStream):
    def __init__(self, stream: httpcore2.NetworkStream, until: float) -> None:
        self.stream, self.until = stream, until

    def _left(self, timeout: float | None) -> float:
        left = self.until - time.monotonic()
        if left <= 0:
            raise httpcore2.ReadTimeout("the time for all of it is over")
        return left if timeout is None else min(left, timeout)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self.stream.read(max_bytes, self._left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self.stream.write(buffer, self._left(timeout))

    def close(self) -> None:
        self.stream.close()

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        return _Timed(self.stream.start_tls(ssl_context, server_hostname, self._left(timeout)), self.until)

    def get_extra_info(self, info: str) -> Any:
        return self.stream.get_extra_info(info)


class _AsyncGuard(httpcore2.AsyncNetworkBackend):
    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.backend = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  (httpcore's interface)
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        found = await asyncio.to_thread(self.rule.addresses, host, port)
        for number in found:
            try:
                return await self.backend.connect_tcp(number, port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                if number == found[-1]:
                    raise
        raise httpcore2.ConnectError(f"{host} has no address")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


# One request.


class SendError(Exception):
    """There is no answer that could be read: the connection failed, time ran out, or the answer is too large."""


@dataclass(frozen=True)
class OutgoingReply:
    status: int
    headers: Mapping[str, str]
    body: bytes


def send(
    method: str,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    private: bool = False,
    seconds: float = 10,
    most_bytes: int = 2**20,
) -> OutgoingReply:
    """Send one request. Returns the answer whatever its status is; a redirect is not followed.

    seconds: for all of it. most_bytes: of the answer's body; a compressed answer is refused. Raises AddressError,
    SendError.
    """
    split_url(url)
    plain = {"Accept-Encoding": "identity", "User-Agent": "vbs"}
    try:
        with (
            httpx2.Client(transport=Transport(Rule(private), seconds), timeout=seconds, trust_env=False) as client,
            client.stream(method, url, headers=plain | dict(headers or {}), content=body or None) as response,
        ):
            return OutgoingReply(response.status_code, response.headers, read(response, most_bytes))
    except (httpx2.RequestError, httpx2.InvalidURL, httpx2.StreamError) as error:
        raise SendError(str(error) or type(error).__name__) from error


def read(response: httpx2.Response, most_bytes: int) -> bytes:
    """Read the body of a streamed answer. Raises SendError when it is compressed, or has more than `most_bytes`."""
    if coding := response.headers.get("Content-Encoding"):
        raise SendError(f"the answer is compressed ({coding[:50]!r}), though the request forbids it")
    content = bytearray()
    for piece in response.iter_raw():
        content += piece
        if len(content) > most_bytes:
            raise SendError(f"the answer has more than {most_bytes:,} bytes")
    return bytes(content)
