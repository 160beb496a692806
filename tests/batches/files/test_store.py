"""Files and uploads: the bytes are durable before anybody sees the file, and nothing half is ever seen."""

import errno
import hashlib
import io
import os
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import IntegrityError, connection, transaction
from django.test import Client
from django.utils import timezone

from batches.files import blobs, store
from batches.finish import downloads
from batches.models import File, FileStatus, Upload, UploadPart, UploadStatus
from vbs.accounts.models import ApiKey, Project
from vbs.openai.errors import Conflict, InvalidRequest


@pytest.fixture
def project(db):
    return Project.objects.create(name="project")


@pytest.fixture
def key(project):
    return ApiKey.objects.issue(project, "test")[1]


@pytest.fixture
def api(key):
    return Client(headers={"Authorization": f"Bearer {key}"})


@pytest.fixture
def open_upload(project):
    def make(size, **fields):
        later = timezone.now() + timedelta(hours=1)
        given = {"filename": "a.bin", "purpose": "user_data", "mime_type": "x/y", "bytes": size, "expires_at": later}
        return Upload.objects.create(project=project, **given | fields)

    return make


def take(project, content, filename="a.jsonl", purpose="user_data"):
    with blobs.scratch() as scratch:
        scratch.write(content)
        scratch.flush()
        return store.store(project, Path(scratch.name), filename, purpose, None)


def add(upload, content):
    with blobs.scratch() as scratch:
        scratch.write(content)
        scratch.flush()
        return store.add_part(upload, Path(scratch.name))


def content_of(file):
    with blobs.open_blob(file.blob) as opened:
        return opened.read()


def scratches():
    return set(Path(blobs.settings.TMP_DIR).glob("vbs-*"))


def test_what_goes_in_comes_out(project):
    file = take(project, b"\0\xff" * 1000)
    assert content_of(file) == b"\0\xff" * 1000 and file.bytes == 2000
    assert File.objects.visible(project).get() == file
    path = blobs.folder() / file.blob
    assert path.stat().st_mode & 0o077 == 0, "for its owner only"


@pytest.mark.parametrize(
    "given, shown",
    [
        ("../../etc/passwd", "../../etc/passwd"),
        ("a\r\nSet-Cookie: x", "aSet-Cookie: x"),
        ("nul\0byte", "nulbyte"),
        ("\u202egpj.exe", "gpj.exe"),
        ("<script>alert(1)</script>", "<script>alert(1)</script>"),
        ("  ", "unnamed"),
        ("", "unnamed"),
        ("\ud800", "unnamed"),
        ("\u00e9" * 600, "\u00e9" * 500),
        ("C:\\con", "C:\\con"),
    ],
)
def test_a_name_is_a_label_and_never_a_path(project, given, shown):
    file = take(project, b"x", given)
    file.refresh_from_db()
    assert file.filename == shown
    assert file.blob == f"{file.pk[-2:]}/{file.pk}" and content_of(file) == b"x"


@pytest.mark.parametrize("purpose", ["batch", "fine-tune"])
@pytest.mark.parametrize(
    "content, fine",
    [
        (b"", False),
        (b"not json", False),
        (b"\xff\xfe{}", False),
        (b"[1]\n", True),  # JSON, though no request: validation says so, with the line's number
        (b'{"a": 1}', True),
        (b'\xef\xbb\xbf{"a": 1}\n', True),
        (b'\n  \n{"a": 1}\nrest is not looked at', True),
        (b'{"a":' + b" " * 100_000 + b"1}\n", True),
        (b'{"a": NaN}\n', False),
        (b"{" * 5000, False),
    ],
)
def test_the_first_line_must_be_json(project, tmp_path, purpose, content, fine):
    path = tmp_path / "a"
    path.write_bytes(content)
    if fine:
        store.check_content(path, len(content), purpose)
        return
    with pytest.raises(InvalidRequest) as refused:
        store.check_content(path, len(content), purpose)
    assert (refused.value.code, refused.value.param) == ("invalid_file_format", "file")
    assert "Invalid file format" in refused.value.message and "JSONL" in refused.value.message


def test_other_purposes_take_anything_but_nothing(project, tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"\xff")
    store.check_content(path, 1, "user_data")
    with pytest.raises(InvalidRequest, match="empty"):
        store.check_content(path, 0, "user_data")


def test_batch_files_expire_and_others_do_not(project):
    assert take(project, b"{}", purpose="batch").expires_at > timezone.now() + timedelta(days=29)
    assert take(project, b"{}", purpose="fine-tune").expires_at is None


