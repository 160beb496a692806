"""One engine process: start it, wait until it answers, notice its death, and end it with everything that it started.

The process has a session of its own. It listens on a Unix socket in a private folder and wants a key, so no other user
of the machine can use it. The file `engine.json` in the worker's folder describes the engine that is awake. If this
worker crashes, the next one reads it and adopts the engine, or ends it.
"""

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil

from models_registry.engine import defaults, process_end
from models_registry.engine.control import is_healthy
from models_registry.engine.environment import minimal
from models_registry.engine.log_reasons import LoadError, Shortage, ShortageKind, explain
from models_registry.engine.machine import leftovers, main_memory
from models_registry.engine.remote.pool import Pool
from models_registry.engine.spec import Adapter, Address, EngineKind, EngineSpec, StartResult
from models_registry.engine.start_progress import StartProgress
from vbs.run import processes

CODE = Path(__file__).resolve().parents[2]
MODULES = {
    EngineKind.VLLM: "vllm.entrypoints.openai.api_server",
    EngineKind.SCRIPTED: "models_registry.engine.scripted.server",
}
SERVE = ("vllm.entrypoints.cli.main", "serve")
POLL_SECONDS = 0.1
NO_MEDIA = "no-domain-is-in.vbs-media-domains.invalid"  # vLLM names it when it refuses a URL
KEPT_LOGS = 10
LORA_RANK = 16  # the highest where nothing is said: vLLM 0.32, LoRAConfig.max_lora_rank
ROOM_FOR_RPC = 65  # bytes; a folder with a longer path has no space for a socket named by a UUID

Progress = Callable[[str], None]


class Engine:
    """An engine that answers. pid: None for a remote server, which is neither watched nor stopped.

    spec: as it was asked for. pool: the addresses of a remote one, of which `address` is the first. started: how it
    started. fixed_answer: its answer to the fixed prompt, with which it is checked after it has slept; None where it
    cannot sleep. verdict: why we ended it; empty when it ended by itself.
    """

    def __init__(
        self,
        spec: EngineSpec,
        address: Address,
        max_num_seqs: int,
        pid: int | None = None,
        log: Path | None = None,
        started: StartResult | None = None,
        pool: Pool | None = None,
    ) -> None:
        self.spec, self.address, self.max_num_seqs, self.pid, self.log = spec, address, max_num_seqs, pid, log
        self.started = started or StartResult()
        self.pool = pool or (Pool([address], max_num_seqs) if spec.kind is EngineKind.REMOTE else None)
        self.fixed_answer: str | list[float] | None = None
        self.verdict = ""
        self.created = 0.0  # when its process was, as engine.json says; by it another process of the same pid is told
        self.child: subprocess.Popen[bytes] | None = (
            None  # kept, because Popen takes the exit status of a child that nobody refers to
        )
        self._status: int | None = None  # the exit status, once it is known
        self._memory_kills = process_end.memory_kills()

    @property
    def folder(self) -> Path:
        """The folder of a local engine's sockets; its processes have this path in their environment."""
        return Path(self.address.socket).parent

    @property
    def can_sleep(self) -> bool:
        return self.pid is not None and self.started.options.get("enable-sleep-mode") is True

    def serves(self, spec: EngineSpec, adapter: Adapter | None = None) -> bool:
        """Does it serve this spec, and can it take this adapter without being started again?"""
        if replace(self.spec, lora=()) != replace(spec, lora=()):
            return False
        if adapter is None:
            return True
        options = self.started.options
        return options.get("enable-lora") is True and adapter.rank <= options.get("max-lora-rank", LORA_RANK)

    @property
    def adapter_places(self) -> int:
        """How many adapters it keeps beside each other; a further one takes the place of another."""
        options = self.started.options
        if self.spec.kind is EngineKind.VLLM and not defaults.gpu_memory():
            return int(options.get("max-loras") or 1) - 1  # `defaults.with_spare_place` says why
        return int(options.get("max-cpu-loras") or options.get("max-loras") or 1)

    def alive(self) -> bool:
        if self.pid is None:
            return True
        with contextlib.suppress(ChildProcessError):  # our own child has to be reaped; an adopted engine cannot be
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = status if ended else self._status
        if processes.alive(self.pid):
            return True
        self._status = process_end.left_status(self.pid) if self._status is None else self._status
        return False

    @property
    def lacked_memory(self) -> bool:
        """Has the system killed a process because memory ran out since the engine started?"""
        return not self.verdict and (process_end.memory_kills() or 0) > (self._memory_kills or 0)

    def ending(self) -> str:
        """How the engine ended, in words."""
        self.alive()
        return self.verdict or process_end.describe(self._status, self.lacked_memory, self.log, self.pid)

    async def death(self) -> None:
        """Returns when the process has ended. Never returns for a remote engine."""
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


