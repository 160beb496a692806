"""The whole story as an operator lives it: a bad line, a batch and its answers, a retry, a restart in between."""

import os
import re
import signal

import openpyxl
import orjson
import pytest
from playwright.sync_api import expect

from tests.live import line

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


def jsonl(lines):
    return b"".join(one if isinstance(one, bytes) else orjson.dumps(one) + b"\n" for one in lines)


def drop(page, name, content):
    """Drop a file on the page, as from a file manager."""
    transfer = page.evaluate_handle(
        """([name, text]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([text], name, {type: "application/jsonl"}));
            return transfer;
        }""",
        [name, content.decode()],
    )
    page.dispatch_event(".drop", "dragover", {"dataTransfer": transfer})
    page.dispatch_event(".drop", "drop", {"dataTransfer": transfer})


def link(page, batch_id):
    return page.locator(f"main a[href='/batches/{batch_id}/']").first


def create(page, name, content, **fields):
    """From an empty page to the page of the new batch."""
    page.goto("/batches/new")
    drop(page, name, content)
    expect(page.locator("#result")).to_contain_text("Nothing is wrong")
    for label, value in fields.items():
        page.get_by_label(label).fill(value)
    page.get_by_role("button", name="Create batch").click()
    page.wait_for_url(re.compile(r"/batches/batch_\w+/$"))
    return page.url


@pytest.fixture(scope="module", autouse=True)
def models(vbs):
    vbs.add_scripted("quick", **{"latency-ms": 2})
    vbs.add_scripted("steady", **{"latency-ms": 300, "max-num-seqs": 4})


def test_drop_mend_watch_read_and_retry(vbs, sign_in, tmp_path):
    page = sign_in("operator", allow=("422",), at="/")
    page.get_by_role("navigation", name="Pages").get_by_role("link", name="Batches").click()
    page.get_by_role("link", name="New batch").first.click()
    page.wait_for_url("**/batches/new")

    counter = tmp_path / "times"
    lines = [line(f"ask-{n}", f"What is {n} + {n}?", model="quick") for n in range(200)]
    lines[3] = b'{"custom_id": "ask-3", "method": "POST"}\n'
    lines[5] = line("ask-5", f"[[status-times 500 9 {counter}]] Again?", model="quick")
    drop(page, "questions.jsonl", jsonl(lines))
    result = page.locator("#result")
    expect(result).to_contain_text("1 of 200 requests is wrong")
    expect(result.locator(".wrong-lines > li")).to_have_count(1)
    expect(result.locator(".wrong-lines label")).to_have_text("Line 4")
    expect(page.get_by_role("button", name="Create batch")).to_be_disabled()
    mended = orjson.dumps(line("ask-3", "<b>bold</b> & plain?", model="quick")).decode()
    page.get_by_label("Line 4").fill(mended)
    page.get_by_role("button", name="Check again").click()
    expect(result).to_contain_text("Nothing is wrong: 200 requests can run.")
    page.get_by_role("button", name="Create batch").click()
    page.wait_for_url(re.compile(r"/batches/batch_\w+/$"))

    page.evaluate("window.same = true")
    expect(page.locator("#head .state")).to_have_text(re.compile("completed", re.I), timeout=60_000)
    expect(page.locator("#bar")).to_contain_text("100 % of 200")
    expect(page.locator("#log")).to_contain_text("Completed: 199 completed, 1 failed.")
    expect(page).to_have_title("completed · questions · vbs")
    expect(page.locator("#failures")).to_contain_text("1 failed")
    assert page.evaluate("window.same"), "it was watched without a reload"

    with page.expect_download() as downloaded:
        page.get_by_role("link", name="Excel", exact=True).click()
    downloaded.value.save_as(tmp_path / "results.xlsx")
    head, *rows = openpyxl.load_workbook(tmp_path / "results.xlsx").worksheets[0].iter_rows(values_only=True)
    assert head[:4] == ("custom_id", "prompt", "answer", "status") and len(rows) == 200
    assert rows[3][:4] == ("ask-3", "<b>bold</b> & plain?", "<b>bold</b> & plain?", "completed")
    assert rows[5][3] == "failed" and rows[5][4]

    first = page.url
    page.get_by_label("In the custom_id").fill("ask-3")
    page.get_by_role("button", name="Search").click()
    expect(page.locator("#answers tbody tr")).to_have_count(11)  # also ask-30 to ask-39
    page.get_by_role("link", name="ask-3", exact=True).click()
    expect(page.locator("h1")).to_have_text("ask-3")
    expect(page.locator(".exchange")).to_have_count(2)
    for side in page.locator(".exchange").all():
        expect(side).to_contain_text("<b>bold</b> & plain?")

    page.goto(first)
    page.get_by_role("button", name="Run the 1 failed row").click()
    page.wait_for_url(lambda url: url != first and "/batches/batch_" in url)
    expect(page.locator("#bar")).to_contain_text("of 1", timeout=60_000)
    expect(page.locator("#head .state")).to_have_text(re.compile("completed", re.I), timeout=60_000)


