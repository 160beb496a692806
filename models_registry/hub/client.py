"""The client of the model hub (VBS_HUB_URL): what a repository has, where its files are, and what its errors mean.

The access token is sent to the hub's own host only, not to hosts that it redirects to. A redirect is followed only to
https or within the host, and only to public addresses unless VBS_PRIVATE_URLS allows others; the hub itself may be
anywhere.
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
from models_registry.hub.files import HubFile
from vbs.logs import one_line
from vbs.outgoing import client as outgoing
from vbs.places import PROGRAM

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

CONNECT_SECONDS = 10.0
SILENT_SECONDS = 30.0  # without a byte, after which a connection is given up
ASK_SECONDS = 300.0  # for all short requests over one connection; whole files have no such limit
MOST_REDIRECTS = 5
MOST_LISTED = 64 * 2**20  # bytes of a repository's listing
MOST_WAIT = 300.0  # seconds that the hub may ask us to wait
MOST_SAID = 300  # characters of the hub's own messages
TEMPORARY = {408, 425, 429, *range(500, 600)}


class TemporaryError(Exception):
    """It may work later: the connection was lost, or the hub is busy. wait: seconds that the hub asks us to wait."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


@dataclass(frozen=True)
class HubRepository:
    """A repository at a revision, and the access token for it (empty: none)."""

    id: str
    revision: str
    token: str = field(default="", repr=False)

    def __str__(self) -> str:
        return self.id

    def headers(self) -> dict[str, str]:
        plain = {"Accept-Encoding": "identity", "User-Agent": "vbs"}  # identity: sizes and ranges are those of the file
        if not self.token:
            return plain
        tokens.check(self.token)  # otherwise the error of a header that cannot be sent would show the token
        return plain | {"Authorization": f"Bearer {self.token}"}

    def file_url(self, path: str) -> str:
        return f"{base_url()}/{self.id}/resolve/{quote(self.revision, safe='')}/{quote(path)}"


@dataclass(frozen=True)
class RepositoryListing:
    """What the hub says about a repository. commit: of the revision now. license: as its card names it. gated: access
    has to be asked for."""

    commit: str
    files: list[HubFile]
    license: str
    gated: bool


def base_url() -> str:
    return str(settings.VBS_HUB_URL).rstrip("/")


def listing(repository: HubRepository) -> RepositoryListing:
    """Ask the hub what the repository has. Raises ModelError, also when the hub does not answer."""
    from huggingface_hub.hf_api import ModelInfo

    url = f"{base_url()}/api/models/{repository.id}/revision/{quote(repository.revision or 'main', safe='')}"
    try:
        with (
            _asking() as client,
            errors(),
            client.stream("GET", url, params={"blobs": "true"}, headers=repository.headers()) as response,
        ):
            check(response, repository)
            content = outgoing.read(response, MOST_LISTED)
    except TemporaryError as error:
        raise ModelError(f"{error}. Try again later") from error
    try:
        info = ModelInfo(**json.loads(content))
        return _read(info)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ModelError(
            f"{base_url()} does not answer as a hub does ({type(error).__name__}): check VBS_HUB_URL"
        ) from error


def check_access(repository: HubRepository, path: str) -> None:
    """Raises ModelError unless the hub lets us fetch the file."""
    try:
        with _asking() as client, errors():
            response = client.head(repository.file_url(path), headers=repository.headers(), follow_redirects=False)
            if not response.is_redirect:
                check(response, repository, path)
    except TemporaryError as error:
        raise ModelError(f"{error}. Try again later") from error


@contextmanager
def reading(repository: HubRepository) -> Iterator[Callable[[str, int, int], bytes]]:
    """Gives `read(path, start, length)`, which reads a range of a file, all over one connection. Raises ModelError."""
    with _asking() as client:

        def read(path: str, start: int, length: int) -> bytes:
            headers = repository.headers() | {"Range": f"bytes={start}-{start + length - 1}"}
            try:
                with errors(), client.stream("GET", repository.file_url(path), headers=headers) as response:
                    check(response, repository, path)
                    skip = 0 if response.status_code == 206 else start  # without ranges the whole file comes
                    body = bytearray()
                    for chunk in response.iter_raw():
                        body += chunk[skip:]
                        skip = max(0, skip - len(chunk))
                        if len(body) >= length:
                            break
                    return bytes(body[:length])
            except TemporaryError as error:
                raise ModelError(f"{error}. Try again later") from error

        yield read


def client() -> httpx2.AsyncClient:
    """A client for fetching files; the caller closes it."""

    async def check_redirect(response: httpx2.Response) -> None:
        _check_redirect(response)

    hooks = {"response": [check_redirect]}
    return httpx2.AsyncClient(transport=outgoing.AsyncTransport(_rule()), event_hooks=hooks, **_options())


