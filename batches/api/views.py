"""The API's routes of files, uploads, batches and the queue. Each parses, calls one function, and answers."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.files.uploadedfile import TemporaryUploadedFile
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpResponse, HttpResponseBase
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.parsers import FormParser, MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from batches.api import wire
from batches.api.serializers import (
    ENDPOINTS,
    MAX_PART,
    BatchChange,
    BatchCreate,
    BatchSubmit,
    FileCreate,
    PartCreate,
    UploadComplete,
    UploadCreate,
    expiry,
    nested,
)
from batches.export import download
from batches.export.download import FORMATS, JOINS
from batches.files import store
from batches.finish import downloads
from batches.intake import from_table, repair, submit
from batches.intake.tables.requests import Making
from batches.models import Batch, BatchEvent, BatchStatus, File, Purpose, Upload
from batches.queue import entries, forecast, order, pauses, snapshot
from batches.queue.entries import Entry
from models_registry.api.wire import gpu_object, worker_object
from models_registry.models import Worker
from vbs.accounts.models import Project
from vbs.configuration import runtime
from vbs.database.written import Given, Written
from vbs.openai import idempotency, schema
from vbs.openai.authentication import is_operator, project_of
from vbs.openai.checks import checked
from vbs.openai.docs import BODY, ERRORS, PAGING, schema_of
from vbs.openai.errors import InvalidRequest, TooLarge, missing
from vbs.openai.idempotency import IdempotentCreation
from vbs.openai.pagination import check_parameters, choice, page
from vbs.openai.parsers import StrictJSONParser
from vbs.pages.viewer import Viewer

UPLOAD_SECONDS = 3600
LOG_LINES = 10_000
QUEUE_LINES = 100


def uploaded(data: Any) -> Path:
    """The path of an uploaded file, which exists while the HTTP request lasts."""
    assert isinstance(data, TemporaryUploadedFile)
    return Path(data.temporary_file_path())


def find(rows: QuerySet[Any], kind: str, object_id: str) -> Any:
    """The row with this id among those that the project may see. Raises NotFound."""
    row = None if "\0" in object_id else rows.filter(pk=object_id).first()
    if row is None:
        raise missing(kind, object_id)
    return row


class Files(APIView):
    parser_classes = [MultiPartParser, FormParser]

    @extend_schema(
        parameters=[
            idempotency.PARAMETER,
            OpenApiParameter(
                "validate", str, enum=("true", "false"), description="Check each line of a batch file before it is kept"
            ),
        ],
        request={"multipart/form-data": FileCreate},
        responses={200: schema_of(schema.FileObject), **ERRORS},
    )
    def post(self, request: Request) -> Response:
        is_checked = choice(request.query_params, "validate", "false", ("true", "false")) == "true"
        creation = IdempotentCreation(request)
        if before := creation.answer():
            return before
        given = checked(FileCreate(data=nested(request.data, "expires_after")))
        if given["file"].size > settings.VBS_MAX_FILE_MB * 2**20:
            raise TooLarge(
                f"The file has {given['file'].size:,} bytes: at most {settings.VBS_MAX_FILE_MB} MB are allowed "
                "(VBS_MAX_FILE_MB). "
                "Split it.",
                param="file",
            )
        path, name = uploaded(given["file"]), given["file"].name
        if is_checked and given["purpose"] != Purpose.BATCH:
            raise InvalidRequest(
                f"'validate' is for files with purpose 'batch', not '{given['purpose']}': leave it out.",
                param="validate",
            )
        if is_checked:
            store.check_content(path, given["file"].size, given["purpose"])
            repair.check_lines(path)
        file = store.take_in(project_of(request), path, name, given["purpose"])
        expires_at = expiry(given.get("expires_after"))
        return creation.make(lambda: Response(wire.file_object(file.publish(expires_at))))

    @extend_schema(
        parameters=[
            *PAGING,
            OpenApiParameter("purpose", str, description="Only files with this purpose, such as batch or batch_output"),
        ],
        responses={200: schema_of(schema.FileList), **ERRORS},
    )
    def get(self, request: Request) -> Response:
        query = request.query_params
        rows = File.objects.visible(project_of(request))
        if "purpose" in query:
            rows = rows.filter(purpose=choice(query, "purpose", "", tuple(Purpose.values)))
        return Response(page(rows, query, wire.file_object, default=10_000, high=10_000, filters=["purpose"]))


class FileDetail(APIView):
    @extend_schema(responses={200: schema_of(schema.FileObject), **ERRORS})
    def get(self, request: Request, file_id: str) -> Response:
        return Response(wire.file_object(find(File.objects.visible(project_of(request)), "file", file_id)))

    @extend_schema(responses={200: schema_of(schema.Deleted), **ERRORS})
    def delete(self, request: Request, file_id: str) -> Response:
        find(File.objects.visible(project_of(request)), "file", file_id).delete_softly()
        return Response({"id": file_id, "object": "file", "deleted": True})


class FileContent(APIView):
    @extend_schema(
        parameters=[
            OpenApiParameter(
                "Range", str, OpenApiParameter.HEADER, description="Only these bytes, such as bytes=0-1023"
            )
        ],
        responses={
            (200, "application/octet-stream"): bytes,
            (206, "application/octet-stream"): bytes,
            (416, "application/json"): schema_of(schema.ErrorObject),
            **ERRORS,
        },
    )
    def get(self, request: Request, file_id: str) -> HttpResponseBase:
        return downloads.content(request, find(File.objects.visible(project_of(request)), "file", file_id))


class Uploads(APIView):
    @extend_schema(
        parameters=[idempotency.PARAMETER],
        request=UploadCreate,
        responses={200: schema_of(schema.UploadObject), **ERRORS},
    )
    @idempotency.idempotent
    def post(self, request: Request) -> Response:
        given = checked(UploadCreate(data=request.data))
        after = given.pop("expires_after", None)
        upload = Upload.objects.create(
            project=project_of(request),
            file_seconds=after["seconds"] if after else None,
            expires_at=expiry({"seconds": UPLOAD_SECONDS}),
            **given | {"filename": store.label(given["filename"])},
        )
        return Response(wire.upload_object(upload))


def find_upload(request: Request, upload_id: str) -> Upload:
    upload: Upload = find(Upload.objects.filter(project=project_of(request)), "upload", upload_id)
    return upload


class UploadParts(APIView):
    parser_classes = [MultiPartParser]

    @extend_schema(
        parameters=[idempotency.PARAMETER],
        request={"multipart/form-data": PartCreate},
        responses={200: schema_of(schema.PartObject), **ERRORS},
    )
    def post(self, request: Request, upload_id: str) -> Response:
        upload = find_upload(request, upload_id)
        creation = IdempotentCreation(request)
        if before := creation.answer():
            return before
        data = checked(PartCreate(data=request.data))["data"]
        if data.size > MAX_PART:
            raise TooLarge(
                f"The part has {data.size:,} bytes: at most 64 MB are allowed. Send smaller parts.", param="data"
            )
        part = store.add_part(upload, uploaded(data))
        return creation.make(lambda: Response(wire.part_object(part)))  # a part without an answer is not used


class UploadCompletion(APIView):
    @extend_schema(
        parameters=[idempotency.PARAMETER],
        request=UploadComplete,
        responses={200: schema_of(schema.UploadObject), **ERRORS},
    )
    def post(self, request: Request, upload_id: str) -> Response:
        upload = find_upload(request, upload_id)
        creation = IdempotentCreation(request)
        if before := creation.answer():
            return before
        given = checked(UploadComplete(data=request.data))
        file = store.join(upload, given["part_ids"], given.get("md5"))
        return creation.make(lambda: Response(wire.upload_object(store.end(upload, file))))


class UploadCancellation(APIView):
    @extend_schema(request=None, responses={200: schema_of(schema.UploadObject), **ERRORS})
    def post(self, request: Request, upload_id: str) -> Response:
        return Response(wire.upload_object(store.cancel(find_upload(request, upload_id))))


def _taken_in(project: Project, path: Path, name: str, given: dict[str, Any]) -> tuple[File, str]:
    """The input file and its endpoint, of a file of requests or of a table. Takes what is for tables out of `given`."""
    texts = {key: given.pop(key, "") for key in ("prompt", "system", "id_column")}
    parameters, endpoint = given.pop("parameters", None) or {}, given.pop("endpoint", "")
    if from_table.is_one(path, name, has_prompt=bool(texts["prompt"])):
        making = Making(
            endpoint, given["default_model"], texts["prompt"], texts["system"], texts["id_column"], parameters
        )
        return from_table.take_in(project, path, name, making)
    if wrong := next((key for key, one in [*texts.items(), ("parameters", parameters)] if one), None):
        raise InvalidRequest(
            f"'{wrong}' is for tables, and the lines of this file are requests: leave it out.", param=wrong
        )
    return store.take_in(project, path, name, Purpose.BATCH), endpoint or ENDPOINTS[0]


class Batches(APIView):
    parser_classes = [StrictJSONParser, MultiPartParser]

    @extend_schema(
        parameters=[idempotency.PARAMETER],
        request={"application/json": BatchCreate, "multipart/form-data": BatchSubmit},
        responses={200: schema_of(schema.BatchObject), **ERRORS},
    )
    def post(self, request: Request) -> Response:
        creation = IdempotentCreation(request)
        if before := creation.answer():
            return before
        if request.content_type.startswith("multipart/"):
            return self._submit(request, creation)
        return self._made(submit.draft(project_of(request), **checked(BatchCreate(data=request.data))), creation)

    def _submit(self, request: Request, creation: IdempotentCreation) -> Response:
        """Upload and create in one call."""
        form = request.data
        for name in ("metadata", "output_expires_after", "parameters"):
            form = nested(form, name)
        given = checked(BatchSubmit(data=form))
        data = given.pop("file")
        window = given.pop("completion_window", None) or runtime.value("VBS_COMPLETION_WINDOWS")[0]
        given["default_model"] = given.pop("model", "")
        project = project_of(request)
        file, endpoint = _taken_in(project, uploaded(data), data.name, given)
        batch = submit.draft(project, file.pk, endpoint, window, **given)
        batch.input_file = file
        return self._made(batch, creation, file)

    def _made(self, batch: Batch, creation: IdempotentCreation, pending: File | None = None) -> Response:
        """pending: its file, available with it. What may fail comes before the commit, or the client would send
        again."""
        expected = forecast.of_new(batch)

        def create() -> Response:
            if pending:
                pending.publish()
            return Response(wire.batch_object(submit.save(batch), expected=expected))

        return creation.make(create)

    @extend_schema(
        parameters=[
            *PAGING,
            OpenApiParameter("status", str, enum=BatchStatus.values, description="Only batches of this status"),
        ],
        responses={200: schema_of(schema.BatchList), **ERRORS},
    )
    def get(self, request: Request) -> Response:
        query, places = request.query_params, order.positions()
        rows = Batch.objects.visible(project_of(request)).with_holding()
        if "status" in query:
            rows = rows.filter(status=choice(query, "status", "", tuple(BatchStatus.values)))

        def item(row: Batch) -> schema.BatchObject:
            return wire.batch_object(row, places)

        return Response(page(rows, query, item, default=20, high=100, filters=["status"]))


BATCH = Written(
    lambda: Batch.objects.with_holding().filter(project_id=Given("project"), hidden=False, pk=Given("pk"))
)  # what clients poll


def find_batch(request: Request, batch_id: str) -> Batch:
    """The batch with this id, and whether a worker has it, if the project may see it. Raises NotFound."""
    batch = None if "\0" in batch_id else BATCH.first(project=project_of(request).pk, pk=batch_id)
    if batch is None:
        raise missing("batch", batch_id)
    return batch


class BatchDetail(APIView):
    @extend_schema(responses={200: schema_of(schema.BatchObject), **ERRORS})
    def get(self, request: Request, batch_id: str) -> Response:
        return Response(wire.batch_object(find_batch(request, batch_id)))

    @extend_schema(request=BatchChange, responses={200: schema_of(schema.BatchObject), **ERRORS})
    def post(self, request: Request, batch_id: str) -> Response:
        batch = find_batch(request, batch_id)
        given = checked(BatchChange(data=request.data))
        with transaction.atomic():
            if "priority" in given:
                batch.set_priority(given["priority"])
            if "name" in given:
                batch.rename(given["name"])
        snapshot.forget()
        return Response(wire.batch_object(batch))

    @extend_schema(responses={200: schema_of(schema.Deleted), **ERRORS})
    def delete(self, request: Request, batch_id: str) -> Response:
        find_batch(request, batch_id).hide()
        return Response({"id": batch_id, "object": "batch", "deleted": True})


class BatchCancellation(APIView):
    @extend_schema(request=None, responses={200: schema_of(schema.BatchObject), **ERRORS})
    def post(self, request: Request, batch_id: str) -> Response:
        batch = find_batch(request, batch_id)
        batch.request_cancel()
        return Response(wire.batch_object(batch))


class BatchRetry(APIView):
    @extend_schema(
        parameters=[idempotency.PARAMETER], request=None, responses={200: schema_of(schema.BatchObject), **ERRORS}
    )
    @idempotency.idempotent
    def post(self, request: Request, batch_id: str) -> Response:
        return Response(wire.batch_object(find_batch(request, batch_id).retry(), expected=forecast.UNCOUNTED))


class BatchResults(APIView):
    @extend_schema(
        parameters=[
            OpenApiParameter(
                "format",
                str,
                enum=tuple(FORMATS),
                description="jsonl, the default, has the output lines; the others are tables",
            ),
            OpenApiParameter("join", str, enum=JOINS, description="Puts the input's columns beside the answers"),
        ],
        responses={
            (200, BODY): OpenApiResponse(str, "Output lines, those committed so far; with join an object a row"),
            (200, "text/csv"): str,
            (200, FORMATS["xlsx"].content_type): bytes,
            (200, FORMATS["parquet"].content_type): bytes,
            **ERRORS,
        },
    )
    def get(self, request: Request, batch_id: str) -> HttpResponseBase:
        return download.results(request, find_batch(request, batch_id), request.query_params)


class BatchErrorLines(APIView):
    @extend_schema(responses={(200, BODY): OpenApiResponse(str, "Error lines, those committed so far"), **ERRORS})
    def get(self, request: Request, batch_id: str) -> HttpResponseBase:
        return downloads.errors(request, find_batch(request, batch_id))


class BatchLogs(APIView):
    @extend_schema(responses={(200, "text/plain"): str, **ERRORS})
    def get(self, request: Request, batch_id: str) -> HttpResponse:
        batch = find_batch(request, batch_id)
        events = list(BatchEvent.objects.filter(batch=batch).order_by("-id")[:LOG_LINES])
        return HttpResponse(
            "".join(f"{event}\n" for event in reversed(events)), content_type="text/plain; charset=utf-8"
        )


class Queue(APIView):
    @extend_schema(responses={200: schema_of(schema.QueueObject), **ERRORS})
    def get(self, request: Request) -> Response:
        check_parameters(request.query_params)
        found = list(Worker.objects.all())
        queue = entries.entries(QUEUE_LINES)
        viewer = Viewer(frozenset(), frozenset({project_of(request).pk}))
        workers = [worker_object(worker, viewer, is_operator(request)) for worker in found]

        def items(of: Iterable[Entry]) -> list[schema.QueueItem]:
            """The batches among them."""
            mine = project_of(request).pk
            places = ((one.batch, 0 if one.running else one.position or None, one.share) for one in of)
            return [
                wire.queue_item(batch, place, batch.project_id == mine, share)
                for batch, place, share in places
                if batch is not None
            ]

        body: schema.QueueObject = {
            "object": "queue",
            "workers": workers,
            "gpu": [
                gpu_object(one)
                for one, shown in zip(found, workers, strict=True)
                if shown["alive"] and one.cluster == "gpu"
            ],
            "loaded_model": next((one["model"] for one in workers if one["model"] and one["alive"]), None),
            "running": items(queue.running),
            "waiting": items(queue.waiting),
            "waiting_total": queue.waiting_total - queue.operations,
            "validating_total": queue.reading,
            "paused": wire.pause_object(pauses.current()),
        }
        return Response(body)
