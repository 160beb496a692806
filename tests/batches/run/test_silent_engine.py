"""An engine that is frozen while a batch runs on it: found, told in the batch's log, and started again."""

import os
import signal
import threading

import pytest
from django.db import connection

from batches.models import BatchStatus
from models_registry.engine.watch import liveness
from tests.engines import fresh, line, until


@pytest.fixture
def impatient(monkeypatch):
    for name, seconds in {"LOOK": 0.2, "HEALTH": 0.2, "SILENT": 1, "STILL": 2}.items():
        monkeypatch.setattr(liveness, f"{name}_SECONDS", seconds)


def test_a_frozen_engine_costs_a_minute_and_no_request(add_model, submitted, gpu, close, impatient):
    add_model(**{"latency-ms": 100, "max-num-seqs": 2})
    batch = submitted([line(f"{number}") for number in range(40)])
    thread = threading.Thread(target=lambda: (gpu.serve(), connection.close()))
    thread.start()
    until(lambda: fresh(batch).completed)
    os.kill(gpu.resident.engine.pid, signal.SIGSTOP)
    thread.join(60)
    assert not thread.is_alive()
    good, bad = close(batch)
    assert len(good) == 40 and not bad and fresh(batch).status == BatchStatus.COMPLETED
    said = "\n".join(event.message for event in batch.events.all())
    assert "requests in flight: it gave no sign of life for " in said and "its process is stopped" in said
    assert said.count("Loaded scripted") == 2


def test_an_engine_that_makes_no_step_is_ended_and_a_slow_one_is_not(
    add_model, submitted, gpu, close, impatient, tmp_path
):
    """Both answer `/health`. The slow one writes a word now and then."""
    add_model(**{"token-ms": 1000, "max-num-seqs": 2})
    batch = submitted(
        [line("slow", "one two three four five"), line("hangs", f"[[hang-times 1 {tmp_path / 'count'}]]")]
    )
    gpu.serve()
    good, bad = close(batch)
    assert len(good) == 2 and not bad
    said = [event.message for event in batch.events.all() if "died" in event.message]
    assert len(said) == 1 and "with 1 requests in flight: it computed without any step forward for " in said[0]
