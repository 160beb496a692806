"""The first page: what it shows to whom, what it keeps from others, and that it stays cheap."""

import re
from datetime import timedelta
from itertools import pairwise
from types import SimpleNamespace

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.http import QueryDict
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from batches import activity_day
from batches.models import Activity, Batch, BatchStatus, Pause
from batches.pages.overview import health
from batches.pages.overview import page as overview
from batches.queue import forecast, snapshot
from models_registry.models import Download, DownloadState, Model, ModelState, Worker, WorkerState
from vbs.accounts import roles
from vbs.accounts.models import ApiKey, Project
from vbs.pages.parts import rendered
from vbs.pages.viewer import Viewer
from vbs.run import space

BAD = "<script>alert('x')</script>"


@pytest.fixture(autouse=True)
def _nothing_kept(db):
    snapshot.forget()
    activity_day.kept.forget()


def person(role, *projects):
    made = User.objects.create_user(f"user{User.objects.count()}")
    roles.assign(made, role)
    for project in projects:
        project.members.add(made)
    client = Client()
    client.force_login(made)
    return client


@pytest.fixture
def mine(db):
    return Project.objects.create(name="mine")


@pytest.fixture
def theirs(db):
    return Project.objects.create(name="theirs")


@pytest.fixture
def looker(mine):
    return person("viewer", mine)


@pytest.fixture
def operator(mine):
    return person("operator", mine)


def text(client, address="/"):
    snapshot.forget()
    activity_day.kept.forget()
    response = client.get(address)
    assert response.status_code == 200
    return response.content.decode()


def section(page, name):
    """The section of this id, to its end."""
    return re.search(rf'<section id="{name}".*?</section>', page, re.S)[0]


def batch(project, **fields):
    now = timezone.now()
    usual = {
        "endpoint": "/v1/chat/completions", "completion_window": "24h", "expires_at": now + timedelta(days=1),
        "status": "validating", "validated_at": now, "total": 10, "model_names": ["some-model"],
    }  # fmt: skip
    return Batch.objects.create(project=project, **usual | fields)


def running(project, worker, **fields):
    until = timezone.now() + timedelta(minutes=1)
    usual = {"status": BatchStatus.IN_PROGRESS, "in_progress_at": timezone.now(), "leased_until": until}
    return batch(project, leased_by=worker.pk, **usual | fields)


def worker(cluster="gpu", **fields):
    return Worker.objects.create(**{"cluster": cluster, "hostname": "here", "pid": 1} | fields)


def happened(of, ago=timedelta(), **amounts):
    at = timezone.now().replace(microsecond=0, minute=0, second=0) - ago
    return Activity.objects.create(batch=of, at=at, **amounts)


# First of all


def test_who_has_not_signed_in_does_so_first(db):
    answer = Client().get("/")
    assert answer.status_code == 302 and answer.url == "/login?next=/"
    assert Client().get("/live").status_code == 302


def test_it_can_only_be_looked_at(root):
    assert root.post("/").status_code == 405


def test_a_new_server_says_what_to_do_and_ticks_off_what_is_done(root, mine):
    page = text(root)
    assert "First steps" in page and 'href="/batches/new"' in page and 'href="/system/keys"' in page
    assert "manage.py model add-demo" in page and "create_api_key" in page and "batch submit" in page
    assert page.count('<li class="done">') == 0
    Model.objects.create(name="ready", kind="scripted")
    assert text(root).count('<li class="done">') == 1
    ApiKey.objects.issue(mine, "first")
    assert text(root).count('<li class="done">') == 2
    batch(mine)
    page = text(root)
    assert "First steps" not in page and 'id="steps"' in page, "the part stays, so that it can come back"


def test_steps_are_of_the_viewers_projects(looker, theirs):
    ApiKey.objects.issue(theirs, "theirs")
    batch(theirs)
    page = text(looker)
    assert page.count('<li class="done">') == 0
    assert 'id="step-1"' in page and 'id="step-2"' not in page and 'id="step-3"' not in page


def test_no_key_is_asked_for_where_none_is_needed(root, settings):
    settings.VBS_API_AUTH = "open"
    page = text(root)
    assert "This server needs no key" in page and page.count('<li class="done">') == 1


def test_ways_to_everything(root, looker, operator):
    for client, staff, creates in ((root, True, True), (operator, False, True), (looker, False, False)):
        page = text(client)
        for address in ("/queue/", "/batches/", "/models/", "/system/", "/help/", "/docs"):
            assert f'<li><a href="{address}">' in page
        assert ('<li><a href="/admin/">' in page) == staff
        assert ('<li><a href="/batches/new">' in page) == creates


# What runs, waits and has ended


