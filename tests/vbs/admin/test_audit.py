"""Whatever is done in the admin stands in the audit log, by whichever class, and no secret does."""

import re

import pytest
from django.contrib import admin, messages
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group, User
from django.contrib.messages.storage.cookie import CookieStorage
from django.test import Client, RequestFactory

from models_registry.catalog.folders import ModelError
from models_registry.models import Alias, HubToken, Model
from tests.people import PASSWORD, superuser
from tests.vbs.admin.test_admin import address, rows
from vbs.accounts.models import ApiKey, Project
from vbs.admin.site import NOUNS, Audited, Site
from vbs.configuration.models import AuditEntry

pytestmark = pytest.mark.django_db
EVERY = pytest.mark.parametrize("model", list(admin.site._registry), ids=lambda model: model._meta.label)


@pytest.fixture
def root():
    return superuser()


@pytest.fixture
def project():
    return Project.objects.create(name="project")


def noun(model):
    return NOUNS.get(model._meta.model_name, model._meta.model_name)


def kept(prefix=""):
    rows = AuditEntry.objects.filter(action__startswith=prefix).exclude(detail__contains="<b>hello")
    return list(rows.order_by("pk"))


def request_of(user, path="/", data=None):
    request = RequestFactory().post(path, data or {})
    request.user, request._dont_enforce_csrf_checks = user, True
    request._messages = CookieStorage(request)
    return request


@EVERY
def test_every_class_keeps_what_it_logs(root, project, model):
    rows(project, 1)
    rows(Project.objects.create(name="other"), 2)
    User.objects.create_user("somebody")
    its, request = admin.site._registry[model], request_of(root.user)
    assert isinstance(its, Audited)
    one, *others = model.objects.all()[:2]
    its.log_addition(request, one, [{"added": {}}])
    its.log_change(request, one, [{"changed": {"fields": ["Name"]}}])
    its.log_deletions(request, model.objects.filter(pk__in=[one.pk, *(other.pk for other in others)]))
    found = [(row.action.split(".")[1], row.username) for row in kept(f"{noun(model)}.")]
    assert [verb for verb, _ in found][2:] == ["delete"] * (1 + len(others))
    assert [verb for verb, _ in found][:2] in (["add", "change"], ["make", "change"], ["add", "edit"])
    assert {username for _, username in found} == {"root"} and LogEntry.objects.count() == len(found)
    assert "Changed Name." in kept(f"{noun(model)}.")[1].detail


def every_action():
    for model, its in admin.site._registry.items():
        for _, name, _ in its._get_base_actions():
            yield pytest.param(model, name, id=f"{model._meta.label}-{name}")


@pytest.mark.parametrize(("model", "action"), list(every_action()))
def test_every_action_on_many_keeps_each(root, project, model, action, monkeypatch):
    """As many as it was done to: what is refused is said, and not kept."""
    monkeypatch.setattr("models_registry.workloads.needs", lambda names: [])
    rows(project, 1)
    rows(Project.objects.create(name="other"), 2)
    if model is Model:
        Alias.objects.all().delete()  # or they need it
    User.objects.create_user("somebody")
    chosen = list(model.objects.exclude(pk=root.user.pk) if model is User else model.objects.all()[:2])
    data = {"action": action, "_selected_action": [str(one.pk) for one in chosen], "post": "yes"}
    if action not in admin.site._registry[model].get_actions(request_of(root.user)):
        root.post(address(model, ""), data)
        assert not kept(f"{noun(model)}.") and model.objects.filter(pk__in=data["_selected_action"]).exists()
        return
    answer = root.post(address(model, ""), data, follow=True)
    refused = [one for one in answer.context["messages"] if one.level == messages.ERROR]
    verb = "delete" if action == "delete_selected" else action
    found = kept(f"{noun(model)}.")
    assert [row.action for row in found] == [f"{noun(model)}.{verb}"] * (len(chosen) - len(refused))
    assert found or refused


class Plain(admin.ModelAdmin):
    """As somebody may write one who knows nothing of the audit log."""

    list_display = ("id", "name")
    list_editable = ("name",)
    actions = ("shout",)

    @admin.action(description="Shout")
    def shout(self, request, queryset):
        for alias in queryset:
            Alias.objects.filter(pk=alias.pk).update(name=alias.name.upper())


@pytest.fixture
def plain():
    site = Site(name="admin")
    site.register(Alias, Plain)
    model = Model.objects.create(name="m", kind="scripted")
    return site._registry[Alias], [Alias.objects.create(name=name, model=model) for name in ("a", "b")]


