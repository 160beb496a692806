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
    for name, seconds in {"LOOK": 0.2, "HEALTH": 0.2, "SILENT": 1}.items():
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
