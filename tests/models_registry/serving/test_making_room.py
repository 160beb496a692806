"""An engine that people ask directly is not ended in the middle of an answer because another model is needed."""

import asyncio

import pytest
from django.db import connection

from models_registry.engine import resident
from models_registry.serving import engines
from tests.models_registry.serving.conftest import chat
from tests.models_registry.serving.test_forward import CHAT, error_of


def apart(do, *given):
    """In a thread, whose connection to the database ends with it."""
    try:
        do(*given)
    finally:
        connection.close()


def test_it_answers_what_it_has_begun(web, served, add_model):
    gpu = served(**{"token-ms": 200})
    other, said = add_model("second"), []

    async def conversation():
        stream = web.begin(CHAT, chat("one two three four five six", stream=True))
        await stream.came.wait()
        loading = asyncio.create_task(asyncio.to_thread(apart, gpu.load, other, said.append))
        while not said:
            stream.came.clear()
            await stream.came.wait()
        engines.forget()
        error_of(await web.post(CHAT, chat()), 503, "model_not_loaded")
        await asyncio.gather(stream.task, loading)
        return stream

    assert web.run(conversation).events()[-1] == "[DONE]"
    assert "waiting until scripted has answered 1 more requests" in said
    assert gpu.loaded == "second"


def test_it_does_not_wait_for_ever(web, served, add_model, monkeypatch):
    gpu, other = served(), add_model("second")
    monkeypatch.setattr(resident, "FINISH_SECONDS", 0.5)

    async def conversation():
        stream = web.begin(CHAT, chat("[[hang]]", stream=True))
        await stream.came.wait()
        await asyncio.to_thread(apart, gpu.load, other, lambda words: None)
        await stream.task
        return stream

    assert web.run(conversation).events()[-1]["error"]["code"] == "engine_unavailable"


def test_it_stays_when_it_need_not_make_room_any_more(web, served, add_model):
    gpu, other = served(), add_model("second").spec()
    before = gpu.resident.engine

    def cancel(words):
        raise RuntimeError("cancelled")

    async def conversation():
        stream = web.begin(CHAT, chat("[[hang]]", stream=True))
        await stream.came.wait()
        with pytest.raises(RuntimeError):
            await asyncio.to_thread(gpu.resident.acquire, other, cancel)
        stream.leave()
        await stream.task
        engines.forget()
        return await web.post(CHAT, chat())

    assert web.run(conversation).status == 200 and gpu.resident.engine is before