def start(
    spec: EngineSpec,
    home: Path,
    timeout: float,
    on_progress: Progress,
    reduced: dict[str, Any] | None = None,
    sleeping: Collection[Engine] | None = None,
) -> Engine:
    """Start the engine and wait until it answers.

    home: a private folder, of which all other engines are ended. on_progress: called several times a second with what
    the engine does; an exception of it ends the start. reduced: options that take the place of the spec's. sleeping:
    the engines that sleep here and stay; when it is given, even empty, the new engine has a folder of its own below
    `home` and can sleep too, where there is a GPU.
    Raises LoadError with vLLM's reason and a hint; then nothing of the engine is left running.
    """
    began = time.monotonic()
    if spec.kind is EngineKind.VLLM and not Path(spec.source).is_dir():
        hint = "Add the model again, or put its files back."
        raise LoadError(f"there is no folder {spec.source}", hint, public="the model's folder is not there any more")
    reduced = reduced or {}
    sleeps = sleeping is not None
    options = effective(spec, reduced, sleeps)
    folder = home if sleeping is None else home / f"engine-{secrets.token_hex(2)}"
    _prepare(home, folder, [] if sleeping is None else [engine.folder for engine in sleeping])
    address = Address("http://engine/v1", socket=str(_socket(folder)), key=secrets.token_urlsafe(24))
    log = _new_log(home)
    _check_main_memory(spec, options)
    command = _command(spec, address, options)
    environment = _environment(folder, options, sleeps) | {"VLLM_API_KEY": address.key}
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
    engine = Engine(
        spec, address, int(options.get("max-num-seqs", 256)), process.pid, log, StartResult(0.0, options, reduced)
    )
    engine.child = process
    try:
        write_state(home, engine)
        _wait(engine, process, timeout, on_progress)
        engine.started = replace(engine.started, seconds=round(time.monotonic() - began, 3))
        write_state(home, engine)
    except BaseException:
        stop(engine, home, grace=0)
        raise
    return engine


def _check_main_memory(spec: EngineSpec, options: dict[str, Any]) -> None:
    """Raises LoadError when the free main memory is too small: otherwise the kernel would kill a process.

    On a CPU the weights have to fit; on a GPU what the options keep in main memory.
    """
    if spec.kind is not EngineKind.VLLM:
        return
    if defaults.gpu_memory():
        gib = sum(float(options.get(name, 0)) for name in ("cpu-offload-gb", "kv-offloading-size"))
        needed, what = int(gib * defaults.GIB), "what it keeps outside the GPU"
    else:
        needed, what = defaults.weights(spec.source), "its weights"
    there = main_memory.available()
    if needed > there:
        short = Shortage(
            ShortageKind.WEIGHTS, needed / defaults.GIB, there / defaults.GIB, main_memory.total() / defaults.GIB
        )
        reason = f"there is not enough main memory for {what} ({short}, of {short.total:.4g} GiB in all)"
        raise LoadError(reason, "End what else uses the memory, or use a smaller or quantized model.", shortage=short)


