"""A batch's priority can be changed until it has ended, also while it runs; the API checks what it is given."""

import threading

import pytest
from django.db import connection

from batches.models import TERMINAL, Batch, BatchStatus
from batches.run import engine_run
from tests.engines import fresh, line, until
from vbs.accounts.models import Project
from vbs.openai.errors import Conflict


@pytest.fixture
def batch(project):
    return Batch.objects.create(
        project=project, input_file_id_given="x", endpoint="/v1/chat/completions", completion_window="24h",
        expires_at="2100-01-01T00:00Z",
    )  # fmt: skip


def test_it_is_kept_and_noted(batch):
    from django_q.models import OrmQ

    batch.set_priority(5)
    batch.set_priority(5)
    assert fresh(batch).priority == 5 and OrmQ.objects.count() == 1
    assert [one.message for one in batch.events.all()] == ["Its priority was changed from 0 to 5."]


@pytest.mark.parametrize("priority", [-101, 101, 10**9])
def test_only_from_minus_100_to_100(batch, priority):
    with pytest.raises(ValueError, match="-100 to 100"):
        batch.set_priority(priority)
    assert fresh(batch).priority == 0


@pytest.mark.parametrize("status", BatchStatus.values)
def test_not_of_a_batch_that_has_ended(batch, status):
    Batch.objects.update(status=status)  # behind the back of the instance that we have
    if status in TERMINAL:
        with pytest.raises(Conflict, match=status):
            batch.set_priority(5)
    else:
        batch.set_priority(5)
    assert fresh(batch).priority == (0 if status in TERMINAL else 5)


def test_what_runs_makes_way_when_it_is_lowered(add_model, submitted, gpu, close, monkeypatch):
    monkeypatch.setattr(engine_run, "LOOK_SECONDS", 0.2)
    add_model(**{"max-num-seqs": 4, "latency-ms": 30})
    slow = submitted([line(f"{n}") for n in range(200)], priority=1)
    thread = threading.Thread(target=lambda: (gpu.serve(), connection.close()))
    thread.start()
    until(lambda: fresh(slow).completed > 5)
    other = submitted([line("a")])
    fresh(slow).set_priority(-1)
    thread.join(60)
    for one in (slow, other):
        close(one)
    assert other.finalizing_at < slow.finalizing_at and slow.attempts == 1


def test_what_runs_stays_when_it_is_raised(add_model, submitted, gpu, close, monkeypatch):
    monkeypatch.setattr(engine_run, "LOOK_SECONDS", 0.2)
    add_model(**{"max-num-seqs": 4, "latency-ms": 30})
    slow = submitted([line(f"{n}") for n in range(100)])
    thread = threading.Thread(target=lambda: (gpu.serve(), connection.close()))
    thread.start()
    until(lambda: fresh(slow).completed > 5)
    assert (gpu.worker.work_kind, gpu.worker.work_id) == ("batch", slow.pk) and slow.pk not in gpu.worker.activity
    fresh(slow).set_priority(10)
    other = submitted([line("a")], priority=5)
    thread.join(60)
    for one in (slow, other):
        close(one)
    ended = sorted(slow.requests.values_list("finished_at", flat=True))
    assert ended[80] < other.requests.get().finished_at, "it has only what the other leaves free"
    assert slow.attempts == 1
    assert (gpu.worker.work_kind, gpu.worker.work_id) == ("", "")


# The API


@pytest.fixture
def api(batch, settings, client):
    settings.VBS_API_AUTH = "open"
    Batch.objects.update(project=Project.objects.get_or_create(name="default")[0])

    def post(body, pk=batch.pk, content_type="application/json"):
        return client.post(f"/v1/batches/{pk}", body, content_type=content_type)

    return post


def test_over_the_api(api, batch):
    answer = api({"priority": -7})
    assert answer.status_code == 200 and answer.json()["priority"] == -7 and answer.json()["object"] == "batch"
    assert fresh(batch).priority == -7


@pytest.mark.parametrize(
    "body", [{}, {"priority": None}, {"priority": 101}, {"priority": "high"}, {"priority": 1.5}, {"priority": True},
             {"priority": [1]}, [], "x", 5],
)  # fmt: skip
def test_what_is_not_a_priority(api, batch, body):
    answer = api(body)
    assert answer.status_code == 400 and set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert fresh(batch).priority == 0


def test_of_a_batch_that_has_ended_or_is_not_theirs(api, batch):
    Batch.objects.update(status="completed")
    answer = api({"priority": 5})
    assert answer.status_code == 409 and answer.json()["error"]["code"] == "batch_ended"
    assert api({"priority": 5}, pk="nope").status_code == 404
    Batch.objects.update(project=Project.objects.create(name="other"), status="validating")
    assert api({"priority": 5}).status_code == 404 and fresh(batch).priority == 0
