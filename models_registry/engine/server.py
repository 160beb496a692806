"""One engine process: start it, wait until it answers, see it die, end it with everything that it started.

The process is a session of its own that listens on a Unix socket in a private folder and asks for a key of its own,
so nobody else on the machine can use it. A small file beside the socket says what runs, for the worker that comes
after us if we crash: it adopts the engine, or ends it.
"""

import asyncio
import contextlib
import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from models_registry.engine import defaults
from models_registry.engine.reasons import LoadError, explain, progress
from models_registry.engine.spec import Adapter, Address, EngineKind, EngineSpec

CODE = Path(__file__).resolve().parents[2]
MODULES = {
    EngineKind.VLLM: "vllm.entrypoints.openai.api_server",
    EngineKind.SCRIPTED: "models_registry.engine.scripted",
}
MARK = "VBS_ENGINE_HOME"  # in the environment of every engine process, so that none is ever lost
POLL_SECONDS = 0.1
ADAPTER_SECONDS = 120
REACH_ATTEMPTS, REACH_SECONDS = 4, 10
SILENT = (OSError, http.client.HTTPException)  # what an engine that gives no answer looks like
KEPT_LOGS = 10
ROOM_FOR_RPC = 65  # bytes of a folder's path that leave room for a socket with a UUID for its name

Progress = Callable[[str], None]


