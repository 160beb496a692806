"""The encodings of tables as text: which one a file has, and its lines as text."""

import codecs
import io
import re
from collections.abc import Iterator
from typing import IO

from batches.files.kinds import BOM, HEAD
from batches.intake.tables.cells import TableError

# Those that can be chosen, with their names for people.
NAMES = {
    "utf-8": "UTF-8",
    "utf-16-le": "UTF-16 (little endian)",
    "utf-16-be": "UTF-16 (big endian)",
    "cp1252": "Windows-1252 (Western Europe)",
    "cp1250": "Windows-1250 (Central Europe)",
    "cp1251": "Windows-1251 (Cyrillic)",
    "cp1253": "Windows-1253 (Greek)",
    "cp1254": "Windows-1254 (Turkish)",
    "cp1255": "Windows-1255 (Hebrew)",
    "cp1256": "Windows-1256 (Arabic)",
    "cp1257": "Windows-1257 (Baltic)",
    "cp1258": "Windows-1258 (Vietnamese)",
    "cp874": "Windows-874 (Thai)",
    "cp932": "Shift JIS (Japanese)",
    "gb18030": "GB 18030 (Chinese, simplified)",
    "big5hkscs": "Big5 (Chinese, traditional)",
    "cp949": "Windows-949 (Korean)",
    "koi8_r": "KOI8-R (Cyrillic)",
    "mac_roman": "Mac Roman",
    "cp850": "DOS 850 (Western Europe)",
}
# Those among which a file that is neither UTF-8 nor UTF-16 is guessed, the likelier ones first: a short text looks
# well in several. The others are rare, and look like these.
_GUESSED = ("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp932", "gb18030", "big5hkscs", "cp949")
_SAMPLE = 32 * 1024  # bytes of lines that are not ASCII, of which the encoding is guessed
_LOOK = 256 * 1024
_ESCAPED = re.compile("[\ud800-\udfff]")  # what the error handler of Python makes of bytes that it cannot decode


def guess(file: IO[bytes]) -> str:
    """The encoding of a whole file. A file with a few lines that are not UTF-8, among others that are, is UTF-8."""
    file.seek(0)
    head = file.read(HEAD)
    if head.startswith(BOM):
        return "utf-8"
    if head.startswith(codecs.BOM_UTF16_LE):
        return "utf-16-le"
    if head.startswith(codecs.BOM_UTF16_BE):
        return "utf-16-be"
    if b"\0" in head:
        return "utf-16-le" if head[1::2].count(0) >= head[0::2].count(0) else "utf-16-be"
    return "utf-8" if _is_utf8(file) else _of_sample(file)


def _is_utf8(file: IO[bytes]) -> bool:
    file.seek(0)
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        while data := file.read(_LOOK):
            decoder.decode(data)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _of_sample(file: IO[bytes]) -> str:
    """The encoding that the first lines with more than ASCII suggest."""
    file.seek(0)
    sample, balance = b"", 0  # of lines that are UTF-8, over those that are not
    while len(sample) < _SAMPLE and (line := file.readline(_SAMPLE)):
        if line.isascii():
            continue
        sample += line
        try:
            line.decode()
            balance += 1
        except UnicodeDecodeError:
            balance -= 1
    return "utf-8" if balance > 0 else _legacy(sample)


def _legacy(sample: bytes) -> str:
    from charset_normalizer import from_bytes

    found = from_bytes(sample, cp_isolation=list(_GUESSED), enable_fallback=False)
    if (best := found.best()) is None:
        return _GUESSED[0]
    as_good = [one for one in found if one.chaos <= best.chaos and one.coherence >= best.coherence]
    names = {name for one in as_good for name in one.could_be_from_charset}
    return next(name for name in _GUESSED if name in names)


class Lines:
    """The lines of a file as text, with their ends; `number` is that of the last one. Raises TableError.

    newline: as of `open`: with "\\n" only that ends a line.
    """

    def __init__(self, file: IO[bytes], encoding: str, row_bytes: int, newline: str = "\n") -> None:
        self.file, self.encoding, self.row_bytes, self.newline = file, encoding, row_bytes, newline
        self.number, self._taken, self._size = 0, list[str](), 0

    def __iter__(self) -> Iterator[str]:
        self.file.seek(0)
        text = io.TextIOWrapper(self.file, self.encoding, errors="surrogateescape", newline=self.newline)
        try:
            while line := self._next(text):
                self.number += 1
                if self.number == 1:
                    line = line.removeprefix("\ufeff")
                self._check(line)
                self._taken.append(line)
                yield line
        finally:
            if not text.closed:
                text.detach()  # or it would close the file

    def _next(self, text: io.TextIOWrapper) -> str:
        try:
            return text.readline(self.row_bytes + 1)
        except UnicodeDecodeError:
            raise TableError(f"Line {self.number + 1} or one soon after {self._no_text()}") from None

    def _check(self, line: str) -> None:
        self._size += len(line)
        if self._size > self.row_bytes:
            begun = self.number - len(self._taken)
            raise TableError(
                f"The row that begins on line {begun} has more than {self.row_bytes // 2**20} MB, which is the limit "
                'of one request. Is a double quote (") opened there that is never closed?'
            )
        if not line.isascii() and (wrong := _ESCAPED.search(line)):
            raise TableError(f"Line {self.number} {self._no_text(f' (its character {wrong.start() + 1})')}")

    def _no_text(self, where: str = "") -> str:
        return (
            f"is not {NAMES.get(self.encoding, self.encoding)}{where}: choose another encoding, or save the file as "
            "“CSV UTF-8”."
        )

    def taken(self) -> str:
        """The text of the lines since the last call."""
        text, self._taken, self._size = "".join(self._taken), [], 0
        return text
