"""Each role may do exactly what it should, and sees exactly what it should."""

import pytest
from django.contrib.auth.models import Group, Permission
from django.core.management import call_command
from django.test import Client

from tests.people import person, superuser, text
from vbs.accounts import roles
from vbs.accounts.models import ApiKey, Project

VIEWER = {"batches.view_batch", "batches.view_file", "models_registry.view_model", "models_registry.view_worker"}
OPERATOR = VIEWER | {
    "batches.add_batch",
    "batches.change_batch",
    "batches.change_pause",
    "models_registry.add_model",
    "models_registry.change_model",
    "models_registry.delete_model",
    "models_registry.change_worker",
    "models_registry.use_playground",
    "accounts.view_apikey",
    "accounts.add_apikey",
    "accounts.change_apikey",
}
PAGES = {  # and who may look
    "/models/": ("viewer", "operator", "admin"),
    "/playground/": ("operator", "admin"),
    "/playground/models": ("operator", "admin"),
    "/system/keys": ("operator", "admin"),
    "/system/keys/live": ("operator", "admin"),
    "/system/people": ("admin",),
    "/system/audit": ("admin",),
    "/admin/": ("admin",),
}


pytestmark = pytest.mark.django_db


def test_what_each_may():
    assert person("viewer").user.get_all_permissions() == VIEWER
    assert person("operator").user.get_all_permissions() == OPERATOR
    assert not person("").user.get_all_permissions()
    admin = person("admin").user
    rights = admin.get_all_permissions()
    assert rights >= OPERATOR | {"auth.change_user", "configuration.view_auditentry", "accounts.view_project"}
    assert not {one for one in rights if one.startswith(("admin.", "sessions.", "contenttypes.", "django_q."))}
    assert admin.is_staff and not admin.is_superuser


def test_what_an_earlier_version_gave_is_taken_back():
    """A row of the task queue names a function that a worker calls."""
    groups = [Group.objects.get(name=role) for role in roles.ROLES]
    kept = Permission.objects.get(codename="view_permission")
    for group in groups:
        group.permissions.add(kept, *Permission.objects.filter(content_type__app_label="django_q"))
    assert any(one.permissions.filter(content_type__app_label="django_q").exists() for one in groups)
    call_command("migrate", verbosity=0)
    for group in groups:
        assert not group.permissions.filter(content_type__app_label="django_q").exists()
        assert kept in group.permissions.all()


def test_a_role_replaces_the_one_before():
    user = person("admin").user
    other = Group.objects.create(name="something else")
    user.groups.add(other)
    roles.assign(user, "viewer")
    user.refresh_from_db()
    assert roles.role_of(user) == "viewer" and not user.is_staff and other in user.groups.all()
    with pytest.raises(ValueError, match="god"):
        roles.assign(user, "god")


@pytest.mark.parametrize("role", ["", "viewer", "operator", "admin", "superuser"])
def test_who_may_look(role):
    client = superuser() if role == "superuser" else person(role)
    for path, allowed in PAGES.items():
        expected = 200 if role == "superuser" or role in allowed or path == "/models/" else 403
        assert client.get(path, follow=path == "/admin/").status_code == expected, path


def test_the_tabs_are_those_that_lead_somewhere():
    page = text(person("operator").get("/system/keys"))
    assert "/system/keys" in page and "/system/people" not in page and "/system/audit" not in page
    page = text(person("admin").get("/system/keys"))
    assert "/system/people" in page and "/system/audit" in page


def test_strangers_are_asked_to_sign_in():
    for path in ("/system/keys", "/system/people", "/system/audit", "/system/people/1/", "/system/keys/1/revoke"):
        answer = Client().get(path)
        assert (answer.status_code, answer["Location"]) == (302, f"/login?next={path}")
        assert Client().post(path).status_code in (302, 405)


def test_nothing_changes_without_the_right():
    """Looking does not give the right to change, on any of these."""
    looks = person("", permissions=["view_user", "view_apikey", "view_auditentry"])
    target = person("viewer").user
    project = Project.objects.create(name="one")
    for path in (
        "/system/people", "/system/keys", f"/system/people/{target.pk}/", f"/system/people/{target.pk}/password",
        f"/system/people/{target.pk}/active", "/system/projects", f"/system/projects/{project.pk}/",
    ):  # fmt: skip
        assert looks.post(path, {"name": "x", "active": "no", "role": "admin"}).status_code == 403, path
    page = text(looks.get("/system/people"))
    assert "Deactivate" not in page and "Add a person" not in page and "New project" not in page


def test_an_admin_sees_all_projects_and_others_their_own():
    one, two = (Project.objects.create(name=name) for name in ("one", "two"))
    for project in (one, two):
        ApiKey.objects.issue(project, f"key of {project}")
    page = text(person("admin").get("/system/keys"))
    assert "key of one" in page and "key of two" in page
    page = text(person("operator", two).get("/system/keys"))
    assert "key of one" not in page and "key of two" in page


def test_every_change_needs_the_token_of_a_page():
    client = Client(enforce_csrf_checks=True)
    admin = person("admin")
    client.cookies = admin.cookies
    for path in ("/system/keys", "/system/people", f"/system/people/{admin.user.pk}/", "/system/projects"):
        assert client.post(path, {"name": "x"}).status_code == 403
    assert not Project.objects.exists()
