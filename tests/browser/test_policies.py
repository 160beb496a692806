"""The admin and the page of the API work although scripts that are not ours do not run in them."""

import re

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.browser


def test_the_admin_works_under_the_policy(vbs, sign_in):
    """What a policy refuses is an error in the console, which fails the test."""
    page = sign_in("root", at="/admin/")
    for path in ("auth/user/", "auth/group/1/change/", "models_registry/model/", "batches/batch/?status__exact=failed"):
        page.goto(f"/admin/{path}")
        expect(page.locator("#content")).to_be_visible()
    page.goto("/admin/accounts/project/add/")
    expect(page.locator("#id_members_to")).to_be_visible()  # which a script makes of one field
    page.get_by_label("Name:").fill("by hand")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator(".messagelist")).to_contain_text("by hand")


def test_the_page_of_the_api_works_under_the_policy(vbs, sign_in):
    page = sign_in("root", at="/")
    page.goto("/docs")
    page.get_by_role("navigation", name="In the API").get_by_role("link", name="Batches").click()
    create = page.get_by_role("article", name="Create a batch")
    create.get_by_text("Body as application/json").click()
    expect(create.get_by_role("region", name="Body").first).to_contain_text("input_file_id")
    copy = create.locator("[data-copies]").first  # its name changes when it is clicked
    copy.click()
    expect(copy).to_have_text(re.compile("Copied|Selected"))
