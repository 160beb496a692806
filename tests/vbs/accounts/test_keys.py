"""The page of API keys: a secret is shown once, nobody sees another's, nobody gives more than they have."""

import logging
import re
import threading
import time
from datetime import timedelta

import pytest
from django.contrib.sessions.models import Session
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from tests.people import person, superuser, text
from vbs.accounts.models import ApiKey, KeptAnswer, Project
from vbs.configuration.models import AuditEntry

BAD = "<script>alert('x')</script>"


pytestmark = pytest.mark.django_db


@pytest.fixture
def one():
    return Project.objects.create(name="one")


@pytest.fixture
def two():
    return Project.objects.create(name="two")


@pytest.fixture
def operator(one):
    return person("operator", one)


def make(client, where, **given):
    return client.post("/system/keys", {"project": where.pk, "name": "laptop", "expires": "never"} | given)


def secret_in(response):
    return re.search(r'<pre id="secret"[^>]*>([^<]+)</pre>', text(response))[1]


def test_a_key_is_made_and_its_secret_shown_once(operator, one, caplog, settings):
    caplog.set_level(logging.DEBUG)
    answer = make(operator, one)
    secret = secret_in(answer)
    key = ApiKey.objects.get()
    assert answer.status_code == 200 and ApiKey.objects.authenticate(secret) == key
    assert 'base_url="http://testserver/v1"' in answer.content.decode().replace("&quot;", '"')
    assert 'data-copies="#secret"' in text(answer) and answer["Cache-Control"] == "no-store"
    assert (key.name, key.project, key.operator, key.expires_at) == ("laptop", one, False, None)
    entry = AuditEntry.objects.get()
    assert (entry.action, entry.target, entry.project) == ("key.make", f"{key.prefix}…", one)
    for again in ("/system/keys", f"/system/keys/{key.pk}/edit", f"/system/keys/{key.pk}/revoke", "/system/keys/live"):
        assert secret not in text(operator.get(again)) and key.digest not in text(operator.get(again))
    assert secret not in caplog.text and secret not in repr(AuditEntry.objects.values())
    sessions = [one.get_decoded() for one in Session.objects.all()]
    assert secret not in repr(sessions) and secret not in repr(operator.cookies)
    assert secret not in text(superuser().get("/system/audit"))


def mark_in(response):
    return re.search(r'name="once" value="([^"]+)"', text(response))[1]


def test_a_form_that_is_sent_again_makes_no_other_key(operator, one):
    page = operator.get("/system/keys")
    mark = mark_in(page)
    assert make(operator, one, once=mark, name="").status_code == 422, "what is wrong has made nothing"
    secret = secret_in(make(operator, one, once=mark))
    for _ in range(2):
        again = make(operator, one, once=mark)
        assert (again.status_code, again["Location"]) == (302, "/system/keys")
    shown = text(operator.get("/system/keys"))
    assert "has made its key already" in shown and secret not in shown and ApiKey.objects.count() == 1
    assert AuditEntry.objects.count() == 1 and secret not in repr(KeptAnswer.objects.values())
    assert make(operator, one, once=mark_in(operator.get("/system/keys"))).status_code == 200
    assert ApiKey.objects.count() == 2


def test_a_form_of_before_yesterday(operator, one, monkeypatch):
    mark = mark_in(operator.get("/system/keys"))
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + 25 * 3600)
    client = person("operator", one)
    assert "reload the page" in text(make(client, one, once=mark))
    assert make(client, one, once="made up").status_code == 422 and not ApiKey.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_two_clicks_at_the_same_instant_make_one_key(transactional_db):
    one = Project.objects.create(name="one")
    client = person("operator", one)
    mark, together, answers = mark_in(client.get("/system/keys")), threading.Barrier(2), []

    def click():
        mine = Client()
        mine.cookies = client.cookies
        try:
            together.wait(20)
            answers.append(make(mine, one, once=mark).status_code)
        finally:
            connection.close()

    threads = [threading.Thread(target=click) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200, 302] and ApiKey.objects.count() == 1


