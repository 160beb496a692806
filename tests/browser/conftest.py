"""A real Chromium before a whole vbs. Where there is none, these tests are skipped, but not in CI.

While Playwright runs, its thread has a running event loop, and `asyncio.run` refuses: so it ends with this package.
"""

import os
import shutil

import pytest
from axe_playwright_python.sync_playwright import Axe

from models_registry.hub.scripted import ScriptedHub, serving
from tests.live import live
from tests.models_registry.hubs import repository

PASSWORD = "of the tests"
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


# One of each role in project one, an operator of project two, and somebody without any role.
PEOPLE = f"""
from django.contrib.auth.models import User
from vbs.accounts import roles
from vbs.accounts.models import Project
for name, role, project in (
    ("viewer", "viewer", "one"), ("operator", "operator", "one"), ("admin", "admin", "one"),
    ("stranger", "operator", "two"),
):
    user = User.objects.create_user(name, password={PASSWORD!r})
    roles.assign(user, role)
    Project.objects.get(name=project).members.add(user)
User.objects.create_user("looker", password={PASSWORD!r})
"""


@pytest.fixture(scope="package")
def chromium():
    path = shutil.which("chromium")
    if path is None:
        reason = "There is no chromium on this machine: apt-get install chromium"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def hub(tmp_path_factory):
    """A hub with one model, org/tiny, that takes some seconds to fetch."""
    hub = ScriptedHub(tmp_path_factory.mktemp("hub"))
    hub.rate = 1_000_000
    repository(hub, size=4_000_000)
    with serving(hub):
        yield hub


@pytest.fixture(scope="package")
def vbs(chromium, hub):
    with live(DJANGO_SUPERUSER_PASSWORD=PASSWORD, VBS_HUB_URL=hub.url, NO_PROXY="127.0.0.1") as running:
        running.manage("createsuperuser", "--noinput", "--username", "root", "--email", "root@example.com")
        running.manage("shell", "-v0", "-c", PEOPLE)
        yield running


def barriers(page):
    """What keeps people out, as axe-core sees it: its serious and critical findings."""
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        f"{one['id']}: {one['help']}: {node['html'][:200]} ({node['failureSummary'][:300]})"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"][:3]
    ]


@pytest.fixture
def sign_in(chromium, vbs):
    """A page of somebody's own, after signing in as they would. Whatever a page complains of fails the test."""
    contexts, complaints = [], []

    def sign_in(name="root", allow=(), at="/models/", **options):
        context = chromium.new_context(base_url=vbs.stack.url, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console",
            lambda said: (
                complaints.append(said.text)
                if said.type == "error" and not any(word in said.text for word in allow)
                else None
            ),
        )
        page.goto(at)
        page.get_by_label("Username").fill(name)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(f"**{at}")
        return page

    yield sign_in
    for context in contexts:
        context.close()
    assert complaints == []
