"""The pages of people and projects: who may change whom, and that somebody is always left who may."""

import io
import re

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from tests.people import PASSWORD, person, superuser, text
from vbs.accounts import people, roles
from vbs.accounts.models import Project
from vbs.configuration.models import AuditEntry

BAD = "<script>alert('x')</script>"


pytestmark = pytest.mark.django_db


@pytest.fixture
def one():
    return Project.objects.create(name="one")


@pytest.fixture
def admin():
    return person("admin", name="ada")


def add(client, **given):
    return client.post("/system/people", {"name": "new", "password": PASSWORD, "role": "viewer"} | given)


def actions():
    return list(AuditEntry.objects.order_by("pk").values_list("action", "target"))


def test_who_there_is(admin, one):
    person("viewer", one, name="vera")
    User.objects.create_superuser("root")
    User.objects.filter(username="vera").update(is_active=False)
    page = text(admin.get("/system/people"))
    for shown in ("vera", "root", "superuser", "viewer", "(you)", ">inactive<", ">one<"):
        assert shown in page


def test_adding_somebody(admin, one):
    assert add(admin, projects=[one.pk], role="operator").status_code == 302
    user = User.objects.get(username="new")
    assert user.check_password(PASSWORD) and roles.role_of(user) == "operator" and list(user.projects.all()) == [one]
    assert not user.is_staff and not user.is_superuser and actions() == [("user.add", "new")]
    assert PASSWORD not in repr(AuditEntry.objects.values())


def test_a_generated_password_is_shown_once(admin, caplog):
    answer = add(admin, password="")
    password = re.search(r'<pre id="secret"[^>]*>([^<]+)</pre>', text(answer))[1]
    assert User.objects.get(username="new").check_password(password) and answer["Cache-Control"] == "no-store"
    assert password not in text(admin.get("/system/people")) and password not in caplog.text
    assert password not in repr(AuditEntry.objects.values()) and password not in repr(admin.cookies)


@pytest.mark.parametrize(
    "given, shown",
    [
        ({"name": "ada"}, "There is somebody called “ada” already"),
        ({"name": "two words"}, "Enter a valid username"),
        ({"name": BAD}, "Enter a valid username"),
        ({"name": ""}, "required"),
        ({"password": "short"}, "too short"),
        ({"password": "1234567890"}, "entirely numeric"),
        ({"name": "somebodyelse", "password": "somebodyelse1"}, "too similar"),
        ({"role": "god"}, "Select a valid choice"),
        ({"role": ""}, "required"),
        ({"projects": ["99999"]}, "Select a valid choice"),
    ],
)
def test_who_cannot_be_added(admin, given, shown):
    answer = add(admin, **given)
    assert answer.status_code == 422 and shown in text(answer) and BAD not in text(answer)
    assert User.objects.count() == 1 and not AuditEntry.objects.exists()
    assert not given.get("password") or given["password"] not in re.findall(r'value="([^"]*)"', text(answer))


def test_another_role_and_other_projects(admin, one):
    two = Project.objects.create(name="two")
    user = person("viewer", one).user
    assert admin.post(f"/system/people/{user.pk}/", {"role": "admin", "projects": [two.pk]}).status_code == 302
    user.refresh_from_db()
    assert roles.role_of(user) == "admin" and user.is_staff and list(user.projects.all()) == [two]
    assert "viewer → admin; projects: + two, − one" in AuditEntry.objects.get().detail
    admin.post(f"/system/people/{user.pk}/", {"role": "admin", "projects": [two.pk]})
    assert AuditEntry.objects.count() == 1, "nothing has changed"


def test_nobody_takes_their_own_right(admin):
    me = admin.user
    page = admin.get(f"/system/people/{me.pk}/")
    assert 'name="role"' not in text(page) and "Somebody else" in text(page)
    answer = admin.post(f"/system/people/{me.pk}/", {"role": "viewer"})
    assert answer.status_code == 422 and "Role (role) cannot be set here: one's own role is for another" in (
        text(answer).replace("&#x27;", "'")
    )
    assert roles.role_of(me) == "admin"
    with pytest.raises(people.AccountRefused, match="own role"):
        people.set_role(me, me.pk, "viewer")
    answer = admin.post(f"/system/people/{me.pk}/active", {"active": "no"}, follow=True)
    me.refresh_from_db()
    assert me.is_active and "You cannot deactivate yourself" in text(answer)


