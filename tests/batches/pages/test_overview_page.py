"""The first page: what it shows to whom, what it keeps from others, and that it stays cheap."""

import re
import time
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


def steps(page):
    return re.search(r'<div id="steps">.*?\n</div>', page, re.S)[0]


def test_a_new_server_is_led_through_its_first_steps(root, mine):
    page = text(root)
    first = steps(page)
    assert "Add the demo model" in first and 'href="/models/"' in first and 'href="/system/keys"' in first
    assert 'aria-current="step"' in first.partition("Add a model")[0] and "step-batch" not in first
    assert 'id="running" aria-labelledby="running-title" hidden' in page, "an empty card says nothing"
    assert "All is well" in page or "Models" not in re.findall(r"health-\w+\">(\w+)", page), "the steps tell it"
    made = Model.objects.create(name="tiny-model", kind="scripted")
    second = steps(text(root))
    assert second.count('<li class="done"') == 1 and "tiny-model is ready" in second and "Add the demo" not in second
    assert 'id="step-batch" href="/batches/new"' in second
    ApiKey.objects.issue(mine, "first")
    one = batch(mine, name="reviews", model_names=[made.name])
    third = steps(text(root))
    assert third.count('<li class="done"') == 2 and "/system/keys" not in third
    assert f'id="step-answers" class="named" href="/batches/{one.pk}/"' in third and "queued" in third
    Batch.objects.update(completed=1)
    page = text(root)
    assert "First steps" not in page and 'id="steps"' in page, "the part stays, so that it can come back"


def test_steps_are_of_the_viewers_projects_and_say_whom_to_ask(looker, operator, theirs):
    person("admin").get("/")
    ask = "Ask an admin: <bdi>user"
    ApiKey.objects.issue(theirs, "theirs")
    batch(theirs, completed=1)
    assert "add-demo" in steps(text(operator)) and ask not in steps(text(operator))
    page = steps(text(looker))
    assert page.count('<li class="done"') == 0 and ask in page and "<button" not in page and "/system/keys" not in page
    Model.objects.create(name="tiny-model", kind="scripted")
    page = steps(text(looker))
    assert page.count('<li class="done"') == 1 and ask in page and "step-batch" not in page


def test_no_key_is_asked_for_where_none_is_needed(root, settings):
    settings.VBS_API_AUTH = "open"
    assert "/system/keys" not in steps(text(root))


@pytest.mark.parametrize("auth", ["keys", "open"])
def test_a_model_that_is_on_its_way(root, looker, auth, settings):
    settings.VBS_API_AUTH = auth
    model = Model.objects.create(name="big", hub_id="a/big", state=ModelState.DOWNLOADING)
    Download.objects.create(model=model, state=DownloadState.RUNNING, bytes_total=100, bytes_done=43)
    for client in (root, looker):
        page = steps(text(client))
        assert 'value="43"' in page and ">big</a>: being fetched" in page and "add-demo" not in page


def test_the_page_has_a_way_to_a_new_batch_and_repeats_no_navigation(root, looker, operator):
    for client, creates in ((root, True), (operator, True), (looker, False)):
        page = text(client)
        assert ('id="new-batch" href="/batches/new"' in page) == creates
        assert "Every route" not in page and 'aria-label="Everything"' not in page


# What runs, waits and has ended


def test_what_runs(root, looker, mine, theirs):
    gpu = worker(state=WorkerState.RUNNING, model_name="some-model", health={"window": {"size": 256}})
    own = running(mine, gpu, completed=4, failed=1, requests_per_second=2.5, tokens_per_second=250.0)
    other = running(theirs, gpu, completed=1, model_names=["secret-model"])
    gpu.set(activity="Running a batch on some-model", work_kind="batch", work_id=other.pk)
    shown = section(text(looker), "running")
    assert f'href="/batches/{own.pk}/"' in shown and 'value="50.0"' in shown
    assert 'Running on <span dir="auto">some-model</span>' in shown and "2 batches share 256 places" in shown
    for said in ("5 of 10 requests", "1 failed", "2.50 requests/s", "250 tokens/s", "A batch of another project"):
        assert said in shown
    for hidden in (other.pk, "secret-model", "theirs"):
        assert hidden not in shown
    shown = section(text(root), "running")
    assert f'href="/batches/{other.pk}/"' in shown and "secret-model" in shown


