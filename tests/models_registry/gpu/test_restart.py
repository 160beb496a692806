"""A worker that is asked to start anew does so, in order, and nothing of what it ran is lost."""

import os
import signal
import time
from datetime import timedelta

import pytest
from django.utils import timezone

from models_registry.catalog.folders import ModelError
from models_registry.gpu import control
from models_registry.gpu import worker_process as worker_module
from models_registry.models import Worker
from tests.live import line, live
from vbs.database import outages


def worker(**fields):
    return Worker.objects.create(**{"cluster": "gpu", "hostname": "here", "pid": 1} | fields)


def test_only_who_lives_can_be_asked(db):
    there, dead = worker(), worker(heartbeat_at=timezone.now() - timedelta(minutes=1))
    assert not there.restart_asked()
    control.restart(there)
    assert there.restart_asked()
    with pytest.raises(ModelError, match="gives no sign of life"):
        control.restart(dead)
    assert not dead.restart_asked()
    Worker.objects.filter(pk=there.pk).delete()
    assert not there.restart_asked()
    with pytest.raises(ModelError):
        control.restart(there)


def test_what_was_asked_before_it_started_is_not_for_it(db):
    there = worker(restart_asked_at=timezone.now() - timedelta(seconds=1), started_at=timezone.now())
    assert not there.restart_asked()


def test_a_heartbeat_sees_it_and_ends_the_cluster_once(db, monkeypatch):
    there = worker()
    sent, beats = [], iter(range(4))

    def beat(seconds):
        if next(beats, None) is None:
            raise SystemExit

    monkeypatch.setattr(worker_module.time, "sleep", beat)
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    monkeypatch.setattr(outages, "cluster_pid", 4711)
    try:
        with pytest.raises(SystemExit):
            worker_module._beat(there)
        assert sent == []
        beats = iter(range(4))
        control.restart(there)
        with pytest.raises(SystemExit):
            worker_module._beat(there)
    finally:
        outages.restarting.clear()
    assert sent == [(4711, signal.SIGTERM)]


# A whole vbs

ASK = (
    "from models_registry.gpu import control; from models_registry.models import Worker; "
    "[control.restart(one) for one in Worker.objects.filter(cluster='{}')]"
)
WHO = "from models_registry.models import Worker; print('pids', *Worker.objects.values_list('pid', flat=True))"


def who(vbs):
    said = next(one for one in vbs.manage("shell", "-c", WHO).splitlines() if one.startswith("pids"))
    return {int(pid) for pid in said.split()[1:]}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_batch_goes_on_after_its_worker_has_started_anew():
    with live(VBS_LEASE_SECONDS="5") as vbs:
        vbs.add_scripted("scripted", **{"max-num-seqs": 4, "latency-ms": 100})
        batch = vbs.create([line(f"r{n}", f"hello {n}") for n in range(500)])
        vbs.wait(batch, until={"in_progress"}, done=20)
        before, old = vbs.pids(), who(vbs)
        for cluster in ("gpu", "io"):
            vbs.manage("shell", "-c", ASK.format(cluster))
        deadline = time.monotonic() + 60
        while not {name: vbs.pids().get(name) for name in ("gpu", "io")}.items().isdisjoint(before.items()):
            assert time.monotonic() < deadline, vbs.pids()
            time.sleep(0.2)
        ended = vbs.wait(batch)
        assert ended.status == "completed", vbs.log(ended)
        _, bad = vbs.books(ended, [f"r{n}" for n in range(500)])
        assert not bad and not old & who(vbs)
        assert "scripted" in vbs.log(ended)
        assert vbs.pids()["web"] == before["web"]
