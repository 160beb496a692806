"""Somebody is frozen within a transaction: others are told so, soon, and go on when the database has ended it."""

import threading
import time
from contextlib import contextmanager

import psycopg
import psycopg_pool
import pytest
from django.db import OperationalError, connection, transaction
from django.test import Client

from batches.finish import outputs
from batches.intake import ingest, submit
from batches.models import Batch
from batches.run import claims, commit
from batches.run.outcomes import failure
from models_registry.models import Worker
from tests.engines import CHAT, line
from tests.people import superuser
from tests.vbs.test_settings import load
from vbs.accounts.models import ApiKey, Project
from vbs.database import outages, timeouts
from vbs.openai.errors import envelope
from vbs.settings import _channel_layer

BROWSER = {"Accept": "text/html"}


def parameters():
    """Of our own connection, for another one."""
    kept = {name: value for name, value in connection.get_connection_params().items() if name != "cursor_factory"}
    return {name: value for name, value in kept.items() if name != "context"}


@contextmanager
def frozen(statement, *given, idle="0"):
    """Another session that has run this in a transaction, and does not go on. It is ended after `idle`."""
    with psycopg.connect(**parameters() | {"options": f"-c idle_in_transaction_session_timeout={idle}"}) as other:
        other.execute(statement, given)
        try:
            yield other
        finally:
            other.close()


def lock(batch, **options):
    return frozen("SELECT 1 FROM batches_batch WHERE id = %s FOR UPDATE", batch.pk, **options)


def shows(name):
    with connection.cursor() as cursor:
        cursor.execute(f"SHOW {name}")
        return cursor.fetchone()[0]


@pytest.fixture
def patience(transactional_db):
    """A session of ours with short times, as `set(lock="200ms")`."""

    def set(**values):
        with connection.cursor() as cursor:
            for name, value in values.items():
                names = {"lock": "lock_timeout", "statement": "statement_timeout"}
                name = names.get(name, "idle_in_transaction_session_timeout")
                cursor.execute("SELECT set_config(%s, %s, false)", [name, value])

    yield set
    connection.close()


@pytest.fixture
def api(project):
    _, secret = ApiKey.objects.issue(project, "test")
    return Client(headers={"Authorization": f"Bearer {secret}"}, raise_request_exception=False)


def is_busy(answer, words):
    error = answer.json()["error"]
    assert answer.status_code == 503 and int(answer["Retry-After"]) > 0
    assert (error["type"], error["code"]) == ("server_error", "unavailable") and words in error["message"]
    assert set(error) == set(envelope("", "")["error"]) and "Traceback" not in answer.content.decode()


# What every connection is made with


def test_every_session_is_limited(db):
    limits = timeouts.OF["command"]
    assert shows("lock_timeout") == "1min" and limits.lock == 60
    assert shows("idle_in_transaction_session_timeout") == "2min" and limits.idle == 120
    assert shows("statement_timeout") == "0"
    for name, value in timeouts.OF.items():
        with psycopg.connect(**parameters() | {"options": value.options()}) as session:
            session.execute("SET LOCAL intervalstyle = 'postgres'")
            found = session.execute(
                "SELECT name, setting::int / 1000 FROM pg_settings WHERE name IN "
                "('lock_timeout', 'statement_timeout', 'idle_in_transaction_session_timeout')"
            ).fetchall()
        expected = {"lock_timeout": value.lock, "statement_timeout": value.statement}
        assert dict(found) == expected | {"idle_in_transaction_session_timeout": value.idle}, name
    assert timeouts.OF["web"].options() != timeouts.OF["worker"].options()


def test_the_channel_layer_and_the_listener_too():
    assert "lock_timeout" in _channel_layer()["OPTIONS"]["options"]
    assert "lock_timeout" in connection.get_connection_params()["options"]


@pytest.mark.parametrize(
    "environment, role",
    [({"VBS_DB_POOL": "true"}, "web"), ({"Q_CLUSTER_NAME": "io"}, "worker"), ({}, "command")],
)
def test_each_process_has_those_of_its_role(environment, role, tmp_path):
    environment["DATABASE_URL"] = "postgresql://u@h/n?options=-c%20search_path%3Dother"
    done = load(tmp_path, "print(settings.DATABASES['default']['OPTIONS']['options'])", **environment)
    assert done.stdout == f"{timeouts.OF[role].options()} -c search_path=other\n", "the operator's own come last"


