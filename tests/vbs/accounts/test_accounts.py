"""Projects and keys: who may ask, and that nobody sees what is another's."""

import io
import subprocess
import sys
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.utils import timezone

from vbs.accounts.models import ApiKey, Project, digest
from vbs.checks import open_only_on_loopback
from vbs.configuration.models import AuditEntry
from vbs.settings import BASE_DIR


@pytest.fixture
def project(db):
    return Project.objects.create(name="one")


@pytest.fixture
def issued(project):
    return ApiKey.objects.issue(project, "test")


def ask(secret, path="/v1/files", scheme="Bearer"):
    return Client(headers={"Authorization": f"{scheme} {secret}"}).get(path)


def test_a_key_opens_its_project(issued, project):
    key, secret = issued
    assert ask(secret).status_code == 200 and ask(secret, scheme="bearer").status_code == 200
    assert ApiKey.objects.authenticate(secret) == key and key.project == project


def test_the_secret_is_never_stored(issued):
    key, secret = issued
    with connection.cursor() as cursor:
        cursor.execute("SELECT row_to_json(k)::text FROM accounts_apikey k")
        stored = cursor.fetchone()[0]
    assert secret not in stored and secret.removeprefix("sk-vbs-") not in stored
    assert key.digest == digest(secret) and key.prefix == secret[:13] and secret not in str(key)


def test_two_keys_are_never_alike(project):
    assert len({ApiKey.objects.issue(project, "same")[1] for _ in range(50)}) == 50


@pytest.mark.parametrize(
    "secret", ["", " ", "sk-vbs-", "sk-vbs-wrong", "x" * 10_000, "\u00e9", "Bearer", "sk-vbs-\0", "' OR 1=1 --"]
)
def test_a_wrong_key_is_refused(issued, secret):
    answer = Client().get("/v1/files", HTTP_AUTHORIZATION=f"Bearer {secret}".encode().decode("latin-1"))
    assert answer.status_code == 401 and answer["WWW-Authenticate"] == "Bearer"
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
    assert "sk-vbs-wrong" not in error["message"]


def test_the_digest_is_not_a_key(issued):
    key, secret = issued
    assert ask(key.digest).status_code == ask(secret[:-1]).status_code == ask(secret + "x").status_code == 401


@pytest.mark.parametrize("scheme", ["Basic", "Token", "", "Bearer,"])
def test_other_schemes_are_refused(issued, scheme):
    assert ask(issued[1], scheme=scheme).status_code == 401


def test_expiry(project):
    now = timezone.now()
    _, later = ApiKey.objects.issue(project, "a", now + timedelta(minutes=1))
    _, before = ApiKey.objects.issue(project, "b", now)
    assert (ask(later).status_code, ask(before).status_code) == (200, 401)


def test_revocation_works_at_once_and_keeps_its_first_moment(issued):
    key, secret = issued
    assert ask(secret).status_code == 200
    key.revoke()
    moment = key.revoked_at
    key.revoke()
    key.refresh_from_db()
    assert ask(secret).status_code == 401 and key.revoked_at == moment


def test_use_is_noted_at_most_once_a_minute(issued, django_assert_num_queries):
    key, secret = issued
    with django_assert_num_queries(4):  # two of them begin and end a transaction
        ApiKey.objects.authenticate(secret)
    key.refresh_from_db()
    first = key.last_used_at
    assert first
    with django_assert_num_queries(1):
        ApiKey.objects.authenticate(secret)
    ApiKey.objects.update(last_used_at=first - timedelta(seconds=61))
    ApiKey.objects.authenticate(secret)
    key.refresh_from_db()
    assert key.last_used_at > first - timedelta(seconds=61)


def test_a_wrong_key_notes_nothing(issued):
    ask("sk-vbs-wrong")
    assert ApiKey.objects.get().last_used_at is None


def test_another_projects_objects_are_not_there(issued, db):
    _, mine = issued
    _, theirs = ApiKey.objects.issue(Project.objects.create(name="two"), "test")
    me, other = (Client(headers={"Authorization": f"Bearer {one}"}) for one in (mine, theirs))
    file = me.post("/v1/files", {"file": io.BytesIO(b"x"), "purpose": "user_data"}).json()["id"]
    given = {"filename": "a", "purpose": "batch", "bytes": 1, "mime_type": "x"}
    upload = me.post("/v1/uploads", given, content_type="application/json").json()["id"]
    given = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch = me.post("/v1/batches", given, content_type="application/json").json()["id"]
    for method, path in (
        ("get", f"/v1/files/{file}"),
        ("delete", f"/v1/files/{file}"),
        ("get", f"/v1/files/{file}/content"),
        ("post", f"/v1/uploads/{upload}/cancel"),
        ("post", f"/v1/uploads/{upload}/complete"),
        ("post", f"/v1/uploads/{upload}/parts"),
        ("get", f"/v1/batches/{batch}"),
        ("delete", f"/v1/batches/{batch}"),
        ("post", f"/v1/batches/{batch}/cancel"),
        ("post", f"/v1/batches/{batch}/retry"),
        ("get", f"/v1/batches/{batch}/results"),
        ("get", f"/v1/batches/{batch}/errors"),
        ("get", f"/v1/batches/{batch}/logs"),
    ):
        assert getattr(other, method)(path).status_code == 404, path
    for path in ("/v1/files", "/v1/batches"):
        assert other.get(path).json()["data"] == [] and len(me.get(path).json()["data"]) == 1
    for query in (f"/v1/files?after={file}", f"/v1/batches?after={batch}"):
        assert other.get(query).status_code == 400, "that it exists elsewhere is not told"
    assert me.get(f"/v1/batches/{batch}").json()["status"] == "validating"


