"""The admin: everything can be looked at, little can be changed, and actions do what the API does."""

import re

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.auth.models import Group, Permission, User
from django.db import connection
from django.db.models import CompositePrimaryKey
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from batches.models import (
    Activity,
    Batch,
    BatchEvent,
    BatchRequest,
    BatchStatus,
    File,
    Pause,
    RequestState,
    SearchIndex,
    Upload,
    UploadPart,
)
from models_registry.hub import tokens
from models_registry.models import Alias, Download, HubToken, InteractiveUsage, Measurement, Model, Operation, Worker
from tests.models_registry.catalog.test_add import model_folder
from tests.people import person, superuser
from vbs.accounts.models import ApiKey, KeptAnswer, Project
from vbs.admin import base as common
from vbs.configuration.models import AuditEntry, Override

OURS = ("accounts", "batches", "configuration", "models_registry", "curation", "finetuning")
READ_ONLY = (
    Batch, BatchEvent, BatchRequest, File, Upload, UploadPart, Worker, Download, Operation, Measurement, Alias,
    Activity, Pause, SearchIndex, Override, AuditEntry,
)  # fmt: skip
HOSTILE = "<b>hello</b><i>\x1b[31m\u202e'\"; DROP TABLE"


@pytest.fixture
def project(db):
    return Project.objects.create(name="project")


@pytest.fixture
def staff(db):
    def make(*permissions):
        user = User.objects.create_user(f"staff {User.objects.count()}", is_staff=True)
        user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
        client = Client()
        client.force_login(user)
        return client

    return make


def rows(project, number):
    """One more row of every model."""
    now = timezone.now()
    ApiKey.objects.issue(project, f"key {number}")
    model = Model.objects.create(name=f"model {number}", kind="scripted")
    Alias.objects.create(name=f"alias {number}", model=model)
    Model.objects.create(name=f"adapter {number}", kind="scripted", base=model, lora_rank=8)
    Download.objects.create(model=model, state="failed", reason="<b>hello</b>", files=[{"path": "<i>"}])
    Operation.objects.create(model=model, kind="test", state="failed", log="<b>hello</b>", result={"<i>": 1})
    Measurement.objects.create(model=model, kind="batch", requests=1, output_tokens=5, seconds=2, memory_bytes=10)
    InteractiveUsage.objects.create(project=project, model=HOSTILE, hour=now, requests=2, output_tokens=5)
    tokens.keep(f"token-{number}", f"hf_secret{number}")
    Worker.objects.create(cluster="gpu", hostname=f"host {number}", pid=number)
    file = File.objects.create(
        project=project, filename=f"{number}.jsonl", purpose="batch", format="jsonl", status="available", bytes=3
    )
    upload = Upload.objects.create(
        project=project, filename="a", purpose="batch", mime_type="x", bytes=2, expires_at=now, file=file
    )
    UploadPart.objects.create(upload=upload, bytes=2)
    first = Batch.objects.filter(project=project).first()
    batch = Batch.objects.create(
        project=project, input_file=file, input_file_id_given=file.pk, endpoint="/v1/completions",
        completion_window="24h", expires_at=now, retry_of=first, output_file=None, total=2, completed=1,
        metadata={"<script>": "alert(1)"}, model_names=["m"],
    )  # fmt: skip
    batch.note(HOSTILE)
    BatchRequest.objects.create(
        batch=batch, line=1, offset=0, length=2, custom_id="<i>", model_index=0, prefix="0" * 32, response='{"a":1}',
        error_code=HOSTILE, error_message=HOSTILE, request_id=HOSTILE,
    )  # fmt: skip
    Activity.objects.create(batch=batch, at=now, completed=1)
    SearchIndex.objects.create(batch=batch)
    Pause.objects.create(ended_at=now, asked_by=HOSTILE, reason=HOSTILE)
    KeptAnswer.objects.create(id=f"{number:064}", project=project, fingerprint="x", status=200, body=HOSTILE)
    Override.objects.create(name=f"SETTING {number}", value={HOSTILE: HOSTILE}, changed_by=HOSTILE)
    AuditEntry.objects.create(username=HOSTILE, action="batch.cancel", target=HOSTILE, detail=HOSTILE, project=project)
    return batch


