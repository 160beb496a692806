"""Engines that end while nothing runs on them: told once, with the reason; what we end ourselves is none of them."""

import os
import signal
import time

import pytest

from models_registry.engine import process_end, server
from models_registry.models import Worker, WorkerState
from models_registry.pages.machines import machines
from tests.models_registry.test_metrics import scrape
from vbs.pages.viewer import Viewer


def gone(engine):
    end = time.monotonic() + 20
    while engine.alive():
        assert time.monotonic() < end
        time.sleep(0.02)


def files(folder, **texts):
    for name, text in texts.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_an_idle_engine_that_is_killed(gpu, add_model, caplog):
    engine = gpu.load(add_model("m"), print)
    gpu.show(WorkerState.IDLE)
    assert not gpu.losses.look(gpu.resident)
    os.kill(engine.pid, signal.SIGKILL)
    gone(engine)
    assert gpu.losses.look(gpu.resident) and gpu.losses.look(gpu.resident)
    assert (
        caplog.text.count("Engine of m: it has ended while it was idle (killed by SIGKILL, which the system also sends")
        == 1
    )
    reading = gpu.losses.reading()
    assert (reading["memory"], reading["other"], reading["last"]["model"]) == (0, 1, "m")
    gpu.serve()
    assert not gpu.loaded and not gpu.losses.look(gpu.resident)
    worker = Worker.objects.get(pk=gpu.worker.pk)
    worker.set(
        health={"devices": [], "losses": reading} | dict.fromkeys(("memory_used", "memory_total", "utilization"), 0)
    )
    said = machines([worker], Viewer(frozenset(), None)).children[0].context["workers"][0].lost
    assert said.startswith("The idle engine of m ended <time ") and "killed by SIGKILL" in said
    lost = {labels["why"]: count for labels, count in scrape()["vbs_engine_losses"] if labels["worker"] == str(worker)}
    assert lost == {"memory": 0, "other": 1}


def test_for_want_of_memory(gpu, add_model, monkeypatch):
    monkeypatch.setattr(process_end, "memory_kills", lambda: 3)
    engine = gpu.load(add_model("m"), print)
    os.kill(engine.pid, signal.SIGKILL)
    gone(engine)
    monkeypatch.setattr(process_end, "memory_kills", lambda: 4)
    assert gpu.losses.look(gpu.resident)
    assert gpu.losses.memory == 1 and "because memory ran out" in gpu.losses.last["how"]


def test_a_swap_is_no_loss(gpu, add_model, monkeypatch):
    """Whoever looks at any moment of it: the engine that ends is not the loaded one by then."""
    looked = []
    stop = server.stop

    def stop_and_look(*args, **options):
        looked.append(gpu.losses.look(gpu.resident))
        stop(*args, **options)
        looked.append(gpu.losses.look(gpu.resident))

    monkeypatch.setattr(server, "stop", stop_and_look)
    gpu.load(add_model("one"), print)
    gpu.load(add_model("two"), print)
    gpu.resident.unload("two")
    assert looked == [False] * 4


@pytest.mark.parametrize(
    "texts, kills",
    [
        ({}, None),
        ({"proc__vmstat": "oom_kill 7\n"}, 7),
        ({"proc__self__cgroup": "0::/a/b\n", "cgroups__a__b__memory_dot_events": "oom 9\noom_kill 2\n"}, 2),
        (
            {
                "proc__self__cgroup": "0::/\n",
                "cgroups__memory_dot_events": "oom_kill 4\n",
                "proc__vmstat": "oom_kill 7\n",
            },
            4,
        ),
        ({"proc__self__cgroup": "0::/gone\n", "proc__vmstat": "x 1\noom_kill 7\n"}, 7),
        ({"proc__self__cgroup": "3:cpu,memory:/a\n", "cgroups__memory__a__memory_dot_oom_control": "oom_kill 5\n"}, 5),
    ],
)
def test_what_the_kernel_tells(tmp_path, texts, kills):
    files(tmp_path, **texts)
    assert process_end.memory_kills(tmp_path / "proc", tmp_path / "cgroups") == kills


def test_a_worker_whose_row_was_swept_comes_back(gpu):
    """A machine that slept for hours: its leases have the id of the worker, which stays."""
    Worker.objects.all().delete()
    gpu.show(WorkerState.IDLE, "awake again")
    worker = Worker.objects.get(pk=gpu.worker.pk)
    assert worker.alive and (worker.cluster, worker.activity) == ("gpu", "awake again")
    worker.delete()
    worker.set(activity="of no row")
    assert not Worker.objects.exists()
