"""A whole vbs in the foreground: the database, the web server and the workers of one data folder, under supervisord.

`manage.py up`, the demo and the end-to-end tests run the same stack. It knows only the programs' commands, and no
settings: the programs find in their environment what the stack was given.

Whatever dies, nothing is left running. A program that died is started again. supervisord stops everything when we die
(start the stack in the main thread, because the kernel watches the thread). We end the rest when supervisord dies. When
a machine lost all of them at once, the next start ends what is left.
"""

import contextlib
import fcntl
import http.client
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

import psutil

from vbs.places import BASE_DIR
from vbs.run import leftovers, postgres, private

STOP_SECONDS = 12.0  # for supervisord; with what follows, all is over within 15 s
READY_SECONDS = 120.0
HOPELESS = 3  # deaths of one program while we wait for the first sign of life
LOG_BYTES, LOG_FILES = "10MB", 3
SILENT = (OSError, http.client.HTTPException, xmlrpc.client.Error)  # what a supervisord that cannot answer looks like
SUCCESS = 80  # supervisor.xmlrpc.Faults.SUCCESS

Tell = Callable[[str], None]


class StackError(Exception):
    """The stack cannot start or go on; the message says why and what to change."""


class AlreadyRunning(StackError):
    """Another process runs the stack of this data folder."""


@dataclass(frozen=True)
class Program:
    name: str
    command: Sequence[str]
    stop_seconds: int = 5  # from SIGTERM to SIGKILL
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ProgramState:
    name: str
    state: str  # supervisord's word: STARTING, RUNNING, BACKOFF (it died at once and waits), STOPPING, EXITED …
    pid: int | None
    started: int  # Unix seconds, 0: never
    detail: str


@dataclass(frozen=True)
class Running:
    """What can be seen of a stack from outside."""

    pid: int
    url: str
    programs: list[ProgramState]  # empty while it starts or stops


def manage(*words: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "vbs", *words)


DATABASE = Program("postgres", manage("postgres"), stop_seconds=3)
PROGRAMS = (
    Program("web", manage("web"), environment={"VBS_DB_POOL": "true"}),
    Program("io", manage("worker", "io"), environment={"Q_CLUSTER_NAME": "io"}),  # or it would start twice
    Program("gpu", manage("worker", "gpu"), stop_seconds=9, environment={"Q_CLUSTER_NAME": "gpu"}),  # it ends an engine
)
PREPARE = (manage("prepare"),)


