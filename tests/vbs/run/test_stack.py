"""The stack with a real supervisord: what is killed comes back, and what is stopped leaves nothing behind."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TypeVar

import psutil
import psycopg
import pytest

from vbs.run import leftovers, postgres, processes, stack, supervise
from vbs.run.stack import Program, Stack, StackError

ROOT = Path(__file__).resolve().parents[3]
T = TypeVar("T")

# Stand-ins for our programs: they do what matters here and start in no time.
WEB = """
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer((os.environ["VBS_HOST"], int(os.environ["VBS_PORT"])), Handler).serve_forever()
"""
# A worker with a helper in its group and an engine in a session of its own; nobody listens to SIGTERM.
WORKER = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(1000)"
helper = subprocess.Popen([sys.executable, "-c", code])
engine = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
print("helper", helper.pid, "engine", engine.pid, flush=True)
time.sleep(1000)
"""


def python(name: str, code: str, stop_seconds: int = 5, environment: Mapping[str, str] | None = None) -> Program:
    on_one_line = f"exec(bytes.fromhex('{code.encode().hex()}'))"
    return Program(name, (sys.executable, "-c", on_one_line), stop_seconds, environment or {})


STAND_INS = (python("web", WEB), python("worker", WORKER, stop_seconds=2))
NO_DATABASE = {"DATABASE_URL": "postgresql://nobody-connects"}


@pytest.fixture
def data() -> Iterator[Path]:
    """Not tmp_path: a socket's path must be short."""
    folder = Path(tempfile.mkdtemp(prefix="vbs-st-"))
    folder.chmod(0o711)
    yield folder
    left = leftovers.find(folder)
    leftovers.end(folder, left, patience=0)
    postgres.stop(folder)
    shutil.rmtree(folder)
    assert not left, left


def make(data: Path, programs: tuple[Program, ...] = STAND_INS, **arguments: object) -> Stack:
    given = {"port": stack.free_port(), "environment": NO_DATABASE, "prepare": ()} | arguments
    return Stack(data, programs=programs, **given)  # type: ignore[arg-type]


def eventually(condition: Callable[[], T | None], seconds: float = 30) -> T:
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
    return result


def pid_of(running: Stack, name: str) -> int | None:
    return {program.name: program.pid for program in running.states() if program.state == "RUNNING"}.get(name)


def supervisor_of(running: Stack) -> int:
    return int((running.data / "run" / "supervisord.pid").read_text())


def helper_and_engine(running: Stack) -> tuple[int, int]:
    """Of the worker that was started last."""
    log = running.log_path("worker")
    words = eventually(lambda: log.read_text().split() if log.exists() else None)
    return int(words[-3]), int(words[-1])


def gone(pid: int) -> bool:
    return not processes.alive(pid)


def test_everything_is_stopped_within_15_s_whatever_it_does(data: Path) -> None:
    running = make(data, (STAND_INS[0], python("worker", WORKER, stop_seconds=9)))
    heard: list[str] = []
    running.start(heard.append)
    running.wait_ready(heard.append)
    assert any("web" in text for text in heard)
    eventually(lambda: pid_of(running, "worker"))
    assert len(leftovers.find(data)) == 5  # supervisord, web, worker, helper, engine
    began = time.monotonic()
    running.stop()
    assert time.monotonic() - began < 15
    assert not leftovers.find(data)
    assert stack.running(data) is None
    running.stop()


def test_sockets_and_configuration_are_for_the_owner_only(data: Path) -> None:
    with make(data) as running:
        assert (data / "run").stat().st_mode & 0o777 == 0o700
        assert (data / "run" / "up.sock").stat().st_mode & 0o777 == 0o600
        assert (data / "run" / "supervisord.conf").stat().st_mode & 0o777 == 0o600
        eventually(lambda: pid_of(running, "worker"))
        assert (data / "logs").stat().st_mode & 0o777 == 0o700
        assert {log.name: oct(log.stat().st_mode & 0o777) for log in (data / "logs").iterdir()} == {
            f"{name}.log": "0o600" for name in ("supervisord", "web", "worker")
        }
        supervisor = psutil.Process(supervisor_of(running))
        assert not supervisor.net_connections("inet")
        assert "running as root" not in running.log_path("supervisord").read_text()


def test_a_killed_program_comes_back_without_what_it_left_in_its_group(data: Path) -> None:
    with make(data) as running:
        first = eventually(lambda: pid_of(running, "worker"))
        helper, engine = helper_and_engine(running)
        for _ in range(3):
            killed = eventually(lambda: pid_of(running, "worker"))
            os.kill(killed, signal.SIGKILL)
            eventually(lambda killed=killed: pid_of(running, "worker") not in (None, killed))  # type: ignore[misc]
        assert pid_of(running, "worker") != first
        assert gone(helper)
        assert not gone(engine)  # in a session of its own: its worker finds it again
        os.kill(eventually(lambda: pid_of(running, "web")), signal.SIGKILL)
        running.wait_ready()


