"""The bytes of files: writes them durably to the storage, and reads them in pieces. Knows neither projects nor
batches."""

import errno
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NoReturn

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.files import File as DjangoFile
from django.core.files.storage import FileSystemStorage, default_storage

PIECE = 256 * 1024
PARTS = 2**20


class BlobGone(Exception):
    """The storage works, but does not have these bytes."""


def troubles() -> tuple[type[Exception], ...]:
    """The exceptions of the storage while it cannot be reached or is full."""
    if folder() is not None:
        return (OSError,)
    from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]

    return OSError, BotoCoreError, ClientError


def folder() -> Path | None:
    """The storage's folder on this machine, or None for a remote storage."""
    return Path(default_storage.location) if isinstance(default_storage, FileSystemStorage) else None


@contextmanager
def scratch() -> Iterator[IO[bytes]]:
    """A temporary file on the storage's disk. It is deleted after the block, unless `put` took it in."""
    settings.TMP_DIR.mkdir(parents=True, exist_ok=True)
    file = tempfile.NamedTemporaryFile(dir=settings.TMP_DIR, prefix="vbs-", delete=False)  # noqa: SIM115
    try:
        yield file
    finally:
        file.close()
        Path(file.name).unlink(missing_ok=True)


def put(blob: str, source: Path) -> None:
    """Take a local file in under this name. When this returns, the bytes survive a power failure.

    In a folder it is a rename, so there is never half a file. Raises OSError, for example when no space is left.
    """
    home = folder()
    if home is None:
        with source.open("rb") as file:
            default_storage.save(blob, DjangoFile(file))
        return
    target = home / blob
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as file:
        os.fsync(file.fileno())
    source.chmod(0o600)
    source.replace(target)
    _sync_folder(target.parent)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(blob: str) -> None:
    """Delete the bytes. They may be gone already."""
    default_storage.delete(blob)


def open_blob(blob: str) -> IO[bytes]:
    """Open the bytes for reading; the file can seek. Raises FileNotFoundError."""
    file: Any = default_storage.open(blob, "rb")
    return file


def part(blob: str, start: int, length: int) -> bytes:
    """At most `length` bytes from `start`; fewer at the end of the file. Raises OSError or the storage's exceptions."""
    if length <= 0:
        return b""
    with open_blob(blob) as file:
        if (distant := getattr(file, "obj", None)) is not None:  # a bucket's, which `read` would fetch whole
            body: bytes = distant.get(Range=f"bytes={start}-{start + length - 1}")["Body"].read()
            return body
        file.seek(start)
        return file.read(length)


async def parts(blob: str, start: int, length: int) -> AsyncIterator[bytes]:
    """The same, a piece at a time. Nothing else of a remote file is downloaded."""
    for at in range(start, start + length, PARTS):
        yield await sync_to_async(part)(blob, at, min(PARTS, start + length - at))


@contextmanager
def local(blob: str) -> Iterator[Path]:
    """The bytes as a file of this machine. A remote file is copied for the time of the block.

    Raises BlobGone or one of `troubles`.
    """
    if (home := folder()) is not None:
        if not (home / blob).is_file():
            _miss(blob)
        yield home / blob
        return
    with scratch() as copy:
        try:
            distant = open_blob(blob)
        except FileNotFoundError:
            _miss(blob)
        with distant as file:
            while piece := file.read(PIECE):
                copy.write(piece)
        copy.flush()
        yield Path(copy.name)


@contextmanager
def opened(blob: str) -> Iterator[int]:
    """The same as a descriptor, which stays valid when the file is removed. Raises the same."""
    with local(blob) as path:
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:  # since the check before
            _miss(blob)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def is_gone(blob: str) -> bool:
    """Whether the storage works, but does not have these bytes. Raises one of `troubles`."""
    if default_storage.exists(blob):
        return False
    try:
        _miss(blob)
    except BlobGone:
        return True


def _miss(blob: str) -> NoReturn:
    """The exception for bytes that were not found. When a disk is not mounted or a bucket is wrong, no file is found,
    and that may be temporary."""
    storage: Any = default_storage
    if (home := folder()) is None:
        storage.connection.meta.client.head_bucket(Bucket=storage.bucket_name)
    elif not home.is_dir() or not any(home.iterdir()):
        raise FileNotFoundError(errno.ENOENT, "the storage's folder is empty; its disk may not be mounted", str(home))
    raise BlobGone(blob)


async def stream(blob: str, start: int, length: int) -> AsyncIterator[bytes]:
    """`length` bytes from `start`, a piece at a time."""
    file = await sync_to_async(open_blob)(blob)
    try:
        await sync_to_async(file.seek)(start)
        while length > 0 and (piece := await sync_to_async(file.read)(min(PIECE, length))):
            length -= len(piece)
            yield piece
    finally:
        with suppress(OSError):
            await sync_to_async(file.close)()
