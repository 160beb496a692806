"""A page that is asked for with a slash too many or too few is found, and nobody is led elsewhere by that."""

from urllib.parse import unquote

import pytest
from django.test import Client

from tests.people import superuser
from tests.vbs.pages.test_every_action import PAGES

ADDRESSES = sorted(
    {address for _, address, _ in PAGES} | {"/login", "/docs", "/help/", "/admin/", "/admin/auth/user/", "/config"}
)
JSON = {"Accept": "application/json"}


def toggled(address):
    return address.rstrip("/") if address.endswith("/") else f"{address}/"


def ask(client, address, method="get", **query):
    """As it is: the client would take what follows on `//` for a host."""
    return getattr(client, method)("/", query or None, PATH_INFO=unquote(address))


@pytest.mark.parametrize("address", [one for one in ADDRESSES if one != "/"])
def test_every_page(address, db):
    root = superuser()
    many = (f"{address.rstrip('/')}///", address.replace("/", "//"))
    if address.startswith("/admin/"):
        many = ()  # Django takes what follows on the name of a model for the key of an object
    for asked in (toggled(address), f"/{address}", *many):
        for method in ("get", "head"):
            answer = ask(root, asked, method, a="b c", next="//evil.example")
            if method == "head" and answer.status_code == 405:
                continue  # it would be the page of a batch called `new`, which takes GET alone
            assert (answer.status_code, answer.headers.get("Location")) == (
                302, f"{address}?a=b+c&next=%2F%2Fevil.example",
            ), asked  # fmt: skip
        assert ask(root, asked, "post").status_code in (403, 404, 405), "a form is not sent elsewhere"


@pytest.mark.parametrize("address", [
    "//evil.example", "//evil.example/", "///evil.example/models", "/\\evil.example", "/%5Cevil.example/",
    "/models//evil.example", "//evil.example/%2e%2e/models", "/batches/%0d%0aSet-Cookie:a=b//",
    "/batches/\\/evil.example",
])  # fmt: skip
def test_nobody_is_led_elsewhere(address, db):
    answer = ask(Client(headers={"Accept": "text/html"}), address)
    where = answer.headers.get("Location", "/")
    assert answer.status_code in (302, 404) and where.startswith("/") and not where.startswith(("//", "/\\"))
    assert "\n" not in where and "Set-Cookie" not in answer.headers


def test_what_is_no_page_is_not_found(db):
    for address in ("/nothing/", "//nothing", "/static//vbs.css", "/models/1/nothing/"):
        assert ask(Client(), address).status_code == 404, address


def test_what_is_too_long_is_not_found(db):
    assert ask(Client(), "/models", a="b" * 7_000).status_code == 302
    for length in (8_000, 20_000):
        assert ask(Client(), "/models", a="b" * length).status_code == 404


def test_programs_are_told_and_not_led(db):
    for address in ("//v1/models", "/models", "/queue//"):
        answer = ask(Client(headers=JSON), address)
        assert answer.status_code == 404 and answer.json()["error"]["code"] == "unknown_route"
