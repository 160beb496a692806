"""The audit log and what signing in leaves in it; that passwords cannot be tried without end."""

import html
import re
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from tests.people import PASSWORD, person, superuser, text
from vbs.accounts.models import Project
from vbs.accounts.pages import sign_in
from vbs.configuration.models import AuditEntry

BAD = "<script>alert('x')</script>"


@pytest.fixture
def admin(db):
    return person("admin", name="ada")


def entry(action="batch.cancel", **given):
    return AuditEntry.objects.create(**{"username": "vera", "action": action, "target": "batch_1"} | given)


def targets(response):
    return re.findall(r"<td data-label=\"Object\" dir=\"auto\"><a [^>]*>(t\d+|batch_\w+)</a></td>", text(response))


# What is shown


def test_an_empty_log_says_what_comes(admin):
    page = text(admin.get("/system/audit"))
    assert "Nothing yet" in page and "every sign-in" in page


def test_the_newest_first_page_by_page(admin):
    AuditEntry.objects.bulk_create(AuditEntry(username="vera", action="a.b", target=f"t{n}") for n in range(120))
    first = admin.get("/system/audit")
    assert targets(first) == [f"t{n}" for n in range(119, 69, -1)] and 'rel="prev"' not in text(first)
    (older,) = re.findall(r'rel="next" href="([^"]+)"', text(first))
    second = admin.get(older.replace("&amp;", "&"))
    assert targets(second) == [f"t{n}" for n in range(69, 19, -1)]
    (older,) = re.findall(r'rel="next" href="([^"]+)"', text(second))
    third = admin.get(older.replace("&amp;", "&"))
    assert targets(third) == [f"t{n}" for n in range(19, -1, -1)] and 'rel="next"' not in text(third)
    (newer,) = re.findall(r'rel="prev" href="([^"]+)"', text(third))
    back = admin.get(newer.replace("&amp;", "&"))
    assert targets(back) == targets(second)


@pytest.mark.parametrize(
    "query, found",
    [
        ({"user": "vera"}, ["batch_c", "batch_a"]),
        ({"user": "ver"}, []),
        ({"action": "batch."}, ["batch_c", "batch_a"]),
        ({"action": "batch.cancel"}, ["batch_a"]),
        ({"target": "batch_b"}, ["batch_b"]),
        ({"target": "atch"}, []),
        ({"target": "%"}, []),
        ({"since": "2026-03-02"}, ["batch_c", "batch_b"]),
        ({"until": "2026-03-02"}, ["batch_b", "batch_a"]),
        ({"since": "2026-03-02", "until": "2026-03-02"}, ["batch_b"]),
        ({"until": "9999-12-31"}, ["batch_c", "batch_b", "batch_a"]),
        ({"user": "vera", "since": "2026-03-02"}, ["batch_c"]),
        ({"before": "x"}, ["batch_c", "batch_b", "batch_a"]),
        ({"after": "9" * 17 + "-1"}, []),
        ({"before": "9" * 18}, ["batch_c", "batch_b", "batch_a"]),
        ({"since": "2026-03-03", "zone": "Pacific/Auckland"}, ["batch_c", "batch_b"]),
        ({"until": "2026-03-01", "zone": "America/New_York"}, ["batch_a"]),
        ({"since": "2026-03-02", "until": "2026-03-02", "zone": "Asia/Kolkata"}, ["batch_a"]),
    ],
)
def test_filters(admin, query, found):
    for day, username, action, target in (
        (1, "vera", "batch.cancel", "batch_a"),
        (2, "otto", "key.make", "batch_b"),
        (3, "vera", "batch.retry", "batch_c"),
    ):
        entry(action, at=datetime(2026, 3, day, 23, 59, tzinfo=UTC), username=username, target=target)
    answer = admin.get("/system/audit", query)
    assert answer.status_code == 200 and targets(answer) == found


