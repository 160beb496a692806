"""The page of a batch in Chromium: answers and progress come by themselves, and what is chosen of them stays chosen."""

import re

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


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_screen(vbs, sign_in, width):
    lines = [line("c" * 500, "p" * 5000, model="answers"), line("b", "[[status 400]] " + "w" * 300, model="answers")]
    batch = vbs.run(lines, extra_body={"name": "n" * 200})
    page = sign_in(viewport={"width": width, "height": 800}, at=f"/batches/{batch.id}/")
    expect(page.locator("#line-1")).to_be_visible()
    for summary in page.locator("details.card > summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