class Stack:
    """One stack. As a context manager it is started on entry and stopped on exit, whatever happens.

    `environment` is added to ours for every program. PostgreSQL is embedded unless DATABASE_URL is in it. `prepare` are
    commands that must succeed, run at the same time, between the start of the database and of the programs.
    """

    def __init__(
        self,
        data: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 4080,
        environment: Mapping[str, str] | None = None,
        programs: Sequence[Program] = PROGRAMS,
        prepare: Sequence[Sequence[str]] = PREPARE,
    ) -> None:
        self.data = data.absolute()
        self.host, self.port = host, port
        self.work, self.prepare = tuple(programs), tuple(prepare)
        self.environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "vbs.settings",
            "PYTHONUNBUFFERED": "1",
            **(environment or {}),
            "VBS_DATA_DIR": str(self.data),
            "VBS_HOST": host,
            "VBS_PORT": str(port),
            **leftovers.mark(self.data),
        }
        self.embedded = not self.environment.get("DATABASE_URL")
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._lock: IO[str] | None = None

    @property
    def url(self) -> str:
        return _url(self.host, self.port)

    @property
    def programs(self) -> tuple[Program, ...]:
        return (DATABASE, *self.work) if self.embedded else self.work

    def log_path(self, name: str) -> Path:
        """The log of a program, or of `supervisord`."""
        return self.data / "logs" / f"{name}.log"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    # Start

    def start(self, tell: Tell = lambda text: None) -> None:
        """Start everything. Returns when the programs have been started, not when they are ready."""
        run = self.data / "run"
        private.close(self.data, private.FOLDERS)
        self._take_lock(run)
        try:
            if left := leftovers.find(self.data):
                tell(f"ending {len(left)} processes that an earlier run of {self.data} has left")
                leftovers.end(self.data, left, patience=5.0)
            check_port(self.host, self.port)
            self._start_supervisor(run)
            if self.embedded:
                tell("starting PostgreSQL")
                self._wait_for_database()
            if self.prepare:
                tell("preparing the database and the static files")
                self._prepare()
            tell(f"starting {', '.join(program.name for program in self.work)}")
            self._start_work()
        except BaseException:
            self.stop()
            raise

    def _take_lock(self, run: Path) -> None:
        lock = (run / "up.lock").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise AlreadyRunning(f"A vbs already runs on the data folder {self.data}.") from None
        lock.truncate(0)
        lock.write(json.dumps({"pid": os.getpid(), "url": self.url}))
        lock.flush()
        self._lock = lock

    def _start_supervisor(self, run: Path) -> None:
        path = run / "up.sock.4194304"  # supervisord binds a name with its pid first
        if len(os.fsencode(path)) > postgres.SOCKET_PATH_BYTES:
            raise StackError(f"VBS_DATA_DIR is {self.data}: too long for a socket in it. Choose a shorter path.")
        config = run / "supervisord.conf"
        config.unlink(missing_ok=True)
        config.touch(mode=0o600)
        config.write_text(self._config())
        with (run / "supervisord.err").open("wb") as errors:
            self._supervisor = subprocess.Popen(
                [sys.executable, "-m", "vbs.run.supervise", str(os.getpid()), str(config)],
                cwd=BASE_DIR,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                start_new_session=True,  # Ctrl-C is for us; supervisord stops things in order
            )
        deadline = time.monotonic() + 30
        while True:
            self.check()
            with contextlib.suppress(*SILENT):
                if _call(self.data, "getState")["statename"] == "RUNNING":
                    return
            if time.monotonic() > deadline:
                raise StackError(f"supervisord does not answer; see {self.log_path('supervisord')}.")
            time.sleep(0.05)

    def _config(self) -> str:
        """supervisord's configuration. Paths are relative to its own folder, so that nothing in them needs quoting."""
        root = "user=root\n" if os.geteuid() == 0 else ""  # else it warns
        text = f"""\
[unix_http_server]
file=%(here)s/up.sock
chmod=0600

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[supervisord]
{root}nodaemon=true
silent=true
nocleanup=true
minfds=64
pidfile=%(here)s/supervisord.pid
logfile=%(here)s/../logs/supervisord.log
logfile_maxbytes={LOG_BYTES}
logfile_backups={LOG_FILES}

[group:work]
programs={",".join(program.name for program in self.work)}
priority=2
"""
        for program in self.programs:
            words = list(program.command)
            if program.environment:
                words = ["/usr/bin/env", *(f"{name}={value}" for name, value in program.environment.items()), *words]
            command = shlex.join(words)
            if re.search(r"[\n\r]|\s[;#]", command):
                raise StackError(f"supervisord would take a part of this path for a comment; choose another: {command}")
            # Groups stop one after the other, the last first; the programs of a group stop together.
            # The name of a log is expanded twice, hence %%.
            text += f"""
[program:{program.name}]
command={command.replace("%", "%%")}
priority=1
autostart={"true" if program is DATABASE else "false"}
autorestart=true
startsecs=1
startretries=1000000000
stopsignal=TERM
stopwaitsecs={program.stop_seconds}
umask=022
killasgroup=true
redirect_stderr=true
stdout_logfile=%%(here)s/../logs/{program.name}.log
stdout_logfile_maxbytes={LOG_BYTES}
stdout_logfile_backups={LOG_FILES}
"""
        return text

    def _wait_for_database(self) -> None:
        """Waits as long as the recovery takes, unless the database cannot even start."""
        deaths = _Deaths()
        while postgres.running(self.data) is None:
            self.check()
            self._give_up_on(deaths)
            time.sleep(0.1)

    def _prepare(self) -> None:
        commands = [
            (command, subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
            for command in self.prepare
        ]
        outputs = [(command, process.communicate()[0], process.returncode) for command, process in commands]
        for command, output, status in outputs:
            if status:
                raise StackError(f"`{shlex.join(command)}` failed:\n{output.decode(errors='replace').strip()}")

    def _start_work(self) -> None:
        try:
            answers = _call(self.data, "startProcessGroup", "work", False)
        except SILENT as error:
            self.check()
            raise StackError(f"supervisord does not start the programs: {error}") from error
        for answer in answers:
            if answer["status"] != SUCCESS:
                raise StackError(f"supervisord cannot start {answer['name']}: {answer['description']}")

    # While it runs

    def wait_ready(self, tell: Tell = lambda text: None, seconds: float = READY_SECONDS) -> None:
        """Wait until GET /health answers 200. `tell` is called with every change of the programs' states."""
        deadline = time.monotonic() + seconds
        deaths, last = _Deaths(), ""
        while not self._healthy():
            self.check()
            now = ", ".join(f"{program.name} {program.state}" for program in self._give_up_on(deaths))
            if now != last:
                tell(now)
            last = now
            if time.monotonic() > deadline:
                raise StackError(
                    f"{self.url}/health does not answer after {seconds:.0f} s ({now}).{self._log_end('web')}"
                )
            time.sleep(0.2)

    def states(self) -> list[ProgramState]:
        return _states(self.data)

    def check(self) -> None:
        """Raises StackError when supervisord is gone."""
        if self._supervisor is None:
            raise StackError("The stack has not been started.")
        status = self._supervisor.poll()
        if status is None:
            return
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"has ended with status {status}"
        errors = (self.data / "run" / "supervisord.err").read_text(errors="replace").strip()
        raise StackError(f"supervisord (pid {self._supervisor.pid}) {how}. {errors}".strip())

    def _give_up_on(self, deaths: "_Deaths") -> list[ProgramState]:
        states = self.states()
        if program := deaths.hopeless(states):
            raise StackError(f"{program.name} does not stay up: {program.detail}.{self._log_end(program.name)}")
        return states

    def _log_end(self, name: str) -> str:
        path = self.log_path(name)
        if not path.exists():
            return ""
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - 4000))
            lines = log.read().decode(errors="replace").splitlines()[-15:]
        return f" The end of {path}:\n" + "\n".join(lines)

    def _healthy(self) -> bool:
        """Asks without a proxy, whatever the environment says."""
        connection = http.client.HTTPConnection(_reachable(self.host), self.port, timeout=5)
        try:
            connection.request("GET", "/health")
            with connection.getresponse() as response:
                return response.status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    # Stop

    def stop(self) -> None:
        """Stop everything within 15 s, including what a program left running. It may be called again."""
        if self._supervisor is not None:
            self._stop_supervisor(self._supervisor)
            leftovers.end(self.data, leftovers.find(self.data), patience=0.0)
            if self.embedded:
                postgres.stop(self.data, seconds=1.0)
            self._supervisor = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _stop_supervisor(self, supervisor: "subprocess.Popen[bytes]") -> None:
        try:
            _call(self.data, "shutdown")  # heard at once, a signal within a second
        except SILENT:
            supervisor.terminate()
        try:
            supervisor.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            supervisor.kill()
            supervisor.wait()


