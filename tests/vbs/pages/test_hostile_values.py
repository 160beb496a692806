"""Nothing that anybody sends to a page is an error of ours: every page, as every role, with hostile values.

Short and seeded by default; VBS_FUZZ_ROUNDS=200 looks longer, and VBS_FUZZ_SEED at other values.
"""

import os
import random
import re
from pathlib import Path

import pytest
from django.contrib import admin
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import transaction
from django.test import Client

from tests.people import person, superuser
from tests.vbs.admin.test_admin import address, rows
from tests.vbs.pages.test_every_action import patterns
from vbs import settings as product
from vbs.accounts.models import Project
from vbs.pages.access import PERMISSION

ROUNDS = int(os.environ.get("VBS_FUZZ_ROUNDS", "2"))
SEED = int(os.environ.get("VBS_FUZZ_SEED", "20261127"))
ROLES = ("nobody", "viewer", "operator", "admin", "superuser")

DIGITS = "9" * 5000
VALUES = (
    *("", "0", "-1", "1", "2147483647", "2147483648", "-9223372036854775809", "9" * 30, DIGITS, "1e999", "nan", "1.5"),
    *("\0", "a\0b", "\ud800".encode("utf-16", "surrogatepass").decode("utf-16", "replace"), "\u0661", "x" * 100_000),
    *("foo", "/", "//evil.example/", "/login", "/login?next=/login", "javascript:alert(1)", "http://[", "../../etc"),
    *("'\"; DROP TABLE x", "%00", "%", "\\", "{}", "[]", "[" * 2000, '{"a": NaN}', "null", "true", "on", "batch_1"),
    *("2026-13-45", "0001-01-01", "9999-12-31", "24:61", "\u202e\x1b[31m", "\U0001f600", "<script>", "a,b,c"),
)
ADMIN_NAMES = ("q", "o", "p", "all", "_facets", "_popup", "_to_field", "_changelist_filters", "next", "e")
LOOKUPS = ("exact", "isnull", "in", "gte", "contains", "regex", "range", "id__exact")


def names():
    """Of every parameter that the pages read, as the code has them."""
    found = {"next", "seen", "project", "page", "format", "search"}
    for folder in ("vbs", "batches", "models_registry"):
        for path in Path(product.BASE_DIR, folder).rglob("*.py"):
            text = path.read_text()
            found |= set(re.findall(r"(?:GET|POST|query|query_params|data)(?:\.get(?:list)?\(|\[)\"(\w+)\"", text))
            if path.name.endswith("forms.py"):
                found |= set(re.findall(r"^    (\w+) = (?:forms\.|_)", text, re.MULTILINE))
    return sorted(found)


NAMES = names()


def targets():
    """Every page's address by its pattern, with what stands for the values in it."""
    pages = [route for pattern, route in patterns() if hasattr(pattern.callback, PERMISSION)]
    return sorted({*pages, "login", "logout", "admin/login/", "docs", "openapi.json"})


def fill(route, chance, real):
    """An address of it; mostly of what is there."""

    def value(match):
        kind, name = match[1], match[2]
        if chance.random() < 0.7 and name in real:
            return str(real[name])
        if kind == "int:":
            return chance.choice(["0", "1", "2147483648", "9" * 30, DIGITS])
        return chance.choice(["%00", "a%00b", "%ff", "batch_1", "-1", "9" * 30, "%e2%80%ae", "..%2f", "%0d%0a", "ü"])

    return "/" + re.sub(r"<(int:|str:|path:|slug:|uuid:)?(\w+)>", value, route)


def form(chance):
    chosen = {chance.choice(NAMES): chance.choice(VALUES) for _ in range(chance.randint(1, 5))}
    if chance.random() < 0.2:
        name = chance.choice(list(chosen))
        chosen[name] = [chance.choice(VALUES) for _ in range(3)]
    return chosen


def upload(chance):
    return SimpleUploadedFile(chance.choice(["a.jsonl", "a.csv", "\u202e", "x" * 300]), chance.choice(VALUES).encode())


def client(role, project):
    if role == "superuser":
        return superuser()
    return person("" if role == "nobody" else role, project)