def registered():
    return [model for model in admin.site._registry if model._meta.app_label in OURS]


def address(model, page, *words):
    return "/admin/" + "/".join([model._meta.app_label, model._meta.model_name, *words, *([page] if page else []), ""])


def test_every_model_has_an_admin():
    """But for those whose key has several columns, which Django's admin cannot show."""
    missing = [
        model
        for label in OURS
        for model in apps.get_app_config(label).get_models()
        if model not in admin.site._registry and not isinstance(model._meta.pk, CompositePrimaryKey)
    ]
    assert missing == []


@pytest.mark.parametrize("model", registered(), ids=lambda model: model._meta.label)
def test_lists_searches_and_details(root, project, model):
    rows(project, 1)
    rows(project, 2)
    listed = root.get(address(model, ""))
    assert listed.status_code == 200
    assert root.get(address(model, ""), {"q": "a'b%_\\"}).status_code == 200
    one = model.objects.first()
    detail = root.get(address(model, "change", str(one.pk)))
    assert detail.status_code == 200
    for page in (listed, detail):
        text = page.content.decode()
        assert "<script>alert(1)" not in text and "<b>hello" not in text and "<i>" not in text
    for field in model._meta.get_fields():
        if field.name in getattr(admin.site._registry[model], "list_filter", ()):
            assert root.get(f"{address(model, '')}?{field.name}__isnull=True").status_code in (200, 302)


@pytest.mark.parametrize("model", registered(), ids=lambda model: model._meta.label)
def test_more_rows_need_no_more_queries(root, project, model, django_assert_max_num_queries):
    rows(project, 1)
    root.get(address(model, ""))
    with CaptureQueriesContext(connection) as few:
        root.get(address(model, ""))
    for number in range(2, 12):
        other = Project.objects.create(name=f"project {number}")
        rows(other, number)
        rows(other, number + 100)
    with django_assert_max_num_queries(len(few)):
        root.get(address(model, ""))


@pytest.mark.parametrize("model", READ_ONLY, ids=lambda model: model._meta.label)
def test_what_the_system_writes_cannot_be_edited(root, project, model):
    rows(project, 1)
    one = model.objects.first()
    before = model.objects.values().first()
    for page, words in (("add", ()), ("change", (str(one.pk),))):
        assert root.post(address(model, page, *words), {"custom_id": "x", "status": "completed"}).status_code == 403
    if model is not Worker:
        assert root.post(address(model, "delete", str(one.pk)), {"post": "yes"}).status_code == 403
    assert model.objects.values().get() == before


def act(client, model, action, *chosen):
    data = {"action": action, "_selected_action": [one.pk for one in chosen]}
    answer = client.post(address(model, ""), data, follow=True)
    return answer, [str(message) for message in answer.context["messages"]] if answer.context else []


def test_cancel_as_the_api_does(root, project):
    running, ended = rows(project, 1), rows(project, 2)
    Batch.objects.filter(pk=ended.pk).update(status=BatchStatus.COMPLETED)
    _, said = act(root, Batch, "cancel", running, ended)
    running.refresh_from_db()
    ended.refresh_from_db()
    assert (running.status, running.outcome) == (BatchStatus.CANCELLING, BatchStatus.CANCELLED)
    assert running.cancelling_at and ended.status == BatchStatus.COMPLETED
    assert f"{running.pk}: asked to cancel." in said
    assert f"{ended.pk}: Cannot cancel a batch with status 'completed'." in said


def test_retry_as_the_api_does(root, project):
    running, failed, fine = (rows(project, number) for number in (1, 2, 3))
    Batch.objects.exclude(pk=running.pk).update(status=BatchStatus.COMPLETED)
    failed.requests.update(state=RequestState.FAILED)
    fine.requests.update(state=RequestState.COMPLETED)
    _, said = act(root, Batch, "retry", running, failed, fine)
    assert Batch.objects.filter(retry_of=failed, status=BatchStatus.VALIDATING).count() == 1
    assert f"{failed.pk}: retried." in said
    assert any(one.startswith(f"{running.pk}: Cannot retry a batch with status 'validating'") for one in said)
    assert any(one.startswith(f"{fine.pk}: There is nothing to retry") for one in said)


