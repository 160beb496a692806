"""The pages of the system: what they show of workers and logs, who may do what, and that a log is only text."""

import os
import re
import socket
import uuid
from datetime import timedelta

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.utils import timezone

from batches.models import Batch
from models_registry import readiness
from models_registry.models import Model, Operation, OperationKind, OperationState, Worker
from models_registry.pages.logs import files as logfiles
from vbs import __version__
from vbs.accounts import roles
from vbs.accounts.models import Project
from vbs.configuration.models import AuditEntry

BAD = "<script>alert('x')</script>"
HTMX = {"HX-Request": "true"}
ACTIONS = ("restart", "engine", "free")


@pytest.fixture(autouse=True)
def data(settings, tmp_path):
    settings.STORAGES = settings.STORAGES | {
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    }
    settings.RUN_DIR, settings.LOG_DIR = tmp_path / "run", tmp_path / "logs"
    (settings.RUN_DIR / "gpu").mkdir(parents=True)
    settings.LOG_DIR.mkdir()
    return tmp_path


def client(role, name=None):
    user = User.objects.create_user(name or role)
    roles.assign(user, role)
    made = Client()
    made.force_login(user)
    made.user = user
    return made


@pytest.fixture
def operator(db):
    return client("operator")


@pytest.fixture
def viewer(db):
    return client("viewer")


@pytest.fixture
def admin(db):
    return client("admin")


def worker(**fields):
    return Worker.objects.create(**{"cluster": "gpu", "hostname": socket.gethostname(), "pid": 1} | fields)


def loaded(**fields):
    model = Model.objects.create(name="tiny", kind="scripted")
    return model, worker(model_name="tiny", engine_pid=7, **fields)


def text(response):
    return response.content.decode()


def seen(response):
    return re.findall(r'name="seen" value="([^"]+)"', text(response))


# Workers


def test_the_remote_models_that_run(operator, viewer):
    addresses = [
        {"url": "http://far.lan/v1", "limit": 16, "in_flight": 7, "state": "open", "why": "", "until": None},
        {
            "url": "http://far.lan:8/v1",
            "limit": 4,
            "in_flight": 0,
            "state": "held",
            "why": "it answered 429",
            "until": 1,
        },
    ]
    lane = {"model": BAD, "state": "running", "why": "", "activity": "Running a batch", "window": 20, "in_flight": 7}
    lanes = [lane | {"requests_per_second": 1.5, "addresses": addresses}]
    Worker.objects.create(cluster="gpu", hostname="box", pid=1, lanes=lanes)
    for page in ("/system/",):
        whole, main = (client.get(page).content.decode() for client in (operator, viewer))
        assert BAD not in whole and "Remote models" in whole and "7 of 20" in whole
        assert "http://far.lan:8/v1" in whole and "held: it answered 429, 0 of 4" in whole
        assert "far.lan" not in main and "1 of 2 open" in main and "7 of 20" in main
    Worker.objects.update(heartbeat_at=timezone.now() - timedelta(hours=1))
    assert "Remote models" not in operator.get("/system/").content.decode()


def test_a_failed_remote_model_says_since_when_and_why_and_where_to_operators_alone(operator, viewer):
    lane = {"model": "far", "state": "failed", "why": "it cannot be reached", "detail": "http://far.lan is away"}
    lane |= {"activity": "", "since": 1_767_225_600, "window": 0, "in_flight": 0, "requests_per_second": 0}
    Worker.objects.create(cluster="gpu", hostname="box", pid=1, lanes=[lane | {"addresses": []}])
    for page in ("/system/",):
        whole, main = (client.get(page).content.decode() for client in (operator, viewer))
        for shown in (whole, main):
            assert '<span class="state failed">failed</span>' in shown and "2026-01-01 00:00:00 UTC" in shown
            assert "0 of 0" not in shown
        assert "http://far.lan is away" in whole
        assert "it cannot be reached" in main and "far.lan" not in main


def test_workers_and_health(viewer):
    device = {"memory_used": 3 * 2**30, "memory_total": 4 * 2**30, "utilization": 7, "temperature": 55}
    worker(model_name="tiny", engine_pid=4711, state="running", activity=f"Running {BAD}", health={"devices": [device]})
    worker(cluster="io", pid=22, version="0.0.9")
    page = text(viewer.get("/system/"))
    for shown in ("pid 4711", "tiny", "pid 22", "55 °C", "3.0 GiB of 4.0 GiB", "can be written", "Machine 1"):
        assert shown in page, shown
    assert "vbs 0.0.9" in page and __version__ not in page, "each its own, not that of the web server"
    assert BAD not in page and "&lt;script&gt;" in page
    assert ">problem<" not in page and "Restart" not in page and "Logs" not in page and "heartbeat" not in page