def test_what_runs(root, looker, mine, theirs):
    gpu = worker(state=WorkerState.RUNNING, model_name="some-model")
    own = running(mine, gpu, completed=4, failed=1, requests_per_second=2.5, tokens_per_second=250.0)
    other = running(theirs, gpu, completed=1, model_names=["secret-model"])
    gpu.set(activity="Running a batch on some-model", work_kind="batch", work_id=other.pk)
    page = text(looker)
    assert f'href="/batches/{own.pk}/"' in page and 'value="50"' in page
    for shown in ("5 of 10 requests", "1 failed", "2.50 requests/s", "250 tokens/s"):
        assert shown in page
    for hidden in (other.pk, "secret-model", "theirs"):
        assert hidden not in page
    assert "A batch of another project" in page and "Running a batch on some-model" in page
    page = text(root)
    assert f'href="/batches/{other.pk}/"' in page and f"Running a batch on some-model ({other.pk} and 1 more)" in page
    gpu.set(work_id=own.pk)
    assert f"Running a batch on some-model ({own.pk})" in text(looker)


def test_what_runs_together_on_one_engine(root, looker, mine, theirs):
    gpu = worker(state=WorkerState.RUNNING, model_name="some-model")
    running(mine, gpu, priority=-1, in_flight=30)
    running(mine, gpu, in_flight=10)
    running(theirs, gpu, priority=7, in_flight=160)
    alone = running(theirs, worker(), in_flight=9)
    for client in (root, looker):
        shown = section(text(client), "running")
        assert [one for one in ("80 %", "5 %", "15 %") if f"{one} of the engine" in shown] == ["80 %", "5 %", "15 %"]
        assert shown.index("80 %") < shown.index("5 % of") < shown.index("15 %"), "the higher priority is the first"
        assert shown.count("of the engine") == 3, f"{alone.pk} has its engine for itself"


@pytest.mark.parametrize("state", [WorkerState.RUNNING, WorkerState.LOADING, WorkerState.IDLE])
def test_no_page_tells_which_batch_of_others_a_worker_is_at(root, looker, theirs, state):
    model = Model.objects.create(name="some-model", kind="scripted")
    gpu = worker(state=state, model_name=model.name)
    other = running(theirs, gpu)
    gpu.set(activity="Running a batch on \x1bsome-model", work_kind="batch", work_id=other.pk)
    told = f" ({other.pk})" if state == WorkerState.RUNNING else ""
    for page in ("/", "/models/", f"/models/{model.pk}/", "/system/"):
        for address in (page, f"{page}live"):
            assert other.pk not in text(looker, address), address
            assert "Running a batch on ⟨ESC⟩some-model" in text(looker, address), address
            assert f"Running a batch on ⟨ESC⟩some-model{told}" in text(root, address), address


def test_what_waits(root, looker, mine, theirs):
    own = [batch(mine) for _ in range(5)]
    other = batch(theirs, priority=5, model_names=["secret-model"])
    shown = section(text(looker), "waiting")
    assert "6 waiting" in shown and "1 more in the queue" in shown and 'href="/queue/"' in shown
    assert shown.index("another project") < shown.index(own[0].pk) and "priority 5" in shown
    assert other.pk not in shown and "secret-model" not in shown and own[4].pk not in shown
    assert "No model &#x27;some-model&#x27; is registered" in shown, "why nobody knows when it starts"
    assert other.pk in section(text(root), "waiting")


def test_when_it_starts(root, mine):
    gpu = worker(model_name="some-model")
    model = Model.objects.create(name="some-model", kind="scripted")
    model.measurements.create(kind="batch", requests=1000, seconds=100)
    model.measurements.create(kind="load", load_seconds=1)
    running(mine, gpu, total=6000)
    batch(mine, priority=-1)
    page = text(root)
    starts = r"starts <time[^>]+>in about (9|10) min"
    assert re.search(starts, section(page, "waiting")), "with a lower priority it has what the other leaves free"
    assert re.search(r"done <time[^>]+>in about 10 min", section(page, "running"))
    Pause.objects.create()
    assert "starts" not in section(text(root), "waiting"), "nobody knows"


def test_what_has_ended(looker, mine, theirs):
    now = timezone.now()
    ended = [
        batch(mine, status="completed", completed=10, completed_at=now - timedelta(minutes=number))
        for number in range(6)
    ]
    failed = batch(mine, status="failed", failed_at=now)
    hidden = batch(mine, status="completed", completed_at=now, hidden=True)
    other = batch(theirs, status="completed", completed_at=now)
    shown = section(text(looker), "ended")
    assert re.findall(r'href="/batches/(batch_\w+)/"', shown) == [one.pk for one in (failed, *ended[:4])]
    assert hidden.pk not in shown and other.pk not in shown
    assert 'class="state failed"' in shown and "10 answered" in shown