def check(response: httpx2.Response, repository: HubRepository, path: str = "") -> None:
    """Raises TemporaryError, or ModelError when trying again is of no use. The body is not read."""
    if response.status_code in TEMPORARY:
        raise TemporaryError(f"{base_url()} answers {response.status_code}", _asked_to_wait(response))
    if not response.is_success:
        raise ModelError(_explain(response, repository, path))


@contextmanager
def errors() -> Iterator[None]:
    """Turns errors of the connection into TemporaryError, or into ModelError when trying again is of no use."""
    try:
        yield
    except outgoing.UnknownHost as error:
        raise TemporaryError(f"{base_url()} (VBS_HUB_URL) cannot be reached: {error}") from None
    except outgoing.AddressError as error:
        raise ModelError(f"{base_url()} (VBS_HUB_URL) may not be asked: {error}") from None
    except outgoing.SendError as error:
        raise ModelError(f"{base_url()} does not answer as a hub does ({error}): check VBS_HUB_URL") from None
    except httpx2.TimeoutException as error:
        raise TemporaryError(f"{base_url()} (VBS_HUB_URL) does not answer ({type(error).__name__})") from None
    except (httpx2.UnsupportedProtocol, httpx2.InvalidURL, httpx2.TooManyRedirects) as error:
        raise ModelError(f"{base_url()} (VBS_HUB_URL) cannot be used: {_short(str(error))}") from None
    except (httpx2.RequestError, httpx2.StreamError) as error:
        why = _short(str(error)) or type(error).__name__
        raise TemporaryError(
            f"{base_url()} (VBS_HUB_URL) cannot be reached ({why}): check the network, and the address"
        ) from None


def _asking() -> httpx2.Client:
    """A client for short requests, one after the other."""
    hooks = {"response": [_check_redirect]}
    return httpx2.Client(transport=outgoing.Transport(_rule(), ASK_SECONDS), event_hooks=hooks, **_options())


def _rule() -> outgoing.Rule:
    """The operator has set the hub's address, and may have set a proxy, so both are allowed."""
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
            f"{base_url()} redirects to {_short(there.host)} without https, which is not followed: check VBS_HUB_URL"
        )


def _read(info: "ModelInfo") -> RepositoryListing:
    files = []
    for one in info.siblings or []:
        lfs = one.lfs
        size = lfs.size if lfs else one.size
        known = isinstance(size, int) and not isinstance(size, bool)
        sums = {"sha256": str(lfs.sha256)} if lfs else {"blob": str(one.blob_id)}
        files.append(HubFile(str(one.rfilename), size if known and size is not None else -1, **sums))
    commit = str(info.sha)
    if len(commit) > 64 or not commit.isalnum() or not commit.isascii():
        raise ValueError(commit[:100])
    card = info.card_data.to_dict() if info.card_data else {}
    named = card.get("license_name") if card.get("license") == "other" else card.get("license")
    license = named[:100] if isinstance(named, str) and named.isprintable() else ""
    return RepositoryListing(commit, files, license, bool(info.gated))


def _explain(response: httpx2.Response, repository: HubRepository, path: str) -> str:
    """What the hub's refusal means, and what to do, without the access token."""
    status, said = response.status_code, _short(response.headers.get("X-Error-Message", "")) or response.status_code
    page = f"{base_url()}/{repository}"
    how = f"keep an access token ({PROGRAM} model token T) for it ({PROGRAM} model edit … --token T), or set HF_TOKEN"
    no_file = f"{repository} has no file {path!r} at revision {repository.revision!r} on {base_url()}"
    match response.headers.get("X-Error-Code"):
        case "GatedRepo" if repository.token:
            return (
                f"{repository} is gated, and the access token for it has no access ({said}): ask for access at {page}"
            )
        case "GatedRepo":
            return f"{repository} is gated: ask for access at {page}, make a token in your account there, and {how}"
        case "RevisionNotFound":
            return (
                f"{repository} has no revision {repository.revision!r} on {base_url()}: those that it has are at {page}"
            )
        case "EntryNotFound":
            return no_file
    if status == 401 and repository.token:
        return f"{base_url()} does not accept the access token for {repository}: check it; if it is wrong, {how}"
    if status == 401:
        return f"{base_url()} shows no model {repository}: check the id; if the model is private or gated, {how}"
    if status == 403:
        return f"{base_url()} refuses access to {repository} ({said}): ask for access at {page}, and {how}"
    if status == 404 and path:
        return no_file
    if status == 404:
        return f"there is no model {repository} on {base_url()}: check the id; if the model is private, {how}"
    return f"{base_url()} refuses {path or repository} with {status} ({said}): check VBS_HUB_URL"


def _asked_to_wait(response: httpx2.Response) -> float | None:
    asked = response.headers.get("Retry-After", "").strip()
    return min(float(asked), MOST_WAIT) if asked.isascii() and asked.isdigit() else None


def _short(text: str) -> str:
    return one_line(text)[:MOST_SAID]
