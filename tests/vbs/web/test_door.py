"""The real web process: bodies in chunks on every route, and who may send large ones."""

import hashlib
import io
import json
import socket

import httpx
import psutil
import pytest
from django.contrib.auth.models import User
from django.test import Client

from batches.models import File
from vbs.accounts.models import ApiKey
from vbs.http.admission import admit
from vbs.web.refusal import RequestHead

MB = 2**20
LINE = {"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {"model": "none", "input": "x"}}
JSONL = json.dumps(LINE).encode() + b"\n"


def chunks(data, size=1000):
    for start in range(0, len(data), size):
        yield data[start : start + size]


def form(content, field="file", **fields):
    """A multipart body and its headers."""
    head = "".join(
        f'--b0\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in fields.items()
    )
    head += f'--b0\r\nContent-Disposition: form-data; name="{field}"; filename="in.jsonl"\r\n\r\n'
    body = head.encode() + content + b"\r\n--b0--\r\n"
    return body, {"Content-Type": "multipart/form-data; boundary=b0"}


def assert_ok(response):
    assert response.status_code == 200, response.text
    return response.json()


# In chunks


@pytest.mark.parametrize("lines", [1, 50, 20_000])
def test_a_file_in_chunks(http, lines):
    content = JSONL * lines
    body, headers = form(content, purpose="batch")
    file = assert_ok(http.post("/files", content=chunks(body, 50_000), headers=headers))
    assert file["bytes"] == len(content)
    assert http.get(f"/files/{file['id']}/content").content == content


def test_a_part_in_chunks(http):
    given = {"filename": "x.jsonl", "purpose": "batch", "bytes": len(JSONL), "mime_type": "application/jsonl"}
    upload = assert_ok(http.post("/uploads", json=given))
    body, headers = form(JSONL, "data")
    part = assert_ok(http.post(f"/uploads/{upload['id']}/parts", content=chunks(body), headers=headers))
    ids = json.dumps({"part_ids": [part["id"]], "md5": hashlib.md5(JSONL).hexdigest()}).encode()
    json_type = {"Content-Type": "application/json"}
    done = http.post(f"/uploads/{upload['id']}/complete", content=chunks(ids, 7), headers=json_type)
    assert assert_ok(done)["file"]["bytes"] == len(JSONL)


def test_a_batch_in_chunks(http):
    body, headers = form(JSONL, purpose="batch")
    file = assert_ok(http.post("/files", content=body, headers=headers))
    given = {"input_file_id": file["id"], "endpoint": "/v1/embeddings", "completion_window": "24h"}
    json_type = {"Content-Type": "application/json"}
    batch = assert_ok(http.post("/batches", content=chunks(json.dumps(given).encode(), 10), headers=json_type))
    assert batch["input_file_id"] == file["id"]
    body, headers = form(JSONL, endpoint="/v1/embeddings")
    assert assert_ok(http.post("/batches", content=chunks(body, 100), headers=headers))["status"] == "validating"


def test_an_empty_body_in_chunks(http):
    for kind in ("application/json", "multipart/form-data; boundary=b0"):
        response = http.post("/batches", content=iter([]), headers={"Content-Type": kind})
        assert response.status_code == 400, response.text


def test_chunks_with_extensions_and_trailers(http, key):
    body, headers = form(JSONL, purpose="batch")
    sent = b"".join(b"%x;name=value\r\n%s\r\n" % (len(one), one) for one in chunks(body, 33))
    head = f"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n"
    head += f"Content-Type: {headers['Content-Type']}\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
    status, answer = raw(http, head.encode() + sent + b"0\r\nX-Sum: 1\r\n\r\n")
    assert (status, json.loads(answer)["bytes"]) == (200, len(JSONL))


def test_too_much_in_chunks(http):
    body, headers = form(bytes(9 * MB), purpose="user_data")
    response = http.post("/files", content=chunks(body, MB), headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")
    response = http.post(
        "/batches", content=chunks(b" " * (4 * MB + 1), MB), headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 413
    assert not File.objects.exists()


def test_the_official_client_streams_what_has_no_length(address, key):
    import openai

    class Endless(io.RawIOBase):
        def __init__(self, data):
            self.data = io.BytesIO(data)

        def readable(self):
            return True

        def readinto(self, buffer):
            return self.data.readinto(buffer)

    client = openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0)
    file = client.files.create(file=("in.jsonl", io.BufferedReader(Endless(JSONL * 3))), purpose="batch")
    assert file.bytes == 3 * len(JSONL)


def raw(http, data):
    with socket.create_connection((http.base_url.host, http.base_url.port), 20) as connection:
        connection.sendall(data)
        answer = connection.makefile("rb").read()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


# Who may send


def test_large_bodies_need_a_key_that_works(http, key):
    body, headers = form(bytes(200_000), purpose="user_data")
    for wrong in ("", "Bearer", "Bearer sk-vbs-wrong", "Basic eDp5"):
        response = httpx.post(f"{http.base_url}files", content=body, headers=headers | {"Authorization": wrong})
        assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
        assert response.headers["www-authenticate"] == "Bearer"
    assert_ok(http.post("/files", content=body, headers=headers))
    ApiKey.objects.get().revoke()
    response = http.post("/files", content=body, headers=headers)  # on the connection that was just let in
    assert response.status_code == 401
    assert "revoked" in response.json()["error"]["message"]


def test_large_forms_need_somebody_who_has_signed_in(address, transactional_db):
    body, headers = form(bytes(200_000))
    for path in ("/batches/new", "/batches/new/check", "/login", "/nowhere", "/admin/"):
        response = httpx.post(f"{address}{path}", content=body, headers=headers)
        assert response.status_code == 401, path
        assert response.json()["error"]["code"] == "not_signed_in"
    browser = Client()
    browser.force_login(User.objects.create_superuser("root"))
    signed = {"Cookie": f"sessionid={browser.cookies['sessionid'].value}"}
    response = httpx.post(f"{address}/batches/new", content=body, headers=headers | signed)
    assert response.status_code == 403  # let in, and then asked where the form comes from
    assert httpx.post(f"{address}/login", data={"username": "x", "password": "y"}).status_code == 403
    User.objects.get().delete()
    assert httpx.post(f"{address}/batches/new", content=body, headers=headers | signed).status_code == 401


def test_who_leaves_out_v1_is_told_so_also_with_a_large_file(address, http):
    body, headers = form(bytes(200_000), purpose="batch")
    response = httpx.post(
        f"{address}/files", content=body, headers=headers | {"Authorization": http.headers["Authorization"]}
    )
    assert response.status_code == 404


def test_open_mode_lets_in_who_comes_from_here(transactional_db, settings):
    settings.VBS_API_AUTH = "open"
    host, here = (b"host", b"localhost:4080"), (b"origin", b"http://localhost:4080")
    elsewhere = (b"origin", b"http://evil.example")
    for headers, status in (
        ([], None), ([host], None), ([host, here], None), ([host, elsewhere], 403), ([(b"host", b"evil.example")], 400),
    ):  # fmt: skip
        refusal = admit(RequestHead("POST", "/v1/files", headers, None, "127.0.0.1"))
        assert (refusal and refusal.status) == status, headers


def test_the_limit_of_open_files_is_raised(door):
    assert psutil.Process(door.process.pid).rlimit(psutil.RLIMIT_NOFILE) == (4096, 4096)
