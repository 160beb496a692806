"""A creation that is sent twice with the same Idempotency-Key is done once, whenever the first is cut off."""

import json
import threading
from datetime import timedelta

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import OperationalError, connection
from django.http import QueryDict
from django.test import Client
from django.utils import timezone

from batches.models import Batch, File, Upload, UploadPart
from models_registry.models import Model, Operation
from tests.engines import CHAT, line, lines_of
from vbs import upkeep
from vbs.accounts.models import ApiKey, KeptAnswer, Project
from vbs.openai import idempotency

LINE = json.dumps(line("a")).encode() + b"\n"
CREATE = {"input_file_id": "file-x", "endpoint": CHAT, "completion_window": "24h"}


@pytest.fixture
def api(project):
    return client_of(project)


def client_of(project, operator=True):
    _, secret = ApiKey.objects.issue(project, "test", operator=operator)
    return Client(headers={"Authorization": f"Bearer {secret}"}, raise_request_exception=False)


def post(api, path, body=None, key="k", **form):
    headers = {} if key is None else {"Idempotency-Key": key}
    if form:
        return api.post(f"/v1{path}", form, headers=headers)
    return api.post(f"/v1{path}", body, content_type="application/json", headers=headers)


def upload(content=LINE, name="in.jsonl"):
    return SimpleUploadedFile(name, content)


def same(first, second):
    assert first.status_code == second.status_code < 300, (first.content, second.content)
    assert first.content == second.content
    return first.json()


def conflicts(answer):
    assert answer.status_code == 409 and answer.json()["error"]["code"] == "idempotency_conflict", answer.content
    return answer.json()["error"]


def test_a_batch(api):
    made = same(post(api, "/batches", CREATE), post(api, "/batches", CREATE))
    assert [batch.pk for batch in Batch.objects.all()] == [made["id"]] and made["estimate"]
    same(post(api, "/batches", CREATE), post(api, "/batches", json.dumps(dict(reversed(CREATE.items())), indent=3)))
    assert conflicts(post(api, "/batches", CREATE | {"metadata": {"a": "b"}}))["param"] == "Idempotency-Key"
    assert Batch.objects.count() == 1
    assert post(api, "/batches", CREATE, key="other").json()["id"] != made["id"]
    assert post(api, "/batches", CREATE, key=None).json()["id"] != post(api, "/batches", CREATE, key=None).json()["id"]


def test_a_file(api):
    def send(content=LINE, name="in.jsonl", **form):
        return post(api, "/files", file=upload(content, name), purpose="batch", **form)

    made = same(send(), send())
    assert File.objects.get(status="available").pk == made["id"]
    for other in (send(b"[]\n"), send(name="other"), send(**{"expires_after[anchor]": "created_at"})):
        conflicts(other)
    assert lines_of(File.objects.get(pk=made["id"])) == [json.loads(LINE)]


def test_a_batch_with_its_file(api):
    def send(**form):
        return post(api, "/batches", file=upload(), **form)

    made = same(send(), send())
    assert Batch.objects.get().pk == made["id"] and File.objects.get(status="available").pk == made["input_file_id"]
    conflicts(send(priority="3"))


def test_an_upload_its_parts_and_its_end(api):
    about = {"filename": "a", "purpose": "batch", "bytes": len(LINE), "mime_type": "x/y"}
    made = same(post(api, "/uploads", about), post(api, "/uploads", about))
    assert Upload.objects.count() == 1
    path = f"/uploads/{made['id']}"
    part = same(*(post(api, f"{path}/parts", data=upload()) for _ in range(2)))
    assert UploadPart.objects.count() == 1
    conflicts(post(api, f"{path}/parts", data=upload(b"other")))
    ended = same(*(post(api, f"{path}/complete", {"part_ids": [part["id"]]}) for _ in range(2)))
    assert ended["status"] == "completed" and File.objects.get(status="available").pk == ended["file"]["id"]
    assert post(api, f"{path}/complete", {"part_ids": [part["id"]]}, key=None).status_code == 409


def test_a_retry(api, submitted, add_model):
    add_model()
    batch = submitted([line("a")])
    batch.requests.update(state=2, error_code="x", error_message="y")
    Batch.objects.filter(pk=batch.pk).update(status="completed", failed=1)
    made = same(*(post(api, f"/batches/{batch.pk}/retry") for _ in range(2)))
    assert Batch.objects.get(retry_of=batch).pk == made["id"]


def test_a_model_and_an_operation(api):
    about = {"name": "new", "hub_id": "org/new"}
    made = same(post(api, "/registry/models", about), post(api, "/registry/models", about))
    assert Model.objects.get().name == made["id"] == "new"
    assert post(api, "/registry/models", about, key=None).status_code == 409
    Model.objects.update(state="ready", kind="scripted")
    same(*(post(api, "/registry/models/new/load") for _ in range(2)))
    assert Operation.objects.count() == 1


def test_a_model_whose_download_cannot_start_is_not_added(api, settings):
    settings.VBS_HUB_URL = "http://127.0.0.1:9"
    answer = post(api, "/registry/models", {"name": "new", "hub_id": "org/new", "fetch": True})
    assert answer.status_code == 400 and not Model.objects.exists() and not KeptAnswer.objects.exists()