def test_the_last_superuser_stays():
    root, other = superuser(), superuser("other")
    root.post(f"/system/people/{other.user.pk}/active", {"active": "no"})
    other.user.refresh_from_db()
    assert not other.user.is_active
    rights = person("admin").user
    rights.is_superuser = True  # as if one that is not kept were asking
    with pytest.raises(people.AccountRefused, match="last superuser"):
        people.set_active(rights, root.user.pk, False)


def test_only_superusers_change_superusers(admin):
    root = superuser()
    for path in ("", "password", "active"):
        address = f"/system/people/{root.user.pk}/{path}"
        assert admin.get(address).status_code == 200
        admin.post(address, {"role": "viewer", "password": "taken over by ada", "active": "no"})
    root.user.refresh_from_db()
    assert root.user.is_active and root.user.check_password(PASSWORD) and not AuditEntry.objects.exists()
    assert "only a superuser" in text(admin.get(f"/system/people/{root.user.pk}/"))
    assert superuser("second").post(f"/system/people/{root.user.pk}/active", {"active": "no"}).status_code == 302
    root.user.refresh_from_db()
    assert not root.user.is_active
    admin.post(f"/system/people/{root.user.pk}/active", {"active": "yes"})
    root.user.refresh_from_db()
    assert not root.user.is_active, "nor one that is not active"


def test_nobody_gives_or_takes_over_more_than_they_have(admin):
    helper = person("operator", permissions=["view_user", "add_user", "change_user"])
    page = text(helper.get("/system/people"))
    assert 'value="operator"' in page and 'value="admin"' not in page
    assert add(helper, role="admin").status_code == 422
    target = person("viewer").user
    assert helper.post(f"/system/people/{target.pk}/", {"role": "admin"}).status_code == 422
    assert helper.post(f"/system/people/{target.pk}/", {"role": "operator"}).status_code == 302
    assert helper.post(f"/system/people/{admin.user.pk}/password", {"password": "taken over by me"}).status_code == 422
    admin.user.refresh_from_db()
    assert admin.user.check_password(PASSWORD) and roles.role_of(target) == "operator"


def test_the_admin_site_gives_no_more(admin):
    root = superuser()
    target = person("viewer").user
    assert admin.get(f"/admin/auth/user/{target.pk}/change/").status_code == 200
    given = {"username": target.username, "is_superuser": "on", "is_staff": "on", "is_active": "on"}
    given |= {"date_joined_0": "2026-01-01", "date_joined_1": "00:00:00"}
    admin.post(f"/admin/auth/user/{target.pk}/change/", given)
    target.refresh_from_db()
    assert not target.is_superuser and not target.is_staff and roles.role_of(target) == "viewer"
    me = admin.user
    admin.post(f"/admin/auth/user/{me.pk}/change/", given | {"username": me.username})
    me.refresh_from_db()
    assert not me.is_superuser
    for path in (f"user/{root.user.pk}/password/", "group/1/change/", f"user/{target.pk}/delete/"):
        assert admin.post(f"/admin/auth/{path}", {"name": "x", "post": "yes"}).status_code == 403
    root.user.refresh_from_db()
    assert root.user.check_password(PASSWORD) and User.objects.filter(pk=target.pk).exists()


def test_a_deactivated_person_is_signed_out(admin):
    vera = person("viewer")
    assert vera.get("/models/").status_code == 200
    asked = text(admin.get(f"/system/people/{vera.user.pk}/active"))
    assert "Deactivate" in asked and "keys still work" in asked
    admin.post(f"/system/people/{vera.user.pk}/active", {"active": "no"})
    assert vera.get("/models/").status_code == 302
    assert Client().post("/login", {"username": vera.user.username, "password": PASSWORD}).status_code == 422
    assert "Let " in text(admin.get(f"/system/people/{vera.user.pk}/active"))
    admin.post(f"/system/people/{vera.user.pk}/active", {"active": "yes"})
    assert vera.get("/models/").status_code == 200
    assert [name for name, _ in actions() if "login" not in name] == ["user.deactivate", "user.activate"]


def test_another_password(admin):
    vera = person("viewer")
    address = f"/system/people/{vera.user.pk}/password"
    assert admin.post(address, {"password": "short"}).status_code == 422
    assert admin.post(address, {"password": "another good one"}).status_code == 302
    vera.user.refresh_from_db()
    assert vera.user.check_password("another good one") and vera.get("/models/").status_code == 302, "signed out"
    shown = re.search(r'<pre id="secret"[^>]*>([^<]+)</pre>', text(admin.post(address)))[1]
    vera.user.refresh_from_db()
    assert vera.user.check_password(shown) and shown not in repr(AuditEntry.objects.values())
    assert actions() == [("user.password", vera.user.username)] * 2