def test_a_batch_is_taken_in_within_the_longer_time(submitted, add_model, monkeypatch):
    add_model()
    times = []
    real = ingest._take_in

    def take_in(*given):
        times.append(shows("statement_timeout"))
        return real(*given)

    monkeypatch.setattr(ingest, "_take_in", take_in)
    monkeypatch.setattr(ingest, "most_seconds", lambda: 77)
    assert submitted([line("a")]).validated_at
    assert times == ["77s"]


def test_reading_a_file_may_take_longer(transactional_db):
    with transaction.atomic():
        with timeouts.longer(300):
            assert shows("statement_timeout") == shows("idle_in_transaction_session_timeout") == "5min"
        assert shows("idle_in_transaction_session_timeout") == "2min" and shows("statement_timeout") == "0"


# The API and the pages


def test_a_locked_row_is_503_soon_and_reading_needs_no_lock(api, submitted, add_model, patience):
    add_model()
    batch = submitted([line("a")])
    patience(lock="200ms")
    with lock(batch):
        began = time.monotonic()
        is_busy(api.post(f"/v1/batches/{batch.pk}/cancel"), "Something else is being done")
        is_busy(api.delete(f"/v1/batches/{batch.pk}"), "Something else is being done")
        assert time.monotonic() - began < 5
        for path in ("", f"/{batch.pk}", f"/{batch.pk}/results", f"/{batch.pk}/errors", f"/{batch.pk}/logs"):
            assert api.get(f"/v1/batches{path}").status_code == 200, path
        for path in ("queue", "files", f"files/{batch.input_file_id}", "models"):
            assert api.get(f"/v1/{path}").status_code == 200, path
    assert api.post(f"/v1/batches/{batch.pk}/cancel").status_code == 200


def test_a_key_that_somebody_changes_reads_all_the_same(api, patience):
    patience(lock="200ms")
    with frozen("UPDATE accounts_apikey SET name = 'other'"):
        assert api.get("/v1/files").status_code == 200
    key = ApiKey.objects.get()
    assert key.last_used_at is None
    assert api.get("/v1/files").status_code == 200
    key.refresh_from_db()
    assert key.last_used_at is not None


def test_a_slow_statement_is_503(api, patience, monkeypatch):
    def slow(*given):
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(5)")

    monkeypatch.setattr("batches.api.wire.batch_object", slow)
    monkeypatch.setattr("batches.api.views.find_batch", slow)
    patience(statement="100ms")
    is_busy(api.get("/v1/batches/x"), "took too long")


def test_no_free_connection_is_503(api, monkeypatch):
    def refuse(*given):
        raise OperationalError from psycopg_pool.PoolTimeout("couldn't get a connection after 10.00 sec")

    monkeypatch.setattr(ApiKey.objects.all().__class__, "authenticate", refuse)
    is_busy(api.get("/v1/batches"), "too much to do")


def test_a_database_that_is_away_is_503_and_a_full_disk_507(api, monkeypatch):
    def refuse(*given):
        raise OperationalError("connection refused") from cause

    cause = psycopg.OperationalError("connection refused")
    monkeypatch.setattr("batches.api.views.find_batch", refuse)
    is_busy(api.get("/v1/batches/x"), "cannot reach its database")
    cause = psycopg.errors.DiskFull("no space left on device")
    assert api.get("/v1/batches/x").status_code == 507


def test_ready_says_what_is_away_and_when_to_ask_again(db, monkeypatch):
    answer = Client().get("/ready")
    assert answer.status_code == 503 and answer.json()["parts"]["database"] == "ok", "no worker runs here"
    assert int(answer["Retry-After"]) > 0

    def refuse(*given):
        raise OperationalError from psycopg_pool.PoolTimeout("couldn't get a connection after 10.00 sec")

    monkeypatch.setattr(Worker.objects.__class__, "alive", refuse)
    answer = Client().get("/ready")
    assert answer.status_code == 503 and answer.json()["parts"]["database"] == "unreachable"


