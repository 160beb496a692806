"""The page of the queue: the true order with reasons, what is told of others' batches, and who may change what."""

import re
import uuid
from datetime import timedelta

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from batches.models import Batch, BatchStatus, Pause
from batches.queue import pauses, snapshot
from models_registry.gpu import operations
from models_registry.models import Measurement, Model, Worker
from vbs.accounts.models import Project
from vbs.configuration.models import AuditEntry

BAD = "<script>alert('x')</script>"
HTMX = {"HX-Request": "true"}


@pytest.fixture(autouse=True)
def _anew():
    snapshot.forget()
    yield
    snapshot.forget()


def user(*permissions, projects=()):
    made = User.objects.create_user(f"user{User.objects.count()}")
    made.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    for project in projects:
        project.members.add(made)
    client = Client()
    client.force_login(made)
    return client


@pytest.fixture
def project(db):
    return Project.objects.create(name="mine")


@pytest.fixture
def other(db):
    return Project.objects.create(name="secret project")


@pytest.fixture
def operator(project):
    return user("change_batch", "add_batch", "change_pause", projects=[project])


@pytest.fixture
def known(db):
    made = Model.objects.create(name="known", kind="scripted")
    Measurement.objects.create(model=made, kind="batch", requests=100, seconds=100, input_tokens=1)
    Measurement.objects.create(model=made, kind="load", load_seconds=10.0)
    return made


@pytest.fixture
def worker(db):
    return Worker.objects.create(cluster="gpu", hostname="here", pid=1)


@pytest.fixture
def queued(project):
    def make(model="known", waited=0.0, **fields):
        now = timezone.now()
        usual = {
            "project": project, "input_file_id_given": "x", "endpoint": "/v1/chat/completions", "total": 60,
            "completion_window": "24h", "expires_at": now + timedelta(days=9), "model_names": [model],
            "validated_at": now - timedelta(seconds=waited),
        }  # fmt: skip
        return Batch.objects.create(**usual | fields)

    return make


def leased(worker, **fields):
    until = timezone.now() + timedelta(seconds=30)
    now = timezone.now()
    return {"leased_by": worker.pk, "leased_until": until, "status": "in_progress", "in_progress_at": now} | fields


def text(response):
    return response.content.decode()


def look(client):
    snapshot.forget()
    return text(client.get("/queue/"))


def words(page):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))


# What is shown


def test_an_empty_queue_says_what_to_do(root, operator):
    page = look(root)
    assert "The queue is empty" in page and 'href="/batches/new"' in page
    assert "manage.py batch submit" in page and "client.batches.create" in page
    assert 'href="/batches/new"' not in look(user()) and 'href="/batches/new"' in look(operator)


def test_what_waits_in_order_with_reasons_and_times(root, queued, known, worker):
    Model.objects.create(name="coming", kind="scripted", state="downloading")
    fetched = queued("coming", waited=99)
    first, second = queued(waited=9), queued(waited=5)
    urgent = queued(priority=50, waited=1)
    page = look(root)
    places = [page.index(f'id="row-{one.pk}"') for one in (urgent, first, second, fetched)]
    assert places == sorted(places)
    shown = words(page)
    for said in ("Its priority puts it before others.", "In order of arrival, after", "Its model is being fetched.",
                 "mine", "starts in a few seconds", "ends in about 2 min", "4 waiting"):  # fmt: skip
        assert said in shown, said


def test_what_runs(root, queued, known, worker):
    Worker.objects.update(model_name="known", state="running", activity="Running")
    runs = queued(total=1000, completed=240, failed=10, requests_per_second=2.0, tokens_per_second=50.5, attempts=1)
    Batch.objects.update(**leased(worker))
    page = look(root)
    for said in ('value="25.0"', "250 of 1,000 requests", "10 failed", "2.00 requests/s · 50.5 tokens/s", " left",
                 f"/batches/{runs.pk}/cancel", "No batch is waiting.", "Raise<", "Lower<", "Set<", "Cancel<",
                 "Priority 0"):  # fmt: skip
        assert said in page, said


