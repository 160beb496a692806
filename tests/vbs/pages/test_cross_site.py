"""What pages of other sites have a browser send: without a key, over sockets, and into our own pages."""

import subprocess
import sys

import pytest
from django.contrib.auth.models import User
from django.test import Client

from tests.people import person, superuser
from vbs.accounts.models import ApiKey, Project
from vbs.pages import origins

HERE = "http://localhost:4080"


@pytest.fixture
def ask(db, settings):
    settings.VBS_API_AUTH, settings.ALLOWED_HOSTS = "open", ["localhost", "127.0.0.1", "[::1]"]

    def ask(method="get", **headers):
        return getattr(Client(headers={"Host": "localhost:4080"} | headers), method)("/v1/files")

    return ask


@pytest.mark.parametrize("headers", [
    {}, {"Origin": HERE}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"},
    {"Origin": HERE, "Sec-Fetch-Site": "same-origin"}, {"Host": "127.0.0.1:9"}, {"Host": "[::1]:4080"},
])  # fmt: skip
def test_programs_and_our_own_pages_need_no_key_where_it_is_open(ask, headers):
    assert ask(**headers).status_code == 200


@pytest.mark.parametrize("headers", [
    {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": ""}, {"Origin": "http://localhost"},
    {"Origin": "http://localhost:3000"}, {"Origin": "https://localhost:4080"}, {"Origin": "http://["},
    {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Sec-Fetch-Site": "x"},
    {"Origin": "http://localhost:4080.evil.example"},
])  # fmt: skip
@pytest.mark.parametrize("method", ["get", "post", "delete"])
def test_pages_of_other_sites_do_nothing_there(ask, headers, method):
    answer = ask(method, **headers)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["code"]) == (403, "permission_error", "cross_site")


def test_a_name_of_another_site_that_leads_here(ask, settings):
    """A page of that site would be of the same origin as we are."""
    rebound = {"Host": "evil.example:4080", "Origin": "http://evil.example:4080", "Sec-Fetch-Site": "same-origin"}
    assert ask(**rebound).status_code == 400
    settings.ALLOWED_HOSTS = ["*"]
    assert ask(**rebound).json()["error"]["code"] == "cross_site"
    settings.ALLOWED_HOSTS = ["*", "evil.example"]
    assert ask(**rebound).status_code == 200, "somebody has named it"


def test_an_origin_that_is_named_is_trusted(ask, settings):
    settings.CSRF_TRUSTED_ORIGINS = ["https://vbs.example.org", "https://*.lab.example"]
    for origin, status in (
        ("https://vbs.example.org", 200), ("https://a.lab.example", 200), ("http://vbs.example.org", 403),
        ("https://vbs.example.org:8443", 403), ("https://lab.example.evil", 403),
    ):  # fmt: skip
        assert ask(**{"Origin": origin, "Sec-Fetch-Site": "cross-site"}).status_code == status, origin


def test_with_keys_it_does_not_matter(db, settings):
    settings.VBS_API_AUTH = "required"
    secret = ApiKey.objects.issue(Project.objects.create(name="one"), "x")[1]
    headers = {"Authorization": f"Bearer {secret}", "Origin": "http://evil.example"}
    assert Client(headers=headers).get("/v1/files").status_code == 200


def test_origins_are_compared_by_scheme_name_and_port():
    assert origins.is_ours("http://a:1", "a:1") and origins.is_ours("https://a", "a", secure=True)
    for origin in ("https://a:1", "http://a", "http://a:2", "http://b:1", "null", "", "a:1", "http://a:1/x"):
        assert not origins.is_ours(origin, "a:1"), origin


# Cookies


@pytest.mark.parametrize(
    ("given", "secure"),
    [
        ({}, False),
        ({"VBS_TRUSTED_ORIGINS": "https://vbs.example.org"}, True),
        ({"VBS_TRUSTED_ORIGINS": "https://vbs.example.org,http://vbs.lan"}, False),
        ({"VBS_SECURE_COOKIES": "true"}, True),
        ({"VBS_TRUSTED_ORIGINS": "https://vbs.example.org", "VBS_SECURE_COOKIES": "false"}, False),
    ],
)
def test_cookies_behind_tls_go_over_tls_only(tmp_path, given, secure):
    code = "from vbs import settings as s; print(s.SESSION_COOKIE_SECURE, s.CSRF_COOKIE_SECURE)"
    environment = {"PATH": "/usr/bin:/bin", "VBS_DATA_DIR": str(tmp_path), "VBS_SECRET_KEY": "x"} | given
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(secure)] * 2


# Policies


def test_no_page_runs_scripts_that_are_not_ours(db):
    root = superuser()
    change = f"/admin/auth/user/{User.objects.get().pk}/change/"
    for path in (
        "/admin/",
        "/admin/auth/user/",
        change,
        "/models/",
        "/docs",
        "/nowhere",
    ):
        policy = root.get(path, headers={"Accept": "text/html"}).headers["Content-Security-Policy"]
        assert "default-src 'self'" in policy and "script-src" not in policy and "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
    for path in ("/login", "/docs"):
        assert "default-src 'self'" in Client().get(path).headers["Content-Security-Policy"]


def test_the_pages_of_others_have_no_scripts_in_them(db):
    """Where there are some, they would not run."""
    for path in ("/docs", "/admin/", "/admin/accounts/project/add/", "/admin/auth/group/1/change/"):
        page = superuser(f"root {path}").get(path).content.decode()
        for script in page.split("<script")[1:]:
            assert "src=" in script.partition(">")[0] or "application/json" in script.partition(">")[0], script[:200]
    assert person("viewer").get("/docs").status_code == 200