@pytest.mark.parametrize(
    "query",
    [
        *(
            {"since": "yesterday"},
            {"user": "x" * 200},
            {"target": "a\0b"},
            {"since": "2026-03-02", "until": "2026-03-01"},
        ),
        *(
            {"since": "2026-03-01", "zone": name}
            for name in ("Mars/Olympus", "../../etc/passwd", "Europe", "/etc/passwd")
        ),
        *({"zone": name} for name in ("a\0b", "x" * 100)),
    ],
)
def test_a_filter_that_cannot_be_read(admin, query):
    entry()
    answer = admin.get("/system/audit", query)
    assert answer.status_code == 422 and 'error"' in text(answer)


def test_a_filter_goes_along_with_the_pages(admin):
    AuditEntry.objects.bulk_create(AuditEntry(username="a&b", action="a.b") for _ in range(60))
    (older,) = re.findall(r'rel="next" href="([^"]+)"', text(admin.get("/system/audit", {"user": "a&b"})))
    assert "user=a%26b&amp;before=" in older


def test_each_cell_leads_to_all_of_its_kind_by_an_address_that_can_be_passed_on(admin):
    entry("key.make", username="key sk-vbs-abc… (a & b)", target="sk-vbs-1…")
    entry("batch.cancel", target="batch_b")
    for column, action in (("Who", "key.make"), ("Action", "key.make"), ("Object", "key.make")):
        cell = re.search(rf'data-label="{column}"[^>]*><a href="([^"]+)"', text(admin.get("/system/audit?action=key")))
        found = admin.get(html.unescape(cell[1]))
        assert re.findall(r"<code>([\w.]+)</code></a></td>", text(found)) == [action], column


def test_a_page_names_the_zone_of_its_days(admin):
    page = text(admin.get("/system/audit", {"zone": "Europe/Berlin"}))
    assert "From (Europe/Berlin)" in page and 'name="zone" value="Europe/Berlin" data-zone' in page
    assert "To (UTC)" in text(admin.get("/system/audit")) and "<script>" not in text(
        admin.get("/system/audit", {"zone": "<script>"})
    )


def test_hostile_text_is_text(admin):
    entry(username=BAD, target=BAD + "\x1b[31m", detail=BAD * 30 + "\x1b[0m")
    page = text(admin.get("/system/audit"))
    assert BAD not in page and "\x1b" not in page and "⟨ESC⟩[31m" in page and "<details>" in page


def test_who_may(admin):
    project = Project.objects.create(name="one")
    for role in ("viewer", "operator"):
        assert person(role, project).get("/system/audit").status_code == 403
    assert Client().get("/system/audit").status_code == 302
    assert admin.post("/system/audit").status_code == 405


def test_projects(admin):
    one, two = (Project.objects.create(name=name) for name in ("one", "two"))
    for project, target in ((one, "batch_a"), (two, "batch_b"), (None, "batch_c")):
        entry(project=project, target=target)
    assert targets(admin.get("/system/audit")) == ["batch_c", "batch_b", "batch_a"]
    looks = person("", one, permissions=["view_auditentry"])
    assert targets(looks.get("/system/audit")) == ["batch_c", "batch_a"]
    admin.post("/project", {"project": two.pk})
    assert targets(admin.get("/system/audit")) == ["batch_b"]


def test_a_long_log_takes_no_more_queries_and_is_read_by_its_indexes(admin):
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO configuration_auditentry (at, username, action, target, detail) "
            "SELECT now() - n * interval '1 minute', 'user' || n % 50, CASE WHEN n % 5000 = 0 THEN 'key.make' "
            "ELSE 'batch.cancel' END, 'batch_' || n, '' FROM generate_series(100000, 1, -1) n"
        )
        cursor.execute("ANALYZE configuration_auditentry")
    old = f"{timezone.now() - timedelta(days=60):%Y-%m-%d}"
    for query in (
        *({}, {"user": "nobody"}, {"user": "user7"}, {"target": "batch_99999"}, {"action": "key.make"}),
        *({"action": "none."}, {"since": "2020-01-01", "until": "2020-01-02"}, {"since": old, "until": old}),
    ):
        with CaptureQueriesContext(connection) as queries:
            assert admin.get("/system/audit", query).status_code == 200
        assert len(queries) <= 9
        (asked,) = (one["sql"] for one in queries if 'FROM "configuration_auditentry"' in one["sql"])
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN ANALYZE {asked}")
            plan = "\n".join(row[0] for row in cursor.fetchall())
        assert "Seq Scan on configuration_auditentry" not in plan, plan
        read = sum(int(rows) for rows in re.findall(r"Rows Removed by Filter: (\d+)", plan))
        assert read < 5000, plan


