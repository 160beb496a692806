"""Files and uploads over the wire: what the official client and plain HTTP see."""

import hashlib
import io
import json
import socket
import time

import openai
import pytest

from tests.contract.test_errors import check
from tests.live import line

CONTENT = bytes(range(256)) * 40


@pytest.fixture(scope="module")
def file(vbs):
    return vbs.client.files.create(file=("bytes.bin", io.BytesIO(CONTENT)), purpose="user_data")


def post(vbs, *, files=(("file", ("a.jsonl", b'{"a": 1}\n')),), **data):
    return vbs.http.post("/files", files=list(files), data={"purpose": "batch"} | data)


def test_the_round_trip(vbs, file):
    assert (file.bytes, file.filename, file.purpose, file.object) == (len(CONTENT), "bytes.bin", "user_data", "file")
    assert file.status == "processed" and file.expires_at is None and abs(file.created_at - time.time()) < 120
    assert vbs.client.files.retrieve(file.id) == file
    assert vbs.client.files.content(file.id).content == CONTENT
    wire = vbs.http.get(f"/files/{file.id}").json()
    assert set(openai.types.FileObject.model_fields) <= set(wire)


def test_delete(vbs):
    made = vbs.upload([{"a": 1}])
    gone = vbs.client.files.delete(made.id)
    assert (gone.id, gone.object, gone.deleted) == (made.id, "file", True)
    for call in (vbs.client.files.retrieve, vbs.client.files.content, vbs.client.files.delete):
        with pytest.raises(openai.NotFoundError):
            call(made.id)
    assert made.id not in [one.id for one in vbs.client.files.list()]


def test_bad_lines_are_told_at_the_upload(vbs):
    good, bad = json.dumps(line("a")), json.dumps(line("b", stream=True))
    before = {one.id for one in vbs.client.files.list()}
    content = ("a.jsonl", f"{good}\n{bad}\n{good}\n".encode())
    with pytest.raises(openai.BadRequestError) as refused:
        vbs.client.files.create(file=content, purpose="batch", extra_query={"validate": "true"})
    error = refused.value.body
    assert [(one["code"], one["line"]) for one in error["errors"]["data"]] == [
        ("streaming_unsupported", 2),
        ("duplicate_custom_id", 3),
    ]
    assert (error["code"], error["param"]) == ("streaming_unsupported", "file") and "Line 2: " in error["message"]
    assert {one.id for one in vbs.client.files.list()} == before, "nothing was kept"
    right = ("a.jsonl", good.encode())
    assert vbs.client.files.create(file=right, purpose="batch", extra_query={"validate": "true"}).status == "processed"
    with pytest.raises(openai.BadRequestError, match="validate"):
        vbs.client.files.create(file=right, purpose="batch", extra_query={"validate": "perhaps"})
    with pytest.raises(openai.BadRequestError, match="for files with purpose 'batch', not 'user_data'"):
        vbs.client.files.create(file=right, purpose="user_data", extra_query={"validate": "true"})


# Content.


@pytest.mark.parametrize(
    "asked, start, stop",
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-99", 0, 100),
        ("bytes=10239-", 10239, 10240),
        ("bytes=100-", 100, 10240),
        ("bytes=-1", 10239, 10240),
        ("bytes=-99999", 0, 10240),
        ("bytes=5-99999", 5, 10240),
    ],
)
def test_a_range(vbs, file, asked, start, stop):
    answer = vbs.http.get(f"/files/{file.id}/content", headers={"Range": asked})
    assert answer.status_code == 206 and answer.content == CONTENT[start:stop]
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/10240"
    assert answer.headers["content-length"] == str(stop - start)


@pytest.mark.parametrize("asked", ["bytes=10240-", "bytes=99999-100000", "bytes=-0"])
def test_a_range_beyond_the_end(vbs, file, asked):
    answer = vbs.http.get(f"/files/{file.id}/content", headers={"Range": asked})
    assert answer.status_code == 416 and answer.headers["content-range"] == "bytes */10240"
    error = answer.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", "Range", "range_not_satisfiable")


@pytest.mark.parametrize(
    "asked",
    ["bytes=", "bytes=-", "bytes=5-2", "lines=0-1", "bytes=0-1,5-6", "bytes=a-b", "x", "bytes=" + "9" * 50 + "-"],
)
def test_what_is_no_single_range_is_ignored(vbs, file, asked):
    """RFC 9110: a Range that is malformed, or that we do not do, is as if it were not there."""
    answer = vbs.http.get(f"/files/{file.id}/content", headers={"Range": asked})
    assert answer.status_code == 200 and answer.content == CONTENT