def test_a_machine_is_shown_once_however_many_workers_look_at_it(operator, viewer):
    here = {"memory_used": 23 * 2**30, "memory_total": 24 * 2**30, "utilization": 100}
    cards = [
        {"uuid": f"GPU-{number}", "memory_used": number * 2**30, "memory_total": 80 * 2**30, "utilization": 99}
        for number in (1, 2)
    ]
    for place, seen_by in enumerate((cards[:1], cards[1:])):
        health = here | {"devices": seen_by, "at": place, "window": {"size": 80, "usual": 80, "why": ""}}
        worker(pid=place, model_name="tiny", state="running", health=health, home=f"/data/run/gpu{place}")
    for pid in range(2, 4):
        worker(cluster="io", pid=pid, health=here | {"devices": cards, "at": 9, "utilization": 98})
    worker(pid=4, hostname="far", health=here | {"memory_used": 2**30, "devices": []})
    for page in ("/system/", "/models/"):
        shown = text(operator.get(page))
        assert shown.count("GPU 0 memory</dt>") == shown.count("GPU 1 use</dt>") == 1, page
        assert shown.count("<dt>Memory</dt>") == 2 and shown.count("<dt>Processors</dt>") == 2, "of two machines"
        assert "23.0 GiB of 24.0 GiB" in shown and "1.0 GiB of 24.0 GiB" in shown and "80 requests at once" in shown
        assert "far" in shown and "far" not in text(viewer.get(page)).replace("so far", "")


def test_a_number_has_one_colour_on_every_page(operator):
    """Full processors are well used; of full memory there is a warning."""
    worker(health={"devices": [], "memory_used": 19, "memory_total": 20, "utilization": 100})
    meters = [re.findall(r"<meter[^>]*>", text(operator.get(page))) for page in ("/system/", "/models/")]
    assert meters[0] == meters[1] and len(meters[0]) == 2
    memory, processors = meters[0]
    assert 'low="80" high="92"' in memory and "low" not in processors and 'value="100"' in processors


@pytest.mark.parametrize("do", ACTIONS)
def test_what_loses_nothing_is_not_red(operator, do):
    _, there = loaded()
    question = text(operator.get(f"/system/workers/{there.pk}/{do}", headers=HTMX))
    assert "danger" not in question and 'class="main"' in question
    assert "danger" not in text(operator.get("/system/"))


def test_nothing_runs(viewer):
    page = text(viewer.get("/system/"))
    assert "No worker is running" in page and page.count("no heartbeat") == 2 and "manage.py worker io" in page


def test_a_dead_worker_says_what_to_do(operator):
    dead = worker(hostname="far", heartbeat_at=timezone.now() - timedelta(minutes=3))
    page = text(operator.get("/system/"))
    assert "On far, see whether pid 1 runs" in page and "last heartbeat <time" in page and "GPU worker" in page
    assert f"/system/workers/{dead.pk}/restart" not in page
    answer = operator.post(f"/system/workers/{dead.pk}/restart", follow=True)
    assert "gives no sign of life" in text(answer)
    dead.refresh_from_db()
    assert dead.restart_asked_at is None and not AuditEntry.objects.exists()


def test_a_storage_that_cannot_be_written(viewer, monkeypatch):
    monkeypatch.setattr(readiness, "storage", lambda: "not writable: OSError")
    from models_registry.pages.system import page as system

    monkeypatch.setattr(system, "STORAGE", readiness.Storage())
    page = text(viewer.get("/system/"))
    assert "not writable: OSError" in page and "(under Disk)" in page


def test_a_storage_that_hangs_does_not_hang_the_page(monkeypatch):
    import threading

    over = threading.Event()
    monkeypatch.setattr(readiness, "storage", lambda: over.wait(20) and "ok")
    probe = readiness.Storage()
    probe.PATIENCE_SECONDS = 0.05
    assert probe.state() == "does not answer" == probe.state()
    over.set()


