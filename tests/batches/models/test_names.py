"""The name of a batch: where it comes from, and how it is changed."""

import json

import pytest
from django.utils import timezone

from batches.intake import submit
from batches.models import MOST_NAME, Batch, File
from tests.batches.models.test_migrations import migrated  # noqa: F401
from tests.engines import CHAT, fresh
from vbs.accounts.models import Project

HOSTILE = "<script>alert(1)</script>\x1b[31m\u202egnp.exe"


def a_file(project, filename):
    return File.objects.create(
        project=project, filename=filename, purpose="batch", format="jsonl", bytes=1, status="available"
    )


@pytest.mark.parametrize(
    "filename, name",
    [
        ("reviews.jsonl", "reviews"),
        ("Reviews of March.csv", "Reviews of March"),
        ("a.b.jsonl", "a.b"),
        ("noending", "noending"),
        (".jsonl", ".jsonl"),
        ("x" * 490 + ".jsonl", "x" * MOST_NAME),
        ("..", ".."),
    ],
)
def test_without_one_it_is_that_of_the_file(project, filename, name):
    file = a_file(project, filename)
    batch = submit.create(project, file.pk, CHAT, "24h")
    assert fresh(batch).name == name and fresh(batch).title == (name or batch.pk)


def test_what_is_given_wins_and_what_is_missing_has_none(project):
    file = a_file(project, "reviews.jsonl")
    assert submit.create(project, file.pk, CHAT, "24h", name="mine").title == "mine"
    batch = submit.create(project, "file-none", CHAT, "24h")
    assert batch.name == "" and batch.title == batch.pk


def test_a_retry_has_the_name_too(project, add_model, submitted, gpu, close):
    from tests.engines import line

    add_model()
    batch = submitted([line("a", max_tokens=-1)], name="twice")
    gpu.serve()
    close(batch)
    assert fresh(batch).retry().name == "twice"


# The API


@pytest.fixture
def api(settings, client, db):
    settings.VBS_API_AUTH = "open"
    Project.objects.get_or_create(name="default")

    def post(address, body):
        return client.post(address, body, content_type="application/json")

    return post


def created(api, **fields):
    body = {"input_file_id": "file-none", "endpoint": CHAT, "completion_window": "24h"} | fields
    return api("/v1/batches", body)


def test_it_is_given_when_a_batch_is_made(api, client):
    for given, name in (("mine", "mine"), (" mine ", "mine"), ("", None), ("  ", None), (None, None), ("é 🎉", "é 🎉")):
        made = created(api, name=given).json()
        assert made["name"] == name == client.get(f"/v1/batches/{made['id']}").json()["name"]
    assert created(api).json()["name"] is None


@pytest.mark.parametrize("given", ["x" * (MOST_NAME + 1), 5, ["a"], {"a": "b"}, "a\0b", True])
def test_what_is_no_name_is_refused(api, given):
    for answer in (created(api, name=given), api(f"/v1/batches/{created(api).json()['id']}", {"name": given})):
        assert answer.status_code == 400 and answer.json()["error"]["param"] == "name", answer.content


def test_it_is_changed_at_any_time_and_alone(api):
    made = created(api, name="before", priority=3).json()
    Batch.objects.update(status="completed", completed_at=timezone.now())
    answer = api(f"/v1/batches/{made['id']}", {"name": "after"})
    assert answer.status_code == 200 and answer.json()["name"] == "after" and answer.json()["priority"] == 3
    assert Batch.objects.get().events.last().message == "Its name was changed to 'after'."
    assert api(f"/v1/batches/{made['id']}", {"name": " "}).status_code == 400
    assert api(f"/v1/batches/{made['id']}", {}).json()["error"]["message"].startswith("There is nothing to change")


def test_both_or_neither(api):
    made = created(api, name="before").json()
    Batch.objects.update(status="completed")
    assert api(f"/v1/batches/{made['id']}", {"name": "after", "priority": 5}).status_code == 409
    assert Batch.objects.get().name == "before"


def test_strange_names_stay_text(api, client):
    made = created(api, name=HOSTILE).json()
    assert made["name"] == HOSTILE and json.loads(client.get("/v1/batches").content)["data"][0]["name"] == HOSTILE


# Tables with rows


def test_batches_from_before_have_none_and_are_found_by_their_metadata(migrated, client, root):  # noqa: F811
    old = migrated("0014_in_flight_seconds").get_model("batches", "Batch")
    project, now = Project.objects.create(name="project"), timezone.now()
    old.objects.create(
        id="batch_old", project_id=project.pk, endpoint=CHAT, completion_window="24h", expires_at=now,
        metadata={"team": "search"}, input_file_id_given="x",
    )  # fmt: skip
    migrated(None)
    assert Batch.objects.get().title == "batch_old"
    assert "row-batch_old" in root.get("/batches/", {"words": "search"}).content.decode()
