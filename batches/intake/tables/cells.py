"""What all readers of tables share: a row as it stands in the file, the limits, and the error."""

from dataclasses import dataclass
from typing import Any, NamedTuple


class TableError(ValueError):
    """The file cannot be read as a table, or no requests can be made of it. The message says where, why, and what to
    change. param: what is to be changed, as the API calls it."""

    param = "file"

    def __init__(self, message: str, param: str = "") -> None:
        super().__init__(message)
        self.param = param or self.param


class Limits(NamedTuple):
    """row_bytes: the most of one row. table_bytes: the most of all requests that are made of a table. requests: how
    many these may be."""

    row_bytes: int
    table_bytes: int
    requests: int


@dataclass(frozen=True, slots=True)
class Piece:
    """A row as it stands in the file, be it a heading, data or blank.

    number: as a spreadsheet shows it. raw: its text with its line end; of a workbook, a line of CSV. found: its cells,
    or its columns when it is a JSON object; None when `why` says what is wrong with it.
    """

    number: int
    raw: str
    found: list[str] | dict[str, Any] | None
    why: str = ""

    @property
    def is_blank(self) -> bool:
        return not self.why and not any(self.found or ())
