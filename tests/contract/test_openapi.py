"""/openapi.json is true: it lists what is served, and what is served is as it says. And no input makes a 500."""

import io
import json
import re
import time

import httpx
import jsonschema  # type: ignore[import-untyped]
import pytest
from django.urls import get_resolver
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.contract.described import METHODS, resolved, strict
from tests.live import CHAT, line


@pytest.fixture(scope="package")
def ids(vbs, operator):
    """One of each object, to fill the paths with."""
    batch = vbs.run([line("a"), line("bad", max_tokens=-1)], metadata={"team": "x"})
    failed = vbs.run([{"custom_id": "a"}])
    file = vbs.client.files.create(file=("a", io.BytesIO(b"x")), purpose="user_data")
    upload = vbs.client.uploads.create(bytes=1, filename="a", mime_type="x/y", purpose="user_data")
    name = ["scripted"]  # of a model, which may also be an alias
    asked = vbs.http.post("/registry/models/scripted/test", headers=operator).json()
    return {
        "batch_id": [batch.id, failed.id], "file_id": [file.id], "upload_id": [upload.id], "name": name,
        "operation_id": [asked["id"]],
    }  # fmt: skip


def served():
    """Path and methods of every route below /v1/ and of the health routes, from the URL configuration."""
    for pattern in get_resolver("vbs.urls").url_patterns:
        route = str(pattern.pattern)
        if route.startswith(("v1/", "ready")) and hasattr(pattern.callback, "view_class"):
            names = {one for one in METHODS if hasattr(pattern.callback.view_class, one)}
            yield "/" + re.sub(r"<\w+:(\w+)>", r"{\1}", route), names


def test_it_is_an_openapi_document(document):
    assert re.fullmatch(r"3\.[01]\.\d+", document["openapi"])
    assert document["info"]["title"] == "vbs" and document["paths"]
    operations = [one for path in document["paths"].values() for name, one in path.items() if name in METHODS]
    names = [one["operationId"] for one in operations]
    assert len(names) == len(set(names)), "every operation has a name of its own"
    for operation in operations:
        assert operation["responses"], operation["operationId"]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            stated = {one["name"] for one in operation.get("parameters", []) if one["in"] == "path"}
            assert stated == set(re.findall(r"{(\w+)}", path)), (method, path)
    references = re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document))
    assert set(references) <= set(document.get("components", {}).get("schemas", {}))
    for schema in document.get("components", {}).get("schemas", {}).values():
        jsonschema.Draft202012Validator.check_schema(resolved(schema, document))


def test_it_says_how_to_authenticate(document):
    schemes = document["components"]["securitySchemes"]
    assert any(one["type"] == "http" and one["scheme"] == "bearer" for one in schemes.values())
    assert document["paths"]["/v1/batches"]["post"]["security"]
    assert not document["paths"]["/ready"]["get"].get("security")


def test_it_lists_every_route_and_method_and_no_other(document):
    listed = {path: set(methods) & set(METHODS) for path, methods in document["paths"].items() if path != "/health"}
    assert listed == dict(served())


def test_every_error_is_described(document):
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if not path.startswith("/v1/"):
                continue
            errors = {status for status in operation["responses"] if status >= "400"}
            assert {"401", "500"} <= errors, (method, path)
            for status in errors:
                schema = operation["responses"][status]["content"]["application/json"]["schema"]
                error = resolved(schema, document)["properties"]["error"]
                assert set(error["required"]) == {"message", "type", "param", "code"}


def test_every_get_answers_as_described(vbs, document, ids):
    seen = 0
    for path, methods in document["paths"].items():
        if "get" not in methods or path == "/health":
            continue
        for value in ids.get((re.findall(r"{(\w+)}", path) or [""])[0], [""]):
            answer = vbs.http.get(vbs.stack.url + re.sub(r"{\w+}", value, path))
            described = methods["get"]["responses"][str(answer.status_code)]["content"]
            kind = answer.headers["content-type"].split(";")[0]
            assert kind in described, (path, kind, list(described))
            if kind == "application/json":
                jsonschema.validate(answer.json(), strict(resolved(described[kind]["schema"], document)))
                seen += 1
    assert seen >= 9


