"""Tables as spreadsheets of several countries write them: what is understood of a file, and its rows."""

import codecs
import io
import json
import tracemalloc
import zipfile
from datetime import date, datetime, time, timedelta

import pytest
import xlsxwriter
from hypothesis import given, settings
from hypothesis import strategies as st

from batches.files.kinds import BOM
from batches.intake.tables import workbook
from batches.intake.tables.cells import Limits, TableError
from batches.intake.tables.reading import Reading, choices, format_of, guess
from batches.intake.tables.rows import headings, rows

LIMITS = Limits(2**20, 2**24, 10_000)
GERMAN = 'Größe;Preis;Bewertung\r\nM;12,50;"schön; für den Preis"\r\nL;1.234,00;Die Ärmel sind zu kurz – ""weit""\r\n'
FRENCH = 'Numéro;Avis;Note\r\n1;L’été a été « chaud »;4,5\r\n2;"Déçu ; à éviter";1\r\n'
ENGLISH = 'id,Review,Stars\r\n1,"Boils fast, and it is quiet",5\r\n2,"He said: ""no"".\nThen he left",1\r\n'
JAPANESE = "番号,製品,感想\r\n1,やかん,すぐに沸くし、静かです。\r\n2,電気スタンド,一時間で光がちらつきます。\r\n"
CHINESE = "编号,产品,评论\r\n1,水壶,烧水很快，而且很安静。我会再买一次。\r\n2,台灯,一个小时后灯光就开始闪烁。\r\n"
RUSSIAN = "Номер;Отзыв\r\n1;Чайник быстро закипает и работает тихо\r\n2;Лампа мигает через час работы\r\n"
POLISH = (
    "Numer;Opinia\r\n1;Świetny czajnik, szybko się gotuje i jest cichy\r\n2;Lampka migocze już po godzinie, żałuję\r\n"
)
LOCALES = {
    "en-US": (ENGLISH.encode("cp1252"), "utf-8", ","),
    "en-US, CSV UTF-8": (BOM + ENGLISH.encode(), "utf-8", ","),
    "de-DE": (GERMAN.replace('""', "").encode("cp1252"), "cp1252", ";"),
    "fr-FR, CSV UTF-8": (BOM + FRENCH.encode(), "utf-8", ";"),
    "fr-FR": (FRENCH.encode("cp1252"), "cp1252", ";"),
    "ja-JP": (JAPANESE.encode("cp932"), "cp932", ","),
    "ja-JP, Unicode text": (JAPANESE.replace(",", "\t").encode("utf-16"), "utf-16-le", "\t"),
    "zh-CN": (CHINESE.encode("gb18030"), "gb18030", ","),
    "zh-CN, Unicode text": (CHINESE.replace(",", "\t").encode("utf-16"), "utf-16-le", "\t"),
    "en-US, without a mark": (ENGLISH.encode("utf-16-be"), "utf-16-be", ","),
    "ru-RU": (RUSSIAN.encode("cp1251"), "cp1251", ";"),
    "pl-PL": (POLISH.encode("cp1250"), "cp1250", ";"),
}


def read(content, name="t.csv", limits=LIMITS, **changed):
    """The reading, the headings and the columns of each row that is not blank, by its number."""
    file = io.BytesIO(content if isinstance(content, bytes) else content.encode())
    reading = guess(file, name, limits).changed(changed)
    names = headings(file, reading, limits)
    return reading, names, {one.number: one.columns for one in rows(file, reading, limits) if not one.is_blank}


def book(*sheets, **named):
    out = io.BytesIO()
    made = xlsxwriter.Workbook(out, {"in_memory": True, "default_date_format": "dd.mm.yy hh:mm"})
    for title, cells in ({f"Sheet{number}": one for number, one in enumerate(sheets, 1)} | named).items():
        page = made.add_worksheet(title)
        for number, row in enumerate(cells):
            page.write_row(number, 0, row)
    made.close()
    return out.getvalue()