def test_keys_are_of_a_project_and_a_route(api, project):
    other = client_of(Project.objects.create(name="other"))
    ids = {one.json()["id"] for one in (post(api, "/batches", CREATE), post(other, "/batches", CREATE))}
    assert len(ids) == 2
    about = {"filename": "a", "purpose": "batch", "bytes": 3, "mime_type": "x/y"}
    assert post(api, "/uploads", about).status_code == 200
    assert same(post(api, "/batches/", CREATE), post(api, "/batches", CREATE))["id"] in ids, "a slash is no other route"


@pytest.mark.parametrize("key", ["", "x" * 256, "a\x7fb", "\u00a0", "tab\there"])
def test_what_is_no_key(api, key):
    answer = post(api, "/batches", CREATE, key=key.encode().decode("latin-1"))
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "Idempotency-Key"
    assert post(api, "/batches", CREATE, key="x" * 255).status_code == 200


def test_a_body_that_was_refused_may_be_mended(api):
    assert post(api, "/batches", CREATE | {"endpoint": "/v1/x"}).status_code == 400
    assert post(api, "/batches", CREATE).status_code == 200
    for body in ("{", "[" * 900 + "]" * 900, '{"a": 1e999}'):
        assert post(api, "/batches", body, key="odd").status_code == 400


def test_it_is_kept_for_a_day(api):
    first = post(api, "/batches", CREATE).json()
    KeptAnswer.objects.update(created_at=timezone.now() - timedelta(hours=23, minutes=59))
    upkeep.run()
    assert post(api, "/batches", CREATE).json() == first
    KeptAnswer.objects.update(created_at=timezone.now() - timedelta(hours=24, seconds=1))
    second = post(api, "/batches", CREATE).json()
    assert second["id"] != first["id"], "also when the sweep was not there yet"
    assert post(api, "/batches", CREATE).json() == second
    KeptAnswer.objects.update(created_at=timezone.now() - timedelta(hours=25))
    upkeep.run()
    assert not KeptAnswer.objects.exists()


@pytest.mark.parametrize("before", [True, False])
def test_cut_off_around_the_answer(api, monkeypatch, before):
    """Neither the object nor the answer, or both."""
    real = KeptAnswer.objects.all().__class__.update

    def die(rows, **values):
        if rows.model is KeptAnswer:
            if not before:
                real(rows, **values)
            raise OperationalError("the connection is lost")
        return real(rows, **values)

    with monkeypatch.context() as patch:
        patch.setattr("django.db.models.query.QuerySet.update", die)
        answer = post(api, "/batches", CREATE)
        assert answer.status_code == 503 and int(answer["Retry-After"]) > 0
    assert not Batch.objects.exists() and not KeptAnswer.objects.exists()
    same(post(api, "/batches", CREATE), post(api, "/batches", CREATE))
    assert Batch.objects.count() == 1


def test_two_at_the_same_time(project):
    """One makes it, the other waits for it and answers the same."""
    clients = [client_of(project) for _ in range(4)]
    gate, answers = threading.Barrier(4), []

    def send(api):
        try:
            gate.wait()
            answers.append(post(api, "/batches", CREATE))
        finally:
            connection.close()

    threads = [threading.Thread(target=send, args=[api]) for api in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {one.status_code for one in answers} == {200} and len({one.content for one in answers}) == 1
    assert Batch.objects.count() == 1


def test_the_fingerprint_leaves_a_file_as_it_was():
    form = QueryDict(mutable=True)
    form.update({"file": upload(b"x" * 300_000), "purpose": "batch"})
    other = QueryDict(mutable=True)
    other.update({"purpose": "batch", "file": upload(b"x" * 300_000)})
    assert idempotency.fingerprint(form) == idempotency.fingerprint(other)
    assert form["file"].read() == b"x" * 300_000, "it is read from its beginning afterwards"


# What comes after the commit


def test_an_estimate_that_fails_is_null_and_the_batch_is_made(api, monkeypatch, caplog):
    def fail(*given):
        raise RuntimeError("a bug in the estimate")

    monkeypatch.setattr("batches.queue.snapshot.current", fail)
    monkeypatch.setattr("batches.intake.sample.look", fail)
    answer = post(api, "/batches", CREATE, key=None)
    assert answer.status_code == 200 and answer.json()["estimate"]["seconds"] is None
    assert Batch.objects.count() == 1 and "a bug in the estimate" in caplog.text
    pk = answer.json()["id"]
    for path in ("/batches", f"/batches/{pk}", "/queue"):
        assert api.get(f"/v1{path}").status_code == 200
    assert post(api, f"/batches/{pk}", {"priority": 3}, key=None).json()["priority"] == 3
    assert post(api, f"/batches/{pk}/cancel", key=None).status_code == 200


def test_nothing_is_asked_of_the_database_once_it_is_made(api):
    """What could fail then would have the client send again."""
    statements = []

    def watch(execute, sql, params, many, context):
        statements.append(sql)
        return execute(sql, params, many, context)

    with connection.execute_wrapper(watch):
        assert post(api, "/batches", CREATE, key=None).status_code == 200
    made = next(index for index, sql in enumerate(statements) if 'INSERT INTO "batches_batch"' in sql)
    after = [sql for sql in statements[made + 1 :] if sql.startswith("SELECT") and "pg_notify" not in sql]
    assert not after, after
