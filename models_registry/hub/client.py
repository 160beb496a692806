"""Speaks with the model hub (VBS_HUB_URL): what a repository has, where its files are, and what its errors mean.

The token goes to the hub's own host and nowhere else: where the hub sends us on to another one, it stays behind. We
follow to https or within the host only, and to public addresses unless VBS_PRIVATE_URLS allows others; the hub itself
may be anywhere. Knows neither registry nor disk.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx2
from django.conf import settings

from models_registry.catalog.folders import ModelError
from models_registry.hub import tokens
from models_registry.hub.files import File
from vbs.logs import one_line
from vbs.outgoing import client as outgoing

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

CONNECT_SECONDS = 10.0
SILENT_SECONDS = 30.0  # without a byte a connection is given up
ASK_SECONDS = 300.0  # for all questions over one connection; not for whole files
MOST_REDIRECTS = 5
MOST_LISTED = 64 * 2**20  # bytes of a repository's description
MOST_WAIT = 300.0  # that a hub may ask of us
MOST_SAID = 300  # characters of the hub's own words
PASSING = {408, 425, 429, *range(500, 600)}


class Passing(Exception):
    """It may work later: a lost connection, a hub that is busy. wait: seconds that the hub asks for, if it does."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


@dataclass(frozen=True)
class Place:
    """A repository at a revision, and the token to use there (empty: none)."""

    id: str
    revision: str
    token: str = field(default="", repr=False)

    def __str__(self) -> str:
        return self.id

    def headers(self) -> dict[str, str]:
        plain = {"Accept-Encoding": "identity", "User-Agent": "vbs"}  # identity: sizes and ranges are the file's own
        if not self.token:
            return plain
        tokens.check(self.token)  # what no header can carry would be in the error
        return plain | {"Authorization": f"Bearer {self.token}"}

    def file_url(self, path: str) -> str:
        return f"{base_url()}/{self.id}/resolve/{quote(self.revision, safe='')}/{quote(path)}"


@dataclass(frozen=True)
class Repository:
    """commit: what the revision stands for now. license: as its card has it. gated: access has to be asked for."""

    commit: str
    files: list[File]
    license: str
    gated: bool


def base_url() -> str:
    return str(settings.VBS_HUB_URL).rstrip("/")


def repository(place: Place) -> Repository:
    """Ask the hub what there is. Raises ModelError, for a hub that does not answer too."""
    from huggingface_hub.hf_api import ModelInfo

    url = f"{base_url()}/api/models/{place.id}/revision/{quote(place.revision or 'main', safe='')}"
    try:
        with (
            _asking() as client,
            errors(),
            client.stream("GET", url, params={"blobs": "true"}, headers=place.headers()) as response,
        ):
            check(response, place)
            content = outgoing.read(response, MOST_LISTED)
    except Passing as error:
        raise ModelError(f"{error}. Try again later") from error
    try:
        info = ModelInfo(**json.loads(content))
        return _read(info)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ModelError(
            f"{base_url()} does not answer as a hub does ({type(error).__name__}): is VBS_HUB_URL right?"
        ) from error


def check_access(place: Place, path: str) -> None:
    """Raises ModelError unless we may have the file."""
    try:
        with _asking() as client, errors():
            response = client.head(place.file_url(path), headers=place.headers(), follow_redirects=False)
            if not response.is_redirect:
                check(response, place, path)
    except Passing as error:
        raise ModelError(f"{error}. Try again later") from error


@contextmanager
def reading(place: Place) -> Iterator[Callable[[str, int, int], bytes]]:
    """Parts of files over one connection: `read(path, start, length)`, fewer bytes at the end. Raises ModelError."""
    with _asking() as client:

        def read(path: str, start: int, length: int) -> bytes:
            headers = place.headers() | {"Range": f"bytes={start}-{start + length - 1}"}
            try:
                with errors(), client.stream("GET", place.file_url(path), headers=headers) as response:
                    check(response, place, path)
                    skip = 0 if response.status_code == 206 else start  # who knows no ranges sends all
                    body = bytearray()
                    for chunk in response.iter_raw():
                        body += chunk[skip:]
                        skip = max(0, skip - len(chunk))
                        if len(body) >= length:
                            break
                    return bytes(body[:length])
            except Passing as error:
                raise ModelError(f"{error}. Try again later") from error

        yield read


def client() -> httpx2.AsyncClient:
    """For fetching files; to be closed by whoever asked for it."""

    async def check_redirect(response: httpx2.Response) -> None:
        _check_redirect(response)

    hooks = {"response": [check_redirect]}
    return httpx2.AsyncClient(transport=outgoing.AsyncTransport(_rule()), event_hooks=hooks, **_options())


def check(response: httpx2.Response, place: Place, path: str = "") -> None:
    """Raises Passing, or ModelError when trying again is of no use. The body, which may be anything, is not read."""
    if response.status_code in PASSING:
        raise Passing(f"{base_url()} answers {response.status_code}", _asked_to_wait(response))
    if not response.is_success:
        raise ModelError(_explain(response, place, path))


