"""Texts of other people as cells of a spreadsheet: no formula, and no character that ends or breaks a file."""

import re

_FORMULA = re.compile(r"\s*[=+@-]")  # what a spreadsheet computes; some take no notice of white space before it
_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?")
# Each control character but tabs and line feeds as its picture: ␀ for NUL.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_PICTURES = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"} | {0x7F: 0x2421}


def inert(text: str) -> str:
    """The text of a cell of CSV, behind a quote where a spreadsheet would compute it. A number stays one."""
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def printable(text: str) -> str:
    """Every line end is a line feed: of a carriage return within a cell some readers make a new row."""
    if _CONTROL.search(text) is None:
        return text
    return text.replace("\r\n", "\n").replace("\r", "\n").translate(_PICTURES)
