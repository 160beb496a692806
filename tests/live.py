"""A whole vbs as users run it, in a data folder of its own, for tests that look at it from outside."""

import atexit
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil

from vbs.run.stack import BASE_DIR, Stack, free_port

TERMINAL = {"completed", "failed", "expired", "cancelled"}
CHAT = "/v1/chat/completions"


def line(custom_id: str, text: str = "hello", model: str = "scripted", **body: Any) -> dict[str, Any]:
    request = {"model": model, "messages": [{"role": "user", "content": text}]} | body
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": request}


# One process for both, where `manage.py create_api_key` would be two: each takes seconds.
KEYS = """
from vbs.accounts.models import ApiKey, Project
for name in ("one", "two"):
    print(ApiKey.objects.issue(Project.objects.get_or_create(name=name)[0], "test")[1])
"""


class Live:
    """The running system, and clients of it."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.url = f"{stack.url}/v1"
        self.key, self.other_key = self.manage("shell", "--verbosity=0", "-c", KEYS).split()[-2:]
        self.client = self.open(self.key)
        self.http = httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {self.key}"}, timeout=60)

    def open(self, key: str) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url, api_key=key, max_retries=0, timeout=60)

    def manage(self, *words: str) -> str:
        command = [sys.executable, str(BASE_DIR / "manage.py"), *words]
        done = subprocess.run(command, env=self.stack.environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def add_scripted(self, name: str = "scripted", **args: Any) -> None:
        words = ["--arg=counters", *(f"--arg={key}={value}" for key, value in args.items())]
        self.manage("model", "add", name, "scripted:", *words)

    def upload(self, lines: Any, name: str = "in.jsonl") -> Any:
        if isinstance(lines, (str, bytes)):
            data = lines.encode() if isinstance(lines, str) else lines
        else:
            data = b"".join(json.dumps(one).encode() + b"\n" for one in lines)
        return self.client.files.create(file=(name, io.BytesIO(data)), purpose="batch")

    def create(self, lines: Any, **options: Any) -> Any:
        options = {"endpoint": CHAT, "completion_window": "24h"} | options
        return self.client.batches.create(input_file_id=self.upload(lines).id, **options)

    def retrieve(self, batch_id: str) -> Any:
        """The batch; while the web server is being started again, wait for it."""
        end = time.monotonic() + 60
        while True:
            try:
                return self.client.batches.retrieve(batch_id)
            except (openai.APIConnectionError, openai.InternalServerError):
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)

    def wait(self, batch: Any, until: set[str] = TERMINAL, seconds: float = 120, done: int = 0) -> Any:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            batch = self.retrieve(batch.id)
            if (batch.status in until and batch.request_counts.completed >= done) or batch.status in TERMINAL:
                return batch
            time.sleep(0.05)
        raise AssertionError(f"{batch.id} is still {batch.status} ({batch.request_counts}): {self.log(batch)}")

    def run(self, lines: Any, **options: Any) -> Any:
        return self.wait(self.create(lines, **options))

    def log(self, batch: Any) -> str:
        return self.http.get(f"/batches/{batch.id}/logs").text

    def lines(self, file_id: str | None) -> list[dict[str, Any]]:
        if file_id is None:
            return []
        return [json.loads(one) for one in self.client.files.content(file_id).text.splitlines()]

    def books(self, batch: Any, custom_ids: list[str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Every request is in exactly one of the two files, and the counts say the same."""
        good, bad = self.lines(batch.output_file_id), self.lines(batch.error_file_id)
        assert Counter(one["custom_id"] for one in good + bad) == Counter(custom_ids), self.log(batch)
        counts = batch.request_counts
        assert (counts.completed, counts.failed, counts.total) == (len(good), len(bad), len(custom_ids))
        return good, bad

    def pids(self) -> dict[str, int]:
        """What could be killed: each program, the processes below it, the engine, and PostgreSQL."""
        found = {}
        for program in self.stack.states():
            if program.pid:
                found[program.name] = program.pid
                with suppress(psutil.NoSuchProcess):
                    for number, child in enumerate(psutil.Process(program.pid).children(recursive=True)):
                        found[f"{program.name}-{number}"] = child.pid
        state = self.stack.data / "run" / "gpu" / "engine.json"
        if state.exists():
            found["engine"] = json.loads(state.read_text())["pid"]
        postmaster = self.stack.data / "postgres" / "postmaster.pid"
        if postmaster.exists():
            found["postmaster"] = int(postmaster.read_text().split()[0])
        return found


@cache
def collected() -> Path:
    """The static files as `manage.py prepare` collects them, which takes seconds: once for all systems of a session."""
    folder = Path(tempfile.mkdtemp(prefix="vbs-static-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    code = "from vbs.management.commands.prepare import collect; collect()"
    command = [sys.executable, str(BASE_DIR / "manage.py"), "shell", "--verbosity=0", "-c", code]
    subprocess.run(command, env=os.environ | {"VBS_DATA_DIR": str(folder)}, check=True, timeout=300)
    return folder / "static"


@contextmanager
def live(**environment: str) -> Iterator[Live]:
    folder = Path(tempfile.mkdtemp(prefix="vbs-live-"))
    folder.chmod(0o711)
    shutil.copytree(collected(), folder / "static")
    clean = {name: "" for name in ("DATABASE_URL", "Q_CLUSTER_NAME") if name in os.environ}
    try:
        with Stack(folder, port=free_port(), environment=clean | environment) as stack:
            stack.wait_ready()
            yield Live(stack)
    finally:
        if os.environ.get("VBS_KEEP_TEST_DATA"):
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
