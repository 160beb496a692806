"""Files that are no JSONL in UTF-8 are named for what they are; bad lines are told at the upload, if asked for."""

import gzip
import json

import pytest
from django.contrib.auth.models import User

from batches.files import kinds, store
from batches.intake import repair
from batches.intake.repair import BadLines
from models_registry.models import Model
from tests.engines import line
from vbs.openai.errors import InvalidRequest

LINE = json.dumps(line("a", "grüße")).encode()
ROW = json.dumps(line("a", "grüße"), ensure_ascii=False)


@pytest.mark.parametrize(
    "content, said",
    [
        (gzip.compress(LINE), "a gzip archive"),
        (ROW.encode("utf-16"), "text in UTF-16"),
        (ROW.encode("utf-32"), "text in UTF-32"),
        (ROW.encode("utf-16-le"), "text in UTF-16"),
        (ROW.encode("utf-16-be"), "text in UTF-16"),
        (ROW.encode("latin-1"), "not UTF-8 (its byte 143), but perhaps Latin-1: save the file as UTF-8"),
        (b"PK\x03\x04", "Excel"),
        (b'{"a":"\0"}', "a binary file"),
        (bytes(100), "nothing but NUL bytes"),
        (bytes(70_000), "nothing but NUL bytes"),
        (b"\n{oops", "the first line is not JSON"),
    ],
)
def test_what_is_no_text_in_utf_8_is_named(tmp_path, content, said):
    path = tmp_path / "in.jsonl"
    path.write_bytes(content)
    with pytest.raises(InvalidRequest) as refused:
        store.check_content(path, len(content), "batch")
    assert said in refused.value.message and "must be JSONL" in refused.value.message
    assert refused.value.code == "invalid_file_format"


@pytest.mark.parametrize("content", [LINE, b"\n\n" + LINE, b"\xef\xbb\xbf" + ROW.encode(), "漢字".encode() * 9])
def test_text_in_utf_8_is_none_of_them(content):
    assert kinds.unreadable(content) == kinds.not_utf8(content) == ""


def test_a_line_in_latin_1_is_named_in_validation(project, submitted, tmp_path):
    Model.objects.create(name="scripted", kind="scripted")
    batch = submitted(LINE + b"\n" + ROW.encode("latin-1"))
    assert batch.status == "failed" and "perhaps Latin-1" in batch.errors[0]["message"]


def test_what_a_client_did_wrong_is_no_error_of_the_server(project, submitted, caplog):
    batch = submitted(b"{}\n")
    assert batch.status == "failed" and batch.events.get(message__startswith="Failed").level == "error"
    (said,) = [one for one in caplog.records if "Failed" in one.getMessage()]
    assert (said.levelname, said.exc_info) == ("WARNING", None) and batch.pk in said.getMessage()
    assert not [one for one in caplog.records if one.levelname in ("ERROR", "CRITICAL")]


def test_bad_lines_are_those_that_a_batch_would_have(project, submitted, tmp_path):
    Model.objects.create(name="scripted", kind="scripted")
    content = LINE + b"\n{oops\n" + LINE + b"\n"
    path = tmp_path / "in.jsonl"
    path.write_bytes(content)
    with pytest.raises(BadLines) as refused:
        repair.check_lines(path)
    error = refused.value.body()["error"]
    assert error["errors"]["data"] == submitted(content).errors and len(error["errors"]["data"]) == 2
    assert "Line 2: " in error["message"] and (error["code"], error["param"]) == ("invalid_json_line", "file")
    path.write_bytes(LINE)
    repair.check_lines(path)


def test_a_line_that_is_no_utf_8_cannot_be_mended_by_typing(project, tmp_path):
    """What is shown of it has another character where it could not be read: sent back, that would be the prompt."""
    Model.objects.create(name="scripted", kind="scripted")
    path = tmp_path / "in.jsonl"
    path.write_bytes(LINE + b"\n" + ROW.encode("latin-1"))
    ann = User.objects.create_user("ann")
    checked = repair.check(repair.keep(project, path, "in.jsonl", ann), "/v1/chat/completions", "", ann)
    (problem,) = checked.problems
    assert problem.line == 2 and problem.whole is None and checked.mendable == []
    assert "save the file as UTF-8" in problem.message and "in UTF-8" in problem.remedy
