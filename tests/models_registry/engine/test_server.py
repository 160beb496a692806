"""The engine's process: started, watched, adopted and ended, on the scripted engine."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import psutil
import pytest

from models_registry.engine import server
from models_registry.engine.log_reasons import LoadError
from models_registry.engine.machine import leftovers
from models_registry.engine.remote import servers
from models_registry.engine.resident import Resident
from models_registry.engine.spec import Address, EngineKind, EngineSpec
from models_registry.models import Model
from tests.models_registry.engine.started import ask, gone, spec, until
from vbs.outgoing.addresses import origin
from vbs.run import processes


def leave(home, code="", *, one=None):
    """A worker that starts an engine in this folder and is killed; what it printed."""
    given = one or spec()
    program = (
        "import os, signal, subprocess, sys\nfrom pathlib import Path\n"
        "from models_registry.engine import server\nfrom models_registry.engine.spec import EngineKind, EngineSpec\n"
        f"spec = EngineSpec({given.name!r}, '', kind=EngineKind.SCRIPTED, args={given.args!r})\n"
        f"engine = server.start(spec, Path({str(home)!r}), 30, lambda words: None)\n"
        f"print(engine.pid, flush=True)\n{code}\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=server.CODE, capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return [int(one) for one in done.stdout.split()]


def test_it_starts_answers_and_ends(start, home):
    said = []
    engine = start(spec(**{"start-seconds": 0.8, "max-num-seqs": 7}), on_progress=said.append)
    assert engine.alive() and engine.max_num_seqs == 7 and server.is_healthy(engine.address)
    assert "loading weights (100 %)" in said
    server.stop(engine, home)
    assert gone(engine.pid) and not engine.alive() and not server.is_healthy(engine.address)
    assert not (home / "engine.json").exists() and not list(home.glob("*.sock"))
    server.stop(engine, home)


def test_nobody_else_can_use_it(start, home):
    engine = start()
    assert [ask(engine), ask(engine, "wrong"), ask(engine, engine.address.key)] == [401, 401, 200]
    assert home.stat().st_mode & 0o077 == 0
    assert (home / "engine.json").stat().st_mode & 0o077 == 0
    command = " ".join(psutil.Process(engine.pid).cmdline())
    assert engine.address.key not in command and engine.address.key not in repr(engine.address)
    assert engine.address.key not in engine.log.read_text()
    assert not [one for one in psutil.Process(engine.pid).net_connections() if one.family.name.startswith("AF_INET")]


def test_its_log_is_kept_and_the_oldest_go(start, home):
    for number in range(12):
        (home / f"engine-2026010{number // 10}-{number:06}-000.log").write_text("old")
    engine = start()
    assert "scripted" in engine.log.read_text().splitlines()[0] and "startup complete" in engine.log.read_text()
    server.stop(engine, home)
    logs = sorted(home.glob("engine-*.log"))
    assert len(logs) == server.KEPT_LOGS and engine.log == logs[-1]


def test_death_is_noticed_at_once(start):
    engine = start()

    async def watch():
        watching = asyncio.create_task(engine.death())
        await asyncio.sleep(0.2)
        assert not watching.done()
        os.kill(engine.pid, signal.SIGKILL)
        killed = time.monotonic()
        await asyncio.wait_for(watching, 5)
        return time.monotonic() - killed

    assert asyncio.run(watch()) < 1
    assert not engine.alive()
    asyncio.run(asyncio.wait_for(engine.death(), 5))


def test_stop_ends_the_whole_session(home):
    """Children that it left alone, too: they hold the GPU's memory."""
    script = (
        "import subprocess, sys, time; "
        "subprocess.Popen([sys.executable, '-c', 'import subprocess, sys; "
        'subprocess.Popen(["sleep", "300"]); \']); '
        "subprocess.Popen(['sh', '-c', 'trap \"\" TERM; sleep 301']); time.sleep(300)"
    )
    process = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
    until(lambda: len(processes.family(process.pid)) >= 4)
    family = processes.family(process.pid)
    engine = server.Engine(spec(), server.Address("", str(home / "x.sock")), 1, process.pid, None)
    server.stop(engine, home, grace=0.5)
    assert all(gone(one.pid) for one in family)