@pytest.mark.parametrize("days", ["30", "90", "365"])
def test_days_until_it_expires(operator, one, days):
    make(operator, one, expires=days)
    left = ApiKey.objects.get().expires_at - timezone.now()
    assert timedelta(days=int(days)) - left < timedelta(minutes=1)


def test_a_last_day(operator, one):
    day = (timezone.now() + timedelta(days=3)).date()
    make(operator, one, expires="date", last_day=str(day))
    assert str(ApiKey.objects.get().expires_at) == f"{day + timedelta(days=1)} 00:00:00+00:00"


@pytest.mark.parametrize(
    "given, shown",
    [
        ({"name": ""}, "required"),
        ({"name": "x" * 101}, "100"),
        ({"name": "a\x1b[31mb"}, "cannot be printed"),
        ({"expires": ""}, "required"),
        ({"expires": "7"}, "Select a valid choice"),
        ({"expires": "date"}, "Choose the day"),
        ({"expires": "date", "last_day": "2020-01-01"}, "2020-01-01 is not in the future"),
        ({"expires": "date", "last_day": "9999-12-31"}, "100 years"),
        ({"expires": "date", "last_day": "tomorrow"}, "Enter a valid date"),
        ({"project": "999999"}, "Select a valid choice"),
        ({"project": "x"}, "Select a valid choice"),
    ],
)
def test_what_cannot_be_taken_is_said(operator, one, given, shown):
    answer = make(operator, one, **given)
    assert answer.status_code == 422 and shown in text(answer) and not ApiKey.objects.exists()
    assert not AuditEntry.objects.exists()


def test_nobody_sees_or_changes_anothers_keys(operator, one, two):
    ApiKey.objects.issue(one, "mine here")
    theirs, _ = ApiKey.objects.issue(two, "theirs there")
    page = text(operator.get("/system/keys"))
    assert "mine here" in page and "theirs there" not in page and "two" not in page
    for action in ("edit", "revoke"):
        assert operator.get(f"/system/keys/{theirs.pk}/{action}").status_code == 404
        assert operator.post(f"/system/keys/{theirs.pk}/{action}", {"name": "x", "expires": "never"}).status_code == 404
    assert make(operator, two).status_code == 422
    theirs.refresh_from_db()
    assert theirs.revoked_at is None and theirs.name == "theirs there" and ApiKey.objects.count() == 2


def test_the_chosen_project(one, two):
    client = person("operator", one, two)
    ApiKey.objects.issue(one, "mine here")
    other, _ = ApiKey.objects.issue(two, "theirs there")
    client.post("/project", {"project": one.pk})
    page = text(client.get("/system/keys"))
    assert "mine here" in page and "theirs there" not in page
    assert client.get(f"/system/keys/{other.pk}/edit").status_code == 200, "what is asked for by its id is found"


def test_nobody_gives_more_than_they_have(one):
    may = person("operator", one)
    assert "May also change the registry" in text(may.get("/system/keys"))
    make(may, one, operator="on")
    assert ApiKey.objects.get().operator
    ApiKey.objects.all().delete()
    less = person("", one, permissions=["view_apikey", "add_apikey"])
    assert "may also change the registry" not in text(less.get("/system/keys"))
    answer = make(less, one, operator="on")
    assert answer.status_code == 422 and "(operator) cannot be set here: only whoever may change models" in text(answer)
    assert not ApiKey.objects.exists(), "nothing is made with less than was asked"
    make(less, one)
    assert not ApiKey.objects.get().operator


def test_states(operator, one):
    now = timezone.now()
    ApiKey.objects.issue(one, "a")
    ApiKey.objects.issue(one, "b", now - timedelta(days=1))
    ApiKey.objects.issue(one, "c")[0].revoke()
    page = text(operator.get("/system/keys"))
    for state in ("usable", "expired", "revoked"):
        assert page.count(f'class="state {state}"') == 1
    assert page.count(">Revoke</a>") == 2, "what is revoked stays so"


