"""Validates a batch: reads its whole input file, writes a row for each request, and queues the batch, or fails it.

All of this is one transaction: if the worker is killed, nothing has happened, and the next worker starts again.
"""

import logging
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from django.conf import settings
from django.db import connection, transaction

from batches.files import blobs
from batches.intake.parameters import Serving
from batches.intake.validate import GoodLine, LineError, Report, Rules, read
from batches.models import Batch, BatchRequest, BatchStatus, Purpose, RequestState
from models_registry.catalog import aliases, tool_calls
from models_registry.engine import defaults
from models_registry.engine.spec import EngineKind
from models_registry.models import Model
from vbs.configuration import runtime
from vbs.database import advisory, timeouts
from vbs.openai import lengths

log = logging.getLogger(__name__)

NO_SUCH_MODEL = "no model of this name is registered (GET /v1/models has those that are)"
COLUMNS = ("batch_id", "line", '"offset"', "length", "custom_id", "model_index", "prefix", "state", "crashes")
TYPES = ("text", "int4", "int8", "int4", "text", "int2", "uuid", "int2", "int2")
UNAVAILABLE = "input_file_unavailable"
LEAST_SECONDS = 60  # for the smallest file


class BatchRefused(Exception):
    def __init__(self, errors: list[LineError]) -> None:
        super().__init__(f"{len(errors)} errors")
        self.errors = errors


def most_seconds() -> int:
    """How many seconds a validation may take: a second for each MB of the largest file."""
    return LEAST_SECONDS + settings.VBS_MAX_BATCH_MB


def validate(batch_id: str) -> Batch | None:
    """Validate the batch. Returns it if that was done now; None when it was validated before, has ended, or is being
    validated by another worker. It is idempotent."""
    batch: Batch | None = None
    try:
        with transaction.atomic():
            if not advisory.try_lock(batch_id, 1, most_seconds()):
                return None
            batch = Batch.objects.select_related("input_file", "retry_of").filter(pk=batch_id).first()
            if batch is None or batch.status != BatchStatus.VALIDATING or batch.validated_at:
                return None
            report = Report()
            with timeouts.longer(most_seconds()):  # it holds no row that others need
                total, names = _copy_failed(batch) if batch.retry_of else _take_in(batch, report)
            if not batch.mark_validated(names, total, _unlimited(batch, total, report)):
                raise BatchRefused([])  # cancelled meanwhile: its rows go with the transaction
            for words in remarks(report, batch.endpoint):
                batch.note(words, "warning")
    except BatchRefused as refused:
        if batch and refused.errors:
            batch.fail([dict(error) for error in refused.errors])
        return None
    return batch


def _unlimited(batch: Batch, total: int, report: Report) -> int:
    """How many requests set no limit to their answers. A retry does not read the lines again: it has the share of the
    batch before."""
    if before := batch.retry_of:
        return math.ceil(before.unlimited * total / max(before.total, 1))
    return report.unlimited.count if report.unlimited else 0


def _take_in(batch: Batch, report: Report) -> tuple[int, list[str]]:
    """Write a row for each line of the file. Returns how many there are, and the models that they name. Raises
    BatchRefused."""
    file = batch.input_file
    if file is None or file.purpose != Purpose.BATCH or file.project_id != batch.project_id:
        message = f"Cannot find file '{batch.input_file_id_given}', or its purpose is not 'batch'."
        raise BatchRefused([{"code": "invalid_request", "line": None, "message": message, "param": "file_id"}])
    if file.bytes > settings.VBS_MAX_BATCH_MB * 2**20:
        message = f"The file has {file.bytes:,} bytes; at most {settings.VBS_MAX_BATCH_MB} MB are allowed in one batch."
        raise BatchRefused([{"code": "file_too_large", "line": None, "message": message, "param": "file_id"}])
    try:
        with blobs.local(file.blob) as path:
            if (size := path.stat().st_size) != file.bytes:
                raise BatchRefused(
                    [lost(batch, f"has {size:,} bytes in the storage, where {file.bytes:,} were taken in")]
                )
            return _read(batch, path, report)
    except blobs.BlobGone:
        raise BatchRefused([lost(batch, "is not in the storage any more")]) from None


def named(batch: Batch) -> str:
    """The input file in words: its name, and its id."""
    file = batch.input_file
    return f"{clipped(file.filename)!r} ({file.pk})" if file else repr(clipped(batch.input_file_id_given))


def lost(batch: Batch, how: str) -> LineError:
    """The error of a batch whose input file is missing or changed."""
    message = f"The input file {named(batch)} {how}. Upload it again, and create a batch of it."
    if batch.in_progress_at:
        message = (
            f"The input file {named(batch)} {how}. What was answered is kept; upload the file again, and create a "
            "batch of the lines that are in the error file."
        )
    return {"code": UNAVAILABLE, "line": None, "message": message, "param": "file_id"}


