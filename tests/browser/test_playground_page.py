"""The playground in Chromium, with an engine that answers word by word with what it was asked."""

import json
import re

import pytest
from playwright.sync_api import expect

from models_registry.engine import control, server
from tests.browser.conftest import barriers
from tests.engines import line, until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
MARKUP = "<img src=x onerror=alert(1)> <b>bold</b>"


@pytest.fixture(scope="module")
def said(vbs):
    """A batch that has run on the engine, which stays loaded; it goes by two names."""
    vbs.add_scripted("speaker", **{"token-ms": 40})
    vbs.manage("model", "alias", "@speaker", "speaker")
    vbs.add_scripted("elsewhere")
    lines = [
        line("first", "the first question", "speaker", temperature=0.25, user="x"),
        line("other", MARKUP, "speaker"),
    ]
    return vbs.run(lines)


@pytest.fixture
def playground(said, sign_in):
    page = sign_in("operator", at="/playground/", allow=("400", "503"))
    page.set_viewport_size({"width": 1280, "height": 900})
    return page


def stats(vbs):
    engine = server.read_state(vbs.stack.data / "run" / "gpu")
    return json.loads(control.request(engine.address, "GET", "/stats")[1])


def reply(page, name, turn=-1):
    return page.locator(".turn").nth(turn).get_by_label(f"Answer of {name}", exact=True)


def choose(page, *names):
    for name in names:
        page.locator(f"[name=model][value='{name}']").check()


def test_two_models_side_by_side(playground):
    page = playground
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("alert")).to_have_text("Choose a model.")
    choose(page, "speaker", "@speaker")
    page.get_by_label("System prompt").fill("Be brief.")
    page.get_by_label("Message", exact=True).fill(f"one two three four {MARKUP}")
    page.keyboard.press("Control+Enter")
    expect(reply(page, "speaker")).to_contain_text("one two")
    for name in ("speaker", "@speaker"):
        shown = reply(page, name)
        expect(shown.locator(".state")).to_have_text("completed")
        expect(shown.locator("pre")).to_have_text(f"one two three four {MARKUP}")
        facts = (
            r"first token after \d+\.\d\d s · \d+\.\d tokens/s · \d+ input tokens, \d+ output tokens · .* ended by stop"
        )
        expect(shown.locator(".facts")).to_have_text(re.compile(facts))
    left, right = (reply(page, name).bounding_box() for name in ("@speaker", "speaker"))
    assert left["y"] == right["y"] and left["x"] + left["width"] <= right["x"]
    expect(page.locator(".turn img, .turn b")).to_have_count(0)
    assert barriers(page) == []

    page.get_by_label("Message", exact=True).fill("and now")
    page.locator("#code summary").click()
    expect(page.locator("#code-line")).to_contain_text("and now")
    body = json.loads(page.locator("#code-line").inner_text())["body"]
    assert [one["role"] for one in body["messages"]] == ["system", "user", "assistant", "user"]
    assert body["messages"][2]["content"] == f"one two three four {MARKUP}" and "stream" not in body
    page.get_by_label("Message", exact=True).press("Control+Enter")
    expect(reply(page, "@speaker", 1).locator("pre")).to_have_text("and now")
    page.get_by_role("button", name="Undo the last turn").click()
    expect(page.get_by_label("Message", exact=True)).to_have_value("and now")
    expect(page.locator(".turn")).to_have_count(1)


def test_stop_frees_the_place(vbs, playground):
    page = playground
    choose(page, "speaker")
    before = stats(vbs)["aborted"]
    page.get_by_label("Message", exact=True).fill("[[words 5000]]")
    page.get_by_role("button", name="Send").click()
    expect(reply(page, "speaker").locator("pre")).to_contain_text(re.compile(r"\w+ \w+ \w+"))
    assert stats(vbs)["running"] == 1
    page.get_by_role("button", name="Stop").click()
    expect(reply(page, "speaker").locator(".state")).to_have_text("stopped")
    until(lambda: (stats(vbs)["running"], stats(vbs)["aborted"]) == (0, before + 1))
    expect(page.get_by_role("button", name="Send")).to_be_enabled()


