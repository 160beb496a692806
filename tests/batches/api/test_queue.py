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
    assert shown["lanes"] == [lane | {"since": None, "addresses": []}] and shown["work_ids"] == [here.pk]
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


def test_a_failed_remote_model_is_told_with_the_reason_and_its_address_to_operators_alone(db, client):
    mine = Project.objects.create(name="mine")
    lane = {"model": "far", "state": "failed", "why": "it cannot be reached", "activity": "", "since": 10**9}
    lane |= {"detail": "http://far.lan/v1 cannot be reached", "window": 0, "in_flight": 0, "requests_per_second": 0}
    Worker.objects.create(cluster="gpu", hostname="here", pid=1, lanes=[lane | {"addresses": []}])
    found = {}
    for operator in (False, True):
        _, secret = ApiKey.objects.issue(mine, f"test {operator}", operator=operator)
        queue = client.get("/v1/queue", headers={"Authorization": f"Bearer {secret}"}).json()
        [[found[operator]]] = [worker["lanes"] for worker in queue["workers"]]
    assert found[False] | {"why": ""} == found[True] | {"why": ""}
    assert (found[False]["state"], found[False]["since"]) == ("failed", 10**9)
    assert (found[False]["why"], found[True]["why"]) == ("it cannot be reached", "http://far.lan/v1 cannot be reached")


def test_what_waits_is_as_many_as_are_listed_and_what_is_validated_is_counted_beside(db, client):
    mine = Project.objects.create(name="mine")
    _, secret = ApiKey.objects.issue(mine, "test")

    def queue():
        return client.get("/v1/queue", headers={"Authorization": f"Bearer {secret}"}).json()

    rows = [running(mine, "small") for _ in range(4)]
    waits = {"leased_by": None, "leased_until": None, "status": BatchStatus.VALIDATING, "in_progress_at": None}
    for batch in rows[1:]:
        Batch.objects.filter(pk=batch.pk).update(**waits)
    Batch.objects.filter(pk=rows[3].pk).update(validated_at=None, total=0)
    found = queue()
    assert [len(found[name]) for name in ("running", "waiting")] == [1, 2]
    assert (found["waiting_total"], found["validating_total"]) == (2, 1)
    # The queue's order was worked out before that.
    Batch.objects.filter(pk=rows[1].pk).update(leased_by=uuid.uuid4(), leased_until=timezone.now() + timedelta(hours=1))
    Batch.objects.filter(pk=rows[3].pk).update(validated_at=timezone.now(), total=10)
    found = queue()
    assert {one["id"] for one in found["waiting"]} == {rows[2].pk, rows[3].pk}
    assert (found["waiting_total"], found["validating_total"]) == (2, 0)


def test_a_batch_that_is_taken_up_or_comes_in_while_the_queue_is_read_is_listed_once(db, client, monkeypatch):
    """Between its queries; as many are told to wait as are listed."""
    mine = Project.objects.create(name="mine")
    _, secret = ApiKey.objects.issue(mine, "test")
    batch = running(mine, "small")
    counted = Batch.objects.filter

    def released(*given, **named):
        if named.get("validated_at", "") is None:  # the last of the queries
            Batch.objects.update(leased_by=None, leased_until=None)
            running(mine, "small")
        return counted(*given, **named)

    monkeypatch.setattr(Batch.objects, "filter", released)
    queue = client.get("/v1/queue", headers={"Authorization": f"Bearer {secret}"}).json()
    assert [one["id"] for one in queue["running"]] == [batch.pk]
    assert queue["waiting_total"] == len(queue["waiting"]) == 0