def test_priorities_move_by_ten_within_their_bounds(root, project):
    usual, high, ended = (rows(project, number) for number in (1, 2, 3))
    Batch.objects.filter(pk=high.pk).update(priority=95)
    Batch.objects.filter(pk=ended.pk).update(status=BatchStatus.COMPLETED)
    _, said = act(root, Batch, "raise_priority", usual, high, ended)
    assert [Batch.objects.get(pk=one.pk).priority for one in (usual, high, ended)] == [10, 100, 0]
    assert any(one.startswith(f"{ended.pk}: ") and "completed" in one for one in said)
    act(root, Batch, "lower_priority", usual)
    assert Batch.objects.get(pk=usual.pk).priority == 0


def test_deleting_a_file_hides_it(root, project):
    rows(project, 1)
    file = File.objects.get()
    act(root, File, "hide", file)
    assert not File.objects.visible(project).exists() and File.objects.filter(pk=file.pk, purged_at=None).exists()


def test_a_key_shows_its_secret_once(root, project):
    answer = root.post(address(ApiKey, "add"), {"project": project.pk, "name": "from the admin"}, follow=True)
    (secret,) = re.findall(r"sk-vbs-[\w-]{43}", " ".join(str(one) for one in answer.context["messages"]))
    key = ApiKey.objects.get()
    assert ApiKey.objects.authenticate(secret) == key and key.name == "from the admin"
    for page in (address(ApiKey, ""), address(ApiKey, "change", str(key.pk)), address(ApiKey, "history", str(key.pk))):
        answer = root.get(page)
        assert answer.status_code == 200 and secret not in answer.content.decode()
        assert key.digest not in answer.content.decode()


def test_changing_a_key_keeps_its_secret(root, project):
    key, secret = ApiKey.objects.issue(project, "old")
    root.post(address(ApiKey, "change", str(key.pk)), {"project": project.pk, "name": "new"})
    key.refresh_from_db()
    assert key.name == "new" and ApiKey.objects.authenticate(secret) == key


def test_revoke(root, project):
    key, secret = ApiKey.objects.issue(project, "x")
    act(root, ApiKey, "revoke", key)
    assert ApiKey.objects.authenticate(secret) is None


# Large tables


@pytest.mark.parametrize("model", [BatchRequest, BatchEvent, Activity], ids=lambda model: model.__name__)
def test_rows_of_one_batch_are_found_by_its_whole_id(root, project, model):
    first, second = rows(project, 1), rows(project, 2)
    found = root.get(address(model, ""), {"q": f" {first.pk} "}).context["cl"].queryset
    assert {row.batch_id for row in found} == {first.pk} and found.exists()
    for nothing in (first.pk[:-1], first.pk.upper(), "%", f"{first.pk} {second.pk}"):
        assert not root.get(address(model, ""), {"q": nothing}).context["cl"].queryset.exists()


@pytest.mark.parametrize("model", [BatchRequest, Activity], ids=lambda model: model.__name__)
@pytest.mark.parametrize("query", ["", "?q=batch_1", "?o=3", "?q=batch_1&o=-2&_facets=True", "?q=batch_1&p=2"])
def test_millions_of_rows_are_never_read(root, project, model, query, monkeypatch):
    """Each list goes along an index, and stops."""
    monkeypatch.setattr(admin.site._registry[model], "list_per_page", 1)
    batch = rows(project, 1)
    rows(project, 2)
    query = query.replace("batch_1", batch.pk)
    table = model._meta.db_table
    with CaptureQueriesContext(connection) as asked:
        assert root.get(address(model, "") + query).status_code in (200, 302)
    asked_of = [one["sql"] for one in asked if f'FROM "{table}"' in one["sql"]]
    assert asked_of
    for sql in asked_of:
        assert ("LIMIT" in sql or "q=" in query) and "JOIN" not in sql and '"response"' not in sql
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL enable_seqscan = off")  # of so few rows it would be the quickest
            cursor.execute("SET LOCAL enable_sort = off")
            cursor.execute(f"EXPLAIN {sql}")
            plan = "\n".join(line for (line,) in cursor.fetchall())
        counted = "COUNT(*)" in sql
        for fine in ("Incremental Sort", "Sort Key"):  # of what has the same time
            plan = plan.replace(fine, "")
        assert "Sort" not in plan and ("Seq Scan" not in plan or (counted and "q=" not in query)), plan


