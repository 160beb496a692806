"""The page of models in Chromium, as a new user would try it."""

import re

import pytest
from playwright.sync_api import expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


def row(page, name):
    return page.locator("tr", has=page.get_by_role("link", name=name, exact=True))


def test_load_test_measure_unload_without_a_reload(vbs, sign_in):
    vbs.add_scripted("first", **{"latency-ms": 5})
    page = sign_in()
    page.evaluate("window.same = true")
    shown = row(page, "first")
    expect(shown).to_contain_text("not measured")
    shown.get_by_role("button", name="Load first").click()
    expect(page.locator("#messages")).to_contain_text("first will be loaded.")
    expect(shown.locator(".state.loaded")).to_be_visible(timeout=30_000)
    expect(page.locator("#machines")).to_contain_text("first is loaded")
    shown.get_by_role("button", name="Benchmark first").click()
    expect(shown).to_contain_text("requests/s", timeout=60_000)
    expect(shown.get_by_role("button", name="Unload first")).to_be_visible()
    assert page.evaluate("window.same"), "nothing was loaded anew"

    shown.get_by_role("link", name="first", exact=True).click()
    page.evaluate("window.same = true")
    page.get_by_label("Question").fill("Say <b>this</b> back")
    page.get_by_role("button", name="Test", exact=True).click()
    expect(page.locator(".answer")).to_have_text("Say <b>this</b> back", timeout=30_000)
    expect(page.locator("#measured canvas").first).to_be_visible()
    expect(page.get_by_role("region", name="Runs")).to_contain_text("benchmark")
    page.evaluate("window.same = true")
    page.get_by_label("Question").fill("half a thou")
    page.get_by_role("button", name="Unload first").click()
    expect(page.locator(".summary .state.loaded")).to_have_count(0, timeout=30_000)
    expect(page.get_by_label("Question")).to_have_value("half a thou")
    assert page.evaluate("window.same")
    log = page.locator(".operation").first.locator(".log")
    expect(log).to_contain_text("first is unloaded.")
    log.evaluate("it => (it.style.maxHeight = '30px')")
    below = "it => [it.scrollHeight, it.clientHeight, it.lastElementChild.getBoundingClientRect().bottom - "
    whole, shown, hidden = log.evaluate(below + "it.getBoundingClientRect().bottom]")
    assert whole > shown and abs(hidden) < 3, "its end is what is seen first"


def test_looking_on_keeps_focus_and_what_is_open(vbs, sign_in):
    vbs.add_scripted("second", **{"latency-ms": 5})
    vbs.add_scripted("third")
    page = sign_in()
    button = row(page, "second").get_by_role("button", name="Test second")
    button.focus()
    page.get_by_label("Add a model").fill("org/half-ty")
    button.focus()
    page.keyboard.press("Enter")
    expect(row(page, "second").locator(".state.loaded")).to_be_visible(timeout=30_000)
    expect(page.get_by_label("Add a model")).to_have_value("org/half-ty")
    vbs.manage("model", "alias", "@seen", "third")
    expect(row(page, "third")).to_contain_text("@seen", timeout=15_000)
    vbs.add_scripted("another")
    expect(row(page, "another")).to_be_visible(timeout=15_000)


def test_paste(vbs, sign_in):
    vbs.add_scripted("taken")
    page = sign_in(allow=("422",))
    field = page.get_by_label("Add a model")
    field.fill("what model shall I take?")
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("#add .error")).to_contain_text("no model is named here")
    expect(field).to_have_value("what model shall I take?")

    field.fill("vllm serve http://127.0.0.1:9/v1 --served-model-name taken --middleware evil.Thing")
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("#add")).to_contain_text("middleware")
    expect(page.get_by_label("Key", exact=True)).to_have_attribute("type", "password")
    expect(page.get_by_label("Notes")).to_be_hidden()
    page.locator("summary", has_text="Advanced").click()
    page.get_by_label("Notes").fill("<script>alert(1)</script>")
    page.get_by_label("Name", exact=True).fill("<script>alert(2)</script>")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.locator("#add")).to_contain_text("<script>alert(2)</script>' cannot be a model's name")
    page.get_by_label("Name", exact=True).fill("taken")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.locator("#add")).to_contain_text("there is a model taken already")
    page.get_by_label("Name", exact=True).fill("free")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.locator("#add")).to_contain_text("127.0.0.1")  # not public
    expect(page.get_by_label("Notes")).to_have_value("<script>alert(1)</script>")

    page.goto("/models/")
    page.get_by_label("Add a model").fill("https://huggingface.co/org/some-model")
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_label("Id on the hub")).to_have_value("org/some-model")
    expect(page.locator("#plan .message")).to_contain_text("org/some-model")
    page.get_by_role("button", name="Add and fetch").click()
    expect(page.locator("#add .fields > .message.error")).to_contain_text("org/some-model")
    expect(page.locator("tr", has_text="some-model")).to_have_count(0)


