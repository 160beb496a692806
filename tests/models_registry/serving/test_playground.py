"""The playground asks as the API does: signed in, for a project of one's own, within the same limits and books."""

import asyncio

import pytest
from django.test import Client

from models_registry.models import InteractiveUsage
from models_registry.serving import forward
from tests.engines import until
from tests.models_registry.serving.conftest import Exchange, chat, stats
from tests.people import person
from vbs.accounts.models import Project

TOKEN = "a" * 32


class Browser:
    """Somebody who is signed in, and has been shown a page."""

    def __init__(self, web, client, project):
        self.web, self.project = web, project
        self.cookies = f"sessionid={client.cookies['sessionid'].value}; csrftoken={TOKEN}"

    def begin(self, body, route="/chat/completions", project=None, token=TOKEN):
        project = self.project if project is None else project
        headers = {"cookie": self.cookies, "x-csrftoken": token}
        return Exchange(
            f"/playground/ask?endpoint=/v1{route}&project={getattr(project, 'pk', project)}", body, headers
        ).start()

    def ask(self, *given, **named):
        async def whole():
            exchange = self.begin(*given, **named)
            await exchange.task
            return exchange

        return self.web.run(whole)


@pytest.fixture
def browser(web, project):
    return Browser(web, person("operator", project), project)


def test_an_answer_is_streamed_and_counts_for_the_project(browser, web, served, project):
    served(**{"token-ms": 5})
    answer = browser.ask(chat(stream=True, stream_options={"include_usage": True}))
    assert answer.status == 200 and answer.headers["content-type"].startswith("text/event-stream")
    *chunks, usage, done = answer.events()
    assert done == "[DONE]" and usage["usage"]["completion_tokens"] == 3
    assert "".join(one["choices"][0]["delta"]["content"] for one in chunks) == "one two three"
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    forward.ledger.write()
    row = InteractiveUsage.objects.get()
    assert (row.project, row.model, row.requests, row.output_tokens) == (project, "scripted", 1, 3)


def test_errors_are_worded_as_by_the_api(browser, web, served):
    served()
    for body, route in (
        (chat(max_tokens=0), "/chat/completions"), (chat(model="nobody"), "/chat/completions"), (b"{", "/completions"),
        ({"model": 1}, "/embeddings"), ({"model": "scripted", "input": "a", "background": True}, "/responses"),
    ):  # fmt: skip
        here, there = browser.ask(body, route), web.ask(route, body)
        assert here.status == there.status >= 400 and here.json() == there.json()
    assert browser.ask(chat(), "/files").json()["error"]["code"] == "unknown_route"


def test_the_limit_of_the_project_holds(browser, served, settings):
    served()
    settings.VBS_MAX_INTERACTIVE = 0
    answer = browser.ask(chat())
    assert answer.status == 429 and answer.json()["error"]["code"] == "rate_limit_exceeded"


def test_a_browser_that_stops_frees_the_place(browser, web, served):
    gpu = served(**{"max-num-seqs": 1})

    async def conversation():
        hanging = browser.begin(chat("[[hang]]", stream=True))
        await hanging.came.wait()
        await asyncio.to_thread(until, lambda: stats(gpu)["running"] == 1)
        hanging.leave()
        await hanging.task
        again = browser.begin(chat())
        await again.task
        return again.status

    assert web.run(conversation) == 200
    assert stats(gpu)["aborted"] == 1 and len(forward.in_flight) == 0


def test_only_for_projects_of_ones_own(browser, served):
    served()
    other = Project.objects.create(name="other people's")
    for project in (other, 0, "", "x", "1" * 30, "٣"):
        answer = browser.ask(chat(), project=project)
        assert (answer.status, answer.json()["error"]["param"]) == (404, "project"), project
    assert not InteractiveUsage.objects.exists()


def test_not_from_other_pages_and_not_without_the_right(browser, web, served, project):
    served()
    assert browser.ask(chat(), token="b" * 32).status == 403
    assert Browser(web, person("viewer", project), project).ask(chat()).status == 403
    signed_out = Browser.__new__(Browser)
    signed_out.web, signed_out.project, signed_out.cookies = web, project, f"csrftoken={TOKEN}"
    answer = signed_out.ask(chat())
    assert answer.status == 302 and answer.headers["location"].startswith("/login")
    assert Client().get("/playground/").status_code == 302