def test_renaming_and_another_end(operator, one):
    key, secret = ApiKey.objects.issue(one, "old")
    address = f"/system/keys/{key.pk}/edit"
    assert operator.post(address, {"name": "new", "expires": "30"}).status_code == 302
    key.refresh_from_db()
    end = key.expires_at
    assert key.name == "new" and end and ApiKey.objects.authenticate(secret) == key
    operator.post(address, {"name": "newer", "expires": "same"})
    key.refresh_from_db()
    assert (key.name, key.expires_at) == ("newer", end)
    operator.post(address, {"name": "newer", "expires": "same"})
    assert [entry.action for entry in AuditEntry.objects.all()] == ["key.change"] * 2, "nothing changed the last time"
    assert "renamed from “old”" in AuditEntry.objects.last().detail
    assert operator.post(address, {"name": "", "expires": "never"}).status_code == 422


def test_revoking_asks_first_and_works_at_once(operator, one):
    key, secret = ApiKey.objects.issue(one, "old")
    address = f"/system/keys/{key.pk}/revoke"
    asked = operator.get(address)
    assert "Revoke the key" in text(asked) and ApiKey.objects.authenticate(secret)
    assert "<html" not in text(operator.get(address, headers={"HX-Request": "true"}))
    assert operator.post(address).status_code == 302 and ApiKey.objects.authenticate(secret) is None
    operator.post(address)
    assert AuditEntry.objects.filter(action="key.revoke").count() == 1
    assert operator.post(f"/system/keys/{key.pk}/edit", {"name": "new", "expires": "never"}).status_code == 422


def test_who_may(one):
    key, _ = ApiKey.objects.issue(one, "mine here")
    viewer, looks = person("viewer", one), person("", one, permissions=["view_apikey"])
    for path in ("/system/keys", "/system/keys/live", f"/system/keys/{key.pk}/edit", f"/system/keys/{key.pk}/revoke"):
        assert viewer.get(path).status_code == 403 and viewer.post(path).status_code in (403, 405)
    page = looks.get("/system/keys")
    assert "mine here" in text(page) and "New key" not in text(page) and "Revoke" not in text(page)
    assert make(looks, one).status_code == 403
    assert looks.post(f"/system/keys/{key.pk}/revoke").status_code == 403
    assert looks.get("/system/keys/999999/edit").status_code == 403
    assert superuser().get("/system/keys/999999/edit").status_code == 404


def test_who_is_in_no_project_is_told_what_to_do():
    page = text(person("operator").get("/system/keys"))
    assert "You are in no project yet" in page and "No keys yet" in page


def test_hostile_names_are_text(operator, one):
    ApiKey.objects.issue(one, BAD)
    key = ApiKey.objects.get()
    for path in ("/system/keys", f"/system/keys/{key.pk}/edit", f"/system/keys/{key.pk}/revoke"):
        page = text(operator.get(path))
        assert BAD not in page and "&lt;script&gt;" in page


def test_as_many_queries_however_many_keys(operator, one):
    def count():
        with CaptureQueriesContext(connection) as queries:
            assert operator.get("/system/keys").status_code == 200
        return len(queries)

    ApiKey.objects.issue(one, "first")
    few = count()
    for number in range(20):
        ApiKey.objects.issue(one, f"key {number}")
    assert count() == few


def test_more_than_a_page(operator, one):
    for number in range(103):
        ApiKey.objects.issue(one, f"key {number};")
    page = text(operator.get("/system/keys"))
    assert "key 102;" in page and "key 2;" not in page
    (older,) = re.findall(r'rel="next" href="([^"]+)"', page)
    second = text(operator.get(older))
    assert "key 2;" in second and "key 0;" in second and "key 3;" not in second and 'rel="prev"' in second
    assert operator.get("/system/keys?before=x").status_code == 200
    assert operator.get("/system/keys?before=" + "9" * 40).status_code == 200


def test_what_has_changed_is_sent(operator, one):
    key, secret = ApiKey.objects.issue(one, "mine here")
    seen = re.findall(r'name="seen" value="([^"]+)"', text(operator.get("/system/keys")))
    assert operator.get("/system/keys/live", {"seen": seen}).status_code == 204
    ApiKey.objects.authenticate(secret)
    page = text(operator.get("/system/keys/live", {"seen": seen}))
    assert f'id="key-{key.pk}"' in page and 'id="keys"' not in page
