"""Tables of every format are checked before there is a batch, and mended: then they are UTF-8."""

import json

import pytest
from django.contrib.auth.models import User

from batches.files import blobs
from batches.intake import repair
from batches.intake.repair import UnusableFile
from batches.intake.tables.requests import Making
from models_registry.models import Model
from tests.batches.intake.test_tables import book

CHAT = "/v1/chat/completions"
TEMPLATE = Making("", template="{Größe}", id_column="id")


@pytest.fixture
def ann(db):
    Model.objects.create(name="scripted", kind="scripted")
    return User.objects.create_user("ann")


def content_of(file):
    with blobs.open_blob(file.blob) as content:
        return content.read()


TEXT = "id;Größe\r\na;klein\r\n;groß\r\nc;x;y\r\nd;mittel\r\n"
SHEET = "id;Größe a;klein ;groß ;x d;mittel"
JSON = '{"id": "a", "Größe": "klein"}\n{"Größe": "groß"}\n[1]\n{"id": "d", "Größe": "mittel"}\n'
TABLES = {
    "cp1252": ("t.csv", TEXT.encode("cp1252"), "csv", 4, "c;gut"),
    "UTF-16": ("t.txt", TEXT.replace(";", "\t").encode("utf-16"), "csv", 4, "c\tgut"),
    "a title": ("t.csv", b"Title;\n" + TEXT.encode(), "csv", 5, "c;gut"),
    "xlsx": ("t.xlsx", book([row.split(";") for row in SHEET.split()]), "xlsx", 4, "c,gut"),
    "rows": ("t.jsonl", JSON.encode(), "rows", 3, '{"id": "c",\r\n "Größe": "gut"}'),
}  # fmt: skip


@pytest.mark.parametrize("kind", TABLES)
def test_rows_are_mended(project, ann, tmp_path, kind):
    name, content, format, wrong, typed = TABLES[kind]
    path = tmp_path / "upload"
    path.write_bytes(content)
    file = repair.keep(project, path, name, ann)
    assert file.format == format and repair.is_table(file)
    found = repair.check(file, CHAT, "scripted", ann, making=TEMPLATE)
    assert [one.line for one in found.problems] == [wrong - 1, wrong] and found.requests == 4
    assert found.reading.format == format and all(one.whole for one in found.mendable)
    assert "groß" in found.problems[0].text, "it is shown as text, whatever the file is in"

    with pytest.raises(UnusableFile, match=f"Row {wrong} is not one row"):
        repair.replace(file, {wrong: '"open'}, ann, found.reading)
    mended = repair.replace(file, {wrong: typed}, ann, found.reading)
    again = repair.check(mended, CHAT, "scripted", ann, making=TEMPLATE, reading=found.reading.rewritten())
    assert [one.line for one in again.problems] == [wrong - 1]
    content_of(mended).decode()

    left = repair.leave_out(again, ann)
    ready = repair.check(left, CHAT, "scripted", ann, making=TEMPLATE, reading=again.reading.rewritten()).ready
    assert repair.reading_of(left) == again.reading.rewritten(), "and so it is guessed as well"
    lines = [json.loads(one) for one in content_of(ready).splitlines() if one]
    assert [one["custom_id"] for one in lines] == ["a", "c", "d"] and ready.filename == "t.jsonl"
    assert [one["body"]["messages"][0]["content"] for one in lines] == ["klein", "gut", "mittel"]
    assert lines[0]["row"] == {"id": "a", "Größe": "klein"}


def test_another_reading_is_taken(project, ann, tmp_path):
    path = tmp_path / "upload"
    path.write_bytes("id,Größe\na,groß\n".encode("cp1250"))
    file = repair.keep(project, path, "t.csv", ann)
    reading = repair.reading_of(file)
    for encoding, text in (("cp1251", "gro\u042f"), ("cp1252", "groß")):
        making = Making("", template="{column}" if encoding == "cp1251" else "{Größe}")
        found = repair.check(
            file, CHAT, "scripted", ann, making=making, reading=reading.changed({"encoding": encoding})
        )
        assert bool(found.ready) == (encoding == "cp1252"), text


def test_a_workbook_that_unpacks_to_more_than_a_batch_is_not_rewritten(project, ann, tmp_path, settings):
    settings.VBS_MAX_BATCH_MB = settings.VBS_MAX_LINE_MB = 1
    path = tmp_path / "upload"
    path.write_bytes(book([["id", "Größe"], *([number, "x" * 10_000] for number in range(200))]))
    file = repair.keep(project, path, "t.xlsx", ann)
    assert "limit of one batch" in repair.check(file, CHAT, "scripted", ann, making=TEMPLATE).fatal
    with pytest.raises(UnusableFile, match="more than 1 MB"):
        repair.replace(file, {2: "a,b"}, ann)


def test_the_endpoint_suits_the_columns_unless_there_is_a_template(project, ann, tmp_path):
    Model.objects.create(name="vectors", kind="scripted", task="embedding")
    path = tmp_path / "upload"
    path.write_bytes(book([["query", "documents"], ["a", "b"]]))
    file = repair.keep(project, path, "t.xlsx", ann)
    assert repair.guess_endpoint(file, "scripted") == "/v1/rerank"
    assert repair.guess_endpoint(file, "scripted", template="{query}") == CHAT
    assert repair.guess_endpoint(file, "vectors", template="{query}") == "/v1/embeddings"
