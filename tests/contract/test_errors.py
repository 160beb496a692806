"""Every error on every route is `{"error": {message, type, param, code}}`, whoever makes it."""

import re

import pytest

from models_registry.catalog.rules import VERBS
from vbs.openai.errors import envelope

ENVELOPE = set(envelope("", "")["error"])
ROUTES = [
    "/files", "/files/x", "/files/x/content", "/uploads", "/uploads/x/parts", "/uploads/x/complete",
    "/uploads/x/cancel", "/batches", "/batches/x", "/batches/x/cancel", "/batches/x/retry", "/batches/x/results",
    "/batches/x/errors", "/batches/x/logs", "/queue", "/models", "/models/x", "/registry/models",
    "/registry/models/x", *(f"/registry/models/x/{verb}" for verb in sorted(VERBS)), "/registry/operations",
    "/registry/operations/x", "/registry/operations/x/cancel", "/registry/aliases", "/registry/aliases/x",
    "/registry/paste", "/nothing", "/files/", "",
]  # fmt: skip
TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    405: "invalid_request_error",
    409: "conflict_error", 413: "invalid_request_error", 415: "invalid_request_error", 500: "server_error",
}  # fmt: skip


def check(answer, *statuses):
    assert answer.status_code in statuses, (answer.status_code, answer.text[:300])
    error = answer.json()["error"]
    assert set(error) == ENVELOPE and error["message"]
    assert error["type"] == TYPES[answer.status_code], error
    return error


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_every_route_and_method(vbs, route, method):
    answer = vbs.http.request(method, route)
    if answer.status_code >= 400:
        check(answer, 400, 403, 404, 405, 415)


@pytest.mark.parametrize("route", [route for route in ROUTES if route.startswith("/registry")])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_every_route_of_the_registry_for_an_operator(vbs, operator, route, method):
    for body in (b"", b"{", b"[]", b"null", b'{"name": NaN}', b"[" * 5000):
        headers = operator | {"Content-Type": "application/json"}
        check(vbs.http.request(method, route, content=body, headers=headers), 400, 404, 405)


@pytest.mark.parametrize("route", [route for route in ROUTES if route not in ("/nothing", "/files/", "")])
def test_every_route_needs_a_key(vbs, route):
    for headers in ({"Authorization": ""}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic abc"}):
        answer = vbs.http.request("GET", route, headers=headers)
        check(answer, 401)
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff", b"{}" * 10, b'{"input_file_id": NaN}', b"[" * 5000]
)
def test_any_json_body(vbs, body):
    for route in ("/batches", "/uploads", "/uploads/x/complete"):
        check(vbs.http.post(route, content=body, headers={"Content-Type": "application/json"}), 400, 404)


def test_a_body_of_another_kind(vbs):
    check(vbs.http.post("/batches", content=b"a=b", headers={"Content-Type": "text/csv"}), 415)
    check(vbs.http.post("/files", json={}), 415)


@pytest.mark.parametrize(
    "content", [b"", b"--x", b"--x\r\n\r\n--x--", b"--x\r\nContent-Disposition: form-data\r\n\r\n"]
)
def test_a_broken_multipart_body(vbs, content):
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    check(vbs.http.post("/files", content=content, headers=headers), 400)


def test_too_large(vbs):
    check(vbs.http.post("/batches", json={"metadata": {"a": "x" * 3_000_000}}), 413)
    check(vbs.http.post("/files", files={"file": ("a", b"x" * (66 * 2**20))}, data={"purpose": "user_data"}), 413)


@pytest.mark.parametrize("object_id", ["%00", "..%2F..%2Fetc", "%27%20OR%201=1", "x" * 5000, "%F0%9F%98%80", "%ff"])
def test_odd_ids(vbs, object_id):
    for route in (f"/files/{object_id}", f"/batches/{object_id}", f"/models/{object_id}", f"/files?after={object_id}"):
        check(vbs.http.get(route), 400, 404)


def test_the_request_id_comes_back(vbs):
    answer = vbs.http.get("/queue", headers={"X-Request-ID": "my-id.1"})
    assert answer.headers["x-request-id"] == "my-id.1"
    assert re.fullmatch(
        r"req_[0-9a-f]{24}", vbs.http.get("/queue", headers={"X-Request-ID": "<>"}).headers["x-request-id"]
    )


def test_health_and_ready_need_no_key(vbs):
    base = vbs.stack.url
    for route in ("/health", "/ready", "/openapi.json", "/docs"):
        assert vbs.http.get(f"{base}{route}", headers={"Authorization": ""}).status_code == 200, route
    check(vbs.http.get(f"{base}/metrics", headers={"Authorization": ""}), 401)
    assert "vbs_batches" in vbs.http.get(f"{base}/metrics").text
    assert vbs.http.get(f"{base}/ready").json()["status"] == "ready"