def effective(spec: EngineSpec, reduced: dict[str, Any], sleeps: bool = False) -> dict[str, Any]:
    """The options that an engine of this spec is started with."""
    options = dict(spec.lora) | dict(spec.args)
    if sleeps and (spec.kind is EngineKind.SCRIPTED or defaults.gpu_memory()):
        options = defaults.ASLEEP | options
    if spec.kind is EngineKind.VLLM:
        options = defaults.options(options, spec.task, spec.source)
    return options | reduced


def _environment(folder: Path, options: dict[str, Any], sleeps: bool) -> dict[str, str]:
    environment = minimal(**defaults.environment(), **{leftovers.MARK: str(folder)})
    if options.get("api-server-count", 1) > 1:
        environment["PROMETHEUS_MULTIPROC_DIR"] = str(_figures_folder(folder))
    if "kv-cache-memory-bytes" in options:
        environment.pop("VLLM_CPU_KVCACHE_SPACE", None)  # it would win over the option
    if options.get("enable-lora"):
        environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"
    if sleeps and options.get("enable-sleep-mode"):
        environment["VLLM_SERVER_DEV_MODE"] = "1"  # the routes for sleep mode exist only then
    environment["VLLM_MEDIA_URL_ALLOW_REDIRECTS"] = "0"  # a redirect could lead out of the allowed domains
    if len(str(folder).encode()) <= ROOM_FOR_RPC:
        environment["VLLM_RPC_BASE_PATH"] = str(folder)  # else vLLM leaves its own sockets behind in /tmp
    return environment


def _figures_folder(folder: Path) -> Path:
    """An empty folder in which several API servers add up their figures. vLLM's own, in /tmp, would outlive a kill."""
    path = folder / "figures"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(mode=0o700)
    return path


def _prepare(home: Path, folder: Path, spare: Collection[Path]) -> None:
    """Make the folders private, and end and remove every engine in them but those in `spare`."""
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o700)
    leftovers.end(home, spare)
    remove_folders(home, spare)
    folder.mkdir(mode=0o700, exist_ok=True)


def remove_folders(home: Path, spare: Collection[Path] = ()) -> None:
    """Remove the folders of engines that have ended."""
    for old in home.glob("engine-*/"):
        if old not in spare:
            shutil.rmtree(old, ignore_errors=True)


def _command(spec: EngineSpec, address: Address, options: dict[str, Any]) -> list[str]:
    if options.get("api-server-count", 1) > 1:
        command = [sys.executable, "-m", *SERVE, spec.source]  # only this entry point starts several API servers
    else:
        command = [sys.executable, "-m", MODULES[spec.kind]]
        command += ["--model", spec.source] if spec.kind is EngineKind.VLLM else []
        options = {name: value for name, value in options.items() if name != "api-server-count"}
    if spec.kind is EngineKind.VLLM:
        command += ["--disable-uvicorn-access-log"]
        command += ["--allowed-media-domains", *(spec.media_domains or [NO_MEDIA])]  # without any, vLLM allows all
    return [*command, "--served-model-name", spec.name, "--uds", address.socket, *flags(options)]


def flags(options: dict[str, Any]) -> list[str]:
    """These options as arguments of a command line."""
    made = []
    for name, value in options.items():
        if value is True:
            made.append(f"--{name}")
        elif value is not False and value is not None:
            text = json.dumps(value) if isinstance(value, (dict, list)) else str(value)
            made.append(f"--{name}={text}")
    return made


def _wait(engine: Engine, process: subprocess.Popen[bytes], timeout: float, on_progress: Progress) -> None:
    assert engine.log is not None
    deadline = time.monotonic() + timeout
    progress = StartProgress(engine.log)
    while not is_healthy(engine.address):
        if (status := process.poll()) is not None:
            if status < 0:
                name = signal.Signals(-status).name
                hint = "The kernel kills a process like that when memory runs out." if status == -signal.SIGKILL else ""
                raise LoadError(f"the engine was killed ({name}) while it was starting", hint, killed=True)
            raise explain(engine.log, f"the engine ended with status {status} while it was starting")
        if time.monotonic() > deadline:
            raise explain(engine.log, f"the engine was not ready after {timeout:.0f} s (VBS_ENGINE_START_SECONDS)")
        on_progress(progress.look())
        time.sleep(POLL_SECONDS)


