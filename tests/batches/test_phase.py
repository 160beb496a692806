"""The phase of a batch, from its row and its worker, and that every place says the same word."""

import re
import uuid
from datetime import timedelta

from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from batches import phase
from batches.models import Batch, BatchStatus
from batches.queue import snapshot
from models_registry.models import Worker
from tests.batches.waiting import queued, worker  # noqa: F401

ENDED = ("completed", "failed", "expired", "cancelled")


def held(batch, by, **fields):
    until = timezone.now() + timedelta(minutes=1)
    Batch.objects.filter(pk=batch.pk).update(leased_by=by.pk, leased_until=until, **fields)
    batch.refresh_from_db()
    return batch


def test_each_step_has_its_word(queued, worker):  # noqa: F811
    batch = queued(("m", 2))
    Batch.objects.update(validated_at=None)
    batch.refresh_from_db()
    assert phase.of(batch) == "validating"
    Batch.objects.update(validated_at=timezone.now())
    batch.refresh_from_db()
    assert phase.of(batch) == "queued"
    assert phase.of(held(batch, worker)) == "loading", "its first request is not sent yet"
    assert phase.of(held(batch, worker, status="in_progress", in_flight=2)) == "running"
    Batch.objects.update(leased_by=None, leased_until=None)
    batch.refresh_from_db()
    assert phase.of(batch) == "queued", "it was interrupted"
    Batch.objects.update(completed=2)
    batch.refresh_from_db()
    assert phase.of(batch) == "writing", "nothing is left but to write its files"
    for status, word in (("finalizing", "writing"), ("cancelling", "cancelling")):
        batch.status = status
        assert phase.of(batch) == phase.word(batch) == word
    for status in ENDED:
        batch.status = status
        assert phase.of(batch) is None and phase.word(batch) == status


def test_a_model_that_is_loaded_between_its_requests(queued, worker):  # noqa: F811
    batch = held(queued(("m", 2)), worker, status="in_progress", in_flight=0)
    assert phase.of(batch) == "running"
    Worker.objects.update(state="loading")
    snapshot.forget()
    assert phase.of(batch) == "loading"
    batch.in_flight = 1
    assert phase.of(batch) == "running", "others load"


def test_a_lease_that_has_run_out_is_none(queued, worker):  # noqa: F811
    batch = held(queued(("m", 2)), worker, status="in_progress")
    Batch.objects.update(leased_until=timezone.now() - timedelta(seconds=1))
    batch.refresh_from_db()
    assert phase.of(batch) == "queued"


def test_all_that_are_read_together_take_no_query_each(queued, worker):  # noqa: F811
    for _ in range(5):
        held(queued(("m", 2)), worker, status="in_progress")
        queued(("m", 2))
    found = [*Batch.objects.running(), *Batch.objects.waiting()]
    snapshot.current()
    with CaptureQueriesContext(connection) as done:
        assert sorted(map(phase.of, found)) == ["queued"] * 5 + ["running"] * 5
    assert not len(done), "which workers load is known from the snapshot of the queue"


def test_the_rows_of_a_phase(queued, worker):  # noqa: F811
    made = {
        "validating": queued(("m", 2)),
        "queued": queued(("m", 2)),
        "loading": held(queued(("m", 2)), worker),
        "running": held(queued(("m", 2)), worker, status="in_progress"),
        "writing": queued(("m", 2), status=BatchStatus.FINALIZING),
        "cancelling": queued(("m", 2), status=BatchStatus.CANCELLING),
    }
    Batch.objects.filter(pk=made["validating"].pk).update(validated_at=None)
    assert tuple(made) == phase.PHASES
    for name, batch in made.items():
        batch.refresh_from_db()
        assert phase.of(batch) == name
        assert [one.pk for one in Batch.objects.filter(phase.rows(name))] == [batch.pk], name


def test_one_word_everywhere(queued, worker, root, client, settings):  # noqa: F811
    """On the page of the batch, of all, of the queue, on the first one, and by the API."""
    settings.VBS_API_AUTH = "open"
    batch = queued(("m", 2), name="reviews")
    batch.project.name = "default"
    batch.project.save()

    def words():
        snapshot.forget()
        row = re.search(r'id="row-.*?<span class="state (\w+)">\1</span>', said(root, "/batches/"), re.DOTALL)
        page = re.search(r"</bdi> <span class=\"state (\w+)\">\1</span></h1>", said(root, f"/batches/{batch.pk}/"))
        told = client.get(f"/v1/batches/{batch.pk}").json()["progress"]["phase"]
        listed = client.get("/v1/batches").json()["data"][0]["progress"]["phase"]
        return {row[1], page[1], told, listed}

    assert words() == {"queued"}
    held(batch, worker)
    assert words() == {"loading"} and "loading</span>" in said(root, "/queue/") and "loading</span>" in said(root, "/")
    held(batch, worker, status="in_progress", in_flight=1)
    assert words() == {"running"} and "running</span>" in said(root, "/queue/")
    assert client.get("/v1/queue").json()["running"][0]["progress"]["phase"] == "running"


def said(client, address):
    return client.get(address).content.decode()


def test_who_has_it_is_no_worker_any_more(queued):  # noqa: F811
    batch = queued(("m", 2), leased_by=uuid.uuid4(), leased_until=timezone.now() + timedelta(minutes=1))
    assert phase.of(batch) == "loading", "its lease still counts"
