"""The history of batches in Chromium: filters without a reload, and rows that follow what becomes of a batch."""

import re

import pytest
from playwright.sync_api import expect

from tests.live import line

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


def test_filters_and_new_batches_without_a_reload(vbs, sign_in):
    vbs.add_scripted("history")
    first = vbs.run([line("a", model="history")], metadata={"team": "search"})
    page = sign_in()
    page.goto("/batches/")
    expect(page.locator(f"#row-{first.id}")).to_contain_text("1 of 1")
    expect(page.locator("#connection[data-state=live]")).to_be_visible()
    page.evaluate("window.same = true")

    second = vbs.run([line("a", model="history"), line("b", model="history")], metadata={"team": "ads"})
    expect(page.locator("tbody tr").first).to_have_id(f"row-{second.id}")
    expect(page.locator(f"#row-{second.id}")).to_contain_text("2 of 2")

    page.get_by_label("Name, metadata, id").fill("sear")
    page.get_by_role("button", name="Filter").click()
    expect(page.locator(f"#row-{second.id}")).to_have_count(0)
    expect(page).to_have_url(re.compile(r"/batches/\?words=sear$"))
    expect(page.locator("#connection[data-state=live]")).to_be_visible()

    third = vbs.run([line("a", model="history")], metadata={"team": "search"})
    expect(page.locator(f"#row-{third.id}")).to_contain_text("1 of 1")
    assert page.locator(f"#row-{second.id}").count() == 0, "what is pushed is what is asked for now"
    page.get_by_label("State").select_option("failed")
    expect(page.get_by_text("No batch matches")).to_be_visible()
    assert page.evaluate("window.same"), "nothing was loaded anew"
    page.reload()
    expect(page.get_by_label("State")).to_have_value("failed")


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_screen(vbs, sign_in, width):
    vbs.add_scripted(f"{'wide' * 12}{width}")
    vbs.run([line("a", model=f"{'wide' * 12}{width}")], metadata={"long": "w" * 500})
    page = sign_in(viewport={"width": width, "height": 800})
    page.goto("/batches/")
    expect(page.locator("tbody tr").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
