"""The documents of the repository, as pages, in the order of their index. A document is rendered when somebody first
asks for it, and again when its file changed."""

import posixpath
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings

from vbs.help.markdown import PREFIX, Heading, Rendered, render

INDEX = "docs/README.md"
HIDDEN = ("STATUS", "README")  # of docs/
NAME = re.compile(r"[a-z0-9_-]{1,50}")
PART = re.compile(r"## (.+)")
ITEM = re.compile(r"- \[([^]]+)\]\(([\w./-]+\.md)\)")
MOST_WORDS, MOST_HITS = 8, 30
AROUND = 90  # characters of a snippet on each side of what was found


@dataclass(frozen=True)
class Entry:
    """A document, as the index names it. path: from the repository's folder."""

    name: str
    title: str
    path: str


@dataclass(frozen=True)
class Part:
    """A part of the index. Without entries, it is still to be written."""

    title: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Document:
    name: str
    title: str
    rendered: Rendered


@dataclass(frozen=True)
class Hit:
    """A section that has all of the words. snippet: texts, each with whether it is one of the words."""

    document: Document
    heading: Heading
    snippet: tuple[tuple[str, bool], ...]


def parts() -> list[Part]:
    """The index, then what it does not name; nothing where vbs is installed without documents."""
    try:
        lines = (_folder() / INDEX).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    found: list[tuple[str, list[Entry]]] = []
    for line in lines:
        if part := PART.fullmatch(line):
            found.append((part[1], []))
        elif found and (item := ITEM.match(line)):
            path = posixpath.normpath(posixpath.join(posixpath.dirname(INDEX), item[2]))
            if (_folder() / path).is_file():
                found[-1][1].append(Entry(_name(path), item[1], path))
    there = {entry.path for _, entries in found for entry in entries}
    others = sorted(f"docs/{path.name}" for path in (_folder() / "docs").glob("*.md") if path.stem not in HIDDEN)
    rest = [Entry(_name(path), _name(path), path) for path in others if path not in there]
    found.append(("More", [entry for entry in rest if NAME.fullmatch(entry.name)]))
    return [Part(title, tuple(entries)) for title, entries in found if entries or title != "More"]


def entries() -> list[Entry]:
    return [entry for part in parts() for entry in part.entries]


def documents() -> list[Document]:
    """All documents, in order."""
    return [found for entry in entries() if (found := document(entry.name))]


def document(name: str) -> Document | None:
    """None when there is no document with this name, or it cannot be read."""
    entry = next((one for one in entries() if one.name == name), None)
    if entry is None:
        return None
    path = _folder() / entry.path
    try:
        changed = path.stat().st_mtime_ns
        with _lock:
            kept = _kept.get(path)
        if kept and kept[0] == changed:
            return kept[1]
        source = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    made = Document(name, entry.title, render(source, lambda address: resolve(address, entry.path)))
    with _lock:
        _kept[path] = changed, made
    return made


_lock = threading.Lock()
_kept: dict[Path, tuple[int, Document]] = {}


def _folder() -> Path:
    return Path(settings.BASE_DIR)


def _name(path: str) -> str:
    return "start" if path == "README.md" else posixpath.basename(path).removesuffix(".md").lower()


def resolve(address: str, within: str) -> str | None:
    """The page that a link in this file leads to, or None."""
    path, _, fragment = address.partition("#")
    if ":" in path or path.startswith("/"):
        return None
    fragment = f"#{PREFIX}{fragment}" if fragment else ""
    if not path:
        return fragment or None
    target = posixpath.normpath(posixpath.join(posixpath.dirname(within), path))
    if target in (INDEX, posixpath.dirname(INDEX)):
        return "/help/"
    found = next((entry.name for entry in entries() if entry.path == target), None)
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
