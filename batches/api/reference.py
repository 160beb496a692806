"""What the reference at /docs says of files, uploads, batches and the queue."""

from typing import Any

from batches.api import samples
from vbs.openai.docs import BODY, Document, Operation, describe
from vbs.openai.introduction import BATCHES, FILES, QUEUE, UPLOADS

FILE, UPLOAD, BATCH = {"file_id": samples.INPUT}, {"upload_id": samples.UPLOAD_ID}, {"batch_id": samples.BATCH_ID}

OPERATIONS = (
    Operation(
        "POST /v1/files",
        FILES,
        "Upload a file",
        "An input file has a request on each line: `custom_id`, `method`, `url` and `body`. With `validate=true` "
        "each line is "
        "checked at once: where some are wrong, the answer is 400 with all of them in `error.errors`, and nothing is "
        "kept.",
        form={"file": "@examples/demo_batch_10.jsonl", "purpose": "batch"},
        answer=samples.FILE,
    ),
    Operation(
        "GET /v1/files",
        FILES,
        "List files",
        "The files of the key's project, those that batches have written among them.",
        given={"purpose": "batch", "limit": 20},
        answer=samples.listed(samples.FILE),
    ),
    Operation("GET /v1/files/{file_id}", FILES, "Show a file", given=FILE, answer=samples.FILE),
    Operation(
        "DELETE /v1/files/{file_id}",
        FILES,
        "Delete a file",
        "A batch that needs the file keeps what it has read of it; what it has not read yet fails.",
        given=FILE,
        answer={"id": samples.INPUT, "object": "file", "deleted": True},
    ),
    Operation(
        "GET /v1/files/{file_id}/content",
        FILES,
        "Download a file",
        "The bytes as they were sent, or with `Range` a part of them (206). The example shows the first line.",
        given=FILE,
        texts={"application/octet-stream": samples.FIRST_LINE},
    ),
    Operation(
        "POST /v1/uploads",
        UPLOADS,
        "Begin an upload",
        "Say how long the file will be, then send its parts. An upload ends after an hour.",
        sent={"filename": "demo_batch_10.jsonl", "purpose": "batch", "bytes": 2230, "mime_type": "application/jsonl"},
        answer=samples.UPLOAD,
    ),
    Operation(
        "POST /v1/uploads/{upload_id}/parts",
        UPLOADS,
        "Send a part",
        "A part has at most 64 MB. Parts may be sent at the same time, and in any order.",
        given=UPLOAD,
        form={"data": "@examples/demo_batch_10.jsonl"},
        answer={
            "id": samples.PART_ID,
            "object": "upload.part",
            "created_at": 1795852808,
            "upload_id": samples.UPLOAD_ID,
        },
    ),
    Operation(
        "POST /v1/uploads/{upload_id}/complete",
        UPLOADS,
        "Complete an upload",
        "`part_ids` says in which order the parts stand in the file. The answer has the file in `file`.",
        given=UPLOAD,
        sent={"part_ids": [samples.PART_ID]},
        answer=samples.UPLOAD | {"status": "completed", "file": samples.FILE | {"id": samples.JOINED}},
    ),
    Operation(
        "POST /v1/uploads/{upload_id}/cancel",
        UPLOADS,
        "Cancel an upload",
        "Its parts are deleted. A completed upload cannot be cancelled (409).",
        given=UPLOAD,
        answer=samples.UPLOAD | {"status": "cancelled"},
    ),
    Operation(
        "POST /v1/batches",
        BATCHES,
        "Create a batch",
        "As JSON, of a file that was uploaded before. As a form, it uploads and creates in one call: `file` is a "
        "file of requests, "
        "or a table (CSV, TSV, XLSX, or JSONL with a row on each line), of which `prompt` makes a request for each "
        "row. "
        "The batch is then read, waits in the queue and runs; ask for it again to follow it.",
        sent={
            "input_file_id": samples.INPUT,
            "endpoint": samples.CHAT,
            "completion_window": "24h",
            "metadata": {"team": "support"},
        },
        form={
            "file": "@examples/reviews.csv",
            "model": samples.MODEL,
            "prompt": "Summarise: {review}",
            "id_column": "id",
            "parameters": '{"max_tokens": 60}',
        },
        answer=samples.WAITING,
    ),
    Operation(
        "GET /v1/batches",
        BATCHES,
        "List batches",
        "The batches of the key's project; with `status` those of one status.",
        given={"status": "completed", "limit": 20},
        answer=samples.listed(samples.DONE),
    ),
    Operation(
        "GET /v1/batches/{batch_id}",
        BATCHES,
        "Show a batch",
        "Ask again until `status` is `completed`, `failed`, `expired` or `cancelled`. The answers are in the file "
        "`output_file_id`, those that failed in `error_file_id`.",
        given=BATCH,
        answer=samples.DONE,
    ),
    Operation(
        "POST /v1/batches/{batch_id}",
        BATCHES,
        "Change a batch",
        "Gives it another `name`, at any time, or another `priority`, until it has ended (409). A higher priority "
        "goes first, "
        "also while the batch runs.",
        given=BATCH,
        sent={"name": "demo_batch_10", "priority": 10},
        answer=samples.RUNNING,
    ),
    Operation(
        "DELETE /v1/batches/{batch_id}",
        BATCHES,
        "Delete a batch",
        "Cancels the batch if it has not ended, and hides it from lists and pages. Its files stay.",
        given=BATCH,
        answer={"id": samples.BATCH_ID, "object": "batch", "deleted": True},
    ),
    Operation(
        "POST /v1/batches/{batch_id}/cancel",
        BATCHES,
        "Cancel a batch",
        "What is finished is kept and written to the output file; every other request is in the error file.",
        given=BATCH,
        answer=samples.CANCELLING,
    ),
    Operation(
        "POST /v1/batches/{batch_id}/retry",
        BATCHES,
        "Retry what has no good answer",
        "Makes a new batch of the requests that failed or were not run. The first batch stays as it is.",
        given=BATCH,
        answer=samples.WAITING
        | {"id": samples.AGAIN, "created_at": 1795852870, "expires_at": 1795939270, "metadata": {"team": "support"}},
    ),
    Operation(
        "GET /v1/batches/{batch_id}/results",
        BATCHES,
        "Download the results",
        "The output lines that are committed so far, also while the batch runs. As a table (`csv`, `xlsx`, "
        "`parquet`), with a row "
        "for each request that has ended; with `join=input` the input's columns stand beside the answers.",
        given=BATCH | {"format": "csv", "join": "input"},
        texts={BODY: samples.OUTPUT_LINE, "text/csv": samples.CSV},
    ),
    Operation(
        "GET /v1/batches/{batch_id}/errors",
        BATCHES,
        "Download the errors",
        "The lines of the error file that are committed so far, also while the batch runs.",
        given=BATCH,
        texts={BODY: samples.ERROR_LINE},
    ),
    Operation(
        "GET /v1/batches/{batch_id}/logs",
        BATCHES,
        "Show a batch's log",
        "What has happened to the batch, a line for each event.",
        given=BATCH,
        texts={"text/plain": "2026-11-28 08:00:15 INFO Created for /v1/chat/completions with priority 0.\n"},
    ),
    Operation(
        "GET /v1/queue",
        QUEUE,
        "Show the queue",
        "What the workers do, what runs, and what waits, in the order in which it will run. Of other projects' "
        "batches only sizes "
        "are told.",
        answer=samples.QUEUE,
    ),
)


def hook(result: Document, **given: Any) -> Document:
    """A hook of drf-spectacular."""
    return describe(result, OPERATIONS)