def test_results_are_described_in_every_format(vbs, document, ids):
    described = document["paths"]["/v1/batches/{batch_id}/results"]["get"]
    (formats,) = [one["schema"]["enum"] for one in described["parameters"] if one["name"] == "format"]
    kinds = set()
    for name in formats:
        for more in ({}, {"join": "input"}):
            answer = vbs.http.get(f"/batches/{ids['batch_id'][0]}/results", params={"format": name, **more})
            assert answer.status_code == 200 and answer.content
            kinds.add(answer.headers["content-type"].split(";")[0])
    assert kinds == set(described["responses"]["200"]["content"])


def test_every_error_answers_as_described(vbs, document):
    for path, methods in document["paths"].items():
        for method in set(methods) & set(METHODS):
            if not path.startswith("/v1/"):
                continue
            url = vbs.stack.url + re.sub(r"{\w+}", "nope", path)
            answer = vbs.http.request(method, url, headers={"Authorization": "Bearer wrong"})
            schema = methods[method]["responses"]["401"]["content"]["application/json"]["schema"]
            jsonschema.validate(answer.json(), strict(resolved(schema, document)))
            if "{" in path:
                answer = vbs.http.request(method, url)
                assert str(answer.status_code) in methods[method]["responses"], (method, path, answer.text)


def test_writes_answer_as_described(vbs, document):
    def conforms(answer, path, method="post"):
        assert answer.status_code == 200, answer.text
        schema = document["paths"][path][method]["responses"]["200"]["content"]["application/json"]["schema"]
        jsonschema.validate(answer.json(), strict(resolved(schema, document)))
        return answer.json()

    http = vbs.http
    file = conforms(http.post("/files", files={"file": ("a", b"{}")}, data={"purpose": "batch"}), "/v1/files")
    given = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "24h"}
    batch = conforms(http.post("/batches", json=given), "/v1/batches")
    conforms(http.post("/batches", files={"file": ("a", json.dumps(line("a")))}), "/v1/batches")
    vbs.wait(vbs.retrieve(batch["id"]))
    conforms(http.delete(f"/batches/{batch['id']}"), "/v1/batches/{batch_id}", "delete")
    conforms(http.delete(f"/files/{file['id']}"), "/v1/files/{file_id}", "delete")
    given = {"bytes": 2, "filename": "a", "mime_type": "x/y", "purpose": "batch"}
    upload = conforms(http.post("/uploads", json=given), "/v1/uploads")
    part = conforms(
        http.post(f"/uploads/{upload['id']}/parts", files={"data": ("a", b"{}")}), "/v1/uploads/{upload_id}/parts"
    )
    given = {"part_ids": [part["id"]]}
    conforms(http.post(f"/uploads/{upload['id']}/complete", json=given), "/v1/uploads/{upload_id}/complete")
    again = conforms(http.post("/uploads", json={"bytes": 2, "filename": "a", "mime_type": "x", "purpose": "batch"}),
                     "/v1/uploads")  # fmt: skip
    conforms(http.post(f"/uploads/{again['id']}/cancel"), "/v1/uploads/{upload_id}/cancel")


def test_writes_of_the_registry_answer_as_described(vbs, document, operator):
    def conforms(method, route, path, body=None, status=200):
        answer = vbs.http.request(method, f"/registry/{route}", json=body, headers=operator)
        assert answer.status_code == status, answer.text
        described = document["paths"][f"/v1/registry/{path}"][method.lower()]["responses"][str(status)]
        schema = described["content"]["application/json"]["schema"]
        jsonschema.validate(answer.json(), strict(resolved(schema, document)))
        return answer.json()

    conforms("POST", "models", "models", {"name": "o/new", "source": "scripted:", "engine_args": {"latency-ms": 1}})
    conforms("PATCH", "models/o/new", "models/{name}", {"notes": "x"})
    conforms("PUT", "aliases/@new", "aliases/{name}", {"model": "o/new"})
    conforms("GET", "aliases/@new", "aliases/{name}")
    conforms("GET", "aliases", "aliases")
    asked = conforms("POST", "models/o/new/test", "models/{name}/test", {"options": {"prompt": "Hi"}}, 202)
    conforms("GET", "operations", "operations")
    end = time.monotonic() + 60
    while (found := conforms("GET", f"operations/{asked['id']}", "operations/{operation_id}"))["finished_at"] is None:
        assert time.monotonic() < end
        time.sleep(0.2)
    assert found["state"] == "succeeded", found
    conforms("POST", "paste", "paste", {"text": "vllm serve org/name --port 1 --host x --middleware y"})
    conforms("DELETE", "models/o/new?dry_run=true", "models/{name}")
    conforms("DELETE", "aliases/@new", "aliases/{name}")
    conforms("DELETE", "models/o/new", "models/{name}")