def test_etag(vbs, file):
    url = f"/files/{file.id}/content"
    etag = vbs.http.get(url).headers["etag"]
    for asked in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        again = vbs.http.get(url, headers={"If-None-Match": asked})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag), asked
    assert vbs.http.get(url, headers={"If-None-Match": '"other"'}).status_code == 200
    part = {"Range": "bytes=0-9"}
    assert vbs.http.get(url, headers=part | {"If-Range": etag}).status_code == 206
    assert vbs.http.get(url, headers=part | {"If-Range": '"other"'}).status_code == 200


def test_head(vbs, file):
    answer = vbs.http.head(f"/files/{file.id}/content")
    assert (answer.status_code, answer.headers["content-length"], answer.content) == (200, "10240", b"")
    assert answer.headers["accept-ranges"] == "bytes" and answer.headers["x-content-type-options"] == "nosniff"
    assert vbs.http.head("/files/nope/content").status_code == 404


def test_a_file_is_never_shown_as_a_page(vbs):
    made = vbs.client.files.create(file=("x.html", io.BytesIO(b"<script>")), purpose="user_data")
    assert vbs.http.get(f"/files/{made.id}/content").headers["content-type"] == "application/octet-stream"


# What is refused.


@pytest.mark.parametrize(
    "data, param",
    [
        ({"purpose": "assistants_output"}, "purpose"),
        ({"purpose": "batch_output"}, "purpose"),
        ({"purpose": ""}, "purpose"),
        ({"purpose": "x" * 10_000}, "purpose"),
        ({"expires_after[seconds]": "3600"}, "expires_after.anchor"),
        ({"expires_after[anchor]": "created_at"}, "expires_after.seconds"),
        ({"expires_after[anchor]": "now", "expires_after[seconds]": "3600"}, "expires_after.anchor"),
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "3599"}, "expires_after.seconds"),
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "2592001"}, "expires_after.seconds"),
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "1e9"}, "expires_after.seconds"),
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "\u0663"}, "expires_after.seconds"),
        ({"expires_after": "soon"}, "expires_after"),
    ],
)
def test_a_bad_field(vbs, data, param):
    assert check(post(vbs, **data), 400)["param"] == param


def test_fields_that_are_missing(vbs):
    error = check(vbs.http.post("/files", files={"file": ("a", b"{}")}), 400)
    assert (error["param"], error["code"]) == ("purpose", "missing_required_parameter")
    error = check(vbs.http.post("/files", files={"other": ("a", b"{}")}, data={"purpose": "batch"}), 400)
    assert (error["param"], error["code"]) == ("file", "missing_required_parameter")
    assert check(vbs.http.post("/files", data={"purpose": "batch", "file": "text"}), 400)["param"] == "file"


def test_two_files_are_refused_or_one_is_kept_whole(vbs):
    answer = post(vbs, files=[("file", ("a.jsonl", b'{"a": 1}\n')), ("file", ("b.jsonl", b'{"b": 22}\n'))])
    if answer.status_code != 200:
        check(answer, 400)
        return
    kept = vbs.client.files.content(answer.json()["id"]).content
    assert (kept, answer.json()["filename"]) in [(b'{"a": 1}\n', "a.jsonl"), (b'{"b": 22}\n', "b.jsonl")]


@pytest.mark.parametrize("content", [b"", b"nothing like it\n", b"\x89PNG"])
@pytest.mark.parametrize("purpose", ["batch", "fine-tune"])
def test_what_is_not_jsonl(vbs, content, purpose):
    error = check(post(vbs, files=[("file", ("a.jsonl", content))], purpose=purpose), 400)
    assert "Invalid file format" in error["message"] and "JSONL" in error["message"] and error["param"] == "file"


def test_an_odd_name_is_a_label(vbs):
    for name in ("../../etc/passwd", "a b;c.jsonl", "\u65e5\u672c\u8a9e.jsonl", "x" * 400, "-rf *"):
        made = vbs.client.files.create(file=(name, io.BytesIO(b"x")), purpose="user_data")
        assert made.filename and "/" not in made.filename.replace(name, "")
        assert vbs.client.files.content(made.id).content == b"x"


def test_expires_after(vbs):
    options = {"anchor": "created_at", "seconds": 3600}
    made = vbs.client.files.create(file=("a", io.BytesIO(b"x")), purpose="user_data", expires_after=options)
    assert made.expires_at - made.created_at == 3600
    assert vbs.upload([{"a": 1}]).expires_at - time.time() > 29 * 86400


def test_an_upload_that_breaks_off_leaves_nothing(vbs):
    before = {one.id for one in vbs.client.files.list()}
    folder = vbs.stack.data / "tmp"
    host, port = vbs.stack.url.removeprefix("http://").split(":")
    for sent in (0, 100, 3_000_000):
        with socket.create_connection((host, int(port))) as link:
            head = (
                f"POST /v1/files HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {vbs.key}\r\n"
                "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 9000000\r\n\r\n"
                '--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
                '--x\r\nContent-Disposition: form-data; name="file"; filename="half"\r\n\r\n'
            )
            link.sendall(head.encode() + b"a" * sent)
            time.sleep(0.2)
    end = time.monotonic() + 10
    while any(path.stat().st_size for path in folder.rglob("*") if path.is_file()) and time.monotonic() < end:
        time.sleep(0.1)
    assert {one.id for one in vbs.client.files.list()} == before
    assert not [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size], "bytes were left behind"


