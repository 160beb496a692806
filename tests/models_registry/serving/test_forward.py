"""Interactive requests are passed on to the engine that has the model, and their answers come back as they come."""

import asyncio
import json
import logging
import os
import signal

import pytest

from models_registry.engine.spec import EngineKind
from models_registry.models import Alias, InteractiveUsage, Model, WorkerState
from models_registry.serving import engines, forward
from tests.engines import until
from tests.models_registry.serving.conftest import chat, stats
from vbs.accounts.models import Project
from vbs.openai import raw_json

CHAT = "/chat/completions"
FAILS = {"message", "type", "param", "code"}


def error_of(answer, status, code):
    assert answer.status == status, answer.content
    error = answer.json()["error"]
    assert set(error) == FAILS and error["code"] == code, error
    return error


def answers_at(task):
    """Make the model one for this task."""
    Model.objects.update(task=task)
    engines.forget()


def test_an_answer_in_one_piece(web, served):
    served()
    answer = web.ask(CHAT, chat(), x_request_id="mine")
    assert answer.status == 200 and answer.headers["content-type"] == "application/json"
    assert int(answer.headers["content-length"]) == len(answer.content) and answer.headers["x-request-id"] == "mine"
    assert answer.json()["choices"][0]["message"]["content"] == "one two three" and answer.json()["model"] == "scripted"
    reading = (
        ("/score", {"text_1": "a", "text_2": ["b", "c"]}), ("/rerank", {"query": "a", "documents": ["b", "a"]}),
        ("/embeddings", {"input": ["a"]}),
    )  # fmt: skip
    for path, body in (("/completions", {"prompt": "a b"}), ("/responses", {"input": "a b"})):
        assert web.ask(path, {"model": "scripted"} | body).status == 200, path
    for path, body in reading:
        error = error_of(web.ask(path, {"model": "scripted"} | body), 400, "invalid_request")
        assert error["message"] == f"The model 'scripted' is for chat; it is not supported at /v1{path}."
        assert error["param"] == "model"
    answers_at("embedding")
    for path, body in reading:
        assert web.ask(path, {"model": "scripted"} | body).status == 200, path
    assert error_of(web.ask(CHAT, chat()), 400, "invalid_request")["param"] == "model"


def test_a_stream_comes_as_it_is_made(web, served):
    served(**{"token-ms": 100})

    async def conversation():
        exchange = web.begin(CHAT, chat(stream=True))
        while not any(b"one " in piece for piece in exchange.pieces):
            exchange.came.clear()
            await exchange.came.wait()
        assert not exchange.task.done() and b"three" not in exchange.content, "the rest is still being made"
        await exchange.task
        return exchange

    answer = web.run(conversation)
    assert answer.status == 200 and answer.headers["content-type"].startswith("text/event-stream")
    *chunks, done = answer.events()
    assert done == "[DONE]" and "".join(one["choices"][0]["delta"]["content"] for one in chunks) == "one two three"
    assert not any("usage" in one for one in chunks), "the client did not ask for it"
    told = web.ask(CHAT, chat(stream=True, stream_options={"include_usage": True})).events()
    assert told[-2]["usage"]["completion_tokens"] == 3 and told[-2]["choices"] == []
    steps = web.ask("/responses", {"model": "scripted", "input": "a b", "stream": True}).events()
    assert steps[-1]["type"] == "response.completed" and steps[-1]["response"]["model"] == "scripted"


def test_an_alias_is_the_name_in_the_answer(web, served):
    served()
    Alias.objects.create(name="@best", model=Model.objects.get())
    assert web.ask(CHAT, chat(model="@best")).json()["model"] == "@best"
    chunks = web.ask(CHAT, chat('say "model":"scripted" {"model":"scripted"}', model="@best", stream=True)).events()
    assert {one["model"] for one in chunks[:-1]} == {"@best"}
    said = "".join(one["choices"][0]["delta"]["content"] for one in chunks[:-1])
    assert said == 'say "model":"scripted" {"model":"scripted"}', "what was said is left alone"


def test_a_client_that_goes_away_frees_its_place(web, served):
    gpu = served(**{"max-num-seqs": 1})

    async def conversation(**more):
        hanging = web.begin(CHAT, chat("[[hang]]", **more))
        if more:  # a stream has begun before there is anything to send
            await hanging.came.wait()
            assert hanging.status == 200
        await asyncio.to_thread(until, lambda: stats(gpu)["running"] == 1)
        hanging.leave()
        await hanging.task
        return (await web.post(CHAT, chat())).status

    for number, more in enumerate(({"stream": True}, {}), start=1):
        assert web.run(lambda more=more: conversation(**more)) == 200
        until(lambda number=number: stats(gpu)["aborted"] == number)
    assert stats(gpu)["running"] == 0 and len(forward.in_flight) == 0