def test_a_list_of_a_plain_class_that_is_edited(root, plain):
    its, (first, second) = plain
    data = {"_save": "Save", "form-TOTAL_FORMS": 2, "form-INITIAL_FORMS": 2}
    for number, (alias, name) in enumerate(((first, "x"), (second, "y"))):
        data |= {f"form-{number}-id": alias.pk, f"form-{number}-name": name}
    its.changelist_view(request_of(root.user, address(Alias, ""), data))
    assert sorted(Alias.objects.values_list("name", flat=True)) == ["x", "y"]
    assert [(row.action, row.target) for row in kept()] == [("alias.change", "x → m"), ("alias.change", "y → m")]


def test_an_action_of_a_plain_class(root, plain):
    its, aliases = plain
    data = {"action": "shout", "_selected_action": [one.pk for one in aliases]}
    its.changelist_view(request_of(root.user, address(Alias, ""), data))
    assert [(row.action, row.target) for row in kept()] == [("alias.shout", "a → m"), ("alias.shout", "b → m")]


# What stands in it


def test_a_key(root, project):
    answer = root.post(address(ApiKey, "add"), {"project": project.pk, "name": "x", "operator": "on"}, follow=True)
    (secret,) = re.findall(r"sk-vbs-[\w-]{43}", " ".join(str(one) for one in answer.context["messages"]))
    key = ApiKey.objects.get()
    root.post(address(ApiKey, "change", str(key.pk)), {"project": project.pk, "name": "y"})
    root.post(address(ApiKey, "change", str(key.pk)), {"project": project.pk, "name": "y"})
    root.post(address(ApiKey, "delete", str(key.pk)), {"post": "yes"})
    made, changed, gone = kept()
    assert (made.action, made.project, made.user) == ("key.make", project, root.user)
    assert "operator: True" in made.detail and made.target == f"x ({key.prefix}…)"
    assert (changed.action, changed.detail.splitlines()[1]) == ("key.change", "Changed Name.")
    assert gone.action == "key.delete"
    for row in AuditEntry.objects.values():
        assert secret[len(key.prefix) :] not in str(row) and key.digest not in str(row)


def test_a_token_of_the_hub(root):
    root.post(address(HubToken, "add"), {"name": "mine", "token": "hf_first"})
    token = HubToken.objects.get()
    root.post(address(HubToken, "change", str(token.pk)), {"token": "hf_second"})
    assert [(row.action, row.target) for row in kept()] == [("token.add", "mine"), ("token.change", "mine")]
    assert "hf_" not in str(AuditEntry.objects.values()) and token.secret not in str(AuditEntry.objects.values())


def test_what_somebody_may(root):
    user = User.objects.create_user("vera", password=PASSWORD)
    group = Group.objects.get(name="operator")
    given = {"username": "vera", "is_active": "on", "groups": [group.pk], "is_superuser": "on"}
    given |= {f"{name}_{part}": "0" for name in ("date_joined", "last_login") for part in (0, 1)}
    given |= {"date_joined_0": "2026-01-01", "date_joined_1": "00:00", "last_login_0": "", "last_login_1": ""}
    assert root.post(address(User, "change", str(user.pk)), given).status_code == 302
    (row,) = kept()
    assert (row.action, row.target) == ("user.change", "vera")
    assert "groups: operator" in row.detail and "is_superuser: True" in row.detail
    words = {"password1": "another horse battery", "password2": "another horse battery", "usable_password": "true"}
    assert root.post(f"/admin/auth/user/{user.pk}/password/", words).status_code == 302
    assert kept()[1].action == "user.change" and "another horse" not in str(AuditEntry.objects.values())


def test_ones_own_password(root):
    given = {"old_password": PASSWORD, "new_password1": "another horse battery"}
    assert root.post("/admin/password_change/", given | {"new_password2": "else"}).status_code == 200
    assert not kept()
    assert root.post("/admin/password_change/", given | {"new_password2": "another horse battery"}).status_code == 302
    (row,) = kept()
    assert (row.action, row.target) == ("user.password", "root") and "another" not in row.detail


def test_what_is_refused_is_not_kept(root, project, monkeypatch):
    model = Model.objects.create(name="m", kind="scripted")

    def refuse(*given, **changes):
        raise ModelError("no")

    monkeypatch.setattr("models_registry.catalog.add.edit", refuse)
    root.post(address(Model, "change", str(model.pk)), {"task": "chat", "engine_args": "{}", "notes": "new"})
    assert not kept("model.")


def test_signing_in_and_out_of_the_admin(root):
    client = Client()
    page = client.get("/admin/", follow=True)
    client.post(page.redirect_chain[-1][0], {"username": "root", "password": PASSWORD})
    assert client.get("/admin/").status_code == 200
    client.post("/admin/logout/")
    assert [row.action for row in kept()] == ["user.login", "user.logout"]
