"""What may be done by an address is guarded there, whatever the pages show: every address of every page is tried."""

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from vbs.accounts import roles
from vbs.accounts.models import Project
from vbs.pages.access import PERMISSION

EXAMPLES = {"int": "1", "str": "batch_1", "path": "a/b", "slug": "a", "uuid": "12345678-1234-5678-1234-567812345678"}
FOR_ALL = {"login", "logout", "project"}  # what a viewer may post to


def patterns(resolver=None, before=""):
    for one in (resolver or get_resolver()).url_patterns:
        if isinstance(one, URLResolver):
            if one.app_name != "admin":
                yield from patterns(one, before + str(one.pattern))
        elif isinstance(one, URLPattern):
            yield one, before + str(one.pattern)


def addresses():
    """Of every page: its name, an address of it, and the permission that it takes."""
    for pattern, route in patterns():
        view = pattern.callback
        if hasattr(view, PERMISSION):
            address = "/" + route
            for name, converter in pattern.pattern.converters.items():
                kind = type(converter).__name__.removesuffix("Converter").lower()
                kind = {"string": "str"}.get(kind, kind)
                address = address.replace(f"<{kind}:{name}>", EXAMPLES[kind]).replace(f"<{name}>", EXAMPLES[kind])
            yield pattern.name, address, getattr(view, PERMISSION)


PAGES = sorted(set(addresses()))


def someone(role):
    user = User.objects.create_user(role)
    if role in roles.ROLES:
        roles.assign(user, role)
    Project.objects.get_or_create(name="one")[0].members.add(user)
    client = Client(raise_request_exception=False)
    client.force_login(user)
    return client


def test_there_are_pages():
    assert len(PAGES) >= 15


@pytest.mark.parametrize(("name", "address", "permission"), PAGES)
def test_nobody_gets_in_without_signing_in(db, name, address, permission):
    for method in ("get", "post"):
        answer = getattr(Client(), method)(address)
        assert answer.status_code == 405 or (
            answer.status_code == 302 and answer.headers["Location"].startswith("/login")
        ), (method, answer.status_code)


@pytest.mark.parametrize(("name", "address", "permission"), [one for one in PAGES if one[0] not in FOR_ALL])
def test_a_viewer_changes_nothing(db, name, address, permission):
    viewer = someone("viewer")
    assert viewer.post(address).status_code in (403, 405)


@pytest.mark.parametrize(("name", "address", "permission"), [one for one in PAGES if one[2]])
def test_what_takes_a_permission_is_refused_without_it(db, name, address, permission):
    without = someone("nobody")
    assert without.get(address).status_code in (403, 405)
    assert without.post(address).status_code in (403, 405)
    assert any(made(role).has_perm(permission) for role in roles.ROLES), f"no role may do {permission}"


def made(role):
    if not User.objects.filter(username=role).exists():
        someone(role)
    return User.objects.get(username=role)