@pytest.mark.parametrize("locale", LOCALES)
def test_what_excel_writes_in_each_country_is_understood(locale):
    content, encoding, delimiter = LOCALES[locale]
    text = content.decode("utf-16" if content.startswith(codecs.BOM_UTF16) else encoding).removeprefix("\ufeff")
    reading, names, found = read(content)
    assert (reading.encoding, reading.delimiter, reading.header_row) == (encoding, delimiter, 1)
    assert names == text.split("\r\n")[0].split(delimiter)
    assert list(found) == [2, 3] and all(all(row.values()) for row in found.values())
    assert all(part in text for row in found.values() for part in row.values() if '"' not in part)


def test_what_was_understood_is_said():
    reading, _, found = read(LOCALES["de-DE"][0])
    assert reading.said == "CSV: Windows-1252 (Western Europe), separated by semicolons, headings in row 1"
    assert found[2] == {"Größe": "M", "Preis": "12,50", "Bewertung": "schön; für den Preis"}, "commas stay as they are"


@pytest.mark.parametrize(
    "content, delimiter",
    [
        ("sep=;\nprompt,a;b\n1,5;x\n", ";"),
        ('"sep=|"\r\na|b\r\n1|2\r\n', "|"),
        ("SEP=\t\na\tb\n1\t2\n", "\t"),
        ("a|b|c\n1|2, or 3|4\n", "|"),
        ("name;text\nAnn;one, two, three\nBob;four, five, six\n", ";"),
        ("prompt\nHello, world\nWhy, oh why?\n", ";"),
        ("prompt,model\nhi\n", ","),
        ("one\n", ","),
    ],
)
def test_the_delimiter_is_found(content, delimiter):
    reading, _, found = read(content)
    assert reading.delimiter == delimiter
    assert set(found) <= {2, 3}, "the row of headings is the first, as a spreadsheet shows it"


def test_any_other_delimiter_can_be_chosen():
    _, names, found = read("a^b\n1^2\n", delimiter="^")
    assert names == ["a", "b"] and found == {2: {"a": "1", "b": "2"}}


def test_headings_without_a_name_or_alike():
    _, names, found = read(" id ,,ID,text,Id,,\n1,2,3,4,5,,\n")
    assert names == ["id", "column 2", "ID (2)", "text", "Id (3)"]
    assert found == {2: {"id": "1", "column 2": "2", "ID (2)": "3", "text": "4", "Id (3)": "5"}}


def test_titles_above_the_table_are_not_its_headings():
    content = "Reviews of 2026,,\n,,\nid,text,stars\n1,good,5\n"
    reading, names, found = read(content)
    assert (reading.header_row, names, list(found)) == (3, ["id", "text", "stars"], [4])
    reading, names, _ = read(content, header_row="4")
    assert names == ["1", "good", "5"]


def test_wrong_rows_do_not_end_the_others():
    file = io.BytesIO(b'a,b\n1\n"x"y,2\n\n1,2,3\n1,2,,\n')
    found = {one.number: one for one in rows(file, Reading("csv"), LIMITS)}
    assert found[2].columns == {"a": "1", "b": ""} and found[6].columns == {"a": "1", "b": "2"}
    assert "cannot be read" in found[3].why and found[4].is_blank and "has 3 cells" in found[5].why
    assert "".join(one.raw for one in found.values()) == '1\n"x"y,2\n\n1,2,3\n1,2,,\n'


def test_a_few_lines_that_are_no_utf_8_are_no_other_encoding():
    content = b"text\n" + "é\n".encode() * 20 + "é\n".encode("latin-1") + "é\n".encode() * 20
    with pytest.raises(TableError, match=r"Line 22 is not UTF-8 \(its character 1\): choose another encoding"):
        read(content)
    assert len(read(content, encoding="cp1252")[2]) == 41