def adopt(spec: EngineSpec | None, home: Path) -> Engine | None:
    """The engine that an earlier worker left in this folder, if it still answers and serves this spec; else None.

    spec: None takes any.
    """
    engine = read_state(home)
    try:
        if engine is None or engine.pid is None or psutil.Process(engine.pid).create_time() != engine.created:
            return None
    except psutil.Error:
        return None
    return engine if spec in (None, engine.spec) and is_healthy(engine.address) else None


def read_state(home: Path) -> Engine | None:
    """The engine that engine.json describes, whether it runs or not; None when there is none."""
    try:
        kept = json.loads((home / "engine.json").read_text())
        asked = kept["spec"]
        asked |= {"kind": EngineKind(asked["kind"]), "args": tuple(map(tuple, asked["args"]))}
        asked |= {name: tuple(asked.get(name, ())) for name in ("media_domains", "pool")}
        asked["lora"] = tuple(map(tuple, asked.get("lora", ())))
        found = EngineSpec(**asked)
        address = Address(**kept["address"])
        started = StartResult(**kept.get("started", {}))
        engine = Engine(found, address, kept["max_num_seqs"], kept["pid"], Path(kept["log"]), started)
        engine.fixed_answer, engine.created = kept.get("said"), kept["created"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return engine


def write_state(home: Path, engine: Engine) -> None:
    """Write engine.json: this engine is the one that is awake."""
    assert engine.pid is not None
    kept = {
        "pid": engine.pid,
        "created": psutil.Process(engine.pid).create_time(),
        "spec": asdict(engine.spec),
        "address": asdict(engine.address),
        "max_num_seqs": engine.max_num_seqs,
        "log": str(engine.log),
        "started": asdict(engine.started),
        "said": engine.fixed_answer,
    }
    path = home / "engine.json"
    fresh = path.with_suffix(".new")
    fresh.touch(mode=0o600)
    fresh.write_text(json.dumps(kept))
    fresh.replace(path)


def remove_state(home: Path, engine: Engine) -> None:
    """Remove engine.json if it describes this engine; that of another engine stays."""
    path = home / "engine.json"
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if json.loads(path.read_text()).get("pid", engine.pid) != engine.pid:
            return
    path.unlink(missing_ok=True)


def stop(engine: Engine, home: Path, grace: float = 5) -> None:
    """End the engine and all that it started, with SIGTERM and then SIGKILL. When this returns, nothing of it runs."""
    if engine.pid is None:
        return
    processes.end(processes.family(engine.pid), grace)
    clean_up(engine, home)


def clean_up(engine: Engine, home: Path) -> None:
    """Remove what an ended engine left behind: processes, sockets, its folder, and engine.json."""
    leftovers.end(engine.folder)
    remove_state(home, engine)
    Path(engine.address.socket).unlink(missing_ok=True)
    if engine.folder.parent == home:
        shutil.rmtree(engine.folder, ignore_errors=True)


def _socket(folder: Path) -> Path:
    """A fresh path for a socket. Sockets of ended engines are removed from the folder."""
    for old in folder.iterdir():
        if old.is_socket():
            old.unlink(missing_ok=True)
    path = folder / f"engine-{secrets.token_hex(3)}.sock"
    if len(str(path).encode()) > 100:
        raise LoadError(f"the path of the engine's socket is too long: {path}", "Use a shorter VBS_DATA_DIR.")
    return path


def _new_log(home: Path) -> Path:
    for old in sorted(home.glob("engine-*.log"))[: 1 - KEPT_LOGS]:
        old.unlink(missing_ok=True)
    return home / f"engine-{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 1000:03}.log"
