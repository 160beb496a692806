"""What commands write where people read it: nothing that strangers sent may steer a terminal."""

import codecs
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from django.core.management.base import OutputWrapper

from vbs.logs import one_line

# Within JSON these are text only between quotes, where an escape means the same.
_STEERING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class JsonLines:
    """Standard output for lines of JSON: byte for byte into a file or a pipe; for a terminal with escapes."""

    def __init__(self, out: OutputWrapper) -> None:
        self._out = out
        self._bytes = None if out.isatty() else getattr(out, "buffer", None)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def write(self, data: bytes) -> int:
        if self._bytes is not None:
            self._bytes.write(data)
        else:
            text = self._decoder.decode(data)
            self._out.write(_STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text), ending="")
        return len(data)


@contextmanager
def reader_may_leave() -> Iterator[None]:
    """`… | head` is no error: end quietly when nobody reads our output any more."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still to be flushed
        sys.exit(141)  # as if by SIGPIPE


def aligned(rows: list[list[str]], right: frozenset[int] = frozenset()) -> str:
    """Rows as a table of plain text, safe to show; the columns in `right` are numbers. The last one is not padded."""
    safe = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*safe, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in safe
    )
