"""What the API tells of a batch's start and end, from its creation on."""

import json
import time

import pytest

from batches.api import wire
from batches.intake import ingest, submit
from batches.models import Batch
from batches.queue import forecast, snapshot
from models_registry.models import Worker
from tests.batches.waiting import (
    lines,
    model,
    one_at_a_time,  # noqa: F401
)
from tests.engines import CHAT
from vbs.accounts.models import Project

# On the wire


def created(project, file, **options):
    return submit.create(project, file.pk, CHAT, "24h", **options)


def test_from_creation_to_the_end(project, stored, worker):
    model("known", 0.5, 10.0)
    batch = created(project, stored(lines(20)))
    shown = wire.batch_object(batch, expected=forecast.of_new(batch))
    assert shown["estimate"] == {
        "seconds": 10, "starts_in_seconds": 10, "requests": 20, "model": "known", "measurements": 1, "reason": None
    }  # fmt: skip
    assert shown["estimated_start_at"] == pytest.approx(time.time() + 10, abs=2)
    assert shown["estimated_completion_at"] == pytest.approx(time.time() + 20, abs=2)
    shown = wire.batch_object(batch)  # in a list, nobody reads files
    assert shown["estimate"]["reason"] and shown["estimate"]["seconds"] is None
    ingest.validate(batch.pk)
    batch.refresh_from_db()
    snapshot.forget()
    shown = wire.batch_object(batch)
    assert shown["estimate"]["seconds"] == 10 and shown["estimate"]["reason"] is None
    assert shown["progress"]["eta_seconds"] is None and shown["queue_position"] == 1
    item = wire.queue_item(batch, 1, own=False)
    assert item["estimated_start_at"] == shown["estimated_start_at"] and item["id"] is None
    assert item["estimated_completion_at"] == shown["estimated_completion_at"]
    Batch.objects.filter(pk=batch.pk).update(status="completed", completed=20)
    batch.refresh_from_db()
    shown = wire.batch_object(batch)
    assert shown["estimate"] is None and shown["estimated_completion_at"] is None


def test_a_new_batch_is_beside_those_that_wait_or_behind_them(project, stored, worker, queued):
    model("known", 0.5, 10.0)
    worker.set(model_name="known")
    before = queued(("known", 100))
    file = stored(lines(4))
    there, beside = forecast.of(before), forecast.of_new(created(project, file))
    assert beside.start_at == there.start_at
    assert (beside.completion_at - beside.start_at).total_seconds() == pytest.approx(4, abs=0.5), "half of the engine"
    behind = forecast.of_new(created(project, file, priority=-1))
    assert (there.completion_at - behind.start_at).total_seconds() == pytest.approx(0.5), "while it has its last answer"
    urgent = wire.batch_object(batch := created(project, file, priority=9), expected=forecast.of_new(batch))
    assert urgent["estimate"]["starts_in_seconds"] == 0


@pytest.mark.parametrize("content", [b"[]\n", lines(3, "nobody"), lines(3, "x" * 5000), lines(3, "new")])
def test_creation_never_fails_for_want_of_an_estimate(project, stored, worker, content):
    model("new")
    batch = created(project, stored(content))
    estimate = wire.batch_object(batch, expected=forecast.of_new(batch))["estimate"]
    assert estimate["reason"] and estimate["seconds"] is None and len(estimate["reason"]) < 300


def test_the_routes_show_it(project, stored, worker, queued, settings, client):
    settings.VBS_API_AUTH = "open"
    model("known", 0.5, 10.0)
    file = stored(lines(20))
    type(file).objects.update(project=Project.objects.get_or_create(name="default")[0])
    worker.set(health={"celsius": 61.0}, activity="The GPU is full")
    Worker.objects.create(cluster="io", hostname="test", pid=2)
    queued(("known", 4))
    given = {"input_file_id": file.pk, "endpoint": CHAT, "completion_window": "24h"}
    shown = client.post("/v1/batches", json.dumps(given), content_type="application/json").json()
    assert shown["estimate"]["requests"] == 20 and "The GPU is full" in shown["estimate"]["reason"]
    assert client.get(f"/v1/batches/{shown['id']}").json()["estimate"]["reason"]
    assert client.get("/v1/batches").json()["data"][0]["estimate"]["reason"]
    queue = client.get("/v1/queue").json()
    assert queue["gpu"] == [{"celsius": 61.0, "waiting_because": "The GPU is full"}]
    assert queue["waiting"][0]["estimated_start_at"] is None
    worker.set(activity="")
    snapshot.forget()
    queue = client.get("/v1/queue").json()
    assert queue["gpu"] == [{"celsius": 61.0, "waiting_because": None}]
    assert queue["waiting"][0]["estimated_start_at"] == pytest.approx(time.time() + 10, abs=2)