def test_what_runs_on_a_remote_server_and_what_is_loaded(looker, mine):
    Model.objects.create(name="far", kind="remote", source="https://far.example/v1")
    addresses = [{"url": "https://far.example/v1", "state": "open", "why": "", "in_flight": 3, "limit": 16}]
    lane = {"model": "far", "state": "running", "why": "", "activity": "", "window": 16, "in_flight": 3,
            "requests_per_second": 2.0, "addresses": addresses}  # fmt: skip
    model = Model.objects.create(name="near", kind="scripted")
    gpu = worker(state=WorkerState.LOADING, activity="Loading near: 43 % of the weights", lanes=[lane])
    model.operations.create(kind="load", state="running", started_at=timezone.now(), asked_by="ada", percent=43)
    Worker.objects.update(work_kind="operation", work_id=model.operations.get().pk)
    running(mine, gpu, model_names=["far"])
    shown = section(text(looker), "running")
    assert 'Running on <span dir="auto">far</span>' in shown and "up to 16 requests at once" in shown
    assert "remote" in shown and "Load of" in shown and "43 % of the weights" in shown and "ada" in shown
    assert 'value="43"' in shown
    lane["why"] = "it answered 503"
    Worker.objects.update(lanes=[lane])
    page = text(looker)
    assert "No request is sent to its server now: it answered 503." in section(page, "running")
    assert "The server of far gets no requests now: it answered 503." in section(page, "health")


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
    for page in ("/", "/live"):
        assert other.pk not in text(looker, page), page
    for page in ("/models/", f"/models/{model.pk}/", "/system/"):
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
    assert "about 10 min left" in section(page, "running")
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


def test_an_empty_server_says_so(root, mine):
    page = text(root)
    for name in ("running", "waiting", "ended", "day"):
        assert re.search(rf'<section id="{name}"[^>]* hidden>', page), name
    Model.objects.create(name="some-model", kind="scripted")
    one = batch(mine, status="completed", completed=10, completed_at=timezone.now())
    happened(one, completed=10)
    page = text(root)
    assert "Nothing is running" in page and "starts by itself" in section(page, "running")
    assert page.count('<figure class="chart"') == 2 and "0 completed, 0 failed" in page
    assert not re.search(r'<section id="(running|ended|day)"[^>]* hidden>', page)


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


def problems(first_steps=False, rights=()):
    rows = list(Worker.objects.all())
    found = list(health.problems(rows, Viewer(frozenset(rights), None), first_steps))
    assert all(one.words and one.state in ("attention", "bad") for one in found)
    return {one.name: one for one in found}


@pytest.fixture
def proven(db):
    """A model that has answered."""
    model = Model.objects.create(name="some-model", kind="scripted")
    model.measurements.create(kind="load", load_seconds=1)
    return model


def test_a_server_that_is_well_says_so_in_one_line(root, proven, mine):
    worker("io"), worker(model_name="some-model")
    batch(mine, status="completed", completed=1, completed_at=timezone.now())
    assert problems() == {}
    shown = section(text(root), "health")
    assert "All is well" in shown and "some-model is loaded" in shown and "GiB free" in shown
    assert "<li" not in shown and "card" not in shown


def test_a_dead_worker(root, proven):
    worker("io")
    gpu = worker(model_name="m")
    Worker.objects.filter(pk=gpu.pk).update(heartbeat_at=timezone.now() - timedelta(minutes=7))
    found = problems()
    assert list(found) == ["GPU worker"] and found["GPU worker"].state == "bad"
    assert "7 min ago" in found["GPU worker"].words and found["GPU worker"].command == "manage.py worker gpu"
    page = section(text(root), "health")
    assert "1 problem<" in page and "manage.py worker gpu" in page and 'href="/system/"' in page
    Worker.objects.update(heartbeat_at=timezone.now() - timedelta(minutes=7))
    assert problems()["io workers"].command == "manage.py worker io"


def test_a_worker_that_waits_says_why(root, proven):
    worker("io"), worker(activity="GPU 0 is at 95 °C")
    assert problems()["GPU worker"].state == "attention" and "95 °C" in problems()["GPU worker"].words
    assert "GPU 0 is at 95 °C" in text(root)


def test_an_idle_engine_that_was_killed_is_told_until_it_is_loaded_again(proven):
    last = {"model": "some-model", "how": "killed by signal 9", "at": time.time() - 60}
    worker("io"), worker(health={"losses": {"memory": 0, "other": 1, "last": last}})
    proven.measurements.update(at=timezone.now() - timedelta(hours=1))
    found = problems()["Engine"]
    assert "idle engine of some-model ended" in found.words and "killed by signal 9" in found.words
    assert "The next request starts it again." in found.words and found.address == "/models/"
    proven.measurements.create(kind="load", load_seconds=1)
    assert problems() == {}
    proven.measurements.all().delete()
    Worker.objects.filter(cluster="gpu").update(health={"losses": {"last": last | {"at": time.time() - 100_000}}})
    assert "Engine" not in problems()


def test_a_remote_server_that_cannot_be_reached(proven):
    lost = {"url": "https://far.example/v1", "state": "lost", "why": "no connection", "in_flight": 0, "limit": 1}
    lane = {"model": "far", "state": "running", "why": "", "activity": "", "window": 1, "in_flight": 0,
            "requests_per_second": 0.0, "addresses": [lost, lost | {"state": "open", "why": ""}]}  # fmt: skip
    worker("io"), worker(lanes=[lane])
    found = problems()["Remote server"]
    assert found.state == "attention" and "1 of 2 addresses of far cannot be reached: no connection." in found.words
    assert "https" not in found.words, "viewers do not see addresses"
    lane |= {"why": "no connection", "addresses": [lost]}
    Worker.objects.filter(cluster="gpu").update(lanes=[lane])
    found = problems()["Remote server"]
    assert found.state == "bad" and "The server of far gets no requests now: no connection." in found.words
    lane |= {"state": "failed", "addresses": []}
    Worker.objects.filter(cluster="gpu").update(lanes=[lane])
    assert "The server of far failed when it was asked last: no connection." in problems()["Remote server"].words
    lane["detail"] = "https://far.example/v1: no connection. Check that it runs."
    Worker.objects.filter(cluster="gpu").update(lanes=[lane])
    assert "far.example" not in problems()["Remote server"].words
    said = problems(rights=["models_registry.change_model"])["Remote server"].words
    assert said.endswith("https://far.example/v1: no connection. Check that it runs.")