def test_the_engine_dies_in_the_middle(web, served, caplog):
    served(**{"token-ms": 20})
    answer = web.ask(CHAT, chat("one two three four [[cut 3]]", stream=True))
    assert answer.status == 200 and answer.events()[-1]["error"]["code"] == "engine_unavailable"
    assert "[DONE]" not in answer.events() and set(answer.events()[-1]["error"]) == FAILS
    error_of(web.ask(CHAT, chat("[[drop]]")), 503, "engine_unavailable")


def test_an_engine_that_has_died_is_not_waited_for(web, served):
    gpu = served()
    assert web.ask(CHAT, chat()).status == 200
    os.kill(gpu.resident.engine.pid, signal.SIGKILL)
    until(lambda: not gpu.resident.engine.alive())
    answer = web.ask(CHAT, chat())
    assert error_of(answer, 503, "engine_unavailable") and int(answer.headers["retry-after"]) > 0


def test_errors_of_the_engine_come_in_our_envelope(web, served):
    served()
    error = error_of(web.ask(CHAT, chat(max_tokens=0)), 400, "invalid_request")
    assert "max_tokens must be at least 1, got 0" in error["message"] and error["param"] == "max_tokens"
    answer = web.ask(CHAT, chat("[[retry-after 7]]"))
    assert error_of(answer, 429, "rate_limit_exceeded") and answer.headers["retry-after"] == "7"
    assert error_of(web.ask(CHAT, chat("[[status 500]]", stream=True)), 500, "server_error")["type"] == "server_error"


@pytest.mark.parametrize(
    "body, code, param",
    [
        (b"", "missing_required_parameter", "model"),
        (b"[]", "invalid_body", None),
        (b'{"model": "x", "a": NaN}', "invalid_body", None),
        ({"messages": []}, "missing_required_parameter", "model"),
        ({"model": 1}, "invalid_type", "model"),
        ({"model": ""}, "invalid_type", "model"),
    ],
)
def test_bodies_that_are_refused(web, body, code, param):
    assert error_of(web.ask(CHAT, body), 400, code)["param"] == param


def test_what_only_we_may_set(project, other_key):
    sent = b'{"model": "x", "priority": -9, "cache_salt": "mine", "request_id": "r", "priority": -8, '
    sent += b'"seed": 18446744073709551616, "top_p": 0.10}'
    other = Project.objects.exclude(pk=project.pk).get()

    def made(kind, whose=project, prioritized=False):
        served = engines.Served("x", "served", (), kind, prioritized=prioritized)
        return forward.body.for_engine(raw_json.members(sent), served, whose)

    kept = b'{"model":"served","seed":18446744073709551616,"top_p":0.10'
    assert made(EngineKind.REMOTE) == made(EngineKind.SCRIPTED) == kept + b"}"
    mine, others = json.loads(made(EngineKind.VLLM)), json.loads(made(EngineKind.VLLM, other))
    assert made(EngineKind.VLLM).startswith(kept) and mine.keys() == {"model", "seed", "top_p", "cache_salt"}
    assert mine["cache_salt"] != others["cache_salt"] and "mine" not in mine.values()
    assert json.loads(made(EngineKind.VLLM, prioritized=True))["priority"] == -1


def test_a_request_without_a_limit_gets_the_servers(web, served, settings):
    served()
    settings.VBS_DEFAULT_MAX_TOKENS = 2
    assert web.ask(CHAT, chat()).json()["choices"][0]["message"]["content"] == "one two"
    assert web.ask(CHAT, chat(max_tokens=3)).json()["choices"][0]["message"]["content"] == "one two three"
    answers_at("embedding")
    assert web.ask("/embeddings", {"model": "scripted", "input": "a"}).status == 200


def test_responses_in_the_background_are_refused(web, served):
    served()
    answer = web.ask("/responses", {"model": "scripted", "input": "a", "background": True})
    assert error_of(answer, 400, "unsupported_parameter")["param"] == "background"


def test_a_project_has_so_many_requests_at_once(web, served, settings, other_key):
    gpu = served()
    settings.VBS_MAX_INTERACTIVE = 2

    async def conversation():
        hanging = [web.begin(CHAT, chat("[[hang]]", stream=True)) for _ in range(2)]
        await asyncio.to_thread(until, lambda: stats(gpu)["running"] == 2)
        refused = await web.post(CHAT, chat())
        assert error_of(refused, 429, "rate_limit_exceeded") and int(refused.headers["retry-after"]) > 0
        assert (await web.post(CHAT, chat(), key=other_key)).status == 200
        for one in hanging:
            one.leave()
            await one.task
        assert (await web.post(CHAT, chat())).status == 200

    web.run(conversation)


