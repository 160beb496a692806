"""Why a batch failed validation, with the text of each wrong line."""

from functools import lru_cache

from batches.files import blobs
from batches.files.kinds import BOM
from batches.models import Batch, File
from vbs.pages.parts import Part

SHOWN = 100
TEXT = 300  # characters of a line, of which the template shows all
READ = 64 * 2**20  # bytes of the file that are read to find the lines


def of(batch: Batch) -> Part:
    errors = batch.errors or []
    shown = errors[:SHOWN]
    numbers = tuple(sorted({one["line"] for one in shown if one.get("line")}))
    texts, unread = _texts(batch.input_file, numbers)
    context = {
        "batch": batch,
        "count": len(errors),
        "shown": [(one, texts.get(one.get("line"), "")) for one in shown],
        "more": len(errors) - len(shown),
        "unread": unread,
    }
    return Part("problems", "batches/detail/_problems.html", context)


def _texts(file: File | None, numbers: tuple[int, ...]) -> tuple[dict[int, str], str]:
    """The texts by the lines' numbers, and why some are missing."""
    if not numbers:
        return {}, ""
    if file is None or not file.is_kept:
        return {}, "The lines themselves are not shown: the input file is no longer kept."
    if blobs.folder() is None and file.bytes > READ:  # a remote storage returns the whole line or nothing
        return {}, "The lines themselves are not shown: the input file is large and in a remote storage."
    try:
        found = _read(file.blob, numbers)
    except OSError:
        return {}, "The lines themselves are not shown: the input file cannot be read."
    if len(found) < len(numbers):
        return found, f"Lines beyond the first {READ // 2**20} MiB of the input file are not shown themselves."
    return found, ""


@lru_cache(maxsize=64)  # a file never changes
def _read(blob: str, numbers: tuple[int, ...]) -> dict[int, str]:
    found: dict[int, str] = {}
    wanted = set(numbers)
    number = room = 0
    with blobs.open_blob(blob) as file:
        file.seek(len(BOM) if file.read(len(BOM)) == BOM else 0)
        while number < numbers[-1] and room < READ and (piece := file.readline(4 * (TEXT + 1))):
            number += 1
            if number in wanted:
                found[number] = piece.decode(errors="replace").rstrip("\r\n")
            room += len(piece)
            while piece and not piece.endswith(b"\n") and room < READ:
                piece = file.readline(1 << 20)
                room += len(piece)
    return found
