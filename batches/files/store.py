"""Takes files in, whole or in parts. Their bytes are durable before anybody sees the file."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path, PurePath
from typing import IO

import orjson
from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from batches.files import blobs
from batches.files.kinds import BOM, HEAD, not_utf8, unreadable
from batches.models import PENDING_FOR, File, FileFormat, FileStatus, Purpose, Upload, UploadPart, UploadStatus
from vbs.accounts.models import Project
from vbs.openai import ids
from vbs.openai.errors import Conflict, InvalidRequest

JSONL_PURPOSES = (Purpose.BATCH, Purpose.FINE_TUNE)
TABLES, LINES = (".csv", ".tsv"), (".jsonl", ".ndjson", ".json")  # the endings of names of CSV and JSONL files
LINE_BYTES = 16 * 2**20
FIRST_LINES = 1000  # blank ones that may come before the first


def store(project: Project, path: Path, filename: str, purpose: str, expires_at: datetime | None) -> File:
    """Take a local file in and publish it; the path is gone afterwards. Raises InvalidRequest, OSError."""
    return take_in(project, path, filename, purpose).publish(expires_at)


def take_in(project: Project, path: Path, filename: str, purpose: str) -> File:
    """Like `store`, but the file stays pending: nobody sees it before `publish`. Raises InvalidRequest, OSError."""
    check_content(path, path.stat().st_size, purpose)
    if purpose in JSONL_PURPOSES:
        return keep(project, path, filename, purpose, FileFormat.JSONL)
    with path.open("rb") as file:
        return keep(project, path, filename, purpose, format_of(file.read(HEAD), filename))


def keep(
    project: Project, path: Path, filename: str, purpose: str, format: FileFormat, created_by: User | None = None
) -> File:
    """Keep a local file's bytes as a pending file for somebody who prepares it in the browser. Must not run in a
    transaction: the row is made first, so that the upkeep finds what is left after a crash. Raises OSError."""
    file = File.objects.create(
        project=project,
        filename=label(filename),
        purpose=purpose,
        format=format,
        bytes=path.stat().st_size,
        status=FileStatus.PENDING,
        created_by=created_by,
        expires_at=timezone.now() + PENDING_FOR,
    )
    blobs.put(file.blob, path)
    return file


def format_of(head: bytes, filename: str) -> FileFormat:
    """The format of a file with this beginning and this name. The name alone does not decide."""
    begins, suffix = head.removeprefix(BOM).lstrip(), PurePath(filename).suffix.lower()
    if unreadable(head):
        return FileFormat.OTHER
    if suffix in TABLES:
        return FileFormat.JSONL if begins.startswith(b'{"') else FileFormat.CSV
    if begins.startswith(b"{") or (suffix in LINES and not begins.startswith(b"[")):
        return FileFormat.JSONL
    return FileFormat.OTHER


def label(filename: str) -> str:
    """A file's name as a page can show it and a database can hold it: on one line."""
    shown = "".join(one for one in filename if one.isprintable()).strip()
    return shown[:500] or "unnamed"


def check_content(path: Path, size: int, purpose: str) -> None:
    """Raises InvalidRequest for an empty file, and for a file of requests or examples that is not JSONL."""
    jsonl = purpose in JSONL_PURPOSES
    if size == 0:
        raise InvalidRequest(
            _format("the file is empty") if jsonl else "The file is empty.", param="file", code="invalid_file_format"
        )
    if not jsonl:
        return
    with path.open("rb") as lines:
        if kind := unreadable(lines.read(HEAD)):
            message = _format(f"the file is {kind}; unpack or convert it")
            raise InvalidRequest(message, param="file", code="invalid_file_format")
        lines.seek(0)
        for _ in range(FIRST_LINES):
            line = lines.readline(LINE_BYTES + 1).removeprefix(BOM)
            if line.strip() or not line:
                break
    if len(line) > LINE_BYTES:
        raise InvalidRequest(_format("the first line is longer than 16 MB"), param="file", code="invalid_file_format")
    try:
        if line.strip():
            orjson.loads(line)
    except orjson.JSONDecodeError as error:
        shown = line[:60].decode(errors="replace").strip()
        message = _format(f"the first line is not JSON ({not_utf8(line) or error}): {shown!r}")
        raise InvalidRequest(message, param="file", code="invalid_file_format") from None


def _format(reason: str) -> str:
    return f"Invalid file format: {reason}. The file must be JSONL: one JSON object on each line."


