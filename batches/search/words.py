"""Words: how texts are taken apart for the search, what a query asks for, and where a text has it. Pure.

A word is indexed with the key of its batch's index before it (`7:word`). So PostgreSQL's index has the words of a batch
side by side, and a search reads those of no other batch, also where it looks for beginnings of words. PostgreSQL's own
parser is not asked: it takes `a/b` for a path and `a.b` for a host, and finds neither part.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

MOST_CHARACTERS = 8000  # of a prompt, and of an answer
MOST_WORD = 64  # characters of a word
MOST_PLACES = 255  # of one word in a request; PostgreSQL keeps no more
MOST_QUERY = 200  # characters
SHOWN, BEFORE = 160, 40  # characters that are shown of a text with a hit, and of those before the hit

# Scripts that put no blanks between words: each character is a word, and several are found as a phrase. They are Thai,
# Lao, Burmese, Khmer, kana and Han.
_ALONE = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_ALONE += "\U00020000-\U0003ffff"
_WORD = re.compile(f"[{_ALONE}]|[^\\W_{_ALONE}]+")
_IS_ALONE = re.compile(f"[{_ALONE}]")
_ASKED = re.compile(r'(-?)(?:"([^"]*)"?|(\S+))')


def words(text: str) -> Iterator[str]:
    """The words of a text's beginning, in one form for capitals, small letters and wide letters."""
    text = text[:MOST_CHARACTERS]
    text = (text if text.isascii() else unicodedata.normalize("NFKC", text)).casefold()
    return (found[:MOST_WORD] for found in _WORD.findall(text[:MOST_CHARACTERS]))


def vector(key: int, texts: Iterable[str]) -> str:
    """A tsvector of the texts' words, as PostgreSQL reads it. No phrase goes from one text into the next."""
    places: dict[str, list[int]] = {}
    place = 0
    for text in texts:
        for word in words(text):
            place += 1
            places.setdefault(word, []).append(place)
        place += 1
    return " ".join(f"'{key}:{word}':{','.join(map(str, found[:MOST_PLACES]))}" for word, found in places.items())


# Queries


@dataclass(frozen=True)
class Term:
    """Words that stand side by side. begins: the last one is the beginning of a word. excluded: a request that has them
    is not found."""

    words: tuple[str, ...]
    begins: bool
    excluded: bool


def terms(query: str) -> tuple[Term, ...]:
    """What a query asks for: each word by its beginning, `"a phrase"` as it is written, and `-word` to leave out. What
    has signs within it, such as `a-b`, is a phrase."""
    found = (
        Term(tuple(words(phrase or word)), not phrase, bool(sign))
        for sign, phrase, word in _ASKED.findall(query[:MOST_QUERY])
    )
    return tuple(term for term in found if term.words)


def tsquery(key: int, wanted: Iterable[Term]) -> str:
    """The terms, all of which a request must have, as PostgreSQL reads them."""
    return " & ".join(_operand(key, term) for term in wanted)


def _operand(key: int, term: Term) -> str:
    lexemes = " <-> ".join(f"'{key}:{word}'" for word in term.words) + (":*" if term.begins else "")
    return f"{'!' if term.excluded else ''}({lexemes})"


# Hits


@dataclass(frozen=True)
class Stretch:
    """A piece of a text. hit: the search has found it."""

    text: str
    hit: bool = False


def spelled(wanted: Iterable[Term]) -> re.Pattern[str]:
    """Finds what the terms ask for in a text as somebody wrote it. Some term must not be excluded."""
    return re.compile("|".join(_spelled(term) for term in wanted if not term.excluded), re.IGNORECASE)


def _spelled(term: Term) -> str:
    said = re.escape(term.words[0]) if _is_alone(term.words[0]) else rf"(?<![^\W_]){re.escape(term.words[0])}"
    for before, word in zip(term.words, term.words[1:], strict=False):
        between = r"[\W_]*" if _is_alone(before) or _is_alone(word) else r"[\W_]+"
        said += between + re.escape(word)
    if _is_alone(term.words[-1]):
        return said
    return said + (r"[^\W_]*" if term.begins else r"(?![^\W_])")


def _is_alone(word: str) -> bool:
    return _IS_ALONE.match(word) is not None


def around(text: str, hits: re.Pattern[str]) -> tuple[Stretch, ...]:
    """The part of a text with the first hit, on one line; empty where there is none."""
    line = " ".join(text.split())
    first = hits.search(line)
    if first is None:
        return ()
    start = max(0, first.start() - BEFORE)
    if start:
        start = line.find(" ", start, first.start()) + 1 or start
    shown = line[start : start + SHOWN]
    pieces, at = [Stretch("…")] if start else [], 0
    for hit in hits.finditer(shown):
        pieces += [Stretch(shown[at : hit.start()]), Stretch(hit.group(), True)]
        at = hit.end()
    return (*pieces, Stretch(shown[at:] + ("…" if start + SHOWN < len(line) else "")))
