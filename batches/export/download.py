"""The results of a batch as a download, in the format that was asked for, also while the batch runs.

Every format is made in the thread of the download, never in one that answers requests: piece by piece, with few rows in
memory, and with no connection to the database between the pieces.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from django.http import HttpRequest, HttpResponseBase, QueryDict
from rest_framework.request import Request

from batches.export import source as inputs
from batches.export import table, xlsx
from batches.export.lines import csv_lines, jsonl
from batches.export.parquet import parquet
from batches.export.table import Headings, Row
from batches.finish import downloads
from batches.models import Batch
from vbs.http.late_head import LateHead
from vbs.openai.docs import BODY
from vbs.openai.pagination import choice

JOINS = ("input",)
BINARY = ("xlsx", "parquet")  # what no terminal shows


@dataclass(frozen=True)
class Format:
    """write: the bytes, from the columns and the rows."""

    content_type: str
    write: Callable[[Headings, Iterator[list[Row]]], Iterator[bytes]]


FORMATS = {
    "jsonl": Format(BODY, jsonl),
    "csv": Format("text/csv; charset=utf-8", csv_lines),
    "xlsx": Format("application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", xlsx.xlsx),
    "parquet": Format("application/vnd.apache.parquet", parquet),
}
WORDS = (("csv", "CSV"), ("xlsx", "Excel"), ("parquet", "Parquet"), ("jsonl", "JSONL"))  # of the pages' buttons


def results(request: HttpRequest | Request, batch: Batch, query: QueryDict) -> HttpResponseBase:
    """The results as `format` and `join` in the query say: without them the output lines. Raises InvalidRequest and
    NotFound."""
    name = choice(query, "format", "jsonl", tuple(FORMATS))
    joins = "join" in query and choice(query, "join", "", JOINS) == "input"
    if name == "jsonl" and not joins:
        return downloads.output(request, batch)
    if batch.purged_at:
        raise table.expired()
    if name == "xlsx":
        xlsx.check(batch.total)
    if joins:
        inputs.check(batch)
    return LateHead(
        getattr(request, "_request", request),
        written(batch, name, joins),
        content_type=FORMATS[name].content_type,
        headers=downloads.named(filename(batch, name)),
    )


def filename(batch: Batch, ending: str) -> str:
    """After the batch's name, without what some file systems do not take or show otherwise."""
    kept = "".join(one if one.isprintable() and one not in '/\\:*?"<>|' else "_" for one in batch.title)
    return f"{kept.strip(' .') or batch.pk}_results.{ending}"


def written(batch: Batch, name: str, joins: bool) -> Iterator[bytes]:
    """The bytes, some of them none: there the work may be ended."""
    write = FORMATS[name].write
    if not joins or not batch.total:  # its file may have no lines at all
        yield from write(table.headings(()), table.pages(batch, None))
        return
    with inputs.opened(batch) as source:
        given = yield from source.headings()
        yield from write(table.headings(given), table.pages(batch, source))