def test_the_page_needs_nothing_from_elsewhere(vbs):
    page = vbs.http.get(f"{vbs.stack.url}/docs").text
    for address in re.findall(r"""(?:src|href)=["']([^"']+)""", page):
        assert not address.startswith(("http", "//")), address
        assert address.startswith("#") or vbs.http.get(vbs.stack.url + address).status_code in (200, 302), address


# Whatever is sent, it is not a 500.

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
values = st.recursive(scalars, lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(), one, max_size=3))
FIELDS = [
    "input_file_id", "endpoint", "completion_window", "metadata", "priority", "output_expires_after", "expires_after",
    "filename", "purpose", "bytes", "mime_type", "part_ids", "md5", "anchor", "seconds", "after", "limit", "order",
    "prompt", "system", "id_column", "parameters", "model",
]  # fmt: skip
GOOD = st.sampled_from(["24h", CHAT, "batch", "x", 1, ["part_x"], {"anchor": "created_at", "seconds": 3600}])
bodies = st.dictionaries(st.sampled_from(FIELDS), values | GOOD, max_size=8) | values
queries = st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), st.text(max_size=20), max_size=4)
examples = settings(
    max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def never_500(answer):
    assert answer.status_code < 500, (answer.request.method, answer.request.url, answer.request.content, answer.text)
    if answer.status_code >= 400:
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@examples
@given(body=bodies)
def test_any_body(vbs, ids, body):
    content = json.dumps(body).encode()  # with NaN and lone surrogates, as json writes them
    for path, methods in served():
        if "post" in methods and path.startswith("/v1/"):
            path = re.sub(r"{(\w+)}", lambda match: ids[match[1]][0], path.removeprefix("/v1"))
            never_500(vbs.http.post(path, content=content, headers={"Content-Type": "application/json"}))


OF_MODELS = [
    "name", "source", "hub_id", "paste", "text", "model", "base", "task", "engine_args", "license", "notes", "file",
    "revision", "token", "trust_remote_code", "allow_pickle", "remote_name", "pool",
]  # fmt: skip
SOURCES = st.sampled_from(["scripted:", "/etc", "~", "o/n", "http://127.0.0.1/v1", "vllm serve o/n", True, {}, "m"])


@examples
@given(body=st.dictionaries(st.sampled_from(OF_MODELS), values | SOURCES, max_size=6) | values)
def test_any_body_of_an_operator(vbs, operator, body):
    content = json.dumps(body).encode()
    headers = operator | {"Content-Type": "application/json"}
    for method, route in (("POST", "models"), ("PATCH", "models/vectors"), ("PUT", "aliases/x"), ("POST", "paste")):
        never_500(vbs.http.request(method, f"/registry/{route}", content=content, headers=headers))


@examples
@given(query=queries)
def test_any_query(vbs, ids, query):
    query = {key: value.encode("utf-8", "surrogatepass") for key, value in query.items()}
    for path, methods in served():
        if "get" in methods:
            path = re.sub(r"{(\w+)}", lambda match: ids[match[1]][0], path)
            never_500(vbs.http.get(vbs.stack.url + path, params=query))


@examples
@given(form=st.dictionaries(st.sampled_from([*FIELDS, "metadata[a]", "expires_after[seconds]", "file", "metadata["]),
                            st.text(max_size=30), max_size=5))  # fmt: skip
def test_any_form(vbs, form):
    form = {key: value.encode("utf-8", "surrogatepass") for key, value in form.items()}
    for route in ("/files", "/batches"):
        never_500(vbs.http.post(route, data=form, files={"file": ("a", b'{"a": 1}')}))
        never_500(vbs.http.post(route, data=form, files={"other": ("a", b"{}")}))


@examples
@given(name=st.text(max_size=30))
def test_any_id(vbs, name):
    url = httpx.URL(vbs.stack.url)
    for path, methods in served():
        if "{" in path and "get" in methods:
            quoted = "".join(f"%{byte:02x}" for byte in name.encode("utf-8", "surrogatepass"))
            never_500(vbs.http.get(url.copy_with(raw_path=re.sub(r"{\w+}", quoted, path).encode())))
