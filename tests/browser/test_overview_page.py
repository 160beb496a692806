"""The first page and the help as somebody uses them: changes come by themselves, and recipes can be copied."""

import pytest
from playwright.sync_api import expect

from tests.live import line

pytestmark = pytest.mark.browser


def test_a_batch_comes_and_ends_before_our_eyes(vbs, sign_in):
    page = sign_in()
    page.goto("/")
    expect(page.locator("#connection")).to_have_attribute("data-state", "live")
    vbs.add_scripted("for-the-overview")
    batch = vbs.run([line(str(number), model="for-the-overview") for number in range(20)])
    ended = page.locator("#ended")
    expect(ended.locator(f"a[href='/batches/{batch.id}/']")).to_be_visible()
    expect(ended).to_contain_text("20 answered")
    expect(page.locator("#day canvas")).to_have_count(2)


@pytest.mark.parametrize("address", ["/", "/help/", "/help/start", "/help/api", "/help/?q=batch"])
def test_a_narrow_screen_needs_no_scrolling_sideways(sign_in, address):
    page = sign_in(viewport={"width": 360, "height": 800}, color_scheme="dark")
    page.goto(address)
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_a_recipe_is_copied(vbs, sign_in):
    page = sign_in(permissions=["clipboard-read", "clipboard-write"])
    page.goto("/help/")
    page.get_by_role("button", name="Copy: Models").click()
    expect(page.get_by_role("button", name="Copy: Models")).to_have_text("Copied")
    assert f"{vbs.stack.url}/v1/models" in page.evaluate("navigator.clipboard.readText()")


def test_a_document_is_found_and_read(sign_in):
    page = sign_in()
    page.goto("/help/")
    page.get_by_label("Search the documents").fill("cleanup")
    page.get_by_role("button", name="Search").click()
    page.get_by_role("link", name="Removing").click()
    expect(page.get_by_role("heading", name="Removing")).to_be_in_viewport()