def test_the_time_of_a_request_is_bounded(web, served, settings):
    gpu = served()
    settings.VBS_REQUEST_SECONDS = 1
    error_of(web.ask(CHAT, chat("[[hang]]")), 504, "request_timeout")
    assert web.ask(CHAT, chat("[[hang]]", stream=True)).events()[-1]["error"]["code"] == "request_timeout"
    until(lambda: stats(gpu)["aborted"] == 2)


def test_names_that_nobody_has(web, served):
    for name in ("nothing", "a\0b"):
        assert error_of(web.ask(CHAT, chat(model=name)), 404, "model_not_found")["param"] == "model"


def test_a_model_that_is_not_loaded(web, served, add_model):
    served()
    add_model("second")
    answer = web.ask(CHAT, chat(model="second"))
    error = error_of(answer, 503, "model_not_loaded")
    assert "second is not loaded now. Loaded: scripted." in error["message"] and int(answer.headers["retry-after"]) > 0


def test_a_model_that_is_being_loaded(web, served, add_model):
    gpu = served()
    second = add_model("second")
    for doing in ("Loading second", "Loading second: starting the engine"):
        gpu.show(WorkerState.LOADING, doing)
        gpu.worker.set(model_name="")
        engines.forget()
        message = error_of(web.ask(CHAT, chat(model="second")), 503, "model_not_loaded")["message"]
        assert message == "second is being loaded now, and answers after that."
        assert engines.Availability().of(second) == (False, "It is being loaded now.")
    gpu.show(WorkerState.LOADING, "Loading another")
    engines.forget()
    assert "second is not loaded now." in web.ask(CHAT, chat(model="second")).json()["error"]["message"]


def test_switched_off(web, served, settings):
    served()
    settings.VBS_INTERACTIVE = "off"
    assert "VBS_INTERACTIVE" in error_of(web.ask(CHAT, chat()), 404, "interactive_off")["message"]


def test_it_wants_a_key(web):
    error_of(web.ask(CHAT, chat(), key="wrong"), 401, "invalid_api_key")


def test_usage_is_written_and_the_worker_is_asked(web, served, project, caplog, settings):
    gpu = served()
    caplog.set_level(logging.INFO, "models_registry.serving")

    async def conversation():
        await web.post(CHAT, chat(stream=True))
        await web.post(CHAT, chat(max_tokens=0))

    web.run(conversation)
    answers_at("embedding")
    web.ask("/embeddings", {"model": "scripted", "input": "a b"})
    forward.ledger.write()
    row = InteractiveUsage.objects.get()
    assert (row.project, row.model, row.requests, row.failed) == (project, "scripted", 3, 1)
    assert (row.input_tokens, row.output_tokens) == (5, 3)
    answers_at("chat")
    web.ask(CHAT, chat())
    forward.ledger.write()
    assert InteractiveUsage.objects.get().requests == 4
    gpu.worker.refresh_from_db()
    assert gpu.worker.asked_at is not None
    assert "of project project on scripted: 200" in caplog.text and "one two" not in caplog.text


def test_what_was_read_before_the_client_left_is_counted(web, served):
    served(**{"token-ms": 50})

    async def conversation(path, body):
        exchange = web.begin(path, {"model": "scripted", "stream": True} | body)
        while exchange.content.count(b"word") < 4:
            exchange.came.clear()
            await exchange.came.wait()
        exchange.leave()
        await exchange.task

    text, written = " ".join(["word"] * 50), 0
    for path, body in (
        (CHAT, chat(text)), ("/completions", {"prompt": text}), ("/responses", {"input": text})
    ):  # fmt: skip
        web.run(lambda path=path, body=body: conversation(path, body))
        forward.ledger.write()
        before, written = written, InteractiveUsage.objects.get().output_tokens
        assert 3 <= written - before < 30, path
    row = InteractiveUsage.objects.get()
    assert (row.requests, row.failed) == (3, 3)


def test_what_a_removed_project_used_is_let_go(web, served, project):
    served()
    web.ask(CHAT, chat())
    project.delete()
    forward.ledger.write()
    assert not InteractiveUsage.objects.exists()


def test_models_say_whether_they_would_answer(web, served, add_model, settings):
    served()
    add_model("second")

    def states():
        available = engines.Availability()
        return {one.name: available.of(one) for one in Model.objects.all()}

    assert states()["scripted"] == (True, None) and states()["second"] == (False, "It is not loaded now.")
    settings.VBS_INTERACTIVE = "swap"
    assert states()["second"][0] and "a request has it loaded first" in states()["second"][1]
    settings.VBS_INTERACTIVE = "off"
    assert not states()["scripted"][0] and "VBS_INTERACTIVE" in states()["scripted"][1]
