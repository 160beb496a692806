"""A worker's engine on another host is asked through the worker, by those who have the server's secret key."""

import socket

import httpx
import pytest

from models_registry.models import Worker
from models_registry.serving import engines, forwarder
from models_registry.serving.forwarder import Forwarder
from tests.engines import until
from tests.models_registry.serving.conftest import chat, stats
from tests.models_registry.serving.test_forward import CHAT, error_of
from vbs.run.stack import free_port


@pytest.fixture
def far(served):
    """A GPU whose worker says that it is on another host."""
    gpu = served(**{"token-ms": 10})
    url = f"http://127.0.0.1:{free_port()}"
    Forwarder(url, gpu.resident.home).start()
    Worker.objects.update(hostname="elsewhere", url=url)
    gpu.url = url
    until(lambda: _listens(url))
    return gpu


def _listens(url):
    try:
        return httpx.get(url).status_code == 404
    except httpx.HTTPError:
        return False


def test_it_is_asked_through_its_worker(web, far):
    assert web.ask(CHAT, chat()).json()["choices"][0]["message"]["content"] == "one two three"
    assert web.ask(CHAT, chat(stream=True)).events()[-1] == "[DONE]"
    error_of(web.ask(CHAT, chat(max_tokens=0)), 400, "invalid_request")
    assert web.ask(CHAT, chat("one two [[cut 2]]", stream=True)).events()[-1]["error"]["code"] == "engine_unavailable"


def test_a_client_that_goes_away_frees_its_place_there(web, far):
    async def conversation():
        stream = web.begin(CHAT, chat("[[hang]]", stream=True))
        await stream.came.wait()
        stream.leave()
        await stream.task

    web.run(conversation)
    until(lambda: stats(far)["aborted"] == 1)


def test_it_wants_the_key(far):
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        answer = httpx.post(f"{far.url}/v1/chat/completions", json=chat(), headers=headers)
        assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_api_key"
    key = {"Authorization": f"Bearer {forwarder.address(far.url).key}"}
    assert httpx.post(f"{far.url}/v1/load_lora_adapter", json={}, headers=key).status_code == 404, "no other route"
    far.resident.release()
    answer = httpx.post(f"{far.url}/v1/chat/completions", json=chat(), headers=key)
    assert answer.status_code == 503 and answer.json()["error"]["code"] == "engine_unavailable"


def test_without_an_address_it_is_not_asked(web, far):
    Worker.objects.update(url="")
    engines.forget()
    error_of(web.ask(CHAT, chat()), 503, "model_not_loaded")
    Worker.objects.update(hostname=socket.gethostname())
    assert web.ask(CHAT, chat()).status == 200