def test_a_program_that_keeps_dying_is_named_with_its_last_words(data: Path) -> None:
    with (
        make(data, (python("worker", "raise SystemExit('no model, no work')"),)) as running,
        pytest.raises(StackError, match=r"(?s)worker does not stay up.*no model, no work"),
    ):
        running.wait_ready()


def test_a_program_that_is_not_there_is_named(data: Path) -> None:
    with pytest.raises(StackError, match=r"cannot start web: NO_FILE.*/no/such/program"):
        make(data, (Program("web", ("/no/such/program",)),)).start()


def test_the_pause_before_a_restart_stays_short() -> None:
    process = SimpleNamespace(delay=time.time() + 1000)
    supervise.shorten_pause(SimpleNamespace(process=process))
    assert process.delay <= time.time() + supervise.LONGEST_PAUSE
    process.delay = sooner = time.time() + 1
    supervise.shorten_pause(SimpleNamespace(process=process))
    assert process.delay == sooner


def test_a_killed_supervisord_is_noticed_and_its_orphans_are_ended(data: Path) -> None:
    with make(data) as running:
        eventually(lambda: pid_of(running, "worker"))
        helper_and_engine(running)
        os.kill(supervisor_of(running), signal.SIGKILL)
        with pytest.raises(StackError, match=r"supervisord .* was killed by SIGKILL"):
            eventually(running.check)
        assert len(leftovers.find(data)) == 4
    assert not leftovers.find(data)


def run_elsewhere(data: Path, port: int) -> subprocess.Popen[str]:
    """A process of its own that runs the stack, as `manage.py up` does."""
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from tests.vbs.run import test_stack as t
with t.make(t.Path({str(data)!r}), port={port}) as running:
    running.wait_ready()
    t.helper_and_engine(running)
    print("ready", flush=True)
    t.time.sleep(1000)
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


def test_when_we_are_killed_the_rest_ends(data: Path) -> None:
    process = run_elsewhere(data, stack.free_port())
    assert len(leftovers.find(data)) == 5
    process.kill()
    process.communicate()
    eventually(lambda: not leftovers.find(data), seconds=20)
    assert stack.running(data) is None


def test_what_an_earlier_run_left_is_ended_first(data: Path) -> None:
    port = stack.free_port()
    process = run_elsewhere(data, port)
    left = leftovers.find(data)
    for dead in (int((data / "run" / "supervisord.pid").read_text()), process.pid):
        os.kill(dead, signal.SIGKILL)
    process.communicate()
    heard: list[str] = []
    running = make(data, port=port)
    try:
        running.start(heard.append)  # on the port that the old web process still has
        assert "ending 4 processes" in heard[0]
        assert all(gone(old.pid) for old in left)
    finally:
        running.stop()


def test_a_second_stack_on_the_same_data_is_refused_and_the_first_described(data: Path) -> None:
    with make(data) as running:
        running.wait_ready()
        eventually(lambda: pid_of(running, "web"))
        with pytest.raises(stack.AlreadyRunning):
            make(data).start()
        found = stack.running(data)
        assert found is not None
        assert (found.pid, found.url) == (os.getpid(), running.url)
        assert {program.name: program.pid for program in found.programs}["web"] == pid_of(running, "web")
        running.wait_ready()


def test_a_busy_port_is_named_before_anything_is_started(data: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StackError, match=rf"Port {port} of 127.0.0.1 .*pid {os.getpid()}.*VBS_PORT"):
            make(data, port=port).start()
    assert not (data / "run" / "supervisord.conf").exists()
    assert stack.running(data) is None


@pytest.mark.parametrize(
    ("host", "message"),
    [("no.such.host.invalid", "VBS_HOST is 'no.such.host.invalid'"), ("203.0.113.7", "203.0.113.7")],
)
def test_an_address_that_is_not_ours(data: Path, host: str, message: str) -> None:
    with pytest.raises(StackError, match=message):
        make(data, host=host).start()


def test_a_preparation_that_fails_is_shown_and_leaves_nothing(data: Path) -> None:
    with pytest.raises(StackError, match=r"(?s)failed:.*no such table"):
        make(data, prepare=[(sys.executable, "-c", "raise SystemExit('no such table')")]).start()
    assert not leftovers.find(data)


