"""GET /v1/queue: what everybody may know of the queue, and nothing of another project."""

import uuid
from datetime import timedelta

from django.utils import timezone

from batches.models import Batch, BatchStatus
from models_registry.models import Model, Worker, WorkerState
from vbs.accounts.models import ApiKey, Project
from vbs.openai.schema import unix


def running(project, model):
    now = timezone.now()
    return Batch.objects.create(
        project=project, input_file_id_given="file-1", endpoint="/v1/chat/completions", completion_window="24h",
        status=BatchStatus.IN_PROGRESS, model_names=[model], total=10, validated_at=now, in_progress_at=now,
        expires_at=now + timedelta(days=1), leased_by=uuid.uuid4(), leased_until=now + timedelta(minutes=5),
    )  # fmt: skip


def test_all_that_run_on_one_engine_are_told_with_their_shares(db, client):
    mine, other = (Project.objects.create(name=name) for name in ("mine", "other"))
    rows = [running(mine, "small"), running(mine, "small"), running(other, "secret-model")]
    worker = Worker.objects.create(
        cluster="gpu", hostname="here", pid=1, state=WorkerState.RUNNING, activity="Running a batch on small",
        work_kind="batch", work_id=rows[0].pk,
    )  # fmt: skip
    for batch, count, priority in zip(rows, (30, 50, 120), (0, 1, -1), strict=True):
        Batch.objects.filter(pk=batch.pk).update(leased_by=worker.pk, in_flight=count, priority=priority)
    _, secret = ApiKey.objects.issue(mine, "test")
    queue = client.get("/v1/queue", headers={"Authorization": f"Bearer {secret}"}).json()
    [shown] = queue["workers"]
    assert (shown["work_id"], shown["work_ids"]) == (rows[0].pk, [rows[0].pk, rows[1].pk])
    assert shown["activity"] == f"Running a batch on small ({rows[0].pk} and 1 more)"
    found = [(one["id"], one["position"], one["in_flight"], one["share_percent"]) for one in queue["running"]]
    assert found == [(rows[1].pk, 0, 50, 25.0), (rows[0].pk, 0, 30, 15.0), (None, 0, 120, 60.0)]
    Worker.objects.update(work_id=rows[2].pk)
    [shown] = client.get("/v1/queue", headers={"Authorization": f"Bearer {secret}"}).json()["workers"]
    assert (shown["work_id"], shown["work_ids"]) == (None, [rows[1].pk, rows[0].pk])
    assert rows[2].pk not in str(queue) and "secret-model" not in str(queue)


def test_remote_models_are_told_beside_the_engine(db, client):
    mine = Project.objects.create(name="mine")
    Model.objects.create(name="far", kind="remote", source="http://far.lan/v1")
    here, far = running(mine, "small"), running(mine, "far")
    address = {"url": "http://far.lan/v1", "limit": 16, "in_flight": 30, "state": "held", "why": "it is busy",
               "until": 1e9 + 0.5}  # fmt: skip
    lane = {"model": "far", "state": "waiting", "why": "it is busy", "activity": "Running a batch on far"}
    lane |= {"window": 16, "in_flight": 30, "requests_per_second": 1.5}
    worker = Worker.objects.create(
        cluster="gpu", hostname="here", pid=1, state=WorkerState.RUNNING, activity="Running a batch on small",
        work_kind="batch", work_id=here.pk, lanes=[lane | {"addresses": [address]}],
    )  # fmt: skip
    Batch.objects.update(leased_by=worker.pk, in_flight=30)

    def queue(operator):
        _, secret = ApiKey.objects.issue(mine, f"test {operator}", operator=operator)
        return client.get("/v1/queue", headers={"Authorization": f"Bearer {secret}"}).json()

    [shown] = queue(False)["workers"]
    assert shown["lanes"] == [lane | {"addresses": []}] and shown["work_ids"] == [here.pk]
    found = queue(True)
    assert found["workers"][0]["lanes"][0]["addresses"] == [address | {"until": 10**9}]
    assert {one["id"]: one["share_percent"] for one in found["running"]} == {here.pk: 100.0, far.pk: 100.0}


def test_what_a_worker_does_is_told_without_the_batches_of_others(db, client):
    mine, other = (Project.objects.create(name=name) for name in ("mine", "other"))
    own, foreign = running(mine, "small"), running(other, "secret-model")
    for batch in (own, foreign):
        Worker.objects.create(
            cluster="gpu", hostname="here", pid=1, state=WorkerState.RUNNING, activity="Running a batch on a model",
            work_kind="batch", work_id=batch.pk,
        )  # fmt: skip
    _, secret = ApiKey.objects.issue(mine, "test")
    queue = client.get("/v1/queue", headers={"Authorization": f"Bearer {secret}"}).json()
    assert {one["activity"] for one in queue["workers"]} == {
        f"Running a batch on a model ({own.pk})",
        "Running a batch on a model",
    }
    assert {(one["work_kind"], one["work_id"]) for one in queue["workers"]} == {("batch", own.pk), ("batch", None)}
    assert {one["hostname"] for one in queue["workers"]} == {None}
    assert foreign.pk not in str(queue) and "secret-model" not in str(queue)
    assert {one["id"] for one in queue["running"]} == {own.pk, None}
    assert all(one["estimated_start_at"] == unix(own.in_progress_at) for one in queue["running"] if one["id"])
