"""Batches and operations in this process: made, run on the scripted engine and finished without a cluster.

Fixtures for every test; those with a name of their own in a test's module are meant there.
"""

import json
import shutil
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from django.db import connection

from batches import tasks
from batches.files import blobs, store
from batches.finish import outputs
from batches.intake import submit
from batches.models import Batch, BatchStatus
from models_registry.engine.resident import Resident
from models_registry.gpu.lanes import RemoteLane
from models_registry.gpu.loop import Gpu
from models_registry.models import Model, Worker
from vbs.accounts.models import Project
from vbs.database import outages

CHAT = "/v1/chat/completions"


def line(custom_id, text="hello", model="scripted", **body):
    request = {"model": model, "messages": [{"role": "user", "content": text}]} | body
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": request}


def lines_of(file):
    if file is None:
        return []
    with blobs.open_blob(file.blob) as content:
        return [json.loads(one) for one in content.read().splitlines()]


def status_of(batch: Batch) -> str:
    batch.refresh_from_db()
    return batch.status


@pytest.fixture
def project(transactional_db):
    return Project.objects.create(name="project")


@pytest.fixture
def home():
    folder = Path(tempfile.mkdtemp(prefix="vbs-engine-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def add_model(transactional_db):
    def add(name="scripted", **args):
        return Model.objects.create(name=name, kind="scripted", engine_args={"counters": True} | args)

    return add


@pytest.fixture
def make_gpu(home, transactional_db, monkeypatch):
    """A GPU with its worker; each call is another one. What they loaded ends with the test."""
    made = []
    outages.stopping.clear()

    def make():
        worker = Worker.objects.create(cluster="gpu", hostname="test", pid=1)
        gpu = Gpu(worker, Resident(home / str(len(made)), start_seconds=30))
        made.append(gpu)
        return gpu

    yield make
    for gpu in made:
        gpu.resident.release()
    outages.stopping.clear()


@pytest.fixture
def lane(gpu):
    """The lane of a remote model, in this thread: `lane("far").serve()`."""
    made = {}

    def of(name):
        return made.setdefault(name, RemoteLane(name, gpu.worker))

    return of


@pytest.fixture
def gpu(make_gpu):
    return make_gpu()


@pytest.fixture
def submitted(project):
    """A batch of these lines, validated."""

    def make(lines, **options):
        content = lines if isinstance(lines, bytes) else b"".join(json.dumps(one).encode() + b"\n" for one in lines)
        with blobs.scratch() as scratch:
            scratch.write(content)
            scratch.flush()
            file = store.store(project, Path(scratch.name), "in.jsonl", "batch", None)
        batch = submit.create(project, file.pk, **{"endpoint": CHAT, "completion_window": "24h"} | options)
        tasks.validate(batch.pk)
        batch.refresh_from_db()
        return batch

    return make


@pytest.fixture
def close():
    """Write the files of a batch that has run, and check its books."""

    def finish(batch):
        outputs.finalize(batch.pk)
        batch.refresh_from_db()
        good, bad = lines_of(batch.output_file), lines_of(batch.error_file)
        assert (batch.completed, batch.failed) == (len(good), len(bad))
        assert not [one for one, count in Counter(one["custom_id"] for one in good + bad).items() if count > 1]
        if batch.status in (BatchStatus.COMPLETED, BatchStatus.EXPIRED, BatchStatus.CANCELLED):
            assert len(good) + len(bad) == batch.total
        return good, bad

    return finish


def text_of(one):
    return one["response"]["body"]["choices"][0]["message"]["content"]


def sent(journal):
    """The texts that the engine received, in order; but for one of which it has written only the beginning."""
    whole, _, _ = journal.read_text().rpartition("\n")
    return [json.loads(one)["text"] for one in whole.splitlines()]


def fresh(batch):
    return Batch.objects.get(pk=batch.pk)


def in_thread(gpu):
    """Has the GPU serve in a thread, which is returned."""
    thread = threading.Thread(target=lambda: (gpu.serve(), connection.close()))
    thread.start()
    return thread


def until(true, seconds=20):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
