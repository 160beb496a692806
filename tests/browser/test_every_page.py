"""Every page in Chromium: light and dark, phone and wide, as each role. Nothing keeps people out, nothing spills.

With VBS_SCREENSHOTS=folder the pictures of the documentation are drawn there.
"""

import os
import re
from pathlib import Path

import pytest
from PIL import Image

from tests.amount import few
from tests.browser.conftest import barriers
from tests.live import line

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

NO_PAGE = re.compile(r"download|/results|/output|/errors|\.jsonl|\.csv")
HOSTILE = "<script>alert(1)</script> \x1b[31mred\x1b[0m \u202edesrever\u202c"
PHONE, WIDE = {"width": 380, "height": 800}, {"width": 1280, "height": 860}


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
    yield {
        "overview": "/",
        "queue": "/queue/",
        "batches": "/batches/",
        "batches-filtered": "/batches/?words=zanzibar",
        "batch-done": f"/batches/{done.id}/",
        "batch-failed": f"/batches/{failed.id}/",
        "batch-running": f"/batches/{running.id}/",
        "batch-waiting": f"/batches/{waiting[0].id}/",
        "requests": f"/batches/{done.id}/requests",
        "requests-found": f"/batches/{done.id}/requests?words=what",
        "request": f"/batches/{done.id}/requests/8",
        "request-refused": f"/batches/{done.id}/requests/10",
        "request-playground": f"/batches/{done.id}/requests/8/playground",
        "new-batch": "/batches/new",
        "models": "/models/",
        "playground": "/playground/",
        "system": "/system/",
        "settings": "/system/settings",
        "keys": "/system/keys",
        "people": "/system/people",
        "audit": "/system/audit",
        "help": "/help/",
        "help-api": "/help/api",
        "help-parts": "/help/parts",
    }
    vbs.client.batches.cancel(running.id)


def look(page, name, form):
    """What is wrong with what is shown."""
    page.wait_for_timeout(300)  # for what is asked for once the page is there
    found = [f"{name} ({form}): {one}" for one in barriers(page)]
    spill = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    if spill > 1:
        found.append(f"{name} ({form}): {spill} px too wide")
    if folder := os.environ.get("VBS_SCREENSHOTS"):
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        picture = path / f"{name}-{form}.png"
        page.screenshot(path=picture)
        Image.open(picture).quantize(128).save(picture, optimize=True)
    return found


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
