"""What the arbiter reads of a long queue: it chooses as if it had read all of it."""

import random
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from batches.models import Batch, batch_rows
from batches.queue import forecast
from batches.run.workload import BatchesWorkload
from models_registry.gpu.arbiter import choose, patience
from models_registry.models import Model
from vbs.accounts.models import Project

pytestmark = pytest.mark.django_db


@pytest.fixture
def queue():
    project = Project.objects.create(name="p")
    for name in "ab":
        Model.objects.create(name=name, kind="scripted", state="ready")
    now = timezone.now()

    def add(count=1, model="a", waited=1.0, left=20 * 60.0, priority=0, **fields):
        """Minutes that they have waited, and have left."""
        given = {"project": project, "endpoint": "/v1/chat/completions", "completion_window": "24h", "total": 2}
        given |= {"model_names": [model], "priority": priority, "expires_at": now + timedelta(minutes=left)}
        given |= {"validated_at": now - timedelta(minutes=waited)} | fields
        return Batch.objects.bulk_create(Batch(**given) for _ in range(count))[-1]

    return add


def chosen(loaded="", loaded_minutes=5):
    now = timezone.now()
    return choose(
        BatchesWorkload().waiting(loaded), loaded, now - timedelta(minutes=loaded_minutes), now, patience()
    ).id


def test_a_deadline_behind_a_thousand_others(queue):
    queue(1000, waited=9)
    urgent = queue(waited=1, left=10, completion_window="1h")
    assert chosen("a") == urgent.pk
    assert forecast.plan().keys() >= {urgent.pk}


def test_the_loaded_model_behind_a_thousand_others(queue):
    queue(1000, waited=9)
    loaded = queue(model="b", waited=1)
    assert chosen("b") == loaded.pk


def test_a_higher_priority_behind_a_thousand_others(queue):
    queue(1000, waited=9)
    higher = queue(model="b", waited=1, priority=1)
    assert chosen("a") == higher.pk


def test_a_short_queue_takes_one_query(queue):
    queue(100)
    with CaptureQueriesContext(connection) as seen:
        Batch.objects.candidates({"a"}, timezone.now())
    assert len(seen) == 1


@pytest.mark.parametrize("seed", range(12))
def test_as_if_all_were_read(queue, monkeypatch, seed):
    print("seed", seed)
    dice = random.Random(seed)
    for _ in range(120):
        queue(
            model=dice.choice("ab"),
            waited=dice.choice((1, 5, 29, 31, 60)) + dice.random(),
            left=dice.choice((5, 20, 100, 1000)),
            priority=dice.choice((0, 0, 0, 1)) if seed % 2 else 0,
        )
    loaded, minutes = dice.choice(("a", "b", "")), dice.choice((1, 40))
    whole = chosen(loaded, minutes)
    monkeypatch.setattr(batch_rows, "OF_A_KIND", 3)
    monkeypatch.setattr(Batch.objects.get_queryset().__class__.candidates, "__defaults__", (3,))
    assert len(BatchesWorkload().waiting(loaded)) < 16
    assert chosen(loaded, minutes) == whole
