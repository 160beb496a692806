"""Results as a Parquet file, sent while it is written: a group of rows at a time. The input's columns are texts."""

import io
from collections.abc import Iterator
from typing import Any

from batches.export.table import OWN, Headings, Row, text_of

GROUP_ROWS = 10_000
GROUP_CHARACTERS = 8 * 2**20


class Sink(io.RawIOBase):
    """A file for the writer; what is written is taken out of it."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def taken(self) -> bytes:
        found, self._pieces = b"".join(self._pieces), []
        return found


def parquet(headings: Headings, pages: Iterator[list[Row]]) -> Iterator[bytes]:
    """Yields nothing while a group grows, so that it can be ended then."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = dict(zip(headings.own, OWN.values(), strict=True))
    schema = pa.schema([(name, pa.int64() if numbers.get(name) else pa.string()) for name in headings.all])

    def table(rows: list[list[Any]]) -> Any:
        columns = zip(zip(*rows, strict=True), schema, strict=True)
        return pa.Table.from_arrays([pa.array(column, field.type) for column, field in columns], schema=schema)

    sink, group, characters = Sink(), [], 0
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        for page in pages:
            for row in page:
                cells = [row.own[0], *(text_of(row.given.get(name)) for name in headings.given), *row.own[1:]]
                group.append(cells)
                characters += sum(len(cell) for cell in cells if isinstance(cell, str))
            if len(group) >= GROUP_ROWS or characters >= GROUP_CHARACTERS:
                writer.write_table(table(group))
                group, characters = [], 0
            yield sink.taken()
        if group:
            writer.write_table(table(group))
    yield sink.taken()