def ask(who, method, at, sent):
    """The answer; what it has changed is undone."""
    what = f"seed {SEED}: {method} {at[:200]} {str(sent)[:300]}"
    with transaction.atomic():
        try:
            answer = getattr(who, method)(at, sent, headers={"HX-Request": "true"} if len(at) % 3 == 0 else {})
        except Exception as error:
            pytest.fail(f"{what}: {error!r}")
        transaction.set_rollback(True)
    assert answer.status_code < 500, what
    return answer


@pytest.fixture
def real(db):
    project = Project.objects.create(name="project")
    batch = rows(project, 1)
    return project, {"batch_id": batch.pk, "pk": 1, "line": 1}


@pytest.mark.parametrize("role", ROLES)
def test_pages(real, role, settings):
    project, there = real
    settings.VBS_HUB_URL = "http://127.0.0.1:9"  # nobody listens there
    who = client(role, project)
    cookies = who.cookies.output(header="", sep=";")
    for route in targets():
        chance = random.Random(f"{SEED} {route} {role}")
        names = there | ({"pk": who.user.pk} if "people" in route else {})
        for _ in range(ROUNDS):
            who.cookies.load(cookies)  # it may have signed out
            ask(who, "get", fill(route, chance, names), form(chance))
            sent = form(chance)
            if chance.random() < 0.2:
                sent["file"] = upload(chance)
            ask(who, "post", fill(route, chance, names), sent)


@pytest.mark.parametrize("role", ["admin", "superuser"])
def test_the_admin(real, role):
    who = client(role, real[0])
    for model in admin.site._registry:
        chance = random.Random(f"{SEED} {model._meta.label} {role}")
        fields = [field.name for field in model._meta.get_fields()]
        for _ in range(ROUNDS):
            lookup = f"{chance.choice(fields)}__{chance.choice(LOOKUPS)}"
            query = {chance.choice([lookup, *ADMIN_NAMES]): chance.choice(VALUES)}
            ask(who, "get", address(model, ""), query)
            pk = chance.choice(["%00", "_00", "9" * 30, "a%ffb", "_5F", "1"])
            page = chance.choice(["change", "delete", "history"])
            ask(who, "get", address(model, page, pk), query)
            sent = {chance.choice(fields): chance.choice(VALUES) for _ in range(3)}
            ask(who, "post", address(model, page, pk), sent)
            ask(who, "post", address(model, "add"), sent)
            action = {
                "action": chance.choice([*VALUES, "delete_selected"]),
                "_selected_action": [chance.choice(VALUES)],
            }
            ask(who, "post", address(model, ""), action)


def test_strangers(db):
    chance = random.Random(SEED)
    who = Client()
    for route in targets():
        for _ in range(3):
            ask(who, "get", fill(route, chance, {}), form(chance))
            ask(who, "post", fill(route, chance, {}), form(chance))


@pytest.mark.parametrize(
    ("method", "at", "sent"),
    [
        ("get", "/batches/{batch}/requests", {"after": DIGITS}),
        ("get", "/batches/{batch}/requests", {"before": DIGITS}),
        ("post", "/project", {"next": "foo"}),
        ("post", "/project", {"next": "foo\0"}),
        ("get", "/admin/login/", {"next": "foo"}),
        ("get", "/login", {"next": "/login"}),
        ("get", "/login", {"next": "/login?next=/login"}),
        ("get", "/login", {"next": "foo"}),
        ("get", "/admin/batches/batch/%00/change/", {}),
        ("get", "/admin/batches/batch/", {"status__exact": "\0"}),
        ("get", "/admin/batches/batch/", {"q": "\0"}),
        ("get", "/admin/models_registry/model/{model}/change/", {"_to_field": ""}),
        ("get", "/admin/auth/group/", {"name__range": "1"}),
        ("get", "/models/{model}/fit", {"context": "2147483647"}),
        ("get", "/models/{model}/fit", {"context": "2147483647", "sequences": "100000"}),
    ],
)
def test_what_was_an_error_of_ours(real, method, at, sent):
    from models_registry.models import Model

    batch = real[1]["batch_id"]
    at = at.format(batch=batch, model=Model.objects.get(name="model 1").pk)
    answer = ask(superuser(), method, at, sent)
    if "Location" in answer.headers:
        assert answer["Location"] in ("/", "/admin/")