def test_what_runs_together_on_one_engine(root, operator, queued, known, worker, other):
    Worker.objects.update(model_name="known", health={"window": {"size": 256}})
    for count, fields in ((40, {"priority": 5, "total": 90}), (120, {}), (0, {"project": other, "priority": -1})):
        Batch.objects.filter(pk=queued(**fields).pk).update(**leased(worker, in_flight=count))
    page = words(look(operator))
    for said in (
        "0 of 90 requests · 40 in flight, 25 % of the engine",
        "0 of 60 requests · 120 in flight, 75 % of the",
    ):
        assert said in page, said
    assert page.count("No estimate yet") + page.count(" left ") >= 3 and "A batch of another project" in page
    assert "Running on known 3 batches share 256 places" in page
    Batch.objects.exclude(priority=5).update(leased_by=None, leased_until=None)
    assert "40 in flight" in words(look(root)) and "of the engine" not in look(root), "it has the engine for itself"


def test_operations_stand_where_they_are_run(root, queued, known, worker):
    queued(waited=9)
    operations.ask("benchmark", known, now=True)
    page = look(root)
    assert "Benchmark of known queued place 1 in the queue · priority 101 · Its priority puts it" in words(page)
    assert f"/models/{known.pk}/" in page and "1 waiting" in page and page.count("<tr id=") == 1


def test_a_batch_that_came_after_the_plan_was_made(root, queued, known, worker):
    look(root)
    late = queued()
    page = text(root.get("/queue/"))
    assert late.pk in page and "Its place is not worked out yet." in page


def test_only_the_first_are_shown(root, queued, known, worker, monkeypatch):
    monkeypatch.setattr("batches.pages.queue.page.MOST", 3)
    for number in range(8):
        queued(waited=number)
    page = look(root)
    assert page.count("<tr id=") == 3 and "and 5 more" in page


def test_what_is_still_being_read_is_counted(root, queued):
    queued(validated_at=None, model_names=[], total=0)
    assert "1 batch is being validated." in look(root)


def test_of_another_project_only_numbers_are_told(operator, queued, other, worker):
    Model.objects.create(name="secret model", kind="scripted")
    theirs = queued("secret model", waited=9, project=other, priority=3, total=77)
    queued("unregistered secret", waited=8, project=other)
    runs = queued("secret model", project=other, total=44)
    Batch.objects.filter(pk=runs.pk).update(**leased(worker))
    page = look(operator)
    assert theirs.pk not in page and runs.pk not in page and "secret" not in page
    assert page.count('<span class="quiet">A batch of another project') == 2 and ">77<" in page
    assert "A batch of another project" in page.partition('id="waiting"')[0] and "of 44 requests" in page
    assert "Raise" not in page and "/cancel" not in page


def test_a_chosen_project_is_shown_alone(root, queued, other, known):
    mine, theirs = queued(), queued(project=other)
    assert mine.pk in look(root) and theirs.pk in look(root)
    root.post("/project", {"project": other.pk})
    page = look(root)
    assert theirs.pk in page and mine.pk not in page and "another project" in page


def test_without_the_right_there_are_no_buttons(project, queued, known):
    batch = queued()
    page = look(user(projects=[project]))
    assert batch.pk in page
    for button in ("Raise", "/priority", "/cancel", "/queue/pause"):
        assert button not in page


def test_hostile_text_is_text(root, queued, project):
    Project.objects.update(name=BAD)
    queued(BAD)
    pauses.pause(BAD, BAD)
    page = look(root)
    assert BAD not in page and "&lt;script&gt;" in page
    assert root.get("/queue/").headers["Content-Security-Policy"]


def test_who_is_not_signed_in_sees_nothing(client, db):
    assert client.get("/queue/").status_code == 302 and client.get("/queue/live").status_code == 302
    assert client.get("/queue").status_code in (301, 302) and client.post("/queue/").status_code in (302, 405)