def test_a_list_shows_no_more_pages_than_are_counted(root, project, monkeypatch):
    monkeypatch.setattr(common, "MOST_COUNTED", 3)
    for number in range(5):
        rows(project, number)
    assert root.get(address(BatchRequest, "")).context["cl"].result_count == 3


def test_a_request_leads_to_its_page(root, project):
    batch = rows(project, 1)
    page = root.get(address(BatchRequest, "change", str(BatchRequest.objects.get().pk))).content.decode()
    assert f'href="/batches/{batch.pk}/requests/1"' in page and "⟨ESC⟩[31m⟨RLO⟩" in page.replace("</b>", "").replace(
        '<b class="sign" title="U+001B">', ""
    ).replace('<b class="sign" title="RIGHT-TO-LEFT OVERRIDE">', "")


# Projects


def test_members_of_a_project(root, project):
    ann = User.objects.create_user("ann")
    given = {"name": project.name, "members": [ann.pk]}
    assert root.post(address(Project, "change", str(project.pk)), given).status_code == 302
    assert list(project.members.all()) == [ann]
    ApiKey.objects.issue(project, "a")
    ApiKey.objects.issue(project, "b")[0].revoke()
    (shown,) = root.get(address(Project, "")).context["cl"].result_list
    assert (shown.people, shown.keys_in_use) == (1, 1)


def test_a_project_with_files_stays(root, project):
    empty = Project.objects.create(name="empty")
    rows(project, 1)
    for one in (empty, project):
        root.post(address(Project, "delete", str(one.pk)), {"post": "yes"})
    assert list(Project.objects.all()) == [project] and Batch.objects.exists()
    act(root, Project, "delete_selected", project)
    assert Project.objects.exists()


# Who may.

# Of every model in the admin, what the role may do there besides looking. What names code, paths or addresses is
# nobody's: see the notes.
ADMIN_MAY = {
    "auth.User": {"add", "change"},  # no more than they may themselves: tests/vbs/accounts/test_people.py
    "auth.Group": set(),
    "accounts.Project": {"add", "change"},  # this one is not empty
    "accounts.ApiKey": {"add", "change", "delete"},
    "models_registry.Model": {"change"},  # its source is only shown, and its options are checked as by the API
    "models_registry.HubToken": {"add", "change", "delete"},
    "models_registry.Worker": {"delete"},
}


@pytest.mark.parametrize("model", list(admin.site._registry), ids=lambda model: model._meta.label)
@pytest.mark.parametrize("role", ["", "viewer", "operator", "admin", "superuser"])
def test_every_model_for_every_role(project, model, role):
    rows(project, 1)
    User.objects.create_user("somebody")
    client = superuser() if role == "superuser" else person(role, project)
    one = model.objects.exclude(username=client.user.username).first() if model is User else model.objects.first()
    pages = {"add": address(model, "add")}
    pages |= {page: address(model, page, str(one.pk)) for page in ("change", "delete")}
    if role not in ("admin", "superuser"):
        for page in (address(model, ""), *pages.values()):
            assert client.get(page).status_code == 302 and client.post(page, {"post": "yes"}).status_code == 302
        return
    assert client.get(address(model, "")).status_code == client.get(pages["change"]).status_code == 200
    if role == "admin":
        for page in ("add", "change", "delete"):
            may = page in ADMIN_MAY.get(model._meta.label, set())
            assert (client.post(pages[page], {"name": ""}).status_code == 403) is not may, page


def test_nobody_has_functions_called_through_the_admin(root):
    """A row of the task queue names a function, `os.system` for one."""
    person("admin")
    for page in ("schedule", "schedule/add", "ormq", "success", "failure"):
        assert root.get(f"/admin/django_q/{page}/").status_code == 404
    assert "django_q" not in root.get("/admin/").content.decode()