@pytest.mark.parametrize("given", [{"encoding": "x"}, {"delimiter": '"'}, {"delimiter": ";;"}, {"header_row": "0"}])
def test_a_choice_that_is_none(given):
    with pytest.raises(TableError, match=r"x|delimiter|headings"):
        Reading("csv").changed(given)


# JSONL of rows


def test_json_objects_are_rows():
    content = '{"text": "a", "n": 1.5}\n\n{"text": null, "n": [1, "x"], "more": "é"}\n[1]\n{"n": \n'
    file = io.BytesIO(content.encode())
    reading = guess(file, "t.jsonl", LIMITS)
    assert reading.said == "JSONL: UTF-8" and headings(file, reading, LIMITS) == ["text", "n", "more"]
    first, blank, second, third, fourth = rows(file, reading, LIMITS)
    assert first.columns == {"text": "a", "n": "1.5"} and first.given == {"text": "a", "n": 1.5}
    assert blank.is_blank and second.columns == {"text": "", "n": '[1,"x"]', "more": "é"}
    assert "not a JSON object" in third.why and "not JSON" in fourth.why


@pytest.mark.parametrize(
    "content, name, format",
    [
        ('{"custom_id": "a", "method": "POST", "url": "/v1/x", "body": {}}\n', "t.jsonl", "jsonl"),
        ('{"custom_id": "a"}\n', "t.jsonl", "jsonl"),
        ("{}\n", "t", "jsonl"),
        ("{oops\n", "t.jsonl", "jsonl"),
        ("oops\n", "t.jsonl", "jsonl"),
        ('\n{"url": "http://x", "text": "a"}\n', "t.json", "rows"),
        ('{"custom_id": "a", "prompt": "b"}\n', "t.csv", "rows"),
        ("{a},b\n", "t.csv", "csv"),
        ("a,b\n", "t.txt", "csv"),
        ("a\tb\n".encode("utf-16"), "t.txt", "csv"),
        ('{"text": "é"}\n'.encode("utf-16"), "t.jsonl", "rows"),
        (book([["a"]]), "t.csv", "xlsx"),
    ],
)
def test_the_format_is_that_of_the_content(content, name, format):
    assert format_of(io.BytesIO(content if isinstance(content, bytes) else content.encode()), name) == format


@pytest.mark.parametrize(
    "content, said",
    [
        (b"%PDF-1.7", "a PDF document. Export it as CSV, as Excel"),
        (b"\xd0\xcf\x11\xe0", "an old Excel (.xls) or Word file"),
        (b'[{"a": 1}]', "one JSON list"),
        (b"PK\x03\x04", "begins like an Excel file and is none"),
        (b"<html><table>", "HTML or XML. Export it as CSV"),
        ('{"body": {}}'.encode("utf-16"), "Export it as JSONL in UTF-8"),
        (b"\0\1\2\3" * 100, "a binary file"),
    ],
)
def test_what_is_no_table_is_named(content, said):
    with pytest.raises(TableError) as error:
        guess(io.BytesIO(content), "t.csv", LIMITS)
    assert said in str(error.value)


# Excel


def test_cells_of_a_workbook_are_texts_as_people_read_them():
    cells = ["text", 5, 0.1 + 0.2, 12.0, True, date(2026, 3, 1), datetime(2026, 3, 1, 14, 30), time(9, 5), None, "end"]
    reading, names, found = read(book([["A ", None, *"cdefghi", "j"], cells]), "t.xlsx")
    assert reading.said == "Excel: sheet “Sheet1”, headings in row 1"
    assert names == ["A", "column 2", *"cdefghi", "j"]
    expected = ["text", "5", "0.3", "12", "TRUE", "2026-03-01", "2026-03-01 14:30:00", "09:05:00", "", "end"]
    assert list(found[2].values()) == expected


