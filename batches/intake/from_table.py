"""Takes a table in as the input file of a batch, in one step, as the API does."""

from dataclasses import replace
from pathlib import Path, PurePath

from batches.files import blobs, store
from batches.intake.repair import BadLines, endpoint_of_table, limits, named
from batches.intake.tables.cells import TableError
from batches.intake.tables.reading import CSV, ENDINGS, REQUESTS, XLSX, format_of, guess
from batches.intake.tables.requests import Making, make
from batches.intake.tables.rows import NO_ROWS, headings, rows
from batches.intake.validate import Report
from batches.models import File, FileFormat, Purpose
from vbs.accounts.models import Project
from vbs.openai.errors import InvalidRequest


def is_one(path: Path, filename: str, has_prompt: bool) -> bool:
    """Whether an uploaded file is a table: by its content and its name, or because there is a prompt for its rows.
    Raises InvalidRequest when it should be one and is none: it has such a name, or there is a prompt."""
    has_ending = PurePath(filename).suffix.lower() in ENDINGS
    with path.open("rb") as file:
        try:
            found = format_of(file, filename)
        except TableError as error:
            if has_prompt or has_ending:
                raise InvalidRequest(str(error), param="file", code="invalid_file_format") from None
            return False  # the check of files of requests says what is wrong with it
    if has_prompt and found == REQUESTS:
        raise InvalidRequest(
            "The lines of the file are requests already: leave 'prompt' out, or send a table (CSV, XLSX, or JSONL with "
            "one object a row).",
            param="prompt",
        )
    return has_prompt or found == XLSX or (found == CSV and has_ending)


def take_in(project: Project, path: Path, filename: str, making: Making) -> tuple[File, str]:
    """The pending input file with a request for each row, and its endpoint: where `making` names none, the one that
    suits the model or the columns. Raises InvalidRequest, BadLines when a row has a fault, OSError."""
    report = Report()
    with path.open("rb") as source, blobs.scratch() as target:
        try:
            reading = guess(source, filename, limits())
            names = headings(source, reading, limits())
            endpoint = making.endpoint or endpoint_of_table(names, making.model, making.template)
            making = replace(making, endpoint=endpoint)
            making.check(names)
            count = make(rows(source, reading, limits()), making, target, report, limits())
        except TableError as error:
            raise InvalidRequest(str(error), param=error.param, code="invalid_table") from None
        if count > (most := limits().requests):
            message = f"The table has more than {most:,} rows, which is the limit of one batch. Split it."
            raise InvalidRequest(message, param="file", code="too_many_requests")
        if report.count:
            raise BadLines(report.all(), "row")
        if not target.tell():
            raise InvalidRequest(NO_ROWS, param="file", code="empty_file")
        target.flush()
        name = named(store.label(filename), FileFormat.JSONL)
        return store.keep(project, Path(target.name), name, Purpose.BATCH, FileFormat.JSONL), endpoint
