"""A batch for an adapter that is on its way from a hub waits for it, and is answered by it on its base's engine."""

import uuid

from batches.models import TERMINAL
from models_registry.hub import download_run, downloads
from tests.batches.run.test_adapters import said
from tests.engines import line
from tests.models_registry.hub.test_adapters import on_hub
from tests.models_registry.hubs import running


def test_it_waits_and_is_served_as_a_local_one(add_model, submitted, gpu, close, tmp_path, settings, monkeypatch):
    with running(tmp_path, settings, monkeypatch) as served:
        on_hub(served)
        base = add_model("base")
        tuned = downloads.add("tuned", "org/lora", base=base)
        downloads.start(tuned)
        batches = [submitted([line(name, "hello", model=name)]) for name in ("tuned", "base")]
        gpu.serve()
        assert said(close(batches[1])[0]) == {"hello"}
        batches[0].refresh_from_db()
        assert batches[0].status not in TERMINAL, "it waits"
        download_run.run(tuned.pk, uuid.uuid4())
        gpu.serve()
        assert said(close(batches[0])[0]) == {"hello (as tuned says it)"}
        tuned.refresh_from_db()
        assert gpu.worker.adapters == [tuned.served_name]