# Signing in


def attempt(name, password, client=None, **meta):
    return (client or Client()).post("/login", {"username": name, "password": password}, **meta)


def test_signing_in_and_out_is_kept(db):
    person("viewer", name="vera")
    client = Client()
    assert attempt("vera", PASSWORD, client)["Location"] == "/"
    client.post("/logout")
    kept = list(AuditEntry.objects.order_by("pk").values_list("action", "username", "target"))
    assert kept == [("user.login", "vera", "127.0.0.1"), ("user.logout", "vera", "127.0.0.1")]


def test_signing_in_leads_to_where_one_was(db):
    person("viewer", name="vera")
    page = Client().get("/models/?a=b")
    assert page["Location"] == "/login?next=/models/%3Fa%3Db"
    given = {"username": "vera", "password": PASSWORD}
    assert Client().post("/login", given | {"next": "/models/?a=b"})["Location"] == "/models/?a=b"
    assert Client().post("/login", given | {"next": "//evil.example/"})["Location"] == "/"


def test_the_page_says_how_the_first_account_is_made(db):
    assert "manage.py create_user NAME --role admin" in text(Client().get("/login"))
    person("viewer")
    assert "no account yet" not in text(Client().get("/login"))


def test_a_failure_is_kept_without_the_password(db, caplog):
    assert attempt("a" * 10_000, "my secret password").status_code == 422
    assert AuditEntry.objects.get().username == "a" * 150
    AuditEntry.objects.all().delete()
    for _ in range(3):
        assert attempt("vera\x1b", "my secret password").status_code == 422
    row = AuditEntry.objects.get()
    assert (row.username, row.action, row.detail, row.user) == ("vera", "user.login_failed", "3 from 127.0.0.1", None)
    assert "my secret password" not in repr(AuditEntry.objects.values()) and "my secret password" not in caplog.text
    assert "3 from 127.0.0.1" in text(superuser().get("/system/audit"))


def test_a_minute_later_there_is_another_row(db):
    attempt("vera", "wrong")
    AuditEntry.objects.update(at=timezone.now() - timedelta(seconds=61))
    attempt("vera", "wrong")
    assert AuditEntry.objects.filter(username="vera").count() == 2


def test_passwords_cannot_be_tried_without_end(db):
    person("viewer", name="vera")
    for number in range(sign_in.MOST_FAILURES):
        assert attempt("vera", f"wrong {number}").status_code == 422
    answer = attempt("vera", PASSWORD)
    assert answer.status_code == 429 and "Try again in 5 minutes" in text(answer)
    assert 0 < int(answer["Retry-After"]) <= 300 and AuditEntry.objects.count() == 1
    assert attempt("vera", PASSWORD, REMOTE_ADDR="10.0.0.9").status_code == 302, "from elsewhere it goes on"
    assert attempt("otto", "wrong").status_code == 422, "and with another name"
    AuditEntry.objects.filter(action=sign_in.FAILED).update(at=timezone.now() - timedelta(minutes=5, seconds=1))
    assert attempt("vera", PASSWORD).status_code == 302