def test_the_number_of_queries_is_constant(root, queued, known, worker, other, monkeypatch):
    monkeypatch.setattr(snapshot, "FRESH_SECONDS", float("inf"))  # however slow the machine is

    def count():
        snapshot.forget()
        with CaptureQueriesContext(connection) as found:
            assert root.get("/queue/live").status_code == 200
        return len(found)

    queued()
    operations.ask("load", known)
    few = count()
    for number in range(30):
        Model.objects.create(name=f"m{number}", kind="scripted")
        queued(f"m{number}", project=other if number % 2 else queued().project)
        lease = timezone.now() + timedelta(seconds=60)
        queued(leased_by=uuid.uuid4(), leased_until=lease, status="in_progress", in_progress_at=timezone.now())
        operations.ask("benchmark", known, {"seed": number})
    assert count() == few + 1 <= 22, "one counts what is not listed"
    with CaptureQueriesContext(connection) as found:
        root.get("/queue/live")
    assert len(found) <= 13, "the plan is kept for a moment"


def test_only_what_has_changed_is_sent(root, queued, known, worker):
    queued(waited=9)
    batch = queued(total=10**6)
    seen = re.findall(r'name="seen" value="([^"]+)"', look(root))
    assert root.get("/queue/live", {"seen": seen}).status_code == 204
    Batch.objects.filter(pk=batch.pk).update(completed=999)
    answer = text(root.get("/queue/live", {"seen": seen}))
    assert f'<tr id="row-{batch.pk}" hx-swap-oob="true">' in answer and 'id="waiting"' not in answer


# Priorities


def test_up_and_down(operator, queued, known):
    batch = queued()
    for given, expected in (({"by": "10"}, 10), ({"by": "-10"}, 0), ({"priority": "-95"}, -95), ({"by": "-10"}, -100)):
        assert operator.post(f"/batches/{batch.pk}/priority", given).headers["Location"] == "/queue/"
        batch.refresh_from_db()
        assert batch.priority == expected
    entry = AuditEntry.objects.order_by("pk").first()
    assert (entry.action, entry.target, entry.detail, entry.project) == (
        "batch.priority", batch.pk, "0 → 10", batch.project
    )  # fmt: skip
    assert AuditEntry.objects.count() == 4


def test_a_number_is_asked_for_apart(operator, queued):
    batch = queued(priority=-7)
    asked = text(operator.get(f"/batches/{batch.pk}/priority"))
    assert "<html" in asked and re.search(r'name="priority" value="-7"', asked)
    assert "<html" not in text(operator.get(f"/batches/{batch.pk}/priority", headers=HTMX))


def test_with_htmx_the_new_order_comes_at_once(operator, queued, known, worker):
    first, last = queued(waited=9), queued()
    seen = re.findall(r'name="seen" value="([^"]+)"', look(operator))
    answer = text(operator.post(f"/batches/{last.pk}/priority", {"by": "10", "seen": seen}, headers=HTMX))
    assert answer.index(f'id="row-{last.pk}"') < answer.index(f'id="row-{first.pk}"')
    assert f"{last.pk} has priority 10." in answer
    answer = text(
        operator.post(f"/batches/{last.pk}/priority", {"by": "10", "next": f"/batches/{last.pk}/"}, headers=HTMX)
    )
    assert "has priority 20" in answer and 'id="waiting"' not in answer
    address = operator.post(f"/batches/{last.pk}/priority", {"by": "10", "next": "/batches/"}).headers["Location"]
    assert address == "/batches/"
    address = operator.post(f"/batches/{last.pk}/priority", {"by": "10", "next": "//evil.example"}).headers["Location"]
    assert address == "/queue/"