def test_a_model_that_has_never_answered(proven, mine, django_assert_max_num_queries):
    worker("io"), worker()
    new = Model.objects.create(name="new", kind="remote", source="https://far.example/v1")
    found = problems()["Models"]
    assert "new has never answered a request. Test it on its page" in found.words
    assert (found.address, found.link) == (f"/models/{new.pk}/", "Test it")
    assert "Models" not in problems(first_steps=True), "the steps lead to the first answer"
    new.operations.create(kind="test", state="failed", error="no connection to 10.0.0.1.")
    assert "Its last test failed. Test it" in problems()["Models"].words
    said = problems(rights=["models_registry.change_model"])["Models"].words
    assert "Its last test failed: no connection to 10.0.0.1. Test it" in said
    for number in range(5):
        Model.objects.create(name=f"other-{number}", kind="scripted")
    found = problems()["Models"]
    assert "new, other-0 and other-1 and others have never" in found.words or "others have never" in found.words
    Model.objects.filter(name__startswith="other").delete()
    open_one = new.operations.create(kind="test", state="running")
    assert problems() == {}, "it is being asked"
    open_one.delete()
    answered = batch(mine, model_names=["new"], completed=1)
    assert problems() == {}, "its turn has not ended, so nothing is measured yet"
    answered.delete()
    Worker.objects.filter(cluster="gpu").update(model_name="new")
    assert problems() == {}, "it is loaded"
    Worker.objects.filter(cluster="gpu").update(model_name="")
    new.operations.create(kind="test", state="succeeded")
    with django_assert_max_num_queries(6):
        assert problems() == {}


def test_a_model_that_cannot_be_used(proven):
    worker("io"), worker()
    Model.objects.filter(pk=proven.pk).update(check_error="it needs 9 GiB")
    assert "some-model could not be loaded at the last check." in problems()["Models"].words
    Model.objects.filter(pk=proven.pk).update(check_error="")
    Model.objects.create(name="m", hub_id="a/m", state=ModelState.FAILED, reason="damaged")
    found = problems()["Models"]
    assert found.state == "attention" and "m cannot be used." in found.words and found.address == "/models/"
    Model.objects.filter(name="m").update(name="smollm2-135m")
    assert "Models" in problems() and "Models" not in problems(first_steps=True), "the first step tells it"


@pytest.mark.parametrize(
    "total, free, state",
    [
        (100, 50, ""),
        (1000, 50, ""),
        (1000, 9, "attention"),
        (50, 9, ""),
        (50, 0.5, "bad"),
    ],
)
def test_the_disk(db, monkeypatch, total, free, state):
    monkeypatch.setattr(space.shutil, "disk_usage", lambda folder: disk(total, free))
    found = problems().get("Storage")
    assert (found.state if found else "") == state


def test_a_data_folder_that_is_gone(db, settings, tmp_path):
    settings.VBS_DATA_DIR = tmp_path / "gone"
    found = problems()["Storage"]
    assert found.state == "bad" and "No such file" in found.words


def test_a_gpu_is_metered(root):
    device = {"memory_used": 3 * 2**30, "memory_total": 4 * 2**30, "utilization": 41, "temperature": 45}
    worker(health={"devices": [device | {"power_watts": 120.0, "power_limit_watts": 200.0}]})
    page = text(root, "/models/")
    assert [int(value) for value in re.findall(r'<meter[^>]* value="(\d+)"', page)] == [75, 41, 50, 60]
    assert "<meter" not in text(root), "the first page has no figures of the machine"


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
    with django_assert_num_queries(17):
        rendered(overview.build(viewer, QueryDict()).values(), viewer)


def test_what_waits_stands_in_the_order_of_the_queue(root, mine):
    gpu = worker(model_name="here")
    for name in ("here", "there"):
        model = Model.objects.create(name=name, kind="scripted")
        model.measurements.create(kind="batch", requests=100, seconds=100)
        model.measurements.create(kind="load", load_seconds=1)
    running(mine, gpu, model_names=["here"], total=600)
    early, late = batch(mine, model_names=["there"]), batch(mine, model_names=["here"])
    shown = section(text(root), "waiting")
    queue = text(root, "/queue/").partition('id="waiting"')[2]
    assert (shown.index(early.pk) < shown.index(late.pk)) == (queue.index(early.pk) < queue.index(late.pk))
    assert shown.index(late.pk) < shown.index(early.pk), "its model is loaded"