def test_a_page_says_try_again(submitted, add_model, patience):
    add_model()
    batch = submitted([line("a")])
    client = superuser()
    client.raise_request_exception = False
    patience(lock="200ms")
    with lock(batch):
        answer = client.post(f"/batches/{batch.pk}/cancel", headers=BROWSER)
        assert answer.status_code == 503 and int(answer["Retry-After"]) > 0
        assert answer["Content-Type"].startswith("text/html")
        assert "Try again in a moment" in answer.content.decode() and "err_" not in answer.content.decode()


# The workers


def test_a_batch_goes_on_when_the_frozen_one_was_ended(submitted, add_model, patience):
    """A worker that was stopped within a commit: the next waits for its row, and gets it."""
    add_model()
    batch = submitted([line("a")])
    patience(lock="150ms")
    worker = Worker.objects.create(cluster="gpu", hostname="here", pid=1)
    claims.claim(batch.pk, worker.pk)
    answers = [failure(one.pk, "x", "y") for one in batch.requests.all()]
    with lock(batch, idle="600ms"):
        began = time.monotonic()
        outages.insist(lambda: commit.commit(batch.pk, worker.pk, answers), seconds=10)
        assert time.monotonic() - began < 5
    batch.refresh_from_db()
    assert batch.failed == 1


def test_a_worker_that_thaws_has_lost_its_transaction_and_goes_on(submitted, add_model, patience):
    add_model()
    batch = submitted([line("a")])
    naps = [0.6, 0.0]

    def step():
        with transaction.atomic():
            if naps[0]:
                patience(idle="200ms")
            Batch.objects.select_for_update().get(pk=batch.pk)
            time.sleep(naps.pop(0))  # stopped here by a signal
            return Batch.objects.filter(pk=batch.pk).update(priority=7)

    assert outages.insist(step, seconds=10) == 1 and not naps
    batch.refresh_from_db()
    assert batch.priority == 7


def test_a_statement_that_always_takes_too_long_is_given_up(patience):
    def slow():
        tries.append(1)
        patience(statement="50ms")
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(5)")

    tries = []
    with pytest.raises(OperationalError):
        outages.insist(slow)
    assert len(tries) == outages.TOO_SLOW


def test_a_frozen_validation_is_ended_and_done_by_another(project, add_model, monkeypatch, submitted):
    """It holds the batch's advisory lock, and is within a COPY, where no timeout of the database is in force."""
    add_model()
    batch = submit.create(project, submitted([line("x")]).input_file_id, CHAT, "24h")
    monkeypatch.setattr(ingest, "most_seconds", lambda: 1)
    reached, errors, real = threading.Event(), [], ingest.read
    monkeypatch.setattr(ingest, "read", lambda *given: stop())

    def stop():
        reached.set()
        time.sleep(4)
        yield from ()

    def first():
        try:
            ingest.validate(batch.pk)
        except outages.DATABASE_ERRORS as error:
            errors.append(error)
        finally:
            connection.close()

    thread = threading.Thread(target=first)
    thread.start()
    assert reached.wait(10)
    monkeypatch.setattr(ingest, "read", real)
    deadline = time.monotonic() + 10
    while batch.validated_at is None and time.monotonic() < deadline:
        ingest.validate(batch.pk)
        batch.refresh_from_db()
        time.sleep(0.05)
    assert batch.validated_at and thread.is_alive(), "before the other has thawed"
    thread.join()
    assert errors and batch.requests.count() == 1


def test_a_frozen_finalizer_is_ended_and_the_lock_with_it(submitted, add_model, monkeypatch):
    add_model()
    batch = submitted([line("a")])
    batch.request_cancel()
    monkeypatch.setattr(outputs, "FROZEN_SECONDS", 1)
    reached = threading.Event()

    def first():
        try:
            outputs.finalize(batch.pk)
        except outages.DATABASE_ERRORS:
            pass
        finally:
            connection.close()

    def stop(*given):
        if not reached.is_set():
            reached.set()
            time.sleep(3)
        return real(*given)

    real = outputs.rows
    monkeypatch.setattr(outputs, "rows", stop)
    thread = threading.Thread(target=first)
    thread.start()
    assert reached.wait(10)
    deadline = time.monotonic() + 10
    while not batch.is_terminal and time.monotonic() < deadline:
        outputs.finalize(batch.pk)
        batch.refresh_from_db()
        time.sleep(0.05)
    assert batch.status == "cancelled" and thread.is_alive()
    thread.join()
    assert Project.objects.filter(pk=batch.project_id).exists()