def test_a_fixed_number_of_queries_and_small_news(operator, django_assert_num_queries):
    first = worker()
    operator.get("/system/live")
    with django_assert_num_queries(6):
        operator.get("/system/live")
    for pid in range(30):
        worker(cluster="io", pid=pid)
    with django_assert_num_queries(6):
        page = operator.get("/system/live")
    assert len(seen(page)) == 3 + 2 + 31 * 2 + 1, "parts, a machine with its readings, its workers with their doings"
    marks = seen(operator.get("/system/live"))
    Worker.objects.filter(pk=first.pk).update(state="running", activity="Running one")
    changed = text(operator.get("/system/live", {"seen": marks}))
    assert f'id="beat-{first.pk}"' in changed and f'id="worker-{first.pk}"' not in changed


def test_who_does_not_see_all_projects_is_not_told_which_batch(viewer, admin):
    worker(state="running", activity="Running a batch on tiny", work_kind="batch", work_id="batch_0199f3")
    page = text(viewer.get("/system/"))
    assert "Running a batch on tiny" in page and "batch_0199f3" not in page
    assert "Running a batch on tiny (batch_0199f3)" in text(admin.get("/system/"))


def test_everybody_who_sees_workers_is_told_which_operation(viewer):
    worker(state="running", activity="Running load tiny", work_kind="operation", work_id="op_1")
    assert "Running load tiny (op_1)" in text(viewer.get("/system/"))
    Worker.objects.update(work_kind="unheard of")
    assert "op_1" not in text(viewer.get("/system/"))


def test_in_the_admin_too_it_is_told_to_those_who_see_all_projects(admin, viewer):
    there = worker(state="running", activity="Running a batch on tiny", work_kind="batch", work_id="batch_0199f3")
    viewer.user.is_staff = True
    viewer.user.save()
    viewer.user.user_permissions.add(Permission.objects.get(codename="view_worker"))
    for address in ("/admin/models_registry/worker/", f"/admin/models_registry/worker/{there.pk}/change/"):
        page = text(viewer.get(address))
        assert "Running a batch on tiny" in page and "batch_0199f3" not in page
        assert "Running a batch on tiny (batch_0199f3)" in text(admin.get(address))


# Actions


@pytest.mark.parametrize("do", ACTIONS)
def test_only_operators(viewer, do):
    _, there = loaded()
    address = f"/system/workers/{there.pk}/{do}"
    assert viewer.get(address).status_code == viewer.post(address).status_code == 403
    assert Client().post(address).status_code == 302
    there.refresh_from_db()
    assert there.restart_asked_at is None and not Operation.objects.exists() and not AuditEntry.objects.exists()


@pytest.mark.parametrize("do", ACTIONS)
def test_what_is_not_there(operator, do):
    assert operator.post(f"/system/workers/{uuid.uuid4()}/{do}").status_code == 404
    assert operator.get(f"/system/workers/1/{do}").status_code == 404
    assert operator.put(f"/system/workers/{worker().pk}/{do}").status_code == 405


@pytest.mark.parametrize("do", ACTIONS)
def test_asking_changes_nothing_and_names_what_is_interrupted(operator, admin, do):
    _, there = loaded()
    project = Project.objects.create(name="theirs")
    lease = timezone.now() + timedelta(minutes=1)
    batch = Batch.objects.create(
        project=project, endpoint="/v1/chat/completions", completion_window="24h", status="in_progress", total=9,
        completed=3, expires_at=lease, leased_by=there.pk, leased_until=lease, model_names=["tiny"],
    )  # fmt: skip
    address = f"/system/workers/{there.pk}/{do}"
    question = text(operator.get(address, headers=HTMX))
    assert "a batch of another project" in question and "3 of 9 requests done" in question and batch.pk not in question
    assert "<html" not in question and "<html" in text(operator.get(address))
    assert batch.pk in text(admin.get(address)), "who sees every project is told which"
    project.members.add(operator.user)
    assert batch.pk in text(operator.get(address))
    there.refresh_from_db()
    assert there.restart_asked_at is None and not Operation.objects.exists()
    if do == "free":
        assert "pause the queue first" in question