def test_fetch_pause_resume_with_a_bar_that_moves(vbs, sign_in):
    page = sign_in()
    page.get_by_label("Add a model").fill("org/tiny")
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("#plan")).to_contain_text("4 MiB in")
    expect(page.locator("#plan")).to_contain_text("apache-2.0")
    page.get_by_role("button", name="Add and fetch").click()
    page.wait_for_url(re.compile(r"/models/\d+/$"))
    expect(page.locator("#messages")).to_contain_text("tiny is added, and being fetched.")
    bar = page.locator(".summary progress")
    expect(bar).to_have_attribute("value", re.compile("[1-9]"), timeout=15_000)
    page.get_by_role("button", name="Pause tiny").click()
    page.get_by_role("button", name="Resume tiny").click()
    expect(page.locator(".summary .state.unchecked")).to_be_visible(timeout=30_000)
    page.goto("/models/")
    row(page, "tiny").scroll_into_view_if_needed()
    expect(row(page, "tiny").locator("[id^=fit-]")).not_to_contain_text("ask")


def test_names_changes_and_removal(vbs, sign_in):
    vbs.add_scripted("passing")
    page = sign_in()
    page.get_by_role("link", name="passing", exact=True).click()
    page.get_by_label("New alias").fill("@passing")
    page.get_by_role("button", name="Add alias").click()
    expect(page.locator(".names")).to_contain_text("@passing")
    page.locator("details > summary", has_text="Edit").click()
    page.get_by_label("Notes").fill("<img src=x onerror=alert(1)>")
    page.get_by_label("Engine options").fill('{"latency-ms": 9}')
    page.get_by_role("button", name="Save").click()
    expect(page.locator(".notes")).to_have_text("<img src=x onerror=alert(1)>")
    page.get_by_role("link", name=re.compile("Remove passing")).click()
    expect(page.get_by_text("alias @passing")).to_be_visible()
    expect(page.get_by_role("button", name="Remove")).to_be_disabled()
    page.get_by_role("link", name="Cancel").click()
    page.get_by_role("button", name="Remove the alias @passing").click()
    page.get_by_role("link", name=re.compile("Remove passing")).click()
    page.get_by_role("button", name="Remove").click()
    expect(page.locator("#messages")).to_contain_text("passing is removed.")
    expect(page.locator("#table")).not_to_contain_text("passing")


def test_without_scripts_the_buttons_still_work(vbs, sign_in):
    vbs.add_scripted("plain")
    page = sign_in(java_script_enabled=False)
    row(page, "plain").get_by_role("button", name="Load plain").click()
    expect(page.locator("#messages")).to_contain_text("plain will be loaded.")
    page.get_by_label("Add a model").fill("org/model")
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_label("Id on the hub")).to_have_value("org/model")


def test_who_may_only_look(vbs, sign_in):
    vbs.add_scripted("watched")
    page = sign_in("looker", allow=("403",))
    expect(row(page, "watched")).to_be_visible()
    expect(page.locator("main button")).to_have_count(0)
    address = row(page, "watched").get_by_role("link").get_attribute("href")
    token = page.locator("body").get_attribute("hx-headers")
    status = page.evaluate(
        """([address, headers]) => fetch(address + "act", {
            method: "POST", headers: JSON.parse(headers), body: new URLSearchParams({do: "load"})
        }).then((answer) => answer.status)""",
        [address, token],
    )
    assert status == 403


def test_a_session_that_has_ended_leads_to_signing_in(vbs, sign_in):
    page = sign_in(allow=("403",))
    expect(page.locator("#connection")).to_have_attribute("data-state", "live")
    vbs.manage(
        "shell", "-v0", "-c", "from django.contrib.sessions.models import Session; Session.objects.all().delete()"
    )
    page.wait_for_url("**/login?next=/models/", timeout=60_000)