# Projects


def test_projects_are_made_renamed_and_given_members(admin, one):
    vera = person("viewer", name="vera").user
    answer = admin.post("/system/projects", {"name": "ours"})
    project = Project.objects.get(name="ours")
    assert answer["Location"] == f"/system/projects/{project.pk}/" and admin.get(answer["Location"]).status_code == 200
    admin.post(answer["Location"], {"name": "theirs", "members": [vera.pk]})
    project.refresh_from_db()
    assert project.name == "theirs" and list(project.members.all()) == [vera]
    assert AuditEntry.objects.first().detail == "renamed from “ours”; members: + vera"
    for address in ("/system/projects", answer["Location"]):
        wrong = admin.post(address, {"name": "one"})
        assert wrong.status_code == 422 and "There is a project called “one” already" in text(wrong)
    assert admin.post("/system/projects", {"name": ""}).status_code == 422
    assert admin.get("/system/projects").status_code == 405
    assert admin.get("/system/projects/99999/").status_code == 404


def test_the_project_of_the_server_keeps_its_name(admin):
    default = Project.objects.create(name="default")
    admin.post(f"/system/projects/{default.pk}/", {"name": "other"})
    default.refresh_from_db()
    assert default.name == "default"


def test_who_sees_some_projects_changes_only_those(one):
    two = Project.objects.create(name="two")
    helper = person("viewer", one, permissions=["view_user", "change_user", "change_project"])
    vera = person("viewer", two).user
    page = text(helper.get("/system/people"))
    assert ">one<" in page and "two" not in page
    assert helper.get(f"/system/projects/{two.pk}/").status_code == 404
    helper.post(f"/system/people/{vera.pk}/", {"role": "viewer", "projects": [one.pk]})
    assert set(vera.projects.all()) == {one, two}, "what is not seen stays as it is"
    assert helper.post(f"/system/people/{vera.pk}/", {"role": "viewer", "projects": [two.pk]}).status_code == 422


def test_hostile_names_are_text(admin):
    project = Project.objects.create(name=BAD)
    for path in ("/system/people", f"/system/projects/{project.pk}/"):
        page = text(admin.get(path))
        assert BAD not in page and "&lt;script&gt;" in page


def test_as_many_queries_however_many_people(admin, one):
    def count():
        with CaptureQueriesContext(connection) as queries:
            assert admin.get("/system/people").status_code == 200
        return len(queries)

    person("viewer", one)
    few = count()
    for _ in range(8):
        person("viewer", one)
    assert count() == few


def test_more_people_than_a_page(admin):
    User.objects.bulk_create(User(username=f"user{number:03}") for number in range(120))
    page = text(admin.get("/system/people"))
    (further,) = re.findall(r'rel="next" href="([^"]+)"', page)
    assert "user098" in page and "user099" not in re.findall(r'user-text" dir="auto">([^<]+)<', page)
    assert "user119" in text(admin.get(further))


# The command


def made(*words):
    output, errors = io.StringIO(), io.StringIO()
    call_command("create_user", *words, stdout=output, stderr=errors)
    return output.getvalue()


def test_the_command(one):
    password = made("vera", "--role", "operator", "--project", "one").strip()
    user = User.objects.get(username="vera")
    assert user.check_password(password) and roles.role_of(user) == "operator" and list(user.projects.all()) == [one]
    row = AuditEntry.objects.get()
    assert (row.action, row.target, row.detail) == ("user.add", "vera", "operator")
    with pytest.raises(CommandError, match="somebody called “vera” already"):
        made("vera", "--role", "viewer")
    with pytest.raises(CommandError, match="no project 'two'; there are: one"):
        made("other", "--role", "viewer", "--project", "two")
    with pytest.raises(CommandError, match="valid username"):
        made("two words", "--role", "viewer")
    with pytest.raises(CommandError):
        made("other", "--role", "god")
    assert User.objects.count() == 1 and user.check_password(password)


def test_the_command_asks_on_a_terminal(monkeypatch):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    typed = iter(["good enough it is", "something else", "short", "short", "good enough it is", "good enough it is"])
    monkeypatch.setattr("vbs.accounts.management.commands.create_user.getpass", lambda words: next(typed))
    with pytest.raises(CommandError, match="passwords differ"):
        made("vera", "--role", "admin")
    with pytest.raises(CommandError, match="too short"):
        made("vera", "--role", "admin")
    assert made("vera", "--role", "admin") == ""
    user = User.objects.get()
    assert user.check_password("good enough it is") and user.is_staff and not user.is_superuser
