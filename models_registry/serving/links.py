"""The sessions of aiohttp to engines, one for each address and event loop, so that connections are used again."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakKeyDictionary

import aiohttp

from models_registry.engine.client import open_session
from models_registry.engine.spec import Address

MOST_IDLE = 16  # sessions that are kept though no request uses them


class _Link:
    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session, self.users = session, 0


_Links = OrderedDict[tuple[Address, bool], _Link]
_of_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, _Links] = WeakKeyDictionary()


@asynccontextmanager
async def session(address: Address, private: bool) -> AsyncIterator[aiohttp.ClientSession]:
    """private: the server may have an address that is not public."""
    links = _of_loop.setdefault(asyncio.get_running_loop(), OrderedDict())
    key = (address, private)
    if key not in links:
        links[key] = _Link(open_session(address, private, limit=0, seconds=0))
    link = links[key]
    links.move_to_end(key)
    link.users += 1
    try:
        yield link.session
    finally:
        link.users -= 1
        await _close_idle(links)


async def _close_idle(links: _Links) -> None:
    """An engine that was started again has another address, so the sessions to those that have ended add up."""
    idle = [key for key, link in links.items() if not link.users]
    for key in idle[: max(0, len(idle) - MOST_IDLE)]:
        await links.pop(key).session.close()


async def close() -> None:
    """Close the sessions of this loop."""
    for link in _of_loop.pop(asyncio.get_running_loop(), OrderedDict()).values():
        await link.session.close()