def test_a_process_that_hides_in_a_session_of_its_own_is_found_by_its_mark(home):
    process = subprocess.Popen(["sleep", "300"], start_new_session=True, env=os.environ | {leftovers.MARK: str(home)})
    stranger = subprocess.Popen(["sleep", "302"], env=os.environ | {leftovers.MARK: f"{home}-2"})
    assert leftovers.end(home) == 1
    assert gone(process.pid) and not gone(stranger.pid)
    stranger.kill()
    stranger.wait()
    assert leftovers.end(home) == 0


@pytest.mark.parametrize(
    "args, reason",
    [({"start-seconds": 60}, "not ready after 1 s"), ({"fail-start": "CUDA_out_of_memory"}, "CUDA_out_of_memory")],
)
def test_a_start_that_fails_leaves_nothing(start, home, args, reason):
    with pytest.raises(LoadError, match=reason):
        start(spec(**args), timeout=1 if "start-seconds" in args else 30)
    assert leftovers.end(home) == 0
    assert not (home / "engine.json").exists() and not list(home.glob("*.sock"))
    assert list(home.glob("*.log")), "what it said is kept"


def test_a_start_that_is_broken_off_leaves_nothing(start, home):
    def stop(words):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start(spec(**{"start-seconds": 60}), on_progress=stop)
    assert leftovers.end(home) == 0 and not (home / "engine.json").exists()


def test_an_option_that_the_engine_does_not_know(start):
    with pytest.raises(LoadError, match="unrecognized arguments: --no-such"):
        start(spec(**{"no-such": 1}))


def test_a_folder_that_is_not_there(home):
    with pytest.raises(LoadError, match="no folder /nowhere"):
        server.start(EngineSpec("m", "/nowhere"), home, 1, lambda words: None)


def test_a_path_that_is_too_long_for_a_socket(home):
    deep = home / ("x" * 60) / ("y" * 60)
    with pytest.raises(LoadError, match="shorter VBS_DATA_DIR"):
        server.start(spec(), deep, 1, lambda words: None)


# After a crash of the worker.


def test_the_next_worker_adopts_the_engine(home):
    (pid,) = leave(home)
    resident = Resident(home, 30)
    resident.recover()
    assert resident.engine and resident.engine.pid == pid and resident.engine.alive()
    assert resident.acquire(spec(), print) is resident.engine and resident.engine.pid == pid
    resident.release()
    assert gone(pid)


def test_an_adopted_engine_with_another_model_makes_room(home):
    (pid,) = leave(home)
    resident = Resident(home, 30)
    resident.recover()
    engine = resident.acquire(spec("two"), lambda words: None)
    assert engine.pid != pid and gone(pid) and engine.spec.name == "two"
    resident.release()


def test_an_adopted_engines_death_is_noticed(home):
    (pid,) = leave(home)
    engine = server.adopt(None, home)
    os.kill(pid, signal.SIGKILL)
    asyncio.run(asyncio.wait_for(engine.death(), 5))
    until(lambda: not engine.alive())
    assert server.adopt(None, home) is None


@pytest.mark.parametrize("damage", ["no file", "half a file", "another process", "another spec", "silent"])
def test_what_cannot_be_adopted_is_ended(home, damage):
    (pid,) = leave(home)
    kept = home / "engine.json"
    wanted = None
    if damage == "no file":
        kept.unlink()
    elif damage == "half a file":
        kept.write_text(kept.read_text()[:50])
    elif damage == "another process":  # the number was given to somebody else since
        kept.write_text(json.dumps(json.loads(kept.read_text()) | {"pid": os.getpid()}))
    elif damage == "another spec":
        wanted = spec("two")
    else:
        next(home.glob("*.sock")).unlink()
    assert server.adopt(wanted, home) is None
    if damage != "another spec":
        Resident(home, 30).recover()
        assert gone(pid) and psutil.pid_exists(os.getpid())


