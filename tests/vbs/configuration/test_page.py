"""The page of settings: every setting with its value, no secret, and few that admins can change."""

import re

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from vbs.accounts import roles
from vbs.configuration import runtime
from vbs.configuration.declared import SETTINGS
from vbs.configuration.models import AuditEntry, Override

DAYS = "VBS_RETENTION_DAYS"
PAGE = "/system/settings"
HTMX = {"HX-Request": "true"}


def client(role):
    user = User.objects.create_user(role)
    roles.assign(user, role)
    made = Client()
    made.force_login(user)
    return made


@pytest.fixture
def admin(db):
    return client("admin")


def text(response):
    return response.content.decode()


# The list of settings


def test_what_looks_like_a_secret_is_one():
    for one in SETTINGS.values():
        looks = re.search(r"KEY|TOKEN\b|DSN|DATABASE_URL|PASSWORD|SECRET", one.name)
        assert bool(looks) == one.secret, one.name


# Looking


def test_every_setting_is_there_and_no_secret(admin, settings, monkeypatch, django_assert_max_num_queries):
    settings.HF_TOKEN, settings.VBS_REMOTE_KEY, settings.SENTRY_DSN = "hf_verysecret", "", "https://k3y@sentry/1"
    settings.VBS_HUB_URL = "https://me:pass@mirror.example/hub"
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    admin.get(PAGE)
    with django_assert_max_num_queries(8):
        page = text(admin.get(PAGE))
    for one in SETTINGS.values():
        assert one.name in page
    for secret in ("hf_verysecret", "k3y@", settings.SECRET_KEY, "me:pass"):
        assert secret not in page
    row = page.partition('id="setting-HF_TOKEN"')[2].partition("</tr>")[0]
    assert ">set</code>" in row and "environment" in row and "Change" not in row
    assert ">not set</code>" in page.partition('id="setting-VBS_REMOTE_KEY"')[2].partition("</tr>")[0]
    assert "https://***@mirror.example/hub" in page


def test_settings_are_grouped_by_what_they_are_about(admin):
    page = text(admin.get(PAGE))
    found = re.findall(r'<section id="(about-[\w-]+)"', page)
    assert len(found) == len(set(found)) >= 8 and all(f'href="#{place}"' in page for place in found)
    assert all(one.subject for one in SETTINGS.values())
    web = page.partition('id="about-web"')[2].partition("</section>")[0]
    assert "VBS_PORT" in web and "VBS_RETENTION_DAYS" not in web


def test_who_has_set_what(admin):
    Override.objects.create(name=DAYS, value=7, changed_by="<b>Eve</b>")
    Override.objects.create(name="VBS_REQUEST_ATTEMPTS", value="<script>", changed_by="x")
    page = text(admin.get(PAGE))
    row = page.partition(f'id="setting-{DAYS}"')[2].partition("</tr>")[0]
    assert ">7</code>" in row and "&lt;b&gt;Eve" in row and "Reset" in row
    refused = page.partition('id="setting-VBS_REQUEST_ATTEMPTS"')[2].partition("</tr>")[0]
    assert "not a value that it can have" in refused and "Reset" in refused and "<script>" not in page


def test_the_live_page_sends_the_row_that_has_changed(admin):
    seen = re.findall(r'name="seen" value="([^"]+)"', text(admin.get(PAGE)))
    assert admin.get(f"{PAGE}/live", {"seen": seen}).status_code == 204
    runtime.change(DAYS, 3, "another")
    changed = text(admin.get(f"{PAGE}/live", {"seen": seen}))
    assert re.findall(r'<tr id="([^"]+)"', changed) == [f"setting-{DAYS}"]


@pytest.mark.parametrize("role", ["viewer", "operator"])
@pytest.mark.parametrize("address", ["", "/live", f"/{DAYS}", f"/{DAYS}/reset"])
def test_only_admins(db, role, address):
    assert client(role).get(PAGE + address).status_code == 403
    assert client("admin").get(PAGE + address).status_code in (200, 204)


