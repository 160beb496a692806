"""The page of the playground: which models it offers, how a request becomes its fields, and how one is written down."""

import ast
import json
import shlex
import subprocess

import pytest

from models_registry.models import Alias, Model
from models_registry.pages.playground.code import codes
from models_registry.pages.playground.draft import AS_JSON, CHAT, TEXTS, Message, draft
from tests.people import person, text
from vbs.accounts.models import Project
from vbs.openai import raw_json, routes
from vbs.openai.errors import InvalidRequest

SERVER = "http://localhost:8000"
NASTY = 'it\'s "$HOME" `id` $(id) \\ \n\r\u2028 \u202e \x1b[31m \0 \'\'\' """ </script> é 日本 \U0001f600'


def members(body):
    return raw_json.members(json.dumps(body).encode())


# The page


def test_models_that_would_answer_and_others_with_the_reason(db):
    far = Model.objects.create(name="far", kind="remote", source="http://127.0.0.1:1/v1")
    Model.objects.create(name="tuned", kind="remote", base=far)
    Model.objects.create(name="here", kind="scripted")
    Model.objects.create(name="draft", kind="scripted", state="draft")
    Alias.objects.create(name="@best", model=far)
    page = text(person("operator", Project.objects.create(name="one")).get("/playground/models?model=far"))
    ready, _, others = page.partition("<details")
    assert 'value="far" checked' in ready and 'value="@best"' in ready and "is far" in ready
    assert 'value="tuned"' in ready and "adapter of far" in ready
    assert "3 would" not in others and "2 would not answer now" in others
    assert "It is not loaded now." in others and "The model is not ready." in others


def test_the_project_is_chosen_where_there_are_several(db):
    one, two = (Project.objects.create(name=name) for name in ("one", "two"))
    hidden = '<div class="field" hidden>'
    assert hidden in text(person("operator", one).get("/playground/"))
    both = person("operator", one, two)
    page = text(both.get("/playground/"))
    assert hidden not in page and ">one</option>" in page and ">two</option>" in page
    both.post("/project", {"project": two.pk, "next": "/"})
    page = text(both.get("/playground/"))
    options = page.partition('id="playground-project"')[2].partition("</select>")[0]
    assert "two</option>" in options and ">one<" not in options
    assert "You are in no project" in text(person("operator").get("/playground/"))


# A request as fields


def test_a_conversation_becomes_fields():
    body = {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
            {"role": "user", "content": "b"},
        ],
        "seed": 7,
        "stop": ["x", "y"],
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
        "stream": True,
        "stream_options": {},
        "top_k": 3,
    }
    given = raw_json.members(json.dumps(body).encode()[:-1] + b', "temperature": 0.70}')
    found = draft(CHAT, given)
    assert (found.model, found.system, found.message, found.stop) == ("m", "Be brief.", "b", "x\ny")
    assert found.before[0] == Message("user", "a") and found.before[1].role == AS_JSON
    assert json.loads(found.before[1].text) == body["messages"][2]
    assert found.numbers == {"seed": "7", "temperature": "0.70"} and json.loads(found.schema) == {"type": "object"}
    assert json.loads(found.more) == {"top_k": 3}


@pytest.mark.parametrize(
    "body",
    [
        {"messages": "no list"}, {"messages": [1]}, {"messages": []}, {"messages": [{"role": "user"}] * 51},
        {"temperature": "hot", "seed": True, "stop": [1], "top_p": None}, {"stop": "a\nb"}, {"stop": [""]},
        {"response_format": {"type": "json_object"}}, {"response_format": "x"},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": 1, "other": 2}}},
    ],
)  # fmt: skip
def test_what_fits_no_field_stays_as_it_is(body):
    found = draft(CHAT, members(body))
    assert json.loads(found.more) == body and (found.message, found.before, found.numbers) == ("", (), {})


def test_other_endpoints():
    assert {CHAT, *TEXTS} == set(routes.INTERACTIVE)
    found = draft("/v1/completions", members({"prompt": "p", "max_tokens": 3}))
    assert (found.message, found.numbers, found.more) == ("p", {"max_tokens": "3"}, "")
    assert json.loads(draft("/v1/completions", members({"prompt": [1, 2]})).more) == {"prompt": [1, 2]}
    found = draft("/v1/rerank", members({"query": "q", "documents": ["a"], "seed": 1}))
    assert found.message == "q" and json.loads(found.more) == {"documents": ["a"], "seed": 1}


# A request to copy


def test_whatever_is_in_it_a_shell_passes_it_on_unchanged():
    body = {"model": "m", "messages": [{"role": "user", "content": NASTY}], "temperature": 0.5}
    made = codes(SERVER, CHAT, members(body))
    words = shlex.split(made["curl"].replace("$KEY", "key"))
    assert words[:3] == ["curl", "-s", f"{SERVER}{CHAT}"] and json.loads(words[-1]) == body
    printed = f'curl() {{ for last; do :; done; printf %s "$last"; }}\n{made["curl"]}'
    assert json.loads(subprocess.run(["sh", "-c", printed], capture_output=True, check=True).stdout) == body
    line = json.loads(made["line"])
    assert line == {"custom_id": "playground-1", "method": "POST", "url": CHAT, "body": body}
    assert "\n" not in made["line"] and all(one.isprintable() for one in made["line"])
    assert all(one.isprintable() or one == "\n" for one in made["curl"] + made["python"])


def called(python):
    """The method, and the arguments as values."""
    (call,) = (
        node
        for node in ast.walk(ast.parse(python))
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("client.")
    )
    named = {one.arg: ast.literal_eval(one.value) for one in call.keywords if not isinstance(one.value, ast.Name)}
    return ast.unparse(call.func), [ast.literal_eval(one) for one in call.args], named


def test_as_python():
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": NASTY}],
        "temperature": 0.5,
        "top_k": 3,
        "a b": NASTY,
    }
    method, _, named = called(codes(SERVER, CHAT, members(body))["python"])
    assert method == "client.chat.completions.create"
    assert named.pop("extra_body") | named == body
    python = codes("http://a'b", "/v1/score", members({"model": "m", "queries": NASTY}))["python"]
    assert called(python) == ("client.post", ["/score"], {"body": {"model": "m", "queries": NASTY}})
    assert 'base_url="http://a\'b/v1"' in python
    for route in ("/v1/completions", "/v1/embeddings", "/v1/responses"):
        assert called(codes(SERVER, route, members({"model": "m"}))["python"])[2] == {"model": "m"}


def test_numbers_stay_as_they_were_written():
    made = codes(SERVER, CHAT, raw_json.members(b'{"model": "m", "seed": 12345678901234567890123, "top_p": 0.10}'))
    assert '"seed":12345678901234567890123,"top_p":0.10' in made["line"] and "0.10" in made["curl"]
    with pytest.raises(InvalidRequest, match="as Python"):
        codes(SERVER, CHAT, raw_json.members(b'{"seed": ' + b"9" * 5000 + b"}"))


def test_the_address_for_copies(db):
    client = person("operator")
    answer = client.post(
        "/playground/code?endpoint=/v1/chat/completions", {"model": "m"}, content_type="application/json"
    )
    assert answer.status_code == 200 and "http://testserver/v1/chat/completions" in answer.json()["curl"]
    answer = client.post("/playground/code?endpoint=/v1/chat/completions", "[]", content_type="application/json")
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "invalid_body"