def test_what_else_is_in_cells():
    """Values of formulas, errors, texts with formats within and with escapes, hours beyond a day, and numbers with
    letters in their format that are no dates."""
    out = io.BytesIO()
    made = xlsxwriter.Workbook(out, {"in_memory": True})
    page = made.add_worksheet()
    page.write_row(0, 0, "abcdefghi")
    page.write_rich_string(1, 0, "one ", made.add_format({"bold": True}), "two", " three")
    page.write(1, 1, timedelta(hours=30, minutes=5), made.add_format({"num_format": "[h]:mm:ss"}))
    page.write(1, 2, 1234.5, made.add_format({"num_format": '#,##0.00 "dm";[Red]-0.0'}))
    page.write_formula(1, 3, "=1/0", None, "#DIV/0!")
    page.write_formula(1, 4, "=A1", None, "a text")
    page.write_formula(1, 5, "=1+1", None, 2)
    page.write_string(1, 6, "=a\r\nb\x07_x0041_ <&>\u2028é😀")
    page.write(1, 7, 123456789012)
    page.write(1, 8, 59, made.add_format({"num_format": 14}))
    made.close()
    assert list(read(out.getvalue(), "t.xlsx")[2][2].values()) == [
        "one two three", "30:05:00", "1234.5", "#DIV/0!", "a text", "2", "=a\nb\x07_x0041_ <&>\u2028é😀",
        "123456789012", "1900-02-28",
    ]  # fmt: skip


def test_a_formula_without_a_value_is_no_empty_cell():
    content = rezipped(book([["a", "b"], ["x", "=A1"], ["y", "z"]]), "</f><v>0</v>", "</f>")
    file = io.BytesIO(content)
    wrong, good = rows(file, guess(file, "t.xlsx", LIMITS), LIMITS)
    assert wrong.columns is None and "Cell 2 has a formula without a value" in wrong.why
    assert good.columns == {"a": "y", "b": "z"}


def test_texts_that_are_in_the_sheet_itself():
    texts = "<r><t>in</t></r><r><t xml:space='preserve'> line</t></r><rPh sb='0' eb='1'><t>said</t></rPh>"
    inline = f'<c r="B1" t="inlineStr"><is>{texts}</is></c>'
    content = rezipped(book([["a"], ["b"]]), "</c></row><row", f"</c>{inline}</row><row")
    assert read(content, "t.xlsx")[1] == ["a", "in line"]


