"""`manage.py status`: what it says of a whole system, of a broken one and of none; it starts nothing."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from batches.management.commands import status
from models_registry.models import Worker
from tests.live import live
from vbs.run import postgres
from vbs.run.stack import BASE_DIR, free_port


@pytest.fixture
def folder():
    """Not tmp_path: a socket's path must be short."""
    path = Path(tempfile.mkdtemp(prefix="vbs-status-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


def ask(environment, *words):
    command = [sys.executable, "-m", "django", "status", *words]
    environment = environment | {"DJANGO_SETTINGS_MODULE": "vbs.settings"}
    return subprocess.run(command, env=environment, cwd=BASE_DIR, capture_output=True, text=True, timeout=120)


def test_where_nothing_runs_it_says_so_and_starts_nothing(folder):
    environment = os.environ | {"VBS_DATA_DIR": str(folder), "VBS_PORT": str(free_port()), "DATABASE_URL": ""}
    said = ask(environment)
    assert said.returncode == 1
    assert "No web server answers at http://127.0.0.1:" in said.stderr
    assert "the embedded PostgreSQL does not run" in said.stderr
    assert "'manage.py up' starts it" in said.stderr
    assert "Traceback" not in said.stderr
    found = ask(environment, "--json")
    assert found.returncode == 1
    shown = json.loads(found.stdout)
    assert (shown["ok"], shown["supervisor"], shown["workers"], shown["queue"]) == (False, None, [], None)
    assert not (folder / "postgres").exists()
    assert not list((folder / "run").glob("*")), "the folder is closed to others, and nothing is in it"


def test_a_database_that_is_elsewhere_and_away(folder):
    address = f"postgresql://nobody@127.0.0.1:{free_port()}/none"
    environment = os.environ | {"VBS_DATA_DIR": str(folder), "VBS_PORT": str(free_port()), "DATABASE_URL": address}
    said = ask(environment)
    assert said.returncode == 1
    assert "The database does not answer: connection" in said.stderr


@pytest.fixture
def web(monkeypatch):
    """A web server that is well."""
    state = {"url": "http://here", "answers": True, "ready": {"database": "ok"}, "detail": ""}
    monkeypatch.setattr(status, "_web", lambda: state)
    return state


def worker(cluster, seconds=1, **fields):
    fields = {"hostname": socket.gethostname(), "pid": 1} | fields
    return Worker.objects.create(cluster=cluster, heartbeat_at=timezone.now() - timedelta(seconds=seconds), **fields)


@pytest.fixture
def database(transactional_db, monkeypatch):
    monkeypatch.setattr(postgres, "running", lambda data: 1)


def problems():
    return list(status.problems(status.look()))


def test_what_workers_measure_and_have_lost(web, database):
    device = {"name": "NVIDIA H200", "memory_used": 5, "memory_total": 9, "temperature": 40}
    losses = {"memory": 1, "other": 0, "last": {"model": "m", "how": "the system killed it", "at": 1.0}}
    worker("gpu", health={"kind": "gpu", "devices": [device], "losses": losses})
    found = status.look()
    assert found["workers"][0]["health"]["devices"] == [device]
    assert ["  lost", "the idle engine of m: the system killed it"] in list(status.rows(found))


def test_the_remote_models_that_run(web, database):
    lane = {"model": "far", "state": "running", "why": "", "window": 24, "in_flight": 20, "requests_per_second": 2.5}
    addresses = [
        {"url": "http://a/v1", "state": "open", "why": ""},
        {"url": "http://b/v1", "state": "held", "why": "it answered 429"},
    ]
    worker("gpu", lanes=[lane | {"addresses": addresses}])
    said = "far: running, 20 of 24 in flight, 2.5 requests/s (http://b/v1 held: it answered 429)"
    assert ["  lane", said] in list(status.rows(status.look()))


def test_all_is_well(web, database, capsys):
    worker("io")
    worker("gpu", model_name="m\x1b[31m", engine_pid=os.getpid(), engine_url="/run/engine.sock", activity="x\x9b2J")
    worker("gpu", seconds=600)  # one that was killed, and another took its place
    assert problems() == []
    call_command("status")
    shown = capsys.readouterr().out
    assert f"m\\x1b[31m: pid {os.getpid()}, alive, at /run/engine.sock" in shown
    assert "SILENT" in shown
    assert "none yet" in shown
    assert all(character.isprintable() for character in shown.replace("\n", ""))


def test_what_is_missing_is_named(web, database):
    ended = subprocess.Popen(["true"])
    ended.wait()
    web["ready"]["storage"] = "not writable: OSError"
    worker("gpu", seconds=90, model_name="m", engine_pid=ended.pid)
    worker("gpu", model_name="far", engine_pid=ended.pid, hostname="elsewhere")
    assert problems() == [
        "The web server says of storage: not writable: OSError.",
        "No io worker runs.",
        f"The engine of m (pid {ended.pid}) has ended; its worker starts it again.",
    ]
    Worker.objects.filter(hostname="elsewhere").delete()
    assert any("No gpu worker runs; the last sign of life of one was 90" in one for one in problems())
    with pytest.raises(CommandError, match="No io worker runs") as error:
        call_command("status")
    assert "up' starts it" not in str(error.value)


def test_a_whole_system_is_well_until_a_part_is_gone():
    """And the demo, which uses it as it is. (Its model is a scripted one here.)"""
    with live() as vbs:
        vbs.add_scripted("smollm2-135m", **{"start-seconds": 1})
        said = vbs.manage("demo")
        assert f"using the vbs that runs at {vbs.stack.url}" in said
        assert "A  What is the capital of France?" in said
        assert "10 in " in said
        output = vbs.stack.data / "demo_output.jsonl"
        assert str(output) in said
        assert len(output.read_bytes().splitlines()) == 10

        found = json.loads(vbs.manage("status", "--json"))
        assert (found["ok"], found["web"]["url"]) == (True, vbs.stack.url)
        assert {program["name"] for program in found["supervisor"]["programs"]} == {"postgres", "web", "io", "gpu"}
        (engine,) = found["engines"]
        assert (engine["model"], engine["alive"]) == ("smollm2-135m", True)
        assert found["queue"]["by_status"] == {"completed": 1}

        vbs.manage("model", "remove", "smollm2-135m")
        vbs.add_scripted("smollm2-135m", **{"fail-start": "CUDA_out_of_memory"})
        said = subprocess.run(
            [sys.executable, "manage.py", "demo"],
            cwd=BASE_DIR,
            env=vbs.stack.environment,
            capture_output=True,
            text=True,
        )
        assert said.returncode == 1
        assert "model_load_failed" in said.stderr
        assert "CUDA_out_of_memory" in said.stderr

        stopped = vbs.pids()["web"]
        os.kill(stopped, signal.SIGSTOP)  # not answering is not the same as dead
        try:
            said = ask(vbs.stack.environment)
        finally:
            os.kill(stopped, signal.SIGCONT)
        assert said.returncode == 1
        assert "No web server answers" in said.stderr
        assert "up' starts it" not in said.stderr
