"""GET /v1/queue: what everybody may know of the queue, and nothing of another project."""

import uuid
from datetime import timedelta

from django.utils import timezone

from batches.models import Batch, BatchStatus
from models_registry.models import Worker, WorkerState
from vbs.accounts.models import ApiKey, Project
from vbs.openai.schema import unix


def running(project, model):
    now = timezone.now()
    return Batch.objects.create(
        project=project, input_file_id_given="file-1", endpoint="/v1/chat/completions", completion_window="24h",
        status=BatchStatus.IN_PROGRESS, model_names=[model], total=10, validated_at=now, in_progress_at=now,
        expires_at=now + timedelta(days=1), leased_by=uuid.uuid4(), leased_until=now + timedelta(minutes=5),
    )  # fmt: skip


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