def test_cancel_one_and_restart_the_worker_in_the_middle_of_another(vbs, sign_in):
    page = sign_in("operator", at="/batches/")
    going = create(page, "going.jsonl", jsonl(line(f"go-{n}", model="steady") for n in range(150)))
    waiting = create(page, "waiting.jsonl", jsonl(line(f"wait-{n}", model="quick") for n in range(10)))

    page.goto("/queue/")
    for address in (going, waiting):
        expect(link(page, address.split("/")[-2])).to_be_visible()
    page.goto(waiting)
    page.get_by_role("link", name="Cancel", exact=True).click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    dialog.get_by_role("link", name="Keep the batch").click()
    expect(dialog).not_to_be_visible()
    page.get_by_role("link", name="Cancel", exact=True).click()
    dialog.get_by_role("button").first.click()
    expect(page.locator("#head .state")).to_have_text(re.compile("cancelled", re.I), timeout=30_000)

    page.goto("/system/")
    gpu = page.locator("article.worker", has_text="Running")
    expect(gpu).to_have_count(1, timeout=30_000)
    pid = re.search(r"pid (\d+)", gpu.locator("h3").inner_text())[1]
    gpu.get_by_role("link", name=re.compile("^Restart worker gpu")).click()
    expect(dialog).to_contain_text(going.split("/")[-2])
    dialog.get_by_role("button").first.click()
    expect(page.locator("main")).not_to_contain_text(f"pid {pid},", timeout=60_000)
    page.goto(going)
    expect(page.locator("#head .state")).to_have_text(re.compile("completed", re.I), timeout=120_000)
    expect(page.locator("#bar")).to_contain_text("100 % of 150")
    page.goto("/batches/")
    expect(page.locator("main")).to_contain_text("cancelled")


def test_by_keyboard_alone(vbs, sign_in):
    """Sign in, find the way to a new batch, take the example, and create it: without a mouse."""
    page = sign_in("operator", at="/", viewport={"width": 1280, "height": 900})

    def press_until(wanted, key="Tab", most=80):
        for _ in range(most):
            page.keyboard.press(key)
            shown = page.evaluate(
                "(document.activeElement.labels?.[0]?.innerText || document.activeElement.innerText || '').trim()"
            )
            if re.search(wanted, shown):
                outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                assert outline != "none", f"the focus on {shown!r} is not seen"
                return
        raise AssertionError(f"{wanted!r} is not reached by {most} × {key}")

    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    press_until("^Batches$")
    page.keyboard.press("Enter")
    page.wait_for_url("**/batches/")
    press_until("^New batch$")
    page.keyboard.press("Enter")
    page.wait_for_url("**/batches/new")
    press_until("^Try it with an example$")
    page.keyboard.press("Enter")
    expect(page.locator("#preview")).to_contain_text("Boils fast")
    press_until("^Model$")
    page.keyboard.type("quick")
    press_until("^Create batch$")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/batches/batch_\w+/$"))
    expect(page.locator("#head .state")).to_have_text(re.compile("completed", re.I), timeout=60_000)


def test_on_a_phone(vbs, sign_in):
    page = sign_in("operator", at="/", viewport={"width": 380, "height": 780}, has_touch=True, is_mobile=True)
    page.get_by_role("link", name="Batches").first.tap()
    page.wait_for_url("**/batches/")
    address = create(page, "phone.jsonl", jsonl(line(f"p-{n}", model="quick") for n in range(5)))
    page.goto(address)
    expect(page.locator("#head .state")).to_have_text(re.compile("completed", re.I), timeout=60_000)
    for address in ("/", "/queue/", "/batches/", page.url, "/system/", "/help/"):
        page.goto(address)
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth + 1"), (
            address
        )


def test_a_socket_that_is_cut_is_polled_for_and_comes_back(vbs, sign_in):
    page = sign_in("operator", allow=("WebSocket", "ERR_"), at="/batches/")
    cut = {"is": False}

    def refuse(route):
        if cut["is"]:
            route.close()
        else:
            sockets.append(route.connect_to_server())
            pages.append(route)

    sockets, pages = [], []
    page.route_web_socket(re.compile("/live"), refuse)
    page.goto("/batches/")
    state = page.locator("#connection")
    expect(state).to_have_attribute("data-state", "live")
    cut["is"] = True
    for one in pages:
        one.close()
    expect(state).to_have_attribute("data-state", "polling")
    one = vbs.create([line("while-cut", model="quick")])
    expect(link(page, one.id)).to_be_visible(timeout=20_000)
    cut["is"] = False
    expect(state).to_have_attribute("data-state", "live", timeout=40_000)
    two = vbs.create([line("afterwards", model="quick")])
    expect(link(page, two.id)).to_be_visible(timeout=5_000)


def test_a_server_that_hangs_is_told(vbs, sign_in):
    page = sign_in("operator", allow=("WebSocket", "ERR_"), at="/queue/")
    state = page.locator("#connection")
    expect(state).to_have_attribute("data-state", "live")
    web = vbs.pids()["web"]
    os.kill(web, signal.SIGSTOP)
    try:
        expect(state).to_have_attribute("data-state", "offline", timeout=60_000)
        expect(state).to_contain_text("The server cannot be reached")
    finally:
        os.kill(web, signal.SIGCONT)
    expect(state).to_have_attribute("data-state", "live", timeout=60_000)
