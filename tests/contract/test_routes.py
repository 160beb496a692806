"""Addresses as clients write them, with a slash, without /v1 or for Azure; lists; and what is said of objects."""

import httpx
import openai
import pytest

from tests.live import CHAT, line


def ask(vbs, method, path, **headers):
    return httpx.request(method, f"{vbs.stack.url}{path}", headers=headers)


def says(answer, *words):
    error = answer.json()["error"]
    assert answer.status_code == 404 and error["type"] == "not_found_error", answer.text
    for word in words:
        assert word in error["message"], error


@pytest.mark.parametrize("route", ["/files", "/batches", "/models", "/queue", "/models/scripted", "/registry/aliases"])
def test_a_slash_makes_no_difference(vbs, route):
    assert vbs.http.get(f"{route}/").json() == vbs.http.get(route).json()


def test_a_slash_makes_no_difference_to_other_methods(vbs):
    given = {"input_file_id": "file-x", "endpoint": CHAT, "completion_window": "24h"}
    made = vbs.http.post("/batches/", json=given)
    assert made.status_code == 200 and not made.history
    assert vbs.http.post(f"/batches/{made.json()['id']}/cancel/").status_code in (200, 409)
    assert vbs.http.delete(f"/batches/{made.json()['id']}/").json()["deleted"] is True
    sent = vbs.http.post("/files/", files={"file": ("a", b"x" * 3_000_000)}, data={"purpose": "user_data"})
    assert sent.status_code == 200, "and its body may be as large"
    for path in ("/health/", "/ready/"):
        assert ask(vbs, "GET", path).status_code == 200
    says(vbs.http.get("/nothing/"), "/v1/nothing")


@pytest.mark.parametrize(
    "path", ["/batches", "/batches/x/cancel", "/files", "/models/nothing", "/chat/completions", "/x"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_base_url_without_v1(vbs, method, path):
    says(ask(vbs, method, path, Authorization="Bearer x"), f"{vbs.stack.url}/v1")
    says(ask(vbs, method, path, Accept="application/json"), f"{vbs.stack.url}/v1")
    says(httpx.post(f"{vbs.stack.url}{path}", json={}), f"{vbs.stack.url}/v1")


def test_the_official_client_without_v1(vbs):
    client = openai.OpenAI(base_url=vbs.stack.url, api_key=vbs.key, max_retries=0)
    for call in (client.batches.list, client.models.list, client.files.list):
        with pytest.raises(openai.NotFoundError, match="The API is at /v1"):
            call()


@pytest.mark.parametrize("path", ["/batches", "/batches/", "/models", "/models/", "/queue/"])
def test_browsers_still_get_pages(vbs, path):
    for headers in ({"Accept": "text/html,*/*;q=0.8"}, {"Accept": "text/html", "Authorization": "Bearer of-a-proxy"}):
        answer = httpx.get(f"{vbs.stack.url}{path}", headers=headers, follow_redirects=True)
        assert answer.status_code == 200 and answer.url.path == "/login"


def test_azure(vbs):
    client = openai.AzureOpenAI(azure_endpoint=vbs.stack.url, api_key=vbs.key, api_version="2025-01-01", max_retries=0)
    with pytest.raises(openai.NotFoundError, match=r"base_url=.*/v1"):
        client.batches.list()
    answer = httpx.get(f"{vbs.url}/batches?api-version=2025-01-01", headers={"api-key": vbs.key})
    assert answer.status_code == 200
    for headers in ({"api-key": "wrong"}, {"api-key": ""}, {"api-key": vbs.key, "Authorization": "Bearer wrong"}):
        assert httpx.get(f"{vbs.url}/batches", headers=headers).status_code == 401, headers


def test_a_base_url_with_v1_twice(vbs):
    says(vbs.http.get("/v1/batches"), "It has /v1 twice")


@pytest.mark.parametrize("given", [{"json": {"x": 1}}, {"files": {"file": ("a", b"{}")}}])
def test_a_compressed_body_is_refused_by_name(vbs, given):
    answer = vbs.http.post("/batches", headers={"Content-Encoding": "gzip"}, **given)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "unsupported_content_encoding") and "'gzip'" in error["message"]


def test_admin_without_its_slash(vbs):
    answer = httpx.get(f"{vbs.stack.url}/admin")
    assert answer.status_code == 302 and answer.headers["location"] == "/admin/"


# Lists


def test_lists_by_status(vbs):
    done, failed = vbs.run([line("a")]), vbs.run([{"custom_id": "a"}])
    found = {one: vbs.http.get(f"/batches?status={one}&limit=100").json()["data"] for one in ("completed", "failed")}
    assert {one["status"] for one in found["completed"]} == {"completed"}
    assert done.id in [one["id"] for one in found["completed"]] and failed.id in [one["id"] for one in found["failed"]]
    error = vbs.http.get("/batches?status=bogus").json()["error"]
    assert (error["param"], error["code"]) == ("status", "invalid_value") and "in_progress" in error["message"]


@pytest.mark.parametrize(
    "route, known",
    [
        ("/files", "after, limit, order, purpose"),
        ("/batches", "after, limit, order, status"),
        ("/queue", "no parameters"),
        ("/registry/models", "no parameters"),
        ("/registry/aliases", "no parameters"),
        ("/registry/operations", "after, limit, order, model, state"),
        ("/registry/models/scripted/measurements", "after, limit, order"),
    ],
)
def test_lists_refuse_what_they_do_not_know(vbs, route, known):
    answer = vbs.http.get(f"{route}?stauts=completed&x%00=1")
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, "stauts", "unknown_parameter")
    assert known in error["message"]
    assert vbs.http.get(f"{route}?api-version=1").status_code == 200


