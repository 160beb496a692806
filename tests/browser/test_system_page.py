"""The pages of the system in a real browser: live, with dialogs, and without a complaint."""

import os
import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]


def shot(page, name):
    """For whoever wants to look: VBS_SHOTS names a folder."""
    if folder := os.environ.get("VBS_SHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def fits(page):
    return page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_workers_restart_and_logs(sign_in):
    page = sign_in(viewport={"width": 1200, "height": 900})
    page.goto("/system/")
    expect(page.locator(".worker")).to_have_count(3)
    expect(page.locator("#connection")).to_have_attribute("data-state", "live")
    shot(page, "workers")
    old = page.locator("article[aria-label^='Worker gpu']").get_attribute("id")
    page.get_by_role("link", name=re.compile("Restart worker gpu@")).click()
    expect(page.get_by_role("dialog")).to_contain_text("nothing is interrupted")
    shot(page, "restart")
    page.get_by_role("dialog").get_by_role("button", name="Restart the worker").click()
    expect(page.locator("#messages")).to_contain_text("restarts within")
    new = page.locator(f"article[aria-label^='Worker gpu']:not(#{old})")
    expect(new).to_be_visible(timeout=60_000)
    expect(page.locator(f"#{old}")).to_have_count(0)
    page.get_by_role("link", name="Logs", exact=True).click()
    page.get_by_label("Log of").select_option("gpu")
    expect(page.locator("#lines")).to_contain_text("a restart was asked for")
    shot(page, "log")
    page.set_viewport_size({"width": 360, "height": 800})
    for address in ("/system/", "/system/log?of=gpu", "/system/disk", "/system/settings"):
        page.goto(address)
        shot(page, f"narrow-{address.split('/')[-1].partition('?')[0] or 'workers'}")
        assert fits(page), address


def test_a_setting(sign_in):
    page = sign_in(viewport={"width": 1200, "height": 900}, color_scheme="dark")
    page.goto("/system/settings")
    shot(page, "settings")
    page.get_by_role("link", name="Change VBS_MAX_WAIT_MINUTES").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("VBS_MAX_WAIT_MINUTES").fill("12")
    shot(page, "change")
    dialog.get_by_role("button", name="Save").click()
    expect(page.locator("#setting-VBS_MAX_WAIT_MINUTES")).to_contain_text("set here")
    page.get_by_role("link", name="Reset VBS_MAX_WAIT_MINUTES").click()
    page.get_by_role("dialog").get_by_role("button", name="Reset the setting").click()
    expect(page.locator("#setting-VBS_MAX_WAIT_MINUTES")).not_to_contain_text("set here")