def test_the_chosen_project_is_shown_alone(root, mine, theirs):
    for project in (mine, theirs):
        one = batch(project, status="completed", completed_at=timezone.now())
        happened(one, completed=7)
    assert section(text(root), "ended").count('class="state completed"') == 2
    root.post("/project", {"project": mine.pk})
    page = text(root)
    assert section(page, "ended").count('class="state completed"') == 1 and "<dd>7</dd>" in page


def test_an_empty_server_says_so(root):
    page = text(root)
    for shown in ("No batch is running.", "Nothing is waiting", "No batch has finished yet."):
        assert shown in page
    assert page.count('<figure class="chart"') == 2 and "0 completed, 0 failed" in page


# The last day


def test_the_last_day(looker, mine, theirs):
    own, other = batch(mine), batch(theirs)
    happened(own, completed=5, failed=1, input_tokens=100, output_tokens=2_000)
    happened(own, timedelta(hours=3), completed=10, input_tokens=20)
    happened(own, timedelta(hours=24), completed=1_000)
    happened(other, completed=500)
    page = section(text(looker), "day")
    for shown in ("<dd>15</dd>", "<dd>1</dd>", "<dd>120</dd>", "<dd>2,000</dd>"):
        assert shown in page
    rows = re.findall(r'<tr><th scope="row">.*?</tr>', page)
    amounts = [tuple(re.findall(r'<td class="number">(.*?)</td>', row)) for row in rows]
    assert len(rows) == 48 and sorted(amounts[:24])[-3:] == [("0", "0"), ("10", "0"), ("5", "1")]
    assert 'style="' not in page


def test_hours_come_one_after_the_other(mine):
    one = batch(mine)
    happened(one, timedelta(hours=23), completed=1)
    happened(one, completed=2)
    found = activity_day.hours(Viewer(frozenset(), None))
    assert len(found) == 24 and (found[0].completed, found[-1].completed) == (1, 2)
    assert all(later.at - earlier.at == timedelta(hours=1) for earlier, later in pairwise(found))


def test_the_days_sums_are_kept_for_a_moment_for_each_set_of_projects(mine, theirs, monkeypatch):
    own, other = batch(mine), batch(theirs)
    happened(own, completed=1)
    happened(other, completed=2)
    one, both = Viewer(frozenset(), frozenset({mine.pk})), Viewer(frozenset(), None)
    nothing = Viewer(frozenset(), frozenset())

    def answered(viewer):
        return sum(hour.completed for hour in activity_day.hours(viewer))

    assert [answered(viewer) for viewer in (one, both, nothing)] == [1, 3, 0]
    Activity.objects.update(completed=10)
    with CaptureQueriesContext(connection) as asked:
        assert answered(one) == 1
    assert not asked
    monkeypatch.setattr(activity_day, "FRESH_SECONDS", -1)
    assert [answered(viewer) for viewer in (one, both, nothing)] == [10, 20, 0]


def test_the_days_rows_are_found_by_their_time(mine):
    one = batch(mine)
    now = timezone.now()
    Activity.objects.bulk_create(Activity(batch=one, at=now - timedelta(minutes=5 * n)) for n in range(5_000))
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE batches_activity")
        sql, given = activity_day.question(frozenset({mine.pk}), activity_day.since(now))
        cursor.execute(f"EXPLAIN {sql}", given)
        plan = "\n".join(row[0] for row in cursor.fetchall())
    assert "activity_by_time" in plan and "Seq Scan on batches_activity" not in plan


# How it is


def test_a_paused_queue(root, looker):
    assert "queue is paused" not in text(root)
    Pause.objects.create(asked_by="somebody", reason=BAD)
    page = text(root)
    assert "The queue is paused" in page and "somebody" in page and BAD not in page and "Resume it" in page
    assert "The queue is paused" in text(looker) and "Resume it" not in text(looker)
    Pause.objects.update(ended_at=timezone.now())
    assert "queue is paused" not in text(root)


def disk(total, free):
    return SimpleNamespace(total=total * 2**30, used=int((total - free) * 2**30), free=int(free * 2**30))


def facts(workers=None):
    rows = list(Worker.objects.all()) if workers is None else workers
    return {fact.name: fact for fact in health.facts(rows, Viewer(frozenset(), None))}


def test_a_server_that_is_well(root):
    worker("io"), worker(model_name="some-model")
    Model.objects.create(name="some-model", kind="scripted")
    found = facts()
    assert {fact.state for fact in found.values()} == {"ok"}
    assert "some-model" in found["Engine"].words
    assert "All is well" in text(root)
    assert set(found) == {"Web", "Database", "Storage", "io workers", "gpu worker", "Engine", "Models", "Downloads"}


