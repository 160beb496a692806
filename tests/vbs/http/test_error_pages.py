"""What is answered when something is wrong: a page for browsers, a line for scripts of pages, the envelope for /v1."""

from django.db import OperationalError
from django.test import Client, override_settings

from tests.people import person, text

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
BAD = "<script>alert(1)</script>"


def is_page(answer, status, *words):
    assert answer.status_code == status and answer["Content-Type"].startswith("text/html")
    assert "script-src" not in answer["Content-Security-Policy"] and "default-src 'self'" in text_policy(answer)
    assert answer["Cache-Control"] == "no-store"
    for word in (*words, "<h1>", 'href="/queue/"', "vbs.css"):
        assert word in text(answer), word
    assert "<script>" not in text(answer) and " style=" not in text(answer)


def text_policy(answer):
    return answer["Content-Security-Policy"]


def test_not_found_without_a_database():
    """No fixture of a database here: asking for one would fail."""
    is_page(Client(headers=BROWSER).get(f"/nothing/{BAD}"), 404, "Not found", "removed")


def test_a_line_for_what_is_no_browser():
    for headers in ({}, {"Accept": "*/*"}, BROWSER | {"HX-Request": "true"}):
        answer = Client(headers=headers).get("/nothing")
        assert answer.status_code == 404 and answer["Content-Type"].startswith("text/plain")
        assert text(answer) == "404 Not found\n"


def test_v1_keeps_its_envelope(db):
    for path in ("/v1/nothing", "/v1", "/v1/files"):
        answer = Client(headers=BROWSER).get(path)
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    answer = Client(headers=BROWSER).get("/v1extra")
    assert answer["Content-Type"].startswith("text/html")


def test_a_strange_host():
    is_page(Client(headers=BROWSER | {"Host": "evil.example"}).get("/login"), 400, "evil.example", "VBS_ALLOWED_HOSTS")
    answer = Client(headers={"Host": "evil.example"}).get("/v1/models")
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "bad_request"


def test_not_allowed(db):
    viewer = person("viewer")
    is_page(viewer.get("/system/people", headers=BROWSER), 403, "Not allowed", "another role")
    answer = viewer.get("/system/people", headers=BROWSER | {"HX-Request": "true"})
    assert text(answer) == "403 Not allowed\n"


def test_a_form_that_is_too_old(db):
    client = Client(enforce_csrf_checks=True, headers=BROWSER)
    is_page(client.post("/login", {"username": "a", "password": "b"}), 403, "The form is too old", "nothing was done")
    answer = Client(enforce_csrf_checks=True).post("/login", {})
    assert answer.status_code == 403 and text(answer) == "403 The form is too old\n"
    answer = client.post("/login", headers=BROWSER | {"Origin": "https://proxy.example"})
    is_page(answer, 403, "VBS_TRUSTED_ORIGINS")


def test_a_method_that_is_not_taken(db):
    viewer = person("viewer")
    answer = viewer.post("/models/", headers=BROWSER)
    is_page(answer, 405, "does not take POST: it takes GET")
    assert answer["Allow"] == "GET"
    assert text(viewer.post("/models/")) == "405 Not possible here\n"
    assert viewer.post("/models/", headers={"HX-Request": "true"} | BROWSER)["Content-Type"].startswith("text/plain")


def test_a_server_error_names_its_line_in_the_log(db, monkeypatch, caplog):
    def fail(*given):
        raise RuntimeError("the secret cause")

    viewer = person("viewer", permissions=["view_apikey"])
    viewer.raise_request_exception = False
    monkeypatch.setattr("vbs.accounts.pages.key_page.build", fail)
    monkeypatch.setattr("vbs.accounts.pages.key_views.key_page.build", fail)
    answer = viewer.get("/system/keys", headers=BROWSER)
    is_page(answer, 500, "Server error", "err_")
    assert "the secret cause" not in text(answer) and "the secret cause" in caplog.text
    assert '<nav aria-label="Pages">' in text(answer) and "Sign out" in text(answer)


def test_a_page_that_cannot_be_shown_is_a_line():
    """As without the manifest of static files."""
    broken = {"staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"}}
    with override_settings(STORAGES=broken, DEBUG=False):
        answer = Client(headers=BROWSER).get("/nothing")
    assert answer.status_code == 404 and text(answer) == "404 Not found\n"


def test_no_queries(db, django_assert_num_queries):
    with django_assert_num_queries(0):
        is_page(Client(headers=BROWSER).get("/nothing"), 404)


def test_who_has_signed_in_keeps_the_navigation(db):
    viewer = person("viewer")
    for path, status in (("/nothing", 404), ("/batches/batch_none/", 404), ("/system/people", 403)):
        answer = viewer.get(path, headers=BROWSER)
        is_page(answer, status)
        page = text(answer)
        assert '<nav aria-label="Pages">' in page and "Sign out" in page and viewer.user.username in page
        assert "/playground/" not in page, "which a viewer may not open"


def test_without_the_database_the_page_has_no_navigation(db, monkeypatch):
    def fails(*given):
        raise OperationalError("the connection is lost")

    viewer = person("viewer")
    monkeypatch.setattr("vbs.http.error_pages.viewer_of", fails)
    answer = viewer.get("/nothing", headers=BROWSER)
    is_page(answer, 404)
    assert "Sign out" not in text(answer)
