"""Batches that wait, with models of which it is known how fast they are: for tests of what is told of them."""

import json
import uuid
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone

from batches.files import blobs
from batches.files import store as files
from batches.models import Batch, BatchRequest
from batches.queue import snapshot
from models_registry.models import Measurement, Model, Worker
from models_registry.speed import speeds
from tests.engines import CHAT, line

FOREVER = timedelta(days=365)


@pytest.fixture(autouse=True)
def one_at_a_time(monkeypatch):
    monkeypatch.setattr(speeds, "WINDOW", 1)  # one request after the other: a batch takes requests times pace
    snapshot.forget()
    yield
    snapshot.forget()


# With the tables


def model(name, pace=None, load=None, **fields):
    """`pace`: seconds per request. `load`: seconds."""
    made = Model.objects.create(name=name, kind="scripted", **fields)
    if pace is not None:
        Measurement.objects.create(model=made, kind="batch", requests=100, seconds=100 * pace, input_tokens=1)
    if load is not None:
        Measurement.objects.create(model=made, kind="load", load_seconds=load)
    return made


@pytest.fixture
def worker(transactional_db):
    return Worker.objects.create(cluster="gpu", hostname="test", pid=1)


@pytest.fixture
def queued(project):
    """A batch in the queue, with so many requests for each of these models."""
    made = []

    def make(*counts, waited=0.0, **fields):
        now = timezone.now()
        batch = Batch.objects.create(
            project=project,
            input_file_id_given="x",
            endpoint=CHAT,
            completion_window="24h",
            expires_at=now + FOREVER,
            validated_at=now - timedelta(seconds=waited),
            model_names=[name for name, _ in counts],
            **{"total": sum(count for _, count in counts)} | fields,
        )
        rows = [index for index, (_, count) in enumerate(counts) for _ in range(count)]
        BatchRequest.objects.bulk_create(
            BatchRequest(
                batch=batch, line=number, offset=0, length=1, custom_id=f"{number}", model_index=index,
                prefix=uuid.UUID(int=0),
            )
            for number, index in enumerate(rows, 1)
        )  # fmt: skip
        made.append(batch)
        return batch

    return make


# The beginning of a file


@pytest.fixture
def stored(project):
    def store(content, purpose="batch"):
        with blobs.scratch() as scratch:
            scratch.write(content)
            scratch.flush()
            return files.store(project, Path(scratch.name), "in.jsonl", purpose, None)

    return store


def lines(count, model="known", text="hello", **body):
    """Their answers have a limit, unless `max_tokens` is None."""
    made = [line(str(number), text, model, **{"max_tokens": 9} | body) for number in range(count)]
    return b"".join(json.dumps(one).encode() + b"\n" for one in made)
