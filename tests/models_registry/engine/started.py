"""An engine's process in a folder of its own, for tests."""

import asyncio
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import httpx2
import psutil
import pytest

from models_registry.engine import server
from models_registry.engine.client import Answer, Call, Client, Limits
from models_registry.engine.machine import leftovers
from models_registry.engine.spec import EngineKind, EngineSpec


def spec(name="one", **args):
    return EngineSpec(name, "", kind=EngineKind.SCRIPTED, args=tuple(sorted(args.items())))


@pytest.fixture
def home():
    folder = Path(tempfile.mkdtemp(prefix="vbs-engine-"))
    yield folder
    leftovers.end(folder)
    shutil.rmtree(folder)


@pytest.fixture
def start(home):
    def begin(one=None, timeout=30, on_progress=lambda words: None):
        return server.start(one or spec(), home, timeout, on_progress)

    return begin


@contextmanager
def scripted(*options, name="far"):
    """A scripted engine on a port, as a remote server: its process and its URL."""
    command = [sys.executable, "-m", "models_registry.engine.scripted.server", "--port", "0", *options]
    with subprocess.Popen([*command, "--served-model-name", name], stdout=subprocess.PIPE, text=True) as process:
        try:
            said = next(line for line in process.stdout if line.startswith("Listening"))
            port = said.rpartition(", ")[2].strip().rstrip(")")
            yield process, f"http://127.0.0.1:{port}/v1"
        finally:
            process.send_signal(signal.SIGCONT)
            process.kill()


def gone(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def until(true, seconds=15):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def ask(engine, key=None, path="/v1/models"):
    with httpx2.Client(transport=httpx2.HTTPTransport(uds=engine.address.socket)) as client:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return client.get(f"http://engine{path}", headers=headers).status_code


# The client.


def calls(*texts):
    async def made():
        for number, text in enumerate(texts):
            body = {"model": "one", "messages": [{"role": "user", "content": text}]}
            yield Call(number, "/chat/completions", json.dumps(body).encode())

    return made()


def collect(engine, texts, window=4, **limits):
    async def run() -> list[Answer]:
        return [one async for one in Client(engine, Limits(**limits)).answers(calls(*texts), window)]

    return asyncio.run(run())
