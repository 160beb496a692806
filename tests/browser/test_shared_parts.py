"""What every page has, as somebody uses it: messages that end, times of the reader's own, jumping, and charts."""

import pytest
from playwright.sync_api import expect

from tests.live import line

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def batches(vbs):
    """One that has ended and one that runs."""
    vbs.add_scripted("of-the-parts", **{"latency-ms": 2})
    vbs.add_scripted("slow-of-the-parts", **{"latency-ms": 500, "max-num-seqs": 8})
    done = vbs.run([line(f"{n}", model="of-the-parts") for n in range(20)], metadata={"job": "quetzal"})
    running = vbs.create([line(f"{n}", model="slow-of-the-parts") for n in range(4000)])
    vbs.wait(running, until={"in_progress"}, done=40)
    yield done, running
    vbs.client.batches.cancel(running.id)


def test_a_message_ends_but_not_while_it_is_pointed_at(sign_in):
    page = sign_in(at="/")
    page.clock.install()
    page.goto("/queue/pause")
    page.get_by_role("button", name="Pause the queue").click()
    message = page.locator("#messages .message")
    expect(message).to_contain_text("The queue is paused")
    message.hover()
    page.clock.run_for(60_000)
    expect(message).to_be_visible()
    page.mouse.move(5, 5)
    page.clock.run_for(60_000)
    expect(message).to_have_count(0)
    page.goto("/queue/")
    page.get_by_role("button", name="Resume").click()
    expect(message).to_contain_text("The queue is resumed.")
    message.get_by_role("button", name="Close").click()
    expect(message).to_have_count(0)


def test_what_went_wrong_stays_until_it_is_closed(sign_in):
    page = sign_in(at="/", allow=("404",))
    page.clock.install()
    page.evaluate("htmx.ajax('GET', '/batches/batch_none/cancel', {target: '#dialog'})")
    message = page.locator("#messages .message.error")
    expect(message).to_contain_text("not there any more")
    page.clock.run_for(120_000)
    expect(message).to_be_visible()
    message.get_by_role("button", name="Close").click()
    expect(message).to_have_count(0)


def test_times_are_the_readers_own(sign_in, batches):
    done, _ = batches
    page = sign_in(at="/", timezone_id="Asia/Tokyo")
    page.goto(f"/batches/?words={done.id}")
    made = page.locator("time").first
    expect(made).to_have_text("just now")
    at = page.evaluate(f"new Date({done.created_at * 1000}).toTimeString().slice(0, 5)")
    assert f" {at}:" in made.get_attribute("title") and made.get_attribute("title").endswith("Asia/Tokyo")


def test_without_scripts_they_are_in_utc(sign_in, batches):
    done, _ = batches
    page = sign_in(at="/", java_script_enabled=False)
    page.goto(f"/batches/?words={done.id}")
    expect(page.locator("main time").first).to_contain_text(" UTC")
    page.goto(f"/batches/{done.id}/")
    page.locator("#speed summary").first.click()
    expect(page.locator("#speed table").first).to_be_visible()
    expect(page.locator("#speed .help").first).to_contain_text("requests/s")


@pytest.mark.parametrize("key", ["/", "Control+k"])
def test_jumping_by_keys(sign_in, batches, key):
    done, _ = batches
    page = sign_in(at="/models/")
    page.keyboard.press(key)
    box = page.get_by_role("combobox", name="Jump to a batch, a model, a page or a document")
    expect(box).to_be_focused()
    option = page.locator("#jump").get_by_role("option")
    expect(option.first).to_be_visible()
    page.keyboard.type("quetz")
    expect(option).to_have_count(1)
    expect(option).to_contain_text("Batch")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/batches/{done.id}/")
    page.keyboard.press(key)
    box.fill("que")
    expect(page.get_by_role("option", name="Queue Page")).to_be_visible()
    page.keyboard.press("ArrowUp")
    expect(page.locator("[role=option][aria-selected=true]")).to_have_count(1)
    page.keyboard.press("Escape")
    expect(box).not_to_be_visible()


def test_a_slash_in_a_text_is_a_slash(sign_in):
    page = sign_in(at="/batches/")
    words = page.get_by_label("Name, metadata, id")
    words.press("/")
    expect(words).to_have_value("/")
    expect(page.locator("#jump")).not_to_be_visible()


def test_a_chart_tells_values_zooms_and_goes_on_with_its_zoom(sign_in, batches):
    _, running = batches
    page = sign_in(at="/", viewport={"width": 390, "height": 800})
    page.goto(f"/batches/{running.id}/")
    chart = page.locator("#chart-requests-per-second")
    over = chart.locator(".u-over")
    expect(over).to_be_visible()
    over.hover()
    expect(chart.locator(".u-legend")).to_contain_text("completed")
    expect(chart.locator(".u-legend .u-value").nth(1)).not_to_have_text("–")
    before = page.evaluate("window.plot = document.querySelector('#chart-requests-per-second .uplot'), 0")
    box = over.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 20, steps=5)
    page.mouse.up()
    chart.locator("summary").click()
    seen = page.locator("#speed input[name=seen]").get_attribute("value")
    page.wait_for_function("seen => document.querySelector('#speed input[name=seen]').value !== seen", arg=seen)
    assert page.evaluate("window.plot === document.querySelector('#chart-requests-per-second .uplot')")
    expect(chart.locator("table").last).to_be_visible()
    assert before == 0 and page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_who_is_in_no_project_sees_whom_to_ask(vbs, sign_in):
    page = sign_in("looker", at="/", allow=("404",))
    expect(page.locator("main > .message.warning")).to_contain_text("You are in no project yet.")
    expect(page.locator("main > .message.warning")).to_contain_text("admin")
    page.goto("/nothing")  # as the page of an error has it


def test_the_admin_is_found_under_system(sign_in):
    page = sign_in("root", at="/system/")
    page.get_by_role("link", name="Database admin").click()
    expect(page.locator("#site-name")).to_contain_text("Database admin")
