"""A worker is stopped for longer than its lease, and goes on: nothing waits for it, and nothing is counted twice."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.live import Live, line, live
from vbs.run.stack import BASE_DIR

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def vbs():
    with live(VBS_LEASE_SECONDS="5") as running:
        journal = running.stack.data / "journal"
        running.add_scripted("scripted", **{"max-num-seqs": 16, "latency-ms": 100, "journal": journal})
        yield running


def sent(vbs: Live) -> Counter:
    return Counter(json.loads(one)["text"] for one in (vbs.stack.data / "journal").read_text().splitlines())


@contextmanager
def another_worker(vbs: Live) -> Iterator[None]:
    """With an engine of its own, as on another GPU."""
    command = [sys.executable, str(BASE_DIR / "manage.py"), "worker", "gpu"]
    environment = vbs.stack.environment | {"VBS_WORKER_NAME": "second", "Q_CLUSTER_NAME": ""}
    with (vbs.stack.data / "logs" / "second.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        until(lambda: len(gpu_workers(vbs)) == 2)
        yield
    finally:
        process.terminate()
        process.wait(60)


def gpu_workers(vbs: Live) -> list[dict[str, Any]]:
    return [one for one in json.loads(vbs.manage("status", "--json"))["workers"] if one["cluster"] == "gpu"]


def until(true: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.2)


def test_a_worker_is_frozen_beyond_its_lease_and_comes_back(vbs):
    """Another has taken its batch over meanwhile, within seconds; what it still has to say changes nothing."""
    ids = [f"frozen-{n}" for n in range(3000)]
    with another_worker(vbs):
        batch = vbs.wait(vbs.create([line(one, one) for one in ids]), until={"in_progress"}, done=50)
        (pid,) = [one["pid"] for one in gpu_workers(vbs) if one["state"] == "running"]
        os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        try:
            until(lambda: all(one["state"] != "idle" for one in gpu_workers(vbs)))
            print(f"the other worker began after {time.monotonic() - began:.1f} s")
            assert time.monotonic() - began < 5 + 15, "the lease, and a heartbeat or two, without its engine's start"
            until(lambda: vbs.http.get(f"/batches/{batch.id}").json()["attempts"] == 2)
            until(lambda: vbs.retrieve(batch.id).request_counts.completed > 200)
        finally:
            os.kill(pid, signal.SIGCONT)
        ended = vbs.wait(batch, seconds=240)
        log = vbs.log(ended)
        assert ended.status == "completed", log
        assert (
            f"The gpu worker with pid {pid} has not answered since" in log
            and "when it was last heard of, run again" in log
        )
        assert f"The gpu worker with pid {pid} is back, but the gpu worker" in log
        good, bad = vbs.books(ended, ids)
        assert not bad and {one["custom_id"] for one in good} == set(ids)
        times = sent(vbs)
        assert max(times[one] for one in ids) <= 2 and sum(times[one] - 1 for one in ids) < 300, "it sent nothing more"
        until(lambda: all(one["state"] == "idle" for one in gpu_workers(vbs)))
    ended = vbs.wait(vbs.create([line(one, f"after {one}") for one in ids[:20]]), seconds=60)
    assert ended.status == "completed", "it is as good as new"
