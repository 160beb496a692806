"""One request's page: prompt and answer side by side, whatever they hold, for whom, and what it costs."""

import asyncio
import base64
import html
import json
import re
import shlex

import pytest
from django.test import Client
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batches.api.serializers import ENDPOINTS
from batches.exchange import answered, asked
from batches.files import blobs
from batches.intake import ingest
from batches.models import Batch, BatchStatus, File, RequestState
from batches.pages.new.beginning import beginning
from batches.pages.request import page as one
from models_registry.models import Model
from tests.batches.pages.shown import HOSTILE, HTMX, answer, chat, made, member, other, request, text
from tests.people import person
from vbs.accounts.models import Project
from vbs.configuration.models import AuditEntry
from vbs.openai import raw_json


@pytest.fixture
def project(db):
    return Project.objects.create(name="project")


@pytest.fixture
def looker(project):
    return member(project)


@pytest.fixture
def batch(project):
    """Six requests: answered, failed, pending, expired, failed, answered."""
    batch = made(project, [request(f"id-{n}", temperature=0.5) for n in range(1, 7)])
    answer(batch, 1, chat("The answer\nis yes."))
    answer(batch, 2, {"error": {"message": "too long", "code": "c"}}, RequestState.FAILED, status_code=400,
           error_code="context_length_exceeded", error_message="It has 9,000 tokens.")  # fmt: skip
    answer(batch, 4, None, RequestState.EXPIRED, status_code=None)
    answer(batch, 5, None, RequestState.FAILED, status_code=None, error_code="engine_crashed", error_message="died")
    answer(batch, 6, chat("six"))
    return batch


def url(batch, line, more=""):
    return f"/batches/{batch.pk}/requests/{line}{more}"


def content(response):
    async def whole():
        return b"".join([piece async for piece in response])

    return asyncio.run(whole()) if response.streaming else response.content


def test_prompt_and_answer_side_by_side(looker, batch):
    page = text(looker.get(url(batch, 1)))
    assert ">\nquestion of id-1</pre>" in page and ">\nThe answer\nis yes.</pre>" in page
    assert "finish reason stop" in page and "temperature" in page and "usage: prompt tokens" in page
    assert page.index('id="prompt"') < page.index('id="answer"')
    assert 'data-copies="#raw-prompt"' in page and 'data-copies="#raw-answer"' in page and "copy.js" in page


def test_of_each_line_its_own_prompt(looker, batch):
    for line in range(1, 7):
        assert f">\nquestion of id-{line}</pre>" in text(looker.get(url(batch, line)))


def test_what_went_wrong_is_said(looker, batch):
    page = text(looker.get(url(batch, 2)))
    assert "context_length_exceeded" in page and "It has 9,000 tokens." in page and "too long" in page
    assert "The engine gave no answer." in text(looker.get(url(batch, 5)))
    assert "batch_expired" in text(looker.get(url(batch, 4)))
    assert "It was not answered yet." in text(looker.get(url(batch, 3)))
    Batch.objects.update(status=BatchStatus.CANCELLED)
    assert "the batch had ended before" in text(looker.get(url(batch, 3)))


def test_to_the_next_one_and_to_the_next_that_failed(looker, batch):
    beside = {line: one.neighbours(batch, line) for line in (1, 3, 6)}
    assert beside[1] == one.Neighbours(None, 2, None, 2)
    assert beside[3] == one.Neighbours(2, 4, 2, 4)
    assert beside[6] == one.Neighbours(5, None, 5, None)
    page = text(looker.get(url(batch, 3)))
    assert f'rel="prev" href="{url(batch, 2)}"' in page and f'href="{url(batch, 4)}">Next failed' in page


# Whatever they hold


IMAGE = "data:image/png;base64," + base64.b64encode(b"x" * 5000).decode()


def test_messages_of_every_kind(looker, project):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "name": "ann", "content": [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": IMAGE}},
            {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
            {"type": "input_audio", "input_audio": {"data": "AAAA" * 1000, "format": "wav"}},
            {"type": "strange", "x": 1},
        ]},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "call_1", "function": {"name": "look", "arguments": '{"at": "it"}'}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "a cat"},
    ]  # fmt: skip
    tools = [{"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": {"type": "o"}}}]
    batch = made(project, [request("a", messages=messages, tools=tools, stop=["\n"])])
    page = text(looker.get(url(batch, 1)))
    for wanted in (
        "Be brief.", "What is this?", "image: image/png, 5 KiB", "image, by its address", "https://example.com/a.png",
        "audio: wav, 3 KiB", "strange", "tool call look", "answers the call call_1", "a cat", "named ann", "Looks.",
    ):  # fmt: skip
        assert wanted in page, wanted
    assert "<img" not in page and 'src="https://example' not in page and 'href="https://example' not in page