def _read(batch: Batch, path: Path, report: Report) -> tuple[int, list[str]]:
    rules = rules_of(batch.endpoint, batch.default_model)
    names: dict[str, int] = {}
    total = 0
    table = BatchRequest._meta.db_table
    statement = f"COPY {table} ({', '.join(COLUMNS)}) FROM STDIN (FORMAT BINARY)"
    with (
        connection.wrap_database_errors,
        connection.cursor() as cursor,
        path.open("rb") as lines,
        cursor.copy(statement) as copy,
    ):
        copy.set_types(TYPES)
        for line in read(lines, rules, report):
            if report.count:
                continue  # it will not run: only look for more errors
            copy.write_row(_row(batch.pk, line, names.setdefault(line.model, len(names))))
            total += 1
    if report.count:
        raise BatchRefused(report.all())
    return total, list(names)


def rules_of(endpoint: str, default_model: str) -> Rules:
    """The rules for a batch of this endpoint, with the models that are registered now."""
    return Rules(
        endpoint=endpoint,
        refuse_model=partial(model_refusal, aliases.tasks(), endpoint),
        max_requests=runtime.value("VBS_MAX_BATCH_REQUESTS"),
        max_line_bytes=settings.VBS_MAX_LINE_MB * 2**20,
        default_model=default_model,
        serving=partial(_serving, aliases.models()),  # read now: while rows are copied, the connection is busy
    )


def _serving(models: dict[str, Model], name: str) -> Serving:
    model = models.get(name)
    if model is None:  # removed this instant
        return Serving()
    host = model.base or model
    by_guidance = host.kind == EngineKind.VLLM and defaults.backend(host.engine_args, host.source) == "guidance"
    return Serving(host.kind == EngineKind.REMOTE, tool_calls.are_read(model), by_guidance)


def remarks(report: Report, endpoint: str) -> Iterator[str]:
    """Sentences about things that are no errors, but may not be intended."""
    for name, found in report.ignored.items():
        words = repr(clipped(name)) if name else "others"
        yield (
            f"vLLM does not know some parameters, and ignores them: {words} in {found.count:,} requests, first on line "
            f"{found.line:,}. A remote server gets them all the same."
        )
    for name, found in report.refused.items():
        yield (
            f"The engine will refuse {found.count:,} requests, the first on line {found.line:,}, for the value of "
            f"'{name}': {found.words}. They fail alone."
        )
    if unlimited := report.unlimited:
        names = lengths.LENGTHS[endpoint][0]
        most = runtime.value("VBS_DEFAULT_MAX_TOKENS")
        say = f"{unlimited.count:,} requests, the first on line {unlimited.line:,}, have no {' or '.join(names)}: "
        if most:
            yield f"{say}their answers have at most {most:,} tokens (VBS_DEFAULT_MAX_TOKENS)."
        else:
            yield (
                f"{say}their answers may run to the end of the model's context, and hold up the queue as long. "
                "Set a limit in the requests, or VBS_DEFAULT_MAX_TOKENS for all that have none."
            )


def _row(batch_id: str, line: GoodLine, model_index: int) -> tuple[object, ...]:
    place = (line.number, line.offset, line.length)
    return (batch_id, *place, line.custom_id, model_index, line.prefix, RequestState.PENDING.value, 0)


def model_refusal(tasks: dict[str, str], endpoint: str, name: str) -> tuple[str, str] | None:
    """Why this model cannot be used at this endpoint, as code and message; None when it can."""
    task = tasks.get(name)
    if task is None:
        return "model_not_found", f"The model '{clipped(name)}' is not supported: {NO_SUCH_MODEL}."
    why = aliases.unsupported(name, task, endpoint)
    return ("invalid_request", why) if why else None


def clipped(name: str) -> str:
    return name if len(name) <= 100 else name[:100] + "…"


def _copy_failed(batch: Batch) -> tuple[int, list[str]]:
    """Write the rows of a retry: the requests of the batch before that have no good answer."""
    before = batch.retry_of
    assert before is not None
    tasks = aliases.tasks()
    for name in before.model_names:
        if found := model_refusal(tasks, batch.endpoint, name):
            raise BatchRefused([{"code": found[0], "line": None, "message": found[1], "param": "body.model"}])
    table = BatchRequest._meta.db_table
    kept = ", ".join(("line", '"offset"', "length", "custom_id", "model_index", "prefix"))
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {table} (batch_id, {kept}, state, crashes) SELECT %s, {kept}, 0, 0 FROM {table} "  # noqa: S608
            "WHERE batch_id = %s AND state = ANY(%s)",
            [batch.pk, before.pk, [state.value for state in RequestState.retryable()]],
        )
        return cursor.rowcount, before.model_names
