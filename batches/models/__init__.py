"""Files, uploads, batches and their requests."""

from batches.models.batch_rows import AT_ONCE, CANDIDATES, OF_A_KIND, BatchQuerySet
from batches.models.batches import MOST_NAME, WORDS, Batch, BatchEvent, LeaseLost
from batches.models.files import (
    PENDING_FOR,
    UPLOAD_PURPOSES,
    File,
    FileFormat,
    FileQuerySet,
    FileStatus,
    Purpose,
    Upload,
    UploadPart,
    UploadStatus,
)
from batches.models.pauses import Pause
from batches.models.requests import (
    COUNTS,
    TABLE,
    Activity,
    BatchRequest,
    RequestState,
    add_failed,
    adding,
    request_id,
)
from batches.models.searching import SearchedRequest, SearchIndex
from batches.models.statuses import CLOSING, PRIORITIES, RUNNABLE, TERMINAL, BatchStatus

__all__ = [
    "AT_ONCE",
    "CANDIDATES",
    "CLOSING",
    "COUNTS",
    "MOST_NAME",
    "OF_A_KIND",
    "PENDING_FOR",
    "PRIORITIES",
    "RUNNABLE",
    "TABLE",
    "TERMINAL",
    "UPLOAD_PURPOSES",
    "WORDS",
    "Activity",
    "Batch",
    "BatchEvent",
    "BatchQuerySet",
    "BatchRequest",
    "BatchStatus",
    "File",
    "FileFormat",
    "FileQuerySet",
    "FileStatus",
    "LeaseLost",
    "Pause",
    "Purpose",
    "RequestState",
    "SearchIndex",
    "SearchedRequest",
    "Upload",
    "UploadPart",
    "UploadStatus",
    "add_failed",
    "adding",
    "request_id",
]