# Lists.


def test_lists_are_filtered_ordered_and_paged(vbs):
    made = [vbs.client.files.create(file=(f"{n}", io.BytesIO(b"{}")), purpose="evals").id for n in range(5)]
    assert [one.id for one in vbs.client.files.list(purpose="evals", order="asc")] == made
    assert [one.id for one in vbs.client.files.list(purpose="evals")] == made[::-1]
    assert [one.id for one in vbs.client.files.list(purpose="evals", limit=2)] == made[::-1], "page by page"
    first = vbs.http.get("/files?purpose=evals&limit=2&order=asc").json()
    assert (first["object"], first["first_id"], first["last_id"]) == ("list", made[0], made[1]) and first["has_more"]
    last = vbs.http.get(f"/files?purpose=evals&limit=3&order=asc&after={made[1]}").json()
    assert [one["id"] for one in last["data"]] == made[2:] and last["has_more"] is False
    none = vbs.http.get("/files?purpose=vision").json()
    assert (none["data"], none["first_id"], none["last_id"], none["has_more"]) == ([], None, None, False)


@pytest.mark.parametrize(
    "query, param",
    [
        ("limit=0", "limit"),
        ("limit=10001", "limit"),
        ("limit=", "limit"),
        ("limit=1.5", "limit"),
        ("order=newest", "order"),
        ("purpose=other", "purpose"),
        ("purpose=", "purpose"),
        ("after=file-none", "after"),
    ],
)
def test_a_bad_query(vbs, query, param):
    assert check(vbs.http.get(f"/files?{query}"), 400)["param"] == param


# Uploads.


def test_an_upload_in_parts(vbs):
    content = b'{"a": 1}\n' * 1000
    upload = vbs.client.uploads.create(
        bytes=len(content), filename="parts.jsonl", mime_type="application/jsonl", purpose="batch"
    )
    assert upload.status == "pending" and upload.expires_at - upload.created_at == 3600 and upload.file is None
    second = vbs.client.uploads.parts.create(upload.id, data=content[4000:])
    first = vbs.client.uploads.parts.create(upload.id, data=content[:4000])
    assert first.object == "upload.part" and first.upload_id == upload.id
    wrong = vbs.http.post(f"/uploads/{upload.id}/complete", json={"part_ids": [first.id]})
    assert check(wrong, 400)["param"] == "part_ids"
    done = vbs.client.uploads.complete(upload.id, part_ids=[first.id, second.id], md5=hashlib.md5(content).hexdigest())
    assert done.status == "completed" and done.file.filename == "parts.jsonl" and done.file.bytes == len(content)
    assert vbs.client.files.content(done.file.id).content == content
    for again in (vbs.client.uploads.cancel, lambda one: vbs.client.uploads.complete(one, part_ids=[first.id])):
        with pytest.raises(openai.ConflictError):
            again(upload.id)
    with pytest.raises(openai.ConflictError):
        vbs.client.uploads.parts.create(upload.id, data=b"x")


def test_the_clients_own_chunked_upload(vbs):
    done = vbs.client.uploads.upload_file_chunked(
        file=CONTENT, filename="c.bin", bytes=len(CONTENT), mime_type="x/y", purpose="user_data", part_size=3000
    )
    assert vbs.client.files.content(done.file.id).content == CONTENT


def test_a_cancelled_upload(vbs):
    upload = vbs.client.uploads.create(bytes=1, filename="a", mime_type="x/y", purpose="user_data")
    assert vbs.client.uploads.cancel(upload.id).status == "cancelled"
    assert vbs.client.uploads.cancel(upload.id).status == "cancelled"
    with pytest.raises(openai.ConflictError):
        vbs.client.uploads.parts.create(upload.id, data=b"x")


@pytest.mark.parametrize(
    "change, param",
    [
        ({"bytes": 0}, "bytes"),
        ({"bytes": 8 * 2**30 + 1}, "bytes"),
        ({"bytes": "x"}, "bytes"),
        ({"bytes": None}, "bytes"),
        ({"filename": ""}, "filename"),
        ({"filename": 5}, "filename"),
        ({"mime_type": None}, "mime_type"),
        ({"purpose": "batch_output"}, "purpose"),
        ({"expires_after": {"anchor": "created_at"}}, "expires_after.seconds"),
    ],
)
def test_a_bad_upload(vbs, change, param):
    body = {"bytes": 1, "filename": "a", "mime_type": "x/y", "purpose": "batch"} | change
    assert check(vbs.http.post("/uploads", json=body), 400)["param"] == param