@contextmanager
def errors() -> Iterator[None]:
    """What the connection suffers inside is raised as Passing, or as ModelError when trying again is of no use."""
    try:
        yield
    except outgoing.UnknownHost as error:
        raise Passing(f"{base_url()} (VBS_HUB_URL) cannot be reached: {error}") from None
    except outgoing.AddressError as error:
        raise ModelError(f"{base_url()} (VBS_HUB_URL) leads nowhere that may be asked: {error}") from None
    except outgoing.SendError as error:
        raise ModelError(f"{base_url()} does not answer as a hub does ({error}): is VBS_HUB_URL right?") from None
    except httpx2.TimeoutException as error:
        raise Passing(f"{base_url()} (VBS_HUB_URL) does not answer ({type(error).__name__})") from None
    except (httpx2.UnsupportedProtocol, httpx2.InvalidURL, httpx2.TooManyRedirects) as error:
        raise ModelError(f"{base_url()} (VBS_HUB_URL) leads nowhere: {_short(str(error))}") from None
    except (httpx2.RequestError, httpx2.StreamError) as error:
        why = _short(str(error)) or type(error).__name__
        raise Passing(
            f"{base_url()} (VBS_HUB_URL) cannot be reached ({why}): check the network, and the address"
        ) from None


def _asking() -> httpx2.Client:
    """For short questions, one after the other."""
    hooks = {"response": [_check_redirect]}
    return httpx2.Client(transport=outgoing.Transport(_rule(), ASK_SECONDS), event_hooks=hooks, **_options())


def _rule() -> outgoing.Rule:
    """The operator has said where the hub is, and which proxy leads there."""
    hub = httpx2.URL(base_url())
    own = (hub.host, hub.port or outgoing.PORTS[hub.scheme])
    return outgoing.Rule(private=settings.VBS_PRIVATE_URLS, own=own, proxies=True)


def _options() -> dict[str, Any]:
    timeout = httpx2.Timeout(SILENT_SECONDS, connect=CONNECT_SECONDS)
    return {"follow_redirects": True, "max_redirects": MOST_REDIRECTS, "timeout": timeout}


def _check_redirect(response: httpx2.Response) -> None:
    if not response.has_redirect_location:
        return
    here = response.request.url
    there = here.join(response.headers["location"])
    if there.scheme != "https" and (there.scheme, there.host, there.port) != (here.scheme, here.host, here.port):
        raise ModelError(
            f"{base_url()} sends us on to {_short(there.host)} without https, which is not followed: "
            "is VBS_HUB_URL right?"
        )


def _read(info: "ModelInfo") -> Repository:
    files = []
    for one in info.siblings or []:
        lfs = one.lfs
        size = lfs.size if lfs else one.size
        known = isinstance(size, int) and not isinstance(size, bool)
        sums = {"sha256": str(lfs.sha256)} if lfs else {"blob": str(one.blob_id)}
        files.append(File(str(one.rfilename), size if known and size is not None else -1, **sums))
    commit = str(info.sha)
    if len(commit) > 64 or not commit.isalnum() or not commit.isascii():
        raise ValueError(commit[:100])
    card = info.card_data.to_dict() if info.card_data else {}
    named = card.get("license_name") if card.get("license") == "other" else card.get("license")
    license = named[:100] if isinstance(named, str) and named.isprintable() else ""
    return Repository(commit, files, license, bool(info.gated))


def _explain(response: httpx2.Response, place: Place, path: str) -> str:
    """What a refusal means, and what to do. Never with the token."""
    status, said = response.status_code, _short(response.headers.get("X-Error-Message", "")) or response.status_code
    page = f"{base_url()}/{place}"
    how = "keep a token (manage.py model token T) for it (manage.py model edit … --token T), or set HF_TOKEN"
    no_file = f"{place} has no file {path!r} at revision {place.revision!r} on {base_url()}"
    match response.headers.get("X-Error-Code"):
        case "GatedRepo" if place.token:
            return f"{place} is gated, and the token that is used has no access ({said}): ask for it at {page}"
        case "GatedRepo":
            return f"{place} is gated: ask for access at {page}, make a token in the settings of the account, and {how}"
        case "RevisionNotFound":
            return f"{place} has no revision {place.revision!r} on {base_url()}: those that it has are at {page}"
        case "EntryNotFound":
            return no_file
    if status == 401 and place.token:
        return f"{base_url()} does not accept the token that is used for {place}: is it the right one? If not, {how}"
    if status == 401:
        return f"{base_url()} shows no model {place}: is the id right? If it is private or gated, {how}"
    if status == 403:
        return f"{base_url()} refuses access to {place} ({said}): ask for it at {page}, and {how}"
    if status == 404 and path:
        return no_file
    if status == 404:
        return f"there is no model {place} on {base_url()}: is the id right? If it is private, {how}"
    return f"{base_url()} refuses {path or place} with {status} ({said}): is VBS_HUB_URL right?"


def _asked_to_wait(response: httpx2.Response) -> float | None:
    asked = response.headers.get("Retry-After", "").strip()
    return min(float(asked), MOST_WAIT) if asked.isascii() and asked.isdigit() else None


def _short(text: str) -> str:
    return one_line(text)[:MOST_SAID]