def test_a_batch_cannot_name_anothers_file(issued):
    from batches.intake import ingest
    from batches.models import Batch

    _, mine = issued
    _, theirs = ApiKey.objects.issue(Project.objects.create(name="two"), "test")
    me, other = (Client(headers={"Authorization": f"Bearer {one}"}) for one in (mine, theirs))
    file = me.post("/v1/files", {"file": io.BytesIO(b"{}"), "purpose": "batch"}).json()["id"]
    given = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch = Batch.objects.get(pk=other.post("/v1/batches", given, content_type="application/json").json()["id"])
    assert batch.input_file is None
    ingest.validate(batch.pk)
    batch.refresh_from_db()
    assert batch.errors[0]["message"].startswith("Cannot find file")


# Open mode.


def test_open_mode_serves_the_default_project_without_a_key(db, settings):
    settings.VBS_API_AUTH = "open"
    for headers in ({}, {"Authorization": "Bearer anything"}, {"Authorization": "Basic x"}):
        assert Client(headers=headers).get("/v1/files").status_code == 200
    assert [one.name for one in Project.objects.all()] == ["default"] and not ApiKey.objects.exists()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.9.9.9"])
def test_open_mode_on_loopback(settings, host):
    settings.VBS_API_AUTH, settings.VBS_HOST = "open", host
    assert open_only_on_loopback() == []


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.com", "", "localhost.example.com"])
def test_open_mode_elsewhere_is_refused(settings, host):
    settings.VBS_API_AUTH, settings.VBS_HOST = "open", host
    (error,) = open_only_on_loopback()
    assert error.id == "vbs.E001" and "VBS_API_AUTH=required" in error.hint
    settings.VBS_API_AUTH = "required"
    assert open_only_on_loopback() == []


@pytest.mark.parametrize("words", [["check"], ["web", "--host", "0.0.0.0", "--port", "1"]])
def test_the_commands_refuse_open_mode_elsewhere(tmp_path, words):
    environment = {"PATH": "/usr/bin:/bin", "VBS_API_AUTH": "open", "VBS_DATA_DIR": str(tmp_path)}
    environment |= {"VBS_HOST": "0.0.0.0"} if words == ["check"] else {}
    environment |= {"VBS_INSTANCE": "none"}  # no database: it must not come that far
    command = [sys.executable, str(BASE_DIR / "manage.py"), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0 and "vbs.E001" in done.stderr and "0.0.0.0" in done.stderr


# The command.


def make(*words):
    output, errors = io.StringIO(), io.StringIO()
    call_command("create_api_key", *words, stdout=output, stderr=errors)
    return output.getvalue(), errors.getvalue()


def test_the_command_prints_the_key_alone_and_makes_the_project(db):
    output, errors = make("--project", "new", "--name", "laptop")
    assert output.startswith("sk-vbs-") and output.count("\n") == 1 and errors == ""
    key = ApiKey.objects.authenticate(output.strip())
    assert (key.project.name, key.name, key.expires_at) == ("new", "laptop", None)
    row = AuditEntry.objects.get()
    assert (row.action, row.target) == ("key.make", f"{key.prefix}…") and row.username.startswith("manage.py, ")
    assert output.strip() not in str(AuditEntry.objects.values())
    make("--project", "new", "--name", "laptop")
    assert Project.objects.count() == 1 and ApiKey.objects.count() == 2


def test_the_command_for_an_operator(db):
    make("--project", "new", "--name", "x", "--operator")
    make("--project", "new", "--name", "y")
    assert [key.operator for key in ApiKey.objects.order_by("name")] == [True, False]


def test_the_command_with_days(db):
    make("--project", "new", "--name", "x", "--days", "2")
    left = ApiKey.objects.get().expires_at - timezone.now()
    assert timedelta(days=1, hours=23) < left <= timedelta(days=2)


@pytest.mark.parametrize(
    "words, said",
    [
        (["--project", "", "--name", "x"], "--project"),
        (["--project", " ", "--name", "x"], "--project"),
        (["--project", "a\nb", "--name", "x"], "--project"),
        (["--project", "a\0", "--name", "x"], "--project"),
        (["--project", "x" * 101, "--name", "x"], "--project"),
        (["--project", "x", "--name", "\x1b[31m"], "--name"),
        (["--project", "x", "--name", "x", "--days", "0"], "--days"),
        (["--project", "x", "--name", "x", "--days", "99999999"], "--days"),
        (["--project", "x"], "--name"),
    ],
)
def test_the_command_refuses_bad_names(db, words, said):
    with pytest.raises(CommandError, match=said):
        make(*words)
    assert not ApiKey.objects.exists() and not Project.objects.exists()
