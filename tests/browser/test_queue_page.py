"""The page of the queue in Chromium: what comes, moves and is held, without a reload."""

import pytest
from playwright.sync_api import expect

from tests.live import line

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


def test_hold_the_queue_change_its_order_and_let_it_go_on(vbs, sign_in):
    vbs.add_scripted("queued", **{"latency-ms": 200, "max-num-seqs": 2})
    page = sign_in()
    page.goto("/queue/")
    expect(page.get_by_role("heading", name="The queue is empty")).to_be_visible()
    page.evaluate("window.same = true")
    page.get_by_role("link", name="Pause the queue").click()
    page.get_by_label("Why").fill("new disks")
    page.get_by_role("button", name="Pause the queue").click()
    expect(page.locator("#hold")).to_contain_text("new disks")
    page.evaluate("window.same = true")
    first, last = (vbs.create([line(f"{n}", model="queued") for n in range(200)]) for _ in range(2))
    rows = page.locator("#waiting tbody tr")
    expect(rows).to_have_count(2, timeout=20_000)
    expect(rows.first).to_have_id(f"row-{first.id}")
    page.locator(f"#row-{last.id}").get_by_role("button", name="Raise the priority of").click()
    expect(rows.first).to_have_id(f"row-{last.id}")
    page.locator(f"#row-{last.id}").get_by_role("link", name="Set the priority of").click()
    page.get_by_label("From -100 to 100").fill("-7")
    page.get_by_role("button", name="Set the priority").click()
    expect(rows.first).to_have_id(f"row-{first.id}")
    expect(page.locator("#messages")).to_contain_text("has priority -7")
    page.evaluate("window.same = true")
    for width in (360, 760, 1280):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.get_by_role("button", name="Resume the queue").click()
    running = page.locator("#running")
    expect(running).to_contain_text("Running on queued", timeout=30_000)
    expect(running.locator(f"a[href='/batches/{first.id}/']")).to_be_visible(timeout=30_000)
    expect(running).to_contain_text("requests/s", timeout=30_000)
    page.set_viewport_size({"width": 360, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate("window.same"), "nothing was loaded anew"
    for batch in (first, last):
        vbs.client.batches.cancel(batch.id)
    expect(page.get_by_role("heading", name="The queue is empty")).to_be_visible(timeout=30_000)
