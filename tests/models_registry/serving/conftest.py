"""Our ASGI application with an engine, in this process, and a client of it that can go away."""

import asyncio
import gc
import json
import socket

import pytest

from models_registry.engine import control
from models_registry.engine.resident import Resident
from models_registry.gpu.loop import Gpu
from models_registry.models import Worker
from models_registry.serving import engines, links
from models_registry.serving.ledger import Ledger
from vbs.accounts.models import ApiKey, Project
from vbs.http.handler import Handler


class Exchange:
    """One request, and what has been answered so far."""

    def __init__(self, path, body, headers):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {"host": "localhost", "content-type": "application/json", "content-length": str(len(content))} | headers
        path, _, query = path.partition("?")
        self.scope = {
            "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": query.encode(),
            "headers": [(name.lower().encode(), value.encode()) for name, value in named.items()],
        }  # fmt: skip
        self._incoming: asyncio.Queue = asyncio.Queue()
        self._incoming.put_nowait({"type": "http.request", "body": content, "more_body": False})
        self.status, self.headers, self.pieces = None, {}, []
        self.came = asyncio.Event()

    async def _send(self, message):
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode().lower(): value.decode() for name, value in message["headers"]}
        elif message.get("body"):
            self.pieces.append(message["body"])
        self.came.set()

    def start(self):
        self.task = asyncio.create_task(Handler()(self.scope, self._incoming.get, self._send))
        return self

    def leave(self):
        self._incoming.put_nowait({"type": "http.disconnect"})

    @property
    def content(self):
        return b"".join(self.pieces)

    def json(self):
        return json.loads(self.content)

    def events(self):
        found = [line[6:] for line in self.content.decode().splitlines() if line.startswith("data: ")]
        return [one if one == "[DONE]" else json.loads(one) for one in found]


class Web:
    def __init__(self, key):
        self.key = key

    def begin(self, path, body, key="", **headers):
        given = {"authorization": f"Bearer {key or self.key}"} | {
            one.replace("_", "-"): headers[one] for one in headers
        }
        return Exchange(f"/v1{path}", body, given).start()

    async def post(self, path, body, key="", **headers):
        exchange = self.begin(path, body, key, **headers)
        await exchange.task
        return exchange

    def run(self, conversation):
        """Run the conversation in an event loop, and close what it had opened."""

        async def whole():
            try:
                return await asyncio.wait_for(conversation(), 60)
            finally:
                await links.close()

        try:
            return asyncio.run(whole())
        finally:
            gc.collect()  # the connections of threads that have ended

    def ask(self, path, body, key="", **headers):
        return self.run(lambda: self.post(path, body, key, **headers))


@pytest.fixture
def web(project, monkeypatch):
    engines.forget()
    monkeypatch.setattr("models_registry.serving.forward.ledger", Ledger())
    yield Web(ApiKey.objects.issue(project, "test")[1])
    engines.forget()


@pytest.fixture
def other_key(transactional_db):
    return ApiKey.objects.issue(Project.objects.create(name="other"), "test")[1]


@pytest.fixture
def served(home, add_model, transactional_db):
    """Loads a scripted model with these options; returns its GPU."""
    made = []

    def load(name="scripted", **args):
        model = add_model(name, **args)
        folder = home / str(len(made))
        worker = Worker.objects.create(cluster="gpu", hostname=socket.gethostname(), pid=1, home=str(folder))
        gpu = Gpu(worker, Resident(folder, start_seconds=30))
        made.append(gpu)
        gpu.load(model, lambda words: None)
        gpu.show("idle")
        return gpu

    yield load
    for gpu in made:
        gpu.resident.release()


def stats(gpu):
    return json.loads(control.request(gpu.resident.engine.address, "GET", "/stats")[1])


def chat(text="one two three", model="scripted", **more):
    return {"model": model, "messages": [{"role": "user", "content": text}]} | more
