"""Remote servers as an engine: are they there, and which key is each of them sent?"""

import logging
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from models_registry.engine.error_bodies import key_refused
from models_registry.engine.log_reasons import LoadError
from models_registry.engine.remote.pool import Pool
from models_registry.engine.server import Engine
from models_registry.engine.spec import Address, EngineSpec
from vbs.outgoing.client import AddressError, SendError, UnknownHost, origin, send
from vbs.places import PROGRAM

log = logging.getLogger(__name__)

REACH_ATTEMPTS, REACH_SECONDS = 4, 10
MOST_LISTED = 16 * 2**20  # bytes of a remote server's list of models
SET_KEY = f"'{PROGRAM} model edit NAME --key-file FILE'"


def remote(spec: EngineSpec, keys: Mapping[str, str], most: int) -> Engine:
    """An Engine for servers that somebody else runs. Raises LoadError when none of its addresses answers; those that do
    not answer now are looked at again while it is used.

    keys: by the origin of their servers; a server that is not among them gets none. most: calls at once at each.
    """
    urls = [url.rstrip("/") for url in (spec.source, *spec.pool)]
    failed: dict[str, LoadError] = {}
    left = urls
    for attempt in range(1, REACH_ATTEMPTS + 1):
        with ThreadPoolExecutor(len(left)) as asking:
            found = dict(zip(left, asking.map(lambda url: _not_reached(url, keys, spec.private), left), strict=True))
        failed = {url: error for url, error in failed.items() if url not in found}
        failed |= {url: error for url, (error, _) in found.items() if error}
        left = [url for url, (_, again) in found.items() if again]
        if len(failed) < len(urls) or not left:
            break
        if attempt < REACH_ATTEMPTS:
            time.sleep(attempt)
    if len(failed) == len(urls):
        raise failed[urls[0]]
    addresses = [Address(url, key=_key(url, keys)) for url in urls]
    pool = Pool(addresses, most)
    for one in pool.addresses:
        if error := failed.get(one.address.url):
            log.warning("Model %s: one of its %d addresses does not answer: %s", spec.name, len(urls), error)
            one.unheard("it did not answer when it was first looked at")
    return Engine(spec, addresses[0], most * len(urls), pool=pool)


def is_welcome(status: int) -> bool:
    """Does this status of GET /models say that the server is there for us? Not every server lists its models."""
    return status < 500 and not 300 <= status < 400 and status not in (401, 403)


def _key(url: str, keys: Mapping[str, str]) -> str:
    try:
        return keys.get(origin(url), "")
    except AddressError:
        return ""


def _not_reached(url: str, keys: Mapping[str, str], private: bool) -> tuple[LoadError | None, bool]:
    """Why the server at this URL cannot be used, if it cannot; and whether that may pass."""
    key = _key(url, keys)
    try:
        reply = send(
            "GET",
            f"{url}/models",
            headers={"Authorization": f"Bearer {key}"} if key else {},
            private=private,
            seconds=REACH_SECONDS,
            most_bytes=MOST_LISTED,
        )
    except (SendError, UnknownHost) as error:
        return _away(url, str(error), "it does not answer"), True
    except AddressError as error:
        hint = f"A model that '{PROGRAM} model add' adds may have a private address." if not private else ""
        public = "the model's server is not asked, because its address is not allowed"
        return LoadError(f"the server at {url} is not asked: {error}", hint, public=public), False
    if reply.status in (401, 403):
        change = f"on the model's page or with {SET_KEY}"
        none = f"It got no key: set one {change}, or set VBS_REMOTE_KEY and add {origin(url)} to VBS_REMOTE_ORIGINS."
        hint = f"It does not accept the key: change it {change}, or in VBS_REMOTE_KEY." if key else none
        public = key_refused(reply.status, sent=bool(key))
        return LoadError(f"{url} answers {reply.status}", hint, public=public), False
    if 300 <= reply.status < 400:
        hint = "Redirects are not followed: add the model with the URL that it leads to."
        public = f"the model's server answers {reply.status}, a redirect, which is not followed"
        return LoadError(f"{url} answers {reply.status}, a redirect", hint, public=public), False
    if not is_welcome(reply.status):
        return _away(url, f"it answers {reply.status}", f"it answers {reply.status}"), True
    return None, False


def _away(url: str, reason: str, said: str) -> LoadError:
    return LoadError(
        f"the server at {url} cannot be reached ({reason})",
        "Check that it runs, and that its URL is right.",
        public=f"the model's server cannot be reached ({said})",
    )
