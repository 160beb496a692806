"""The page of a batch in Chromium: answers and progress come by themselves, and what is chosen of them stays chosen."""

import re
import time

import pytest
from playwright.sync_api import expect

from tests.live import line

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


@pytest.fixture(scope="module", autouse=True)
def models(vbs):
    vbs.add_scripted("answers", **{"latency-ms": 400, "max-num-seqs": 4})


def test_answers_come_and_what_is_chosen_stays(vbs, sign_in):
    lines = [line(f"ask-{n}", f"What is {n}?", model="answers") for n in range(60)]
    lines[2] = line("ask-2", "[[status 400]]", model="answers")
    batch = vbs.create(lines, extra_body={"name": "reviews of March"})
    page = sign_in("operator", at=f"/batches/{batch.id}/")
    expect(page.locator("h1")).to_contain_text("reviews of March")
    page.evaluate("window.same = true")
    expect(page.locator("#head .state")).to_have_text("running", timeout=30_000)
    expect(page).to_have_title(re.compile(r"^\d+ % · reviews of March · vbs$"))
    expect(page.locator("#line-1")).to_contain_text("What is 0?")
    expect(page.locator("#line-1 .state")).to_have_text("completed", timeout=30_000)

    page.locator("#tabs").get_by_role("link", name=re.compile("^Failed")).click()
    expect(page.locator("#answers tbody tr")).to_have_count(1)
    expect(page).to_have_url(re.compile(r"/\?state=failed$"))
    expect(page.locator("#failures")).to_contain_text("1 failed")
    expect(page.locator("#head .state")).to_have_text("completed", timeout=60_000)
    expect(page).to_have_title("completed · reviews of March · vbs")
    expect(page.locator("#answers tbody tr")).to_have_count(1)
    assert page.evaluate("window.same"), "nothing was loaded anew"
    page.reload()
    expect(page.locator("#answers tbody tr")).to_have_count(1)

    page.locator("#tabs").get_by_role("link", name=re.compile("^All")).click()
    page.get_by_role("link", name="Later lines").click()
    expect(page.locator("#answers tbody tr").first).to_have_id("line-21")


def test_it_is_renamed_and_what_was_not_run_is_run(vbs, sign_in):
    batch = vbs.create([line(f"{n}", model="answers") for n in range(500)])
    page = sign_in("operator", at=f"/batches/{batch.id}/")
    page.get_by_role("link", name="Rename").click()
    page.get_by_role("dialog").get_by_label("Name").fill("another name")
    page.get_by_role("dialog").get_by_role("button", name="Rename").click()
    expect(page.locator("h1")).to_contain_text("another name")
    vbs.client.batches.cancel(batch.id)
    page.get_by_role("button", name=re.compile(r"^Run the \d+ rows not run$")).click(timeout=60_000)
    page.wait_for_url(lambda url: batch.id not in url and "/batches/batch_" in url)
    expect(page.locator("h1")).to_contain_text("another name")
    vbs.client.batches.cancel(page.url.rstrip("/").split("/")[-1])


def test_requests_are_found_stepped_through_copied_and_run_again(vbs, sign_in):
    batch = vbs.run(
        [line(f"ask-{n}", f"What about {'kettles' if n % 20 == 3 else n}?", model="answers") for n in range(60)]
    )
    options = {"permissions": ["clipboard-read", "clipboard-write"]}
    page = sign_in("operator", at=f"/batches/{batch.id}/", **options)
    deadline = time.monotonic() + 90  # the upkeep's minute, where the end of the batch came in a busy one
    while True:
        page.get_by_label("In prompts and answers").fill("kettl")
        page.get_by_role("button", name="Search").click()
        expect(page).to_have_url(re.compile(r"\?words=kettl"))
        if page.locator("#answers mark").count() == 6:  # the scripted engine answers with the prompt
            break
        assert time.monotonic() < deadline
    rows = page.locator("#answers tbody tr")
    expect(rows).to_have_count(3)
    page.keyboard.press("j")
    expect(page.get_by_role("link", name="ask-3", exact=True)).to_be_focused()
    page.keyboard.press("j")
    page.keyboard.press("k")
    page.keyboard.press("j")
    expect(page.get_by_role("link", name="ask-23", exact=True)).to_be_focused()
    page.keyboard.press("Enter")
    page.wait_for_url("**/requests/24?words=kettl")
    page.keyboard.press("j")
    page.wait_for_url("**/requests/44?words=kettl")
    page.keyboard.press("k")
    page.wait_for_url("**/requests/24?words=kettl")

    page.get_by_role("button", name="Copy as curl").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith(f"curl -s {vbs.stack.url}/v1/chat/completions") and "What about kettles?" in copied

    page.get_by_role("button", name="Run again").click()
    page.wait_for_url(lambda url: batch.id not in url and "/batches/batch_" in url)
    expect(page.locator("#head .state")).to_have_text("completed", timeout=60_000)
    again = page.url
    page.reload()
    assert page.url == again
    expect(page.locator("#answers tbody tr")).to_have_count(1)
    expect(page.locator("#line-1")).to_contain_text("ask-23")


def test_keys_go_on_to_the_next_page_of_rows(vbs, sign_in):
    batch = vbs.run([line(f"{n}", model="answers") for n in range(55)])
    page = sign_in("operator", at=f"/batches/{batch.id}/requests?after=49")
    page.keyboard.press("k")
    expect(page.locator("#line-55 a")).to_be_focused()
    page.goto(f"/batches/{batch.id}/requests")
    page.locator("#line-50 a").focus()
    page.keyboard.press("j")
    expect(page.locator("#line-51 a")).to_be_focused()
    page.keyboard.press("k")
    expect(page.locator("#line-50 a")).to_be_focused()


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_screen(vbs, sign_in, width):
    lines = [line("c" * 500, "p" * 5000, model="answers"), line("b", "[[status 400]] " + "w" * 300, model="answers")]
    batch = vbs.run(lines, extra_body={"name": "n" * 200})
    page = sign_in(viewport={"width": width, "height": 800}, at=f"/batches/{batch.id}/")
    expect(page.locator("#line-1")).to_be_visible()
    for summary in page.locator("details.card > summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
