"""Every page in Chromium: light and dark, phone and wide, as each role. Nothing keeps people out, nothing spills.

With VBS_SCREENSHOTS=folder the pictures of the documentation are drawn there, with VBS_SHOTS=folder those of all pages.
"""

import os
import re
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.amount import few
from tests.browser.conftest import barriers
from tests.live import line
from vbs.places import BASE_DIR

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

NO_PAGE = re.compile(r"download|/results|/output|/errors|\.jsonl|\.csv")
HOSTILE = "<script>alert(1)</script> \x1b[31mred\x1b[0m \u202edesrever\u202c"
PHONE, WIDE = {"width": 390, "height": 844}, {"width": 1280, "height": 860}
PICTURES = {
    name
    for path in (BASE_DIR / "README.md", *(BASE_DIR / "docs").glob("*.md"))
    for name in re.findall(r"screenshots/([\w-]+\.png)", path.read_text())
}


@pytest.fixture(scope="module")
def addresses(vbs):
    """Of a server that has been at work for a while: what to look at, by name."""
    vbs.add_scripted("scripted", **{"latency-ms": 2})
    vbs.add_scripted("slow", **{"latency-ms": 4000, "max-num-seqs": 8})
    lines = [line(f"ask-{n}", f"What is {n} + {n}?") for n in range(60)]
    lines[7] = line("hostile", HOSTILE)
    lines[9] = line("refused", "[[status 400]]")
    done = vbs.run(lines, metadata={"job": "zanzibar", "note": HOSTILE.replace("\x1b", "")})
    failed = vbs.run([line("a"), {"custom_id": "b"}, line("a", HOSTILE)])
    running = vbs.create([line(f"slow-{n}", model="slow") for n in range(4000)])  # longer than all tests take
    waiting = [vbs.create([line("w", model="scripted")], extra_body={"priority": n}) for n in (-10, 0)]
    vbs.wait(running, until={"in_progress"})
    script = "from models_registry.models import Model; from vbs.accounts.models import Project; "
    script += "from django.contrib.auth.models import User; "
    script += "print(Model.objects.get(name='scripted').pk, User.objects.get(username='viewer').pk, "
    script += "Project.objects.get(name='one').pk)"
    model, person, project = vbs.manage("shell", "--verbosity=0", "-c", script).split()[-3:]
    person = f"/system/people/{person}/"
    yield {
        "overview": "/",
        "queue": "/queue/",
        "batches": "/batches/",
        "batches-filtered": "/batches/?words=zanzibar",
        "batch-done": f"/batches/{done.id}/",
        "batch-failed": f"/batches/{failed.id}/",
        "batch-running": f"/batches/{running.id}/",
        "batch-waiting": f"/batches/{waiting[0].id}/",
        "batch-cancel": f"/batches/{running.id}/cancel",
        "batch-name": f"/batches/{running.id}/name",
        "queue-pause": "/queue/pause",
        "requests": f"/batches/{done.id}/requests",
        "requests-found": f"/batches/{done.id}/requests?words=what",
        "request": f"/batches/{done.id}/requests/8",
        "request-refused": f"/batches/{done.id}/requests/10",
        "request-playground": f"/batches/{done.id}/requests/8/playground",
        "new-batch": "/batches/new",
        "new-batch-file": "/batches/new?way=file",
        "new-batch-prompts": "/batches/new?way=prompts",
        "models": "/models/",
        "model": f"/models/{model}/",
        "playground": "/playground/",
        "system": "/system/",
        "system-log": "/system/log?still",
        "system-disk": "/system/disk",
        "settings": "/system/settings",
        "setting": "/system/settings/VBS_RETENTION_DAYS",
        "keys": "/system/keys",
        "people": "/system/people",
        "person": person,
        "person-password": f"{person}password",
        "project": f"/system/projects/{project}/",
        "audit": "/system/audit",
        "help": "/help/",
        "help-found": "/help/?q=queue",
        "help-api": "/help/api",
        "help-operations": "/help/operations",
        "help-settings": "/help/settings",
        "help-parts": "/help/parts",
        "docs": "/docs",
    }
    vbs.client.batches.cancel(running.id)


def look(page, name, form):
    """What is wrong with what is shown."""
    page.wait_for_timeout(300)  # for what is asked for once the page is there
    found = [f"{name} ({form}): {one}" for one in barriers(page)]
    spill = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    if spill > 1:
        found.append(f"{name} ({form}): {spill} px too wide")
    draw(page, f"{name}-{form}.png")
    return found


def draw(page, name):
    """The pictures that the documents show, for them; or all whole pages, for whoever wants to look."""
    if (folder := os.environ.get("VBS_SCREENSHOTS")) and name in PICTURES:
        picture = Path(folder) / name
        picture.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=picture)
        Image.open(picture).quantize(128).save(picture, optimize=True)
    if folder := os.environ.get("VBS_SHOTS"):
        page.screenshot(path=Path(folder) / name, full_page=True)