def test_errors(playground):
    page = playground
    choose(page, "speaker")
    page.get_by_label("Message", exact=True).fill("a")
    page.get_by_text("Structured answer").click()
    page.get_by_label("JSON schema of the answer").fill("[1")
    page.get_by_label("Message", exact=True).press("Control+Enter")
    expect(page.get_by_role("alert")).to_contain_text("The schema must be JSON.")
    expect(page.get_by_label("JSON schema of the answer")).to_be_focused()
    page.get_by_label("JSON schema of the answer").fill("")
    page.get_by_label("Max tokens").fill("0")
    page.get_by_label("Message", exact=True).press("Control+Enter")
    expect(reply(page, "speaker").locator(".error")).to_contain_text("max_tokens must be at least 1, got 0")
    page.get_by_label("Max tokens").fill("")
    page.get_by_label("Message", exact=True).fill("one two three four five [[cut 3]]")
    page.get_by_label("Message", exact=True).press("Control+Enter")
    expect(reply(page, "speaker").locator(".error")).to_contain_text("ended before its answer was whole")
    expect(reply(page, "speaker").locator("pre")).to_contain_text("one two")


def test_a_request_of_a_batch(vbs, said, playground):
    page = playground
    page.goto(f"/batches/{said.id}/requests/1")
    page.get_by_role("link", name="Open in the playground").click()
    expect(page.locator("[name=model][value=speaker]")).to_be_checked()
    expect(page.get_by_label("Message", exact=True)).to_have_value("the first question")
    expect(page.get_by_label("Temperature")).to_have_value("0.25")
    page.locator("#code summary").click()
    expect(page.locator("#code-curl")).to_contain_text(f"curl -s {vbs.stack.url}/v1/chat/completions")
    expect(page.locator("#code-python")).to_contain_text("client.chat.completions.create(")
    body = json.loads(page.locator("#code-line").inner_text())["body"]
    question = {"role": "user", "content": "the first question"}
    assert body == {"model": "speaker", "user": "x", "temperature": 0.25, "messages": [question]}
    page.get_by_label("Message", exact=True).fill("another question")
    page.get_by_role("button", name="Send").click()
    expect(reply(page, "speaker").locator("pre")).to_have_text("another question")


def test_other_endpoints_and_models(vbs, playground):
    page = playground
    page.locator("#playground-models summary").click()
    expect(page.locator("#playground-models li", has_text="elsewhere")).to_contain_text("It is not loaded now.")
    choose(page, "speaker")
    page.get_by_role("button", name="Look again").click()
    expect(page.locator("[name=model][value=speaker]")).to_be_checked()
    page.get_by_label("Endpoint").select_option("/v1/embeddings")
    expect(page.get_by_label("System prompt")).to_be_hidden()
    vbs.manage("model", "edit", "speaker", "--task", "embedding")
    page.get_by_label("Message", exact=True).fill("a text")
    page.get_by_role("button", name="Send").click()
    expect(reply(page, "speaker").locator("pre")).to_contain_text('"embedding": [')
    vbs.manage("model", "edit", "speaker", "--task", "chat")
    page.get_by_label("Endpoint").select_option("/v1/completions")
    page.get_by_label("Message", exact=True).fill("a prompt")
    page.get_by_role("button", name="Send").click()
    expect(reply(page, "speaker").locator("pre")).to_have_text("a prompt")
    expect(reply(page, "speaker").locator(".facts")).to_contain_text("first token after")
    page.get_by_label("Endpoint").select_option("/v1/chat/completions")
    page.get_by_label("Message", exact=True).fill("a question")
    page.locator("#code summary").click()
    expect(page.locator("#code-line")).to_contain_text("a question")
    expect(page.locator("#code-line")).not_to_contain_text("a prompt")


def test_without_scripts_it_says_what_it_needs(said, sign_in):
    page = sign_in("operator", at="/playground/", java_script_enabled=False)
    expect(page.get_by_text("The playground needs JavaScript")).to_be_visible()
    expect(page.get_by_role("button", name="Send")).to_be_hidden()