@pytest.mark.parametrize(
    "body, wanted",
    [
        ({"prompt": "once"}, [("prompt", "once")]),
        ({"prompt": ["a", "b"]}, [("prompt 1", "a"), ("prompt 2", "b")]),
        ({"prompt": [1, 2]}, [("prompt", "[1,2]")]),
        ({"input": [[1], [2]]}, [("input 1", "[1]"), ("input 2", "[2]")]),
        ({"input": "x", "instructions": "y"}, [("instructions", "y"), ("input", "x")]),
        ({"input": [{"role": "user", "content": [{"type": "input_text", "text": "q"}]},
                    {"type": "function_call", "name": "f", "arguments": "{}"},
                    {"type": "function_call_output", "output": "r", "call_id": "c"}, {"type": "new"}]},
         [("user", "q"), ("tool call f", "{}"), ("tool", "r"), ("new", '{\n  "type": "new"\n}')]),
        ({"messages": "not a list"}, [("message", '"not a list"')]),
        ({"messages": [1, None, {"role": 5, "content": {"a": 1}}, {"content": [2, {"type": "image_url"}]}]}, None),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "data:"}]}], "tools": 5}, None),
        ({"messages": [{"tool_calls": [None, {"function": 3}], "function_call": {"name": 1}}], "tools": [1, {}]}, None),
        ({"prompt": {"a": 1}, "input": [None, True, 1.5]}, None),
        ({}, []), ([1], None), (None, None), ("x", None),
    ],
)  # fmt: skip
def test_every_prompt_can_be_shown(body, wanted):
    side = asked(body)
    if wanted is not None:
        assert [(piece.who, piece.text) for piece in side.pieces] == wanted


@pytest.mark.parametrize(
    "body, wanted",
    [
        ({"choices": [{"message": {"role": "assistant", "content": "a", "reasoning_content": "r"}}]},
         [("assistant, reasoning", "r"), ("assistant", "a")]),
        ({"choices": [{"text": "a"}, {"text": "b"}]},
         [("choice 1: completion", "a"), ("choice 2: completion", "b")]),
        ({"data": [{"index": 0, "object": "score", "score": 0.25}]}, [("score 1", "0.25")]),
        ({"results": [{"index": 1, "document": {"text": "yes"}, "relevance_score": 0.5}, {"index": 0}]},
         [("place 1", "yes"), ("place 2", '{\n  "index": 0\n}')]),
        ({"data": [{"embedding": [0.5] * 20}]}, [("embedding 1", ", ".join(["0.5"] * 8) + ", …")]),
        ({"output": [{"type": "reasoning", "summary": [{"text": "s"}]}, {"type": "function_call", "name": "f"},
                     {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "o"}]}]},
         [("reasoning", "s"), ("tool call f", ""), ("assistant", "o")]),
        ({"error": "no"}, [("error", "no")]),
        ({"choices": [None, {}, {"message": 3}], "data": [None], "output": [None], "usage": [1], "error": {}}, None),
        ({"choices": {}, "usage": {"a": {"b": {"c": {"d": 1}}}}, "error": 5}, None),
        ({"data": [{"embedding": [None, "x"]}]}, None), ([], None), (None, None),
    ],
)  # fmt: skip
def test_every_answer_can_be_shown(body, wanted):
    side = answered(body)
    if wanted is not None:
        assert [(piece.who, piece.text) for piece in side.pieces] == wanted


