"""Jumping: what has a name that begins with what somebody types, as `/` and Ctrl-K find it on every page.

An app registers a source of its own rows. A source is bounded, uses indexes, and gives only what this viewer may see.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from itertools import islice

from django.urls import resolve

from vbs.pages.access import NAVIGATION, PERMISSION
from vbs.pages.viewer import Viewer

MOST = 6  # of each source
FEW = 3  # of each source, where nothing is typed yet
LONGEST = 100  # characters that are looked for

# Pages that the navigation does not have.
FURTHER = (
    ("/batches/new", "New batch"), ("/system/settings", "Settings"), ("/system/keys", "API keys"),
    ("/system/people", "People and projects"), ("/system/audit", "Audit log"), ("/system/log", "Logs"),
    ("/system/disk", "Clean the disk"), ("/docs", "Every route of the API"), ("/help/parts", "Parts of pages"),
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """kind: a word for what it is. note: what tells it apart from others of its name."""

    kind: str
    title: str
    address: str
    note: str = ""


Source = Callable[[Viewer, str], Iterable[Target]]
SOURCES: list[Source] = []
LAST: list[Source] = []  # what is found there comes after the pages


def register(*sources: Source, last: bool = False) -> None:
    (LAST if last else SOURCES).extend(sources)


def found(viewer: Viewer, text: str) -> list[dict[str, str]]:
    """What the text finds, at most MOST of each source; without a text the first FEW of each."""
    text = text.replace("\0", "").strip()[:LONGEST]
    most = MOST if text else FEW
    return [asdict(one) for source in (*SOURCES, _pages, *LAST) for one in islice(source(viewer, text), most)]


def _pages(viewer: Viewer, text: str) -> Iterable[Target]:
    words = text.lower().split()
    for address, name in (*((address, name) for address, name, _ in NAVIGATION), *FURTHER):
        permission = getattr(resolve(address).func, PERMISSION, "")
        if (not permission or viewer.may(permission)) and all(word in name.lower() for word in words):
            yield Target("Page", name, address)