def test_an_admin_makes_nobody_a_superuser_and_no_role_larger(project):
    admins = person("admin")
    viewer, boss = person("viewer").user, User.objects.create_superuser("boss")
    more = {"is_superuser": "on", "is_staff": "on", "groups": [1, 2, 3], "user_permissions": [1, 2, 3]}
    for user in (admins.user, viewer, boss):
        page = address(User, "change", str(user.pk))
        admins.post(page, {"username": user.username, "is_active": "on", "date_joined_0": "2026-01-01"} | more)
        kept = User.objects.get(pk=user.pk)
        assert kept.is_superuser is (user == boss) and not kept.user_permissions.exists()
        assert list(kept.groups.all()) == list(user.groups.all())
    assert admins.post(address(User, "password", str(boss.pk))).status_code in (403, 404)
    for group in Group.objects.all():
        assert admins.post(address(Group, "change", str(group.pk)), {"name": "x"}).status_code == 403


def test_strangers_and_plain_users_see_nothing(db, project):
    plain = Client()
    plain.force_login(User.objects.create_user("plain"))
    for client in (Client(), plain):
        for model in registered():
            assert client.get(address(model, "")).status_code == 302


def test_staff_without_permissions_gets_nothing(staff, project):
    batch = rows(project, 1)
    client = staff()
    for model in registered():
        one = model.objects.first()
        assert client.get(address(model, "")).status_code == 403
        assert client.get(address(model, "change", str(one.pk))).status_code == 403
        assert client.get(address(model, "add")).status_code == 403
    assert act(client, Batch, "cancel", batch)[0].status_code == 403
    assert "batches" not in client.get("/admin/").content.decode()


@pytest.mark.parametrize(
    "model, may, action", [(Batch, "view_batch", "cancel"), (Batch, "view_batch", "retry"), (File, "view_file", "hide")]
)
def test_who_may_only_look_cannot_act(staff, project, model, may, action):
    batch = rows(project, 1)
    one = model.objects.first()
    client = staff(may)
    assert client.get(address(model, "")).status_code == 200
    act(client, model, action, one)
    batch.refresh_from_db()
    assert batch.status == BatchStatus.VALIDATING and File.objects.visible(project).exists()
    assert Batch.objects.count() == 1


def test_who_may_only_look_cannot_revoke_keys(staff, project):
    key, secret = ApiKey.objects.issue(project, "x")
    act(staff("view_apikey"), ApiKey, "revoke", key)
    assert ApiKey.objects.authenticate(secret)


def test_who_may_operate(staff, project):
    batch = rows(project, 1)
    act(staff("view_batch", "change_batch"), Batch, "cancel", batch)
    batch.refresh_from_db()
    assert batch.status == BatchStatus.CANCELLING


def test_a_model_that_is_needed_stays_and_bad_options_are_refused(root, monkeypatch, tmp_path, settings):
    """What the command refuses, the admin refuses too."""
    settings.VBS_TRUST_REMOTE_CODE = True
    model = Model.objects.create(name="m", kind="vllm", source=str(model_folder(tmp_path / "m")))
    monkeypatch.setattr("models_registry.workloads.needs", lambda names: ["batch_1 waits"])
    assert act(root, Model, "remove", model)[1] == ["m is still needed: batch_1 waits"]
    assert Model.objects.exists()
    assert root.get(address(Model, "add")).status_code == 403
    assert root.post(address(Model, "delete", str(model.pk)), {"post": "yes"}).status_code == 403
    for given, message in (("[1]", "must be a JSON object"), ('{"max-model-len": "abc"}', "max-model-len")):
        answer = root.post(address(Model, "change", str(model.pk)), {"task": "chat", "engine_args": given})
        assert answer.status_code == 200 and message in answer.content.decode()
    given = {"task": "chat", "engine_args": '{"max_model_len": "2048"}', "trust_remote_code": "on"}
    assert root.post(address(Model, "change", str(model.pk)), given).status_code == 302
    model.refresh_from_db()
    assert model.engine_args == {"max-model-len": 2048} and model.context_length == 2048
    assert model.trust_remote_code and dict(model.spec().args)["trust-remote-code"] is True
    monkeypatch.setattr("models_registry.workloads.needs", lambda names: [])
    assert "m: removed." in act(root, Model, "remove", model)[1]
    assert not Model.objects.exists()


# Models: what is asked of the GPU and of the hub.


