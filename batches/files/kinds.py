"""What a file is that is not text in UTF-8, in words that people know."""

from collections.abc import Collection
from typing import IO

BOM = b"\xef\xbb\xbf"
HEAD = 64 * 1024  # bytes that are looked at
_OFFICE = b"\xd0\xcf\x11\xe0"
KINDS = {
    b"PK\x03\x04": "a ZIP archive or an Excel or Word file",
    b"%PDF": "a PDF document",
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
    _OFFICE: "an old Excel (.xls) or Word file",
    b"PAR1": "a Parquet file",
    b"\xff\xfe\0\0": "text in UTF-32",
    b"\0\0\xfe\xff": "text in UTF-32",
    b"\xff\xfe": "text in UTF-16",
    b"\xfe\xff": "text in UTF-16",
}
# What a ZIP archive is that has a file whose name begins so.
_ARCHIVES = {
    "xl/workbook.bin": "a binary Excel workbook (.xlsb)",
    "xl/": "",
    "word/": "a Word document",
    "ppt/": "a PowerPoint presentation",
    "Index/Document.iwa": "a document of Apple Numbers, Pages or Keynote",
    "content.xml": "an OpenDocument file, such as .ods",
}
_PROTECTED = "EncryptedPackage".encode("utf-16-le")  # a file within an Excel file that has a password


def unreadable(head: bytes) -> str:
    """What kind of file begins like this; empty when it may be text in UTF-8."""
    for magic, kind in KINDS.items():
        if head.startswith(magic):
            return kind
    if b"\0" not in head:
        return ""
    if not head.strip(b"\0"):
        return "nothing but NUL bytes, as of a copy or a download that did not end"
    zeros = max(head[0::2].count(0), head[1::2].count(0))
    return "text in UTF-16" if 3 * zeros > len(head) else "a binary file"


def archived(names: Collection[str]) -> str:
    """What an archive of files with these names is; empty when it may be an Excel workbook (.xlsx)."""
    for begins, kind in _ARCHIVES.items():
        if any(name.startswith(begins) for name in names):
            return kind
    return "a ZIP archive"


def is_protected(file: IO[bytes]) -> bool:
    """Whether an office file is encrypted with a password. Its list of files begins where its head says."""
    file.seek(0)
    head = file.read(512)
    if not head.startswith(_OFFICE):
        return False
    sector_bytes = 1 << min(int.from_bytes(head[30:32], "little"), 12)
    file.seek((int.from_bytes(head[48:52], "little") + 1) * sector_bytes)
    return _PROTECTED in file.read(HEAD)


def not_utf8(text: bytes) -> str:
    """Where a line stops being UTF-8 and what to do; empty when the line is UTF-8."""
    try:
        text.decode()
    except UnicodeDecodeError as error:
        return f"it is not UTF-8 (its byte {error.start + 1}), but perhaps Latin-1: save the file as UTF-8"
    return ""