@pytest.mark.parametrize(
    ("route", "name", "values"),
    [
        ("/batches", "status", ("completed", "failed")),
        ("/batches", "limit", ("1", "2")),
        ("/batches", "after", ("batch_a", "batch_b")),
        ("/files", "purpose", ("batch", "batch_output")),
        ("/files", "order", ("asc", "asc")),
        ("/registry/operations", "state", ("open", "all")),
        ("/registry/operations", "model", ("scripted", "scripted")),
        ("/registry/models/scripted/measurements", "limit", ("1", "2")),
        ("/registry/models/scripted/fit", "context", ("1", "2")),
    ],
)
def test_a_parameter_that_is_there_twice_is_refused(vbs, route, name, values):
    """Or the first would be lost without a word."""
    answer = vbs.http.get(route + "?" + "&".join(f"{name}={value}" for value in values))
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, name, "duplicate_parameter")
    assert "2 times" in error["message"]


def test_the_list_of_models_takes_whatever_clients_add(vbs):
    assert vbs.http.get("/models?client_version=1&limit=3").status_code == 200


# Objects


@pytest.mark.parametrize(
    "route, words",
    [
        ("/batches/batch_x", "No batch found with id 'batch_x'."),
        ("/batches/batch_x/results", "No batch found with id 'batch_x'."),
        ("/files/file-x/content", "No file found with id 'file-x'."),
        ("/registry/operations/op_x", "No operation found with id 'op_x'."),
        ("/models/x", "The model 'x' does not exist"),
        ("/batches/a%0d%0ab%1b[0m", "No batch found with id 'a\ufffd\ufffdb\ufffd[0m'."),
        ("/batches/" + "x" * 300, "No batch found with id '" + "x" * 100 + "…'."),
    ],
)
def test_what_is_not_there_is_named(vbs, route, words):
    says(vbs.http.get(route), words)


@pytest.mark.parametrize(
    "name, header",
    [
        ("my prompts.jsonl", 'attachment; filename="my prompts.jsonl"'),
        ("ä\u2028😀.jsonl", "attachment; filename*=utf-8''%C3%A4%F0%9F%98%80.jsonl"),
    ],
)
def test_content_has_a_name(vbs, name, header):
    file = vbs.client.files.create(file=(name, b"x"), purpose="user_data")
    answer = vbs.http.get(f"/files/{file.id}/content")
    assert answer.headers["content-disposition"] == header and answer.headers["x-content-type-options"] == "nosniff"


def test_lines_have_a_name_too(vbs):
    batch = vbs.run([line("a"), line("bad", max_tokens=-1)])
    for kind, shown in (("results", "output"), ("errors", "error")):
        answer = vbs.http.get(f"/batches/{batch.id}/{kind}")
        assert f'filename="{batch.id}_{shown}' in answer.headers["content-disposition"]


def test_metadata_of_a_form_as_json(vbs):
    def create(**data):
        return vbs.http.post("/batches", files={"file": ("a", b'{"a": 1}')}, data=data)

    assert create(metadata='{"team": "x"}').json()["metadata"] == {"team": "x"}
    both = create(**{"metadata": '{"team": "x", "a": "b"}', "metadata[team]": "y"})
    assert both.json()["metadata"] == {"team": "y", "a": "b"}
    assert create(metadata="").json()["metadata"] is None
    kept = create(**{"output_expires_after[anchor]": "created_at", "output_expires_after[seconds]": "1"})
    assert kept.json()["error"]["param"] == "output_expires_after.seconds"
    for wrong in ("{", "[]", "3", '{"a": 1}'):
        answer = create(metadata=wrong)
        assert answer.status_code == 400 and answer.json()["error"]["param"].startswith("metadata"), wrong