@pytest.mark.parametrize("action", ["load", "unload", "test", "benchmark"])
def test_operations_are_queued_for_each_model_that_can(root, action):
    fine = Model.objects.create(name="fine", kind="scripted")
    draft = Model.objects.create(name="draft", kind="vllm", state="draft", hub_id="o/n")
    _, said = act(root, Model, action, draft, fine)
    assert f"fine: {action} is queued." in said
    operation = Operation.objects.get(model=fine)
    assert (operation.kind, operation.state, operation.asked_by) == (action, "queued", "root")
    assert Operation.objects.filter(model=draft).exists() is (action == "unload")


def test_fetching_says_why_not(root):
    model = Model.objects.create(name="m", kind="scripted")
    assert act(root, Model, "fetch", model)[1] == ["m is not from a hub: there is nothing to fetch"]


def test_what_is_loaded_is_marked(root):
    base = Model.objects.create(name="base", kind="scripted")
    adapter = Model.objects.create(name="adapter", kind="scripted", base=base)
    Model.objects.create(name="other", kind="scripted")
    Worker.objects.create(cluster="gpu", hostname="h", pid=1, model_name="base", adapters=[adapter.served_name])
    page = root.get(address(Model, "")).content.decode()
    assert page.count("icon-yes") == 2 and page.count("icon-no") == 1


def test_operations_and_downloads_can_be_ended(root):
    model = Model.objects.create(name="m", kind="vllm", state="downloading", hub_id="o/n")
    download = Download.objects.create(model=model)
    operation = Operation.objects.create(model=model, kind="unload")
    assert act(root, Operation, "cancel", operation)[1] == [f"{operation}: cancelled."]
    assert "has ended already: it is cancelled" in act(root, Operation, "cancel", operation)[1][0]
    for action, state in (("pause", "paused"), ("resume", "queued"), ("cancel", "cancelled")):
        act(root, Download, action, download)
        download.refresh_from_db()
        assert download.state == state
    assert act(root, Download, "retry", download)[1] == ["the download of m is cancelled: it cannot be retried"]


@pytest.mark.parametrize("model, action", [
    (Model, "load"), (Model, "unload"), (Model, "test"), (Model, "benchmark"), (Model, "fetch"), (Model, "remove"),
    (Download, "pause"), (Download, "cancel"), (Operation, "cancel"),
])  # fmt: skip
def test_who_may_only_look_cannot_operate_models(staff, model, action):
    one = Model.objects.create(name="m", kind="vllm", state="downloading", hub_id="o/n")
    Download.objects.create(model=one)
    Operation.objects.create(model=one, kind="unload")
    client = staff(f"view_{model._meta.model_name}")
    assert client.get(address(model, "")).status_code == 200
    act(client, model, action, model.objects.get())
    assert Download.objects.get().state == "queued" and Operation.objects.get().state == "queued"
    assert Model.objects.exists()


def test_a_token_goes_in_and_never_comes_out(root):
    assert root.post(address(HubToken, "add"), {"name": "mine", "token": "hf_first"}).status_code == 302
    token = HubToken.objects.get()
    assert tokens.reveal(token) == "hf_first" and "hf_first" not in token.secret
    assert root.post(address(HubToken, "change", str(token.pk)), {"token": "hf_second"}).status_code == 302
    token.refresh_from_db()
    assert tokens.reveal(token) == "hf_second"
    for page in (address(HubToken, ""), *(address(HubToken, page, str(token.pk)) for page in ("change", "history"))):
        text = root.get(page).content.decode()
        assert "hf_" not in text and token.secret not in text
    for given in ({"name": "other", "token": "two words"}, {"name": "-", "token": "hf_x"}, {"name": "x", "token": ""}):
        answer = root.post(address(HubToken, "add"), given)
        assert answer.status_code == 200 and "two words" not in answer.content.decode()
    assert HubToken.objects.count() == 1


def test_an_operators_key_is_made_so_and_stays_so(root, project):
    root.post(address(ApiKey, "add"), {"project": project.pk, "name": "x", "operator": "on"})
    key = ApiKey.objects.get()
    assert key.operator
    plain, _ = ApiKey.objects.issue(project, "plain")
    root.post(address(ApiKey, "change", str(plain.pk)), {"project": project.pk, "name": "plain", "operator": "on"})
    root.post(address(ApiKey, "change", str(key.pk)), {"project": project.pk, "name": "x"})
    for one in (key, plain):
        one.refresh_from_db()
    assert key.operator and not plain.operator
