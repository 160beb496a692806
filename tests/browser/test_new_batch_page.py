"""A new batch in Chromium: a file is dropped, mended in the page, and run."""

import json
import re

import pytest
from playwright.sync_api import expect

from tests.engines import line

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
NEW = "/batches/new"

DROP = """([name, content]) => {
  const data = new DataTransfer();
  data.items.add(new File([content], name));
  for (const kind of ["dragenter", "dragover", "drop"])
    document.querySelector(".drop label").dispatchEvent(
      new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer: data }));
}"""


def drop(page, content, name="in.jsonl"):
    page.evaluate(DROP, [name, content])


def test_drop_mend_and_create(vbs, sign_in):
    vbs.add_scripted("dropped")
    page = sign_in()
    page.goto(f"{NEW}?way=file")
    page.evaluate("window.same = true")
    good, bad = (json.dumps(line(name, "x" * 100_000, model="dropped")) for name in ("a", "b"))
    short = json.dumps(line("c", model="nobody"))
    drop(page, f"{good}\n{bad[:-1]}\n{short}\n")
    expect(page.locator("#result")).to_contain_text("2 of 3 requests are wrong")
    page.get_by_text("More options").click()
    page.get_by_label("Metadata key 1", exact=True).fill("team")
    page.get_by_label("Line 3").fill(short.replace("nobody", "dropped"))
    page.get_by_role("button", name="Check again").click()
    expect(page.locator("#result")).to_contain_text("1 of 3 requests is wrong")
    page.get_by_role("button", name="Leave out the 1 bad line").click()
    expect(page.locator("#result")).to_contain_text("Nothing is wrong: 2 requests can run")
    expect(page.get_by_label("Metadata key 1", exact=True)).to_have_value("team")
    page.get_by_text("More options").click()
    page.get_by_label("Metadata value 1", exact=True).fill("search")
    page.get_by_label("Priority").fill("5")
    assert page.evaluate("window.same"), "nothing was loaded anew"
    page.get_by_role("button", name="Create batch").click()
    page.wait_for_url(re.compile(r"/batches/batch_\w+/$"))


def settled(page):
    """Until htmx listens to what it has put in place, some 20 ms later: nobody types as fast."""
    expect(page.locator(".htmx-added, .htmx-request")).to_have_count(0)


def test_the_keyboard_alone(vbs, sign_in):
    vbs.add_scripted("typed")
    page = sign_in(viewport={"width": 360, "height": 740})
    page.goto(f"{NEW}?way=file&model=typed")
    page.get_by_role("button", name="Use the sample").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#result")).to_contain_text("Nothing is wrong: 3 requests")
    settled(page)
    page.get_by_text("More options").press("Enter")
    page.get_by_label("Endpoint").select_option("/v1/embeddings")
    expect(page.locator("#result")).to_contain_text("3 of 3 requests are wrong")
    settled(page)
    page.get_by_text("More options").press("Enter")
    page.get_by_label("Endpoint").select_option("/v1/chat/completions")
    expect(page.locator("#result")).to_contain_text("Nothing is wrong")
    assert page.evaluate("document.documentElement.scrollWidth <= 360"), "it fits a narrow screen"
    page.get_by_role("button", name="Create batch").focus()
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/batches/batch_\w+/$"))


def test_without_scripts(vbs, sign_in):
    vbs.add_scripted("without")
    page = sign_in(allow=("422",), java_script_enabled=False)
    page.goto(NEW)
    content = f"prompt,model\n{'x' * 1000},without\n,without\n".encode()
    page.locator("#file").set_input_files({"name": "t.csv", "mimeType": "text/csv", "buffer": content})
    page.get_by_role("button", name="Continue").click()
    expect(page.locator(".first-rows")).to_contain_text("without")
    page.get_by_role("button", name="Create batch").click()
    expect(page.locator("#result")).to_contain_text("1 of 2 requests is wrong")
    page.get_by_role("button", name="Leave out the 1 bad row").click()
    page.get_by_role("button", name="Create batch").click()
    page.wait_for_url(re.compile(r"/batches/batch_\w+/$"))


def test_what_is_said_to_who_does_not_see(vbs, sign_in):
    vbs.add_scripted("said")
    page = sign_in()
    page.goto(NEW)
    drop(page, "{oops\n")
    expect(page.locator("#said")).to_have_text("1 of 1 requests is wrong.")
    expect(page.locator("#said")).to_have_role("status")


def test_what_is_too_large(vbs, sign_in):
    vbs.add_scripted("small")
    page = sign_in(allow=["413"])
    page.goto(NEW)
    page.evaluate("document.querySelector('.drop').dataset.most = 5")
    drop(page, "prompt\nhello\n", "t.csv")
    expect(page.locator("#file-error")).to_contain_text("t.csv has")
    page.evaluate("document.querySelector('.drop').dataset.most = 500")
    refusal = {"error": {"message": "The request body has 9 bytes; it takes at most 5."}}
    page.route("**/check", lambda route: route.fulfill(status=413, json=refusal))
    drop(page, "prompt\nhello\n", "t.csv")
    expect(page.locator("#file-error")).to_contain_text("it takes at most 5")
    expect(page.locator("#messages p")).to_have_count(0)