def test_of_many_batches_at_once_the_first_are_named_and_the_others_counted(admin):
    _, there = loaded()
    project, lease = Project.objects.create(name="theirs"), timezone.now() + timedelta(minutes=1)
    for number in range(12):
        Batch.objects.create(
            project=project, endpoint="/v1/chat/completions", completion_window="24h", status="in_progress", total=9,
            completed=number, expires_at=lease, leased_by=there.pk, leased_until=lease, model_names=["tiny"],
            priority=-number,
        )  # fmt: skip
    question = text(admin.get(f"/system/workers/{there.pk}/restart", headers=HTMX))
    assert question.count("which continues where it stopped") == 10
    assert question.index("0 of 9 requests done") < question.index("9 of 9 requests done")
    assert "It runs 2 more batches, which go on afterwards too." in question


def test_restart(operator):
    there = worker()
    page = text(operator.post(f"/system/workers/{there.pk}/restart", follow=True))
    assert "restarts within" in page and "about to restart" in page and "/restart" not in page
    assert there.restart_asked()
    entry = AuditEntry.objects.get()
    assert (entry.action, entry.target, entry.username) == ("worker.restart", str(there), "operator")


def test_free(operator):
    model, there = loaded()
    operator.post(f"/system/workers/{there.pk}/free")
    row = Operation.objects.get()
    assert (row.kind, row.model, row.priority, row.asked_by) == (OperationKind.UNLOAD, model, 101, "operator")
    assert row.worker == there.pk
    assert AuditEntry.objects.get().action == "worker.free"


def test_restart_engine_unloads_before_it_loads(operator):
    model, there = loaded()
    older = Operation.objects.create(kind=OperationKind.LOAD, model=model, asked_by="another")
    operator.post(f"/system/workers/{there.pk}/engine")
    older.refresh_from_db()
    assert older.state == OperationState.QUEUED, "it is another's, and for any worker"
    rows = Operation.objects.filter(worker=there.pk, state=OperationState.QUEUED).order_by("-priority", "created_at")
    assert [(row.kind, row.priority) for row in rows] == [("unload", 101), ("load", 101)]
    operator.post(f"/system/workers/{there.pk}/engine")
    assert [row.kind for row in rows.all()] == ["unload", "load"], "asked twice it is done once, in order"
    assert set(AuditEntry.objects.values_list("action", flat=True)) == {"worker.restart-engine"}


@pytest.mark.parametrize("do", ["engine", "free"])
def test_without_a_model_there_is_nothing_to_do(operator, do):
    there = worker()
    assert "has no model loaded" in text(operator.post(f"/system/workers/{there.pk}/{do}", follow=True))
    gone = worker(model_name="gone", pid=2)
    assert "not registered any more" in text(operator.post(f"/system/workers/{gone.pk}/{do}", follow=True))
    assert not Operation.objects.exists() and not AuditEntry.objects.exists()


# Logs


async def everything(pieces):
    return b"".join([piece async for piece in pieces])


def engine_log(data, content, name="engine-20260101-000000-001.log"):
    path = data / "run" / "gpu" / name
    path.write_bytes(content)
    return path


def test_the_engines_log_is_followed(admin, data):
    there = worker(home=str(data / "run" / "gpu"))
    engine_log(data, b"an old one\n")
    path = engine_log(data, b"".join(b"line %d\n" % n for n in range(1000)), "engine-20260102-000000-001.log")
    page = text(admin.get("/system/log"))
    assert "line 999" in page and "line 800" in page and "line 799" not in page and "an old one" not in page
    assert f'value="{there.pk}" selected' in page and "The last lines of" in page
    query = {"of": str(there.pk), "seen": seen(admin.get("/system/log"))}
    assert admin.get("/system/log/live", query).status_code == 204
    with path.open("ab") as file:
        file.write(b"and one more\n")
    assert "and one more" in text(admin.get("/system/log/live", query))
    still = text(admin.get("/system/log?still="))
    assert 'id="pulse"' not in still and ">Follow<" in still