def test_a_worker_that_died_while_the_engine_was_loading(home):
    program = (
        "import os, signal, threading\nfrom pathlib import Path\n"
        "from models_registry.engine import server\nfrom models_registry.engine.spec import EngineKind, EngineSpec\n"
        "spec = EngineSpec('one', '', kind=EngineKind.SCRIPTED, args=(('start-seconds', 60),))\n"
        "threading.Timer(1, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()\n"
        f"server.start(spec, Path({str(home)!r}), 30, lambda words: None)\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=server.CODE, timeout=60)
    pid = json.loads((home / "engine.json").read_text())["pid"]
    assert not gone(pid)
    Resident(home, 30).recover()
    assert gone(pid)


# The one loaded model.


def test_acquire_is_a_swap_or_nothing(home):
    resident = Resident(home, 30)
    first = resident.acquire(spec(), print)
    assert resident.acquire(spec(), print) is first
    second = resident.acquire(spec(**{"max-num-seqs": 3}), lambda words: None)
    assert gone(first.pid) and second.max_num_seqs == 3, "other options are another engine"
    os.kill(second.pid, signal.SIGKILL)
    until(lambda: not second.alive())
    third = resident.acquire(second.spec, lambda words: None)
    assert third.pid != second.pid and third.alive()
    resident.release()
    resident.release()
    assert gone(third.pid) and resident.engine is None


def test_a_swap_that_fails_leaves_nothing_loaded(home):
    resident = Resident(home, 30)
    first = resident.acquire(spec(), print)
    with pytest.raises(LoadError):
        resident.acquire(spec("two", **{"fail-start": "no"}), lambda words: None)
    assert resident.engine is None and gone(first.pid)
    assert resident.acquire(spec(), lambda words: None).alive()
    resident.release()


def test_only_one_worker_at_a_time(home):
    first, second = Resident(home, 30), Resident(home, 30)
    assert first.lock() and not second.lock()
    first._lock.close()
    assert second.lock()


@pytest.fixture
def elsewhere():
    """A server that somebody else runs: status of its answers, and the headers that it was sent."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.heard.append((self.path, self.headers["Authorization"]))
            self.send_response(self.server.statuses.pop(0) if self.server.statuses else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        server.heard, server.statuses = [], []
        server.url = f"http://127.0.0.1:{server.server_port}/v1"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_what_a_prompt_names_is_not_fetched(tmp_path):
    """vLLM takes an empty list for all domains, and follows redirects out of those that it was given."""
    asked = EngineSpec("one", str(tmp_path))
    command = " ".join(server._command(asked, Address("", socket="/s"), {"max-model-len": 9}))
    assert f"--allowed-media-domains {server.NO_MEDIA} --served" in command
    some = replace(asked, media_domains=("a.example", "b.example"))
    assert "--allowed-media-domains a.example b.example --served" in " ".join(server._command(some, Address(""), {}))
    assert server._environment(tmp_path, {}, False)["VLLM_MEDIA_URL_ALLOW_REDIRECTS"] == "0"


@pytest.mark.django_db
def test_domains_of_the_setting_are_an_engines(settings):
    settings.VBS_MEDIA_DOMAINS = ["a.example"]
    assert Model.objects.create(name="m", source="/m").spec().media_domains == ("a.example",)
    assert Model.objects.create(name="n", kind="scripted").spec().media_domains == ()


def far(url, **more):
    return EngineSpec("r", url, kind=EngineKind.REMOTE, **{"private": True} | more)


def test_a_remote_engine_is_neither_watched_nor_stopped(elsewhere):
    keys = {origin(elsewhere.url): "k", "https://127.0.0.1:443": "not for it"}
    engine = servers.remote(far(f"{elsewhere.url}/"), keys, 9)
    assert (engine.address.url, engine.address.key, engine.max_num_seqs) == (elsewhere.url, "k", 9)
    assert engine.alive() and engine.pid is None
    assert elsewhere.heard == [("/v1/models", "Bearer k")]


def test_a_remote_server_that_is_not_there_is_named(elsewhere, monkeypatch):
    monkeypatch.setattr(servers.time, "sleep", lambda seconds: None)
    for statuses, message in (
        (["401"], "It got no key: set one on the model.s page"),
        (["302"], "302, a redirect. Redirects are not followed"),
        (["503"] * 4, "it answers 503"),
    ):
        elsewhere.statuses = [int(status) for status in statuses]
        with pytest.raises(LoadError, match=message):
            servers.remote(far(elsewhere.url), {}, 9)
    elsewhere.statuses = [503, 503, 404]  # it comes back, and does not list its models
    assert servers.remote(far(elsewhere.url), {}, 9)
    with pytest.raises(LoadError, match=r"http://127.0.0.1:9/v1 cannot be reached .*refused"):
        servers.remote(far("http://127.0.0.1:9/v1"), {}, 9)