def add_part(upload: Upload, path: Path) -> UploadPart:
    """Keep one part. Raises Conflict when the upload is not open, InvalidRequest when it would get too large."""
    _open(upload)
    size = path.stat().st_size
    have = sum(upload.parts.values_list("bytes", flat=True))
    if have + size > 2 * upload.bytes + 2**20:  # parts may be sent again, but not without end
        raise InvalidRequest(
            f"The parts of this upload have {have + size:,} bytes, but it was announced with {upload.bytes:,}. Begin "
            "another "
            "upload.",
            param="data",
        )
    part = UploadPart.objects.create(upload=upload, bytes=size)
    try:
        blobs.put(part.blob, path)
    except OSError:
        part.delete()  # it would count as sent
        raise
    return part


def complete(upload: Upload, part_ids: Sequence[str], md5: str | None) -> Upload:
    """Join the parts in the given order. Raises InvalidRequest, Conflict, OSError; then the upload stays open.

    Of two calls at the same time both do the work, and the first one to end wins.
    """
    return end(upload, join(upload, part_ids, md5))


def join(upload: Upload, part_ids: Sequence[str], md5: str | None) -> File:
    """The parts as one file, which stays pending until `end`. Must not run in a transaction. Raises what `complete`
    raises."""
    _open(upload)
    parts = {part.pk: part for part in upload.parts.all()}
    for part_id in part_ids:
        if part_id not in parts:
            raise InvalidRequest(
                f"There is no part '{ids.shown(part_id)}' in this upload. Name parts by the ids that sending them "
                "has given.",
                param="part_ids",
            )
    if twice := [one for one, times in Counter(part_ids).items() if times > 1]:
        raise InvalidRequest(f"The part '{twice[0]}' is named twice in 'part_ids'. Name it once.", param="part_ids")
    total = sum(parts[part_id].bytes for part_id in part_ids)
    if total != upload.bytes:
        message = (
            f"The parts have {total:,} bytes together, but the upload was announced with {upload.bytes:,}. Name "
            "every part "
            "of the file, or begin another upload."
        )
        raise InvalidRequest(message, param="part_ids")
    return _joined(upload, [parts[part_id] for part_id in part_ids], md5)


def end(upload: Upload, file: File) -> Upload:
    """Complete the upload with the file of its parts. Raises Conflict when it is not open any more, OSError."""
    with transaction.atomic():
        upload = Upload.objects.select_for_update().select_related("project").get(pk=upload.pk)
        _open(upload)
        expires_at = timezone.now() + timedelta(seconds=upload.file_seconds) if upload.file_seconds else None
        upload.file, upload.status = file.publish(expires_at), UploadStatus.COMPLETED
        upload.save(update_fields=["file", "status"])
    return upload


def _joined(upload: Upload, parts: Sequence[UploadPart], md5: str | None) -> File:
    """The parts as one file, which is pending."""
    digest = hashlib.md5(usedforsecurity=False)
    with blobs.scratch() as whole:
        for part in parts:
            with _bytes(part) as piece:
                while data := piece.read(blobs.PIECE):
                    digest.update(data)
                    whole.write(data)
        whole.flush()
        if md5 and md5.lower() != digest.hexdigest():
            message = (
                f"The md5 of the parts is {digest.hexdigest()}, not '{md5}'. Check the order of 'part_ids', or send "
                "the file "
                "again."
            )
            raise InvalidRequest(message, param="md5")
        return take_in(upload.project, Path(whole.name), upload.filename, upload.purpose)


def _bytes(part: UploadPart) -> IO[bytes]:
    try:
        return blobs.open_blob(part.blob)
    except FileNotFoundError:  # another call was first, and the sweep has deleted the parts
        raise Conflict("This upload is not open any more: its parts are gone. Begin another one.") from None


def cancel(upload: Upload) -> Upload:
    """Raises Conflict when the upload is complete."""
    with transaction.atomic():
        upload = Upload.objects.select_for_update().get(pk=upload.pk)
        if upload.status == UploadStatus.PENDING:
            upload.status = UploadStatus.CANCELLED
            upload.save(update_fields=["status"])
        elif upload.status != UploadStatus.CANCELLED:
            raise Conflict(f"Cannot cancel an upload with status '{upload.status}'.")
    return upload


def _open(upload: Upload) -> None:
    if upload.status == UploadStatus.PENDING and upload.expires_at > timezone.now():
        return
    status = UploadStatus.EXPIRED.value if upload.status == UploadStatus.PENDING else upload.status
    raise Conflict(f"This upload is not open any more: its status is '{status}'. Begin another one.")