def test_hostile_lines_are_text(admin, data, settings):
    settings.HF_TOKEN = "hf_averysecretone"
    (settings.LOG_DIR / "gpu.log").write_bytes(
        b"\x1b[31mred\x1b[0m \x1b]0;title\x07 \x9b2J \x00 <script>alert(1)</script>\n"
        b"10%\r50%\r100% done\r\n"
        b"Bearer sk-vbs-abcdefgh123 and hf_averysecretone\n" + b"\xff\xfe\n" + b"y" * 100_000 + b"\n"
        b"\xe2\x80\xaeright to left\nunfinished"
    )
    page = text(admin.get("/system/log?of=gpu"))
    lines = page.partition('id="lines"')[2].partition("</pre>")[0]
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", lines)
    assert "red ⟨ESC⟩]0;title⟨BEL⟩" in lines and "&lt;script&gt;" in lines and "<script>" not in lines
    assert "100% done" in lines and "50%" not in lines and "more characters" in lines and len(lines) < 5000
    assert "sk-vbs-abc" not in lines and "averysecret" not in lines and "unfinished" in lines
    assert "style=" not in page and "unsafe" not in admin.get("/system/log").headers["Content-Security-Policy"]


def test_a_large_log_is_read_from_its_end(admin, settings):
    path = settings.LOG_DIR / "web.log"
    with path.open("wb") as file:
        file.truncate(3 * 2**30)  # holes take no room
        file.seek(0, os.SEEK_END)
        file.write(b"\nthe end\n")
    assert "the end" in text(admin.get("/system/log?of=web"))


@pytest.mark.parametrize(
    "name", ["postgres", "../../etc/passwd", "/etc/passwd", "web.log", "a\0b", "%2e%2e", "x" * 3000, BAD]
)
def test_only_logs_that_are_known(admin, name):
    for address in ("/system/log", "/system/log/live", "/system/log/whole"):
        assert admin.get(address, {"of": name}).status_code == 404


@pytest.mark.parametrize("home", ["/etc", "{run}", "{run}/../secret", "{run}/gpu/../../secret", "", "{run}/x/y", "gpu"])
def test_a_home_elsewhere_is_not_read(admin, data, home):
    for folder in (data / "secret", data, data / "run" / "x" / "y"):
        folder.mkdir(exist_ok=True, parents=True)
        (folder / "engine-1.log").write_text("private")
    (data / "run" / "engine-1.log").write_text("private")
    there = worker(home=home.format(run=data / "run"))
    page = text(admin.get("/system/log", {"of": str(there.pk)}))
    assert "private" not in page and "No log on this machine" in page
    assert admin.get("/system/log/whole", {"of": str(there.pk)}).status_code == 404


def test_links_other_hosts_and_pipes_are_not_read(admin, data):
    private = data / "private"
    private.mkdir()
    (private / "engine-1.log").write_text("private")
    (data / "run" / "linked").symlink_to(private)
    (data / "run" / "gpu" / "engine-1.log").symlink_to(private / "engine-1.log")
    linked, inside = worker(home=str(data / "run" / "linked")), worker(home=str(data / "run" / "gpu"))
    far = worker(home=str(data / "run" / "gpu"), hostname="far")
    for there in (linked, inside, far):
        assert "private" not in text(admin.get("/system/log", {"of": str(there.pk)}))
        assert admin.get("/system/log/whole", {"of": str(there.pk)}).status_code == 404
    os.mkfifo(data / "logs" / "io.log")
    assert "cannot be read" in text(admin.get("/system/log?of=io"))


def test_who_reads_logs(viewer, operator, admin, settings):
    (settings.LOG_DIR / "web.log").write_bytes(b"first\n" + b"Bearer abcdef0123456789\n" * 30_000 + b"last")
    for address in ("/system/log", "/system/log/live", "/system/log/whole"):
        assert viewer.get(address).status_code == 403 and Client().get(address).status_code == 302
    assert operator.get("/system/log/whole?of=web").status_code == 403
    assert "Download" not in text(operator.get("/system/log?of=web"))
    assert ">Download<" in text(admin.get("/system/log?of=web"))
    answer = admin.get("/system/log/whole?of=web")
    whole = async_to_sync(everything)(answer.streaming_content)
    assert whole.startswith(b"first\n") and whole.endswith(b"last") and b"abcdef" not in whole
    assert whole.count(b"Bearer ***") == 30_000
    assert answer.headers["Content-Disposition"] == 'attachment; filename="web.log"'
    assert AuditEntry.objects.get().action == "log.download"
    assert logfiles.of_program("nothing") is None


def test_a_log_is_for_those_who_see_every_project(operator, admin):
    for address in ("/system/log?of=gpu", "/system/log/live?of=gpu", "/system/log/whole?of=gpu"):
        assert operator.get(address).status_code == 403
    assert "/system/log" not in text(operator.get("/system/")) and "/system/log" in text(admin.get("/system/"))
