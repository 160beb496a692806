"""The documents of the repository, as pages. A document is rendered when somebody first asks for it, and again when its
file changed."""

import posixpath
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings

from vbs.help.markdown import PREFIX, Heading, Rendered, render

START = "start"
# In this order.
FIRST = (START, "api", "models", "pages", "operations", "architecture", "map", "benchmarks", "dependencies")
HIDDEN = ("STATUS",)
NAME = re.compile(r"[a-z0-9_-]{1,50}")
MOST_WORDS, MOST_HITS = 8, 30
AROUND = 90  # characters of a snippet on each side of what was found


@dataclass(frozen=True)
class Document:
    name: str
    rendered: Rendered

    @property
    def title(self) -> str:
        return "Start" if self.name == START else self.rendered.title or self.name


@dataclass(frozen=True)
class Hit:
    """A section that has all of the words. snippet: texts, each with whether it is one of the words."""

    document: Document
    heading: Heading
    snippet: tuple[tuple[str, bool], ...]


def documents() -> list[Document]:
    """All documents, in order; none where vbs is installed without them."""
    return [found for name in names() if (found := document(name))]


def names() -> list[str]:
    try:
        here = {path.stem for path in (_folder() / "docs").glob("*.md")} - set(HIDDEN)
    except OSError:
        here = set()
    if (_folder() / "README.md").is_file():
        here.add(START)
    return [name for name in FIRST if name in here] + sorted(name for name in here - set(FIRST) if NAME.fullmatch(name))


def document(name: str) -> Document | None:
    """None when there is no document with this name, or it cannot be read."""
    if name not in names():
        return None
    path = _folder() / (_path(name))
    try:
        changed = path.stat().st_mtime_ns
        with _lock:
            kept = _kept.get(path)
        if kept and kept[0] == changed:
            return kept[1]
        source = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    made = Document(name, render(source, lambda address: resolve(address, _path(name))))
    with _lock:
        _kept[path] = changed, made
    return made


_lock = threading.Lock()
_kept: dict[Path, tuple[int, Document]] = {}


def _folder() -> Path:
    return Path(settings.BASE_DIR)


def _path(name: str) -> str:
    return "README.md" if name == START else f"docs/{name}.md"


def resolve(address: str, within: str) -> str | None:
    """The page that a link in this file leads to, or None."""
    path, _, fragment = address.partition("#")
    if ":" in path or path.startswith("/"):
        return None
    fragment = f"#{PREFIX}{fragment}" if fragment else ""
    if not path:
        return fragment or None
    target = posixpath.normpath(posixpath.join(posixpath.dirname(within), path))
    found = next((name for name in names() if _path(name) == target), None)
    return None if found is None else f"/help/{found}{fragment}"


def search(asked: str) -> list[Hit]:
    """The sections that have all of these words in their text or heading; those with more of them in the heading
    first."""
    words = list(dict.fromkeys(asked.lower().split()))[:MOST_WORDS]
    if not words:
        return []
    found = []
    for one in documents():
        for section in one.rendered.sections:
            heading, text = section.heading.text.lower(), section.text.lower()
            if all(word in heading or word in text for word in words):
                score = sum(word in heading for word in words)
                found.append((score, Hit(one, section.heading, tuple(_snippet(section.text, words)))))
    found.sort(key=lambda pair: -pair[0])
    return [hit for _, hit in found[:MOST_HITS]]


def _snippet(text: str, words: list[str]) -> Iterator[tuple[str, bool]]:
    """The text around the first of the words that it contains."""
    pattern = re.compile("|".join(re.escape(word) for word in sorted(words, key=len, reverse=True)), re.IGNORECASE)
    first = pattern.search(text)
    at = first.start() if first else 0
    start, end = max(0, at - AROUND), min(len(text), at + 2 * AROUND)
    shown = ("…" if start else "") + text[start:end] + ("…" if end < len(text) else "")
    last = 0
    for match in pattern.finditer(shown):
        if match.start() > last:
            yield shown[last : match.start()], False
        yield match[0], True
        last = match.end()
    if last < len(shown):
        yield shown[last:], False