def test_a_name_is_not_tried_without_end_from_many_places(db, monkeypatch):
    monkeypatch.setattr(sign_in, "MOST_OF_NAME", 20)
    person("viewer", name="vera")
    assert attempt("vera", PASSWORD, REMOTE_ADDR="10.0.0.1").status_code == 302, "this is where she works"
    for number in range(20):
        assert attempt("vera", "wrong", REMOTE_ADDR=f"10.1.{number}.1").status_code == 422
    answer = attempt("vera", PASSWORD, REMOTE_ADDR="10.2.0.1")
    assert answer.status_code == 429 and int(answer["Retry-After"]) <= 300
    assert attempt("vera", PASSWORD, REMOTE_ADDR="10.0.0.1").status_code == 302, "strangers do not keep her out"
    assert attempt("otto", "wrong", REMOTE_ADDR="10.2.0.1").status_code == 422
    AuditEntry.objects.filter(action=sign_in.FAILED).update(at=timezone.now() - timedelta(minutes=5, seconds=1))
    assert attempt("vera", PASSWORD, REMOTE_ADDR="10.2.0.1").status_code == 302


@pytest.mark.parametrize(("address", "place"), [
    ("10.0.0.1", "10.0.0.1"), ("::ffff:10.0.0.1", "10.0.0.1"), ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
    ("2001:db8:1:2::1", "2001:db8:1:2::/64"), ("fe80::1%eth0", "fe80::/64"), ("local", "local"),
])  # fmt: skip
def test_a_place_is_an_address_or_a_network(address, place):
    assert sign_in.place_of(address) == place


def test_a_network_of_addresses_has_no_more_attempts_than_one(db):
    person("viewer", name="vera")
    for number in range(sign_in.MOST_FAILURES):
        assert attempt("vera", "wrong", REMOTE_ADDR=f"2001:db8::{number:x}:1").status_code == 422
    assert attempt("vera", PASSWORD, REMOTE_ADDR="2001:db8::ffff").status_code == 429
    assert attempt("vera", PASSWORD, REMOTE_ADDR="2001:db8:0:1::1").status_code == 302


def test_who_is_right_has_not_failed(db):
    person("viewer", name="vera")
    for _ in range(2 * sign_in.MOST_FAILURES):
        assert attempt("vera", PASSWORD).status_code == 302
    attempt("vera", "wrong")
    attempt("vera", PASSWORD)
    assert AuditEntry.objects.get(action=sign_in.FAILED).detail == "1 from 127.0.0.1"


@pytest.mark.django_db(transaction=True)
def test_attempts_at_the_same_instant_are_no_more_than_others(monkeypatch):
    """Each is counted before the password is looked at, which takes its time."""
    person("viewer", name="vera")
    looked = []
    together = threading.Barrier(16)

    def slow(*given, **named):
        looked.append(1)
        time.sleep(0.3)

    monkeypatch.setattr("django.contrib.auth.forms.authenticate", slow)

    def try_it():
        try:
            together.wait(20)
            attempt("vera", "wrong")
        finally:
            connection.close()

    threads = [threading.Thread(target=try_it) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(looked) == sign_in.MOST_FAILURES


def test_many_names_do_not_fill_the_log(db, monkeypatch):
    monkeypatch.setattr(sign_in, "MOST_NAMES", 5)
    for number in range(5 + sign_in.MOST_FAILURES):
        assert attempt(f"name{number}", "wrong").status_code == 422
    assert AuditEntry.objects.count() == 6
    assert attempt("another", "wrong").status_code == 429
    person("viewer", name="vera")
    assert attempt("vera", PASSWORD, REMOTE_ADDR="10.0.0.9").status_code == 302


@pytest.mark.django_db(transaction=True)
def test_processes_count_together():
    def try_it():
        try:
            sign_in.attempt("vera", "10.0.0.1")
        finally:
            connection.close()

    threads = [threading.Thread(target=try_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert AuditEntry.objects.get().detail == "8 from 10.0.0.1"


def test_the_admin_site_has_no_other_way_in(db):
    root = User.objects.create_superuser("root", password=PASSWORD)
    answer = Client().get("/admin/", follow=True)
    assert answer.redirect_chain[-1][0] == "/login?next=/admin/"
    assert Client().post("/admin/login/", {"username": root.username, "password": PASSWORD}).status_code == 405
    assert superuser("other").get("/admin/login/?next=//evil.example")["Location"] == "/admin/"
    viewer = person("viewer")
    assert viewer.get("/admin/", follow=True).status_code == 403