@pytest.mark.parametrize(
    "filename, content, purpose, format",
    [
        ("a.jsonl", b'{"a": 1}', "user_data", "jsonl"),
        ("a.ndjson", b"oops", "user_data", "jsonl"),
        ("a", b'\xef\xbb\xbf\n{"a": 1}', "evals", "jsonl"),
        ("a.csv", b'{"a": 1}', "user_data", "jsonl"),
        ("a.csv", b"{a},b\n", "user_data", "csv"),
        ("A.TSV", b"a\tb\n", "assistants", "csv"),
        ("a.csv", b"PK\x03\x04", "user_data", "other"),
        ("a.json", b"[1]", "user_data", "other"),
        ("a.txt", b"just some words", "user_data", "other"),
        ("a.png", b"\x89PNG\0", "vision", "other"),
        ("a.csv", b'{"a": 1}', "batch", "jsonl"),
        ("a.txt", b"\n1\n", "fine-tune", "jsonl"),
    ],
)
def test_what_a_file_is_is_known_when_it_is_taken_in(project, filename, content, purpose, format):
    assert take(project, content, filename, purpose).format == format


def test_a_file_from_its_first_byte_to_its_end(project, api):
    with blobs.scratch() as scratch:
        scratch.write(b"x")
        scratch.flush()
        file = store.take_in(project, Path(scratch.name), "a", "user_data")
    url = f"/v1/files/{file.pk}"
    assert file.status == FileStatus.PENDING and not file.delete_softly(), "nobody can delete what they do not see"
    assert {api.get(url).status_code, api.get(f"{url}/content").status_code, api.delete(url).status_code} == {404}
    file.publish()
    assert api.get(url).json()["status"] == "processed" and file.expires_at is None
    with pytest.raises(FileNotFoundError, match="taken in already"):
        file.publish()
    assert [file.delete_softly(), file.delete_softly()] == [True, False]
    assert not File.objects.visible(project).exists() and api.get(url).status_code == 404
    with pytest.raises(FileNotFoundError):
        file.publish()


@pytest.mark.parametrize(
    "fields",
    [
        {"status": "pending"},
        {"status": "deleted"},
        {"status": "available", "deleted_at": timezone.now()},
        {"status": "pending", "expires_at": timezone.now(), "deleted_at": timezone.now()},
        {},
    ],
)
def test_a_status_and_its_times_go_together(project, fields):
    with pytest.raises(IntegrityError, match="file_times_of_status"), transaction.atomic():
        File.objects.create(project=project, filename="a", purpose="batch", format="jsonl", bytes=1, **fields)


# A full disk.