class Engine:
    """A loaded model that answers. `pid` is None for a remote one, which is neither watched nor stopped."""

    def __init__(
        self, spec: EngineSpec, address: Address, max_num_seqs: int, pid: int | None = None, log: Path | None = None
    ) -> None:
        self.spec, self.address, self.max_num_seqs, self.pid, self.log = spec, address, max_num_seqs, pid, log

    def alive(self) -> bool:
        if self.pid is None:
            return True
        with contextlib.suppress(ChildProcessError):  # our own child must be reaped, an adopted one cannot be
            os.waitpid(self.pid, os.WNOHANG)
        try:
            return psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    async def death(self) -> None:
        """Returns when the process has ended, at once when it has already. Never returns for a remote engine."""
        if self.pid is None:
            await asyncio.Event().wait()
            return
        ended = asyncio.Event()
        try:
            watch = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        loop = asyncio.get_running_loop()
        loop.add_reader(watch, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(watch)
            os.close(watch)


def remote(spec: EngineSpec, key: str, window: int) -> Engine:
    """The same handle for a server that somebody else runs. Raises LoadError when it does not answer."""
    engine = Engine(spec, Address(spec.source.rstrip("/"), key=key), window)
    parts = urlsplit(engine.address.url)
    connect = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    for attempt in range(1, REACH_ATTEMPTS + 1):
        link = connect(parts.hostname or "", parts.port, timeout=REACH_SECONDS)
        try:
            link.request("GET", f"{parts.path}/models", headers=headers)
            status = link.getresponse().status
            if status in (401, 403):
                raise LoadError(f"{engine.address.url} answers {status}", "VBS_REMOTE_KEY is the key for it.")
            if status < 500:  # not every server lists its models
                return engine
            reason = f"it answers {status}"
        except SILENT as error:
            reason = str(error) or type(error).__name__
        finally:
            link.close()
        if attempt < REACH_ATTEMPTS:
            time.sleep(attempt)
    hint = "Is it running, and is its URL right?"
    raise LoadError(f"the server at {engine.address.url} cannot be reached ({reason})", hint)


def start(spec: EngineSpec, home: Path, timeout: float, on_progress: Progress) -> Engine:
    """Start the engine and wait until it answers. `home` is a private folder with no other engine in it.

    on_progress is called a few times a second with what it is doing; what that raises ends the start.
    Raises LoadError with vLLM's reason and a hint; nothing is left running then.
    """
    if spec.kind is EngineKind.VLLM and not Path(spec.source).is_dir():
        raise LoadError(f"there is no folder {spec.source}", "Add the model again, or put its files back.")
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o700)
    end_leftovers(home)
    options = dict(spec.args)
    if spec.kind is EngineKind.VLLM:
        options = defaults.options(options, spec.task, spec.source)
    address = Address("http://engine/v1", socket=str(_socket(home)), key=secrets.token_urlsafe(24))
    log = _new_log(home)
    command = _command(spec, address, options)
    environment = os.environ | defaults.environment() | {MARK: str(home), "VLLM_API_KEY": address.key}
    if options.get("enable-lora"):
        environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"
    if len(str(home).encode()) <= ROOM_FOR_RPC:
        environment["VLLM_RPC_BASE_PATH"] = str(home)  # its own sockets, which it leaves behind in /tmp otherwise
    with log.open("wb") as output:
        output.write(f"{' '.join(command)}\n".encode())
        output.flush()
        process = subprocess.Popen(
            command,
            cwd=CODE,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    engine = Engine(spec, address, int(options.get("max-num-seqs", 256)), process.pid, log)
    try:
        _remember(home, engine)
        _wait(engine, process, timeout, on_progress)
    except BaseException:
        stop(engine, home, grace=0)
        raise
    return engine


def _command(spec: EngineSpec, address: Address, options: dict[str, Any]) -> list[str]:
    command = [sys.executable, "-m", MODULES[spec.kind]]
    if spec.kind is EngineKind.VLLM:
        command += ["--model", spec.source, "--disable-uvicorn-access-log", "--disable-log-stats"]
    command += ["--served-model-name", spec.name, "--uds", address.socket]
    for name, value in options.items():
        if value is True:
            command.append(f"--{name}")
        elif value is not False and value is not None:
            text = json.dumps(value) if isinstance(value, (dict, list)) else str(value)
            command.append(f"--{name}={text}")
    return command


def _wait(engine: Engine, process: subprocess.Popen[bytes], timeout: float, on_progress: Progress) -> None:
    assert engine.log is not None
    deadline = time.monotonic() + timeout
    while not answers(engine.address):
        if (status := process.poll()) is not None:
            if status < 0:
                name = signal.Signals(-status).name
                hint = "The kernel does that to whoever takes the last memory." if status == -signal.SIGKILL else ""
                raise LoadError(f"the engine was killed ({name}) while it was starting", hint, killed=True)
            raise explain(engine.log, f"the engine ended with status {status} while it was starting")
        if time.monotonic() > deadline:
            raise explain(engine.log, f"the engine was not ready after {timeout:.0f} s (VBS_ENGINE_START_SECONDS)")
        on_progress(progress(engine.log))
        time.sleep(POLL_SECONDS)


def adopt(spec: EngineSpec | None, home: Path) -> Engine | None:
    """The engine that an earlier worker left in this folder, when it still answers and serves just this spec.

    With `spec` None, whatever it serves.
    """
    try:
        kept = json.loads((home / "engine.json").read_text())
        found = EngineSpec(
            **kept["spec"] | {"kind": EngineKind(kept["spec"]["kind"]), "args": tuple(map(tuple, kept["spec"]["args"]))}
        )
        address = Address(**kept["address"])
        created = psutil.Process(kept["pid"]).create_time()
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        return None
    engine = Engine(found, address, kept["max_num_seqs"], kept["pid"], Path(kept["log"]))
    if created != kept["created"] or (spec is not None and spec != found) or not answers(address):
        return None
    return engine


def _remember(home: Path, engine: Engine) -> None:
    assert engine.pid is not None
    kept = {
        "pid": engine.pid,
        "created": psutil.Process(engine.pid).create_time(),
        "spec": asdict(engine.spec),
        "address": asdict(engine.address),
        "max_num_seqs": engine.max_num_seqs,
        "log": str(engine.log),
    }
    path = home / "engine.json"
    fresh = path.with_suffix(".new")
    fresh.touch(mode=0o600)
    fresh.write_text(json.dumps(kept))
    fresh.replace(path)


def stop(engine: Engine, home: Path, grace: float = 5) -> None:
    """End the engine and all that it started: politely, then surely. Nothing of it is left when this returns."""
    if engine.pid is None:
        return
    _end(_family(engine.pid), grace)
    end_leftovers(home)
    (home / "engine.json").unlink(missing_ok=True)
    Path(engine.address.socket).unlink(missing_ok=True)


def end_leftovers(home: Path) -> int:
    """End every process of an engine of this folder, whoever started it. Says how many there were."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == str(home):
                found += _family(process.pid)
    _end(found, grace=0)
    return len(found)


def _family(pid: int) -> list[psutil.Process]:
    """The process, its descendants, and whoever else is in its session (children whose parent is gone)."""
    members = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid == pid or os.getsid(process.pid) == pid:
                members[process.pid] = process
                members |= {child.pid: child for child in process.children(recursive=True)}
    return list(members.values())


def _end(processes: list[psutil.Process], grace: float) -> None:
    for number, wait in ((signal.SIGTERM, grace), (signal.SIGKILL, 10)):
        if wait:
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
            _, processes = psutil.wait_procs(processes, timeout=wait)


def _socket(home: Path) -> Path:
    """A fresh path, in a folder without the sockets of engines that have ended."""
    for old in home.iterdir():
        if old.is_socket():
            old.unlink(missing_ok=True)
    path = home / f"engine-{secrets.token_hex(3)}.sock"
    if len(str(path).encode()) > 100:
        raise LoadError(f"the path of the engine's socket is too long: {path}", "Use a shorter VBS_DATA_DIR.")
    return path


def _new_log(home: Path) -> Path:
    for old in sorted(home.glob("engine-*.log"))[: 1 - KEPT_LOGS]:
        old.unlink(missing_ok=True)
    return home / f"engine-{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 1000:03}.log"


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("engine", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def answers(address: Address, timeout: float = 5) -> bool:
    """Does the local engine at this address say that it is healthy?"""
    try:
        return _ask(address, "GET", "/health", timeout=timeout)[0] == 200
    except SILENT:
        return False


def _ask(address: Address, method: str, path: str, body: Any = None, timeout: float = 5) -> tuple[int, bytes]:
    """Status and body of its answer. Raises one of SILENT when there is none."""
    link = _UnixConnection(address.socket, timeout)
    headers = {"Authorization": f"Bearer {address.key}", "Content-Type": "application/json"}
    try:
        link.request(method, path, None if body is None else json.dumps(body), headers)
        response = link.getresponse()
        return response.status, response.read()
    finally:
        link.close()


def adapters(engine: Engine) -> set[str]:
    """Names of the adapters that the engine has. Raises one of SILENT."""
    status, body = _ask(engine.address, "GET", "/v1/models")
    if status != 200:
        raise http.client.HTTPException(f"GET /v1/models: {status}")
    return {model["id"] for model in json.loads(body)["data"] if model.get("parent")}


def load_adapter(engine: Engine, adapter: Adapter) -> None:
    """Have a running engine serve it too. Raises LoadError with the engine's reason, or one of SILENT."""
    given = {"lora_name": adapter.name, "lora_path": adapter.path}
    status, body = _ask(engine.address, "POST", "/v1/load_lora_adapter", given, timeout=ADAPTER_SECONDS)
    if status != 200:
        raise LoadError(f"the engine refused the adapter in {adapter.path}: {_message(body)}")


def unload_adapter(engine: Engine, name: str) -> None:
    """Raises LoadError, or one of SILENT."""
    status, body = _ask(engine.address, "POST", "/v1/unload_lora_adapter", {"lora_name": name}, timeout=ADAPTER_SECONDS)
    if status != 200:
        raise LoadError(f"the engine did not unload the adapter {name}: {_message(body)}")


def _message(body: bytes) -> str:
    with contextlib.suppress(ValueError, TypeError, AttributeError):
        answer = json.loads(body)
        return str((answer.get("error") or answer)["message"])
    return body[:500].decode(errors="replace")