def rezipped(content, *replaced):
    """The workbook with its sheets changed."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for one in old.infolist():
            data = old.read(one).decode()
            for before, after in zip(replaced[::2], replaced[1::2], strict=True):
                data = data.replace(before, after) if "worksheets/sheet" in one.filename else data
            new.writestr(one.filename, data)
    return out.getvalue()


def test_sheets_and_empty_rows():
    content = book(Cover=[], Data=[["Report"], [], ["id", "text"], [1, "a"], [], [2, "b"]], Other=[["x"], ["y"]])
    reading, names, found = read(content, "t.xlsx")
    assert (reading.sheet, reading.header_row, names) == ("Data", 3, ["id", "text"])
    assert found == {4: {"id": "1", "text": "a"}, 6: {"id": "2", "text": "b"}}
    file = io.BytesIO(content)
    assert choices(file, reading).sheets == ["Cover", "Data", "Other"]
    _, names, _ = read(content, "t.xlsx", sheet="Other", header_row="1")
    assert names == ["x"]
    with pytest.raises(TableError, match="There is no sheet 'None': the sheets are 'Cover', 'Data'"):
        read(content, "t.xlsx", sheet="None")


def test_cells_beside_the_table_are_kept():
    _, _, found = read(book([["id", "text"], [1, "a", None, "a note"]]), "t.xlsx")
    assert found == {2: {"id": "1", "text": "a", "column 4": "a note"}}


def test_a_bomb_is_not_unpacked():
    out = io.BytesIO(book([["a"], ["b"]]))
    with (
        zipfile.ZipFile(out, "a", zipfile.ZIP_DEFLATED) as archive,
        archive.open("xl/more/sharedStrings.xml", "w") as part,
    ):
        for _ in range(129):
            part.write(b" " * 2**20)
    tracemalloc.start()
    with pytest.raises(TableError, match=r"unpacks to 1\d\d MB, which is more than can be read. Save"):
        read(out.getvalue(), "t.xlsx")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20 * 8


def test_an_archive_of_many_files_is_not_listed():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for number in range(20_000):
            archive.writestr(f"xl/{number}", b"")
    with pytest.raises(TableError, match="too many files"):
        read(out.getvalue(), "t.xlsx")


@pytest.mark.parametrize(
    "change, said",
    [
        (('r="2"', 'r="99999999999"'), "more than 1,000 rows"),
        (('r="A2"', 'r="XFE2"'), "more than 16,384 columns"),
        (('r="A2"', f'r="{"A" * 5 * 2**20}"'), "a tag in it has more than 4 MB"),
        (("<v>1</v>", "<v>99</v>"), "there is no text 99"),
        (("<worksheet ", '<!DOCTYPE x [<!ENTITY e "e">]><worksheet '), "it has a DOCTYPE"),
        (("</row>", ""), "cannot be read"),
    ],
)
def test_sheets_that_lie(change, said, monkeypatch):
    monkeypatch.setattr(workbook, "_ROWS", 1000)
    with pytest.raises(TableError, match=said):
        read(rezipped(book([["a"], ["b"]]), *change), "t.xlsx")


@pytest.mark.parametrize(
    "cells, said",
    [
        (f'<c r="A2" t="str"><v>{"x" * 20_000_000}</v></c>', "more than 1 MB"),
        ('<c r="A2" t="s"><v>0</v></c>' * 20_000 + "<c/>" * 5_000_000, "more than 16,384 columns"),
    ],
)
def test_a_row_is_never_larger_than_a_row(cells, said):
    content = rezipped(book([["a"], ["b"]]), '<c r="A2" t="s"><v>1</v></c>', cells)
    tracemalloc.start()
    with pytest.raises(TableError, match=said):
        read(content, "t.xlsx")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(content) < 2**20 and peak < 2**20 * 12


def test_wide_rows_are_counted(monkeypatch):
    monkeypatch.setattr(workbook, "_CELLS", 30_000)
    wide = rezipped(book([["a"], ["b"], ["c"]]), 'r="A2"', 'r="XFC2"', 'r="A3"', 'r="XFC3"')
    with pytest.raises(TableError, match="30,000 cells"):
        read(wide, "t.xlsx")


@given(st.binary(max_size=200), st.integers(0, 400))
@settings(deadline=None)
def test_a_broken_workbook_is_a_clear_error(junk, at):
    content = bytearray(BROKEN)
    content[at * 10 : at * 10 + len(junk)] = junk
    try:
        read(bytes(content), "t.xlsx")
    except TableError as error:
        assert str(error)


BROKEN = book([["a", "b"], [1, "x"]])


# Hostile and huge


@given(st.binary(max_size=400))
def test_any_bytes_are_rows_or_a_clear_error(content):
    try:
        _, names, found = read(content)
    except TableError as error:
        assert str(error)
    else:
        assert len({name.casefold() for name in names}) == len(names)
        json.dumps(found).encode()


def test_a_row_without_an_end():
    with pytest.raises(TableError, match="begins on line 2 has more than 1 MB"):
        read('prompt\n"' + "x\n" * 2**20)
    with pytest.raises(TableError, match="begins on line 1 has more than 1 MB"):
        read("x" * 2**21)


def test_memory_does_not_grow_with_the_rows(tmp_path):
    path = tmp_path / "t.csv"
    with path.open("w", encoding="utf-16") as file:
        file.write("id;text\n")
        file.writelines(f"{number};{'ä' * 500}\n" for number in range(20_000))
    tracemalloc.start()
    with path.open("rb") as file:
        reading = guess(file, "t.csv", LIMITS)
        assert sum(1 for _ in rows(file, reading, LIMITS)) == 20_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20 * 3