def test_a_dead_worker(root):
    worker("io")
    gpu = worker(model_name="m")
    Worker.objects.filter(pk=gpu.pk).update(heartbeat_at=timezone.now() - timedelta(minutes=7))
    found = facts()
    assert found["gpu worker"].state == "bad" and "7 min ago" in found["gpu worker"].words
    assert found["gpu worker"].command == "manage.py worker gpu" and found["io workers"].state == "ok"
    page = text(root)
    assert "No GPU worker is running" in page and "manage.py worker gpu" in page and " problems<" in page
    Worker.objects.update(heartbeat_at=timezone.now() - timedelta(minutes=7))
    assert facts()["io workers"].command == "manage.py worker io"


def test_a_worker_that_waits_says_why(root):
    worker(activity="GPU 0 is at 95 °C")
    found = facts()
    assert found["gpu worker"].state == "attention" and "95 °C" in found["gpu worker"].words
    assert "GPU 0 is at 95 °C" in text(root)


def test_what_models_and_downloads_need(db):
    assert facts()["Models"].command == "manage.py model add-demo"
    model = Model.objects.create(name="m", hub_id="a/m", state=ModelState.FAILED, reason="damaged")
    Download.objects.create(model=model, state=DownloadState.RUNNING)
    found = facts()
    assert found["Models"].state == "attention" and found["Downloads"].words == "1 running."
    Download.objects.update(state=DownloadState.FAILED)
    assert facts()["Downloads"].state == "attention"


@pytest.mark.parametrize(
    "total, free, state",
    [
        (100, 50, "ok"),
        (1000, 50, "ok"),
        (1000, 9, "attention"),
        (50, 9, "ok"),
        (50, 0.5, "bad"),
    ],
)
def test_the_disk(db, monkeypatch, total, free, state):
    monkeypatch.setattr(space.shutil, "disk_usage", lambda folder: disk(total, free))
    assert facts()["Storage"].state == state


def test_a_data_folder_that_is_gone(db, settings, tmp_path):
    settings.VBS_DATA_DIR = tmp_path / "gone"
    fact = facts()["Storage"]
    assert fact.state == "bad" and "No such file" in fact.words


def test_a_gpu_is_metered(root):
    device = {"memory_used": 3 * 2**30, "memory_total": 4 * 2**30, "utilization": 41, "temperature": 45}
    worker(health={"devices": [device | {"power_watts": 120.0, "power_limit_watts": 200.0}]})
    page = text(root)
    assert [int(value) for value in re.findall(r'<meter[^>]* value="(\d+)"', page)] == [75, 41, 50, 60]


# Whatever users type


def test_what_users_type_is_text(root):
    project = Project.objects.create(name=BAD)
    gpu = worker(activity=BAD, state=WorkerState.RUNNING, model_name=BAD, hostname=BAD)
    for made in (running(project, gpu, model_names=[BAD]), batch(project, model_names=[BAD, "b"])):
        happened(made, completed=1)
    batch(project, status="completed", completed_at=timezone.now(), model_names=["x" * 500])
    page = text(root)
    assert BAD not in page and "alert(" in page and "x" * 100 not in page


def test_where_the_data_are_is_for_operators(looker, operator, monkeypatch, settings):
    monkeypatch.setattr(health.os, "access", lambda folder, mode: False)
    place = f"ls -ld {settings.VBS_DATA_DIR}"
    assert place in text(operator)
    assert place not in text(looker) and "The data folder cannot be written to" in text(looker)


def test_a_push_has_only_what_is_new(root, mine, monkeypatch):
    monkeypatch.setattr(space.shutil, "disk_usage", lambda folder: disk(100, 50))
    page = text(root)
    seen = re.findall(r'name="seen" value="([^"]+)"', page)
    assert root.get("/live", {"seen": seen}).status_code == 204
    batch(mine, status="completed", completed_at=timezone.now())
    pushed = root.get("/live", {"seen": seen}).content.decode()
    assert 'id="ended"' in pushed and 'id="waiting"' not in pushed and 'id="health"' not in pushed


def test_queries(mine, theirs, django_assert_num_queries):
    viewer = Viewer(frozenset(), frozenset({mine.pk}))
    gpu = worker(model_name="some-model")
    for number in range(12):
        for project in (mine, theirs):
            running(project, gpu)
            batch(project)
            happened(batch(project, status="completed", completed_at=timezone.now()), timedelta(hours=number))
    forecast.plan()
    activity_day.hours(viewer)
    with django_assert_num_queries(11):
        rendered(overview.build(viewer, QueryDict()).values(), viewer)
