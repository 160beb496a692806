"""What may be done over the API is guarded at each of its addresses: all of them are tried with every kind of key."""

import asyncio
import json
import re

import pytest
from asgiref.sync import sync_to_async
from django.core.serializers import serialize
from django.db import connections
from django.test import Client
from django.utils import timezone

from batches.files import blobs
from batches.models import Batch, BatchEvent, BatchRequest, File, Upload, UploadPart
from models_registry.models import Alias, Download, HubToken, Measurement, Model, Operation, Worker
from tests.vbs.admin.test_admin import rows
from tests.vbs.pages.test_every_action import patterns
from vbs.accounts.models import ApiKey, Project

METHODS = ("get", "head", "post", "put", "patch", "delete")
PATHS = sorted({route for _, route in patterns() if route.startswith("v1/") and not route.startswith("v1(")})
BOOKS = (File, Upload, UploadPart, Batch, BatchRequest, BatchEvent, Model, Alias, Operation, Download, Measurement)
FOLDER = "/srv/secret/place"
SECRETS = (FOLDER, "10.9.8.7", "somebody else", "token-1", "hf_secret", "the prompt of another")


@pytest.fixture
def world(db, settings, monkeypatch):
    """One project with one of everything, and what answers for each name in an address."""
    settings.VBS_HUB_URL = "http://127.0.0.1:9"  # nobody listens there
    project = Project.objects.create(name="one")
    batch = rows(project, 1)
    model = Model.objects.get(name="model 1")
    Model.objects.create(name="here", kind="vllm", source=FOLDER, state="failed", reason=f"no {FOLDER}/config.json")
    token = HubToken.objects.get()
    Model.objects.create(
        name="remote",
        kind="remote",
        source="http://10.9.8.7/v1",
        pool=["http://10.9.8.7:8/v1"],
        remote_name="somebody else's",
    )
    Model.objects.filter(name="here").update(hub_token=token)
    Download.objects.update(reason=f"{FOLDER} is full")
    path = blobs.folder() / File.objects.get().blob
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"{}\n")
    operation = Operation.objects.get()
    Operation.objects.update(
        asked_by="somebody else", error=f"no {FOLDER}", log=FOLDER, options={"prompt": "the prompt of another"},
        result={"answer": "the prompt of another"},
    )  # fmt: skip
    Worker.objects.update(engine_url="http://10.9.8.7/v1", heartbeat_at=timezone.now(), home=FOLDER, lanes=LANES)
    names = {
        "file_id": File.objects.get().pk, "upload_id": Upload.objects.get().pk, "batch_id": batch.pk,
        "operation_id": operation.pk, "name": model.name,
    }  # fmt: skip
    return project, names


LANES = [
    {
        "model": "remote", "state": "running", "why": "", "activity": "Running a batch on remote", "window": 16,
        "in_flight": 3, "requests_per_second": 1.5, "addresses": [
            {"url": "http://10.9.8.7/v1", "state": "open", "why": "", "limit": 16, "in_flight": 3, "until": None},
            {"url": "http://10.9.8.7:8/v1", "state": "held", "why": "it answered 429", "limit": 8, "in_flight": 0,
             "until": 1.5},
        ],
    }
]  # fmt: skip


def key(project, operator=False):
    secret = ApiKey.objects.issue(project, "key", operator=operator)[1]
    return Client(headers={"Authorization": f"Bearer {secret}"}, raise_request_exception=False)


def address(route, names):
    for name, value in names.items():
        for kind in ("str", "path"):
            route = route.replace(f"<{kind}:{name}>", value.replace(" ", "%20"))
    assert "<" not in route
    return f"/{route}"


def ask(client, method, at):
    body = "" if method in ("get", "head") else json.dumps({"notes": "changed", "model": "here"})
    answer = client.generic(method.upper(), at, body, content_type="application/json" if body else "")
    assert answer.status_code < 500, (method, at, answer.status_code)
    return answer


def content(answer):
    if not answer.streaming:
        return answer.content

    async def read():
        try:
            return b"".join([piece async for piece in answer])
        finally:
            await sync_to_async(connections.close_all)()  # those of its thread

    return asyncio.run(read()) if answer.is_async else b"".join(answer)


def books():
    """All that a key could change."""
    return [serialize("json", model.objects.order_by("pk")) for model in BOOKS]


def test_there_are_addresses():
    assert len(PATHS) >= 35


def test_without_a_key_nothing(world):
    before = books()
    for client in (Client(), Client(headers={"Authorization": "Bearer sk-vbs-wrong"})):
        for route in PATHS:
            for method in METHODS:
                answer = ask(client, method, address(route, world[1]))
                assert answer.status_code in (401, 405), (method, route, answer.status_code)
    assert books() == before


@pytest.mark.parametrize("operator", [False, True])
def test_what_is_another_projects_is_not_there(world, operator):
    stranger, before = key(Project.objects.create(name="two"), operator), books()
    for route in PATHS:
        if re.search("<str:(file|upload|batch)_id>", route):
            for method in METHODS:
                allowed = (404, 405) if method in ("get", "head") else (400, 404, 405)
                assert ask(stranger, method, address(route, world[1])).status_code in allowed, (method, route)
    assert books() == before


def test_no_list_shows_what_is_another_projects(world):
    stranger = key(Project.objects.create(name="two"))
    names = {world[1][name] for name in ("file_id", "upload_id", "batch_id")}
    for route in PATHS:
        if "<" not in route and "registry" not in route:
            said = content(ask(stranger, "get", f"/{route}")).decode()
            assert not [one for one in names if one in said], route


def test_a_plain_key_changes_nothing_of_the_registry(world):
    plain, before = key(world[0]), books()
    for route in PATHS:
        for method in ("post", "put", "patch", "delete") if route.startswith("v1/registry") else ():
            expected = (400,) if route == "v1/registry/paste" and method == "post" else (403, 405)
            assert ask(plain, method, address(route, world[1])).status_code in expected, (method, route)
    assert books() == before


def test_a_plain_key_is_told_nothing_of_the_server(world):
    """Neither folders and addresses, nor what others have asked and were answered."""
    plain = key(world[0])
    for route in PATHS:
        for name in ("model 1", "here", "remote", "alias 1") if "<path:name>" in route else ("here",):
            said = content(ask(plain, "get", address(route, world[1] | {"name": name}))).decode()
            assert not [secret for secret in SECRETS if secret in said], (route, said[:1000])


def test_an_operators_key_is_told_so(world):
    operator = key(world[0], operator=True)
    said = content(ask(operator, "get", "/v1/registry/models")).decode()
    assert FOLDER in said and "10.9.8.7" in said
    assert FOLDER in content(ask(operator, "get", f"/v1/registry/operations/{world[1]['operation_id']}")).decode()
