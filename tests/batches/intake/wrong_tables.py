"""Files that people take for tables, and tables with a fault: the file's name, its bytes, a prompt template, and what
has to be said of it on the page, by the API and by the commands."""

import io
import struct
import zipfile

import xlsxwriter


def archive(*names):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        for name in names:
            made.writestr(name, b"x")
    return out.getvalue()


def office(*names):
    """The head of an old office file, and the first entries of the list of its files, in the fourth sector."""
    head = bytearray(512)
    head[:8], head[30:32], head[48:52] = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", struct.pack("<H", 9), struct.pack("<I", 3)
    entries = b"".join(name.encode("utf-16-le").ljust(128, b"\0") for name in ("Root Entry", *names))
    return bytes(head) + b"\xff" * 3 * 512 + entries.ljust(1024, b"\0")


def wide_book(columns):
    out = io.BytesIO()
    with xlsxwriter.Workbook(out, {"in_memory": True}) as made:
        sheet = made.add_worksheet()
        for row in range(2):
            sheet.write_row(row, 0, [f"c{number}" for number in range(columns)])
    return out.getvalue()


REMEDY = "Export it as CSV, as Excel (.xlsx), or as JSONL."
HEADINGS = "The first row must name the columns"
TEMPLATE = "Sum up: {a}"
JSON = 'Sum up {a} as JSON: {"label": "x"}'
WRONG = {
    "nothing but blanks": ("t.csv", lambda: b"\n \n\n", TEMPLATE, HEADINGS),
    "headings alone": ("t.csv", lambda: b"a,b\n", TEMPLATE, "has no rows below its headings. Add at least one"),
    "10,000 columns": ("t.csv", lambda: b",".join([b"a"] * 10_000) + b"\n1\n", TEMPLATE, "Remove those that no prompt"),
    "10,000 columns in Excel": (
        "t.xlsx",
        lambda: wide_book(10_000),
        TEMPLATE,
        "10,000 columns; at most 2,000 are read",
    ),
    "a program": ("t.csv", lambda: b"\x7fELF\0\1\2" * 99, TEMPLATE, f"This is a binary file. {REMEDY}"),
    "a picture": ("t.xlsx", lambda: b"\x89PNG\r\n\x1a\n\0\0\0\r" * 9, TEMPLATE, f"This is a binary file. {REMEDY}"),
    "a password": ("t.xlsx", lambda: office("EncryptionInfo", "EncryptedPackage"), TEMPLATE, "has a password. Save it"),
    "old Excel": ("t.xls", lambda: office("Workbook"), TEMPLATE, f"an old Excel (.xls) or Word file. {REMEDY}"),
    "old Excel that is HTML": ("t.xls", lambda: b"<html><table><tr><td>a", TEMPLATE, f"HTML or XML. {REMEDY}"),
    "binary Excel": (
        "t.xlsb",
        lambda: archive("[Content_Types].xml", "xl/workbook.bin"),
        TEMPLATE,
        "(.xlsb), not an Exc",
    ),
    "OpenDocument": ("t.ods", lambda: archive("mimetype", "content.xml"), TEMPLATE, "OpenDocument file, such as .ods"),
    "Numbers": ("t.numbers", lambda: archive("Index/Document.iwa"), TEMPLATE, "Apple Numbers, Pages or Keynote"),
    "Word": ("t.xlsx", lambda: archive("[Content_Types].xml", "word/document.xml"), TEMPLATE, "a Word document, not"),
    "an archive": ("t.xlsx", lambda: archive("t.csv"), TEMPLATE, "This is a ZIP archive, not an Excel workbook"),
    "an open quote": ("t.csv", lambda: b'a,b\n1,"2\n3,4\n', TEMPLATE, "is opened in the row and never closed"),
    "no such column": (
        "t.csv",
        lambda: b"a,b\n1,2\n",
        "{none}",
        "There is no column 'none': the columns are 'a', 'b'.",
    ),
    "JSON in the template": ("t.csv", lambda: b"a,b\n1,2\n", JSON, "part of the text, as in JSON, write {{ and }}"),
    "JSON in JSON": (
        "t.csv",
        lambda: b"a,b\n1,2\n",
        '{"x": {"y": 1}}',
        "write {{ and }} where braces are part of the text",
    ),
}