def full(*arguments, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("where", ["os.fsync", "pathlib.Path.replace", "pathlib.Path.mkdir"])
def test_a_full_disk_is_an_answer_and_no_file_is_seen(api, project, monkeypatch, where):
    before = scratches()
    with monkeypatch.context() as patch:
        if where == "pathlib.Path.mkdir":
            patch.setattr(blobs, "put", full)
        else:
            patch.setattr(where, full)
        answer = api.post("/v1/files", {"file": io.BytesIO(b"x" * 10), "purpose": "user_data"})
    assert answer.status_code == 507, answer.content
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("server_error", "storage_full") and "Free some space" in error["message"]
    assert not File.objects.visible(project).exists() and api.get("/v1/files").json()["data"] == []
    assert scratches() == before


def test_a_disk_that_fills_while_the_request_is_read(api, project, monkeypatch):
    """Django writes the upload to a temporary file before our view sees it."""
    monkeypatch.setattr("django.core.files.uploadedfile.TemporaryUploadedFile.__init__", full)
    answer = api.post("/v1/files", {"file": io.BytesIO(b"x" * 10), "purpose": "user_data"})
    assert answer.status_code == 507 and answer.json()["error"]["code"] == "storage_full"
    assert not File.objects.exists()


def test_an_upload_for_which_no_descriptor_is_left(api, project, monkeypatch, caplog):
    def none_left(*args, **options):
        raise OSError(errno.EMFILE, "Too many open files")

    for where in ("django.core.files.uploadedfile.TemporaryUploadedFile.__init__", "batches.files.blobs.put"):
        with monkeypatch.context() as patch:
            patch.setattr(where, none_left)
            answer = api.post("/v1/files", {"file": io.BytesIO(b"x" * 10), "purpose": "user_data"})
        assert answer.status_code == 503 and int(answer.headers["Retry-After"]) > 0
        assert "files and connections open" in answer.json()["error"]["message"]
        assert "/v1/files: [Errno 24] Too many open files" in caplog.text
    assert not File.objects.visible(project).exists()


def test_a_full_disk_does_not_use_up_an_uploads_parts(open_upload, monkeypatch):
    upload = open_upload(4)
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", full)
        with pytest.raises(OSError):
            add(upload, b"abcd")
    assert not UploadPart.objects.exists()
    assert store.complete(upload, [add(upload, b"abcd").pk], None).file.bytes == 4


def test_a_full_disk_at_the_end_leaves_the_upload_open(open_upload, project, monkeypatch):
    upload = open_upload(4)
    part = add(upload, b"abcd")
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", full)
        with pytest.raises(OSError):
            store.complete(upload, [part.pk], None)
    upload.refresh_from_db()
    assert upload.status == UploadStatus.PENDING and not File.objects.visible(project).exists()
    assert content_of(store.complete(upload, [part.pk], None).file) == b"abcd"


# Uploads.


def test_parts_go_together_in_the_order_given(open_upload, project):
    upload = open_upload(6, file_seconds=3600)
    first, second, _unused = add(upload, b"abc"), add(upload, b"def"), add(upload, b"xyz")
    done = store.complete(upload, [second.pk, first.pk], hashlib.md5(b"defabc").hexdigest().upper())
    assert done.status == UploadStatus.COMPLETED and content_of(done.file) == b"defabc"
    assert done.file.expires_at and File.objects.visible(project).get() == done.file


@pytest.mark.parametrize(
    "ids, md5, param, words",
    [
        (["a"], None, "part_ids", "announced with 6"),
        (["a", "b", "c"], None, "part_ids", "9 bytes"),
        (["a", "a"], None, "part_ids", "named twice"),
        (["a", "nope"], None, "part_ids", "'nope'"),
        (["a", "foreign"], None, "part_ids", "no part"),
        (["a", "b"], "0" * 32, "md5", "md5 of the parts"),
        (["a", "b"], "x", "md5", "md5 of the parts"),
    ],
)
def test_a_wrong_end_is_refused_and_the_upload_stays_open(open_upload, project, ids, md5, param, words):
    upload = open_upload(6)
    parts = {name: add(upload, name.encode() * 3).pk for name in "abc"}
    parts["foreign"] = add(open_upload(6), b"zzz").pk
    with pytest.raises(InvalidRequest, match=words) as refused:
        store.complete(upload, [parts.get(one, one) for one in ids], md5)
    assert refused.value.param == param and not File.objects.visible(project).exists()
    upload.refresh_from_db()
    assert upload.status == UploadStatus.PENDING
    assert store.complete(upload, [parts["a"], parts["b"]], None).file


def test_an_upload_is_checked_as_a_file_is(open_upload):
    upload = open_upload(3, purpose="batch")
    with pytest.raises(InvalidRequest, match="JSONL"):
        store.complete(upload, [add(upload, b"abc").pk], None)


def test_an_expired_upload_takes_nothing(open_upload):
    upload = open_upload(3)
    part = add(upload, b"abc")
    Upload.objects.update(expires_at=timezone.now())
    upload.refresh_from_db()
    for act in (lambda: add(upload, b"abc"), lambda: store.complete(upload, [part.pk], None)):
        with pytest.raises(Conflict, match="'expired'"):
            act()


def test_cancel(open_upload):
    upload = open_upload(3)
    part = add(upload, b"abc")
    assert store.cancel(upload).status == store.cancel(upload).status == UploadStatus.CANCELLED
    upload.refresh_from_db()
    for act in (lambda: add(upload, b"abc"), lambda: store.complete(upload, [part.pk], None)):
        with pytest.raises(Conflict, match="'cancelled'"):
            act()


def test_cancel_after_it_was_completed(open_upload, project):
    upload = open_upload(3)
    part = add(upload, b"abc")
    done = store.complete(upload, [part.pk], None)
    with pytest.raises(Conflict, match="'completed'"):
        store.cancel(done)
    with pytest.raises(Conflict, match="'completed'"):
        store.complete(done, [part.pk], None)
    assert File.objects.visible(project).count() == 1


def test_parts_may_be_sent_again_but_not_without_end(open_upload):
    upload = open_upload(2**20)
    for _ in range(3):
        add(upload, b"x" * 2**20)
    with pytest.raises(InvalidRequest, match="have 4,194,304 bytes, but"):
        add(upload, b"x" * 2**20)


@pytest.mark.django_db(transaction=True)
def test_two_completes_at_once_make_one_file(open_upload, project):
    upload = open_upload(3 * 2**20)
    parts = [add(upload, one * 2**20).pk for one in (b"a", b"b", b"c")]
    start, outcomes = threading.Barrier(4), []

    def complete():
        start.wait(10)
        try:
            outcomes.append(store.complete(Upload.objects.get(pk=upload.pk), parts, None).status)
        except Conflict:
            outcomes.append("conflict")
        finally:
            connection.close()

    threads = [threading.Thread(target=complete) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(outcomes) == ["completed", *["conflict"] * 3]
    assert File.objects.visible(project).count() == 1
    assert Upload.objects.get().file == File.objects.visible(project).get()


def test_parts_that_the_sweep_took_meanwhile(open_upload):
    upload = open_upload(3)
    part = add(upload, b"abc")
    blobs.remove(part.blob)
    with pytest.raises(Conflict, match="not open"):
        store.complete(upload, [part.pk], None)


def test_a_name_cannot_leave_its_header():
    quoted = downloads.named('a"b\\c.jsonl')["Content-Disposition"]
    assert quoted == 'attachment; filename="a\\"b\\\\c.jsonl"'
    broken = downloads.named("a\r\nSet-Cookie: x\u2028.jsonl")["Content-Disposition"]
    assert broken.isascii() and broken.isprintable(), broken