WORDS = st.sampled_from(
    ["messages", "prompt", "input", "instructions", "tools", "role", "content", "type", "text", "image_url", "url",
     "input_audio", "data", "file", "format", "name", "function", "arguments", "tool_calls", "function_call", "id",
     "choices", "message", "finish_reason", "embedding", "output", "summary", "error", "usage", "reasoning",
     "reasoning_content", "refusal", "parameters", "description", "function_call_output"]
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False) | WORDS | st.sampled_from(["a", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)  # others use the machine as well
@given(JSON)
def test_any_json_can_be_shown(body):
    for side in (asked(body), answered(body)):
        for piece in side.pieces:
            assert all(isinstance(one, str) for one in (piece.who, piece.text, *piece.notes))
        assert all(isinstance(one, str) for tool in side.tools for one in (tool.name, tool.description, tool.schema))
        assert all(isinstance(one, str) for fact in side.facts for one in fact)
    text = json.dumps(body)
    assert len(beginning(text)) <= 121
    for whole in (True, False):
        assert isinstance(beginning(text[: len(text) // 2], whole), str)


def test_dimensions(looker, project):
    batch = made(project, [request("a")])
    answer(batch, 1, {"data": [{"embedding": [0.25] * 384}]})
    assert "384 dimensions" in text(looker.get(url(batch, 1)))


def test_what_others_wrote_stays_text(looker, project):
    tool = {"function": {"name": HOSTILE, "description": HOSTILE, "parameters": {HOSTILE: 1}}}
    body = {"messages": [{"role": HOSTILE, "name": HOSTILE, "content": HOSTILE}], "tools": [tool], HOSTILE: HOSTILE}
    batch = made(project, [request(HOSTILE, **body)], model_names=[HOSTILE])
    calls = [{"id": HOSTILE, "function": {"name": HOSTILE, "arguments": HOSTILE}}]
    answer(batch, 1, chat(HOSTILE, tool_calls=calls, role=HOSTILE) | {"model": HOSTILE, "usage": {HOSTILE: HOSTILE}})
    batch.requests.update(state=RequestState.FAILED, error_code=HOSTILE, error_message=HOSTILE, request_id=HOSTILE)
    page = text(looker.get(url(batch, 1)))
    assert "<script>alert" not in page and not set("\x1b\u202e") & set(page)
    assert page.count("&lt;script&gt;") >= 15
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=|<style|javascript:", page)


@pytest.mark.parametrize("line", [b"no json", b"[1, 2]", b'{"body": 5}', b'{"body": ' + b"[" * 300 + b"]" * 300 + b"}",
                                  b"\xff\xfe"])  # fmt: skip
def test_a_line_that_is_no_request_is_shown_as_it_is(looker, project, line):
    batch = made(project, [request("a"), line])
    answer(batch, 2, "no json either")
    page = looker.get(url(batch, 2))
    assert page.status_code == 200 and "no json either" in text(page)


def test_many_pieces(looker, project):
    batch = made(project, [request("a", messages=[{"role": "user", "content": f"{n}"} for n in range(500)])])
    page = text(looker.get(url(batch, 1)))
    assert page.count("<li>") == 200 and "300 more are in the raw line" in page


# Large ones


def test_a_long_text_is_clipped_and_can_be_had_whole(looker, project):
    long = "<b>" + "ä" * 150_000
    batch = made(project, [request("a", messages=[{"role": "user", "content": long}])])
    answer(batch, 1, chat(long))
    page = text(looker.get(url(batch, 1)))
    assert (
        page.count("ä" * 19_997 + "<span") == 2 and "ä" * 20_001 not in page and page.count("Show all (293 KiB)") == 2
    )
    for side in ("prompt", "answer"):
        whole = looker.get(url(batch, 1, f"/{side}?text=0"))
        assert whole.content.decode() == long and whole.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert whole.headers["X-Content-Type-Options"] == "nosniff"
        assert whole.headers["Content-Disposition"] == f'attachment; filename="{batch.pk}_1_{side}.txt"'
        for place in ("1", "-1", "x", "", "9" * 30):
            assert looker.get(url(batch, 1, f"/{side}?text={place}")).status_code == 404


def test_what_is_larger_than_a_mebibyte_is_not_taken_apart(looker, project, monkeypatch):
    large = "x" * (3 * 2**20)
    batch = made(project, [request("a"), request("b", messages=[{"role": "user", "content": large}]), request("c")])
    answer(batch, 2, chat(large))
    read = []
    part = blobs.part
    monkeypatch.setattr(blobs, "part", lambda *given: read.append(given[2]) or part(*given))
    response = looker.get(url(batch, 2))
    page = text(response)
    assert read == [2**20] and len(response.content) < 100_000
    assert "The prompt has 3 MiB" in page and "The answer has 3 MiB" in page
    raw = content(looker.get(url(batch, 2, "/prompt")))
    assert json.loads(raw)["body"]["messages"][0]["content"] == large
    raw = content(looker.get(url(batch, 2, "/answer")))
    assert json.loads(raw)["response"]["body"]["choices"][0]["message"]["content"] == large


def test_out_of_a_bucket_only_its_range_is_fetched(monkeypatch):
    asked = []

    class Body:
        def read(self):
            return b"0123"

    class Far:
        obj = property(lambda self: self)

        def get(self, Range):  # as boto3 has it
            asked.append(Range)
            return {"Body": Body()}

        def __enter__(self):
            return self

        def __exit__(self, *given):
            pass

    monkeypatch.setattr(blobs, "open_blob", lambda blob: Far())
    assert blobs.part("x", 10, 4) == b"0123" and asked == ["bytes=10-13"]
    assert blobs.part("x", 10, 0) == b"" and len(asked) == 1


# What is no longer there


def test_without_its_input_file_the_answer_is_still_shown(looker, batch):
    file = File.objects.get()
    now = timezone.now()
    for fields in (
        {"status": "deleted", "deleted_at": now},
        {"status": "available", "deleted_at": None, "purged_at": now},
    ):
        File.objects.update(**fields)
        page = text(looker.get(url(batch, 1)))
        assert "The input file was deleted." in page and "question of" not in page and "The answer\nis yes" in page
        assert looker.get(url(batch, 1, "/prompt")).status_code == 404
    File.objects.update(purged_at=None, expires_at=timezone.now())
    assert "The input file has expired." in text(looker.get(url(batch, 1)))
    File.objects.update(expires_at=None)
    blobs.remove(file.blob)
    assert "cannot be read now (FileNotFoundError)" in text(looker.get(url(batch, 1)))
    assert looker.get(url(batch, 1, "/prompt")).status_code == 404


def test_what_was_deleted_leads_to_where_that_is_said(looker, batch):
    Batch.objects.update(purged_at=timezone.now())
    assert looker.get(url(batch, 1)).url == f"/batches/{batch.pk}/requests"
    assert looker.get(url(batch, 1, "/answer")).status_code == 404


# Who may, and what it costs


def test_raw_lines(looker, batch):
    raw = looker.get(url(batch, 2, "/prompt"))
    assert json.loads(content(raw))["custom_id"] == "id-2" and raw.headers["X-Content-Type-Options"] == "nosniff"
    assert raw.headers["Content-Disposition"].startswith("attachment;")
    assert json.loads(content(looker.get(url(batch, 2, "/answer"))))["error"]["code"] == "context_length_exceeded"


def test_strangers_and_what_is_not_there(looker, batch):
    stranger = member(other())
    for more in ("", "/prompt", "/answer", "/prompt?text=0"):
        assert Client().get(url(batch, 1, more)).url.startswith("/login?next=")
        assert stranger.get(url(batch, 1, more)).status_code == 404
        assert looker.post(url(batch, 1, more)).status_code == 405
        for line in (0, 7, 2**31, 10**30, "x", "-1"):
            assert looker.get(url(batch, line, more)).status_code == 404
        assert looker.get(f"/batches/a%00b/requests/1{more}").status_code == 404
    assert looker.get(url(batch, 1, "/other")).status_code == 404
    Batch.objects.update(hidden=True)
    for more in ("", "/prompt", "/answer"):
        assert looker.get(url(batch, 1, more)).status_code == 404


@pytest.mark.parametrize("line", [1, 3])
def test_what_it_costs(batch, line, django_assert_num_queries):
    with django_assert_num_queries(8):  # the row; before and after; savepoint, limit, failed ones, release
        row = one.find(batch, line)
        one.prompt(batch, row)
        one.answer(batch, row)
        one.neighbours(batch, line)


def test_numbers_are_shown_digit_by_digit(project, looker):
    batch = made(project, [request("a", seed=2**64, temperature=0.5)])
    page = text(looker.get(url(batch, 1))).replace(batch.pk, "")  # whose digits may be anything
    assert "18446744073709551616" in page and "e+19" not in page and "e19" not in page
    sent = raw_json.members(b'{"seed": 18446744073709551616, "top_p": 0.10, "user": "u\\u00e9", "n": null}')
    side = asked({"seed": 2.0**64, "top_p": 0.1, "user": "u\u00e9", "n": None}, sent)
    assert dict(side.facts) == {"seed": "18446744073709551616", "top_p": "0.10", "user": "u\u00e9", "n": ""}


def test_where_none_failed_none_is_looked_for(batch, django_assert_num_queries):
    batch.failed = 0
    with django_assert_num_queries(2):
        one.neighbours(batch, 3)


def test_with_htmx_it_is_a_page_all_the_same(looker, batch):
    assert "<h1" in text(looker.get(url(batch, 1), headers=HTMX))


# In the playground


def test_a_request_is_opened_in_the_playground(project, batch):
    asker = person("operator", project)
    assert f'href="{url(batch, 1, "/playground")}"' in text(asker.get(url(batch, 1)))
    page = text(asker.get(url(batch, 1, "/playground")))
    assert '<textarea id="message"' in page and ">\nquestion of id-1</textarea>" in page
    assert 'id="temperature" name="temperature" step="any" value="0.5"' in page
    assert "which would not answer now" in page and f'<option value="{project.pk}" selected>' in page
    assert f'href="{url(batch, 1)}">Line 1 of {batch.pk}' in page


def test_what_others_wrote_stays_text_in_the_playground(project):
    lines = [request("a", messages=[{"role": "user", "content": f"</textarea>{HOSTILE}"}], **{HOSTILE: HOSTILE})]
    page = text(person("operator", project).get(url(made(project, lines), 1, "/playground")))
    assert "<script>alert" not in page and "</textarea><script" not in page and "&lt;/textarea&gt;" in page


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_of_every_endpoint(project, endpoint):
    batch = made(project, [request("a")], endpoint=endpoint)
    page = text(person("operator", project).get(url(batch, 1, "/playground")))
    assert f'<option value="{endpoint}" data-text=' in page and page.count(" selected>/v1/") == 1


def test_a_request_without_a_model_has_that_of_its_batch(project):
    line = request("a")
    del line["body"]["model"]
    Model.objects.create(name="m", kind="remote", source="http://127.0.0.1:1/v1")
    page = text(person("operator", project).get(url(made(project, [line]), 1, "/playground")))
    assert 'value="m" checked' in page


def test_what_cannot_be_opened_says_why(project, monkeypatch):
    asker = person("operator", project)
    broken = made(project, [request("a"), b"no json"])
    assert "no body that is a JSON object" in text(asker.get(url(broken, 2, "/playground"), follow=True))
    large = made(project, [request("a", user="x" * one.MOST)])
    assert "at most 1 MiB are read" in text(asker.get(url(large, 1, "/playground"), follow=True))
    File.objects.update(status="deleted", deleted_at=timezone.now())
    page = text(asker.get(url(large, 1, "/playground"), follow=True))
    assert "It cannot be opened in the playground. The input file was deleted." in page
    assert "Open in the playground" not in page


def test_in_the_playground_only_for_those_who_may(project, batch):
    assert person("viewer", project).get(url(batch, 1, "/playground")).status_code == 403
    assert "playground" not in text(person("viewer", project).get(url(batch, 1)))
    assert person("operator", other()).get(url(batch, 1, "/playground")).status_code == 404


# As a command


def test_it_can_be_copied_as_a_command(looker, project):
    batch = made(project, [request("a", seed=2**64, messages=[{"role": "user", "content": "it's <b>\u202e \n$HOME"}])])
    page = text(looker.get(url(batch, 1)))
    assert 'data-copies="#curl"' in page
    (command,) = re.findall(r'<pre id="curl" tabindex="0">(.*?)</pre>', page, re.S)
    words = shlex.split(html.unescape(command))
    assert (
        words[:3] == ["curl", "-s", "http://testserver/v1/chat/completions"] and "Authorization: Bearer $KEY" in words
    )
    body = json.loads(words[-1])
    assert body["seed"] == 2**64 and body["messages"][0]["content"] == "it's <b>\u202e \n$HOME" and body["model"] == "m"
    assert "\u202e" not in page and "<b>" not in command


def test_of_a_long_body_the_command_reads_a_file(looker, project):
    lines = [request("a", messages=[{"role": "user", "content": "ä" * 30_000}]), b"no json"]
    batch = made(project, lines)
    page = text(looker.get(url(batch, 1)))
    assert f"-d @{batch.pk}_1_body.json" in page and f'href="{url(batch, 1, "/body")}" download' in page
    body = looker.get(url(batch, 1, "/body"))
    assert json.loads(body.content)["messages"][0]["content"] == "ä" * 30_000
    assert body.headers["Content-Disposition"] == f'attachment; filename="{batch.pk}_1_body.json"'
    assert looker.get(url(batch, 2, "/body")).status_code == 404
    assert 'id="curl"' not in text(looker.get(url(batch, 2)))


def test_where_nothing_is_answered_directly_there_is_no_command(looker, batch, settings):
    settings.VBS_INTERACTIVE = "off"
    assert "curl" not in text(looker.get(url(batch, 1)))


# Run again


def again(client, batch, line, follow=False):
    page = text(client.get(url(batch, line)))
    (once,) = re.findall(r'name="once" value="([^"]+)"', page)
    return lambda: client.post(url(batch, line, "/again"), {"once": once}, follow=follow)


def test_one_request_is_run_again_once(project, batch):
    Batch.objects.filter(pk=batch.pk).update(
        name="reviews", metadata={"team": "search"}, priority=3, status=BatchStatus.COMPLETED, default_model="m"
    )
    asker = person("operator", project)
    send = again(asker, batch, 2)
    first, second = send(), send()
    made_ = Batch.objects.exclude(pk=batch.pk).get()
    assert first.url == second.url == f"/batches/{made_.pk}/"
    assert (made_.name, made_.metadata, made_.priority, made_.default_model) == (
        "reviews, line 2",
        {"team": "search"},
        3,
        "m",
    )
    assert (made_.created_by, made_.endpoint, made_.status) == (asker.user.username, batch.endpoint, "validating")
    raw = json.loads(content(asker.get(url(batch, 2, "/prompt"))))
    with blobs.open_blob(made_.input_file.blob) as file:
        assert json.loads(file.read()) == raw
    assert f"Created to run line 2 of {batch.pk} again." in made_.events.values_list("message", flat=True)
    assert list(AuditEntry.objects.values_list("action", "target")) == [("batch.create", made_.pk)]
    page = text(asker.get(first.url))
    assert "This batch runs line 2 of reviews again." in page and "created by that button already" in page


def test_what_is_run_again_can_run(project, batch):
    Model.objects.create(name="m", kind="scripted")
    again(person("operator", project), batch, 1)()
    made_ = Batch.objects.exclude(pk=batch.pk).get()
    assert ingest.validate(made_.pk).total == 1 and made_.requests.get().custom_id == "id-1"


def test_a_mark_is_for_one_request(project, batch):
    asker = person("operator", project)
    (once,) = re.findall(r'name="once" value="([^"]+)"', text(asker.get(url(batch, 1))))
    for line in (1, 2, 1):
        asker.post(url(batch, line, "/again"), {"once": once})
    assert Batch.objects.count() == 3


def test_what_cannot_be_run_again_says_why(project, batch, monkeypatch):
    asker = person("operator", project)
    send = again(asker, batch, 1, follow=True)
    page = text(asker.post(url(batch, 1, "/again"), {"once": "forged"}, follow=True))
    assert "is not run again. This form is more than a day old: reload the page." in page
    part = blobs.part

    def broken(*given):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(blobs, "part", broken)
    assert "Its line cannot be read now (OSError)." in text(send())
    monkeypatch.setattr(blobs, "part", part)
    File.objects.update(status="deleted", deleted_at=timezone.now())
    assert "is not run again. The input file was deleted." in text(send())
    assert "Run again" not in text(asker.get(url(batch, 1)))
    Batch.objects.update(purged_at=timezone.now())
    assert send().redirect_chain[0][0] == f"/batches/{batch.pk}/requests"
    assert Batch.objects.count() == 1


def test_only_those_run_it_again_who_may_make_batches(project, batch):
    viewer = person("viewer", project)
    assert viewer.post(url(batch, 1, "/again")).status_code == 403 and "Run again" not in text(
        viewer.get(url(batch, 1))
    )
    assert person("operator", other()).post(url(batch, 1, "/again")).status_code == 404
    assert person("admin", project).get(url(batch, 1, "/again")).status_code == 405