def test_every_program_gets_its_environment_and_hard_paths_work(data: Path) -> None:
    folder = data / "it's 100% «hard»"
    folder.mkdir()
    show = f"import os; print([os.environ[k] for k in ('VBS_DATA_DIR', 'VBS_PORT', 'COLOUR')], flush=True)\n{WEB}"
    program = python("web", show, environment={"COLOUR": "50% 'red'"})
    with make(folder, (program,)) as running:
        running.wait_ready()
        shown = running.log_path("web").read_text().splitlines()[0]
        assert shown == str([str(folder), str(running.port), program.environment["COLOUR"]])


def connect(data: Path) -> psycopg.Connection:
    return psycopg.connect(host=str(postgres.data_dir(data)), user="postgres", dbname="postgres", autocommit=True)


def test_a_process_that_changes_its_title_is_still_found(data: Path) -> None:
    code = "import setproctitle, time; setproctitle.setproctitle('VLLM::EngineCore' * 50); time.sleep(1000)"
    with make(data, (python("worker", code),)) as running:
        eventually(lambda: pid_of(running, "worker"))
        eventually(lambda: any("VLLM" in " ".join(found.cmdline()) for found in leftovers.find(data)))


@pytest.mark.slow
def test_the_embedded_database_is_up_first_and_comes_back(data: Path) -> None:
    prepare = [
        (sys.executable, "-c", f"import psycopg; psycopg.connect(host={str(data / 'postgres')!r}, user='postgres')")
    ]
    with make(data, environment={"DATABASE_URL": ""}, prepare=prepare) as running:
        running.wait_ready()
        with connect(data) as connection:
            connection.execute("create table kept as select 42 as answer")
        first = postgres.running(data)
        assert first
        os.kill(first, signal.SIGKILL)
        eventually(lambda: postgres.running(data) not in (None, first))
        with connect(data) as connection:
            assert connection.execute("select answer from kept").fetchone() == (42,)

        second = postgres.running(data)
        os.kill(eventually(lambda: pid_of(running, "postgres")), signal.SIGKILL)  # its keeper only
        time.sleep(1)
        eventually(lambda: pid_of(running, "postgres"))
        assert postgres.running(data) == second
    assert not postgres.pids(data)
    assert not leftovers.find(data)
    assert "shutting down" in (postgres.data_dir(data) / "log").read_text()


@pytest.mark.slow
def test_a_database_that_cannot_start_is_explained(data: Path) -> None:
    postgres.data_dir(data).mkdir()
    (postgres.data_dir(data) / "thesis.odt").touch()
    with pytest.raises(StackError, match=r"(?s)postgres does not stay up.*move it out of the way"):
        make(data, environment={"DATABASE_URL": ""}).start()


def test_a_path_too_long_for_sockets(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="too long"):
        make(tmp_path / ("x" * 90)).start()


# `manage.py up`, with the real programs


def up(data: Path, port: int) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VBS_")}
    return subprocess.Popen(
        [sys.executable, "-u", "manage.py", "up"],
        cwd=ROOT,
        env=environment | {"VBS_DATA_DIR": str(data), "VBS_PORT": str(port), "DATABASE_URL": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def read_until(process: subprocess.Popen[str], text: str) -> str:
    assert process.stdout
    seen = ""
    while text not in seen:
        line = process.stdout.readline()
        assert line, f"it ended without saying {text!r}:\n{seen}"
        seen += line
    return seen


@pytest.mark.slow
def test_up_from_the_first_key_to_ctrl_c(data: Path) -> None:
    port = stack.free_port()
    process = up(data, port)
    seen = read_until(process, "API key")
    assert f"http://127.0.0.1:{port}/v1" in seen
    assert "sk-vbs-" in seen

    second = up(data, port)
    output, _ = second.communicate(timeout=60)
    assert second.returncode == 0
    found = stack.running(data)
    assert found is not None
    assert f"http://127.0.0.1:{port} (pid {process.pid}" in output
    for program in found.programs:
        assert f"{program.name:10} RUNNING   pid {program.pid}," in output
    assert {program.name for program in found.programs} == {"postgres", "web", "io", "gpu"}

    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=15)
    assert time.monotonic() - began < 15
    assert process.returncode == 0
    assert not leftovers.find(data)
    assert not postgres.pids(data)

    again = up(data, port)
    assert "API key" not in read_until(again, "logs  ")
    again.kill()
    again.communicate()
    eventually(lambda: not leftovers.find(data) and not postgres.pids(data))


@pytest.mark.slow
def test_up_ends_when_its_supervisor_is_killed(data: Path) -> None:
    process = up(data, stack.free_port())
    read_until(process, "API key")
    os.kill(int((data / "run" / "supervisord.pid").read_text()), signal.SIGKILL)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "was killed by SIGKILL" in output
    assert not leftovers.find(data)
    assert not postgres.pids(data)


def test_up_says_which_port_is_busy(data: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = up(data, port)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"Port {port} of 127.0.0.1 cannot be used" in output
    assert "VBS_PORT" in output
