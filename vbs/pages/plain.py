"""Text of other people as pages show it: a sign replaces each character that is invisible or changes the order of
others.

A sign is visible itself, so `visible` leaves its own result unchanged.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

MOST = 20_000  # characters of one text that a page shows

_ASCII = """
NUL SOH STX ETX EOT ENQ ACK BEL BS HT LF VT FF CR SO SI DLE DC1 DC2 DC3 DC4 NAK SYN ETB CAN EM SUB ESC FS GS RS US
"""
_CONTROLS = dict(enumerate(_ASCII.split())) | {0x7F: "DEL"}
_BIDI = {
    0x061C: "ALM", 0x200E: "LRM", 0x200F: "RLM",
    0x202A: "LRE", 0x202B: "RLE", 0x202C: "PDF", 0x202D: "LRO", 0x202E: "RLO",
    0x2066: "LRI", 0x2067: "RLI", 0x2068: "FSI", 0x2069: "PDI",
}  # fmt: skip
_KEPT = "\n\t"
# Beyond control characters: other line ends, the byte order mark, and tags, which no font draws but a model reads.
_HIDDEN = {0x2028: "LS", 0x2029: "PS", 0xFEFF: "BOM"} | {code: f"TAG {code:X}" for code in range(0xE0000, 0xE0080)}


def _signs() -> Iterator[tuple[int, str]]:
    for code in range(0x80, 0xA0):
        yield code, f"⟨{code:X}⟩"
    for code, name in (_CONTROLS | _BIDI | _HIDDEN).items():
        if chr(code) not in _KEPT:
            yield code, f"⟨{name}⟩"
    for code in range(0xD800, 0xE000):  # half a character, which cannot be sent
        yield code, "\N{REPLACEMENT CHARACTER}"


_TABLE = dict(_signs())
_FOUND = re.compile("([" + "".join(re.escape(chr(code)) for code in _TABLE) + "]+)")


@dataclass(frozen=True)
class Stretch:
    """A piece of a text. sign: it replaces what cannot be seen. title: what that is."""

    text: str
    sign: bool = False
    title: str = ""


def visible(text: str) -> str:
    """Keeps newlines and tabs. Every other control character, and whatever overrides the direction, becomes a sign."""
    return text.replace("\r\n", "\n").translate(_TABLE)


def runs(text: str) -> Iterator[Stretch]:
    """The same in pieces, so that a page can tell a sign from a text that looks like one."""
    for place, piece in enumerate(_FOUND.split(text.replace("\r\n", "\n"))):
        if place % 2:
            yield Stretch(piece.translate(_TABLE), True, _title(piece[0]) if len(piece) == 1 else "control characters")
        elif piece:
            yield Stretch(piece)


def _title(sign: str) -> str:
    return unicodedata.name(sign, f"U+{ord(sign):04X}")


@dataclass(frozen=True)
class Clip:
    """The beginning of a text. left: how many characters are not shown. bytes: the size of the whole text in UTF-8."""

    text: str
    left: int
    bytes: int

    @property
    def shown(self) -> str:
        """The text made visible, with a sign for what is left out."""
        return visible(self.text) + ("…" if self.left else "")


def clip(text: str, most: int = MOST) -> Clip:
    return Clip(text[:most], max(0, len(text) - most), len(text.encode(errors="replace")))


def brief(text: str, most: int = 120) -> str:
    """The text made visible, on one line and with at most so many characters; an ellipsis at its end says that there is
    more."""
    line = visible(" ".join(text[: 4 * most].split()))
    return line if len(line) <= most and len(text) <= 4 * most else line[: most - 1].rstrip() + "…"