def test_barriers_are_found(sign_in):
    page = sign_in(at="/help/")
    page.evaluate("document.querySelector('main').innerHTML = '<button></button><img src=\"data:,\">'")
    assert len(barriers(page)) == 2


@pytest.mark.parametrize(
    ("form", "options"),
    few(
        [
            ("phone", {"viewport": PHONE, "color_scheme": "light"}),
            ("dark", {"viewport": WIDE, "color_scheme": "dark"}),
            ("light", {"viewport": WIDE, "color_scheme": "light"}),
        ],
        first=2,
    ),
)
def test_every_page_can_be_used_by_everybody(sign_in, addresses, form, options):
    page = sign_in(**options)
    wrong = []
    for name, address in addresses.items():
        answer = page.goto(address, wait_until="load")
        if answer.status != 200:
            wrong.append(f"{name}: {address} answers {answer.status}")
            continue
        assert page.locator("h1").count() == 1, name
        wrong += look(page, name, form)
    assert wrong == [], "\n".join(wrong)


@pytest.mark.parametrize("role", ["viewer", "operator", "admin", "stranger"])
def test_what_each_role_is_shown_can_be_opened(sign_in, addresses, role):
    """Every link of every page leads somewhere that this role may see."""
    page = sign_in(role, allow=("404", "403"))
    opened, wrong = {}, []
    for address in addresses.values():
        if page.goto(address).status != 200:
            continue
        for link in page.locator("a[href]").all():
            href = (link.get_attribute("href") or "").partition("#")[0]
            if href.startswith("/") and href not in opened and not NO_PAGE.search(href):
                opened[href] = page.request.get(href).status
                if opened[href] >= 400:
                    wrong.append(f"{role}: {address} links to {href}, which answers {opened[href]}")
    assert wrong == [] and len(opened) > 5


def test_a_stranger_sees_nothing_of_another_project(sign_in, addresses):
    page = sign_in("stranger", allow=("404", "403"))
    for name, address in addresses.items():
        status = page.goto(address).status
        shown = page.locator("body").inner_text()
        if name.startswith(("batch-", "request")):
            assert status == 404, name
        assert "zanzibar" not in shown and "ask-1" not in shown, name


@pytest.mark.parametrize("form", ["light", "dark"])
def test_what_is_shown_before_signing_in_and_when_something_is_wrong(chromium, vbs, sign_in, form):
    """Errors have the navigation of whoever has signed in."""
    context = chromium.new_context(base_url=vbs.stack.url, color_scheme=form, viewport=PHONE)
    outside, wrong = context.new_page(), []
    for name, address in (("login", "/login"), ("admin-login", "/admin/"), ("not-found-outside", "/nothing")):
        outside.goto(address)
        wrong += look(outside, name, form)
    outside.goto("/admin/")
    assert outside.url.endswith("/login?next=/admin/")
    outside.goto("/login")
    outside.get_by_label("Username").fill("nobody")
    outside.get_by_label("Password").fill("wrong")
    outside.get_by_role("button", name="Sign in").click()
    expect(outside.locator(".message.error")).to_be_visible()
    wrong += look(outside, "login-refused", form)
    context.close()
    page = sign_in("viewer", allow=("404", "403"), color_scheme=form, viewport=WIDE)
    for name, address, status in (
        ("not-found", "/nothing", 404), ("forbidden", "/system/people", 403),
        ("no-batch", "/batches/batch_none/", 404),
    ):  # fmt: skip
        assert page.goto(address).status == status
        assert page.get_by_role("navigation", name="Pages").get_by_role("link", name="Batches").count() == 1, name
        wrong += look(page, name, form)
    page.goto("/queue/")
    page.evaluate(
        "document.querySelectorAll('[name=csrfmiddlewaretoken]').forEach((one) => (one.value = 'x'.repeat(64)))"
    )
    page.locator("form[action='/logout'] button").click()
    expect(page.locator("h1")).to_have_text("The form is too old")
    assert page.get_by_role("navigation", name="Pages").count() == 1
    wrong += look(page, "too-old", form)
    assert wrong == [], "\n".join(wrong)


def test_what_is_shown_only_once(sign_in):
    """A key and a generated password, and what is said when their form is sent again."""
    page = sign_in("admin", viewport=WIDE, color_scheme="dark", at="/system/keys")
    page.get_by_label("Name", exact=True).fill("for a picture")
    page.get_by_role("button", name="Create key").click()
    expect(page.locator("#secret")).to_contain_text("sk-vbs-")
    wrong = look(page, "key-made", "dark")
    page.reload()
    expect(page.locator("#messages")).to_contain_text("made its key already")
    expect(page.locator("#keys")).to_contain_text("for a picture")
    page.goto("/system/people")
    page.get_by_label("Name to sign in with").fill("vera")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.locator("#secret")).to_be_visible()
    wrong += look(page, "password-made", "dark")
    page.reload()
    expect(page.locator("#messages")).to_contain_text("This form was sent before")
    assert page.locator("tbody th", has_text="vera").count() == 1
    assert wrong == [], "\n".join(wrong)
