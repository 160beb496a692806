"""Transfers a file from the hub to the disk, under the name of its checksum, and continues an unfinished one.

An unfinished file ends in `.part`. When it is complete and its checksum is right, it loses that ending; so a file
without it is complete, whatever was killed when. The caller sees to it that nobody else writes there.
"""

import asyncio
import hashlib
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx2

from models_registry.catalog.folders import ModelError
from models_registry.hub import client as hub
from models_registry.hub.client import HubRepository, TemporaryError
from models_registry.hub.files import HubFile
from vbs.logs import one_line

log = logging.getLogger(__name__)

PIECE = 2**20  # bytes that are read at once for the checksum of what is there
ATTEMPTS = 8  # attempts in a row without a byte, after which the transfer fails
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds before the next attempt; doubled each time

Note = Callable[[int], None]  # gets the number of bytes that have come; negative when bytes are thrown away


def present(folder: Path, file: HubFile) -> int:
    """Bytes of a file that are on the disk already."""
    for path in (folder / file.sum, _part(folder, file)):
        with suppress(FileNotFoundError):
            return min(path.stat().st_size, file.size)
    return 0


async def bring(client: httpx2.AsyncClient, repository: HubRepository, file: HubFile, folder: Path, note: Note) -> None:
    """Fetch a file, or the rest of it. Raises ModelError, OSError; what is fetched stays for the next time."""
    path = _part(folder, file)
    if (folder / file.sum).exists():
        return
    for _ in range(2):
        part = await _Part.open(path, file, note)
        with part:
            await _complete(client, repository, part)
            if part.digest.hexdigest() == file.sum:
                part.settle()
                path.rename(folder / file.sum)
                return
            log.warning("File %s: it came with a wrong checksum", one_line(file.path))
            part.restart()
    path.unlink()
    raise ModelError(
        f"{file.path} of {repository} came twice with another checksum than {hub.base_url()} says: "
        "try again later, or ask the owner of the repository"
    )


class _Part:
    """An unfinished file, and the checksum of what is there of it."""

    def __init__(self, path: Path, file: HubFile, note: Note) -> None:
        self.file, self.note = file, note
        self.handle = path.open("ab+")
        self.size = 0
        self.digest = self._fresh()

    @classmethod
    async def open(cls, path: Path, file: HubFile, note: Note) -> "_Part":
        """Open it and read what is there. That takes seconds for a large file, so it can be cancelled meanwhile."""
        part = cls(path, file, note)
        part.handle.seek(0)
        while piece := part.handle.read(PIECE):
            part.digest.update(piece)
            part.size += len(piece)
            await asyncio.sleep(0)
        if part.size > file.size:
            part.restart()
        return part

    def __enter__(self) -> "_Part":
        return self

    def __exit__(self, *error: object) -> None:
        self.handle.close()

    def write(self, piece: bytes) -> None:
        if self.size + len(piece) > self.file.size:
            raise TemporaryError(f"{self.file.path} is longer than the hub has said")
        self.handle.write(piece)
        self.digest.update(piece)
        self.size += len(piece)
        self.note(len(piece))

    def restart(self) -> None:
        self.handle.truncate(0)
        self.note(-min(self.size, self.file.size))
        self.size = 0
        self.digest = self._fresh()

    def settle(self) -> None:
        """Sync it to the disk, so that it outlasts a power failure."""
        self.handle.flush()
        os.fsync(self.handle.fileno())

    def _fresh(self) -> "hashlib._Hash":
        if self.file.sha256:
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % self.file.size, usedforsecurity=False)  # the beginning of git's checksum


async def _complete(client: httpx2.AsyncClient, repository: HubRepository, part: _Part) -> None:
    """Ask for the rest until it is there. Raises ModelError after ATTEMPTS in a row without a byte."""
    failures = 0
    while part.size < part.file.size:
        before = part.size
        try:
            with hub.errors():
                await _ask(client, repository, part)
            if part.size < part.file.size:
                raise TemporaryError(f"{hub.base_url()} has ended the connection early")
        except TemporaryError as error:
            failures = 1 if part.size > before else failures + 1
            if failures >= ATTEMPTS:
                raise ModelError(
                    f"{part.file.path} of {repository} stays at {part.size:,} of {part.file.size:,} bytes: {error}. "
                    "What is fetched is kept: try again later"
                ) from error
            pause = error.wait if error.wait is not None else min(FIRST_PAUSE * 2 ** (failures - 1), LONGEST_PAUSE)
            log.warning("File %s: it goes on in %.1f s, because %s", one_line(part.file.path), pause, error)
            await asyncio.sleep(pause)


async def _ask(client: httpx2.AsyncClient, repository: HubRepository, part: _Part) -> None:
    headers = repository.headers()
    if part.size:
        headers["Range"] = f"bytes={part.size}-"
    async with client.stream("GET", repository.file_url(part.file.path), headers=headers) as response:
        if response.status_code == 416:  # we have more bytes than the server
            part.restart()
            raise TemporaryError(f"{hub.base_url()} has no rest of {part.file.path}")
        hub.check(response, repository, part.file.path)
        continued = response.headers.get("Content-Range", "").startswith(f"bytes {part.size}-")
        if part.size and not (response.status_code == 206 and continued):
            part.restart()
            if response.status_code == 206:
                raise TemporaryError(f"{hub.base_url()} sends another part of {part.file.path} than was asked for")
        async for piece in response.aiter_bytes():
            part.write(piece)


def _part(folder: Path, file: HubFile) -> Path:
    return folder / f"{file.sum}.part"