def test_who_may_look_only_looks(db):
    user = User.objects.create_user("looks")
    user.user_permissions.add(Permission.objects.get(codename="view_override"))
    looks = Client()
    looks.force_login(user)
    page = text(looks.get(PAGE))
    assert DAYS in page and "Change …" not in page
    for address in (f"{PAGE}/{DAYS}", f"{PAGE}/{DAYS}/reset"):
        assert looks.get(address).status_code == looks.post(address, {"value": "5"}).status_code == 403
    assert Client().get(PAGE).status_code == 302 and not Override.objects.exists()


# Changing


def test_a_change_and_a_reset_are_kept_with_who_did_them(admin, settings):
    form = text(admin.get(f"{PAGE}/VBS_MAX_WAIT_MINUTES"))
    assert 'value="30"' in form and "A whole number from 1" in form and "<html" in form
    assert "<html" not in text(admin.get(f"{PAGE}/VBS_MAX_WAIT_MINUTES", headers=HTMX))
    done = admin.post(f"{PAGE}/VBS_MAX_WAIT_MINUTES", {"value": " 45 "}, follow=True)
    assert done.redirect_chain and "VBS_MAX_WAIT_MINUTES is 45 now" in text(done)
    assert runtime.value("VBS_MAX_WAIT_MINUTES") == 45 and Override.objects.get().changed_by == "admin"
    assert "45 holds now; 30 will" in text(admin.get(f"{PAGE}/VBS_MAX_WAIT_MINUTES/reset"))
    assert Override.objects.exists(), "asking changes nothing"
    admin.post(f"{PAGE}/VBS_MAX_WAIT_MINUTES/reset")
    assert runtime.value("VBS_MAX_WAIT_MINUTES") == settings.VBS_MAX_WAIT_MINUTES
    kept = AuditEntry.objects.order_by("id").values_list("username", "action", "target", "detail")
    assert list(kept) == [
        ("admin", "setting.change", "VBS_MAX_WAIT_MINUTES", "30 → 45"),
        ("admin", "setting.reset", "VBS_MAX_WAIT_MINUTES", "45 → 30"),
    ]


def test_windows(admin):
    admin.post(f"{PAGE}/VBS_COMPLETION_WINDOWS", {"value": "24h, 7d"})
    assert runtime.value("VBS_COMPLETION_WINDOWS") == ["24h", "7d"]
    assert AuditEntry.objects.get().detail == "24h → 24h,7d"


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("VBS_GPU_MAX_USED_PERCENT", "101", "less than or equal to 100"),
        ("VBS_REQUEST_ATTEMPTS", "many", "Not a valid integer"),
        ("VBS_REQUEST_SECONDS", "", "required"),
        ("VBS_COMPLETION_WINDOWS", "<script>", "is not a time such as 24h"),
        ("VBS_MAX_BATCH_REQUESTS", "5\0", "Null characters"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_changes(admin, name, value, words):
    answer = admin.post(f"{PAGE}/{name}", {"value": value})
    assert answer.status_code == 422 and words in text(answer) and "<script>" not in text(answer)
    assert not Override.objects.exists() and not AuditEntry.objects.exists()


def test_keeping_less_is_asked_again(admin):
    answer = admin.post(f"{PAGE}/{DAYS}", {"value": "2"})
    assert answer.status_code == 422 and "cannot be brought back" in text(answer) and not Override.objects.exists()
    admin.post(f"{PAGE}/{DAYS}", {"value": "2", "sure": "on"})
    assert runtime.value(DAYS) == 2
    admin.post(f"{PAGE}/{DAYS}", {"value": "9"})
    assert runtime.value(DAYS) == 9
    admin.post(f"{PAGE}/{DAYS}", {"value": "90"})
    assert "are deleted permanently" in text(admin.get(f"{PAGE}/{DAYS}/reset"))


@pytest.mark.parametrize("name", ["VBS_PORT", "VBS_SECRET_KEY", "DATABASE_URL", "no_such", "__class__"])
def test_the_others_cannot_be_changed(admin, name):
    for address in (f"{PAGE}/{name}", f"{PAGE}/{name}/reset"):
        assert admin.get(address).status_code == admin.post(address, {"value": "1"}).status_code == 404
    assert admin.put(f"{PAGE}/{DAYS}").status_code == 405 and admin.post(PAGE).status_code == 405