class _Deaths:
    """Counts how often each program has been started."""

    def __init__(self) -> None:
        self.starts: dict[str, set[int]] = {}

    def hopeless(self, states: Sequence[ProgramState]) -> ProgramState | None:
        for program in states:
            starts = self.starts.setdefault(program.name, set())
            starts.add(program.started)
            if len(starts) > HOPELESS:
                return program
        return None


# From outside


def running(data: Path) -> Running | None:
    """The stack of this data folder, whoever runs it."""
    path = data / "run" / "up.lock"
    try:
        with path.open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return None
            except BlockingIOError:
                about = json.load(lock)
    except (FileNotFoundError, ValueError):
        return None
    return Running(pid=about["pid"], url=about["url"], programs=_states(data))


def _states(data: Path) -> list[ProgramState]:
    try:
        programs = _call(data, "getAllProcessInfo")
    except SILENT:
        return []
    return [
        ProgramState(
            program["name"], program["statename"], program["pid"] or None, program["start"], program["description"]
        )
        for program in programs
    ]


def _call(data: Path, method: str, *arguments: Any) -> Any:
    """supervisord's answer; one of SILENT when there is none."""
    with xmlrpc.client.ServerProxy("http://supervisor", transport=_Transport(data / "run" / "up.sock")) as server:
        return getattr(server.supervisor, method)(*arguments)


class _Transport(xmlrpc.client.Transport):
    """XML-RPC over a Unix socket; supervisor's own would wait for ever."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(5)
        connection.sock.connect(str(self.path))
        return connection

    def parse_response(self, response: Any) -> Any:
        with response:  # or its finaliser closes it, where a signal's exception would be lost
            return super().parse_response(response)


# Addresses


def free_port(host: str = "127.0.0.1") -> int:
    with _bound(host, 0) as listener:
        return int(listener.getsockname()[1])


def check_port(host: str, port: int) -> None:
    """Raises StackError when nobody can listen there."""
    try:
        with _bound(host, port):
            return
    except socket.gaierror as error:
        raise StackError(f"VBS_HOST is {host!r}, which is no address of this machine ({error.strerror}).") from error
    except OSError as error:
        raise StackError(
            f"Port {port} of {host} cannot be used: {error.strerror}{_who_has(port)}. Set VBS_PORT to another."
        ) from error


@contextlib.contextmanager
def _bound(host: str, port: int) -> Iterator[socket.socket]:
    family, kind, protocol, _, address = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        yield listener


def _who_has(port: int) -> str:
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN:
                return f" ({psutil.Process(connection.pid).name()}, pid {connection.pid})" if connection.pid else ""
    return ""


def _reachable(host: str) -> str:
    """The address at which we reach ourselves when we listen on `host`."""
    return {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104


def _url(host: str, port: int) -> str:
    name = _reachable(host)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"