@pytest.mark.parametrize("given", [{}, {"priority": "101"}, {"priority": BAD}, {"by": "x"}, {"priority": "1" * 5000}])
def test_what_is_not_a_priority(operator, queued, known, given):
    batch = queued()
    for headers in ({}, HTMX):
        answer = operator.post(f"/batches/{batch.pk}/priority", given, headers=headers)
        assert answer.status_code == 422 and "from -100 to 100" in text(answer) and BAD not in text(answer)
    batch.refresh_from_db()
    assert batch.priority == 0 and not AuditEntry.objects.exists()


def test_of_a_batch_that_has_ended(operator, queued):
    batch = queued(status=BatchStatus.COMPLETED)
    assert "Cannot change the priority" in text(
        operator.post(f"/batches/{batch.pk}/priority", {"by": "1"}, follow=True)
    )
    assert not AuditEntry.objects.exists()


def test_who_may_change_priorities(operator, queued, project, other, client):
    mine, theirs = queued(), queued(project=other)
    assert operator.post(f"/batches/{theirs.pk}/priority", {"by": "10"}).status_code == 404
    assert operator.post("/batches/nope/priority", {"by": "10"}).status_code == 404
    assert operator.post("/batches/a%00b/priority", {"by": "10"}).status_code == 404
    assert operator.get(f"/batches/{theirs.pk}/priority").status_code == 404
    assert operator.put(f"/batches/{mine.pk}/priority").status_code == 405
    assert user(projects=[project]).post(f"/batches/{mine.pk}/priority", {"by": "10"}).status_code == 403
    assert client.post(f"/batches/{mine.pk}/priority", {"by": "10"}).status_code == 302
    assert not Batch.objects.exclude(priority=0).exists()


# Holding the queue


def test_pausing_asks_first_and_everybody_sees_it(operator, queued, known, worker):
    queued()
    Batch.objects.update(**leased(worker))
    asked = text(operator.get("/queue/pause"))
    assert "<html" in asked and "1 batch is running and stops" in words(asked) and 'name="reason"' in asked
    assert "<html" not in text(operator.get("/queue/pause", headers=HTMX)) and not Pause.objects.exists()
    assert operator.post("/queue/pause", {"reason": "new disks"}).headers["Location"] == "/queue/"
    held = pauses.current()
    page = words(look(user()))
    for said in ("The queue is paused", f"{held.began_at:%Y-%m-%d %H:%M}", held.asked_by, "new disks"):
        assert said in page
    assert "Resume" not in page and "Resume the queue" in look(operator)
    again = operator.post("/queue/pause", {"reason": "other"}, follow=True)
    assert "paused already" in text(again) and Pause.objects.count() == 1
    assert [(one.action, one.detail) for one in AuditEntry.objects.all()] == [("queue.pause", "new disks")]


def test_while_it_is_paused_no_time_is_told(root, queued, known, worker):
    queued()
    pauses.pause("ada")
    page = look(root)
    assert "The queue is paused." in page and "starts in" not in page and "In order of arrival." in page


def test_resuming(operator, db):
    pauses.pause("ada")
    answer = operator.post("/queue/resume", headers=HTMX)
    assert "The queue is resumed." in text(answer) and pauses.current() is None
    assert "was not paused" in text(operator.post("/queue/resume", follow=True))
    assert [one.action for one in AuditEntry.objects.all()] == ["queue.resume"]


def test_a_reason_that_is_too_long(operator):
    answer = operator.post("/queue/pause", {"reason": "x" * 501})
    assert answer.status_code == 422 and "500" in text(answer) and pauses.current() is None
    assert operator.post("/queue/pause", {"reason": "a\0b"}).status_code == 422


def test_who_may_pause(client, project, db):
    viewer = user("change_batch", projects=[project])
    for method, address in (("get", "pause"), ("post", "pause"), ("post", "resume")):
        assert getattr(viewer, method)(f"/queue/{address}").status_code == 403
        assert getattr(client, method)(f"/queue/{address}").status_code == 302
    assert pauses.current() is None
